"""rnn, lstm, gru and their cells: values, limits, messages, and PyTorch. Gradients: test_every_operation.py."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm import ops
from tinygrad_llm.backend import why_no_kernels
from tinygrad_llm.checking import derivation_steps

KINDS = {"rnn": (1, 1, 1), "lstm": (4, 2, 1), "gru": (3, 1, 2)}
"""Gates of a unit, states, biases."""
each_network = pytest.mark.parametrize("name", KINDS)
sizes = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))


@pytest.fixture(params=["numpy", "numba"])
def backend(request):
    if request.param == "numba" and (reason := why_no_kernels()):
        pytest.skip(reason)
    with tg.use_backend(request.param):
        yield


def arguments(name, shape, units, seed=0, scale=1.0):
    gates, states, biases = KINDS[name]
    batch, time, channels = shape
    rng = np.random.default_rng(seed)
    return [
        rng.standard_normal((batch, time, channels)),
        *(rng.standard_normal((batch, units)) for _ in range(states)),
        scale * rng.standard_normal((channels, gates * units)),
        scale * rng.standard_normal((units, gates * units)),
        *(rng.standard_normal(gates * units) for _ in range(biases)),
    ]


def outputs_and_gradients(function, arrays, dys):
    leaves = [tg.Tensor(a, requires_grad=True) for a in arrays]
    outputs = function(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    sum((y * dy).sum() for y, dy in zip(outputs, dys, strict=True)).backward()
    return [*(y.data for y in outputs), *(leaf.grad for leaf in leaves)]


def cotangents(name, shape, units, seed=1):
    rng, batch = np.random.default_rng(seed), shape[0]
    return [rng.standard_normal((*shape[:2], units)), *rng.standard_normal((KINDS[name][1], batch, units))]


# -- one step ----------------------------------------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@given(a=st.tuples(*[st.floats(-8, 8)] * 5))
def test_lstm_cell_against_the_plain_formulas(a):
    i, f, g, o, c = a
    after = sigmoid(f) * c + sigmoid(i) * math.tanh(g)
    h, found = ops.lstm_cell(np.array([[i, f, g, o]]), np.array([[c]]))
    assert found.item() == pytest.approx(after, rel=1e-12, abs=1e-13)
    assert h.item() == pytest.approx(sigmoid(o) * math.tanh(after), rel=1e-12, abs=1e-13)


@given(a=st.tuples(*[st.floats(-8, 8)] * 7))
def test_gru_cell_against_the_plain_formulas(a):
    x_r, x_z, x_n, h_r, h_z, h_n, h = a
    z, n = sigmoid(x_z + h_z), math.tanh(x_n + sigmoid(x_r + h_r) * h_n)
    found = ops.gru_cell(np.array([[x_r, x_z, x_n]]), np.array([[h_r, h_z, h_n]]), np.array([[h]]))
    assert found.item() == pytest.approx((1 - z) * n + z * h, rel=1e-11, abs=1e-13)


def test_limits_of_the_lstm_cell(backend):
    gates = 1e4 * np.array([[-1.0, 1, 1, 1], [1, -1, -1, 1], [1, 1, 1, -1]])  # keeps, replaces, hides
    c, leaf = np.array([[0.3], [0.3], [0.3]]), tg.Tensor(gates, requires_grad=True)
    h, after = ops.lstm_cell(leaf, c)
    np.testing.assert_allclose(after.data, [[0.3], [-1], [1.3]])
    np.testing.assert_allclose(h.data, [[math.tanh(0.3)], [math.tanh(-1)], [0]])
    (h + after).sum().backward()
    np.testing.assert_array_equal(leaf.grad, 0)


def test_limits_of_the_gru_cell(backend):
    x_gates = 1e4 * np.array([[0.0, 1, 1], [0, -1, 1], [-1, -1, 0]])  # keeps, replaces, forgets the state in n
    h_gates, h = np.array([[0.0, 0, 2], [0, 0, 2], [0, 0, 2]]), tg.Tensor([[0.3], [0.3], [0.3]], requires_grad=True)
    leaf = tg.Tensor(x_gates, requires_grad=True)
    after = ops.gru_cell(leaf, h_gates, h)
    np.testing.assert_allclose(after.data, [[0.3], [1], [0]], atol=1e-300)
    after.sum().backward()
    np.testing.assert_array_equal(h.grad, [[1], [0], [0]])
    np.testing.assert_array_equal(leaf.grad, [[0, 0, 0], [0, 0, 0], [0, 0, 1]])


@pytest.mark.parametrize("shape", [(), (2,), (0, 3), (3, 0), (2, 2, 5)])
def test_cells_take_any_leading_axes(shape, backend):
    state = np.full(shape or (1,), 0.5)
    h, c = ops.lstm_cell(np.zeros((*state.shape[:-1], 4 * state.shape[-1])), state)
    np.testing.assert_allclose(c.data, np.full(state.shape, 0.25))
    np.testing.assert_allclose(h.data, np.full(state.shape, math.tanh(0.25) / 2))
    zero = np.zeros((*state.shape[:-1], 3 * state.shape[-1]))
    np.testing.assert_allclose(ops.gru_cell(zero, zero, state).data, np.full(state.shape, 0.25))


def test_cells_name_what_does_not_fit(backend):
    with pytest.raises(ValueError, match=r"lstm_cell: gates \(2, 3\) and c \(2, 3\): expected \(..., 4 F\) and"):
        ops.lstm_cell(np.ones((2, 3)), np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"gru_cell: h_gates \(9,\) and h \(2, 3\): expected \(..., 3 F\) and"):
        ops.gru_cell(np.ones((2, 9)), np.ones(9), np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"lstm_cell: gates \(4,\) and c \(\): expected"):
        ops.lstm_cell(np.ones(4), np.array(1.0))


# -- sequences ---------------------------------------------------------------------------------------------------------


def step_by_step(name):
    """The network made of its cell and other operations, with the gradient left to the tape."""

    def rnn(x, h, weight_x, weight_h, bias):
        states = []
        for t in range(x.shape[1]):
            h = ops.tanh(x[:, t] @ weight_x + bias + h @ weight_h)
            states.append(h)
        return ops.stack(*states, axis=1), h

    def lstm(x, h, c, weight_x, weight_h, bias):
        states = []
        for t in range(x.shape[1]):
            h, c = ops.lstm_cell(x[:, t] @ weight_x + bias + h @ weight_h, c)
            states.append(h)
        return ops.stack(*states, axis=1), h, c

    def gru(x, h, weight_x, weight_h, bias_x, bias_h):
        states = []
        for t in range(x.shape[1]):
            h = ops.gru_cell(x[:, t] @ weight_x + bias_x, h @ weight_h + bias_h, h)
            states.append(h)
        return ops.stack(*states, axis=1), h

    return {"rnn": rnn, "lstm": lstm, "gru": gru}[name]


@each_network
@given(size=sizes, seed=st.integers(0, 2**32 - 1))
def test_is_its_cell_step_by_step(name, size, seed):
    shape, units = size[:3], size[3]
    arrays, dys = arguments(name, shape, units, seed), cotangents(name, shape, units, seed + 1)
    found = outputs_and_gradients(tg.registry[name], arrays, dys)
    expected = outputs_and_gradients(step_by_step(name), arrays, dys)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


@each_network
def test_a_sequence_in_two_parts(name, backend):
    arrays = arguments(name, (3, 7, 4), 5)
    x, states, rest = arrays[0], arrays[1 : 1 + KINDS[name][1]], arrays[1 + KINDS[name][1] :]
    y, *last = tg.registry[name](*arrays)
    first, *middle = tg.registry[name](x[:, :3], *states, *rest)
    second, *end = tg.registry[name](x[:, 3:], *middle, *rest)
    np.testing.assert_allclose(np.concatenate((first.data, second.data), axis=1), y.data, rtol=1e-13, atol=1e-14)
    for a, b in zip(end, last, strict=True):
        np.testing.assert_allclose(a.data, b.data, rtol=1e-13, atol=1e-14)
    np.testing.assert_array_equal(last[0].data, y.data[:, -1])


@each_network
@pytest.mark.parametrize("shape", [(2, 0, 3), (0, 4, 3), (2, 4, 0), (1, 1, 1), (0, 0, 0)])
@pytest.mark.parametrize("units", [0, 1, 3])
def test_odd_shapes(name, shape, units, backend):
    arrays, dys = arguments(name, shape, units), cotangents(name, shape, units)
    results = outputs_and_gradients(tg.registry[name], arrays, dys)
    outputs, gradients = results[: 1 + KINDS[name][1]], results[1 + KINDS[name][1] :]
    assert [y.shape for y in outputs] == [dy.shape for dy in dys]
    assert [g.shape for g in gradients] == [a.shape for a in arrays]
    if shape[1] == 0:  # the states go through as they are, and so do their cotangents
        for last, first, gradient, dy in zip(outputs[1:], arrays[1:], gradients[1:], dys[1:], strict=False):
            np.testing.assert_array_equal(last, first)
            np.testing.assert_array_equal(gradient, dy)
            assert not np.may_share_memory(last, first)
            assert not np.may_share_memory(gradient, dy)
        for gradient in gradients[1 + KINDS[name][1] :]:
            np.testing.assert_array_equal(gradient, 0)


@each_network
def test_huge_gates_are_safe(name, backend):
    arrays, dys = arguments(name, (2, 6, 3), 4, scale=1e4), cotangents(name, (2, 6, 3), 4)
    for array in outputs_and_gradients(tg.registry[name], arrays, dys):
        assert np.isfinite(array).all()


@pytest.mark.parametrize(("name", "used"), [(name, i) for name in KINDS for i in range(1 + KINDS[name][1])])
def test_an_output_that_is_not_used_contributes_nothing(name, used, backend):
    arrays, dys = arguments(name, (2, 4, 3), 5), cotangents(name, (2, 4, 3), 5)
    leaves = [tg.Tensor(a, requires_grad=True) for a in arrays]
    tg.registry[name](*leaves)[used].backward(dys[used])
    silent = [dy if i == used else 0 * dy for i, dy in enumerate(dys)]
    expected = outputs_and_gradients(step_by_step(name), arrays, silent)[len(dys) :]
    for leaf, gradient in zip(leaves, expected, strict=True):
        np.testing.assert_allclose(leaf.grad, gradient, rtol=1e-11, atol=1e-12)


@each_network
def test_frozen_weights(name, backend):
    arrays = arguments(name, (2, 4, 3), 5)
    x, *rest = (tg.Tensor(a, requires_grad=i == 0) for i, a in enumerate(arrays))
    tg.registry[name](x, *rest)[0].sum().backward()
    assert x.grad is not None
    assert all(t.grad is None for t in rest)


@each_network
def test_names_what_does_not_fit(name, backend):
    operation, arrays = tg.registry[name], arguments(name, (2, 4, 3), 5)
    gates = KINDS[name][0]
    for parameter, array in zip(operation.parameters, arrays, strict=True):
        position = operation.parameters.index(parameter)
        wrong = [*arrays[:position], np.ones((*array.shape[:-1], array.shape[-1] + 1)), *arrays[position + 1 :]]
        named = {"x": "weight_x", "h": "c" if name == "lstm" else "weight_x"}.get(parameter, parameter)
        with pytest.raises(ValueError, match=rf"^{name}: x \(B=2, T=4, C=\d\) and h \(B=2, F=\d\) need a {named} of"):
            operation(*wrong)
    with pytest.raises(ValueError, match=rf"need a weight_h of shape \(5, {5 * gates}\), not \(5, {5 * gates + 1}\)"):
        operation(**{p: a for p, a in zip(operation.parameters, arrays, strict=True) if p != "weight_h"}
                  | {"weight_h": tg.Tensor(np.ones((5, 5 * gates + 1)))})  # fmt: skip
    with pytest.raises(ValueError, match=rf"{name}: x \(4, 3\) and h \(2, 5\): expected \(B, T, C\) and \(B, F\)"):
        operation(arrays[0][0], *arrays[1:])
    with pytest.raises(ValueError, match=rf"{name}: x \(3, 4, 3\) and h \(2, 5\): expected"):
        operation(np.ones((3, 4, 3)), *arrays[1:])


@each_network
@pytest.mark.parametrize("shape", [(2, 0, 3), (1, 1, 2), (3, 5, 2)])
def test_derivations_of_other_lengths(name, shape):
    arrays, dys = arguments(name, shape, 3), tuple(cotangents(name, shape, 3))
    for parameter in tg.registry[name].derivations:
        for step in derivation_steps(tg.registry[name], parameter, arrays, {}, dys):
            assert step.change < 1e-12, step.why


# -- PyTorch -----------------------------------------------------------------------------------------------------------


@each_network
@pytest.mark.parametrize(("shape", "units"), [((3, 5, 4), 6), ((1, 1, 2), 3), ((4, 12, 7), 1)])
def test_equal_to_pytorch(name, shape, units, backend):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install '.[peers]'")
    arrays, dys = arguments(name, shape, units), cotangents(name, shape, units)
    states, biases = KINDS[name][1:]
    found = outputs_and_gradients(tg.registry[name], arrays, dys)
    theirs = getattr(torch.nn, name.upper())(shape[2], units, batch_first=True, dtype=torch.float64)
    x, *initial = (torch.tensor(a, requires_grad=True) for a in arrays[: 1 + states])
    weight_x, weight_h, *given = arrays[1 + states :]
    given = [*given, np.zeros_like(given[0])][:2]  # theirs has two biases, also where they are only added
    with torch.no_grad():
        for parameter, value in zip(theirs.parameters(), (weight_x.T, weight_h.T, *given), strict=True):
            parameter.copy_(torch.tensor(value.copy()))
    start = tuple(s[None] for s in initial)
    y, last = theirs(x, start if states == 2 else start[0])
    outputs = [y, *(s[0] for s in (last if states == 2 else (last,)))]
    torch.autograd.backward(outputs, [torch.tensor(dy) for dy in dys])
    of_x, of_h, *of_biases = (p.grad.numpy() for p in theirs.parameters())
    gradients = [*(t.grad.numpy() for t in (x, *initial)), of_x.T, of_h.T, *of_biases[:biases]]
    for a, b in zip(found, [*(y.detach().numpy() for y in outputs), *gradients], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)
