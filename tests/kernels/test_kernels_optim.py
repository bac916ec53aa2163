"""The kernels of the optimisers and of the global norm against their references."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm import threads
from tinygrad_llm.nn import Parameter
from tinygrad_llm.optim import SGD, AdamW, Muon, clip_factor
from tinygrad_llm.optim.adamw import adamw_update
from tinygrad_llm.optim.muon import muon_update, orthogonalize
from tinygrad_llm.optim.optimizer import block_squares, sum_of_squares
from tinygrad_llm.optim.sgd import sgd_update

pytest.importorskip("tinygrad_llm.kernels.compiled", reason="no kernels here", exc_type=ImportError)

from tinygrad_llm.kernels import optimizer as kernels

DTYPES = [np.float32, np.float64]
sizes = st.sampled_from([0, 1, 2, 7, 16, 31, 129, 1009])
seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from(DTYPES)
scales = st.sampled_from([1.0, 0.37])
decays = st.sampled_from([0.0, 0.03])
rates = st.sampled_from([0.0, 0.01, 0.5])

CASES = {
    "adamw": (adamw_update, 4, lambda rate, decay, scale: (3, rate, (0.9, 0.95), 1e-3, decay, scale)),
    "sgd": (sgd_update, 3, lambda rate, decay, scale: (rate, 0.9, False, decay, scale)),
    "nesterov": (sgd_update, 3, lambda rate, decay, scale: (rate, 0.9, True, decay, scale)),
    "muon": (muon_update, 3, lambda rate, decay, scale: (rate, 0.9, decay, scale)),
}
each_update = pytest.mark.parametrize("name", CASES)


def drawn(name, shape, rng, dtype=np.float64):
    """Weight, gradient and the state, of which the last of four is a running square."""
    arrays = [rng.standard_normal(shape).astype(dtype) for _ in range(CASES[name][1])]
    return [*arrays[:3], *(a**2 for a in arrays[3:])]


def updated(function, arrays, options):
    """Copies of the arrays after one update."""
    arrays = [a.copy(order="K") if i != 1 else a for i, a in enumerate(arrays)]
    assert function(*arrays, *options) is None
    return arrays


def references(function, arrays, options):
    with tg.use_backend("numpy"):  # the reference of Muon's update calls another function that has a kernel
        return updated(function.reference, arrays, options)


@each_update
@given(n=sizes, columns=st.sampled_from([1, 3, 8]), seed=seeds, dtype=dtypes, scale=scales, decay=decays, rate=rates)
def test_equals_the_reference(name, n, columns, seed, dtype, scale, decay, rate):
    function, _, make = CASES[name]
    arrays = drawn(name, (n, columns), np.random.default_rng(seed), dtype)
    options = make(rate, decay, scale)
    if name == "muon" and n == 0:
        assert updated(function.kernel, arrays, options)[0].shape == (0, columns)
        return
    found = updated(function.kernel, arrays, options)
    exact = references(function, [a.astype(np.float64) for a in arrays], options)
    # every result is a sum of a few products, each rounded a few times; Newton and Schulz's five steps multiply
    # rounding errors by 3.4^5 at most, of sums over the columns
    steps = 8 if name != "muon" else 8 * 3.4445**5 * (1 + math.sqrt(columns)) * 4
    tolerance = steps * np.finfo(dtype).eps
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * (1 + 4 * rate))
    np.testing.assert_array_equal(found[1], arrays[1])  # the gradient is not written to


@given(n=sizes, seed=seeds, dtype=dtypes, decay=decays, nesterov=st.booleans())
def test_sgd_without_momentum(n, seed, dtype, decay, nesterov):
    weight, gradient = drawn("sgd", n, np.random.default_rng(seed), dtype)[:2]
    expected, found = weight.copy(), weight.copy()
    sgd_update.reference(expected, gradient, None, 0.1, 0.9, nesterov, decay, 0.5)
    assert sgd_update.kernel(found, gradient, None, 0.1, 0.9, nesterov, decay, 0.5) is None
    np.testing.assert_allclose(found, expected, rtol=8 * np.finfo(dtype).eps, atol=8 * np.finfo(dtype).eps)


@each_update
@pytest.mark.parametrize("layout", ["transposed", "reversed", "zero strides", "unaligned"])
def test_the_gradient_may_lie_anyhow_in_memory(name, layout):
    function, _, make = CASES[name]
    arrays = drawn(name, (7, 5), np.random.default_rng(0))
    gradient = arrays[1]
    arrays[1] = {
        "transposed": np.asfortranarray(gradient),
        "reversed": gradient[::-1].copy()[::-1],
        "zero strides": np.broadcast_to(gradient[:1], (7, 5)),
        "unaligned": np.concatenate((gradient.ravel()[:1], gradient.ravel()))[1:].reshape(7, 5),
    }[layout]
    options = make(0.1, 0.01, 1.0)
    found, expected = updated(function.kernel, arrays, options), references(function, arrays, options)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["adamw", "sgd", "nesterov"])
def test_a_parameter_without_axes_has_a_kernel_too(name):
    function, _, make = CASES[name]
    arrays, options = drawn(name, (1,), np.random.default_rng(0)), make(0.1, 0.01, 0.5)
    found = updated(function.kernel, [a.reshape(()) for a in arrays], options)
    for a, b in zip(found, updated(function.kernel, arrays, options), strict=True):
        assert a.shape == ()
        assert a == b[0]


@pytest.mark.parametrize(("size", "scale"), [(3e19, 1e-19), (2e38, 1e-37), (1e-30, 1e30)])
def test_adamw_squares_what_has_been_scaled(size, scale):
    gradient = np.array([size, -size / 2, size / 100], np.float32)
    arrays = [np.ones(3, np.float32), gradient, np.zeros(3, np.float32), np.zeros(3, np.float32)]
    options = CASES["adamw"][2](0.1, 0.01, scale)
    exact = adamw_update.reference, [a.astype(np.float64) for a in arrays], options
    for function in (adamw_update.kernel, adamw_update.reference):
        for a, b in zip(updated(function, arrays, options), updated(*exact), strict=True):
            np.testing.assert_allclose(a, b, rtol=8 * np.finfo(np.float32).eps)


@each_update
def test_what_is_declined_is_left_unchanged(name):
    function, _, make = CASES[name]
    arrays, options = drawn(name, (6, 4), np.random.default_rng(0)), make(0.1, 0.01, 1.0)
    mixed = [arrays[0].astype(np.float32), *arrays[1:]]
    halves = [a.astype(np.float16) for a in arrays]
    fortran = [np.asfortranarray(a) for a in arrays]
    swapped = [a.astype(a.dtype.newbyteorder()) for a in arrays]
    for odd in (mixed, halves, fortran, swapped):
        before = [a.copy() for a in odd]
        assert function.kernel(*odd, *options) is NotImplemented
        for a, b in zip(odd, before, strict=True):
            np.testing.assert_array_equal(a, b)


@each_update
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["weight", "gradient"])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_nan_and_infinity_do_what_they_do_in_the_reference(name, bad, where, decay):
    function, _, make = CASES[name]
    arrays = drawn(name, (6, 4), np.random.default_rng(0))
    arrays[["weight", "gradient"].index(where)][2, 1] = bad
    options = make(0.1, decay, 1.0)
    with np.errstate(invalid="ignore"):
        found, expected = updated(function.kernel, arrays, options), references(function, arrays, options)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("make", [SGD, AdamW, Muon, lambda n, lr: SGD(n, lr, momentum=0.9, weight_decay=0.1)])
def test_a_step_of_an_optimiser_is_the_same_on_both_backends(make):
    rng = np.random.default_rng(0)
    starts, gradients = ([*rng.standard_normal((3, 40, 20)), np.array(rng.standard_normal())] for _ in range(2))
    results = []
    for backend in ("numpy", "numba"):
        parameters = {str(i): Parameter(a.copy(), decay=i != 1) for i, a in enumerate(starts)}
        optimizer = make(parameters.items(), lr=0.01)
        with tg.use_backend(backend):
            for _ in range(3):
                for p, g in zip(parameters.values(), gradients, strict=True):
                    p.grad = g.copy()
                optimizer.step(scale=0.5)
        results.append([*(p.data for p in parameters.values()), *optimizer.state_dict().values()])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@given(rows=st.sampled_from([1, 2, 5, 16]), columns=st.sampled_from([1, 3, 16, 33]), seed=seeds, f=st.booleans())
def test_orthogonalize(rows, columns, seed, f):
    matrix = np.random.default_rng(seed).standard_normal((rows, columns))
    matrix = np.asfortranarray(matrix) if f else matrix
    before = matrix.copy()
    found = orthogonalize.kernel(matrix)
    with tg.use_backend("numpy"):
        np.testing.assert_allclose(found, orthogonalize.reference(matrix), rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(orthogonalize.kernel(matrix, 2), orthogonalize.reference(matrix, 2), atol=1e-11)
    np.testing.assert_array_equal(matrix, before)


def test_orthogonalize_of_zeros_and_what_it_declines():
    np.testing.assert_array_equal(orthogonalize.kernel(np.zeros((3, 4))), np.zeros((3, 4)))
    assert orthogonalize.kernel(np.zeros((0, 4))) is NotImplemented
    assert orthogonalize.kernel(np.ones((2, 2), np.float16)) is NotImplemented


@given(
    n=st.sampled_from([0, 1, 7, 1009, kernels.BLOCK - 1, kernels.BLOCK, kernels.BLOCK + 1, 3 * kernels.BLOCK + 5]),
    seed=seeds,
    dtype=dtypes,
)
def test_squares_of_blocks(n, seed, dtype):
    x = np.random.default_rng(seed).standard_normal(n).astype(dtype)
    ends = [*range(0, n, kernels.BLOCK), n]
    exact = [math.fsum(x[low:high].astype(np.float64) ** 2) for low, high in itertools.pairwise(ends)]
    for squares in (block_squares.kernel, block_squares.reference):
        found = squares(x)
        assert found.dtype == np.float64
        # within a block sums are kept in parallel, each of at most BLOCK / 4 terms
        np.testing.assert_allclose(found, exact, rtol=float(np.finfo(dtype).eps) * (4 + kernels.BLOCK / 4))


@pytest.mark.parametrize("squares", [block_squares.kernel, block_squares.reference])
def test_a_block_has_the_same_sum_whatever_stands_around_it(squares):
    x = np.random.default_rng(0).standard_normal(5 * kernels.BLOCK + 77).astype(np.float32)
    whole = squares(x)
    for begin in range(5):
        part = x[begin * kernels.BLOCK :].copy()
        np.testing.assert_array_equal(squares(part), whole[begin:])
    np.testing.assert_array_equal(squares(x[: 2 * kernels.BLOCK]), whole[:2])


def test_the_sums_of_blocks_are_added_without_rounding():
    x = np.full((1000, kernels.BLOCK), 1 / math.sqrt(kernels.BLOCK), np.float32)  # each block's sum is 1
    x[0] *= 2.0**27
    assert sum_of_squares(x) == math.fsum([2.0**54] + 999 * [1.0]) != 2.0**54


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_squares_that_are_not_finite(bad):
    x = np.ones(50, np.float32)
    x[20] = bad
    with np.errstate(over="ignore"):
        np.testing.assert_equal(block_squares.kernel(x), block_squares.reference(x))
        assert not math.isfinite(sum_of_squares(x))
    assert block_squares.kernel(x.astype(complex)) is NotImplemented
    assert block_squares.kernel(np.ones((6, 4))[:, ::2]) == 12


def test_as_many_threads_as_there_are_give_the_same_bits(monkeypatch):
    monkeypatch.setattr(kernels, "PIECE", 1)
    for name in ("adamw", "sgd", "muon"):
        monkeypatch.setattr(f"tinygrad_llm.kernels.{name}.PIECE", 100)
    rng = np.random.default_rng(0)
    gradients = [rng.standard_normal(shape).astype(np.float32) for shape in (7 * kernels.BLOCK + 3, (40, 50))]
    results = []
    for count in (1, 3):
        monkeypatch.setattr(threads, "_threads", count)
        results.append([block_squares.kernel(g) for g in gradients])
        for name, (function, _, make) in CASES.items():
            arrays = drawn(name, (97, 31), np.random.default_rng(1), np.float32)
            results[-1] += updated(function.kernel, arrays, make(0.1, 0.01, 0.9))
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_clip_factor():
    assert clip_factor(2.0, 3.0) == clip_factor(3.0, 3.0) == clip_factor(0.0, 0.0) == 1.0
    assert clip_factor(4.0, 1.0) == 0.25
    assert clip_factor(math.nan, 1.0) == 1.0
    with pytest.raises(ValueError, match="limit=-1 must not be negative"):
        clip_factor(1.0, -1)
