"""Where words end, for the named patterns of `tinygrad_llm.tokenizer.pretokenize`, without an engine for patterns.

For each pattern a small machine goes from the byte where a word begins to the byte after its end. It remembers nothing
from one word to the next. Text is UTF-8 and must be valid: nothing is checked here.

A character is of one kind, which is one bit of a number. A pattern's class, as ``[\\p{L}\\p{M}]``, is then a number of
several bits, and "is in the class" is ``kind & CLASS``. Memory is read at addresses, as `bits` explains.

Each text is read a fixed number of times, whatever is in it. A greedy ``\\s+(?!\\S)`` or ``\\s*[\\r\\n]+``, which an
engine tries again and again at shorter lengths, is here one walk to the end of the white space and some steps back.
"""

from __future__ import annotations

import numpy as np

from tinygrad_llm.kernels.bits import read_8
from tinygrad_llm.kernels.compiled import compiled
from tinygrad_llm.tokenizer import unicode_classes
from tinygrad_llm.tokenizer.pretokenize import pattern_name

RULES = ("own", "gpt2", "smollm", "cl100k", "llama3", "qwen2", "o200k")
OWN, GPT2, SMOLLM, CL100K, LLAMA3, QWEN2, O200K = (np.uint64(number) for number in range(len(RULES)))

ZERO, ONE, TWO, THREE, FOUR, SIX, TWELVE, EIGHTEEN = (np.uint64(number) for number in (0, 1, 2, 3, 4, 6, 12, 18))
LF, CR, SPACE, APOSTROPHE, SLASH = (np.uint64(ord(char)) for char in "\n\r '/")
S, T, M, D, R, V, E, L = (np.uint64(ord(letter)) for letter in "stmdrvel")

ASCII = np.uint64(0x80)
"""Bytes below are characters; a character of more bytes begins with one above."""
LOW_4, LOW_5, LOW_6, TOP_2 = (np.uint64(bits) for bits in (0x0F, 0x1F, 0x3F, 0xC0))
THREE_BYTES, FOUR_BYTES = np.uint64(0xE0), np.uint64(0xF0)
"""From these on, the first byte says that the character has so many."""
LOWER_CASE = np.uint64(0x20)
"""The bit that makes a small letter of a capital one, in ASCII."""
LONG_S = np.uint64(0xC5), np.uint64(0xBF)
"""The letter "ſ" in UTF-8: an s, if case is ignored."""

# ---- the kinds of a character

CAPITAL, SMALL, CASELESS, MARK, NUMBER, WHITE, SIGN = (np.uint64(1 << bit) for bit in range(7))
"""Capital letters and those with a capital first part; small letters; letters without case; marks; numbers; white
space; all other characters."""
LETTER = CAPITAL | SMALL | CASELESS
_KINDS = np.array([CAPITAL, SMALL, CAPITAL, CASELESS, CASELESS, MARK, NUMBER, WHITE, SIGN], np.uint8)
"""Of each of `unicode_classes.CLASSES`."""

UNICODE = "16.0"
"""What was compiled holds the table, and is kept on disk until this file changes: so a new table must change it."""
PAGE_OF = unicode_classes.tables()[0]
KIND = _KINDS[unicode_classes.tables()[1]].ravel()
"""The kind of code point c is ``KIND[PAGE_OF[c >> 8] << 8 | c & 255]``; in ASCII ``KIND[c]``."""
PAGE_BITS, PAGE = np.uint64(8), np.uint64(0xFF)


@compiled
def wide(at):
    """The kind of the character of two or more bytes at an address; above them, from bit 8 on, its size."""
    lead, code = read_8(at), read_8(at + ONE) & LOW_6
    if lead < THREE_BYTES:
        code, size = (lead & LOW_5) << SIX | code, TWO
    else:
        code = code << SIX | (read_8(at + TWO) & LOW_6)
        if lead < FOUR_BYTES:
            code, size = (lead & LOW_4) << TWELVE | code, THREE
        else:
            code = code << SIX | (read_8(at + THREE) & LOW_6)
            code, size = (lead & LOW_4) << EIGHTEEN | code, FOUR
    row = np.uint64(PAGE_OF[code >> PAGE_BITS]) << PAGE_BITS
    return np.uint64(KIND[row | (code & PAGE)]) | size << PAGE_BITS


@compiled(inline=True)
def char_at(at):
    """The kind of the character at an address; above them, from bit 8 on, its size."""
    byte = read_8(at)
    return np.uint64(KIND[byte]) | ONE << PAGE_BITS if byte < ASCII else wide(at)


@compiled(inline=True)
def after(at):
    """Where the next character begins."""
    return at + (char_at(at) >> PAGE_BITS)


@compiled(inline=True)
def before(at):
    """Where the character before this place begins."""
    at -= ONE
    while read_8(at) & TOP_2 == ASCII:
        at -= ONE
    return at


@compiled
def run(at, end, kinds):
    """The end of the run of characters of these kinds, which may be empty."""
    while at < end:
        byte = read_8(at)
        if byte < ASCII:
            if not np.uint64(KIND[byte]) & kinds:
                break
            at += ONE
        else:
            char = wide(at)
            if not char & kinds:
                break
            at += char >> PAGE_BITS
    return at


@compiled
def all_but_last(at, end, closing):
    """`\\s+(?!\\S)`, or nothing: the run of white space, whole if the text ends with it, else without its last one.

    `closing`: kinds of characters that stand for the end of the text.
    """
    stop = run(at, end, WHITE)
    if stop in (at, end) or char_at(stop) & closing:
        return stop
    return before(stop)


@compiled(inline=True)
def white(at, end, closing):
    """`\\s+(?!\\S)|\\s+`, where white space stands."""
    stop = all_but_last(at, end, closing)
    return stop if stop > at else after(at)


@compiled
def contraction(at, end, case):
    """The size of 's 't 'm 'd 're 've or 'll, if it stands here, else 0; `case`: `LOWER_CASE` to ignore case, or 0."""
    if end - at < TWO or read_8(at) != APOSTROPHE:
        return ZERO
    first = read_8(at + ONE)
    second = read_8(at + TWO) if end - at > TWO else ZERO
    if case and first == LONG_S[0] and second == LONG_S[1]:
        return THREE
    first, second = first | case, second | case
    if first in (S, T, M, D):
        return TWO
    if second == E:
        return THREE if first in (R, V) else ZERO
    return THREE if second == L and first == L else ZERO


@compiled(inline=True)
def numbers(at, end, most):
    """`\\p{N}{1,most}`, where a number stands."""
    stop = after(at)
    while most > ONE and stop < end and char_at(stop) & NUMBER:
        stop = after(stop)
        most -= ONE
    return stop


@compiled
def signs_and_lines(at, end, rule):
    """` ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`, where neither a letter nor a number stands.

    o200k has `[\\r\\n/]*`; cl100k a further `\\s+$` before `\\s*[\\r\\n]+`.
    """
    begin = at + ONE if read_8(at) == SPACE else at
    stop = run(begin, end, SIGN | MARK)
    if stop > begin:
        more = SLASH if rule == O200K else LF
        while stop < end and read_8(stop) in (LF, CR, more):
            stop += ONE
        return stop
    stop = run(at, end, WHITE)
    if rule == CL100K and stop == end:
        return end
    line = stop
    while line > at:
        if read_8(line - ONE) in (LF, CR):
            return line
        line -= ONE
    if stop < end and before(stop) > at:
        return before(stop)
    return stop


# ---- the machines: at < end, and a word begins at `at`


@compiled
def own(at, end):
    first = char_at(at)
    if first & NUMBER:
        return numbers(at, end, THREE)
    begin = at if first & (LETTER | MARK) else after(at)
    stop = run(begin, end, LETTER | MARK)
    if stop > begin:
        return stop
    if first & SIGN or read_8(at) == SPACE:
        stop = run(begin, end, SIGN)
        if first & SIGN or stop > begin:
            return all_but_last(stop, end, ZERO)
    return white(at, end, ZERO)


@compiled
def gpt2(at, end, rule):
    """And smollm, where each number is a word, and a text ends before it."""
    alone = NUMBER if rule == SMOLLM else ZERO
    size = contraction(at, end, ZERO)
    if size:
        return at + size
    begin = at + ONE if read_8(at) == SPACE and at + ONE < end else at
    kind = char_at(begin)
    if kind & alone:
        return after(at)  # the number, or the one space before it
    if kind & WHITE:
        return white(at, end, alone)
    if kind & LETTER:
        return run(begin, end, LETTER)
    return run(begin, end, NUMBER if kind & NUMBER else SIGN | MARK)


@compiled
def cl100k(at, end, rule):
    """And llama3 and qwen2."""
    first = char_at(at)
    if first & NUMBER:
        return numbers(at, end, ONE if rule == QWEN2 else THREE)
    size = contraction(at, end, LOWER_CASE)
    if size:
        return at + size
    if read_8(at) not in (LF, CR):
        begin = at if first & LETTER else after(at)
        stop = run(begin, end, LETTER)
        if stop > begin:
            return stop
    return signs_and_lines(at, end, rule)


@compiled
def o200k(at, end):
    first = char_at(at)
    if first & NUMBER:
        return numbers(at, end, THREE)
    if read_8(at) not in (LF, CR):
        begin = at if first & (LETTER | MARK) else after(at)
        stop = cased(begin, end)
        if stop > begin:
            return stop + contraction(stop, end, LOWER_CASE)
    return signs_and_lines(at, end, O200K)


@compiled
def cased(at, end):
    """`[capital caseless]*[small caseless]+|[capital caseless]+[small caseless]*`, or nothing; marks have no case.

    The first of these alternatives, without a small letter to end with, gives capitals back until it ends with a
    character that has no case. Without such a one the second alternative takes all.
    """
    capitals = run(at, end, CAPITAL | CASELESS | MARK)
    stop = run(capitals, end, SMALL | CASELESS | MARK)
    if stop > capitals:
        return stop
    while stop > at:
        last = before(stop)
        if char_at(last) & (CASELESS | MARK):
            return stop
        stop = last
    return capitals


@compiled
def word_after(at, end, rule):
    """The address where the word at an address ends, by the rule of this number, in a text that ends at `end`."""
    if rule == OWN:
        return own(at, end)
    if rule == O200K:
        return o200k(at, end)
    return gpt2(at, end, rule) if rule in (GPT2, SMOLLM) else cl100k(at, end, rule)


@compiled
def word_end(data, begin, length, rule):
    """The end of the word that begins at byte `begin` of ``data[:length]``, by the rule of this number.

    `data`: uint8, valid UTF-8; ``begin < length``, both uint64; a word must begin at `begin`.
    """
    address = np.uint64(data.ctypes.data)
    return word_after(address + begin, address + length, rule) - address


def rule_of(pattern: str) -> int:
    """The number of the machine for a pattern, given by its name or its whole text; -1 if there is none."""
    name = pattern_name(pattern)
    return RULES.index(name) if name in RULES else -1
