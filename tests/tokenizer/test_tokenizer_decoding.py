"""Many ids to bytes at once: the plain way and the kernel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.tokenizer import Tokenizer
from tinygrad_llm.tokenizer.decoding import TokenTable, join_tokens

tables = st.dictionaries(st.integers(0, 40), st.binary(max_size=40), min_size=1, max_size=20)


def kernel():
    if not join_tokens.kernel:
        pytest.skip("kernels need Numba")
    return join_tokens.kernel


def ways():
    return [join_tokens.reference, *([join_tokens.kernel] if join_tokens.kernel else [])]


@given(bytes_of=tables, data=st.data(), dtype=st.sampled_from([np.int32, np.int64, np.uint16]))
def test_tokens_are_joined_by_the_definition(bytes_of, data, dtype):
    ids = data.draw(st.lists(st.sampled_from(sorted(bytes_of)), max_size=50))
    table = TokenTable(bytes_of)
    for way in ways():
        joined = way(np.array(ids, dtype), table.data, table.begins, table.sizes)
        assert joined.dtype == np.uint8
        assert bytes(joined) == b"".join(bytes_of[number] for number in ids)


@pytest.mark.parametrize("number", [-1, 2, 4, 1 << 40])
def test_an_id_without_a_token_is_named(number):
    table = TokenTable({0: b"a", 1: b"b", 3: b"d"})
    for way in ways():
        with pytest.raises(ValueError, match=rf"id {number} is not in this vocabulary \(ids 0 to 3\)"):
            way(np.array([0, 1, number, 3]), table.data, table.begins, table.sizes)


def test_what_the_kernel_does_not_read_is_left_to_the_reference():
    table = TokenTable({0: b"a", 1: b"b"})
    assert kernel()(np.zeros(4, np.uint64), table.data, table.begins, table.sizes) is NotImplemented
    assert kernel()(np.zeros(8, np.int32)[::2], table.data, table.begins, table.sizes) is NotImplemented
    assert bytes(join_tokens(np.zeros(1000, np.uint64), table.data, table.begins, table.sizes)) == b"a" * 1000


@pytest.mark.parametrize("many", [1, 64, 65, 3000])
def test_arrays_and_lists_of_any_length_give_the_same_text(many):
    tokenizer = Tokenizer.train(["Größe naïve 数字 the the"], 300)
    text = "Größe 数 the " * many
    ids = tokenizer.encode(text)
    shaped = ids[: len(ids) // 2 * 2].reshape(2, -1)
    for given_ids in (ids, ids.tolist(), tuple(ids.tolist()), iter(ids.tolist()), ids.astype(np.uint64)):
        assert tokenizer.decode(given_ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.decode_bytes(shaped) == tokenizer.decode_bytes(shaped.ravel())
    for broken in ([*ids.tolist(), 10**6], np.append(ids, 10**6), [*ids.tolist(), 10**30]):
        with pytest.raises(ValueError, match=r"id 10+ is not in this vocabulary"):
            tokenizer.decode(broken)


def test_special_tokens_and_gaps_count_no_bytes_of_text():
    tokens = {bytes([byte]): byte for byte in range(256)} | {b"ab": 300}
    tokenizer = Tokenizer(tokens, [(97, 98)], {"<|x|>": 310}, "own")
    assert tokenizer.count_bytes(np.array([97, 300, 310])) == 3
    assert tokenizer.decode([97, 300, 310]) == "aab<|x|>"
    with pytest.raises(ValueError, match="id 305"):
        tokenizer.decode(np.full(100, 305))
