"""The kernel of biased_attention against its reference: the same bits, for any number of threads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import threads
from tinygrad_llm.ops import biased_attention

pytest.importorskip("numba", reason="numba is not installed")
if not biased_attention.kernel:
    pytest.skip("no kernels here: Numba is switched off", allow_module_level=True)

BIASES = ["bhts", "1hts", "b1ts", "11ts", "hts", "h1s", "1ts", "ts", "s", ""]
MASKS = [None, "bhts", "b11s", "11ts", "1h1s", "ts", "s"]


def shaped(letters, sizes):
    return tuple(1 if letter == "1" else sizes[letter] for letter in letters)


@given(
    batch=st.integers(1, 5),
    kv_heads=st.integers(1, 4),
    group=st.integers(1, 3),
    queries=st.integers(1, 7),
    keys=st.integers(1, 7),
    bias=st.sampled_from(BIASES),
    mask=st.sampled_from(MASKS),
    boolean=st.booleans(),
    causal=st.booleans(),
    scale=st.sampled_from([None, 1.0, 0.3]),
    dtype=st.sampled_from(["float32", "float64"]),
    count=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_bits_are_those_of_the_reference(
    batch, kv_heads, group, queries, keys, bias, mask, boolean, causal, scale, dtype, count, seed
):
    rng = np.random.default_rng(seed)
    sizes = {"b": batch, "h": kv_heads * group, "t": queries, "s": keys}

    def drawn(*shape):
        return rng.standard_normal(shape).astype(dtype)

    q, k = drawn(batch, queries, kv_heads * group, 3).swapaxes(1, 2), drawn(batch, kv_heads, keys, 3)
    v, added = drawn(batch, kv_heads, keys, 2), drawn(*shaped(bias, sizes))
    if mask is not None:
        mask = drawn(*shaped(mask, sizes))
        mask = mask > -0.7 if boolean else mask
    dy = drawn(batch, kv_heads * group, queries, 2)
    expected, expected_vjp = biased_attention.reference(q, k, v, added, mask, causal=causal, scale=scale)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tinygrad_llm.kernels.attention_bias.LEAST", 1)
        patch.setattr(threads, "_threads", count)
        result = biased_attention.kernel(q, k, v, added, mask, causal=causal, scale=scale)
        if result is NotImplemented:
            assert count == 1 or batch == kv_heads == 1
            return
        y, vjp = result
        found = vjp(dy)
    np.testing.assert_array_equal(y, expected)
    for gradient, wanted in zip(found, expected_vjp(dy), strict=True):
        assert gradient.dtype == dtype
        np.testing.assert_array_equal(gradient, wanted())


def test_what_it_does_not_handle_it_declines(monkeypatch):
    monkeypatch.setattr(threads, "_threads", 2)
    x, bias = np.ones((2, 2, 3, 4)), np.ones((3, 3))
    assert biased_attention.kernel(x, x, x, bias) is NotImplemented  # not worth a second thread
    monkeypatch.setattr("tinygrad_llm.kernels.attention_bias.LEAST", 1)
    assert biased_attention.kernel(x, x, x, bias.astype(np.float32)) is NotImplemented
    assert biased_attention.kernel(x + 0j, x, x, bias) is NotImplemented
    assert biased_attention.kernel(x[:0], x[:0], x[:0], bias) is NotImplemented
    assert biased_attention.kernel(x, x, x, bias) is not NotImplemented


def test_it_raises_the_same_errors():
    x, bias = np.ones((2, 2, 3, 4)), np.ones((3, 3))
    for given_ in [(x, x, x, np.ones((3, 2))), (x, x, x[:1], bias), (x, x, x, bias, np.ones((5, 3), bool))]:
        messages = []
        for function in (biased_attention.reference, biased_attention.kernel):
            with pytest.raises(ValueError, match="attention: ") as caught:
                function(*given_)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]
