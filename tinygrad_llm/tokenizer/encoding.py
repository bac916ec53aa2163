"""From text to ids by a vocabulary: the plain encoder, and the choice between it and its compiled twin.

The plain one cuts the text into words with a regular expression, and keeps the ids of words in a dictionary. Its twin
in `kernels/encoding.py` does the same with tables of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from tinygrad_llm.backend import Kernel, chosen_backend
from tinygrad_llm.tokenizer.merging import merge_word
from tinygrad_llm.tokenizer.pretokenize import compile_pattern, split_words
from tinygrad_llm.tokenizer.unicode_text import check_text
from tinygrad_llm.tokenizer.vocabulary import Vocabulary

# Words recur, so their ids are kept. The cache is emptied when full, and takes no long word: about 30 MB at most.
_CACHED_WORDS = 100_000
_CACHED_LENGTH = 64

WORTH_LOADING = 1 << 18
"""Bytes of text after which the kernels are loaded, if they have been compiled before: that takes a third of a second,
as long as the plain encoder takes for so much text."""
WORTH_COMPILING = 1 << 23
"""Bytes of text after which the kernels are compiled if they never were."""


class Encoder(Protocol):
    """What encodes ordinary text."""

    def encode(self, text: str) -> np.ndarray:
        """The ids of a text, int32. Raises ValueError for a lone surrogate."""

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text."""


class PlainEncoder:
    """The reference: see the module."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.merges = dict(zip(vocabulary.merges, enumerate(vocabulary.made), strict=True))
        self.id_of_byte = [vocabulary.tokens[bytes([byte])] for byte in range(256)]
        self._whole = vocabulary.tokens if vocabulary.whole_words else {}
        self._pattern = compile_pattern(vocabulary.pattern)
        self._cache: dict[str, list[int]] = {}

    def encode(self, text: str) -> np.ndarray:
        check_text(text)
        ids: list[int] = []
        cache = self._cache
        for word in split_words(self._pattern, text):
            known = cache.get(word)
            ids += self._encode_word(word) if known is None else known
        return np.array(ids, dtype=np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    def _encode_word(self, word: str) -> list[int]:
        data = word.encode("utf-8")
        if data in self._whole:
            ids = [self._whole[data]]
        else:
            ids = merge_word([self.id_of_byte[byte] for byte in data], self.merges)
        if len(word) <= _CACHED_LENGTH:
            if len(self._cache) >= _CACHED_WORDS:
                self._cache.clear()
            self._cache[word] = ids
        return ids


compiled_encoder = Kernel(__name__)
"""``compiled_encoder(vocabulary, compile)``: the twin of `PlainEncoder`, of which several threads may use one.

NotImplemented where there is none for the vocabulary, and, unless `compile`, where it would first be compiled.
"""


class EitherEncoder:
    """The plain encoder, until there has been text enough for the compiled one to pay; or as the backend says.

    Both give the same ids.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._plain: PlainEncoder | None = None
        self._compiled: Encoder | None = None
        self._seen = 0
        self._worth: float = WORTH_LOADING  # text after which to ask for the compiled one

    def encode(self, text: str) -> np.ndarray:
        """The ids of a text, int32. Raises ValueError for a lone surrogate."""
        if self._compiled is not None and chosen_backend() != "numpy":
            return self._compiled.encode(text)
        return self._choose(len(text)).encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, by several threads where that pays."""
        return self._choose(sum(map(len, texts))).encode_batch(texts)

    def _choose(self, size: int) -> Encoder:
        backend = chosen_backend()
        if self._compiled is not None and backend != "numpy":
            return self._compiled
        self._seen += size
        if backend == "numba" or (backend == "auto" and self._seen >= self._worth):
            compile = backend == "numba" or self._seen >= WORTH_COMPILING
            encoder = compiled_encoder(self.vocabulary, compile)
            if encoder is not NotImplemented:
                self._compiled = encoder
                return self._compiled
            self._worth = math.inf if compile else WORTH_COMPILING
        if self._plain is None:
            self._plain = PlainEncoder(self.vocabulary)
        return self._plain
