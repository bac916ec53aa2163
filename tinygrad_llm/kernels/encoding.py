"""The compiled encoder: the memory that `byte_pairs` works with, and who may use it when."""

from __future__ import annotations

import ctypes
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate, chain, pairwise

import numpy as np

from tinygrad_llm.kernels.byte_pairs import (
    FIELDS,
    SPANS_SIZE,
    TAIL_SIZE,
    encode_at,
    encode_bytes,
    encode_several,
    seed,
)
from tinygrad_llm.kernels.compiled import entry, is_ready
from tinygrad_llm.kernels.merging import MOST_SYMBOLS, NONE, fill_pairs
from tinygrad_llm.kernels.pretokenize import rule_of
from tinygrad_llm.kernels.words import LONGEST, move
from tinygrad_llm.threads import run, thread_count
from tinygrad_llm.tokenizer.encoding import Encoder, compiled_encoder
from tinygrad_llm.tokenizer.unicode_text import check_text
from tinygrad_llm.tokenizer.vocabulary import Vocabulary

FEWEST_SLOTS = 1 << 17
"""Slots of a new memory, at least: 4 MB."""
MOST_SLOTS = 1 << 20
"""Slots of a memory that, when full, forgets all words but the vocabulary's: 64 MB with what belongs to them."""
SHORT_TEXT = 1 << 10
"""Bytes up to which the ids of a text are copied from the memory's own row of ids; a longer text gets its own row."""
SHARE = 1 << 17
"""Characters of a batch that a thread takes at once: about 0.4 ms of work."""


_as_utf8 = ctypes.pythonapi.PyUnicode_AsUTF8AndSize
_as_utf8.argtypes, _as_utf8.restype = [ctypes.py_object, ctypes.POINTER(ctypes.c_ssize_t)], ctypes.c_void_p


def utf8(text: str) -> tuple[np.uint64, np.uint64]:
    """The address and the size of a text in UTF-8, as Python keeps it within the text from now on.

    ASCII is UTF-8 as it is. Other text is turned into UTF-8 when this is first asked, not each time as `encode` does;
    for 10 MB that takes a third of the time of encoding it. Raises UnicodeEncodeError for a lone surrogate.
    """
    size = ctypes.c_ssize_t()
    address = _as_utf8(text, ctypes.byref(size))
    return np.uint64(address), np.uint64(size.value)


class Merges:
    """The merges of a vocabulary as tables, which no encoding changes.

    A symbol is a byte or the result of a merge, in this order (see `merging`); `names` are their ids.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Raises ValueError for merges that these tables cannot hold; the plain encoder can."""
        names = [vocabulary.tokens[bytes([byte])] for byte in range(256)] + vocabulary.made
        self.names = np.array(names, np.int32)
        if len(set(names)) < len(names) or len(names) > MOST_SYMBOLS:
            raise ValueError("two merges make one token, or there are too many")
        symbol = np.full(max(vocabulary.bytes_of) + 1, -1, np.int32)
        symbol[self.names] = np.arange(len(names))
        merges = np.fromiter(chain.from_iterable(vocabulary.merges), np.int64, 2 * len(vocabulary.merges))
        pairs = symbol[merges].reshape(-1, 2)
        possible = pairs.min(axis=1, initial=MOST_SYMBOLS) >= 0  # else a part is a token that no merge makes
        if np.any(pairs.max(axis=1, initial=-1) >= np.arange(256, len(names))):
            raise ValueError("a merge comes before those that make its parts")
        self.lefts = np.where(possible, pairs[:, 0], -1).astype(np.int32)
        self.rights = np.where(possible, pairs[:, 1], -1).astype(np.int32)
        self.square = np.full(65536, NONE, np.uint32)
        self.pairs = np.zeros(2 << max(len(vocabulary.merges), 1).bit_length(), np.uint64)
        fill_pairs(self.lefts, self.rights, self.square, self.pairs)


class Words:
    """The tokens of a vocabulary, one after the other, to begin a memory with."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        tokens = vocabulary.tokens
        self.text = np.frombuffer(b"".join(tokens) + bytes(16), np.uint8)  # 16 more, for keys are read whole
        self.ends = np.cumsum(np.fromiter(map(len, tokens), np.int64, len(tokens)))
        self.ids = np.fromiter(tokens.values(), np.int32, len(tokens))
        self.anyhow = vocabulary.whole_words
        if self.anyhow and max(map(len, tokens)) > LONGEST:
            raise ValueError("a token is longer than the words that are kept")


class Memory:
    """What one thread needs to encode: the words it knows, and room to work.

    `state` is what compiled code gets: the numbers of `byte_pairs.FIELDS`, addresses among them. The arrays themselves
    are kept here.
    """

    def __init__(self, rule: int, merges: Merges, words: Words) -> None:
        self._merges, self._words = merges, words
        self.state = np.zeros(len(FIELDS), np.uint64)
        self._arrays: dict[str, np.ndarray] = {}
        self._set(rule=rule, n_pairs=len(merges.pairs), n_merges=len(merges.lefts))
        self.out = np.empty(SHORT_TEXT + 4, np.int32)
        self.views = [self.out[:count] for count in range(SHORT_TEXT + 1)]  # to cut one takes 0.1 us
        self._keep(
            square=merges.square, pairs=merges.pairs, lefts=merges.lefts, rights=merges.rights, names=merges.names,
            spans=np.zeros(SPANS_SIZE, np.uint8), tail=np.zeros(TAIL_SIZE, np.uint8), out=self.out,
        )  # fmt: skip
        self._begin(max(FEWEST_SLOTS, 4 << len(words.ids).bit_length()))

    def _set(self, **numbers: int) -> None:
        for name, number in numbers.items():
            self.state[FIELDS.index(name)] = number

    def _keep(self, **arrays: np.ndarray) -> None:
        for name, array in arrays.items():
            self._arrays[name] = array
            self._set(**{name: array.ctypes.data})

    def _room(self, slots: int) -> np.ndarray:
        """Make room for words of so many slots; returns the slots there were before, in new arrays of the rest."""
        ids, letters = np.empty(4 * slots, np.int32), np.empty(16 * slots + len(self._words.text), np.uint8)
        for name, array in (("ids", ids), ("letters", letters)):
            if name in self._arrays:
                array[: len(self._arrays[name])] = self._arrays[name]
        before = self._arrays.get("slots", np.zeros(0, np.uint64))
        self._keep(slots=np.zeros(4 * slots, np.uint64), ids=ids, letters=letters)
        self._set(n_slots=slots, n_ids=len(ids), n_letters=len(letters), most=slots * 5 // 8, full=0)
        return before

    def _begin(self, slots: int) -> None:
        """Raises ValueError for tokens that must be known as words but cannot all be found in the table."""
        self._arrays.pop("ids", None), self._arrays.pop("letters", None)
        self._room(slots)
        self._set(used=0, ids_used=0, letters_used=0)
        words = self._words
        if not seed(words.text, words.ends, words.ids, words.anyhow, self.state) and words.anyhow:
            raise ValueError("too many tokens belong in one place of the table of words")
        self._set(full=0)

    def grow(self) -> None:
        """Make room for more words: twice as much, or if that is too much, by forgetting."""
        slots = len(self._arrays["slots"]) // 4
        if slots >= MOST_SLOTS:
            self._begin(slots)
        else:
            before = self._room(2 * slots)
            move(before, self._arrays["slots"])

    def ids_of(self, size: int, encode: Callable[[np.ndarray], int]) -> np.ndarray:
        """The ids that `encode` gives, called with the state again and again while it finds the memory full.

        They come from text of `size` bytes, so there are no more of them.
        """
        out = np.empty(size + 4, np.int32)  # only as much of it becomes memory as is written
        self._set(out=out.ctypes.data)
        while (count := encode(self.state)) < 0:
            self.grow()
        self._set(out=self.out.ctypes.data)
        out.resize(count, refcheck=False)
        return out


class CompiledEncoder:
    """The twin of `PlainEncoder`. Each thread that encodes takes a memory from a shelf, and puts it back."""

    def __init__(self, rule: int, vocabulary: Vocabulary) -> None:
        self._rule, self._merges, self._words = rule, Merges(vocabulary), Words(vocabulary)
        self._shelf: list[Memory] = []
        memory = self._take()
        encode_bytes(b"", memory.state)
        self._encode_bytes = entry(encode_bytes)
        self._shelf.append(memory)

    def encode(self, text: str) -> np.ndarray:
        """The ids of a text, int32. Raises ValueError for a lone surrogate."""
        # What is broken off here, by Ctrl-C, leaves a memory in the middle: it is not put back.
        try:
            if len(text) > SHORT_TEXT or len(data := text.encode()) > SHORT_TEXT:
                return self._encode_long(text)
        except UnicodeEncodeError:
            check_text(text)  # says it in our words
            raise
        memory = self._take()
        count = self._encode_bytes(data, memory.state)
        while count < 0:
            memory.grow()
            count = self._encode_bytes(data, memory.state)
        ids = memory.views[count].copy()
        self._shelf.append(memory)
        return ids

    def _encode_long(self, text: str) -> np.ndarray:
        address, size = utf8(text)
        memory = self._take()
        ids = memory.ids_of(int(size), lambda state: encode_at(address, size, state))
        self._shelf.append(memory)
        return ids

    def _take(self) -> Memory:
        try:
            return self._shelf.pop()
        except IndexError:  # other threads have them all
            return Memory(self._rule, self._merges, self._words)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, by several threads where there is enough to do."""
        ends = [0, *accumulate(map(len, texts))]
        shares = max(1, min(len(texts), ends[-1] // SHARE))
        edges = [bisect_left(ends, ends[-1] * share // shares) for share in range(shares)] + [len(texts)]
        results: list[list[np.ndarray]] = [[]] * shares
        numbers = iter(range(shares))

        def work(low: int, high: int) -> None:
            for number in numbers:  # each thread takes the next share that nobody has
                results[number] = self._encode_share(texts[edges[number] : edges[number + 1]])

        run(work, min(shares, thread_count()))
        return list(chain.from_iterable(results))

    def _encode_share(self, texts: Sequence[str]) -> list[np.ndarray]:
        try:
            data = [text.encode() for text in texts]
        except UnicodeEncodeError:
            for text in texts:
                check_text(text)
            raise
        ends = np.cumsum([len(text) for text in data], dtype=np.int64)  # of no texts it would be float64
        counts = np.zeros(len(data), np.int64)
        memory = self._take()
        joined = b"".join(data)
        ids = memory.ids_of(len(joined), lambda state: encode_several(joined, ends, counts, state))
        self._shelf.append(memory)
        return [ids[begin:end] for begin, end in pairwise([0, *np.cumsum(counts).tolist()])]


@compiled_encoder
def _encoder(vocabulary: Vocabulary, compile: bool) -> Encoder:
    rule = rule_of(vocabulary.pattern)
    if rule < 0 or not (compile or is_ready(encode_bytes)):
        return NotImplemented
    try:
        return CompiledEncoder(rule, vocabulary)
    except ValueError:
        return NotImplemented
