"""Cutting text into words: what each named pattern does, and patterns of the user's own."""

import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.tokenizer.pretokenize import (
    PATTERNS,
    compile_pattern,
    hugging_face_text,
    pattern_name,
    pattern_text,
    split_words,
)
from tinygrad_llm.tokenizer.unicode_classes import CLASSES, class_of

# words stand between bars
EXAMPLES = {
    "own": [
        "Hello|,| world|!",
        "def| f|(x|):\n  | return| self|.name",
        "it|'s| IT|'S",
        "123|456|7| | |89",
        "e\u0301te\u0301| \u0301x|.",
        "a|...\n\n | !!\n\n|\tb|  ",
        " |1|.|5| |2|\u3000x",
    ],
    "gpt2": [
        "Hello|,| world|!",
        "it|'s| they|'ll| we|'ve|'d|'re|'m|'t| IT|'|S|'|ſ",
        "1234567| 89| | 1|\n|1",
        "a|\u0301|b| €\u0301€",
        "a|  | b|\n\n|\n|c|\t|\t|d|  ",
        " '|s| '''|s|'s|t",
        "\x1c|\u00a0|a|½²٣| ٣",
    ],
    "smollm": [
        "Hello|,| world|!",
        "1|2| |3|  |4|\n\n|5|a|6| b|²| |½",
        "it|'s|1|'s|S|'|S",
        "a|   | b|   |1|  | !",
        "€|٣|  ",
    ],
    "cl100k": [
        "Hello|,| world|!",
        "it|'s|'S|'ll|'LL|'Re|'ſ|'s|x",
        "123|456|7| |89| | |1",
        ".name|(self|_x|..|\tword|\u3000字字|'q| '|s",
        "!!\n\n|  \n\n|  | a|\n| b",
        "a|\r\n \n|  |\u3000b|\n \n  ",
        "a|\u0301\u0301|b|/\n|//|x",
    ],
    "llama3": [
        "it|'s|'S|'LL|'ſ|123|456|7",
        "!!\n\n|  \n\n|  | a|\n \n|  ",
        ".name|\u3000字字",
    ],
    "qwen2": [
        "it|'s|'S|'LL|'ſ|1|2|3|4|½",
        "!!\n\n|  \n\n|  | a|\n \n|  ",
        "a| |1| | |2",
    ],
    "o200k": [
        "Hello|World| hello|World",
        "HTTPServer|HTTP|1|HTTPs",
        "it's| IT'S| it'LL|'s'ſ| a'ſ| x|'q",
        "123|456|7| |89",
        "!!\n/\n/| a|\n \n|  ",
        "字|A| AB字|AB|!",
        "e\u0301te\u0301's|!\u0301a|!!\u0301\u0301|A",
        "\u0301|A|1|\u0301A\u0301|1",
        "ǅa|ǅʰ|A",
    ],
}
TIKTOKENS_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


def words_of(pattern, text):
    return split_words(compile_pattern(pattern), text)


@pytest.mark.parametrize(("pattern", "example"), [(name, text) for name in EXAMPLES for text in EXAMPLES[name]])
def test_examples(pattern, example):
    assert words_of(pattern, example.replace("|", "")) == example.split("|")


def test_every_pattern_has_examples():
    assert set(EXAMPLES) == set(PATTERNS)


@given(text=st.text() | st.text("aA1 \n!'\u0301\u3000"))
def test_the_words_joined_are_the_text(text):
    for pattern in PATTERNS:
        words = words_of(pattern, text)
        assert "".join(words) == text
        assert all(words)
    assert "".join(words_of(r"\p{L}+|\d", text)) == text


# characters that have been in their class since the first versions of Unicode, some of each
OLD = {
    "Lu": "ÀΩЖ",
    "Ll": "ßжſ",
    "Lt": "ǅ",
    "Lm": "ʰ",
    "Lo": "字אあ",
    "M": "\u0301\u05b0",
    "N": "²½٣",
    "other": "€„\x1c",
}
OLD["White_Space"] = "\u00a0\u3000\u2028\x85"


@given(text=st.text("aZ1 \n!'s" + "".join(OLD.values())))
def test_where_versions_of_unicode_agree_the_words_are_those_that_regex_finds(text):
    for pattern in PATTERNS:
        assert words_of(pattern, text) == regex.findall(pattern_text(pattern), text)


def test_characters_stand_in_only_for_their_own_class():
    for name, chars in OLD.items():
        assert set(class_of(np.array([ord(char) for char in chars])).tolist()) == {CLASSES.index(name)}


def test_the_classes_are_those_of_unicode_16():
    for pattern in PATTERNS:
        assert words_of(pattern, "\u1c89\u1c8a") == ["\u1c89\u1c8a"]  # letters since 16.0
        assert words_of(pattern, "a\ua7ce") == ["a", "\ua7ce"]  # a letter since 17.0
        assert words_of(pattern, "a\U00010d40") == ["a", "\U00010d40"]  # a number since 16.0


def test_a_pattern_of_ones_own_has_the_classes_of_regex_and_no_character_is_lost():
    assert words_of(r"\p{L}+", "ab, cd!") == ["ab", ", ", "cd", "!"]
    assert words_of(r"\p{L}+", "!!") == ["!!"]
    assert words_of(r"\p{L}+", "") == []
    newer = "a\u1c89\ua7ce\U000323b0"
    assert words_of(r"\p{L}+|.", newer) == regex.findall(r"\p{L}+|.", newer)
    assert words_of("é|.", "éaÉ") == ["é", "a", "É"]  # characters that a pattern names are found


def test_ignoring_case_reaches_the_long_s_and_nothing_else_outside_ascii():
    for pattern in ("cl100k", "llama3", "qwen2"):
        assert words_of(pattern, "a'ſx") == ["a", "'ſ", "x"]
    assert words_of("o200k", "a'ſx") == ["a'ſ", "x"]
    assert words_of("gpt2", "a'ſx") == ["a", "'", "ſx"]
    letters = [chr(code) for code in range(0x80, 0x30000) if chr(code).isalpha() and chr(code) != "ſ"]
    text = "".join(
        f"1'{letter}א" for letter in letters
    )  # no contraction, so the letter and the one after it are a word
    assert words_of("cl100k", text) == [word for letter in letters for word in ("1", f"'{letter}א")]


def test_lone_surrogates_are_signs():
    assert words_of("gpt2", "a\ud800b") == ["a", "\ud800", "b"]


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
def test_long_runs_do_not_take_long(pattern):
    for unit in (" ", "\n", " \n", "a", "A", "字", "1", "!", "'", "\u0301"):
        text = unit * (100_000 // len(unit))
        for more in ("", "a", "1", "!"):
            assert "".join(words_of(pattern, text + more)) == text + more


def test_names_and_texts():
    for name, text in PATTERNS.items():
        assert pattern_text(name) == text
        assert pattern_name(name) == pattern_name(text) == pattern_name(hugging_face_text(name)) == name
        assert hugging_face_text(text) == hugging_face_text(name)
    assert len(set(PATTERNS.values())) == len(PATTERNS)
    assert "{1,3}|" in hugging_face_text("cl100k")  # there {1,3}+ is ({1,3})+
    assert pattern_name(TIKTOKENS_GPT2) == "gpt2"
    assert words_of(TIKTOKENS_GPT2, "it's\u1c89 ") == ["it", "'s", "\u1c89", " "]
    own = r"\w+|\W"
    assert pattern_text(own) == pattern_name(own) == hugging_face_text(own) == own


def test_a_pattern_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"'\(' is neither a name \(own, gpt2, smollm, cl100k, llama3, qwen2, o200k\)"):
        compile_pattern("(")
    with pytest.raises(ValueError, match=r"'\(a\)' has a capturing group; write \(\?:\.\.\.\)"):
        compile_pattern("(a)")
