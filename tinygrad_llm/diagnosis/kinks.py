"""Where there is no derivative to compare with: kinks, jumps, noise, values that are not finite.

Here the vjp is right until shown wrong.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinygrad_llm.diagnosis.evidence import Diagnosis
from tinygrad_llm.differentiation import Derivative, Slopes
from tinygrad_llm.tape import Array


def unrepeatable(first: tuple[Array, ...], second: list[Array]) -> Diagnosis | None:
    """The function gives other values the second time; nothing can be said of its derivative."""
    if all(np.allclose(a, b, rtol=1e-12, atol=0, equal_nan=True) for a, b in zip(first, second, strict=True)):
        return None
    difference = max(float(np.abs(a - b).max(initial=0.0)) for a, b in zip(first, second, strict=True))
    return Diagnosis(
        "not_deterministic",
        "the function gives another value each time it is called, so it has no derivative to compare with: fix its "
        "random draws (a seed or a key for dropout); this says nothing about the vjp",
        f"two calls with the same inputs differ by {difference:.3g}",
    )


def at_kink(slopes: Slopes, x: Array, where: Array) -> Diagnosis | None:
    """The gradient lies between the slopes on the left and on the right at the entries `where` (n,)."""
    if not where.any():
        return None
    j = int(np.flatnonzero(where)[0])
    kind = "entries" if len(where) == x.size else "directions"
    return Diagnosis(
        "kink",
        "there is a kink here (a tie, or a bound), so no derivative; the gradient lies between the slopes on both "
        "sides, which is all that can be asked. To check more, move the input away",
        f"{_slopes_at(slopes, j)}; {int(where.sum())} of {len(where)} {kind}",
    )


def outside_kink(slopes: Slopes, where: Array) -> Diagnosis:
    """The gradient is wrong at kinks only."""
    j = int(np.flatnonzero(where)[0])
    return Diagnosis(
        "kink",
        "wrong only at a kink (a tie, or a bound): there, any value between the slopes on both sides would do, but "
        "this one is outside; look at how the vjp treats equal values",
        _slopes_at(slopes, j),
    )


def _slopes_at(slopes: Slopes, j: int) -> str:
    i = int(np.abs(slopes.kink[j]).argmax())
    ends = (slopes.low[j, i], slopes.high[j, i])[:: 1 if slopes.kink[j, i] > 0 else -1]
    return f"the slope of an output is {ends[0]:.3g} to the left, {ends[1]:.3g} to the right"


def overcounted_tie(slopes: Slopes, derivative: Derivative, vjp: Callable[[Array], Array]) -> Diagnosis | None:
    """Entries that share a kink of one output must also be right together: moved as one, they are one slope.

    With max(x, x), each may receive anything from 0 to dy, but both together dy. That holds where all kinks bend the
    same way (a max, or a min), not for a difference of two.
    """
    for i, kinks in enumerate(slopes.kink.T):
        if np.abs(kinks).sum() < 2 or {-1, 1} <= set(kinks.tolist()):
            continue
        together = np.abs(kinks).astype(float)
        given = float(vjp(np.eye(len(slopes.kink.T))[i]) @ together)
        joint = derivative.slopes([together.reshape(derivative.x.shape)])
        (low,), (high,) = joint.bounds(np.eye(len(slopes.kink.T))[i], doubt=True)
        if not low - 1e-6 * abs(given) <= given <= high + 1e-6 * abs(given):
            return Diagnosis(
                "kink",
                "wrong at ties: entries that are equal receive too much or too little together; share dy among them, "
                "or give it to one",
                f"{int(together.sum())} tied entries receive {given:.4g} together; moving all of them changes the "
                f"output by {' to '.join(dict.fromkeys(f'{s[0, i]:.4g}' for s in (joint.low, joint.high)))}",
            )
    return None


def undefined(values: Array) -> Diagnosis:
    """The function's own value is NaN or infinite."""
    text = "the function's value is not finite here, so it has no derivative to compare with: choose legal inputs"
    return Diagnosis(
        "undefined", text, f"{int((~np.isfinite(values)).sum())} of {values.size} values are NaN or infinite"
    )


def unclear(slopes: Slopes, outputs: tuple[Array, ...]) -> Diagnosis:
    """The differences do not converge, and the gradient is within what they leave open."""
    single = any(y.dtype.kind == "f" and y.dtype.itemsize < 8 for y in outputs)
    return Diagnosis(
        "noise",
        "finite differences cannot decide here, and this is no sign of a wrong gradient: the function jumps, is "
        "rounded or noisy, badly scaled, or at the edge of where it is defined"
        + ("; its value is float32: let it compute in the dtype of its input, float64" if single else ""),
        f"the differences do not converge as the step shrinks, in {int(slopes.unclear.sum())} of {slopes.unclear.size} "
        "derivatives",
    )
