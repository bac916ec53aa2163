"""layer_norm and rms_norm: values, edges and messages. Gradients are checked in test_every_operation.py."""

import math

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm.ops import layer_norm, rms_norm


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def leaf(array):
    return tg.Tensor(array, requires_grad=True)


def test_layer_norm_row_by_row(rng):
    x, gain, bias = rng.standard_normal((2, 3, 5)), rng.standard_normal(5), rng.standard_normal(5)
    y = layer_norm(x, gain, bias, eps=0.1).data
    for b, t in np.ndindex(2, 3):
        row = [float(v) for v in x[b, t]]
        mean = math.fsum(row) / 5
        variance = math.fsum((v - mean) ** 2 for v in row) / 5
        for c in range(5):
            expected = gain[c] * (row[c] - mean) / math.sqrt(variance + 0.1) + bias[c]
            assert y[b, t, c] == pytest.approx(expected, rel=1e-13)


def test_rms_norm_row_by_row(rng):
    x, gain = rng.standard_normal((2, 3, 5)), rng.standard_normal(5)
    y = rms_norm(x, gain, eps=0.1).data
    for b, t in np.ndindex(2, 3):
        mean_square = math.fsum(float(v) ** 2 for v in x[b, t]) / 5
        for c in range(5):
            assert y[b, t, c] == pytest.approx(gain[c] * x[b, t, c] / math.sqrt(mean_square + 0.1), rel=1e-13)


def test_the_default_eps_is_1e_5():
    tiny = np.array([[1e-3, -1e-3]])
    expected = 1e-3 / math.sqrt(1e-6 + 1e-5)
    np.testing.assert_allclose(layer_norm(tiny, np.ones(2), np.zeros(2)).data, [[expected, -expected]], rtol=1e-13)
    np.testing.assert_allclose(rms_norm(tiny, np.ones(2)).data, [[expected, -expected]], rtol=1e-13)


def test_what_the_norms_do_not_see(rng):
    x, dy, ones, zeros = rng.standard_normal((4, 6)), rng.standard_normal((4, 6)), np.ones(6), np.zeros(6)
    np.testing.assert_allclose(
        layer_norm(3 * x + 7, ones, zeros, eps=0.0).data, layer_norm(x, ones, zeros, eps=0.0).data, atol=1e-12
    )
    np.testing.assert_allclose(rms_norm(3 * x, ones, eps=0.0).data, rms_norm(x, ones, eps=0.0).data, atol=1e-14)
    # so no gradient points along them
    t = leaf(x)
    layer_norm(t, ones, zeros, eps=0.0).backward(dy)
    np.testing.assert_allclose(t.grad.sum(-1), 0, atol=1e-13)
    np.testing.assert_allclose((t.grad * x).sum(-1), 0, atol=1e-13)
    t = leaf(x)
    rms_norm(t, ones, eps=0.0).backward(dy)
    np.testing.assert_allclose((t.grad * x).sum(-1), 0, atol=1e-13)


@pytest.mark.parametrize("value", [0.0, 1.0, -1e4, 0.1, 1e4 + 0.1])
def test_a_constant_row_gives_the_bias_to_the_last_bit(value):
    x, bias = leaf(np.full((2, 4), value)), np.array([1.0, 2, 3, 4])
    y = layer_norm(x, np.full(4, 5.0), bias)
    np.testing.assert_array_equal(y.data, np.stack([bias, bias]))
    y.backward(np.array([[1.0, 0, 0, -1], [0, 0, 0, 0]]))
    assert np.isfinite(x.grad).all()


@pytest.mark.parametrize("value", [0.1, -1e7 / 7, 1e4 + 0.1])
@pytest.mark.parametrize("channels", [3, 6, 7])
def test_a_mean_that_is_rounded_is_not_magnified(value, channels):
    # the mean of equal values is not always the value, and rstd, 316 here, would multiply what is left
    y = layer_norm(np.full((2, channels), value), np.ones(channels), np.zeros(channels))
    np.testing.assert_allclose(y.data, 0, atol=1e-15)


def test_one_channel():
    x = leaf(np.array([[3.0], [-2.0]]))
    y = layer_norm(x, np.ones(1), np.full(1, 0.5))
    np.testing.assert_array_equal(y.data, [[0.5], [0.5]])
    y.backward(np.ones((2, 1)))
    np.testing.assert_array_equal(x.grad, 0)
    np.testing.assert_allclose(rms_norm(x.data, np.ones(1), eps=0.0).data, [[1.0], [-1.0]], rtol=1e-15)


def test_zeros_stay_zeros_in_rms_norm():
    x = leaf(np.zeros((2, 3)))
    y = rms_norm(x, np.ones(3))
    np.testing.assert_array_equal(y.data, 0)
    y.backward(np.ones((2, 3)))
    np.testing.assert_allclose(x.grad, 1 / math.sqrt(1e-5), rtol=1e-12)


def test_huge_offset_does_not_cancel():
    # mean(x^2) - mean(x)^2 would lose the variance to rounding here: 1e12 has a rounding error of 1e-4
    x = np.array([[1e6 - 1, 1e6 + 1]])
    np.testing.assert_allclose(layer_norm(x, np.ones(2), np.zeros(2), eps=0.0).data, [[-1, 1]], rtol=1e-9)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 3), (2, 0)])
def test_an_axis_of_size_zero(shape):
    x, gain, bias = leaf(np.ones(shape)), leaf(np.ones(shape[-1])), leaf(np.ones(shape[-1]))
    for y in (layer_norm(x, gain, bias), rms_norm(x, gain)):
        assert y.shape == shape
        y.backward(np.ones(shape))
    assert x.grad.shape == shape
    np.testing.assert_array_equal(gain.grad, np.zeros(shape[-1]))


def test_names_what_does_not_fit():
    x = np.ones((2, 3, 4))
    message = r"layer_norm: x \(B=2, T=3, C=4\) needs a {} of shape \(C,\), not \(3,\)"
    with pytest.raises(ValueError, match=message.format("gain")):
        layer_norm(x, np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match=message.format("bias")):
        layer_norm(x, np.ones(4), np.ones(3))
    with pytest.raises(ValueError, match=r"rms_norm: .* needs a gain of shape \(C,\), not \(1,\)"):
        rms_norm(x, np.ones(1))
    with pytest.raises(ValueError, match=r"layer_norm: .* needs a gain of shape \(C,\), not \(5,\)"):
        layer_norm(x, np.ones(5), np.ones(4))
    with pytest.raises(ValueError, match=r"rms_norm: x \(\) needs a gain of shape \(C,\), not \(\)"):
        rms_norm(np.ones(()), np.ones(()))


def test_a_single_row_needs_no_batch():
    np.testing.assert_array_equal(layer_norm(np.array([1.0, -1.0]), np.ones(2), np.zeros(2), eps=0.0).data, [1, -1])
    np.testing.assert_array_equal(rms_norm(np.array([2.0, -2.0]), np.ones(2), eps=0.0).data, [1, -1])
