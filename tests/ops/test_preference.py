"""dpo_loss: values, edges and messages. Gradients are checked in test_every_operation.py."""

import math

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm.ops import dpo_loss


def leaf(array):
    return tg.Tensor(np.asarray(array), requires_grad=True)


def pair_loss(c, r, c0, r0, beta, a=0.0):
    """The definition for one pair, number by number."""
    up = math.exp(beta * ((c - c0) - (r - r0)))
    return -(1 - a) * math.log(up / (1 + up)) - a * math.log(1 / (1 + up))


@pytest.mark.parametrize(
    "options", [{}, {"beta": 0.5}, {"label_smoothing": 0.3}, {"beta": 2.0, "label_smoothing": 0.5}]
)
def test_is_the_surprise_that_the_chosen_one_is_preferred(options):
    given = np.random.default_rng(0).uniform(-9, -1, (4, 2, 3))
    a, beta = options.get("label_smoothing", 0.0), options.get("beta", 0.1)
    expected = np.array([pair_loss(*given[:, i, j], beta, a) for i in range(2) for j in range(3)]).reshape(2, 3)
    got = {reduction: dpo_loss(*given, reduction=reduction, **options).data for reduction in ("none", "sum", "mean")}
    np.testing.assert_allclose(got["none"], expected, rtol=1e-13)
    assert got["sum"] == pytest.approx(expected.sum(), rel=1e-13)
    assert got["mean"] == pytest.approx(expected.mean(), rel=1e-13)
    assert got["mean"].shape == ()


def test_the_reference_itself_knows_nothing():
    chosen, rejected = leaf([-30.0, -7.0]), leaf([-2.0, -7.5])
    loss = dpo_loss(chosen, rejected, chosen.data, rejected.data, beta=0.4, reduction="none")
    np.testing.assert_allclose(loss.data, math.log(2), rtol=1e-15)
    loss.backward(np.array([1.0, 3.0]))
    np.testing.assert_allclose(chosen.grad, [-0.2, -0.6], rtol=1e-15)
    np.testing.assert_allclose(rejected.grad, [0.2, 0.6], rtol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_margins_of_ten_thousand(dtype):
    chosen, zeros = leaf(np.array([1e4, -1e4], dtype)), np.zeros(2, dtype)
    loss = dpo_loss(chosen, zeros, zeros, zeros, beta=0.5, reduction="none")
    assert loss.dtype == dtype
    np.testing.assert_array_equal(loss.data, [0, 5e3])
    loss.backward(np.ones(2, dtype))
    np.testing.assert_array_equal(chosen.grad, [0, -0.5])


def test_small_losses_keep_their_digits():
    chosen, zero = leaf([60.0]), np.zeros(1)
    loss = dpo_loss(chosen, zero, zero, zero, beta=1.0)
    assert loss.item() == pytest.approx(math.exp(-60), rel=1e-14, abs=0)
    loss.backward()
    assert chosen.grad[0] == pytest.approx(-math.exp(-60), rel=1e-14, abs=0)


def test_what_both_gained_does_not_matter():
    rng = np.random.default_rng(1)
    c, r, c0, r0 = rng.uniform(-9, -1, (4, 5))
    assert dpo_loss(c + 3, r + 3, c0, r0).item() == pytest.approx(dpo_loss(c, r, c0, r0).item(), rel=1e-13)
    assert dpo_loss(c, r, c0 - 2, r0).item() < dpo_loss(c, r, c0, r0).item() < dpo_loss(c, r, c0, r0 - 2).item()


def test_smoothing_wants_a_margin_that_is_finite():
    a, beta = 0.1, 0.5
    best = math.log((1 - a) / a) / beta
    for margin, sign in ((best - 1, -1), (best, 0), (best + 1, 1)):
        chosen, zero = leaf([margin]), np.zeros(1)
        dpo_loss(chosen, zero, zero, zero, beta=beta, label_smoothing=a).backward()
        assert np.sign(np.round(chosen.grad[0], 12)) == sign


def test_no_pairs():
    chosen, none = leaf(np.zeros(0)), np.zeros(0)
    loss = dpo_loss(chosen, none, none, none)
    assert loss.item() == 0
    loss.backward()
    assert chosen.grad.shape == (0,)


def test_references_are_constants():
    four = [leaf([-1.0]) for _ in range(4)]
    with pytest.raises(tg.tape.GradientError, match="reference_chosen"):
        dpo_loss(*four).backward()


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        ([(2,), (2,), (2,), (1,)], {}, r"shapes \(2,\), \(2,\), \(2,\), \(1,\); they must be the same"),
        ([(2,)] * 4, {"beta": 0.0}, "beta=0.0 is not positive"),
        ([(2,)] * 4, {"beta": math.inf}, "beta=inf is not positive"),
        ([(2,)] * 4, {"beta": math.nan}, "beta=nan is not positive"),
        ([(2,)] * 4, {"label_smoothing": 0.6}, r"label_smoothing=0.6 is not in \[0, 0.5\]"),
        ([(2,)] * 4, {"label_smoothing": -0.1}, r"label_smoothing=-0.1 is not in"),
        ([(2,)] * 4, {"reduction": "all"}, "unknown reduction 'all'; expected one of mean, sum, none"),
    ],
)
def test_says_what_is_wrong(shapes, options, message):
    with pytest.raises(ValueError, match=f"dpo_loss: .*{message}"):
        dpo_loss(*(np.zeros(shape) for shape in shapes), **options)
