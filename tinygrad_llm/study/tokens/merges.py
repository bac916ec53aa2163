"""The words of a text with their tokens, and the merges of a word in the order in which they apply."""

from __future__ import annotations

from typing import NamedTuple

from tinygrad_llm.tokenizer import Tokenizer
from tinygrad_llm.tokenizer.merging import merge_short
from tinygrad_llm.tokenizer.pretokenize import compile_pattern, split_words


class Word(NamedTuple):
    """The bytes of a word and the ids of its tokens; `special`: it is the name of a special token."""

    data: bytes
    ids: tuple[int, ...]
    special: bool = False


class Merge(NamedTuple):
    """The merge of symbol `at` with the one after it: `rank` is its place among the tokenizer's merges, from 0."""

    rank: int
    at: int
    made: int


def words_of(tokenizer: Tokenizer, text: str, special: bool = False) -> list[Word]:
    """The words into which the text is cut, in order; joined they are the text, in the vocabulary's normal form.

    `special`: names of special tokens are those tokens; else they are text as any other.
    Raises ValueError for a lone surrogate.
    """
    ids = tokenizer.encode(text, allowed_special="all" if special else (), disallowed_special=()).tolist()
    names = set(tokenizer.special_tokens.values())  # no ordinary text gives one of them
    words: list[Word] = []
    begin = 0
    for at in [i for i, token in enumerate(ids) if token in names] + [len(ids)]:
        words += _ordinary_words(tokenizer, ids[begin:at])
        words += [Word(tokenizer.token_bytes(token), (token,), special=True) for token in ids[at : at + 1]]
        begin = at + 1
    return words


def _ordinary_words(tokenizer: Tokenizer, ids: list[int]) -> list[Word]:
    """The words of text without special tokens, to each its tokens: none reaches from one word into the next."""
    words, token = [], iter(ids)
    for word in split_words(compile_pattern(tokenizer.pattern), tokenizer.decode(ids)):
        data, own, size = word.encode("utf-8"), [], 0
        while size < len(data):
            own.append(next(token))
            size += len(tokenizer.token_bytes(own[-1]))
        words.append(Word(data, tuple(own)))
    return words


class Merger:
    """Merges words step by step by one tokenizer's vocabulary."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        vocabulary = tokenizer.vocabulary
        self._tokens = vocabulary.tokens
        self._whole = vocabulary.tokens if vocabulary.whole_words else {}
        self._merges = dict(zip(vocabulary.merges, enumerate(vocabulary.made), strict=True))

    def is_whole(self, data: bytes) -> bool:
        """Whether the word is looked up, and not merged (see `Vocabulary`)."""
        return data in self._whole

    def symbols(self, data: bytes) -> list[int]:
        """What merging begins with: the ids of the single bytes."""
        return [self._tokens[bytes([byte])] for byte in data]

    def merges(self, data: bytes) -> list[Merge]:
        """The merges of a word, whether or not it is looked up; takes time in the square of its length."""
        symbols, found = self.symbols(data), list[Merge]()
        merge_short(symbols, self._merges, lambda rank, at: found.append(Merge(rank, at, symbols[at])))
        return found

    def rank(self, left: int, right: int) -> int | None:
        """The rank of a pair, or None if it is never merged."""
        found = self._merges.get((left, right))
        return None if found is None else found[0]
