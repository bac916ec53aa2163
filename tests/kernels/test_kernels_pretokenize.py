"""The machines that find the ends of words, against the patterns."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tinygrad_llm.kernels.compiled", reason="no kernels here", exc_type=ImportError)

from tinygrad_llm.kernels.pretokenize import rule_of, word_end
from tinygrad_llm.tokenizer.pretokenize import PATTERNS, compile_pattern, pattern_text, split_words

MACHINES = sorted(name for name in PATTERNS if rule_of(name) >= 0)

fragments = st.sampled_from(["'s", "'S", "'ſ", "'ll", "'RE", "  \n", "\r\n", "12345", "\u3000", "\x1c", "e\u0301", "½"])
texts = st.lists(fragments | st.text("aÉ9 '!\n\r\t\u00a0\u0301字\U0001f600", max_size=6), max_size=12).map("".join)


def machine_words(text, pattern):
    data = text.encode()
    array, length, rule = np.frombuffer(data, np.uint8), np.uint64(len(data)), np.uint64(rule_of(pattern))
    words, begin = [], 0
    while begin < len(data):
        end = int(word_end(array, np.uint64(begin), length, rule))
        assert begin < end <= len(data)
        words.append(data[begin:end].decode())
        begin = end
    return words


@pytest.mark.parametrize("pattern", MACHINES)
@given(text=texts)
def test_a_machine_cuts_as_its_pattern(pattern, text):
    assert machine_words(text, pattern) == split_words(compile_pattern(pattern), text)


def test_a_machine_is_found_by_the_name_and_by_the_text_of_its_pattern():
    assert {"gpt2", "own"} <= set(MACHINES)
    for name in MACHINES:
        assert rule_of(name) == rule_of(pattern_text(name))
    assert rule_of(r"\w+|\W+") == -1
