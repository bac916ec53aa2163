"""Hypotheses about the vjp as a whole, tried for inputs of any size: nothing, zero, random, not linear, of another
input.
"""

from __future__ import annotations

import numpy as np

from tinygrad_llm.diagnosis.evidence import Diagnosis, Evidence
from tinygrad_llm.tape import GradientError


def no_gradient(error: GradientError) -> Diagnosis:
    """The vjp returned None, or an array that cannot be a gradient: there are no numbers to compare."""
    if error.shape is None:
        text = (
            "no gradient (None): the vjp must return one gradient for each floating-point input, in their order; an "
            "input that is not to be differentiated is not given to gradcheck, but fixed: lambda x: f(x, fixed)"
        )
        return Diagnosis("no_gradient", text, str(error))
    if error.shape == error.wanted[::-1]:
        text = "the gradient is transposed: its shape is that of the input, reversed; a .T is missing or too many"
        return Diagnosis("transposed", text, str(error))
    text = (
        "the gradient has the wrong shape: it must have that of the input, or one to which the input broadcasts (the "
        "tape then sums over the broadcast axes); look for a sum over the wrong axis, or one without keepdims"
    )
    return Diagnosis("shape", text, str(error))


def not_attached(e: Evidence) -> Diagnosis | None:
    """No gradient arrived at all, for any cotangent."""
    if e.attached:
        return None
    return Diagnosis(
        "not_attached",
        f"no gradient reached {e.name}: is it attached to the tape? Compute with Tensors and operations all the way, "
        "without .data, .numpy() or detach()",
        f"its .grad is None, but the output changes with it (derivative up to {np.abs(e.right).max():.3g})",
    )


def random_vjp(e: Evidence) -> Diagnosis | None:
    """A vjp is a function of dy: the same dy must give the same dx."""
    dy = e.cotangents[0]
    difference = float(np.abs(e.vjp(dy) - e.vjp(dy)).max(initial=0.0))
    if not difference > e.noise:
        return None
    return Diagnosis(
        "random_vjp",
        "the vjp gives another gradient each time it is called: use what forward has drawn or computed (a dropout "
        "mask, say), and draw nothing new",
        f"two calls with the same dy differ by {difference:.3g}",
    )


def not_finite(e: Evidence) -> Diagnosis | None:
    """NaN or infinity where the numerical derivative is finite."""
    bad = ~np.isfinite(e.given)
    if not bad.any():
        return None
    return Diagnosis(
        "not_finite",
        "the gradient has NaN or infinities where the derivative is finite: look for 0/0, 0 times infinity, the log or "
        "root of a negative number, or an exp that overflows in the vjp",
        f"{int(bad.sum())} of {bad.size} values, " + (f"d{e.name} at {e.places(bad.sum(0) > 0)}" if e.shaped else ""),
    )


def zero(e: Evidence) -> Diagnosis | None:
    """G = 0, J is not."""
    if e.given.any():
        return None
    hidden = e.units and (np.abs(e.right.sum(0)) <= 100 * e.floor).all()
    return Diagnosis(
        "zero",
        "the gradient is zero, though the output does change with the input: the vjp returns zeros, or multiplies by a "
        "mask or a difference that is always 0",
        f"all {e.given.size} values are 0, the derivative is up to {np.abs(e.right).max():.3g}"
        + ("; its columns sum to 0, so a constant cotangent would have hidden this" if hidden else ""),
    )


def constant_function(e: Evidence) -> Diagnosis | None:
    """J = 0, G is not."""
    if np.abs(e.right).max(initial=0.0) > e.noise:
        return None
    return Diagnosis(
        "constant_function",
        f"the output does not change with {e.name} here, so its gradient should be 0: is {e.name} used in forward, and "
        "not cut off by a mask, a clip or a rounding?",
        f"all derivatives are 0, the gradient is up to {np.abs(e.given).max():.3g}",
    )


def cotangent_ignored(e: Evidence) -> Diagnosis | None:
    """dx = g whatever dy is."""
    a, b = e.cotangents
    if not np.array_equal(e.vjp(a), e.vjp(b)):
        return None
    return Diagnosis(
        "cotangent_ignored",
        "the gradient does not depend on the cotangent: multiply the local derivative by dy",
        "two different random dy gave the same gradient",
    )


def not_linear(e: Evidence) -> Diagnosis | None:
    """vjp(a dy) = a vjp(dy) and vjp(dy + dz) = vjp(dy) + vjp(dz), whatever the function: J is a matrix."""
    a, b = e.cotangents
    single, double, both = e.vjp(a), e.vjp(2 * a), e.vjp(a + b)
    size = np.abs(np.concatenate([single, both])).max(initial=0.0)
    at_zero = float(np.abs(e.vjp(0 * a)).max(initial=0.0))
    added = at_zero > 1e-12 * size
    deviation = max(np.abs(double - 2 * single).max(initial=0.0), np.abs(both - single - e.vjp(b)).max(initial=0.0))
    if not added and deviation <= 1e-6 * size:  # float32 rounding is no more
        return None
    k = int(np.abs(double - 2 * single).argmax())
    return Diagnosis(
        "not_linear",
        "the gradient is not linear in the cotangent: each term must contain dy exactly once, as a factor",
        f"vjp(0) is up to {at_zero:.3g} instead of 0: a term without dy is added"
        if added
        else f"where vjp(dy) is {single[k]:.4g}, vjp(2 dy) is {double[k]:.4g} instead of {2 * single[k]:.4g}",
    )


def rounded(e: Evidence) -> Diagnosis | None:
    """Entries that are whole numbers, or fit into float32, though dy is random."""
    dx = e.vjp(e.cotangents[0])
    dx = dx[dx != 0]
    if not dx.size:
        return None
    if np.array_equal(dx, np.rint(dx)):
        return _dtype("whole numbers", "every value of the gradient is a whole number, though dy is not")
    if np.array_equal(dx, dx.astype(np.float32)) and _relative_error(e) < 1e-2:
        return _dtype("float32", f"every value is a float32 number; largest relative error {_relative_error(e):.1e}")
    return None


def low_precision(e: Evidence) -> Diagnosis | None:
    """An error of the size of float32's rounding, 6e-8, and not one factor for all."""
    error = _relative_error(e)
    if not 1e-9 < error < 3e-7 or e.explains(e.right * (e.given.sum() / e.right.sum())):
        return None
    seen = f"largest relative error {error:.1e}; float32 rounds by 6e-8 (or forward has an eps that the vjp has not)"
    return _dtype("float32", seen)


def _relative_error(e: Evidence) -> float:
    return float((np.abs(e.error) / np.maximum(np.abs(e.right), np.abs(e.right).max())).max())


def _dtype(kind: str, evidence: str) -> Diagnosis:
    text = f"the gradient was rounded to {kind} on the way: let the vjp's arrays take the dtype of dy or x"
    return Diagnosis("dtype", text, evidence)


def swapped(e: Evidence) -> Diagnosis | None:
    """G is the Jacobian of another input of the same shape."""
    for position, name, array in e.others():
        if array.shape == e.x.shape and e.explains(e.jacobian(position, e.inputs)):
            return Diagnosis(
                "swapped",
                f"this is the gradient of {name}: the vjp returns the gradients in the wrong order",
                f"all {e.given.size} values equal the derivative by {name}",
            )
    return None
