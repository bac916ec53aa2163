"""The table of Unicode's classes, without the tokenizers of others (see test_pretokenize_peers.py for these)."""

import unicodedata

import numpy as np
import pytest

from tinygrad_llm.tokenizer import unicode_classes
from tinygrad_llm.tokenizer.unicode_classes import CLASSES, LO, LU, MARK, NUMBER, OTHER, PAGE, WHITE, class_of, tables

EVERY = np.arange(0x110000, dtype=np.uint32)
SPACES = [*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000]


def test_each_class_has_as_many_members_as_in_unicode_16():
    counts = np.bincount(class_of(EVERY), minlength=9)
    members = dict(zip(CLASSES, counts.tolist(), strict=True))
    others = members.pop("other")
    assert members == {
        "Lu": 1858, "Ll": 2258, "Lt": 31, "Lm": 404, "Lo": 136477, "M": 2501, "N": 1911, "White_Space": 25,
    }  # fmt: skip
    assert others == 0x110000 - sum(members.values())


def test_white_space_is_the_property_of_that_name():
    assert np.flatnonzero(class_of(EVERY) == WHITE).tolist() == SPACES


def class_in_python(char):
    category = unicodedata.category(char)
    group = category if category[0] == "L" else category[0]
    return CLASSES.index(group) if group in CLASSES else WHITE if ord(char) in SPACES else OTHER


def test_characters_that_this_python_knows_have_the_same_class():
    ours = class_of(EVERY)
    for code in EVERY.tolist():
        if ours[code] != OTHER and unicodedata.category(chr(code)) != "Cn":
            assert ours[code] == class_in_python(chr(code)), hex(code)


@pytest.mark.skipif(
    tuple(map(int, unicodedata.unidata_version.split("."))) > (16, 0, 0),
    reason=f"this Python knows Unicode {unicodedata.unidata_version}, with characters that 16.0 has not",
)
def test_no_character_is_missing():
    for code in np.flatnonzero(class_of(EVERY) == OTHER).tolist():
        assert class_in_python(chr(code)) == OTHER, hex(code)


def test_characters_of_the_newest_versions():
    newest = np.array([0x1C89, 0x10D40, 0x10D69, 0x16D40], np.uint32)  # in 16.0, not in 15.1
    assert class_of(newest).tolist() == [LU, NUMBER, MARK, CLASSES.index("Lm")]
    assert class_of(np.array([0xA7CE, 0x11DE0, 0x323B0], np.uint32)).tolist() == [OTHER] * 3  # in 17.0, not in 16.0
    assert class_of(np.array([[0xD800, 0xDFFF], [0x4E00, 0x10FFFF]], np.uint32)).tolist() == [
        [OTHER, OTHER],
        [LO, OTHER],
    ]


def test_the_tables_are_small_and_made_once():
    numbers, pages = tables()
    assert tables()[1] is pages
    assert (numbers.dtype, pages.dtype) == (np.uint8, np.uint8)
    assert numbers.shape == (0x110000 // PAGE,)
    assert pages.shape == (numbers.max() + 1, PAGE)
    assert len(np.unique(pages, axis=0)) == len(pages) == 141
    assert unicode_classes.UNICODE == "16.0"
