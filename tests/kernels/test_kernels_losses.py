"""The kernels of the losses against their references."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import threads
from tinygrad_llm.ops import cross_entropy, fused_losses, linear_cross_entropy

pytest.importorskip("tinygrad_llm.kernels.compiled", reason="no kernels here", exc_type=ImportError)

from tinygrad_llm.kernels import fused_losses as fused_kernels
from tinygrad_llm.kernels import losses as kernels

TILE = kernels.TILE
rows = st.sampled_from([0, 1, 2, 7, 33])
tokens = st.sampled_from([1, 2, 3, 16, 31, 65, TILE - 1, TILE, TILE + 1, 2 * TILE + 17])
seeds = st.integers(0, 2**32 - 1)
layouts = st.integers(0, 3)
options = st.fixed_dictionaries(
    {
        "label_smoothing": st.sampled_from([0.0, 0.1, 1.0]),
        "z_loss": st.sampled_from([0.0, 0.2]),
        "reduction": st.sampled_from(["mean", "sum", "none"]),
        "ignore_index": st.sampled_from([-100, 0]),
    }
)


def laid_out(a, layout):
    """The same values in another place of memory."""
    if layout == 1:  # not aligned to a vector
        return np.concatenate((np.zeros(1, a.dtype), a.ravel()))[1:].reshape(a.shape)
    if layout == 2:
        return np.asfortranarray(a)
    if layout == 3:
        return np.repeat(a, 2, axis=-1)[..., ::2]
    return a


def labelled(n, v, rng, spread=3.0, ignored=-100):
    logits, targets = spread * rng.standard_normal((n, v)), rng.integers(0, v, n)
    targets[rng.random(n) < 0.2] = ignored
    return logits, targets


def results(function, *inputs, dy, **given_options):
    value, vjp = function(*inputs, **given_options)
    gradients = vjp(dy)
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    return [np.asarray(value), *(g() if callable(g) else g for g in gradients)]


def agree(found, expected, tolerance):
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, float(np.abs(b).max(initial=0))))


@given(n=rows, v=tokens, seed=seeds, layout=layouts, given_options=options)
def test_cross_entropy_equals_the_reference(n, v, seed, layout, given_options):
    rng = np.random.default_rng(seed)
    logits, targets = labelled(n, v, rng, ignored=given_options["ignore_index"])
    dy = rng.standard_normal(n) if given_options["reduction"] == "none" else np.float64(rng.standard_normal())
    found = results(cross_entropy.kernel, laid_out(logits, layout), targets, dy=dy, **given_options)
    agree(found, results(cross_entropy.reference, logits, targets, dy=dy, **given_options), 1e-13)


@given(n=rows.filter(bool), v=tokens, seed=seeds, spread=st.sampled_from([0.1, 3.0, 40.0]), given_options=options)
def test_cross_entropy_in_float32(n, v, seed, spread, given_options):
    rng = np.random.default_rng(seed)
    logits, targets = labelled(n, v, rng, spread, given_options["ignore_index"])
    logits = logits.astype(np.float32)
    dy = np.ones(n, np.float32) if given_options["reduction"] == "none" else np.float32(0.7)
    found = results(cross_entropy.kernel, logits, targets, dy=dy, **given_options)
    assert all(a.dtype == np.float32 for a in found)
    exact = results(cross_entropy.reference, logits.astype(np.float64), targets, dy=dy.astype(float), **given_options)
    # differences of logits are rounded at the size of the largest, and sums over a row and the rows add their roots
    size = 1 + 2 * float(np.abs(logits).max())
    agree(found, exact, 8 * np.finfo(np.float32).eps * (size + np.sqrt(v) + np.sqrt(n)))


@given(shape=st.sampled_from([(2, 3, 5), (4,), (1, 1), (2, 0, 3)]), seed=seeds)
def test_any_leading_axes(shape, seed):
    rng = np.random.default_rng(seed)
    logits, targets = rng.standard_normal(shape), np.asarray(rng.integers(0, shape[-1], shape[:-1]))
    for kind in (np.uint8, np.int32, np.int64):
        dy = rng.standard_normal(shape[:-1])
        found = results(cross_entropy.kernel, logits, targets.astype(kind), dy=dy, reduction="none")
        agree(found, results(cross_entropy.reference, logits, targets, dy=dy, reduction="none"), 1e-13)
    broadcast = np.broadcast_to(np.float64(0.5), shape[:-1])
    agree(
        results(cross_entropy.kernel, logits, targets, dy=broadcast, reduction="none"),
        results(cross_entropy.reference, logits, targets, dy=broadcast, reduction="none"),
        1e-13,
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 5, TILE + 3])
@pytest.mark.parametrize("target", [5, 9, -100])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_logit_that_is_not_finite(bad, place, target, smoothing):
    logits, targets = labelled(4, TILE + 10, np.random.default_rng(0))
    logits[2, place], targets[2] = bad, target
    with np.errstate(invalid="ignore"):
        found, expected = (
            results(f, logits, targets, dy=np.ones(4), reduction="none", label_smoothing=smoothing)
            for f in (cross_entropy.kernel, cross_entropy.reference)
        )
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)
        x, weight = logits[:, :3], np.zeros((3, 3))
        x[2, 1], weight[0, 1] = bad, 1
        found, expected = (
            results(f, x, weight, targets % 3, dy=np.float64(1))
            for f in (linear_cross_entropy.kernel, linear_cross_entropy.reference)
        )
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("masked", [slice(0, TILE), slice(TILE, None), slice(None)])
@pytest.mark.parametrize("function", ["cross_entropy", "linear_cross_entropy"])
def test_whole_tiles_of_impossible_tokens(masked, function):
    logits = np.random.default_rng(0).standard_normal((2, TILE + 70))
    logits[1, masked] = -np.inf
    targets = np.array([3, 5 if masked.start else TILE + 5])
    inputs = (logits, targets)
    operation = cross_entropy
    if function == "linear_cross_entropy":  # logits = x W^T with x the identity
        operation, inputs = linear_cross_entropy, (np.eye(2), logits.T.copy(), targets)
    with np.errstate(invalid="ignore"):
        if function == "linear_cross_entropy":  # 0 times -inf would be NaN already in the product
            inputs = (np.eye(2), np.nan_to_num(logits, neginf=-1e30).T.copy(), targets)
        found, expected = (results(f, *inputs, dy=np.float64(1)) for f in (operation.kernel, operation.reference))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


@given(v=st.sampled_from([5, TILE + 1, 3 * TILE + 2]), seed=seeds, rising=st.booleans())
def test_a_maximum_that_moves_from_tile_to_tile(v, seed, rising):
    rng = np.random.default_rng(seed)
    logits = np.sort(500 * rng.random((3, v)))
    logits = logits if rising else logits[:, ::-1]
    targets = rng.integers(0, v, 3)
    found, expected = (
        results(f, logits, targets, dy=np.float64(1)) for f in (cross_entropy.kernel, cross_entropy.reference)
    )
    agree(found, expected, 1e-13)
    inputs = np.eye(3), logits.T, targets
    found, expected = (
        results(f, *inputs, dy=np.float64(1)) for f in (linear_cross_entropy.kernel, linear_cross_entropy.reference)
    )
    agree(found, expected, 1e-13)


@given(
    n=st.sampled_from([0, 1, 3, 33, 300, 520]),
    c=st.sampled_from([1, 2, 7]),
    v=st.sampled_from([1, 2, 31, TILE + 1]),
    seed=seeds,
    layout=st.tuples(layouts, layouts),
    reduction=st.sampled_from(["mean", "sum"]),
    small=st.booleans(),
)
def test_linear_cross_entropy_equals_the_reference(n, c, v, seed, layout, reduction, small):
    rng = np.random.default_rng(seed)
    targets = labelled(n, v, rng)[1]
    x, weight = (
        laid_out(rng.standard_normal(shape), kind) for shape, kind in zip(((n, c), (v, c)), layout, strict=True)
    )
    dy = np.float64(rng.standard_normal())
    with pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr(fused_losses, "LOGITS", 1)
        found = results(linear_cross_entropy.kernel, x, weight, targets, dy=dy, reduction=reduction)
        agree(found, results(linear_cross_entropy.reference, x, weight, targets, dy=dy, reduction=reduction), 1e-12)


@given(n=st.sampled_from([1, 33, 300]), c=st.sampled_from([1, 16]), v=tokens, seed=seeds)
def test_linear_cross_entropy_in_float32(n, c, v, seed):
    rng = np.random.default_rng(seed)
    targets = labelled(n, v, rng)[1]
    x, weight = rng.standard_normal((n, c)).astype(np.float32), rng.standard_normal((v, c)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused_losses, "LOGITS", 1)
        found = results(linear_cross_entropy.kernel, x, weight, targets, dy=np.float32(0.7))
    assert all(a.dtype == np.float32 for a in found)
    doubles = x.astype(np.float64), weight.astype(np.float64)
    exact = results(linear_cross_entropy.reference, *doubles, targets, dy=0.7)
    # logits are sums over c, the sums over tokens and rows add their roots, and weights grow to about 4
    agree(found, exact, 8 * np.finfo(np.float32).eps * (4 * c + np.sqrt(v) + np.sqrt(n)))


def test_as_many_threads_as_there_are_give_the_same_bits(monkeypatch):
    monkeypatch.setattr(kernels, "least_rows", lambda a: 1)
    monkeypatch.setattr(fused_kernels, "least_rows", lambda a: 1)
    logits, targets = labelled(100, 37, np.random.default_rng(0))
    logits = logits.astype(np.float32)
    found = []
    for count in (1, 3):
        monkeypatch.setattr(threads, "_threads", count)
        found.append(
            results(cross_entropy.kernel, logits, targets, dy=np.float32(1))
            + results(linear_cross_entropy.kernel, logits, logits[:50], targets % 50, dy=np.float32(1))
        )
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_declined_and_what_is_refused():
    logits, targets = labelled(4, 6, np.random.default_rng(0))
    for odd in (logits.astype(complex), logits.astype(np.float16), logits.astype(">f8")):
        assert cross_entropy.kernel(odd, targets) is NotImplemented
        assert linear_cross_entropy.kernel(odd, odd, targets) is NotImplemented
    assert linear_cross_entropy.kernel(logits, logits.astype(np.float32), targets) is NotImplemented
    for function, inputs in ((cross_entropy, (logits,)), (linear_cross_entropy, (logits, logits))):
        name = function.name
        with pytest.raises(IndexError, match=rf"^{name}: target 9 is outside the vocabulary"):
            function.kernel(*inputs, targets * 0 + 9)
        with pytest.raises(ValueError, match=rf"^{name}: logits"):
            function.kernel(*inputs, targets[:3])
        with pytest.raises(TypeError, match=rf"^{name}: targets must be whole numbers"):
            function.kernel(*inputs, targets * 1.0)
        with pytest.raises(ValueError, match=rf"^{name}: unknown reduction"):
            function.kernel(*inputs, targets, reduction="average")
    with pytest.raises(ValueError, match="label_smoothing=2 is not in"):
        cross_entropy.kernel(logits, targets, label_smoothing=2)
    with pytest.raises(ValueError, match="the last axes must be the same C"):
        linear_cross_entropy.kernel(logits, logits[:, :5], targets)
