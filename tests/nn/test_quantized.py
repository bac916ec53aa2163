"""Weights in 8 and 4 bits: rounding, packing, products, modules, and what is refused."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import Tensor, no_grad, use_backend
from tinygrad_llm.generation import Sampling, generate_tokens
from tinygrad_llm.models import GPT, GPTConfig, Llama, LlamaConfig
from tinygrad_llm.nn import Embedding, Linear, Module, QuantizedEmbedding, QuantizedLinear, quantize
from tinygrad_llm.nn import quantized as module
from tinygrad_llm.nn.quantized import (
    CHUNK,
    fitted,
    quantized,
    to_bfloat16,
)
from tinygrad_llm.ops.quantized import GROUPS, dequantized, from_bfloat16, quantized_product

kinds = pytest.mark.parametrize("kind", ["int8", "int4"])
seeds = st.integers(0, 2**32 - 1)
GPT_SMALL = GPTConfig(vocab_size=40, context=12, channels=48, layers=2, heads=2)
LLAMA_SMALL = LlamaConfig(40, 12, 48, 2, 6, 2, 72)


@st.composite
def matrices(draw):
    """(F, C) of very different sizes in its groups, some of them constant or zero."""
    rows, columns = draw(st.integers(0, 5)), draw(st.sampled_from([0, 1, 31, 32, 33, 63, 64, 65, 100, 128, 200]))
    rng = np.random.default_rng(draw(seeds))
    w = rng.standard_normal((rows, columns)).astype(np.float32) + np.float32(draw(st.sampled_from([0, 0, 3])))
    w *= np.exp(rng.uniform(-12, 8, (rows, columns)).round(-1)).astype(np.float32)
    if draw(st.booleans()):
        w[:, : columns // 2] = draw(st.sampled_from([0.0, 1.0, -0.3]))
    return w


def by_groups(a, group):
    """(F, C) padded with zeros, as (F, groups, group)."""
    width = -(-a.shape[1] // 64) * 64
    padded = np.zeros((len(a), width), np.float64)
    padded[:, : a.shape[1]] = a
    return padded.reshape(len(a), width // group, group)


@given(st.floats(-(2.0**100), 2.0**100, width=32))
def test_bfloat16_is_the_nearest(x):
    rounded = float(from_bfloat16(to_bfloat16(np.array([x], np.float32)))[0])
    step = 2.0 ** (np.frexp(abs(x))[1] - 8) if abs(x) > 1e-37 else 1e-38  # eight digits
    assert abs(rounded - x) <= step / 2
    assert from_bfloat16(to_bfloat16(np.array([rounded], np.float32)))[0] == rounded


def test_bfloat16_rounds_ties_to_even():
    ties = np.array([0x3F808000, 0x3F818000, 0xBF808000], np.uint32).view(np.float32)
    np.testing.assert_array_equal(to_bfloat16(ties), [0x3F80, 0x3F82, 0xBF80])


@given(matrices())
def test_int8_is_off_by_half_a_step_at_most(w):
    matrix = quantized(w, "int8")
    assert matrix.values.dtype == np.int8
    assert matrix.minimums is None
    d = from_bfloat16(matrix.scales).astype(np.float64)[..., None]
    groups = by_groups(w, 64)
    error = by_groups(dequantized(*matrix)[:, : w.shape[1]] - w.astype(np.float64), 64)
    assert (np.abs(error) <= d / 2 * (1 + 1e-5)).all()
    assert (d[..., 0] <= np.abs(groups).max(-1, initial=0) / 127 * (1 + 2**-7) + 1e-37).all()
    assert (matrix.values >= -127).all()


@given(matrices())
def test_int4_is_never_worse_than_the_range_in_fifteen_steps(w):
    matrix = quantized(w, "int4")
    assert matrix.values.dtype == np.uint8
    assert matrix.values.shape == (len(w), -(-w.shape[1] // 64) * 32)
    groups = by_groups(w, 32)
    low, high = groups.min(-1, keepdims=True), groups.max(-1, keepdims=True)
    d = (high - low) / 15
    plain = low + d * np.rint(np.divide(groups - low, d, out=np.zeros_like(groups), where=d > 0))
    allowed = np.square(groups - plain).sum(-1)
    error = np.square(by_groups(dequantized(*matrix)[:, : w.shape[1]] - w.astype(np.float64), 32))
    if w.shape[1] % 64 == 0:
        # d and m are rounded to 8 digits: m by 2^-9 of its size, 15 d by 15 2^-9 of d; and sums in float32
        rounding = 32 * np.square((np.abs(groups).max(-1) + (high - low)[..., 0]) * 2.0**-8)
        assert (error.sum(-1) <= 1.01 * allowed + rounding).all()


def test_int4_keeps_weights_that_lie_on_its_grid():
    rng = np.random.default_rng(0)
    q = rng.integers(0, 16, (3, 4, 32))
    q[..., 0], q[..., 1] = 0, 15
    w = (q * 0.25 - 2).reshape(3, 128).astype(np.float32)
    np.testing.assert_array_equal(dequantized(*quantized(w, "int4")), w)


def test_int4_finds_less_error_than_fifteen_equal_steps_for_a_normal_distribution(monkeypatch):
    w = np.random.default_rng(0).standard_normal((64, 640)).astype(np.float32)
    groups = w.reshape(-1, 32)
    low = groups.min(-1, keepdims=True)
    d = (groups.max(-1, keepdims=True) - low) / 15
    plain = np.square(low + d * np.rint((groups - low) / d) - groups).mean()
    tried = np.square(dequantized(*quantized(w, "int4")) - w).mean()
    monkeypatch.setattr(module, "STRETCHES", (0.0,))
    with use_backend("numpy"):
        once = np.square(dequantized(*quantized(w, "int4")) - w).mean()
    assert tried < 0.97 * once < 0.97 * 0.97 * plain


def test_packed_bytes_hold_what_the_docstring_says():
    w = np.zeros((1, 128), np.float32)
    w[0] = np.tile(np.arange(16), 8)
    w[0, 64 + 5], w[0, 64 + 32 + 5] = 3, 9
    values = quantized(w, "int4").values[0]
    assert values[32 + 5] == 3 + 16 * 9
    assert values[7] == 7 + 16 * 7


@kinds
def test_large_matrices_are_rounded_in_parts_with_the_same_result(kind, monkeypatch):
    w = np.random.default_rng(0).standard_normal((7, 100)).astype(np.float32)
    whole = quantized(w, kind)
    assert w.size < CHUNK
    monkeypatch.setattr(module, "CHUNK", 300)
    for a, b in zip(quantized(w, kind), whole, strict=True):
        np.testing.assert_array_equal(a, b)


@kinds
@given(matrices(), st.integers(0, 3), seeds, st.sampled_from([np.float32, np.float64]))
def test_the_product_is_that_with_the_matrix_it_stands_for(kind, w, rows, seed, dtype):
    x = np.random.default_rng(seed).standard_normal((rows, w.shape[1])).astype(dtype)
    matrix = quantized(w, kind)
    y = quantized_product.reference(x, *matrix)
    assert y.dtype == dtype
    expected = x.astype(np.float64) @ dequantized(*matrix)[:, : w.shape[1]].T.astype(np.float64)
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-5 * np.abs(expected).max(initial=1e-30) + 1e-30)


def test_memory_is_that_of_the_bits():
    w = np.ones((64, 640), np.float32)
    assert quantized(w, "int8").nbytes == w.size * 8.25 / 8
    assert quantized(w, "int4").nbytes == w.size * 5 / 8


def test_fitted_gives_constant_groups_their_value():
    d, m = fitted.reference(np.full((2, GROUPS["int4"]), 0.7, np.float32))
    np.testing.assert_array_equal(d, 0)
    np.testing.assert_allclose(m, 0.7, rtol=1e-6)


@kinds
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_in_fewer_bits(kind, bias):
    linear = Linear(100, 30, bias=bias)
    if bias:
        linear.bias.data[:] = np.arange(30)
    x = np.random.default_rng(0).standard_normal((2, 3, 100)).astype(np.float32)
    smaller = QuantizedLinear(linear, kind)
    with no_grad():
        exact, y = linear(Tensor(x)).data, smaller(Tensor(x)).data
        without = smaller(Tensor(x), add_bias=False).data
    np.testing.assert_allclose(y - without, np.broadcast_to(np.arange(30) * bias, y.shape), rtol=0, atol=1e-5)
    assert y.shape == (2, 3, 30)
    spread = linear.weight.data.std() * np.sqrt(100)
    assert np.abs(y - exact).max() < {"int8": 0.05, "int4": 0.4}[kind] * spread
    assert not np.array_equal(y, exact)


def test_an_embedding_that_is_the_head_too():
    table = Embedding(40, 48)
    smaller = QuantizedEmbedding(table)
    ids = np.array([[3, 39, 0], [3, 1, 2]])
    np.testing.assert_allclose(smaller(ids).data, table(ids).data, rtol=0, atol=5e-4)
    assert smaller(ids).shape == (2, 3, 48)
    x = Tensor(np.random.default_rng(0).standard_normal((2, 48)).astype(np.float32))
    np.testing.assert_allclose(smaller.head(x).data, table.head(x).data, rtol=0, atol=0.01)
    for bad in (-1, 40):
        with pytest.raises(IndexError, match="not 0 to 39"):
            smaller([bad])


@kinds
@pytest.mark.parametrize("build", [lambda: GPT(GPT_SMALL), lambda: Llama(LLAMA_SMALL)])
def test_a_whole_model(kind, build):
    model, seen = build(), []
    ids = np.random.default_rng(0).integers(0, 40, (2, 9))
    with no_grad():
        exact = model(ids).data
        quantize(model, kind, lambda done, total: seen.append((done, total)))
        y = model(ids).data
    assert np.abs(y - exact).max() < {"int8": 0.03, "int4": 0.4}[kind] * np.abs(exact).max()
    names = {type(part).__name__ for part in model.modules()}
    assert "Linear" not in names
    assert {"QuantizedLinear", "QuantizedEmbedding"} <= names
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1][0] == seen[-1][1]
    assert model.token_embedding.weight.minimums is None
    block = model.blocks[1]
    assert block.attention.qkv.kind == kind
    assert (block.attention.qkv.weight.minimums is None) == (kind == "int8")
    if isinstance(model, GPT):
        assert isinstance(model.position_embedding, Embedding)
    weights = [part.weight for part in model.modules() if isinstance(part, QuantizedLinear | QuantizedEmbedding)]
    arrays = [a for weight in weights for a in weight if a is not None]
    ends = [np.lib.array_utils.byte_bounds(a) for a in arrays]
    assert ends == sorted(ends)  # in the order in which they are read
    assert ends[-1][1] - ends[0][0] < sum(a.nbytes + 64 for a in arrays)  # one block
    with pytest.raises(ValueError, match="is it quantised already"):
        quantize(model, kind)


@kinds
def test_generation_goes_on_with_and_without_the_cache(kind):
    model = Llama(LLAMA_SMALL, seed=2)
    quantize(model, kind)
    greedy = Sampling(temperature=0)
    cached, plain = (
        np.array(list(islice(generate_tokens(model, [[1, 2, 3], [4]], greedy, use_cache=cache), 20)))
        for cache in (True, False)
    )
    assert cached.shape == (20, 2)
    assert (cached[:3] == plain[:3]).all()  # rounded alike, a few tokens at least


@kinds
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_gradient_passes_as_through_the_floats_that_the_bits_stand_for(kind, dtype):
    linear = Linear(100, 30)
    linear.bias.data[:] = np.arange(30)
    smaller = QuantizedLinear(linear, kind)
    linear.weight.data = dequantized(*smaller.weight)[:, :100].T
    linear.astype(dtype)
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 9, 100)).astype(dtype), rng.standard_normal((2, 9, 30)).astype(dtype)
    leaves = [Tensor(x, requires_grad=True) for _ in range(2)]
    for map_, leaf in zip((linear, smaller), leaves, strict=True):
        y = map_(leaf)
        np.testing.assert_allclose(y.data, x @ linear.weight.data + linear.bias.data, rtol=0, atol=1e-5)
        y.backward(dy)
    assert leaves[1].grad.dtype == dtype
    np.testing.assert_allclose(leaves[1].grad, leaves[0].grad, rtol=0, atol={4: 2e-6, 8: 1e-14}[dtype().itemsize])
    table = Embedding(40, 48)
    smaller = QuantizedEmbedding(table)
    leaf = Tensor(x[..., :48], requires_grad=True)
    dy = rng.standard_normal((2, 9, 40)).astype(dtype)
    smaller.head(leaf).backward(dy)
    np.testing.assert_allclose(leaf.grad, dy @ dequantized(*smaller.weight)[:, :48], rtol=0, atol=1e-5)


def test_what_is_refused():
    linear = QuantizedLinear(Linear(20, 5), "int8")
    with pytest.raises(ValueError, match=r"x \(1, 19\): its last axis must have the 20 inputs"):
        linear(Tensor(np.ones((1, 19), np.float32)))
    with pytest.raises(ValueError, match="unknown kind 'int2'; expected one of int8, int4"):
        quantized(np.ones((2, 2), np.float32), "int2")
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="the weights are not finite"):
            quantized(np.array([[1, bad]], np.float32), "int4")
    with pytest.raises(ValueError, match="no Linear"):
        quantize(Module(), "int8")
