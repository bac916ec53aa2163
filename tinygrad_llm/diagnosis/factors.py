"""Hypotheses about a gradient that is right but for a factor: a number, or a function of the input or the output.

Letters as in `evidence`: J = ``e.right``, G = ``e.given``; here also r = G / J wherever J is not zero.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from tinygrad_llm.diagnosis.evidence import Diagnosis, Evidence
from tinygrad_llm.tape import Array


def constant_factor(e: Evidence) -> Diagnosis | None:
    """G = c J. The best c is <G, J> / <J, J>; c = -1 is a flipped sign, a size N is a mean in place of a sum."""
    if not np.isfinite(e.right).all() or not e.right.any():
        return None
    c = float((e.given * e.right).sum() / (e.right * e.right).sum())
    if c == 0 or not e.explains(c * e.right):
        return None
    count = int((np.abs(e.right) > e.floor).sum())
    where = f"in all {count} values that are not 0" if count > 1 else "in the only value that is not 0"
    seen = f"tape / numeric = {c:.9g} {where}"
    if math.isclose(c, -1, rel_tol=1e-6):
        return Diagnosis("sign", "the sign is flipped: multiply the gradient by -1", seen)
    big = max(abs(c), 1 / abs(c))
    known: dict[str, str] = {}
    for value, kind, words in _known_numbers(e):
        if math.isclose(value, big, rel_tol=1e-5) and (kind != "root" or not known):
            known.setdefault(kind, words)
    if not known and count < 2:
        return None
    remedy = f"{'divide' if abs(c) > 1 else 'multiply'} by {big:.9g}" + (" and flip the sign" if c < 0 else "")
    if known:
        remedy += f"; {big:.6g} is {', or '.join(known.values())}"
    return Diagnosis("factor", f"the gradient is {c:.9g} times what it should be: {remedy}", seen)


def _known_numbers(e: Evidence) -> Iterator[tuple[float, str, str]]:
    """Numbers that gradients are often off by: (value, its kind, what it is). The likeliest of each kind first."""
    scalars = {k: v for k, v in e.options.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    arrays = enumerate(zip(e.names, e.inputs, strict=True))
    scalars |= {n: a.item() for i, (n, a) in arrays if a.ndim == 0 and a.dtype.kind in "iuf" and i != e.position}
    for name, value in scalars.items():
        for words, number in ((name, value), (f"1 - {name}", 1 - value)):
            if number not in (0, 1):
                yield max(abs(number), 1 / abs(number)), "argument", f"{words} (or 1 over it)"
    sizes = [(n, f"the size of axis {a - e.x.ndim} of d{e.name}") for a, n in enumerate(e.x.shape)]
    sizes += [(n, f"the size of axis {a - y.ndim} of the output") for y in e.outputs for a, n in enumerate(y.shape)]
    sizes += [(e.x.size, f"the number of entries of d{e.name}"), *((y.size, "that of the output") for y in e.outputs)]
    sizes += [(x.size // x.shape[-1], "the number of rows") for x in (e.x, *e.outputs) if x.ndim > 1 and x.size]
    y_size = sum(y.size for y in e.outputs)
    sizes += [(e.x.size // max(y_size, 1), f"the number of entries of {e.name} to one of the output")]
    sizes += [(y_size // max(e.x.size, 1), f"the number of places where each entry of {e.name} is used")]
    yield from ((n, "size", f"{words} (a mean where a sum belongs, or the reverse)") for n, words in sizes if n > 1)
    yield from ((k, "power", f"the factor that a power of {k} brings down") for k in (2, 3, 4))
    yield from ((math.sqrt(n), "root", f"the square root of {n}, {words}") for n, words in sizes if n > 1)


# ---------------------------------------------------------------------------------------------------------------------


def named_factor(e: Evidence) -> Diagnosis | None:
    """G_ij = r_ij J_ij, and r is a simple function of x_j, of y_i or of another input: a factor missing or too many."""
    rows, columns = np.nonzero(np.abs(e.right) > e.floor)
    if not e.units or not len(rows) or not e.explains(np.where(np.abs(e.right) > e.floor, e.given, 0.0)):
        return None
    r = e.given[rows, columns] / e.right[rows, columns]
    factors = {name: f for name, f in _functions(e, rows, columns) if np.isfinite(f).all() and np.ptp(f) > 1e-3}
    reduced = {name: f for name, f in _reductions(e, columns) if np.isfinite(f).all() and np.ptp(f) > 1e-3}
    for candidates, distinct, tolerance in ((factors, 3, 100 * e.rtol), (reduced, 2, 1e-3)):
        different = len(np.unique(np.round(r, 6)))
        if different < min(distinct, 2 if len(r) >= 6 else 3):  # fewer numbers may agree by chance
            continue
        for name, words in _matches(r, candidates, tolerance):
            text = words + ("" if e.elementwise else "; the rest of the formula is right")
            return Diagnosis("missing_factor", text, f"tape / numeric = {name} in all {len(r)} values that are not 0")
    return None


def _matches(r: Array, factors: dict[str, Array], tolerance: float) -> Iterator[tuple[str, str]]:
    """(what r equals, what that means) for every candidate, or quotient of two, that equals r or -r."""

    def same(a: Array) -> int | None:
        return next((s for s in (1, -1) if np.allclose(r, s * a, rtol=tolerance, atol=0)), None)

    signs = {1: "", -1: "-"}
    flipped = {1: "", -1: ", and the sign is flipped"}
    for name, f in factors.items():
        if s := same(1 / f):
            yield f"{signs[s]}1 / ({name})", f"the factor {name} is missing{flipped[s]}"
        if s := same(f):
            yield f"{signs[s]}({name})", f"the factor {name} is one too many, or is not divided by{flipped[s]}"
    for (a, f), (b, g) in itertools.permutations(factors.items(), 2):
        if s := same(f / g):
            yield f"{signs[s]}({a}) / ({b})", f"the factor {a} stands where {b} belongs{flipped[s]}"


def _functions(e: Evidence, rows: Array, columns: Array) -> Iterator[tuple[str, Array]]:
    """Simple functions of the numbers that belong to each (output, input) pair."""
    numbers = {e.name: e.x.ravel()[columns]}
    if e.y is not None:
        numbers["y"] = e.y.ravel()[rows]
        for _, name, array in e.others():
            for shape, at in ((e.y.shape, rows), (e.x.shape, columns)):
                if np.ndim(array) and _broadcasts(array.shape, shape):
                    numbers.setdefault(name, np.broadcast_to(array, shape).ravel()[at])
    for name, v in numbers.items():
        yield from ((name, v), (f"1 - {name}", 1 - v), (f"{name}^2", v**2), (f"1 - {name}^2", 1 - v**2))
        yield from ((f"{name} (1 - {name})", v * (1 - v)), (f"exp({name})", np.exp(v)), (f"sign({name})", np.sign(v)))
    for (a, v), (b, w) in itertools.combinations(numbers.items(), 2):
        yield f"{a} {b}", v * w


def _reductions(e: Evidence, columns: Array) -> Iterator[tuple[str, Array]]:
    """Statistics of x along an axis, at each entry of x. They match roughly only: there may be an eps in them."""
    for axis in e.long_axes():
        where, mean_square = f"over {e.axis_name(axis)}", (e.x**2).mean(axis, keepdims=True)
        for name, value in (
            ("the standard deviation", e.x.std(axis, keepdims=True)),
            ("the variance", e.x.var(axis, keepdims=True)),
            ("the root of the mean square", np.sqrt(mean_square)),
            ("the norm", np.sqrt(mean_square * e.x.shape[axis])),
            ("the sum of exp", np.exp(e.x).sum(axis, keepdims=True)),
        ):
            yield f"{name} {where}", np.broadcast_to(value, e.x.shape).ravel()[columns]


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return len(shape) <= len(to) and all(a in (1, b) for a, b in zip(shape[::-1], to[::-1], strict=False))


def local_derivative(e: Evidence) -> Diagnosis | None:
    """J and G are both diagonal: each output depends on one entry, and its derivative has a wrong formula."""
    if not e.elementwise:
        return None
    where = np.abs(e.right) > e.floor
    r = e.given[where] / e.right[where]
    k, j = np.unravel_index(int(np.abs(e.error).argmax()), e.error.shape)
    return Diagnosis(
        "local_derivative",
        "each entry of dy meets a wrong local derivative: check the formula of the derivative, each factor of the "
        "chain rule, and at which point it is taken",
        f"at {e.name} = {e.x.ravel()[j]:.6g} the slope is {e.right[k, j]:.6g}, the vjp has {e.given[k, j]:.6g}"
        + (f"; tape / numeric runs from {r.min():.4g} to {r.max():.4g}" if r.size else ""),
    )
