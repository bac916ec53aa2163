"""dropout: values, edges and messages. Gradients are checked in test_every_operation.py."""

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm import random
from tinygrad_llm.checking import derivation_steps
from tinygrad_llm.ops import dropout

X = np.arange(1.0, 10_001.0).reshape(100, 100)


def test_drops_a_share_p_and_scales_up_the_others():
    y = dropout(X, 0.2, 7).data
    survived = y != 0
    np.testing.assert_allclose(y[survived], X[survived] / 0.8, rtol=1e-15)
    # 10,000 draws: the share has standard deviation sqrt(0.2 0.8 / 10,000) = 0.004
    assert (~survived).mean() == pytest.approx(0.2, abs=5 * 0.004)
    np.testing.assert_array_equal(survived, random.stream(7, "dropout").random(X.shape, np.float32) >= 0.2)


def test_the_mean_is_kept():
    # y - x has variance x^2 p / (1 - p), so here the mean of 10,000 has standard deviation sqrt(1/4) / 100
    assert dropout(np.ones((100, 100)), 0.2, 3).data.mean() == pytest.approx(1, abs=5 * 0.005)


def test_the_gradient_passes_where_the_value_passed():
    x = tg.Tensor(X, requires_grad=True)
    y = dropout(x, 0.5, 1)
    dy = np.random.default_rng(0).standard_normal(X.shape)
    y.backward(dy)
    np.testing.assert_allclose(x.grad, np.where(y.data != 0, 2 * dy, 0), rtol=1e-15)


def test_the_key_decides():
    np.testing.assert_array_equal(dropout(X, 0.5, 1).data, dropout(X, 0.5, 1).data)
    assert (dropout(X, 0.5, 1).data != dropout(X, 0.5, 2).data).any()
    np.testing.assert_array_equal(dropout(X, 0.5, 1).data, dropout(X, 0.5, np.int64(1)).data)


def test_every_dtype_drops_the_same():
    single = dropout(X.astype(np.float32), 0.3, 5).data
    assert single.dtype == np.float32
    np.testing.assert_array_equal(single == 0, dropout(X, 0.3, 5).data == 0)


def test_p_zero_is_the_identity():
    np.testing.assert_array_equal(dropout(X, 0, 1).data, X)
    np.testing.assert_array_equal(dropout(X, 0.0, 1).data, X)


def test_nothing_to_drop():
    assert dropout(np.ones((0, 3)), 0.5, 1).shape == (0, 3)


@pytest.mark.parametrize("p", [1, 1.0, -0.1, 1.5, np.nan])
def test_refuses_what_is_no_probability(p):
    with pytest.raises(ValueError, match=r"dropout: p=.* is not a probability in \[0, 1\)"):
        dropout(X, p, 1)


def test_refuses_a_key_that_is_no_whole_number():
    with pytest.raises(TypeError):
        dropout(X, 0.1, 1.5)


def test_p_zero_keeps_everything_whatever_is_drawn(monkeypatch):
    class Zeros:
        def random(self, shape, dtype):
            return np.zeros(shape, dtype)

    monkeypatch.setattr(random, "stream", lambda key, purpose: Zeros())
    x, dy = np.array([1.0, 2.0]), np.array([3.0, 4.0])
    np.testing.assert_array_equal(dropout(x, 0.0, 1).data, x)
    for step in derivation_steps(dropout, "x", (x, 0.0, 1), {}, dy):
        np.testing.assert_array_equal(step.value, dy)
