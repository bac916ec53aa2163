"""cross_entropy: values, edges and messages. Gradients are checked in test_every_operation.py."""

import math

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm.checking import derivation_steps
from tinygrad_llm.ops import cross_entropy


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def leaf(array):
    return tg.Tensor(array, requires_grad=True)


def row_loss(x, target, smoothing=0.0, z_loss=0.0):
    """The definition for one row, number by number."""
    lse = math.log(math.fsum(math.exp(v) for v in x))
    loss = z_loss * lse**2
    for v, logit in enumerate(x):
        t = (1 - smoothing) * (v == target) + smoothing / len(x)
        loss -= t * (logit - lse)
    return loss


@pytest.mark.parametrize(
    "options", [{}, {"label_smoothing": 0.3}, {"z_loss": 0.2}, {"label_smoothing": 1, "z_loss": 1e-4}]
)
def test_is_the_surprise_at_the_target(rng, options):
    logits, targets = rng.standard_normal((2, 3, 5)), rng.integers(0, 5, (2, 3))
    targets[0, 1] = -100
    rows = np.zeros((2, 3))
    for at in np.ndindex(2, 3):
        if at != (0, 1):
            rows[at] = row_loss(logits[at], targets[at], options.get("label_smoothing", 0), options.get("z_loss", 0))
    got = {r: cross_entropy(logits, targets, reduction=r, **options).data for r in ("none", "sum", "mean")}
    np.testing.assert_allclose(got["none"], rows, rtol=1e-13, atol=1e-15)
    assert got["sum"] == pytest.approx(rows.sum(), rel=1e-13)
    assert got["mean"] == pytest.approx(rows.sum() / 5, rel=1e-13)
    assert got["mean"].shape == ()


def test_the_gradient_is_p_minus_onehot_over_the_count(rng):
    logits, targets = leaf(rng.standard_normal((4, 3))), np.array([0, 2, -100, 2])
    cross_entropy(logits, targets).backward(np.asarray(3.0))
    p = np.exp(logits.data) / np.exp(logits.data).sum(-1, keepdims=True)
    expected = 3 * (p - np.eye(3)[[0, 2, 0, 2]]) / 3
    expected[2] = 0
    np.testing.assert_allclose(logits.grad, expected, rtol=1e-13, atol=1e-15)


def test_the_same_for_every_token_costs_log_v():
    assert cross_entropy(np.zeros((3, 7)), np.array([0, 3, 6])).item() == pytest.approx(math.log(7), rel=1e-15)
    assert cross_entropy(np.full((3, 7), 1e4), np.array([0, 3, 6])).item() == pytest.approx(math.log(7), rel=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logits_of_ten_thousand(dtype):
    logits = leaf(np.array([[1e4, -1e4, 0], [1e4, -1e4, 0], [-1e4, -1e4, -1e4]], dtype))
    loss = cross_entropy(logits, np.array([0, 1, 2]), reduction="none")
    assert loss.dtype == dtype
    precision = {"rtol": 4 * np.finfo(dtype).eps, "atol": 0}  # no digit is lost to the size of the logits
    np.testing.assert_allclose(loss.data, [0, 2e4, math.log(3)], **precision)
    loss.backward(np.ones(3, dtype))
    np.testing.assert_allclose(logits.grad, [[0, 0, 0], [1, -1, 0], [1 / 3, 1 / 3, -2 / 3]], **precision)


def test_adding_to_a_row_changes_nothing(rng):
    logits, targets = leaf(rng.standard_normal((4, 3))), rng.integers(0, 3, 4)
    loss = cross_entropy(logits, targets, label_smoothing=0.1)
    shifted = cross_entropy(logits.data + 50.0, targets, label_smoothing=0.1)
    assert loss.item() == pytest.approx(shifted.item(), rel=1e-12)
    loss.backward()
    np.testing.assert_allclose(logits.grad.sum(-1), 0, atol=1e-15)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "z_loss": 0.1}])
def test_nothing_counts(rng, reduction, options):
    logits = leaf(rng.standard_normal((2, 3, 4)))
    loss = cross_entropy(logits, np.full((2, 3), -100), reduction=reduction, **options)
    np.testing.assert_array_equal(loss.data, np.zeros((2, 3) if reduction == "none" else ()))
    loss.backward(np.ones(loss.shape))
    np.testing.assert_array_equal(logits.grad, 0)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_an_ignored_row_does_not_matter(rng, reduction):
    logits, targets = rng.standard_normal((3, 4)), np.array([1, 9, 2])
    options = {"ignore_index": 9, "label_smoothing": 0.2, "z_loss": 0.1, "reduction": reduction}
    all_rows, others = leaf(logits), leaf(logits[[0, 2]])
    loss, expected = cross_entropy(all_rows, targets, **options), cross_entropy(others, targets[[0, 2]], **options)
    np.testing.assert_allclose(loss.data[[0, 2]] if reduction == "none" else loss.data, expected.data, rtol=1e-14)
    loss.backward(np.ones(loss.shape))
    expected.backward(np.ones(expected.shape))
    np.testing.assert_allclose(all_rows.grad[[0, 2]], others.grad, rtol=1e-14)
    np.testing.assert_array_equal(all_rows.grad[1], 0)


def test_ignore_index_may_be_a_token(rng):
    logits, targets = rng.standard_normal((3, 4)), np.array([0, 1, 0])
    assert cross_entropy(logits, targets, ignore_index=0).item() == pytest.approx(row_loss(logits[1], 1), rel=1e-13)


def test_no_rows_and_one_token():
    logits = leaf(np.zeros((0, 4)))
    loss = cross_entropy(logits, np.zeros(0, int))
    assert loss.item() == 0
    loss.backward()
    assert logits.grad.shape == (0, 4)
    only = leaf(np.array([[3.0], [-1.0]]))
    loss = cross_entropy(only, np.array([0, 0]), label_smoothing=0.5)
    assert loss.item() == pytest.approx(0, abs=1e-15)
    loss.backward()
    np.testing.assert_allclose(only.grad, 0, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint64])
def test_targets_of_every_integer_dtype(rng, dtype):
    logits, targets = rng.standard_normal((3, 4)), np.array([3, 0, 1])
    assert cross_entropy(logits, targets.astype(dtype)).item() == cross_entropy(logits, targets).item()


def test_float32_stays_float32_in_forward_and_backward(rng):
    logits = rng.standard_normal((3, 4)).astype(np.float32)
    value, vjp = cross_entropy.reference(logits, np.array([3, 0, 1]), label_smoothing=0.1, z_loss=0.1)
    assert value.dtype == np.float32
    assert vjp(np.ones((), np.float32)).dtype == np.float32


def test_the_vjp_can_be_called_again_and_keeps_the_logits(rng):
    logits = rng.standard_normal((3, 4))
    old = logits.copy()
    _, vjp = cross_entropy.reference(logits, np.array([3, 0, 1]))
    np.testing.assert_array_equal(vjp(np.asarray(2.0)), vjp(np.asarray(2.0)))
    np.testing.assert_array_equal(logits, old)


@pytest.mark.parametrize("bad", [-1, 4, 1000, -101])
def test_refuses_targets_outside_the_vocabulary(bad):
    message = rf"cross_entropy: target {bad} is outside the vocabulary of V=4 \(and is not ignore_index=-100\)"
    with pytest.raises(IndexError, match=message):
        cross_entropy(np.zeros((3, 4)), np.array([0, bad, -100]))


def test_says_what_is_wrong():
    logits, targets = np.zeros((2, 3, 4)), np.zeros((2, 3), int)
    with pytest.raises(ValueError, match=r"cross_entropy: logits \(B=2, T=3, V=4\) and targets \(3,\): expected"):
        cross_entropy(logits, targets[0])
    with pytest.raises(ValueError, match=r"cross_entropy: logits .* and targets \(2, 2\): expected"):
        cross_entropy(logits, targets[:, :2])
    with pytest.raises(ValueError, match=r"targets \(2, 3, 1\)"):
        cross_entropy(logits, targets[..., None])
    with pytest.raises(ValueError, match="with V at least 1"):
        cross_entropy(np.zeros((2, 0)), np.full(2, -100))
    with pytest.raises(ValueError, match="cross_entropy: logits"):
        cross_entropy(np.zeros(()), np.zeros((), int))
    with pytest.raises(TypeError, match="cross_entropy: targets must be whole numbers, not float64"):
        cross_entropy(logits, targets.astype(float))
    with pytest.raises(ValueError, match="unknown reduction 'average'; expected one of mean, sum, none"):
        cross_entropy(logits, targets, reduction="average")
    for smoothing in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"label_smoothing=.* is not in \[0, 1\]"):
            cross_entropy(logits, targets, label_smoothing=smoothing)


@pytest.mark.parametrize("unknown", [np.nan, np.inf, -np.inf])
def test_ignored_rows_may_hold_anything(rng, unknown):
    clean, targets = rng.standard_normal((4, 3)), np.array([2, -100, 0, -100])
    strange = clean.copy()
    strange[1] = unknown
    a, b = leaf(clean), leaf(strange)
    with np.errstate(invalid="ignore"):
        for logits in (a, b):
            cross_entropy(logits, targets, label_smoothing=0.1, z_loss=0.1).backward()
    np.testing.assert_array_equal(a.grad, b.grad)
    np.testing.assert_array_equal(b.grad[1], 0)


@pytest.mark.parametrize("ignored", [0, 1, 3])
def test_a_token_of_the_vocabulary_may_be_the_ignored_one(rng, ignored):
    logits, targets = rng.standard_normal((8, 4)), np.array([0, 1, 2, 3, 3, 2, 1, 0])
    others = targets != ignored
    expected = cross_entropy(logits[others], targets[others]).item()
    assert cross_entropy(logits, targets, ignore_index=ignored).item() == pytest.approx(expected, rel=1e-14)
    steps = derivation_steps(cross_entropy, "logits", (logits, targets), {"ignore_index": ignored}, np.float64(0.7))
    assert max(step.change for step in steps) < 1e-12


def test_a_vocabulary_of_one_token_with_ignored_rows(rng):
    logits, targets = leaf(rng.standard_normal((3, 1))), np.array([0, -100, 0])
    loss = cross_entropy(logits, targets)
    assert loss.item() == 0
    loss.backward()
    np.testing.assert_array_equal(logits.grad, 0)
    steps = derivation_steps(cross_entropy, "logits", (logits.data, targets), {}, np.float64(0.7))
    assert max(step.change for step in steps) < 1e-12
