"""Counting the words of texts: what learning merges begins with, since equal words are merged alike.

Texts come one after the other and are read once, so they may be larger than memory. They are counted in batches of
about 8 million characters. After each batch the table of different words is measured, and made smaller if it is too
large (`most_frequent`): so memory is bounded, and the counts do not depend on who counts, nor on how many threads.

The twin in `kernels/word_counts.py` gives the same words in the same order, with the same counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np

from tinygrad_llm.backend import Kernel, chosen_backend
from tinygrad_llm.tokenizer.pretokenize import compile_pattern, split_words
from tinygrad_llm.tokenizer.unicode_text import check_text

BATCH = 1 << 23
"""Characters after which the table is measured, at the end of a text."""
MOST_WORDS = 1_000_000
MOST_BYTES = 12_000_000
"""Above either of these the table is made smaller. English reaches half a million different words after about a
gigabyte; a text without spaces, whose words are whole phrases, after a few megabytes."""
PIECE = 8
"""Characters of the pieces into which long and rare words are cut then."""

WORTH_LOADING, WORTH_COMPILING = 1 << 18, 1 << 23
"""Characters from which on it pays to load the compiled twin, and to compile it where that was never done."""


class Words(NamedTuple):
    """Different words, in the order in which they were first seen, with their counts."""

    data: np.ndarray
    """The words in UTF-8, one after the other; uint8."""
    ends: np.ndarray
    """Where in `data` each ends; int64."""
    counts: np.ndarray
    """How often each was seen; int64."""

    @classmethod
    def of(cls, counts: dict[bytes, int]) -> Words:
        """Of a dictionary."""
        return cls(
            np.frombuffer(b"".join(counts), np.uint8),
            np.cumsum(np.fromiter(map(len, counts), np.int64, len(counts))),
            np.fromiter(counts.values(), np.int64, len(counts)),
        )

    def items(self) -> Iterator[tuple[bytes, int]]:
        """Each word with its count."""
        data = self.data.tobytes()
        for (begin, end), count in zip(pairwise([0, *self.ends.tolist()]), self.counts.tolist(), strict=True):
            yield data[begin:end], count

    def only(self, kept: np.ndarray) -> Words:
        """The words of these numbers, in the order of `kept`."""
        sizes = np.diff(self.ends, prepend=0)[kept]
        ends = np.cumsum(sizes)
        places = np.repeat(self.ends[kept] - ends, sizes) + np.arange(sizes.sum())
        return Words(self.data[places], ends, self.counts[kept])


compiled_counting = Kernel(__name__)
"""``compiled_counting(batches, pattern, compile)``: the twin of `count_plainly`.

NotImplemented where there is none for the pattern, and, unless `compile`, where it would first be compiled.
"""


def count_words(texts: Iterable[str], pattern: str) -> Words:
    """How often each word occurs. `texts` is read once; only the different words are kept.

    Exact up to 1,000,000 different words of together 12 MB. Above, the rarest are cut or forgotten (see
    `most_frequent`): the counts are then too small by little, and always the same for the same texts in the same order.
    Raises TypeError if `texts` is a single string (which would be read character by character) or holds what is no
    string, ValueError for a lone surrogate.
    """
    if isinstance(texts, str):
        raise TypeError("texts is one string, but must be an iterable of strings; write [text] for a single text")
    batches = _batches(texts)
    first = next(batches, [])
    size = sum(map(len, first))
    batches = chain([first], batches)
    backend = chosen_backend()
    if backend == "numba" or (backend == "auto" and size >= WORTH_LOADING):
        words = compiled_counting(batches, pattern, backend == "numba" or size >= WORTH_COMPILING)
        if words is not NotImplemented:
            return words
    return count_plainly(batches, pattern)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"texts holds {type(text).__name__}, but must be strings; decode bytes before, as UTF-8")
        batch.append(text)
        size += len(text)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def count_plainly(batches: Iterable[list[str]], pattern: str) -> Words:
    """The reference: see `count_words`."""
    compiled = compile_pattern(pattern)
    counts: Counter[str] = Counter()
    for batch in batches:
        for text in batch:
            check_text(text)
            counts.update(split_words(compiled, text))
        if too_many(len(counts), sum(map(_size, counts))):
            counts = _shrunk(counts)
    return _words(counts)


def too_many(words: int, size: int) -> bool:
    """Whether the table is too large, with so many words of so many bytes together."""
    return words > MOST_WORDS or size > MOST_BYTES


def most_frequent(words: Words) -> Words:
    """The most frequent words, of equal counts the first seen, up to half of the limits.

    Half and not all, so that new words have room to become frequent before the next choice. Before the choice, a word
    with more than 8 characters for each time it was seen is cut into pieces of 8, by whoever counts. Where phrases are
    words, hardly one is seen twice, but its pieces are, and the pairs in them still count.
    """
    best = np.argsort(-words.counts, kind="stable")[: MOST_WORDS // 2]
    sizes = np.diff(words.ends, prepend=0)[best]
    return words.only(np.sort(best[np.cumsum(sizes) <= MOST_BYTES // 2]))


def _shrunk(counts: Counter[str]) -> Counter[str]:
    pieces: Counter[str] = Counter()
    for word, count in counts.items():
        step = len(word) if len(word) <= PIECE * count else PIECE
        for begin in range(0, len(word), step):
            pieces[word[begin : begin + step]] += count
    return Counter({word.decode("utf-8"): count for word, count in most_frequent(_words(pieces)).items()})


def _words(counts: Counter[str]) -> Words:
    return Words.of({word.encode("utf-8"): count for word, count in counts.items()})


def _size(word: str) -> int:
    return len(word) if word.isascii() else len(word.encode("utf-8"))
