"""Splitting a corpus into training and validation text that have nothing in common.

Several documents: whole documents are held out, chosen by a seeded hash of their names; and of the held-out ones, any
paragraph and any run of lines of 64 characters that also stands in a training document is taken out (a licence at the
head of every file, a docstring copied from class to class, a log that differs in one line). One document, or a few of
which none is small enough: the end of the text is held out. In a single document only the place decides: a text may
repeat itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, groupby
from typing import NamedTuple

from tinygrad_llm.data.document import DataError, Document

PARAGRAPH = 64  # characters; shorter paragraphs ("Return self.") are language, not a leak
_ROUNDS = 4  # of taking out what is common


class Documents:
    """Documents that can be iterated again and again; each time computed anew, none held."""

    def __init__(self, make: Callable[[], Iterator[Document]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Document]:
        return self._make()


class Split(NamedTuple):
    """Training and validation documents."""

    training: Documents
    validation: Documents


def split(documents: Iterable[Document], seed: int = 0, fraction: float = 0.1) -> Split:
    """Hold out up to `fraction` of the characters (of a single text: just that) for validation.

    `documents` must be iterable more than once (a list, or `TextFiles`); it is read twice here and once per use of a
    side. Same documents, seed and fraction: same split. Memory: the hashes of the
    held-out lines and paragraphs. Where something is common, the documents are read up to four times.
    Raises DataError if a side would be empty, and ValueError for a fraction outside of (0, 1).
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction {fraction} is not between 0 and 1")
    if iter(documents) is documents:
        raise TypeError("split reads the documents more than once; pass a list or TextFiles, not an iterator")
    sizes: dict[str, int] = {}
    for document in documents:
        sizes[document.name] = sizes.get(document.name, 0) + len(document.text)
    held_out = _choose(sizes, seed, fraction)
    if held_out:
        result = Split(
            Documents(lambda: (document for document in documents if document.name not in held_out)),
            Documents(lambda: (document for document in documents if document.name in held_out)),
        )
    else:
        result = _split_by_place(documents, sum(sizes.values()), fraction)
    if len(sizes) > 1:
        result = _without_common_text(result)
    total = sum(sizes.values())
    for side, name in zip(result, Split._fields, strict=True):
        if not any(document.text.strip() for document in side):
            raise DataError(
                f"the {name} part is empty after splitting {total} characters in {len(sizes)} document(s); "
                "give a longer text, or one whose documents do not all repeat each other"
            )
    return result


def _choose(sizes: dict[str, int], seed: int, fraction: float) -> set[str]:
    """Names in the order of their hash, each taken if it still fits; none if together they fill less than half."""
    budget = fraction * sum(sizes.values())
    chosen: set[str] = set()
    filled = 0
    for name in sorted(sizes, key=lambda name: _hash(f"{seed} {name}")):
        if filled + sizes[name] <= budget:
            chosen.add(name)
            filled += sizes[name]
    return chosen if filled >= budget / 2 else set()


# ---- the end of the text


def _split_by_place(documents: Iterable[Document], total: int, fraction: float) -> Split:
    at = total - round(total * fraction)

    def side(training: bool) -> Iterator[Document]:
        begin = 0
        for document in documents:
            text = document.text
            cut = _cut(text, at - begin)
            begin += len(text)
            if training and cut:
                yield Document(document.name, text[:cut], document.part)
            elif not training and cut < len(text):
                yield Document(document.name, text[cut:], document.part)

    return Split(Documents(lambda: side(True)), Documents(lambda: side(False)))


def _cut(text: str, at: int) -> int:
    """A place near `at` to cut: the beginning of a line, else of a word, else just there."""
    if not 0 < at < len(text):
        return min(max(at, 0), len(text))
    reach = min(1000, len(text) // 4)
    for border in ("\n", " "):
        before = text.rfind(border, max(0, at - reach), at) + 1
        after = text.find(border, at, at + reach) + 1
        for cut in (before, after):
            if text[:cut].strip() and text[cut:].strip():
                return cut
    return at


# ---- text on both sides


def _without_common_text(sides: Split) -> Split:
    """Take out of the validation documents what also stands in a training document.

    Taking lines out makes new neighbours, which may stand in a training document too: so again, until nothing is
    common. To come to an end soon, the last time takes out whole documents.
    """
    taken: list[set[bytes]] = []
    validation = Documents(lambda: _cleaned(sides.validation, taken))
    while len(taken) < _ROUNDS:
        held_out: set[bytes] = set()
        for document in validation:
            held_out.update(_hash(mark.text) for mark in _marks(document.text))
        common: set[bytes] = set()
        for document in sides.training:
            common.update(held_out.intersection(_hash(mark.text) for mark in _marks(document.text)))
        if not common:
            break
        taken.append(common)
    return Split(sides.training, validation)


def _cleaned(documents: Iterable[Document], taken: list[set[bytes]]) -> Iterator[Document]:
    for document in documents:
        text = document.text
        for number, common in enumerate(taken, 1):
            rest = _without(text, common)
            if rest != text and (number == _ROUNDS or len(_plain(rest)) < PARAGRAPH):  # a scrap is no document
                break
            text = rest
        else:
            yield Document(document.name, text, document.part)


def _without(text: str, common: set[bytes]) -> str:
    """The text without the lines of common marks; an empty line where some were taken out."""
    lines: list[str | None] = list(text.split("\n"))
    for mark in _marks(text):
        if _hash(mark.text) in common:
            lines[mark.begin : mark.end] = [None] * (mark.end - mark.begin)
    if None not in lines:
        return text
    runs = [list(run) for kept, run in groupby(lines, lambda line: line is not None) if kept]
    pieces = ["\n".join(line for line in run if line is not None) for run in runs]
    return "\n\n".join(piece for piece in pieces if piece.strip())


class _Mark(NamedTuple):
    """What must not stand on both sides: lines `begin` to `end` (not included), their white space made equal."""

    begin: int
    end: int
    text: str


def _marks(text: str) -> Iterator[_Mark]:
    """The text as a whole; each paragraph that is long enough; from each line on, as few lines as are long enough.

    So no run of whole lines of 64 characters stands on both sides, however its paragraphs are divided, and no paragraph
    whose lines are only broken elsewhere.
    """
    lines = [_plain(line) for line in text.split("\n")]
    numbers = [number for number, line in enumerate(lines) if line]  # empty lines do not count
    whole = " ".join([lines[number] for number in numbers])
    yield _Mark(0, len(lines), whole)
    ends = [end - 1 for end in accumulate(len(lines[number]) + 1 for number in numbers)]  # of each line in `whole`
    begins = [0, *(end + 1 for end in ends)]
    last = paragraph = 0
    for first, number in enumerate(numbers):
        while last < len(ends) and ends[last] - begins[first] < PARAGRAPH:
            last += 1
        if last < len(ends):
            yield _Mark(number, numbers[last] + 1, whole[begins[first] : ends[last]])
        if first + 1 == len(numbers) or numbers[first + 1] != number + 1:  # the last line of a paragraph
            if ends[first] - begins[paragraph] >= PARAGRAPH and first > paragraph:
                yield _Mark(numbers[paragraph], number + 1, whole[begins[paragraph] : ends[first]])
            paragraph = first + 1


def _plain(text: str) -> str:
    """White space made equal, so that the same words with another indentation or line length are the same."""
    return " ".join(text.split())


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
