"""A hash table from words to their ids: a word that was merged once is only looked up.

A slot is four 64-bit numbers: 32 bytes, so a line of the processor's cache holds two.

    low     the word's first 8 bytes
    high    its next 7 bytes; above them a byte with its length (4 bits) and the kind of the slot (4 bits)
    ids     two ids of 32 bits
    more    two more; for a word of more than four, where in the store of ids they are, and how many

The kind is the number of ids, up to 4; `STORED` for more; 0 for an empty slot. A word of more than 15 bytes has the
length 0, its hash in `low`, and in `high` where its bytes are in the store of letters, and how many.
"""

from __future__ import annotations

import numpy as np

from tinygrad_llm.kernels.bits import read_8, read_64
from tinygrad_llm.kernels.compiled import compiled

INLINE = np.uint64(15)
"""Bytes of a word that stands in its slot."""
STORED = np.uint64(5)
LONGEST = np.uint64(4096)
"""Bytes of a word that is kept; a longer one is hardly seen twice."""

SLOT, HIGH, IDS, MORE = (np.uint64(number) for number in (32, 8, 16, 24))
"""The bytes of a slot, and where its second, third and fourth number are."""
FARTHEST = 64
"""Slots in which a word is searched."""
NOWHERE = np.uint64(0xFFFF_FFFF_FFFF_FFFF)

SIZE_BITS = np.uint64(16)
SIZE = np.uint64((1 << 16) - 1)
COUNT_BITS = np.uint64(20)
COUNT = np.uint64((1 << 20) - 1)
KIND_BITS, LENGTH_BITS = np.uint64(60), np.uint64(56)
IDENTITY = np.uint64(0x0FFF_FFFF_FFFF_FFFF)
"""What of `high` belongs to the word: all but the kind."""
PLACE = np.uint64(0x00FF_FFFF_FFFF_FFFF)
LENGTH = np.uint64(0x0F00_0000_0000_0000)

ZERO, ONE, FOUR, EIGHT = (np.uint64(number) for number in (0, 1, 4, 8))
WORD, HALF = np.uint64(64), np.uint64(32)
ALL = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
FIRST, SECOND = np.uint64(0x9E37_79B9_7F4A_7C15), np.uint64(0xC2B2_AE3D_27D4_EB4F)


@compiled(inline=True)
def key(word, size):
    """(low, high) of the word of 1 to 15 bytes at an address, with kind 0. Reads 16 bytes."""
    first = min(size, EIGHT)
    low = read_64(word) & (ALL >> (WORD - EIGHT * first))
    high = read_64(word + EIGHT) & ((ONE << (EIGHT * (size - first))) - ONE)
    return low, high | (size << LENGTH_BITS)


@compiled(inline=True)
def hash_of(low, high):
    """Where a short word's search begins, but for the bits above the number of slots."""
    mixed = (low ^ (high * SECOND)) * FIRST
    return mixed ^ (mixed >> HALF)


@compiled
def hash_of_long(word, size):
    """The hash of the word at an address, of more than 15 bytes; never 0."""
    mixed = size * SECOND
    end = word + size
    while word + EIGHT <= end:
        mixed = (mixed ^ read_64(word)) * FIRST
        mixed ^= mixed >> HALF
        word += EIGHT
    while word < end:
        mixed = (mixed ^ read_8(word)) * FIRST
        mixed ^= mixed >> HALF
        word += ONE
    return mixed | ONE


@compiled(inline=True)
def identify(word, size):
    """(low, high, hash) of the word at an address. Reads 16 bytes at least."""
    if size <= INLINE:
        low, high = key(word, size)
        return low, high, hash_of(low, high)
    low = hash_of_long(word, size)
    return low, ZERO, low


@compiled(inline=True)
def same_bytes(one, other, size):
    """Whether at two addresses stand the same bytes."""
    same = ZERO
    while same < size and read_8(one + same) == read_8(other + same):
        same += ONE
    return same == size


@compiled(inline=True)
def find(slots, mask, word, size, low, high, hashed, letters):
    """The address of the slot that holds the word at an address, or of the empty one where it would be.

    `NOWHERE` if the search gets long: a text made to have all its words in one place would take a time that grows with
    its square. `slots`: the address of the table, `mask` its bytes - 1.
    """
    place = hashed * SLOT
    for _ in range(FARTHEST):
        slot = slots + (place & mask)
        held = read_64(slot + HIGH)
        if held == ZERO:
            return slot
        if read_64(slot) == low:
            if size <= INLINE:
                if held & IDENTITY == high:
                    return slot
            elif held & (LENGTH | SIZE) == size and same_bytes(word, letters + ((held & PLACE) >> SIZE_BITS), size):
                return slot
        place += SLOT
    return NOWHERE


@compiled
def move(slots, larger):
    """Enter the words of a table into a larger, empty one.

    It begins at an empty slot and goes around. So the words before a word never reach the slot where it was, and no
    search gets longer: a word that was found is found again.
    """
    last, mask = np.uint64(len(slots)) - FOUR, np.uint64(len(larger)) - FOUR
    begin = ZERO
    while slots[begin + ONE]:
        begin += FOUR
    for number in range(len(slots) // 4):
        old = (begin + np.uint64(number) * FOUR) & last
        low, high = slots[old], slots[old + ONE]
        if high == ZERO:
            continue
        hashed = hash_of(low, high & IDENTITY) if high & LENGTH else low
        new = (hashed * FOUR) & mask
        while larger[new + ONE]:
            new = (new + FOUR) & mask
        for i in range(4):
            larger[new + np.uint64(i)] = slots[old + np.uint64(i)]
