"""One step of a recurrent network: lstm_cell and gru_cell, from what the matrix products give. Elementwise.

A cell has F units, each with gates of its own. What enters a gate is a projection of the input x and of the state h,
which `linear` computes; the sequences in `recurrent.py` apply the same formulas at every step. The plain cell, of
Elman, is ``tanh`` of the sum of both projections, and needs no operation of its own.
"""

from __future__ import annotations

import numpy as np

from tinygrad_llm.operation import op
from tinygrad_llm.ops.activations import stable_sigmoid
from tinygrad_llm.ops.arithmetic import diagonal
from tinygrad_llm.ops.samples import normal


def check_gates(name, count, state, state_name, **gates):
    """Raise ValueError unless each of the gates is (..., count F) for a state (..., F)."""
    for parameter, values in gates.items():
        if state.ndim == 0 or values.shape != (*state.shape[:-1], count * state.shape[-1]):
            raise ValueError(
                f"{name}: {parameter} {values.shape} and {state_name} {state.shape}: expected (..., {count} F) and "
                "(..., F)"
            )


def slope(a):
    """The derivative of the sigmoid at a, as the quotient rule gives it."""
    return np.exp(-a) / (1 + np.exp(-a)) ** 2


# ---------------------------------------------------------------------------------------------------------------------


def lstm_gates(gates):
    """The activations i, f, g and o."""
    i, f, g, o = np.split(gates, 4, axis=-1)
    return stable_sigmoid(i), stable_sigmoid(f), np.tanh(g), stable_sigmoid(o)


@op
def lstm_cell(gates, c):
    """``(h, c')``: one step of an LSTM, from its gates before their activations and the cell state.

    Shapes: gates (..., 4 F), the parts ``a_i``, ``a_f``, ``a_g`` and ``a_o`` side by side; c, h and c' (..., F). With
    ``s(a) = 1 / (1 + e^-a)``::

        i = s(a_i)     f = s(a_f)     g = tanh(a_g)     o = s(a_o)
        c' = f c + i g     h = o tanh(c')

    Gradients, where d is what arrives at c' in all, and dc' at c' itself::

        d = dc' + dh o (1 - tanh(c')^2)     dc = d f
        da_i = d g i (1 - i)     da_f = d c f (1 - f)     da_g = d i (1 - g^2)     da_o = dh tanh(c') o (1 - o)

    Saves c, tanh(c') and the activations i, f, g and o. The sigmoid takes no exponential of a
    positive number: gates of +-1e4 are as safe as others. Where f is 1 and i is 0 a cell state, and its gradient, is
    handed on as it is, which is what the cell was made for. PyTorch's order of the gates. Source: Hochreiter and
    Schmidhuber 1997; with the forget gate f: Gers, Schmidhuber, Cummins 2000.
    """
    check_gates("lstm_cell", 4, c, "c", gates=gates)
    i, f, g, o = lstm_gates(gates)
    after = f * c + i * g
    t = np.tanh(after)

    def vjp(dys):
        dh, dafter = dys
        total = dafter + dh * o * (1 - t * t)
        parts = total * g * i * (1 - i), total * c * f * (1 - f), total * i * (1 - g * g), dh * t * o * (1 - o)
        return np.concatenate(parts, axis=-1), total * f

    return (o * t, after), vjp


def lstm_slopes(gates, c):
    """(∂h/∂a, ∂c'/∂a), each for the four gates a, then (∂h/∂c, ∂c'/∂c): for each unit, of its own gates and state."""
    i, f, g, o = np.split(gates, 4, axis=-1)
    after = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
    through = 1 / (1 + np.exp(-o)) / np.cosh(after) ** 2  # ∂h/∂c'
    of_state = 1 / (1 + np.exp(-f))
    of_gates = np.tanh(g) * slope(i), c * slope(f), 1 / (1 + np.exp(-i)) / np.cosh(g) ** 2, np.zeros_like(c)
    of_h = *(through * each for each in of_gates[:3]), np.tanh(after) * slope(o)
    return (of_h, of_gates), (through * of_state, of_state)


@lstm_cell.derivation("gates")
def _(gates, c, dy):
    dh, dafter = dy
    (of_h, of_c), _ = lstm_slopes(gates, c)
    yield (
        "`da_j = sum_k dh_k ∂h_k/∂a_j + dc'_k ∂c'_k/∂a_j` for each gate `a`; only `j = k` counts. By the chain rule "
        "`∂h/∂a = (o / cosh^2 c') ∂c'/∂a`, but for `a_o`, where it is `tanh(c') s'(a_o)`; and `∂c'/∂a` is "
        "`g s'(a_i)`, `c s'(a_f)`, `i / cosh^2 a_g` and 0, with `s'(a) = e^-a / (1 + e^-a)^2`",
        np.concatenate([diagonal(dh, x) + diagonal(dafter, y) for x, y in zip(of_h, of_c, strict=True)], axis=-1),
    )
    i, f, g, o = lstm_gates(gates)
    after = f * c + i * g
    t = np.tanh(after)
    d = dafter + dh * o / np.cosh(after) ** 2
    parts = d * of_c[0], d * of_c[1], d * of_c[2], dh * of_h[3]
    yield (
        "only the term `j = k` is left; the first three gates have their way through `c'` in common, so what arrives "
        "there, `d = dc' + dh o / cosh^2 c'`, is a factor",
        np.concatenate(parts, axis=-1),
    )
    d = dafter + dh * o * (1 - t * t)
    parts = d * g * i * (1 - i), d * c * f * (1 - f), d * i * (1 - g * g), dh * t * o * (1 - o)
    yield "`s' = s (1 - s)` and `1/cosh^2 u = 1 - tanh^2 u`, of what is saved", np.concatenate(parts, axis=-1)


@lstm_cell.derivation("c")
def _(gates, c, dy):
    dh, dafter = dy
    of_h, of_c = lstm_slopes(gates, c)[1]
    yield (
        "`dc_j = sum_k dh_k ∂h_k/∂c_j + dc'_k ∂c'_k/∂c_j`; only `j = k` counts, `∂c'/∂c = f`, and by the chain rule "
        "`∂h/∂c = f o / cosh^2 c'`",
        diagonal(dh, of_h) + diagonal(dafter, of_c),
    )
    i, f, g, o = lstm_gates(gates)
    after = f * c + i * g
    yield "only the term `j = k` is left; `f` is a common factor", (dafter + dh * o / np.cosh(after) ** 2) * f
    yield "`1/cosh^2 c' = 1 - tanh^2 c'`", (dafter + dh * o * (1 - np.tanh(after) ** 2)) * f


@lstm_cell.sample
def _(rng, shape=(2, 12)):
    return (normal(rng, shape), normal(rng, (*shape[:-1], shape[-1] // 4))), {}


# ---------------------------------------------------------------------------------------------------------------------


def gru_gates(x_gates, h_gates):
    """The activations r, z and n, and h_n, which r multiplies, as m."""
    (x_r, x_z, x_n), (h_r, h_z, m) = np.split(x_gates, 3, axis=-1), np.split(h_gates, 3, axis=-1)
    r, z = stable_sigmoid(x_r + h_r), stable_sigmoid(x_z + h_z)
    return r, z, np.tanh(x_n + r * m), m.copy()


@op
def gru_cell(x_gates, h_gates, h):
    """``h'``: one step of a GRU, from what the input and the state give to its gates, and the state.

    Shapes: x_gates and h_gates (..., 3 F), the parts ``x_r``, ``x_z``, ``x_n`` and ``h_r``, ``h_z``, ``h_n`` side by
    side; h and h' (..., F). With ``s(a) = 1 / (1 + e^-a)``::

        r = s(x_r + h_r)     z = s(x_z + h_z)     n = tanh(x_n + r h_n)     h' = (1 - z) n + z h

    Gradients, where dh is only what h receives as the state, not as a part of h_gates::

        dx_n = dh' (1 - z) (1 - n^2)     dh_n = dx_n r
        dx_r = dh_r = dx_n h_n r (1 - r)     dx_z = dh_z = dh' (h - n) z (1 - z)     dh = dh' z

    Saves h, r, z, n and ``h_n``. The reset gate r multiplies the product of h with its matrix, bias included, rather
    than h itself: so the products for all gates can be one. This, and the order of the gates, are PyTorch's. h' is
    computed as ``n + z (h - n)``. The sigmoid takes no exponential of a positive number: gates of +-1e4 are as safe as
    others. Source: Cho et al. 2014, arXiv:1406.1078, where r multiplies h.
    """
    check_gates("gru_cell", 3, h, "h", x_gates=x_gates, h_gates=h_gates)
    r, z, n, m = gru_gates(x_gates, h_gates)

    def vjp(dafter):
        dn = dafter * (1 - z) * (1 - n * n)
        dr, dz = dn * m * r * (1 - r), dafter * (h - n) * z * (1 - z)
        return np.concatenate((dr, dz, dn), axis=-1), np.concatenate((dr, dz, dn * r), axis=-1), dafter * z

    return n + z * (h - n), vjp


def gru_slopes(x_gates, h_gates, h):
    """(∂h'/∂x_gates, ∂h'/∂h_gates), each for three gates, then ∂h'/∂h: for each unit, of its own gates and state."""
    (x_r, x_z, x_n), (h_r, h_z, m) = np.split(x_gates, 3, axis=-1), np.split(h_gates, 3, axis=-1)
    r, z = 1 / (1 + np.exp(-x_r - h_r)), 1 / (1 + np.exp(-x_z - h_z))
    of_n = (1 - z) / np.cosh(x_n + r * m) ** 2
    of_r, of_z = of_n * m * slope(x_r + h_r), (h - np.tanh(x_n + r * m)) * slope(x_z + h_z)
    return (of_r, of_z, of_n), (of_r, of_z, of_n * r), z


def gru_gate_forms(slopes, gates, result, dy):
    """The forms of the gradient of x_gates or of h_gates, of which `gates` says what is special about it."""
    yield (
        "`da_j = sum_k dh'_k ∂h'_k/∂a_j` for each gate `a`; only `j = k` counts. `∂h'/∂z = h - n`, `∂h'/∂n = 1 - z`; "
        "`n` depends on `r` by the factor `h_n / cosh^2 (x_n + r h_n)`; and `s'(a) = e^-a / (1 + e^-a)^2` is the "
        f"derivative of `r` and of `z`. {gates}",
        np.concatenate([diagonal(dy, each) for each in slopes], axis=-1),
    )
    yield "only the term `j = k` is left of the sum", np.concatenate([dy * each for each in slopes], axis=-1)
    yield "`s' = s (1 - s)` and `1/cosh^2 u = 1 - tanh^2 u`, of what is saved", np.concatenate(result, axis=-1)


@gru_cell.derivation("x_gates")
def _(x_gates, h_gates, h, dy):
    r, z, n, m = gru_gates(x_gates, h_gates)
    dn = dy * (1 - z) * (1 - n * n)
    result = dn * m * r * (1 - r), dy * (h - n) * z * (1 - z), dn
    special = "`x_n` enters the tanh as it is"
    yield from gru_gate_forms(gru_slopes(x_gates, h_gates, h)[0], special, result, dy)


@gru_cell.derivation("h_gates")
def _(x_gates, h_gates, h, dy):
    r, z, n, m = gru_gates(x_gates, h_gates)
    dn = dy * (1 - z) * (1 - n * n)
    result = dn * m * r * (1 - r), dy * (h - n) * z * (1 - z), dn * r
    special = "`h_n` enters the tanh with the factor `r`"
    yield from gru_gate_forms(gru_slopes(x_gates, h_gates, h)[1], special, result, dy)


@gru_cell.derivation("h")
def _(x_gates, h_gates, h, dy):
    z = gru_slopes(x_gates, h_gates, h)[2]
    yield (
        "`dh_j = sum_k dh'_k ∂h'_k/∂h_j`; only `j = k` counts, where it is `z`: the gates are given, and `n` does not "
        "depend on `h`",
        diagonal(dy, z),
    )
    yield "only the term `j = k` is left of the sum", dy * z


@gru_cell.sample
def _(rng, shape=(2, 9)):
    return (normal(rng, shape), normal(rng, shape), normal(rng, (*shape[:-1], shape[-1] // 3))), {}
