"""The gradient of a recurrence, first with every path through time written out, then folded into a walk backwards.

The forms that the derivations in `recurrent.py` have in common. A state s_t (B, S) is a function of the one before and
of a_t (B, G), what enters its gates; what a step receives is what reaches it from all states that come after.
"""

from __future__ import annotations

import numpy as np

from tinygrad_llm.ops.products import rows

OF_WEIGHT_X = "each step uses the same weight, so `dW_cg = sum_t x_tc da_tg`, over all sequences"
OF_WEIGHT_H = "each step uses the same weight, so `dW_jg = sum_t h_(t-1)j da_tg`, over all sequences"
OF_BIAS = "each step adds the same bias, so `db_g = sum_t da_tg`, over all sequences"


def unrolled(ds, of_state, of_gates):
    """What step t = 1 .. T receives, and the first state: each path from a later state ds_u written out.

    ds has T + 1 arrays (B, S), of_state and of_gates T Jacobians, ∂s_t/∂s_(t-1) (B, S, S) and ∂s_t/∂a_t (B, S, G).
    """

    def arriving(t):
        total = np.zeros_like(ds[t])
        for u in range(t, len(ds)):
            path = np.broadcast_to(np.eye(ds[t].shape[1]), (len(ds[t]), ds[t].shape[1], ds[t].shape[1]))
            for step in of_state[t:u]:
                path = np.einsum("bkj,bji->bki", step, path)
            total += np.einsum("bk,bkj->bj", ds[u], path)
        return total

    return [np.einsum("bk,bkg->bg", arriving(t + 1), each) for t, each in enumerate(of_gates)], arriving(0)


def folded(ds, of_state, of_gates):
    """The same from the last step to the first: what arrives at a step is handed on to the one before."""
    delta, da = ds[-1], [*of_gates]
    for t in reversed(range(len(of_gates))):
        da[t] = np.einsum("bk,bkg->bg", delta, of_gates[t])
        delta = ds[t] + np.einsum("bk,bkj->bj", delta, of_state[t])
    return da, delta


def time_forms(dy, last, of_state, of_gates):
    """The first two forms: (why, what arrives at the gates a_t of each step, at the first state).

    `dy` (B, T, S) are the cotangents of the states, `last` (B, S) another one of the last state.
    """
    ds = [np.zeros_like(last), *np.moveaxis(dy, 1, 0)]
    ds[-1] = ds[-1] + last
    yield (
        "state `s_u` has a cotangent `ds_u` of its own (the last one's includes that of the last state as an output); "
        "it depends on `a_t` of every step `t` up to `u`, through all states in between: "
        "`da_t = sum_(u >= t) ds_u ∂s_u/∂s_(u-1) ... ∂s_(t+1)/∂s_t ∂s_t/∂a_t`",
        *unrolled(ds, of_state, of_gates),
    )
    yield (
        "all terms but the first have the factor `∂s_(t+1)/∂s_t`, and what it multiplies is the sum for `t + 1`: "
        "`delta_t = ds_t + delta_(t+1) ∂s_(t+1)/∂s_t`, from the last step to the first, and `da_t = delta_t ∂s_t/∂a_t`",
        *folded(ds, of_state, of_gates),
    )


def side_by_side(steps, shape):
    """Arrays (B, G), one of each step, as one of that shape, (B, T, G)."""
    return np.stack(steps, axis=1) if steps else np.zeros(shape)


def weight_forms(forms, factor, why, product):
    """The forms of the gradient of a weight: the step that each row of da belongs to has that row of `factor`."""
    for form, da, *_ in forms:
        yield f"{form}; {why}", np.einsum("btc,btg->cg", factor, da)
    yield f"a sum over sequences and steps is a matrix product, `{product}`", rows(factor).T @ rows(da)


def bias_forms(forms, why):
    for form, da, *_ in forms:
        yield f"{form}; {why}", np.einsum("btg->g", da)


def input_forms(forms, weight):
    for form, da, *_ in forms:
        yield f"{form}; and `∂a_tg/∂x_tc = W_cg`, so `dx_tc = sum_g da_tg W_cg`", np.einsum("btg,cg->btc", da, weight)
    yield "a sum over gates is a matrix product, `dx = da W^T`", da @ weight.T


def of_the_state(forms):
    """Forms of (why, da, dh, dg) with dg, what arrives at the gates by way of the state, in the place of da."""
    for why, _, _, dg in forms:
        yield f"{why}; `g_t = h_(t-1) W_h + b_h` stands beside `a_t`, with `dg_t` instead of `da_t`", dg
