"""The examples of a classifier: read, cleaned, divided, and told."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console

from tinygrad_llm.data import DataError
from tinygrad_llm.data.tables import (
    Example,
    Table,
    check_learnable,
    distinct,
    read_table,
    stratified_split,
    without_texts_of,
)
from tinygrad_llm.finetuning.classify_config import ClassifyConfig

SHOWN = 40
"""Classes whose counts are told."""


class Labelled(NamedTuple):
    """Examples to train on and to measure with, and the labels of the classes in order."""

    training: list[Example]
    held_out: list[Example]
    labels: tuple[str, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of all examples and what they are for."""
        return hashlib.sha256(json.dumps([self.training, self.held_out]).encode()).hexdigest()


def labelled_data(config: ClassifyConfig, console: Console) -> Labelled:
    """The examples that the settings ask for; what they are, and what was left out and why, goes to the console.

    No text that is held out is trained on: of equal texts one is kept, and none of those that stand there with several
    labels. DataError for files that cannot be used, and for held-out labels that nothing is trained on for.
    """
    table = read_table(config.data, config.text_column, config.label_column)
    check_learnable(config.data, table)
    _tell_table(config.data, table, console)
    examples = _distinct(table.examples, console)
    if config.validation_data:
        other = read_table(config.validation_data, config.text_column, config.label_column)
        _tell_table(config.validation_data, other, console)
        held_out = _distinct(other.examples, console)
        training = without_texts_of(examples, held_out)
        if left := len(examples) - len(training):
            console.print(f"left out    texts to train on that are held out too: {left:,}")
    else:
        training, held_out = stratified_split(examples, config.validation_share, config.seed)
    labels = tuple(label for label in table.labels if any(example.label == label for example in training))
    if unknown := sorted({example.label for example in held_out} - set(labels)):
        raise DataError(f"{config.validation_data}: nothing is trained on for its labels {', '.join(unknown[:10])}")
    if len(labels) < 2:
        raise DataError(
            f"{config.data}: only the class {labels[0]!r} is left to train on" if labels else "no text left"
        )
    _tell_classes(training, held_out, labels, console)
    return Labelled(training, held_out, labels)


def _tell_table(path: str, table: Table, console: Console) -> None:
    console.print(
        f"data        {path}: {len(table.examples):,} texts in column {table.text_column!r}, labels in column "
        f"{table.label_column!r}"
    )
    if table.stripped:
        console.print(f"            labels with white space around them, which was taken off: {table.stripped:,}")
    lower = Counter(label.lower() for label in table.labels)
    if alike := [label for label in table.labels if lower[label.lower()] > 1]:
        console.print(f"warning: these labels differ only in capitals, and are taken for different: {', '.join(alike)}")


def _distinct(examples: Sequence[Example], console: Console) -> list[Example]:
    found = distinct(examples)
    if found.repeated:
        console.print(f"left out    repetitions of a text: {found.repeated:,}")
    if found.contradicting:
        console.print(f"left out    examples whose text stands there with other labels too: {found.contradicting:,}")
    if not found.examples:
        raise DataError("all texts stand there with several labels, so that none can be learned")
    return found.examples


def _tell_classes(
    training: Sequence[Example], held_out: Sequence[Example], labels: Sequence[str], console: Console
) -> None:
    """How many examples each class has."""
    counts, others = Counter(e.label for e in training), Counter(e.label for e in held_out)
    shown = sorted(labels, key=lambda label: -counts[label])[:SHOWN]
    width = max(len("class"), *(len(short(label, 30)) for label in shown))
    console.print(f"split       {len(training):,} texts to train on, {len(held_out):,} held out")
    console.print(f"            {'class':<{width}}  train on   share  held out")
    for label in shown:
        console.print(
            f"            {short(label, 30):<{width}}  {counts[label]:>8,}  {counts[label] / len(training):>6.1%}  "
            f"{others[label]:>8,}"
        )
    if len(labels) > SHOWN:
        console.print(f"            and {len(labels) - SHOWN:,} more classes")
    if missing := [label for label in labels if not others[label]]:
        console.print(f"warning: nothing is held out of {', '.join(missing[:10])}, which cannot be measured")


def short(text: str, length: int) -> str:
    """The text in one line of at most `length` characters."""
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 3]}..."
