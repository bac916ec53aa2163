"""Rotary position embedding: values, what it promises, edges and messages. Gradients: test_every_operation.py."""

import math

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm.ops import rotary


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def leaf(array):
    return tg.Tensor(array, requires_grad=True)


@pytest.mark.parametrize("batched", [False, True])
def test_entry_by_entry(rng, batched):
    x = rng.standard_normal((2, 3, 4, 6))
    positions = rng.integers(-3, 50, (2, 4) if batched else 4)
    y = rotary(x, positions, base=100.0).data
    for b, h, t in np.ndindex(2, 3, 4):
        position = int(positions[b, t] if batched else positions[t])
        for i in range(3):
            angle = position * 100.0 ** (-2 * i / 6)
            first, second = x[b, h, t, i], x[b, h, t, i + 3]
            assert y[b, h, t, i] == pytest.approx(first * math.cos(angle) - second * math.sin(angle), abs=1e-14)
            assert y[b, h, t, i + 3] == pytest.approx(second * math.cos(angle) + first * math.sin(angle), abs=1e-14)


def test_a_quarter_turn():
    x = np.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
    y = rotary(x, [1], frequencies=[math.pi / 2, 0.0]).data
    np.testing.assert_allclose(y.ravel(), [-3, 2, 1, 4], atol=1e-15)


def test_the_default_base_is_10000(rng):
    x = rng.standard_normal((1, 1, 3, 4))
    given = rotary(x, np.arange(3), frequencies=np.array([1.0, 0.01])).data
    np.testing.assert_allclose(rotary(x, np.arange(3)).data, given, rtol=1e-14)


def test_products_depend_on_distances_only(rng):
    q, k = rng.standard_normal((2, 1, 1, 1, 8))

    def product(at, other):
        return float((rotary(q, [at]).data * rotary(k, [other]).data).sum())

    assert product(7, 3) == pytest.approx(product(1007, 1003), rel=1e-12)
    assert product(7, 3) == pytest.approx(product(4, 0), rel=1e-12)
    assert abs(product(7, 3) - product(3, 7)) > 1e-3
    np.testing.assert_array_equal(rotary(q, [0]).data, q)


def test_lengths_are_kept_and_turning_back_undoes_it(rng):
    x, positions = rng.standard_normal((2, 2, 5, 6)), rng.integers(0, 10**6, (2, 5))
    y = rotary(x, positions).data
    np.testing.assert_allclose((y * y).sum(-1), (x * x).sum(-1), rtol=1e-13)
    np.testing.assert_allclose(rotary(y, -positions).data, x, atol=1e-13)
    t = leaf(x)
    rotary(t, positions).backward(y)
    np.testing.assert_allclose(t.grad, x, atol=1e-13)


def test_positions_far_out_are_exact_in_float32():
    # in float32 the angle 1,000,003 * 0.01 has an error of up to 5e-4
    x = np.array([1, 1, 0, 0], np.float32).reshape(1, 1, 1, 4)
    y = rotary(x, [1_000_003]).data
    assert y.dtype == np.float32
    expected = [math.cos(1_000_003), math.cos(10_000.03), math.sin(1_000_003), math.sin(10_000.03)]
    np.testing.assert_allclose(y.ravel(), expected, atol=1e-7)


def test_what_is_kept_for_the_next_call_does_not_mix_up(rng):
    x = rng.standard_normal((2, 1, 2, 4))
    positions = np.array([1, 2])
    first = rotary(x, positions).data
    positions[:] = 5, 6  # the caller's array may change
    assert np.abs(rotary(x, positions).data - first).max() > 0.1
    np.testing.assert_array_equal(rotary(x, [1, 2]).data, first)
    np.testing.assert_array_equal(rotary(x, np.array([1, 2], np.int16)).data, first)
    assert rotary(x.astype(np.float32), [1, 2]).dtype == np.float32
    assert np.abs(rotary(x, [1, 2], base=50.0).data - first).max() > 1e-3
    np.testing.assert_array_equal(rotary(x, [[1, 2], [1, 2]]).data, first)
    other = rotary(x, [[1, 2], [3, 4]]).data
    np.testing.assert_array_equal(other[0], first[0])
    assert np.abs(other[1] - first[1]).max() > 0.1


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 0, 3, 4), (2, 2, 0, 4), (2, 2, 3, 0)])
def test_an_axis_of_size_zero(shape):
    x = leaf(np.ones(shape))
    y = rotary(x, np.arange(shape[2]))
    assert y.shape == shape
    y.backward(np.ones(shape))
    assert x.grad.shape == shape


def test_names_what_does_not_fit():
    x = np.ones((2, 3, 4, 6))
    with pytest.raises(ValueError, match=r"rotary: x \(B=2, H=3, T=4, D=5\): expected .* with an even D"):
        rotary(x[..., :5], np.arange(4))
    with pytest.raises(ValueError, match=r"rotary: x \(H=3, T=4, D=6\): expected \(B, H, T, D\)"):
        rotary(x[0], np.arange(4))
    with pytest.raises(ValueError, match=r"needs positions of shape \(T,\) or \(B, T\), not \(3,\)"):
        rotary(x, np.arange(3))
    with pytest.raises(ValueError, match=r"needs positions of shape \(T,\) or \(B, T\), not \(1, 4\)"):
        rotary(x, np.arange(4)[None])
    with pytest.raises(ValueError, match=r"needs frequencies of shape \(D/2,\), not \(6,\)"):
        rotary(x, np.arange(4), frequencies=np.ones(6))
    with pytest.raises(TypeError, match="rotary: positions must be whole numbers, not float64"):
        rotary(x, np.arange(4.0))
