"""Where words end, for the named patterns of `tinygrad_llm.tokenizer.pretokenize`, without an engine for patterns.

For each pattern a small machine goes from the byte where a word begins to the byte after its end. It remembers nothing
from one word to the next. Text is UTF-8 and must be valid: nothing is checked here.

A character is seen as the set of kinds that it is in, the bits of one number. A pattern's class, as ``[\\p{L}\\p{M}]``,
is then a number too, and "is in the class" is ``kinds & CLASS``. Memory is read at addresses, as `bits` explains.

Each text is read a fixed number of times, whatever is in it. A greedy ``\\s+(?!\\S)`` or ``\\s*[\\r\\n]+``, which an
engine tries again and again at shorter lengths, is here one walk to the end of the white space and some steps back.
"""

from __future__ import annotations

import numpy as np

from tinygrad_llm.kernels.bits import read_8
from tinygrad_llm.kernels.compiled import compiled
from tinygrad_llm.tokenizer import unicode_classes
from tinygrad_llm.tokenizer.pretokenize import PATTERNS, pattern_text

GPT2, OWN, SMOLLM, CL100K, LLAMA3, QWEN2, O200K = (np.uint64(number) for number in range(7))
_RULES = {"gpt2": GPT2, "own": OWN}

ZERO, ONE, TWO, THREE, FOUR = (np.uint64(number) for number in range(5))
LF, CR, SPACE, APOSTROPHE = (np.uint64(ord(char)) for char in "\n\r '")
S, T, M, D, R, V, E, L = (np.uint64(ord(letter)) for letter in "stmdrvel")

# ---- the kinds of a character

CAPITAL, SMALL, OTHER_LETTER, MARK, NUMBER, WHITE, LINE, SIGN = (np.uint64(1 << bit) for bit in range(8))
"""Capital letters with title case; small ones; letters without case; marks; numbers; white space; of it, line feed and
carriage return; all other characters."""
LETTER = CAPITAL | SMALL | OTHER_LETTER
_KINDS_OF_CLASS = np.array([1, 2, 1, 4, 4, 8, 16, 32, 128], np.uint8)  # in the order of unicode_classes.CLASSES

if unicode_classes.UNICODE != "16.0":  # the compiled machines hold the table: a new one must change this file
    raise AssertionError(f"these machines were compiled for Unicode 16.0, not {unicode_classes.UNICODE}")
_numbers, _pages = unicode_classes.tables()
PAGE_OF = _numbers
KINDS = _KINDS_OF_CLASS[_pages].ravel()
KINDS[[ord("\n"), ord("\r")]] |= np.uint8(LINE)
PAGE_BITS = np.uint64(8)
"""The kinds of code point c: ``KINDS[PAGE_OF[c >> 8] << 8 | c & 255]``; of ASCII, ``KINDS[c]``."""
ASCII = np.uint64(0x80)
LOWER_CASE = np.uint64(0x20)
"""The bit that makes a small letter of a capital one, in ASCII."""
LONG_S = np.uint64(0xC5), np.uint64(0xBF)  # "ſ" in UTF-8: without regard to case it is an s


@compiled
def wide(at):
    """The kinds of the character of two or more bytes at an address; above them, from bit 8 on, its size."""
    lead, tail = read_8(at), read_8(at + ONE) & np.uint64(0x3F)
    if lead < np.uint64(0xE0):
        code, size = (lead & np.uint64(0x1F)) << np.uint64(6) | tail, TWO
    else:
        tail = tail << np.uint64(6) | (read_8(at + TWO) & np.uint64(0x3F))
        if lead < np.uint64(0xF0):
            code, size = (lead & np.uint64(0x0F)) << np.uint64(12) | tail, THREE
        else:
            tail = tail << np.uint64(6) | (read_8(at + THREE) & np.uint64(0x3F))
            code, size = (lead & np.uint64(0x07)) << np.uint64(18) | tail, FOUR
    row = np.uint64(PAGE_OF[code >> PAGE_BITS]) << PAGE_BITS
    return np.uint64(KINDS[row | (code & np.uint64(0xFF))]) | size << PAGE_BITS


@compiled(inline=True)
def char_at(at):
    """The kinds of the character at an address; above them, from bit 8 on, its size."""
    byte = read_8(at)
    return np.uint64(KINDS[byte]) | ONE << PAGE_BITS if byte < ASCII else wide(at)


@compiled(inline=True)
def after(at):
    """Where the next character begins."""
    return at + (char_at(at) >> PAGE_BITS)


@compiled(inline=True)
def before(at):
    """Where the character before this place begins."""
    at -= ONE
    while read_8(at) & np.uint64(0xC0) == ASCII:
        at -= ONE
    return at


@compiled
def run(at, end, kinds):
    """The end of the run of characters of these kinds, which may be empty."""
    while at < end:
        byte = read_8(at)
        if byte < ASCII:
            if not np.uint64(KINDS[byte]) & kinds:
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
    if end - at < TWO:
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


# ---- the machines: at < end, and a word begins at `at`


@compiled
def gpt2(at, end):
    if read_8(at) == APOSTROPHE:
        size = contraction(at, end, ZERO)
        if size:
            return at + size
    begin = at
    if read_8(at) == SPACE and at + ONE < end:
        begin = at + ONE
    kinds = char_at(begin)
    if kinds & WHITE:
        return white(at, end, ZERO)
    if kinds & LETTER:
        return run(begin, end, LETTER)
    return run(begin, end, NUMBER if kinds & NUMBER else SIGN | MARK)


@compiled
def own(at, end):
    first = char_at(at)
    if first & NUMBER:
        return numbers(at, end, THREE)
    begin = at if first & (LETTER | MARK) else after(at)
    stop = run(begin, end, LETTER | MARK)
    if stop > begin:
        return stop
    if first & WHITE and read_8(at) != SPACE:
        return white(at, end, ZERO)
    stop = run(begin, end, SIGN)
    if first & WHITE and stop == begin:
        return white(at, end, ZERO)
    return all_but_last(stop, end, ZERO)


@compiled(inline=True)
def numbers(at, end, most):
    """`\\p{N}{1,most}`, where a number stands."""
    stop = after(at)
    while most > ONE and stop < end and char_at(stop) & NUMBER:
        stop = after(stop)
        most -= ONE
    return stop


@compiled
def word_after(at, end, rule):
    """The address where the word that begins at `at` ends, in a text that ends at `end`; ``at < end``."""
    if rule == OWN:
        return own(at, end)
    return gpt2(at, end)


@compiled
def word_end(data, begin, length, rule):
    """The end of the word that begins at byte `begin` of ``data[:length]``, by the rule of this number.

    `data`: uint8, valid UTF-8; ``begin < length``, both uint64; a word must begin at `begin`.
    """
    address = np.uint64(data.ctypes.data)
    return word_after(address + begin, address + length, rule) - address


def rule_of(pattern: str) -> int:
    """The number of the machine for a pattern, given by its name or its whole text; -1 if there is none."""
    text = pattern_text(pattern)
    return next((int(rule) for name, rule in _RULES.items() if PATTERNS.get(name) == text), -1)
