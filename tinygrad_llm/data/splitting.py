"""Splitting a corpus into training and validation text that have nothing in common.

Several documents: whole documents are held out, chosen by a seeded hash of their names; and of the held-out ones, any
paragraph that also stands in a training document is taken out (a licence at the head of every file, a docstring copied
from class to class). One document, or a few of which none is small enough: the end of the text is held out. In a
single document only the place decides: a text may repeat itself.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from tinygrad_llm.data.document import DataError, Document

PARAGRAPH = 64  # characters; shorter paragraphs ("Return self.") are language, not a leak

_EMPTY_LINE = re.compile(r"\n[ \t]*\n")


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
    side. Same documents, seed and fraction: same split. Memory: the held-out paragraphs' hashes.
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
        result = _without_common_paragraphs(result)
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


# ---- paragraphs on both sides


def _without_common_paragraphs(sides: Split) -> Split:
    """Take out of the validation documents what also stands in a training document."""
    held_out: set[bytes] = set()
    for document in sides.validation:
        held_out.update(map(_hash, _marks(document.text)))
    common: set[bytes] = set()
    for document in sides.training:
        common.update(held_out.intersection(map(_hash, _marks(document.text))))
    if not common:
        return sides
    return Split(sides.training, Documents(lambda: _cleaned(sides.validation, common)))


def _cleaned(documents: Iterable[Document], common: set[bytes]) -> Iterator[Document]:
    for document in documents:
        if not common.intersection(map(_hash, _marks(document.text))):
            yield document
        elif _hash(_plain(document.text)) not in common:
            kept = [text for text in _EMPTY_LINE.split(document.text) if _hash(_plain(text)) not in common]
            # one long paragraph must be left: it stands in no training document, so the rest equals none as a whole
            if any(len(_plain(text)) >= PARAGRAPH for text in kept):
                yield Document(document.name, "\n\n".join(kept), document.part)


def _marks(text: str) -> Iterator[str]:
    """What must not stand on both sides: the text as a whole, and each paragraph that is long enough."""
    yield _plain(text)
    for paragraph in _EMPTY_LINE.split(text):
        if len(plain := _plain(paragraph)) >= PARAGRAPH:
            yield plain


def _plain(text: str) -> str:
    """White space made equal, so that the same words with another indentation or line length are the same."""
    return " ".join(text.split())


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
