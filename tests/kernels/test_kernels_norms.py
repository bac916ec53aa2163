"""The kernels of the norms, and of the norms after an addition, against their references."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm import threads

pytest.importorskip("tinygrad_llm.kernels.compiled", reason="no kernels here", exc_type=ImportError)

from tinygrad_llm.kernels import layout

INPUTS = {"layer_norm": ("x", "gain", "bias"), "rms_norm": ("x", "gain")} | {
    "add_layer_norm": ("x", "residual", "gain", "bias"),
    "add_rms_norm": ("x", "residual", "gain"),
}
each_norm = pytest.mark.parametrize("name", INPUTS)
rows = st.sampled_from([0, 1, 2, 63, 64, 65, 131])  # below, at and above a block
channels = st.sampled_from([0, 1, 2, 3, 7, 16, 31, 64, 97, 130])
seeds = st.integers(0, 2**32 - 1)
layouts = st.lists(st.integers(0, 4), min_size=6, max_size=6)


def laid_out(a, layout):
    """The same values in another place of memory."""
    if layout == 1:  # not aligned to a vector
        return np.concatenate((a.ravel()[:1] if a.size else np.zeros(1, a.dtype), a.ravel()))[1:].reshape(a.shape)
    if layout == 2:
        return np.asfortranarray(a)
    if layout == 3:
        return np.repeat(a, 2, axis=-1)[..., ::2]
    if layout == 4:
        return a[::-1].copy()[::-1]
    return a


def drawn(name, shape, rng, dtype=np.float64):
    """The inputs of a norm, and the cotangents of its outputs."""
    sizes = [shape[-1:] if parameter in ("gain", "bias") else shape for parameter in INPUTS[name]]
    outputs = 2 if name.startswith("add") else 1
    inputs = [rng.standard_normal(size).astype(dtype) for size in sizes]
    return inputs, [rng.standard_normal(shape).astype(dtype) for _ in range(outputs)]


def results(function, inputs, dys, **options):
    """All outputs and gradients."""
    value, vjp = function(*inputs, **options)
    many = isinstance(value, tuple)
    gradients = vjp(tuple(dys) if many else dys[0])
    return [*(value if many else (value,)), *(g() if callable(g) else g for g in gradients)]


def compare(name, inputs, dys, rtol, exact=None, dx=1.0, **options):
    """Kernel against reference; `rtol` is relative to the largest value of each array, or to `dx` for that of x."""
    found = results(tg.registry[name].kernel, inputs, dys, **options)
    exact = results(tg.registry[name].reference, inputs, dys, **options) if exact is None else exact
    for i, (a, b) in enumerate(zip(found, exact, strict=True)):
        assert a.shape == b.shape
        assert a.dtype == inputs[0].dtype
        magnitude = max(dx if i >= len(dys) and b.ndim > 1 else 1.0, float(np.abs(b).max(initial=0.0)))
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * magnitude)


@each_norm
@given(n=rows, c=channels, batch=st.booleans(), seed=seeds, layout=layouts, eps=st.sampled_from([1e-5, 0.3]))
def test_equals_the_reference(name, n, c, batch, seed, layout, eps):
    rng = np.random.default_rng(seed)
    inputs, dys = drawn(name, (n, 2, c) if batch else (n, c), rng)
    kinds = iter(layout)
    inputs, dys = ([laid_out(a, next(kinds)) for a in arrays] for arrays in (inputs, dys))
    compare(name, inputs, dys, 1e-12, eps=eps)


@each_norm
@given(
    n=rows,
    c=channels.filter(bool),
    seed=seeds,
    offset=st.sampled_from([0.0, 1e4, -1e6]),
    spread=st.sampled_from([1.0, 0.01]),
)
def test_float32_is_as_exact_as_its_inputs(name, n, c, seed, offset, spread):
    """Also far from 0, where ``mean(x^2) - mean^2`` would leave nothing of the variance, nor a rounded mean of xhat."""
    rng = np.random.default_rng(seed)
    inputs, dys = drawn(name, (n, c), rng, np.float32)
    inputs[0] = (offset + spread * inputs[0]).astype(np.float32)
    doubles, double_dys = ([a.astype(np.float64) for a in arrays] for arrays in (inputs, dys))
    if name.startswith("add"):  # the sum is rounded to float32: that is what is normalised
        doubles[:2] = (inputs[0] + inputs[1]).astype(np.float64), np.zeros((n, c))
    double = results(tg.registry[name].reference, doubles, double_dys)
    s = doubles[0]
    squares = (s**2).mean(-1) if name.endswith("rms_norm") else s.var(-1)
    # in dx terms of this size cancel, all but entirely where there are one or two channels
    terms = float(np.abs(dys[-1]).max(initial=0) / np.sqrt(squares.min(initial=1) + 1e-5)) * 3
    # every term of the sums is rounded a few times; the sums over a row and over the rows add their lengths' roots
    tolerance = 8 * np.finfo(np.float32).eps * (1 + np.sqrt(c + n))
    compare(name, inputs, dys, tolerance, exact=double, dx=terms)


@each_norm
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e4 + 0.1, -1e8 / 7, 1e11 / 7])
def test_constant_rows(name, dtype, value):
    rng = np.random.default_rng(0)
    inputs, dys = drawn(name, (3, 97), rng, dtype)
    inputs[0] = np.full((3, 97), value, dtype)
    if name.startswith("add"):
        inputs[1] = np.zeros((3, 97), dtype)
    double = [a.astype(np.float64) for a in inputs], [d.astype(np.float64) for d in dys]
    exact = results(tg.registry[name].reference, *double)
    compare(name, inputs, dys, 64 * np.finfo(dtype).eps, exact=exact)


@each_norm
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_stay_in_their_row(name, bad):
    inputs, dys = drawn(name, (5, 33), np.random.default_rng(0))
    inputs[0][2, 7] = bad
    with np.errstate(invalid="ignore"):
        found, expected = (results(f, inputs, dys) for f in (tg.registry[name].kernel, tg.registry[name].reference))
    y = found[-len(inputs) - 1]
    assert np.isnan(y[2]).any()
    assert np.isfinite(np.delete(y, 2, axis=0)).all()
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@each_norm
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_in_a_cotangent(name, bad):
    inputs, dys = drawn(name, (5, 33), np.random.default_rng(0))
    dys[-1][2, 7] = bad
    with np.errstate(invalid="ignore"):
        found, expected = (results(f, inputs, dys) for f in (tg.registry[name].kernel, tg.registry[name].reference))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@each_norm
def test_as_many_threads_as_there_are_give_the_same_bits(name, monkeypatch):
    monkeypatch.setattr(layout, "PIECE", 1000)
    monkeypatch.setattr(threads, "_threads", 1)
    inputs, dys = drawn(name, (500, 37), np.random.default_rng(0), np.float32)
    one = results(tg.registry[name].kernel, inputs, dys)
    monkeypatch.setattr(threads, "_threads", 3)
    for a, b in zip(one, results(tg.registry[name].kernel, inputs, dys), strict=True):
        np.testing.assert_array_equal(a, b)


@each_norm
def test_what_is_declined_and_what_is_refused(name):
    operation = tg.registry[name]
    inputs, _ = drawn(name, (4, 6), np.random.default_rng(0))
    assert operation.kernel(*(a.astype(complex) for a in inputs)) is NotImplemented
    assert operation.kernel(*(a.astype(np.float16) for a in inputs)) is NotImplemented
    assert operation.kernel(inputs[0].astype(np.float32), *inputs[1:]) is NotImplemented
    for position, parameter in enumerate(INPUTS[name]):
        if parameter in ("gain", "bias"):
            wrong = [a[:5] if i == position else a for i, a in enumerate(inputs)]
            with pytest.raises(ValueError, match=rf"{name}: .* needs a {parameter} of shape \(C,\), not \(5,\)"):
                operation.kernel(*wrong)


@each_norm
def test_a_single_row_and_a_zero_stride_cotangent(name):
    inputs, dys = drawn(name, (9,), np.random.default_rng(0))
    compare(name, inputs, dys, 1e-13)
    compare(name, inputs, [np.broadcast_to(np.float64(1.5), (9,)) for _ in dys], 1e-13)
