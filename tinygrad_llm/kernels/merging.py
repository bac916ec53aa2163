"""Merging the bytes of one word, compiled.

A symbol is a single byte (0 to 255) or the result of merge r (256 + r), so the order of symbols is the order of merges
and "the merge of lowest rank" is "the smallest new symbol". Pairs of single bytes are looked up in a square of 65,536
numbers, all others in a hash table of 64-bit numbers ``left << 42 | right << 21 | new``.
"""

from __future__ import annotations

import numpy as np

from tinygrad_llm.kernels.bits import lowest, read_8, read_32, read_64
from tinygrad_llm.kernels.compiled import compiled

MOST_SYMBOLS = 1 << 21
"""Symbols have 21 bits."""
SHORT = np.uint64(96)
"""Bytes up to which looking through the whole word for each merge is the fastest way."""

LARGEST = np.uint64(1 << 29)
"""Bytes of a word: three times as many positions still have 31 bits."""

ZERO, ONE, TWO, FOUR, SIX, EIGHT = (np.uint64(number) for number in (0, 1, 2, 4, 6, 8))
BITS, LOW_SIX = np.uint64(21), np.uint64(63)
SYMBOL = np.uint64(MOST_SYMBOLS - 1)
BYTES = np.uint64(256)
NONE = np.uint64(0xFFFFFFFF)
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio: neighbouring keys land far apart
UPPER = np.uint64(32)


@compiled(inline=True)
def slot_of(pair, mask):
    """Where the search for a pair (left << 21 | right) begins."""
    return ((pair * FACTOR) >> UPPER) & mask


@compiled(inline=True)
def merged(left, right, tables):
    """The symbol that two neighbours make; `NONE` if no merge joins them. `tables`: see `fill_pairs`."""
    square, pairs, mask = tables
    if left < BYTES and right < BYTES:
        return read_32(square + FOUR * ((left << EIGHT) | right))
    pair = (left << BITS) | right
    slot = slot_of(pair, mask)
    while True:
        held = read_64(pairs + EIGHT * slot)
        if held >> BITS == pair:
            return held & SYMBOL
        if held == ZERO:
            return NONE
        slot = (slot + ONE) & mask


@compiled
def fill_pairs(lefts, rights, square, pairs):
    """Enter all merges r = (lefts[r], rights[r]) into the tables; a negative left is no merge that can happen."""
    mask = np.uint64(len(pairs)) - ONE
    for rank in range(len(lefts)):
        if lefts[rank] < 0:
            continue
        left, right, new = np.uint64(lefts[rank]), np.uint64(rights[rank]), np.uint64(rank + 256)
        if left < BYTES and right < BYTES:
            square[(left << EIGHT) | right] = new
        else:
            slot = slot_of((left << BITS) | right, mask)
            while pairs[slot]:
                slot = (slot + ONE) & mask
            pairs[slot] = (left << (BITS + BITS)) | (right << BITS) | new


@compiled
def merge_word(word, size, tables, lefts, rights, symbols):
    """Merge the word of `size` bytes at an address into `symbols`, at the beginning; returns their number.

    `tables`: the addresses of the square and of the table of pairs, and the number of its slots - 1. `lefts` and
    `rights` are the parts of the merges. `symbols` (uint32) needs room for `size` numbers. Raises ValueError for a word
    of more than 2^29 bytes.
    """
    if size > LARGEST:
        raise ValueError("encode: a word of more than 2**29 bytes; cut the text into parts")
    for i in range(size):
        symbols[i] = read_8(word + np.uint64(i))
    if size <= SHORT:
        return merge_short(symbols, size, tables)
    return merge_long(symbols, np.int64(size), tables, lefts, rights)


@compiled
def merge_short(symbols, size, tables):
    """As `tokenizer.merging.merge_short`: find the best pair, merge it, begin again."""
    news = np.empty(SHORT, np.uint64)  # what symbols i and i + 1 make
    count = np.uint64(size)
    for i in range(count - ONE):
        news[i] = merged(np.uint64(symbols[i]), np.uint64(symbols[i + ONE]), tables)
    while count > ONE:
        best, at = NONE, ZERO
        for i in range(count - ONE):
            if news[i] < best:
                best, at = news[i], np.uint64(i)
        if best == NONE:
            break
        count -= ONE
        symbols[at] = best
        for i in range(at + ONE, count):
            symbols[i] = symbols[i + ONE]
            news[i - ONE] = news[i]
        if at > ZERO:
            news[at - ONE] = merged(np.uint64(symbols[at - ONE]), best, tables)
        if at + ONE < count:
            news[at] = merged(best, np.uint64(symbols[at + ONE]), tables)
    return count


@compiled
def merge_long(symbols, size, tables, lefts, rights):
    """The same in a time that grows with the size alone, for a word of a megabyte.

    A merge makes only pairs of later merges, because they hold its new symbol. So there is one queue of positions for
    each new symbol, and one pass through the queues in their order does everything; a number of 64 bits for each 64
    queues tells which are not empty. All equal pairs are born while one queue is worked off, from the left to the
    right: so each queue is in the order of the text.
    """
    highest = len(lefts) + 256
    head = np.full(highest, -1, np.int32)
    tail = np.empty(highest, np.int32)
    waiting = np.zeros(highest // 64 + 1, np.uint64)
    position = np.empty(3 * size, np.int32)  # of the entries of all queues: one each pair, at most two each merge
    following = np.empty(3 * size, np.int32)
    left = np.empty(size, np.int32)
    right = np.empty(size, np.int32)

    def look(at, entries):  # part of this function, so that its arrays are not handed over
        """Put position `at` at the end of the queue of what it makes with its neighbour, as entry `entries`."""
        after = right[at]
        if after >= size:
            return entries
        new = merged(np.uint64(symbols[at]), np.uint64(symbols[after]), tables)
        if new == NONE:
            return entries
        position[entries], following[entries] = at, -1
        if head[new] < 0:
            head[new] = entries
            waiting[new >> SIX] |= ONE << (new & LOW_SIX)
        else:
            following[tail[new]] = entries
        tail[new] = entries
        return entries + 1

    entries = 0
    for i in range(size):
        left[i], right[i] = i - 1, i + 1
    for i in range(size):
        entries = look(i, entries)
    for group in range(len(waiting)):
        while waiting[group]:
            new = np.uint64(group * 64) + lowest(waiting[group])
            waiting[group] &= waiting[group] - ONE
            first, second = lefts[new - BYTES], rights[new - BYTES]
            entry = head[new]
            while entry >= 0:
                i = position[entry]
                entry = following[entry]
                j = right[i]
                if symbols[i] != first or j >= size or symbols[j] != second:
                    continue  # one of the two has been merged with its other neighbour since
                symbols[i], symbols[j] = new, NONE
                before, after = left[i], right[j]
                right[i] = after
                if after < size:
                    left[after] = i
                entries = look(i, entries)
                if before >= 0:
                    entries = look(before, entries)
    count = 0
    for i in range(size):
        if symbols[i] != NONE:
            symbols[count] = symbols[i]
            count += 1
    return np.uint64(count)
