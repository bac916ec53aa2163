"""Text to ids, compiled: words are cut, looked up, and merged only when they are new.

It goes on in chunks of 256 words, in two passes: first where the words are and their hashes, then their ids, while the
slots of the words that come next are on their way from memory.
"""

from __future__ import annotations

import numpy as np

from tinygrad_llm.kernels.bits import array_at, lowest, prefetch, read_8, read_32, read_64, write_8, write_32, write_64
from tinygrad_llm.kernels.blocks import BLOCK, MARGIN, borders, has_blocks
from tinygrad_llm.kernels.compiled import compiled
from tinygrad_llm.kernels.merging import merge_word
from tinygrad_llm.kernels.pretokenize import ASCII, word_after
from tinygrad_llm.kernels.words import (
    COUNT,
    COUNT_BITS,
    HIGH,
    IDENTITY,
    INLINE,
    KIND_BITS,
    LONGEST,
    MORE,
    NOWHERE,
    SIZE_BITS,
    SLOT,
    STORED,
    find,
    identify,
)
from tinygrad_llm.kernels.words import IDS as SLOT_IDS

FIELDS = (
    "rule", "at", "place", "full", "used", "most", "ids_used", "letters_used",
    "slots", "square", "pairs", "lefts", "rights", "names", "ids", "letters", "spans", "tail", "out",
    "n_slots", "n_pairs", "n_merges", "n_ids", "n_letters",
)  # fmt: skip
"""The numbers of a memory, in their order: what has happened, the addresses of the arrays, their sizes."""
(
    RULE, AT, PLACE, FULL, USED, MOST, IDS_USED, LETTERS_USED,
    SLOTS, SQUARE, PAIRS, LEFTS, RIGHTS, NAMES, IDS, LETTERS, SPANS, TAIL, OUT,
    N_SLOTS, N_PAIRS, N_MERGES, N_IDS, N_LETTERS,
) = range(len(FIELDS))  # fmt: skip

CHUNK = np.uint64(256)
"""Words of a chunk."""
SPAN = np.uint64(40)
"""Bytes of what is written down of a word: its address, its size, low, high, hash."""
AHEAD = np.uint64(16)
"""Words by which slots are asked for in advance."""
SPANS_SIZE = int(SPAN * (CHUNK + BLOCK + AHEAD))
TAIL_SIZE = 2 * int(MARGIN) + 64

ZERO, ONE, FOUR, EIGHT = (np.uint64(number) for number in (0, 1, 4, 8))
SPACE = np.uint64(ord(" "))


@compiled(inline=True)
def add_span(span, word, size):
    """Write down a word at an address; returns where the next one is written down."""
    low, high, hashed = identify(word, size)
    write_64(span, word)
    write_64(span + EIGHT, size)
    write_64(span + np.uint64(16), low)
    write_64(span + np.uint64(24), high)
    write_64(span + np.uint64(32), hashed)
    return span + SPAN


@compiled
def cut(word, limit, end, rule, spans):
    """Cut words, from the address `word` on, from a text that ends at `end`, while they begin before `limit` and the
    chunk has room. Returns where their spans end, and where the next word begins."""
    span = spans
    blocks = has_blocks(rule)
    while word < limit and span < spans + CHUNK * SPAN:
        likely = blocks and read_8(word + ONE) < ASCII  # else the word, perhaps with a space before it, is not ASCII
        ends = borders(word, end - word, rule) if likely else ZERO
        if ends == ZERO:
            after = word_after(word, end, rule)
            span = add_span(span, word, after - word)
            word = after
        else:
            block = word
            while ends:
                after = block + lowest(ends)
                ends &= ends - ONE
                span = add_span(span, word, after - word)
                word = after
    return span, word


@compiled
def new_word(word, size, low, high, hashed, state, out):
    """Write the ids of a word that is not at the first place of its search; returns where the next ids go."""
    slot = find(state[SLOTS], state[N_SLOTS] * SLOT - ONE, word, size, low, high, hashed, state[LETTERS])
    if slot != NOWHERE and read_64(slot + HIGH):
        return known_word(slot, state[IDS], out)
    count = merge_new(word, size, state, out)
    if slot != NOWHERE and size <= LONGEST:
        insert(word, size, low, high, slot, count, state, out)
    return out + FOUR * count


@compiled(inline=True)
def known_word(slot, ids, out):
    """Write the ids of a slot."""
    count = read_64(slot + HIGH) >> KIND_BITS
    if count < STORED:
        four_ids(slot, out)
        return out + FOUR * count
    more = read_64(slot + MORE)
    count, first = more & COUNT, ids + FOUR * (more >> COUNT_BITS)
    for i in range(count):
        write_32(out + FOUR * np.uint64(i), read_32(first + FOUR * np.uint64(i)))
    return out + FOUR * count


@compiled(inline=True)
def four_ids(slot, out):
    """Write the ids of a slot, and whatever stands behind them: the next word writes over it."""
    write_64(out, read_64(slot + SLOT_IDS))
    write_64(out + EIGHT, read_64(slot + MORE))


@compiled
def merge_new(word, size, state, out):
    """Merge a word, and write the names of its symbols, the ids of the vocabulary; returns their number."""
    tables = state[SQUARE], state[PAIRS], state[N_PAIRS] - ONE
    lefts = array_at(state[LEFTS], state[N_MERGES], np.int32)
    rights = array_at(state[RIGHTS], state[N_MERGES], np.int32)
    symbols = np.empty(size, np.uint32)
    count = merge_word(word, size, tables, lefts, rights, symbols)
    for i in range(count):
        write_32(out + FOUR * np.uint64(i), read_32(state[NAMES] + FOUR * np.uint64(symbols[i])))
    return count


@compiled
def insert(word, size, low, high, slot, count, state, out):
    """Keep the `count` ids of a word, which stand at `out`, in an empty slot, or say that the memory is full."""
    first, begin = state[IDS_USED], state[LETTERS_USED]
    if state[USED] >= state[MOST] or first + count > state[N_IDS] or begin + size > state[N_LETTERS]:
        state[FULL] = ONE
        return
    if size > INLINE:
        high = (begin << SIZE_BITS) | size
        copy(word, state[LETTERS] + begin, size)
        state[LETTERS_USED] = begin + size
    write_64(slot, low)
    if count < STORED:
        write_64(slot + HIGH, high | (count << KIND_BITS))
        copy(out, slot + SLOT_IDS, FOUR * count)
    else:
        write_64(slot + HIGH, high | (STORED << KIND_BITS))
        write_64(slot + MORE, (first << COUNT_BITS) | count)
        copy(out, state[IDS] + FOUR * first, FOUR * count)
        state[IDS_USED] = first + count
    state[USED] += ONE


@compiled(inline=True)
def copy(here, there, size):
    """Copy bytes from one address to another."""
    for i in range(size):
        write_8(there + np.uint64(i), read_8(here + np.uint64(i)))


@compiled
def look_up(spans, end, state, out):
    """Write the ids of a chunk of words; returns where the next ids go."""
    slots, mask = state[SLOTS], state[N_SLOTS] * SLOT - ONE
    span = spans
    while span < end:
        prefetch(slots + ((read_64(span + AHEAD * SPAN + np.uint64(32)) * SLOT) & mask))
        low, high, hashed = read_64(span + np.uint64(16)), read_64(span + np.uint64(24)), read_64(span + np.uint64(32))
        slot = slots + ((hashed * SLOT) & mask)
        held = read_64(slot + HIGH)
        kind = held >> KIND_BITS
        if read_64(slot) == low and held & IDENTITY == high and kind < STORED:
            four_ids(slot, out)
            out += FOUR * kind
        else:
            out = new_word(read_64(span), read_64(span + EIGHT), low, high, hashed, state, out)
        span += SPAN
    return out


@compiled
def encode_from(word, end, state, out, stopping):
    """Encode the text from the address `word` to `end`, and write its ids at `out`. Returns where both have got to.

    Where the memory of words is full it goes on without it, or, if `stopping`, returns after the chunk.
    """
    rule, spans, tail = state[RULE], state[SPANS], state[TAIL]
    while word < end:
        if stopping and state[FULL]:
            return word, out
        left = end - word
        if left >= MARGIN:
            last, word = cut(word, end - MARGIN + ONE, end, rule, spans)
            out = look_up(spans, last, state, out)
            continue
        # what remains, with spaces after it
        copy(word, tail, left)
        for i in range(MARGIN):
            write_8(tail + left + np.uint64(i), SPACE)
        at = tail
        while at < tail + left:
            last, at = cut(at, tail + left, tail + left, rule, spans)
            out = look_up(spans, last, state, out)
        word = end
    return word, out


@compiled
def encode_at(text, size, state):
    """Encode the text at an address into ``state[OUT]``, with room for its bytes and four more; returns the number of
    ids.

    Returns -1 where the memory of words is full; called again, it goes on from there.
    """
    end = text + size
    word, out = encode_from(text + state[AT], end, state, state[OUT] + state[PLACE], True)
    if word < end:
        state[AT], state[PLACE] = word - text, out - state[OUT]
        return -1
    state[AT] = state[PLACE] = ZERO
    return np.int64((out - state[OUT]) // FOUR)


@compiled
def encode_bytes(data, state):
    """As `encode_at`, of a Python object."""
    return encode_at(address(data), np.uint64(len(data)), state)


@compiled
def encode_several(data, ends, counts, state):
    """Encode texts that stand one after the other in `data`, and end at `ends`; writes how many ids each has.

    Returns their sum. Begins with text ``state[AT]``, and returns -1 where the memory of words is full.
    """
    text, out = address(data), state[OUT] + state[PLACE]
    for i in range(state[AT], len(ends)):
        if state[FULL]:
            state[AT], state[PLACE] = i, out - state[OUT]
            return -1
        before, begin = out, (np.uint64(ends[i - 1]) if i else ZERO)
        _, out = encode_from(text + begin, text + np.uint64(ends[i]), state, out, False)
        counts[i] = (out - before) // FOUR
    state[AT] = state[PLACE] = ZERO
    return np.int64((out - state[OUT]) // FOUR)


@compiled(inline=True)
def address(data):
    """Where the bytes of a Python object are."""
    return np.uint64(np.frombuffer(data, np.uint8).ctypes.data)


@compiled
def seed(text, ends, ids, anyhow, state):
    """Enter tokens as words: those that merging makes of their own bytes, or all of them `anyhow`.

    Returns whether there was a place for each.
    """
    word = np.uint64(text.ctypes.data)
    begin = ZERO
    complete = True
    room = np.empty(1, np.uint32)
    for token in range(len(ends)):
        size = np.uint64(ends[token]) - begin
        if size > len(room):
            room = np.empty(2 * size, np.uint32)
        out = np.uint64(room.ctypes.data)
        known = anyhow
        if not anyhow and size <= LONGEST:
            known = merge_new(word, size, state, out) == ONE and room[0] == ids[token]
        if known and size:
            low, high, hashed = identify(word, size)
            slot = find(state[SLOTS], state[N_SLOTS] * SLOT - ONE, word, size, low, high, hashed, state[LETTERS])
            room[0] = ids[token]
            if slot == NOWHERE:
                complete = False
            elif read_64(slot + HIGH) == ZERO:
                insert(word, size, low, high, slot, ONE, state, out)
        word += size
        begin += size
    return complete and len(room) > 0  # which must stay until here
