"""The machines that find the ends of words, against the patterns."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("numba", reason="kernels need Numba")
try:
    from tinygrad_llm.kernels import pretokenize as kernel
    from tinygrad_llm.kernels.compiled import compiled
    from tinygrad_llm.kernels.pretokenize import char_at, rule_of, word_after, word_end
except ImportError as error:
    pytest.skip(str(error), allow_module_level=True)

from tinygrad_llm.tokenizer import unicode_classes
from tinygrad_llm.tokenizer.pretokenize import PATTERNS, compile_pattern, hugging_face_text, split_words

LETTERS = ["aB", "AB", "Ab", "ABc", "a", "Z", "ǅ", "ʰ", "ª", "é", "É", "字", "あア", "\U00020000", "l", "s", "S", "ſ"]
MARKS = ["\u0301", "e\u0301", "\u20dd", "\ufe0f", "\U0001e000"]
NUMBERS = ["1", "12", "123", "1234", "²", "½", "٣", "\U0001d7d8"]
WHITES = ["  \n", "\r\n", "\n\n", " \n ", "\t", " ", "  ", "\x0b", "\x0c", "\x85", "\u00a0", "\u2028", "\u3000"]
SIGNS = [
    "'s",
    "'S",
    "'ll",
    "'LL",
    "'re",
    "'vE",
    "'Re",
    "'ſ",
    "'",
    "''",
    "/",
    "!",
    "_",
    "\x1c",
    "\u200b",
    "\U0001f600",
    "\x7f",
]
fragments = st.sampled_from([*LETTERS, *MARKS, *NUMBERS, *WHITES, *SIGNS])
soup = st.lists(fragments, max_size=20).map("".join)
texts = soup | st.text(max_size=20) | st.lists(fragments | st.text(max_size=3), max_size=12).map("".join)


@compiled
def all_ends(data, begin, length, rule, ends):
    count = 0
    while begin < length:
        end = word_end(data, begin, length, rule)
        if end <= begin:
            break
        ends[count] = begin = end
        count += 1
    return count


def machine_words(text, pattern, before=b"", behind=b""):
    """The words that the machine finds in a text that stands between other bytes."""
    data = before + text.encode() + behind
    array, length = np.frombuffer(data, np.uint8), len(data) - len(behind)
    ends = np.zeros(len(data) + 1, np.int64)
    rule = np.uint64(rule_of(pattern))
    count = all_ends(array, np.uint64(len(before)), np.uint64(length), rule, ends)
    borders = [len(before), *ends[:count].tolist()]
    assert borders[-1] == length
    return [data[begin:end].decode() for begin, end in pairwise(borders)]


def pattern_words(text, pattern):
    return split_words(compile_pattern(pattern), text)


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
@given(text=texts)
def test_a_machine_cuts_as_its_pattern(pattern, text):
    assert machine_words(text, pattern) == pattern_words(text, pattern)


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
@given(text=soup, before=texts, behind=texts)
def test_what_stands_around_a_text_does_not_matter(pattern, text, before, behind):
    assert machine_words(text, pattern, before.encode(), behind.encode()) == pattern_words(text, pattern)


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
@given(text=soup)
def test_each_text_that_ends_earlier_is_cut_as_its_pattern(pattern, text):
    for end in range(len(text)):
        words = pattern_words(text[:end], pattern)
        assert machine_words(text[:end], pattern, behind=text[end:].encode()) == words


KINDS = ["a", "A", "\u0301", "字", "1", " ", "\n", "\u3000", "!", "'", "s", "/"]


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
def test_every_four_characters_of_any_kinds(pattern):
    for a in KINDS:
        for b in KINDS:
            for c in KINDS:
                text = "".join(f"{a}{b}{c}{d}\x00" for d in KINDS)  # each ends before the sign or takes it
                assert machine_words(text, pattern) == pattern_words(text, pattern)
                assert machine_words(a + b + c, pattern) == pattern_words(a + b + c, pattern)


@compiled
def all_kinds(data, kinds):
    address = np.uint64(data.ctypes.data)
    end = address + np.uint64(len(data))
    for i in range(len(kinds)):
        char = char_at(address)
        kinds[i] = char & np.uint64(0xFF)
        address += char >> np.uint64(8)
    return end - address


def test_every_character_is_of_the_kind_of_its_class():
    codes = np.array([code for code in range(0x110000) if not 0xD800 <= code < 0xE000], np.uint32)
    kinds = np.zeros(len(codes), np.uint8)
    assert all_kinds(np.frombuffer("".join(map(chr, codes.tolist())).encode(), np.uint8), kinds) == 0
    kind_of = {"Lu": kernel.CAPITAL, "Lt": kernel.CAPITAL, "Ll": kernel.SMALL, "Lm": kernel.CASELESS}
    kind_of |= {"Lo": kernel.CASELESS, "M": kernel.MARK, "N": kernel.NUMBER, "White_Space": kernel.WHITE}
    expected = np.array([int(kind_of.get(name, kernel.SIGN)) for name in unicode_classes.CLASSES])
    assert np.flatnonzero(kinds != expected[unicode_classes.class_of(codes)]).tolist() == []


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
def test_characters_of_every_class_in_some_contexts(pattern):
    edges = np.flatnonzero(np.diff(unicode_classes.class_of(np.arange(0x110000))))
    chars = [chr(code) for code in [*range(0x200), *edges.tolist(), *(edges + 1).tolist()]]
    chars = [char for char in chars if not "\ud800" <= char < "\ue000"]
    for context in (" {0}a", "{0}{0} ", "'{0}", "\n{0}", "A{0}b", "1{0}1", "!{0}!"):
        text = "".join(map(context.format, chars))
        assert machine_words(text, pattern) == pattern_words(text, pattern)


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
def test_contractions(pattern):
    letters = "stmdrvelSTMDRVELxſ"
    for before in ("", "a", " ", "'", "\n"):
        text = "\n".join(f"{before}'{a}{b}" for a in letters for b in letters)
        assert machine_words(text, pattern) == pattern_words(text, pattern)
        for end in ("'", *(f"'{letter}" for letter in letters)):
            assert machine_words(before + end, pattern, behind=b"ell") == pattern_words(before + end, pattern)


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
def test_long_runs_do_not_take_long(pattern):
    # a machine that went through the rest of a run for each of its words would take minutes
    for unit in (" ", "\n", " \n", "\u3000\r", "a", "A", "字A", "1", "!", "'", "\u0301", "/\n", "A\u0301", "'s"):
        text = unit * (100_000 // len(unit))
        for more in ("", "a!"):
            assert machine_words(text + more, pattern) == pattern_words(text + more, pattern)


def test_a_machine_is_found_by_the_name_and_by_the_text_of_its_pattern():
    rules = [rule_of(name) for name in PATTERNS]
    assert sorted(rules) == list(range(len(PATTERNS)))
    for name, text in PATTERNS.items():
        assert rule_of(text) == rule_of(hugging_face_text(name)) == rule_of(name)
        assert int(getattr(kernel, name.upper())) == rule_of(name)
    assert rule_of(r"\w+|\W+") == rule_of("") == -1


def test_addresses_and_places_in_an_array_give_the_same():
    data = np.frombuffer(b"one two", np.uint8)
    address, rule = np.uint64(data.ctypes.data), np.uint64(rule_of("gpt2"))
    assert word_after(address + np.uint64(3), address + np.uint64(7), rule) - address == 7
    assert word_after(address + np.uint64(3), address + np.uint64(5), rule) - address == 5
    assert word_end(data, np.uint64(0), np.uint64(7), rule) == 3


def test_the_machines_say_which_table_they_hold():
    assert kernel.UNICODE == unicode_classes.UNICODE
