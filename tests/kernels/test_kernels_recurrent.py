"""The kernels of rnn, lstm, gru and their cells against their references."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm import threads

pytest.importorskip("tinygrad_llm.kernels.compiled", reason="no kernels here", exc_type=ImportError)

from tinygrad_llm.kernels import recurrent as kernels
from tinygrad_llm.kernels import recurrent_cells as cell_kernels
from tinygrad_llm.kernels.vector import ROWS

KINDS = {"rnn": (1, 1, 1), "lstm": (4, 2, 1), "gru": (3, 1, 2)}
"""Gates of a unit, states, biases."""
CELLS = {"lstm_cell": ((4, 1), 2), "gru_cell": ((3, 3, 1), 1)}
"""Numbers for each unit in every input, and how many outputs there are."""
each_network = pytest.mark.parametrize("name", KINDS)
each_cell = pytest.mark.parametrize("name", CELLS)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
seeds = st.integers(0, 2**32 - 1)
layouts = st.lists(st.integers(0, 4), min_size=12, max_size=12)


def laid_out(a, layout):
    """The same values in another place of memory."""
    if layout == 1:  # not aligned to a vector
        return np.concatenate((np.zeros(1, a.dtype), a.ravel()))[1:].reshape(a.shape)
    if layout == 2:
        return np.asfortranarray(a)
    if layout == 3:  # one half of an array
        return np.concatenate((a, a + 1), axis=-1)[..., : a.shape[-1]]
    if layout == 4 and a.ndim > 1:
        return a[:, ::-1].copy()[:, ::-1]
    return a


def network(name, batch, time, channels, units, seed, dtype=np.float64, scale=1.0):
    """Inputs and cotangents of a network."""
    gates, states, biases = KINDS[name]
    rng = np.random.default_rng(seed)
    shapes = [
        (batch, time, channels),
        *[(batch, units)] * states,
        (channels, gates * units),
        (units, gates * units),
        *[(gates * units,)] * biases,
    ]
    arrays = [rng.standard_normal(s).astype(dtype) for s in shapes]
    for position in (1 + states, 2 + states):
        arrays[position] *= dtype(scale / np.sqrt(max(1, len(arrays[position]))))
    return arrays, [rng.standard_normal(s).astype(dtype) for s in [(batch, time, units)] + [(batch, units)] * states]


def results(function, arrays, dys):
    value, vjp = function(*arrays)
    values = value if isinstance(value, tuple) else (value,)
    gradients = vjp(tuple(dys) if isinstance(value, tuple) else dys[0])
    return [*values, *(g() if callable(g) else g for g in gradients)]


def both(name, arrays, dys):
    operation = tg.registry[name]
    return results(operation.kernel, arrays, dys), results(operation.reference, arrays, dys)


@each_network
@given(
    batch=st.sampled_from([1, 2, 3, 7, 8, 9, 16, 19]),
    time=st.sampled_from([2, 3, 5]),
    channels=st.sampled_from([0, 1, 5]),
    units=st.sampled_from([1, 2, 7, 8, 13, 16, 31, 32, 33, 65]),
    seed=seeds,
    layout=layouts,
)
def test_equals_the_reference(name, batch, time, channels, units, seed, layout):
    arrays, dys = network(name, batch, time, channels, units, seed)
    arrays = [laid_out(a, each) for a, each in zip(arrays, layout, strict=False)]
    dys = [laid_out(a, each) for a, each in zip(dys, layout[::-1], strict=False)]
    for a, b in zip(*both(name, arrays, dys), strict=True):
        assert a.shape == b.shape
        # sums of fewer than a hundred products, and a few steps that each may double a rounding
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12 * max(1, np.abs(b).max(initial=0)))


@each_network
@given(batch=st.integers(1, 20), time=st.integers(2, 9), units=st.integers(1, 70), seed=seeds)
@example(batch=16, time=40, units=64, seed=0)
def test_float32_is_close(name, batch, time, units, seed):
    arrays, dys = network(name, batch, time, 3, units, seed, np.float32, scale=0.5)
    doubles = [[a.astype(np.float64) for a in each] for each in (arrays, dys)]
    found, expected = results(tg.registry[name].kernel, arrays, dys), results(tg.registry[name].reference, *doubles)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == np.float32
        # a step's matrix is no longer than 1, so errors add up from step to step, and over the terms of a sum
        tolerance = 32 * np.finfo(np.float32).eps * time * np.sqrt(batch * time)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1, np.abs(b).max(initial=0)))


@each_network
@each_dtype
def test_huge_gates(name, dtype):
    arrays, dys = network(name, 5, 4, 3, 6, 0, dtype, scale=1e4)
    for a, b in zip(*both(name, arrays, dys), strict=True):
        assert np.isfinite(a).all()
        eps = np.finfo(dtype).eps  # gates that are not quite closed have an exponent with 1e4 times the rounding
        np.testing.assert_allclose(a, b, rtol=1e6 * eps, atol=1e6 * eps * max(1, np.abs(b).max(initial=0)))


@each_network
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_spread_as_in_the_reference(name, value):
    batch = ROWS + 3
    for position in range(1 + KINDS[name][1]):
        arrays, dys = network(name, batch, 5, 3, 6, 0)
        arrays[position][(2, 1, 1) if position == 0 else (2, 1)] = value
        with np.errstate(all="ignore"):
            found, expected = both(name, arrays, dys)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    for position in range(len(dys)):
        arrays, dys = network(name, batch, 5, 3, 6, 0)
        dys[position][(2, 3, 1) if position == 0 else (2, 1)] = value
        with np.errstate(all="ignore"):
            found, expected = both(name, arrays, dys)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@each_network
@each_dtype
def test_three_threads_give_the_same_bits(name, dtype, monkeypatch):
    monkeypatch.setattr(kernels, "LEAST_WORK", 1)
    arrays, dys = network(name, 4 * ROWS + 3, 6, 5, 33, 0, dtype)
    monkeypatch.setattr(threads, "_threads", 1)
    one = results(tg.registry[name].kernel, arrays, dys)
    monkeypatch.setattr(threads, "_threads", 3)
    for a, b in zip(one, results(tg.registry[name].kernel, arrays, dys), strict=True):
        np.testing.assert_array_equal(a, b)


@each_network
def test_a_sequence_does_not_depend_on_the_others(name):
    arrays, dys = network(name, 3 * ROWS + 1, 4, 3, 9, 0)
    states = KINDS[name][1]
    alone = [a[-1:] if i <= states else a for i, a in enumerate(arrays)]
    together = results(tg.registry[name].kernel, arrays, dys)[: 2 + 2 * states]
    for a, b in zip(together, results(tg.registry[name].kernel, alone, [d[-1:] for d in dys]), strict=False):
        np.testing.assert_allclose(a[-1:], b, rtol=1e-13, atol=1e-14)


@each_network
@each_dtype
@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_sequences_have_the_bits_of_many(name, dtype, count):
    """Without channels: BLAS would give what enters the gates other bits."""
    arrays, dys = network(name, ROWS, 4, 0, 37, 0, dtype)
    states = KINDS[name][1]
    few = [a[:count] if i <= states else a for i, a in enumerate(arrays)]
    many = results(tg.registry[name].kernel, arrays, dys)
    found = results(tg.registry[name].kernel, few, [dy[:count] for dy in dys])
    for a, b in zip(found[: 2 * (1 + states)], many[: 2 * (1 + states)], strict=True):
        np.testing.assert_array_equal(a, b[:count])


@each_network
def test_results_share_no_memory(name):
    arrays, dys = network(name, 3, 2, 4, 5, 0)
    copies = [a.copy() for a in (*arrays, *dys)]
    found = results(tg.registry[name].kernel, arrays, dys)
    for i, a in enumerate(found):
        assert not any(np.may_share_memory(a, b) for b in (*arrays, *dys, *found[:i]))
    for a, b in zip((*arrays, *dys), copies, strict=True):
        np.testing.assert_array_equal(a, b)


@each_network
def test_what_is_declined_and_what_is_refused(name):
    kernel = tg.registry[name].kernel
    arrays, _ = network(name, 3, 2, 4, 5, 0)
    assert kernel(*arrays) is not NotImplemented
    for position in range(len(arrays)):
        other = [a.astype(np.float32) if i == position else a for i, a in enumerate(arrays)]
        assert kernel(*other) is NotImplemented
    assert kernel(*(a.astype(complex) for a in arrays)) is NotImplemented
    for batch, time, units in ((3, 1, 5), (3, 0, 5), (0, 3, 5), (3, 3, 0)):
        assert kernel(*network(name, batch, time, 4, units, 0)[0]) is NotImplemented
    with pytest.raises(ValueError, match=rf"{name}: x \(B=3, T=2, C=4\) and h \(B=3, F=5\) need a weight_x of shape"):
        kernel(*arrays[: 1 + KINDS[name][1]], np.ones((3, 5)), *arrays[2 + KINDS[name][1] :])


# -- cells -------------------------------------------------------------------------------------------------------------


def cell(name, leading, units, seed, dtype=np.float64, scale=1.0):
    counts, outputs = CELLS[name]
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal((*leading, count * units)).astype(dtype) for count in counts]
    for gates in arrays[:-1]:
        gates *= dtype(scale)
    return arrays, [rng.standard_normal((*leading, units)).astype(dtype) for _ in range(outputs)]


leading_axes = st.sampled_from([(), (1,), (7,), (2, 3), (41,)])


@each_cell
@given(leading=leading_axes, units=st.sampled_from([1, 2, 7, 8, 16, 33, 97]), seed=seeds, layout=layouts)
@example(leading=(3,), units=16, seed=0, layout=[0] * 12)
def test_cells_equal_the_reference(name, leading, units, seed, layout):
    for scale in (1.0, 1e4):
        arrays, dys = cell(name, leading, units, seed, scale=scale)
        arrays = [laid_out(a, each) for a, each in zip(arrays, layout, strict=False)]
        dys = [laid_out(a, each) for a, each in zip(dys, layout[::-1], strict=False)]
        for a, b in zip(*both(name, arrays, dys), strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


@each_cell
@given(leading=leading_axes, units=st.integers(1, 70), seed=seeds, scale=st.sampled_from([1.0, 10.0, 1e4]))
def test_cells_in_float32(name, leading, units, seed, scale):
    arrays, dys = cell(name, leading, units, seed, np.float32, scale)
    doubles = [[a.astype(np.float64) for a in each] for each in (arrays, dys)]
    found, expected = results(tg.registry[name].kernel, arrays, dys), results(tg.registry[name].reference, *doubles)
    magnitude = max(np.abs(a).max() for a in arrays)  # of what is rounded before an exponential
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == np.float32
        tolerance = 32 * np.finfo(np.float32).eps * magnitude
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1, np.abs(b).max(initial=0)))


@each_cell
def test_cells_with_nan_and_infinity(name):
    for position in range(len(CELLS[name][0])):
        for value in (np.nan, np.inf, -np.inf):
            arrays, dys = cell(name, (3,), 5, 0)
            arrays[position][1, ::2] = value
            with np.errstate(all="ignore"):
                found, expected = both(name, arrays, dys)
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


@each_cell
@each_dtype
def test_cells_in_three_threads(name, dtype, monkeypatch):
    monkeypatch.setattr(cell_kernels, "least_rows", lambda a: 1)
    arrays, dys = cell(name, (41,), 13, 0, dtype)
    monkeypatch.setattr(threads, "_threads", 1)
    one = results(tg.registry[name].kernel, arrays, dys)
    monkeypatch.setattr(threads, "_threads", 3)
    for a, b in zip(one, results(tg.registry[name].kernel, arrays, dys), strict=True):
        np.testing.assert_array_equal(a, b)


@each_cell
def test_what_cells_decline_and_refuse(name):
    kernel = tg.registry[name].kernel
    arrays, _ = cell(name, (3,), 5, 0)
    assert kernel(*(a.astype(complex) for a in arrays)) is NotImplemented
    assert kernel(*arrays[:-1], arrays[-1].astype(np.float32)) is NotImplemented
    assert kernel(*cell(name, (0,), 5, 0)[0]) is NotImplemented
    assert kernel(*arrays[:-1], 1.0) is NotImplemented
    with pytest.raises(ValueError, match=rf"{name}: \w+ \(3, \d+\) and \w \(3, 4\): expected"):
        kernel(*arrays[:-1], arrays[-1][:, :4])
