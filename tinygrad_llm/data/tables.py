"""Texts with labels, from CSV, TSV or JSON lines: columns found, faults listed, held-out texts in no training text.

A file whose name ends in .csv or .tsv begins with a row of column names; in .jsonl, .ndjson or .json each line is a
JSON object. Fields of CSV and TSV may stand in double quotes, which may hold separators and line ends.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from tinygrad_llm import random
from tinygrad_llm.data.document import DataError
from tinygrad_llm.data.files import read_documents
from tinygrad_llm.data.records import json_value, refuse_faulty, text_value

TEXT_COLUMNS = (
    *("text", "sentence", "content", "document", "message", "body", "email", "review", "comment", "tweet"),
    *("docstring", "question", "sms", "v2"),
)
LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "sentiment", "topic", "intent", "module", "v1")
"""Names of columns that are known, in any case of letters; of several the first is taken."""

SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
JSON_LINES = (".jsonl", ".ndjson", ".json")

LARGEST_FIELD = 2**31 - 1
"""Characters: the most that the csv module can be told everywhere."""


class Row(NamedTuple):
    """A row of a table, by column, and the line of the file that it begins in."""

    line: int
    values: Mapping[str, Any]


class Example(NamedTuple):
    """A text with its label."""

    text: str
    label: str


@dataclass(frozen=True)
class Table:
    """Texts with labels, as a file has them."""

    examples: list[Example]
    text_column: str
    label_column: str
    stripped: int
    """Labels that had white space around them, which is no part of them."""

    @property
    def labels(self) -> list[str]:
        """The different labels in order; those that are whole numbers by their values."""
        found = {example.label for example in self.examples}
        numbers = all(label.removeprefix("-").isdecimal() for label in found)
        return sorted(found, key=lambda label: (int(label) if numbers else 0, label))


# ---- files


def read_table(path: str | PathLike[str], text_column: str = "", label_column: str = "") -> Table:
    """The texts and labels of a file, from the columns named, or from those with a usual name.

    DataError lists all faulty rows by their lines: broken JSON or quotes, too many or too few fields, an empty text or
    label. Also for a file without such columns.
    """
    path = Path(path)
    columns, rows, faults = read_rows(path)
    text = find_column(path, columns, "text", text_column, TEXT_COLUMNS)
    label = find_column(path, columns, "label", label_column, LABEL_COLUMNS)
    if text == label:
        raise DataError(f"{path}: {text!r} cannot be the column of the texts and of the labels")
    examples, stripped = [], 0
    for row in rows:
        try:
            written = _label(row.values.get(label), label)
            examples.append(Example(_text(row.values.get(text), text), written.strip()))
            stripped += written != written.strip()
        except ValueError as error:
            faults.append((row.line, str(error)))
    refuse_faulty(path, sorted(faults))
    return Table(examples, text, label, stripped)


def check_learnable(path: str | PathLike[str], table: Table) -> None:
    """DataError for the table of a file, to train on, that has one class only, or nothing but different ones."""
    label, count = table.label_column, len(table.examples)
    if len(table.labels) < 2:
        raise DataError(f"{path}: column {label!r} has one class only, {table.labels[0]!r}; there is nothing to learn")
    if len(table.labels) == count > 2:
        raise DataError(
            f"{path}: all {count:,} labels in column {label!r} differ, so that nothing can be learned from others of "
            "its class; is it the right column?"
        )


def read_texts(path: str | PathLike[str], text_column: str = "") -> list[str]:
    """The texts of a file without looking for labels: of such a table, or each line of any other file."""
    path = Path(path)
    if path.suffix.lower() not in (*SEPARATORS, *JSON_LINES):
        return [line for line in _whole(path).split("\n") if line.strip()]
    columns, rows, faults = read_rows(path)
    column, texts = find_column(path, columns, "text", text_column, TEXT_COLUMNS), []
    for row in rows:
        try:
            texts.append(_text(row.values.get(column), column))
        except ValueError as error:
            faults.append((row.line, str(error)))
    refuse_faulty(path, sorted(faults))
    return texts


def read_rows(path: Path) -> tuple[list[str], list[Row], list[tuple[int, str]]]:
    """The names of the columns, the rows, and (line, fault) of those that are none."""
    suffix = path.suffix.lower()
    if suffix not in (*SEPARATORS, *JSON_LINES) and not path.is_dir():
        known = ", ".join((*SEPARATORS, *JSON_LINES))
        raise DataError(f"{path}: not known as a table; its name must end in one of {known}")
    text, faults = _whole(path), []  # a folder is refused here
    parts = _json_rows(text) if suffix in JSON_LINES else _separated_rows(path, text, SEPARATORS[suffix])
    rows: list[Row] = []
    for line, values in parts:
        if isinstance(values, str):
            faults.append((line, values))
        else:
            rows.append(Row(line, values))
    if not rows:
        refuse_faulty(path, faults)
        raise DataError(f"{path}: has no rows", "empty")
    return list(dict.fromkeys(name for row in rows for name in row.values)), rows, faults


def _whole(path: Path) -> str:
    if path.is_dir():
        raise DataError(f"{path}: a folder; give one file")
    return "".join(document.text for document in read_documents(path))


def _json_rows(text: str) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """(line, values by column, or what is wrong)."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json_value(line)
            yield number, value if isinstance(value, dict) else "not a JSON object, which is written in braces"
        except ValueError as error:
            yield number, str(error)


def _separated_rows(path: Path, text: str, separator: str) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """(line, values by column, or what is wrong). A column without a name is left out, as are empty lines."""
    columns: list[str] = []
    for line, fields in _fields(text, separator):
        if isinstance(fields, str):
            yield line, fields
        elif not columns:
            columns = [name.strip() for name in fields]
            if twice := [name for name, count in Counter(columns).items() if name and count > 1]:
                raise DataError(f"{path}: two columns are called {twice[0]!r}")
        elif len(fields) != len(columns):
            yield line, f"has {len(fields)} fields, but the table has {len(columns)} columns"
        else:
            yield line, {name: field for name, field in zip(columns, fields, strict=True) if name}


def _fields(text: str, separator: str) -> Iterator[tuple[int, list[str] | str]]:
    """(line that it begins in, fields or what is wrong) of each row that is not empty."""
    before = csv.field_size_limit(LARGEST_FIELD)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                if fields := next(reader):
                    yield line, fields
            except StopIteration:
                return
            except csv.Error as error:
                unclosed = "unexpected end" in str(error)
                yield line, "a quote that begins here is never closed" if unclosed else f"broken quotes: {error}"
    finally:
        csv.field_size_limit(before)


def find_column(path: Path, columns: Sequence[str], what: str, named: str, usual: Sequence[str]) -> str:
    """The column that was named, or that has a usual name. DataError that says which there are."""
    if named in columns:
        return named
    if named:
        raise DataError(f"{path}: has no column {named!r}; there are {_listed(columns)}")
    lower = {column.lower(): column for column in reversed(columns)}
    for name in usual:
        if name in lower:
            return lower[name]
    raise DataError(
        f"{path}: no column is known to hold the {what} (as {', '.join(usual[:3])} ...); there are {_listed(columns)}. "
        f"Name it with --{what}-column"
    )


def _listed(columns: Sequence[str]) -> str:
    short = [repr(name if len(name) <= 40 else f"{name[:37]}...") for name in columns[:20]]
    return ", ".join([*short, f"and {len(columns) - 20} more"] if len(columns) > 20 else short)


def _text(value: Any, name: str) -> str:
    text = text_value(value, name)
    if not text.strip():
        raise ValueError(f"{name} is empty")
    return text


def _label(value: Any, name: str) -> str:
    """As text: JSON may also have whole numbers, true and false."""
    return _text(json.dumps(value) if isinstance(value, (int, bool)) else value, name)


# ---- training and held-out examples


class Distinct(NamedTuple):
    """Examples of which no two have the same text, and how many were left out for it."""

    examples: list[Example]
    repeated: int
    """Further examples with the text and the label of an earlier one."""
    contradicting: int
    """Examples whose text also stands there with another label: none of them is kept."""


def plain(text: str) -> str:
    """White space made equal: what differs in nothing else is the same text."""
    return " ".join(text.split())


def distinct(examples: Iterable[Example]) -> Distinct:
    """Each text once, in the order of the examples."""
    found: dict[str, list[Example]] = {}
    for example in examples:
        found.setdefault(plain(example.text), []).append(example)
    kept = [same[0] for same in found.values() if len({example.label for example in same}) == 1]
    contradicting = sum(len(same) for same in found.values() if len({example.label for example in same}) > 1)
    return Distinct(kept, sum(map(len, found.values())) - len(kept) - contradicting, contradicting)


def without_texts_of(examples: Iterable[Example], held_out: Iterable[Example]) -> list[Example]:
    """The examples whose texts are not among those held out."""
    texts = {plain(example.text) for example in held_out}
    return [example for example in examples if plain(example.text) not in texts]


def stratified_places(labels: Sequence[str], share: float, seed: int) -> list[int]:
    """In order the places that are held out: of each label `share` of its examples, chosen by chance.

    At least one of two or more is held out, and one is left; of an only one, nothing. ValueError for a share outside of
    (0, 1).
    """
    if not 0 < share < 1:
        raise ValueError(f"share {share} is not between 0 and 1")
    places: dict[str, list[int]] = {}
    for place, label in enumerate(labels):
        places.setdefault(label, []).append(place)
    chosen: list[int] = []
    for label, own in places.items():
        count = min(max(1, round(share * len(own))), len(own) - 1)
        order = random.stream(seed, "stratified split", label).permutation(len(own))[:count]
        chosen += [own[number] for number in order]
    return sorted(chosen)


def stratified_split(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """(training, held out), both in the order of the examples; see `stratified_places`. DataError if nothing would be
    held out."""
    chosen = stratified_places([example.label for example in examples], share, seed)
    if not chosen:
        raise DataError("each class has one example only, so that none can be held out to measure with")
    held_out = set(chosen)
    training = [example for place, example in enumerate(examples) if place not in held_out]
    return training, [examples[place] for place in chosen]
