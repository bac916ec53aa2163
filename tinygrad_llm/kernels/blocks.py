"""Where words end, for 64 bytes of text at once, by arithmetic on the masks of `bits`.

A block begins where a word begins, so nothing needs to be known of what stands before it. Bit i of each number tells of
byte i of the block; ``mask << 1`` tells of the byte before, ``mask >> 1`` of the one after. Only characters of ASCII
are judged here; at any other, and where a word is longer than a block, the state machine of `pretokenize` goes on.

In these formulas a text is followed by spaces without end: just so, white space at the end of a text is not split.
"""

from __future__ import annotations

import numpy as np

from tinygrad_llm.kernels.bits import highest, lowest, masks
from tinygrad_llm.kernels.compiled import compiled
from tinygrad_llm.kernels.pretokenize import CL100K, GPT2, LOWER_CASE, O200K, OWN, QWEN2, SMOLLM, contraction

BLOCK = np.uint64(64)
LAST = np.uint64(62)
"""The last byte of a block that can be judged: it depends on the one after it."""
MARGIN = np.uint64(80)
"""Bytes that must be readable from the beginning of a block, and of a word in it: a block and a key of 16."""

ZERO, ONE, TWO, THREE = (np.uint64(number) for number in range(4))
JUDGED = np.uint64((1 << 63) - 2)  # bits 1 to 62
ALL = np.uint64((1 << 64) - 1)


@compiled(inline=True)
def has_blocks(rule):
    """Whether a rule has formulas here."""
    return rule != O200K


@compiled(inline=True)
def below(bit):
    """All bits below this one, which is less than 64."""
    return (ONE << bit) - ONE


@compiled(inline=True)
def gpt2_borders(letter, digit, white, space):
    """A word begins where the class changes, but not after a space, which belongs to the word that follows; and with
    the last white space of a run, for the same reason."""
    sign = ~(letter | digit | white)
    same = (letter & (letter << ONE)) | (digit & (digit << ONE)) | (sign & (sign << ONE))
    return (~white & ~same & ~(space << ONE)) | (white & (~(white << ONE) | ~(white >> ONE)))


@compiled(inline=True)
def smollm_borders(letter, digit, white, space):
    """As GPT-2's, but each digit is a word, and a text of its own ends before it."""
    sign = ~(letter | digit | white)
    same = (letter & (letter << ONE)) | (sign & (sign << ONE))
    after_white = white & (~(white << ONE) | ~((white | digit) >> ONE))
    return digit | (~white & ~same & ~(space << ONE)) | after_white


@compiled(inline=True)
def own_borders(letter, digit, white, space):
    """Letters take the one sign or white space before them; digits are counted in threes; signs take the space before
    them and the white space after them, but its last."""
    sign = ~(letter | digit | white)
    last = white & ~(white >> ONE)
    alone = sign & ~(sign << ONE) & ~(sign >> ONE) & ~(space << ONE)
    taken = (last | alone) & (letter >> ONE)
    letters = letter & ~(letter << ONE) & ~(taken << ONE)
    signs = sign & ~(sign << ONE) & ~(space << ONE)
    whites = last | (white & ~(white << ONE) & ~(sign << ONE))
    return letters | signs | whites | in_threes(digit)


@compiled(inline=True)
def cl100k_borders(letter, digit, white, space, line, known, each, whole):
    """Signs take the space before them and the line ends after them; other white space is cut after its last line end
    and before its last character; letters take the one sign or white space, but no line end, before them.

    `known`: how many bytes of ASCII there are, up to the end of the text or of the block. `each` digit is a word, or
    three are. `whole`: white space that reaches so far is not cut, because its last line end may be still to come.
    """
    sign = ~(letter | digit | white)
    after_signs = (sign << ONE) & line
    blank = white & ~(line & ~(line + after_signs))  # an addition carries through a run of ones, and makes them zeros
    plain = blank & ~line
    indent = (line << ONE) & plain
    if whole:
        indent &= below_last(~white & (ALL >> (BLOCK - known)))
    ends = (plain + indent) & ~plain & line  # where an indent ends with a line end, it is none
    while ends:
        indent &= ~(ONE << highest(indent & below(lowest(ends))))
        ends &= ends - ONE
    last = plain & ~(white >> ONE)
    alone = sign & ~(sign << ONE) & ~(sign >> ONE) & ~(space << ONE)
    taken = (last | alone) & (letter >> ONE)
    letters = letter & ~(letter << ONE) & ~(taken << ONE)
    signs = sign & ~(sign << ONE) & ~(space << ONE)
    whites = (blank & ~(blank << ONE)) | indent | last
    return letters | signs | whites | (digit if each else in_threes(digit))


@compiled(inline=True)
def below_last(bits):
    """All bits below the highest one that is set; none if none is."""
    return below(highest(bits)) if bits else ZERO


@compiled(inline=True)
def in_threes(digit):
    """The first of every three digits in a row."""
    first = digit & ~(digit << ONE)
    more = digit & (digit << ONE) & (digit << TWO) & (digit << THREE)
    step = THREE
    while more:
        first |= (first << step) & more
        more &= more << step
        step += step
    return first


@compiled(inline=True)
def borders(address, left, rule):
    """The places, as bits of a number, where words end in the 64 bytes at an address, as far as that is certain.

    The first byte is ASCII. `left` bytes remain of the text; after its end there are spaces. `MARGIN` bytes must be
    readable.
    """
    letter, digit, white, space, line, apostrophe, high = masks(address)
    first = lowest(high)  # 64 where all is ASCII
    known = min(first, left, BLOCK)
    case = ZERO
    if rule == OWN:
        begins = own_borders(letter, digit, white, space)
    elif rule == GPT2:
        begins = gpt2_borders(letter, digit, white, space)
    elif rule == SMOLLM:
        begins = smollm_borders(letter, digit, white, space)
    else:
        whole = rule == CL100K or known < left
        begins = cl100k_borders(letter, digit, white, space, line, known, rule == QWEN2, whole)
        case = LOWER_CASE
    judged = JUDGED
    if left <= LAST:
        begins |= ONE << left
        judged &= below(left + ONE)
    if high:
        judged &= below(first) >> ONE
    if apostrophe and rule != OWN:
        quotes = apostrophe & (begins | ONE) & (judged | ONE)
        while quotes:
            place = lowest(quotes)
            quotes &= quotes - ONE
            length = contraction(address + place, address + MARGIN, case)
            if length:
                end = place + length
                if end > LAST:
                    return begins & judged & below(place + ONE)
                begins = (begins & ~(below(end) & ~below(place + ONE))) | (ONE << end)
    return begins & judged
