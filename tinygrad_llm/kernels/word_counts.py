"""The twin of `tokenizer.word_counts`: counting words in a hash table, with no object of Python for any word.

The words stand one after the other in a store of letters, in the order in which they were first seen. Each has a slot
of four 64-bit numbers: 32 bytes, so a line of the processor's cache holds two.

    low, high    the word, as `words.key` writes it; of one with more than 15 bytes its hash, and its size
    count        how often it was seen
    number       which of the words it is

A word is searched slot after slot. A text can be made so that all its words belong in one place, and each search goes
through all of them; so after some slots it goes on at a place that depends on a secret number. As in encoding, words
of a chunk are cut first and counted then, while the slots of those that come next are on their way from memory.

Several threads count a part of each batch, in tables of their own. Their words then go into the first table, part after
part: so the order of the words, and all that depends on it, does not depend on the number of threads.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

import numpy as np

from tinygrad_llm.kernels.bits import prefetch, read_8, read_64, write_8, write_64
from tinygrad_llm.kernels.blocks import MARGIN
from tinygrad_llm.kernels.byte_pairs import AHEAD, SPAN, SPANS_SIZE, TAIL_SIZE, copy, cut
from tinygrad_llm.kernels.compiled import compiled, is_ready
from tinygrad_llm.kernels.pretokenize import rule_of
from tinygrad_llm.kernels.words import FARTHEST, HALF, HIGH, INLINE, LENGTH, SLOT, hash_of, identify, same_bytes
from tinygrad_llm.threads import run, thread_count
from tinygrad_llm.tokenizer.unicode_text import check_text
from tinygrad_llm.tokenizer.word_counts import PIECE, Words, compiled_counting, most_frequent, too_many

FIELDS = (
    "rule", "text", "at", "words", "letters", "more_words", "more_letters",
    "slots", "store", "edges", "spans", "tail", "n_slots", "n_letters", "most", "secret",
)  # fmt: skip
"""The numbers of a table, in their order: where counting has got to, how much is used, for how much more there must be
room, the addresses of the arrays, their sizes, and an odd number that no text can know."""
(
    RULE, TEXT, AT, WORDS, LETTERS, MORE_WORDS, MORE_LETTERS,
    SLOTS, STORE, EDGES, SPANS, TAIL, N_SLOTS, N_LETTERS, MOST, SECRET,
) = range(len(FIELDS))  # fmt: skip

COUNT, NUMBER = np.uint64(16), np.uint64(24)
"""The bytes of a slot where its third and fourth number are."""
FEWEST_SLOTS = 1 << 16
SHARE = 1 << 20
"""Characters of a batch, at least, for which a thread is worth its table: about 6 ms of work."""

ZERO, ONE, EIGHT = (np.uint64(number) for number in (0, 1, 8))
SPACE = np.uint64(ord(" "))


@compiled
def has_room(state, words, letters):
    """Whether there is room for so many new words of so many bytes together; if not, it is written down."""
    state[MORE_WORDS], state[MORE_LETTERS] = words, letters
    return state[WORDS] + words <= state[MOST] and state[LETTERS] + letters <= state[N_LETTERS]


@compiled
def secret_hash(word, size, secret):
    """A hash of the word at an address that depends on a secret number."""
    mixed = size
    for i in range(size):
        mixed = (mixed ^ read_8(word + np.uint64(i))) * secret
        mixed ^= mixed >> HALF
    return mixed


@compiled
def search(word, size, low, high, hashed, state):
    """The address of the slot that holds the word at an address, or of the empty one where it would be."""
    mask = state[N_SLOTS] * SLOT - ONE
    place = hashed * SLOT
    searched = 0
    while True:
        slot = state[SLOTS] + (place & mask)
        held = read_64(slot + HIGH)
        if held == ZERO:
            return slot
        if held == high and read_64(slot) == low:
            begin = read_64(state[EDGES] + EIGHT * read_64(slot + NUMBER))
            if size <= INLINE or same_bytes(word, state[STORE] + begin, size):
                return slot
        place += SLOT
        searched += 1
        if searched == FARTHEST:
            place = secret_hash(word, size, state[SECRET]) * SLOT


@compiled
def add(word, size, low, high, hashed, count, state):
    """Add to the count of the word at an address. There must be room for one more."""
    if size > INLINE:
        high = size
    slot = search(word, size, low, high, hashed, state)
    if read_64(slot + HIGH):
        write_64(slot + COUNT, read_64(slot + COUNT) + count)
        return
    number, begin = state[WORDS], state[LETTERS]
    write_64(slot, low)
    write_64(slot + HIGH, high)
    write_64(slot + COUNT, count)
    write_64(slot + NUMBER, number)
    copy(word, state[STORE] + begin, size)
    state[WORDS], state[LETTERS] = number + ONE, begin + size
    write_64(state[EDGES] + EIGHT * state[WORDS], state[LETTERS])


@compiled
def add_chunk(spans, end, state):
    """Count the words of a chunk."""
    slots, mask = state[SLOTS], state[N_SLOTS] * SLOT - ONE
    span = spans
    while span < end:
        prefetch(slots + ((read_64(span + AHEAD * SPAN + np.uint64(32)) * SLOT) & mask))
        low, high, hashed = read_64(span + np.uint64(16)), read_64(span + np.uint64(24)), read_64(span + np.uint64(32))
        slot = slots + ((hashed * SLOT) & mask)
        if read_64(slot) == low and read_64(slot + HIGH) == high:  # `high` of a long word is 0 here, and in no slot
            write_64(slot + COUNT, read_64(slot + COUNT) + ONE)
        else:
            add(read_64(span), read_64(span + EIGHT), low, high, hashed, ONE, state)
        span += SPAN


@compiled
def count_texts(address, ends, state):
    """Count texts that stand one after the other from an address on, and end at `ends`; False for want of room.

    Called again, it goes on from there.
    """
    text, rule, spans, tail = np.uint64(address), state[RULE], state[SPANS], state[TAIL]
    for i in range(state[TEXT], len(ends)):
        word, end = text + state[AT], text + np.uint64(ends[i])
        while word < end:
            left = end - word
            if left >= MARGIN:
                begin, limit, stop = word, end - MARGIN + ONE, end
            else:  # what remains, with spaces after it
                copy(word, tail, left)
                for j in range(MARGIN):
                    write_8(tail + left + np.uint64(j), SPACE)
                begin, limit, stop = tail, tail + left, tail + left
            last, after = cut(begin, limit, stop, rule, spans)
            if not has_room(state, (last - spans) // SPAN, after - begin):
                state[TEXT] = i
                return False
            add_chunk(spans, last, state)
            word += after - begin
            state[AT] = word - text
    state[TEXT] = state[AT] = ZERO
    return True


@compiled
def add_words(address, ends, counts, piece, state):
    """Add words that stand one after the other from an address on, with their counts; False for want of room, as above.
    16 bytes more must be readable.

    `piece`: 0, or the characters of the pieces into which a word is cut if it has more of them each time it was seen.
    """
    text = np.uint64(address)
    for i in range(state[TEXT], len(ends)):
        word, end = text + state[AT], text + np.uint64(ends[i])
        count = np.uint64(counts[i])
        pieces = piece and characters(word, end) > piece * count
        if not has_room(state, (end - word) // piece + ONE if pieces else ONE, end - word):
            state[TEXT] = i
            return False
        while word < end:
            after = piece_end(word, end, piece) if pieces else end
            low, high, hashed = identify(word, after - word)
            add(word, after - word, low, high, hashed, count, state)
            word = after
        state[AT] = end - text
    state[TEXT] = state[AT] = ZERO
    return True


@compiled
def characters(word, end):
    """The number of characters of UTF-8 between two addresses."""
    count = ZERO
    while word < end:
        if read_8(word) & np.uint64(0xC0) != np.uint64(0x80):
            count += ONE
        word += ONE
    return count


@compiled
def piece_end(word, end, piece):
    """Where the first characters of a word end, `piece` of them."""
    count = ZERO
    while word < end:
        if read_8(word) & np.uint64(0xC0) != np.uint64(0x80):
            count += ONE
            if count > piece:
                break
        word += ONE
    return word


@compiled
def move(slots, state):
    """Enter the slots of a table that was smaller."""
    for place in range(0, len(slots), 4):
        low, high, number = slots[place], slots[place + 1], slots[place + 3]
        if high:
            begin, end = read_64(state[EDGES] + EIGHT * number), read_64(state[EDGES] + EIGHT * (number + ONE))
            hashed = hash_of(low, high) if high & LENGTH else low
            slot = search(state[STORE] + begin, end - begin, low, high, hashed, state)
            for i in range(4):
                write_64(slot + EIGHT * np.uint64(i), slots[place + i])


@compiled
def read_counts(slots, counts):
    """The counts of all slots, in the order of the words."""
    for slot in range(len(slots) // 4):
        if slots[4 * slot + 1]:
            counts[slots[4 * slot + 3]] = slots[4 * slot + 2]


class Table:
    """Words and their counts. `state` is what compiled code gets: the numbers of `FIELDS`; the arrays are kept here."""

    def __init__(self, rule: int) -> None:
        self.state = np.zeros(len(FIELDS), np.uint64)
        self._arrays: dict[str, np.ndarray] = {}
        self._set(rule=rule, secret=int.from_bytes(os.urandom(8)) | 1)
        self._keep(spans=np.zeros(SPANS_SIZE, np.uint8), tail=np.zeros(TAIL_SIZE, np.uint8))
        self.clear()

    def _set(self, **numbers: int) -> None:
        for name, number in numbers.items():
            self.state[FIELDS.index(name)] = number

    def _keep(self, **arrays: np.ndarray) -> None:
        for name, array in arrays.items():
            self._arrays[name] = array
            self._set(**{name: array.ctypes.data})

    def clear(self) -> None:
        """Forget all words."""
        self._keep(edges=np.zeros(1, np.int64), store=np.zeros(0, np.uint8))
        self._set(words=0, letters=0, text=0, at=0, n_letters=0)
        self._slots(FEWEST_SLOTS)

    def _slots(self, slots: int) -> None:
        most = slots * 5 // 8
        edges = np.empty(most + 1, np.int64)
        edges[: self.words + 1] = self._arrays["edges"][: self.words + 1]
        self._keep(slots=np.zeros(4 * slots, np.uint64), edges=edges)
        self._set(n_slots=slots, most=most)

    @property
    def words(self) -> int:
        """The number of different words."""
        return int(self.state[WORDS])

    @property
    def letters(self) -> int:
        """The bytes of all of them."""
        return int(self.state[LETTERS])

    def _grow(self) -> None:
        """Make the room that was asked for."""
        words, letters = self.words + int(self.state[MORE_WORDS]), self.letters + int(self.state[MORE_LETTERS])
        if letters > len(self._arrays["store"]):
            store = np.empty(2 * letters, np.uint8)
            store[: self.letters] = self._arrays["store"][: self.letters]
            self._keep(store=store)
            self._set(n_letters=len(store))
        if words > self.state[MOST]:
            before, slots = self._arrays["slots"], len(self._arrays["slots"]) // 4
            while slots * 5 // 8 < words:
                slots *= 2
            self._slots(slots)
            move(before, self.state)

    def count(self, texts: Sequence[str]) -> None:
        """Count the words of texts. Raises ValueError for a lone surrogate."""
        try:
            encoded = [text.encode() for text in texts]
        except UnicodeEncodeError:
            for text in texts:
                check_text(text)  # says it in our words
            raise
        ends = np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)))
        data = b"".join(encoded)
        del encoded
        address = np.frombuffer(data, np.uint8).ctypes.data
        while not count_texts(address, ends, self.state):
            self._grow()

    def add(self, words: Words, piece: int = 0) -> None:
        """Add words that were counted before; with `piece`, cut the long and rare ones."""
        data = np.append(words.data, np.zeros(16, np.uint8))  # keys are read whole
        while not add_words(data.ctypes.data, words.ends, words.counts, np.uint64(piece), self.state):
            self._grow()

    def content(self) -> Words:
        """The words and their counts. They share no memory with the table."""
        counts = np.empty(self.words, np.int64)
        read_counts(self._arrays["slots"], counts)
        return Words(
            self._arrays["store"][: self.letters].copy(), self._arrays["edges"][1 : self.words + 1].copy(), counts
        )

    def shrink(self) -> None:
        """Keep the most frequent words, and pieces of words."""
        words = self.content()
        self.clear()
        self.add(words, PIECE)
        words = most_frequent(self.content())
        self.clear()
        self.add(words)


@compiled_counting
def _count_words(batches: Iterable[list[str]], pattern: str, compile: bool) -> Words:
    rule = rule_of(pattern)
    if rule < 0 or not (compile or is_ready(count_texts)):
        return NotImplemented
    tables = [Table(rule)]
    for batch in batches:
        _count_batch(batch, tables)
        if too_many(tables[0].words, tables[0].letters):
            tables[0].shrink()
    return tables[0].content()


def _count_batch(batch: list[str], tables: list[Table]) -> None:
    """Count a batch into the first table, with the help of others."""
    ends = [0, *accumulate(map(len, batch))]
    shares = max(1, min(thread_count(), len(batch), ends[-1] // SHARE))
    edges = [bisect_left(ends, ends[-1] * share // shares) for share in range(shares)] + [len(batch)]
    while len(tables) < shares:
        tables.append(Table(int(tables[0].state[RULE])))

    def work(low: int, high: int) -> None:
        for share in range(low, high):
            tables[share].count(batch[edges[share] : edges[share + 1]])

    run(work, shares)
    for table in tables[1:shares]:
        tables[0].add(table.content())
        table.clear()
