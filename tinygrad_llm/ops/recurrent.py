"""Recurrent networks over whole sequences: rnn, lstm and gru, with backpropagation through time derived by hand.

Shapes: x (B, T, C), a state h (B, F), all states y (B, T, F). The products of all inputs with ``weight_x`` are one
product before the first step, since they do not depend on the state; each step then has one product, of the state with
``weight_h``. Backward walks from the last step to the first with one product for each step, and the gradients of the
weights are one product each at the end, over all steps at once. The formulas of one step are in `recurrent_cells.py`.

What is behind all three: the state ``s_t`` is a function of ``s_(t-1)`` and of ``a_t``, what enters the gates before
their activations. What arrives at ``s_t`` is its own cotangent and what comes back from the next step, and this is all
that the gradients of step t need::

    delta_t = ds_t + delta_(t+1) ∂s_(t+1)/∂s_t     da_t = delta_t ∂s_t/∂a_t

Source: Werbos 1990, Backpropagation through time: what it does and how to do it.
"""

from __future__ import annotations

import numpy as np

from tinygrad_llm.operation import named_shape, op
from tinygrad_llm.ops.products import linear, product, rows, sum_rows
from tinygrad_llm.ops.recurrent_cells import gru_cell, gru_slopes, lstm_cell, lstm_slopes
from tinygrad_llm.ops.samples import normal
from tinygrad_llm.ops.through_time import (
    OF_BIAS,
    OF_WEIGHT_H,
    OF_WEIGHT_X,
    bias_forms,
    input_forms,
    of_the_state,
    side_by_side,
    time_forms,
    weight_forms,
)


def check_sequence(name, gates, x, h, **others):
    """Raise ValueError unless all shapes fit those of x (B, T, C) and h (B, F), for so many gates in each unit."""
    if x.ndim != 3 or h.ndim != 2 or len(x) != len(h):
        raise ValueError(f"{name}: x {x.shape} and h {h.shape}: expected (B, T, C) and (B, F)")
    channels, units = x.shape[2], h.shape[1]
    expected = {"c": h.shape, "weight_x": (channels, gates * units), "weight_h": (units, gates * units)}
    for parameter, values in others.items():
        shape = expected.get(parameter, (gates * units,))
        if values.shape != shape:
            raise ValueError(
                f"{name}: x {named_shape(x.shape, 'BTC')} and h {named_shape(h.shape, 'BF')} need a {parameter} of "
                f"shape {shape}, not {values.shape}"
            )


def states_before(first, states):
    """The state that each step began with (B, T, F): the first one, and all (B, T, F) but the last."""
    return np.concatenate((first[:, None], states), axis=1)[:, : states.shape[1]]


def draw(rng, shape, gates, units=2, states=1, biases=1):
    """Inputs with x of that shape, in the order of the operations' parameters; weights that keep gates moderate."""
    batch, time, channels = shape
    weights = normal(rng, (channels, gates * units)), normal(rng, (units, gates * units))
    return (
        normal(rng, (batch, time, channels)),
        *(normal(rng, (batch, units)) for _ in range(states)),
        *(w / np.sqrt(max(1, len(w))) for w in weights),
        *(normal(rng, (gates * units,)) for _ in range(biases)),
    )


# -- one gate: rnn -----------------------------------------------------------------------------------------------------


@op
def rnn(x, h, weight_x, weight_h, bias):
    """``(y, h_T)`` with ``y_t = h_t = tanh(x_t W_x + h_(t-1) W_h + b)``: the plain recurrent network.

    Shapes: x (B, T, C), h (B, F) the state before the first step, weight_x (C, F), weight_h (F, F), bias (F,), y
    (B, T, F), and the last state ``h_T`` (B, F). Saves x, h, both weights and y. From the last step to the first::

        dh_t = dy_t + da_(t+1) W_h^T     da_t = dh_t (1 - h_t^2)

    where the last state's own cotangent stands in for what comes from a step after the last. Then, over all steps::

        dx = da W_x^T,   dW_x = x^T da,   dW_h = sum_t h_(t-1)^T da_t,   db = sum_t da_t

    of which dx and those of the parameters are deferred. Without a step, ``h_T`` is h. Cost, with N = B T rows:
    ``2 N F (C + F)`` floating-point operations forward, twice that backward. PyTorch has a second bias, which would
    only be added to this one. Source: Elman 1990.
    """
    check_sequence("rnn", 1, x, h, weight_x=weight_x, weight_h=weight_h, bias=bias)
    entering, linear_vjp = linear.reference(x, weight_x, bias)
    y = np.empty(entering.shape, np.result_type(entering, h, weight_h))
    state = h
    for t in range(x.shape[1]):
        y[:, t] = state = np.tanh(entering[:, t] + state @ weight_h)

    def vjp(dys):
        dy, dh = dys
        da = np.empty_like(y)
        for t in reversed(range(y.shape[1])):
            da[:, t] = (dy[:, t] + dh) * (1 - y[:, t] ** 2)
            dh = da[:, t] @ weight_h.T
        dx, dweight_x, dbias = linear_vjp(da)
        return dx, dh, dweight_x, lambda: product(rows(states_before(h, y)).T, rows(da)), dbias

    return (y, state.copy()), vjp


def rnn_forms(x, h, weight_x, weight_h, bias, dy):
    """(why, da, dh) of backpropagation through time, as its form changes."""
    y = rnn.reference(x, h, weight_x, weight_h, bias)[0][0]
    entering = x @ weight_x + bias + states_before(h, y) @ weight_h
    of_gates = [np.eye(h.shape[1]) / np.cosh(a)[..., None] ** 2 for a in np.moveaxis(entering, 1, 0)]
    of_state = [each @ weight_h.T for each in of_gates]
    for why, da, dfirst in time_forms(dy[0], dy[1], of_state, of_gates):
        yield (
            f"{why}; here `s_t = h_t`, `∂h_t/∂a_t = 1/cosh^2 a_t` for each unit",
            side_by_side(da, entering.shape),
            dfirst,
        )
    dh, da = dy[1], np.zeros(y.shape)
    for t in reversed(range(y.shape[1])):
        da[:, t] = (dy[0][:, t] + dh) * (1 - y[:, t] ** 2)
        dh = da[:, t] @ weight_h.T
    yield "`1/cosh^2 a = 1 - tanh^2 a`, and what comes back from the next step is `da_(t+1) W_h^T`", da, dh


@rnn.derivation("x")
def _(x, h, weight_x, weight_h, bias, dy):
    yield from input_forms(rnn_forms(x, h, weight_x, weight_h, bias, dy), weight_x)


@rnn.derivation("h")
def _(x, h, weight_x, weight_h, bias, dy):
    for why, _, dh in rnn_forms(x, h, weight_x, weight_h, bias, dy):
        yield f"{why}; `dh` is `delta_0`, of the state before the first step", dh


@rnn.derivation("weight_x")
def _(x, h, weight_x, weight_h, bias, dy):
    forms = rnn_forms(x, h, weight_x, weight_h, bias, dy)
    yield from weight_forms(forms, x, OF_WEIGHT_X, "dW_x = x^T da")


@rnn.derivation("weight_h")
def _(x, h, weight_x, weight_h, bias, dy):
    before = states_before(h, rnn.reference(x, h, weight_x, weight_h, bias)[0][0])
    forms = rnn_forms(x, h, weight_x, weight_h, bias, dy)
    yield from weight_forms(forms, before, OF_WEIGHT_H, "dW_h = sum_t h_(t-1)^T da_t")


@rnn.derivation("bias")
def _(x, h, weight_x, weight_h, bias, dy):
    yield from bias_forms(rnn_forms(x, h, weight_x, weight_h, bias, dy), OF_BIAS)


@rnn.sample
def _(rng, shape=(2, 3, 3)):
    return draw(rng, shape, gates=1), {}


# -- four gates and a cell state: lstm ---------------------------------------------------------------------------------


@op
def lstm(x, h, c, weight_x, weight_h, bias):
    """``(y, h_T, c_T)`` with ``y_t = h_t`` and ``(h_t, c_t)`` from `lstm_cell` of ``a_t = x_t W_x + h_(t-1) W_h + b``.

    Shapes: x (B, T, C), h and c (B, F) the states before the first step, weight_x (C, 4 F), weight_h (F, 4 F), bias
    (4 F,), y (B, T, F), and the last states ``h_T`` and ``c_T`` (B, F). The gates i, f, g and o are side by side. Saves
    x, h, c, both weights, y, the cell states and what enters the gates: backward begins each step by computing its cell
    again. From the last step to the first, `lstm_cell` gives ``da_t`` and ``dc_(t-1)`` of ``dh_t`` and ``dc_t``, and::

        dh_t = dy_t + da_(t+1) W_h^T

    where the last states' own cotangents stand in for what comes from a step after the last. Then, over all steps::

        dx = da W_x^T,   dW_x = x^T da,   dW_h = sum_t h_(t-1)^T da_t,   db = sum_t da_t

    of which dx and those of the parameters are deferred. Without a step, ``h_T`` is h and ``c_T`` is c. Cost, with
    N = B T rows: ``8 N F (C + F)`` floating-point operations forward, twice that backward. PyTorch has a second bias,
    which would only be added to this one. Source: Hochreiter and Schmidhuber 1997.
    """
    check_sequence("lstm", 4, x, h, c=c, weight_x=weight_x, weight_h=weight_h, bias=bias)
    entering, linear_vjp = linear.reference(x, weight_x, bias)
    gates = entering.astype(np.result_type(entering, h, c, weight_h), copy=False)
    y = np.empty((*x.shape[:2], h.shape[1]), gates.dtype)
    cells = np.empty_like(y)
    state, cell = h, c
    for t in range(x.shape[1]):
        gates[:, t] += state @ weight_h
        (state, cell), _ = lstm_cell.reference(gates[:, t], cell)
        y[:, t], cells[:, t] = state, cell

    def vjp(dys):
        dy, dh, dc = dys
        da, before = np.empty_like(gates), states_before(c, cells)
        for t in reversed(range(gates.shape[1])):
            _, cell_vjp = lstm_cell.reference(gates[:, t], before[:, t])
            da[:, t], dc = cell_vjp((dy[:, t] + dh, dc))
            dh = da[:, t] @ weight_h.T
        dx, dweight_x, dbias = linear_vjp(da)
        return dx, dh, dc, dweight_x, lambda: product(rows(states_before(h, y)).T, rows(da)), dbias

    return (y, state.copy(), cell.copy()), vjp


def lstm_forms(x, h, c, weight_x, weight_h, bias, dy):
    """(why, da, dh, dc) of backpropagation through time, as its form changes. A state is h and c side by side."""
    (y, *_), _ = lstm.reference(x, h, c, weight_x, weight_h, bias)
    entering = x @ weight_x + bias + states_before(h, y) @ weight_h
    units, eye = h.shape[1], np.eye(h.shape[1])
    of_gates, of_state, cells = [], [], [c]
    for gates in np.moveaxis(entering, 1, 0):
        by_gates, by_cell = lstm_slopes(gates, cells[-1])
        of_gates.append(np.block([[each[..., None] * eye for each in of] for of in by_gates]))
        by_cell = np.concatenate([each[..., None] * eye for each in by_cell], axis=1)
        of_state.append(np.concatenate((of_gates[-1] @ weight_h.T, by_cell), axis=2))
        cells.append(lstm_cell.reference(gates, cells[-1])[0][1])
    dys = np.concatenate((dy[0], np.zeros(y.shape)), axis=2)
    for why, da, dfirst in time_forms(dys, np.concatenate(dy[1:], axis=1), of_state, of_gates):
        why = (
            f"{why}; here `s_t` is `h_t` and `c_t` together, of which `c_t` has a cotangent of its own only at the "
            "last step, and `lstm_cell` gives the derivatives of one step"
        )
        yield why, side_by_side(da, entering.shape), dfirst[:, :units], dfirst[:, units:]
    dh, dc, da = dy[1], dy[2], np.zeros(entering.shape)
    for t in reversed(range(x.shape[1])):
        _, cell_vjp = lstm_cell.reference(entering[:, t], cells[t])
        da[:, t], dc = cell_vjp((dy[0][:, t] + dh, dc))
        dh = da[:, t] @ weight_h.T
    yield (
        "the derivatives of a cell are diagonal: its own formulas give `da_t` and `dc_(t-1)`; `h_t` enters the next "
        "step by `h_t W_h` alone, so `da_(t+1) W_h^T` comes back to it",
        da,
        dh,
        dc,
    )


@lstm.derivation("x")
def _(x, h, c, weight_x, weight_h, bias, dy):
    yield from input_forms(lstm_forms(x, h, c, weight_x, weight_h, bias, dy), weight_x)


@lstm.derivation("h")
def _(x, h, c, weight_x, weight_h, bias, dy):
    for why, _, dh, _ in lstm_forms(x, h, c, weight_x, weight_h, bias, dy):
        yield f"{why}; `dh` is the part of `delta_0` that belongs to the state before the first step", dh


@lstm.derivation("c")
def _(x, h, c, weight_x, weight_h, bias, dy):
    for why, _, _, dc in lstm_forms(x, h, c, weight_x, weight_h, bias, dy):
        yield f"{why}; `dc` is the part of `delta_0` that belongs to the cell state before the first step", dc


@lstm.derivation("weight_x")
def _(x, h, c, weight_x, weight_h, bias, dy):
    forms = lstm_forms(x, h, c, weight_x, weight_h, bias, dy)
    yield from weight_forms(forms, x, OF_WEIGHT_X, "dW_x = x^T da")


@lstm.derivation("weight_h")
def _(x, h, c, weight_x, weight_h, bias, dy):
    before = states_before(h, lstm.reference(x, h, c, weight_x, weight_h, bias)[0][0])
    forms = lstm_forms(x, h, c, weight_x, weight_h, bias, dy)
    yield from weight_forms(forms, before, OF_WEIGHT_H, "dW_h = sum_t h_(t-1)^T da_t")


@lstm.derivation("bias")
def _(x, h, c, weight_x, weight_h, bias, dy):
    yield from bias_forms(lstm_forms(x, h, c, weight_x, weight_h, bias, dy), OF_BIAS)


@lstm.sample
def _(rng, shape=(2, 3, 3)):
    return draw(rng, shape, gates=4, states=2), {}


# -- three gates: gru --------------------------------------------------------------------------------------------------


@op
def gru(x, h, weight_x, weight_h, bias_x, bias_h):
    """``(y, h_T)`` with ``y_t = h_t`` from `gru_cell` of ``x_t W_x + b_x``, ``h_(t-1) W_h + b_h`` and ``h_(t-1)``.

    Shapes: x (B, T, C), h (B, F) the state before the first step, weight_x (C, 3 F), weight_h (F, 3 F), bias_x and
    bias_h (3 F,), y (B, T, F), and the last state ``h_T`` (B, F). The gates r, z and n are side by side. There are two
    biases because the reset gate multiplies one of them: see `gru_cell`. Saves x, h, both weights, y and the
    projections ``a_t = x_t W_x + b_x`` and ``g_t = h_(t-1) W_h + b_h``: backward begins each step by computing its cell
    again. From the last step to the first, `gru_cell` gives ``da_t``, ``dg_t`` and the direct part of ``dh_(t-1)``,
    and::

        dh_t = dy_t + dg_(t+1) W_h^T + dh_(t+1) z_(t+1)

    where the last state's own cotangent stands in for what comes from a step after the last. Then, over all steps::

        dx = da W_x^T,   dW_x = x^T da,   dW_h = sum_t h_(t-1)^T dg_t,   db_x = sum_t da_t,   db_h = sum_t dg_t

    of which dx and those of the parameters are deferred. Without a step, ``h_T`` is h. Cost, with N = B T rows:
    ``6 N F (C + F)`` floating-point operations forward, twice that backward. Source: Cho et al. 2014, arXiv:1406.1078.
    """
    check_sequence("gru", 3, x, h, weight_x=weight_x, weight_h=weight_h, bias_x=bias_x, bias_h=bias_h)
    entering, linear_vjp = linear.reference(x, weight_x, bias_x)
    from_states = np.empty(entering.shape, np.result_type(entering, h, weight_h, bias_h))
    y = np.empty((*x.shape[:2], h.shape[1]), from_states.dtype)
    state = h
    for t in range(x.shape[1]):
        from_states[:, t] = state @ weight_h + bias_h
        y[:, t] = state = gru_cell.reference(entering[:, t], from_states[:, t], state)[0]

    def vjp(dys):
        dy, dh = dys
        da, dg, before = np.empty_like(entering), np.empty_like(entering), states_before(h, y)
        for t in reversed(range(entering.shape[1])):
            _, cell_vjp = gru_cell.reference(entering[:, t], from_states[:, t], before[:, t])
            da[:, t], dg[:, t], direct = cell_vjp(dy[:, t] + dh)
            dh = dg[:, t] @ weight_h.T + direct
        dx, dweight_x, dbias_x = linear_vjp(da)
        return dx, dh, dweight_x, lambda: product(rows(before).T, rows(dg)), dbias_x, lambda: sum_rows(dg)

    return (y, state.copy()), vjp


def gru_forms(x, h, weight_x, weight_h, bias_x, bias_h, dy):
    """(why, da, dh, dg) of backpropagation through time, as its form changes."""
    y = gru.reference(x, h, weight_x, weight_h, bias_x, bias_h)[0][0]
    before = states_before(h, y)
    of_x, of_h, of_state = [], [], []
    width, eye = weight_h.shape[1], np.eye(h.shape[1])
    for x_gates, state in zip(np.moveaxis(x @ weight_x + bias_x, 1, 0), np.moveaxis(before, 1, 0), strict=True):
        by_x, by_h, direct = gru_slopes(x_gates, state @ weight_h + bias_h, state)
        of_x.append(np.concatenate([each[..., None] * eye for each in by_x], axis=2))
        of_h.append(np.concatenate([each[..., None] * eye for each in by_h], axis=2))
        of_state.append(of_h[-1] @ weight_h.T + direct[..., None] * eye)
    both = [np.concatenate(pair, axis=2) for pair in zip(of_x, of_h, strict=True)]
    for why, da, dfirst in time_forms(dy[0], dy[1], of_state, both):
        why = f"{why}; here `s_t = h_t`, and `gru_cell` gives the derivatives of one step, by `g_t` too"
        da = side_by_side(da, (*x.shape[:2], 2 * width))
        yield why, da[..., :width], dfirst, da[..., width:]
    dh, da, dg = dy[1], np.zeros((*x.shape[:2], width)), np.zeros((*x.shape[:2], width))
    for t in reversed(range(x.shape[1])):
        gates = x[:, t] @ weight_x + bias_x, before[:, t] @ weight_h + bias_h
        _, cell_vjp = gru_cell.reference(*gates, before[:, t])
        da[:, t], dg[:, t], direct = cell_vjp(dy[0][:, t] + dh)
        dh = dg[:, t] @ weight_h.T + direct
    yield (
        "the derivatives of a cell are diagonal: its own formulas give `da_t`, `dg_t` and what `h_(t-1)` receives "
        "directly; by `g_(t+1) = h_t W_h + b_h` it receives `dg_(t+1) W_h^T` from the next step too",
        da,
        dh,
        dg,
    )


@gru.derivation("x")
def _(x, h, weight_x, weight_h, bias_x, bias_h, dy):
    yield from input_forms(gru_forms(x, h, weight_x, weight_h, bias_x, bias_h, dy), weight_x)


@gru.derivation("h")
def _(x, h, weight_x, weight_h, bias_x, bias_h, dy):
    for why, _, dh, _ in gru_forms(x, h, weight_x, weight_h, bias_x, bias_h, dy):
        yield f"{why}; `dh` is `delta_0`, of the state before the first step", dh


@gru.derivation("weight_x")
def _(x, h, weight_x, weight_h, bias_x, bias_h, dy):
    forms = gru_forms(x, h, weight_x, weight_h, bias_x, bias_h, dy)
    yield from weight_forms(forms, x, OF_WEIGHT_X, "dW_x = x^T da")


@gru.derivation("weight_h")
def _(x, h, weight_x, weight_h, bias_x, bias_h, dy):
    before = states_before(h, gru.reference(x, h, weight_x, weight_h, bias_x, bias_h)[0][0])
    forms = of_the_state(gru_forms(x, h, weight_x, weight_h, bias_x, bias_h, dy))
    yield from weight_forms(forms, before, OF_WEIGHT_H, "dW_h = sum_t h_(t-1)^T dg_t")


@gru.derivation("bias_x")
def _(x, h, weight_x, weight_h, bias_x, bias_h, dy):
    yield from bias_forms(gru_forms(x, h, weight_x, weight_h, bias_x, bias_h, dy), OF_BIAS)


@gru.derivation("bias_h")
def _(x, h, weight_x, weight_h, bias_x, bias_h, dy):
    yield from bias_forms(of_the_state(gru_forms(x, h, weight_x, weight_h, bias_x, bias_h, dy)), OF_BIAS)


@gru.sample
def _(rng, shape=(2, 3, 3)):
    return draw(rng, shape, gates=3, biases=2), {}
