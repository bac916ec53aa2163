"""Hypotheses about where: right numbers in the wrong place, or wrong numbers in some places only."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from tinygrad_llm.diagnosis.evidence import Diagnosis, Evidence
from tinygrad_llm.tape import Array


def transposed(e: Evidence) -> Diagnosis | None:
    """G is J with the axes of x, or of dy, exchanged; or J transposed (dx = J dy instead of dy J)."""
    for prediction, where in _exchanges(e):
        if e.explains(prediction):
            broadcast = e.y is not None and e.y.size > e.x.size and where.startswith("dy")
            return Diagnosis(
                "wrong_axis" if broadcast else "transposed",
                "the sum over the broadcast axis runs over the wrong axis"
                if broadcast
                else "the right numbers, but transposed: a .T (or swapaxes) is missing or too many, or the factors of "
                "a product are in the wrong order",
                f"all {e.given.size} values are explained by {where}",
            )
    return None


def _exchanges(e: Evidence) -> Iterator[tuple[Array, str]]:
    k, n = e.right.shape
    for order in list(itertools.permutations(range(e.x.ndim)))[1:] if 2 <= e.x.ndim <= 4 else []:
        exchanged = e.right.reshape(k, *e.x.shape).transpose(0, *(a + 1 for a in order))
        yield exchanged.reshape(k, n), f"exchanging the axes of d{e.name} to the order {order}"
    if e.units and e.y is not None:
        for order in list(itertools.permutations(range(e.y.ndim)))[1:] if 2 <= e.y.ndim <= 4 else []:
            exchanged = e.right.reshape(*e.y.shape, n).transpose(*order, e.y.ndim)
            yield exchanged.reshape(k, n), f"dy with its axes in the order {order}"
        if k == n:
            yield e.right.T, "J dy instead of dy J, J being the Jacobian"
    for position, name, array in e.others():
        if array.ndim >= 2 and array.shape[-1] == array.shape[-2]:
            inputs = tuple(a.swapaxes(-1, -2) if i == position else a for i, a in enumerate(e.inputs))
            yield e.jacobian(e.position, inputs), f"using {name} transposed"


def misplaced(e: Evidence) -> Diagnosis | None:
    """The columns of G are those of J in another order: each entry received what belongs to another one."""
    n = e.x.size
    if n < 2 or n > 100:
        return None
    if len(e.given) > 1 and e.near(np.sort(e.given, 0), np.sort(e.right, 0)).all():
        return _misplaced(f"d{e.name} takes its terms from the wrong entries of dy: each has the right factors there")
    match = np.array([[e.near(e.given[:, i], e.right[:, j]).all() for j in range(n)] for i in range(n)])
    moved = [i for i in range(n) if match[i].any() and not match[i, i]]
    if not match.any(1).all() or len(moved) < 2 or len({match[i].tobytes() for i in moved}) < 2:
        return None
    i = moved[0]
    here, there = e.places(np.arange(n) == i), e.places(match[i])
    return _misplaced(f"d{e.name}{here} is what belongs to {there}; {len(moved)} of {n} entries moved")


def _misplaced(evidence: str) -> Diagnosis:
    return Diagnosis(
        "misplaced",
        "the right numbers in the wrong order: entries have received what belongs to others. Look for a wrong offset, "
        "index, shift or direction, or a reshape where a transpose belongs",
        evidence,
    )


def missing_mask(e: Evidence) -> Diagnosis | None:
    """G = J where J is not 0; and where J is 0, G has values that J has elsewhere."""
    spurious, values = e.wrong & (np.abs(e.right) <= e.floor), np.unique(e.right[np.abs(e.right) > e.floor])
    if not spurious.any() or (e.wrong != spurious).any() or len(values) > 3:
        return None
    if not e.near(e.given[spurious][:, None], values).any(1).all():
        return None
    return Diagnosis(
        "missing_mask",
        "entries receive a gradient that did not act on the output: the mask (which entry was the largest, within the "
        "bounds, chosen, kept ...) is missing",
        f"{int(spurious.sum())} of {spurious.size} derivatives are 0 but not in the vjp; the others are right",
    )


def passes_through(e: Evidence) -> Diagnosis | None:
    """G = 1: dx = dy."""
    if e.y is None or e.y.shape != e.x.shape or not e.explains(np.eye(e.x.size)):
        return None
    return Diagnosis(
        "passes_through",
        "dx = dy: the local derivative (or the mask) is forgotten",
        f"every unit cotangent came back as it was; {e.wrong_entries.sum()} of {e.x.size} entries are wrong",
    )


def other_point(e: Evidence) -> Diagnosis | None:
    """G is J at another point: the derivative was evaluated at y instead of x, or with x negated."""
    points = {f"-{e.name}": -e.x}
    if e.y is not None and e.y.shape == e.x.shape:
        points = {"the output y": e.y} | points
    points |= {name: array for _, name, array in e.others() if array.shape == e.x.shape}
    for where, point in points.items():
        inputs = tuple(point if i == e.position else a for i, a in enumerate(e.inputs))
        if e.explains(e.jacobian(e.position, inputs)):
            return Diagnosis(
                "wrong_point",
                f"the local derivative was taken at {where} instead of {e.name}",
                f"all {e.given.size} values equal the derivative there",
            )
    return None


def wrong_places(e: Evidence) -> Diagnosis | None:
    """The columns of G are those of J but in a few places: what do these have in common?"""
    wrong = e.wrong_entries.reshape(e.x.shape)
    n, count = wrong.size, int(wrong.sum())
    if not 0 < count < n:
        return None
    seen = f"wrong at {e.places(wrong.ravel())}; right at the other {n - count} of {n} entries"
    for name, array in zip(e.names, e.inputs, strict=True):
        if array.dtype.kind in "iu" and array.shape == e.x.shape[:-1] and (wrong.sum(-1) <= 1).all():
            picked = np.arange(e.x.shape[-1]) == array[..., None]
            if not (wrong & ~picked).any():
                text = f"wrong only at the entries that {name} picks: the one-hot term is missing or wrong"
                return Diagnosis("picked", text, seen)
    for words, side in (("negative", e.x < 0), ("positive", e.x > 0), ("zero", e.x == 0)):
        if count > 1 and n - count > 1 and np.array_equal(wrong, side):
            text = f"wrong exactly where {e.name} is {words}: that branch of the function has another derivative"
            return Diagnosis("branch", text, seen)
    for words, v in ((e.name, e.x), (f"|{e.name}|", np.abs(e.x))):
        inside, outside = v[wrong], v[~wrong]
        bound = inside.min() > outside.max() or inside.max() < outside.min()
        if bound and math.comb(n, count) > 100:  # else it may be chance
            sign = ">" if inside.min() > outside.max() else "<"
            limit = (inside.min() + outside.max() if sign == ">" else inside.max() + outside.min()) / 2
            text = f"wrong exactly where {words} {sign} {limit:.2g} or so: that branch of the function is wrong"
            return Diagnosis("branch", text, seen)
    for axis in e.long_axes():
        hit = np.flatnonzero(wrong.any(tuple(a for a in range(wrong.ndim) if a != axis)))
        if len(hit) == 1 and count == wrong.size // wrong.shape[axis]:
            text = f"wrong only at index {hit[0]} of {e.axis_name(axis)}: look at the edges, at slices and offsets"
            return Diagnosis("entry", text, seen)
    if count <= max(1, n // 3):
        return Diagnosis("entry", "wrong in a few entries only: look at what is special about them", seen)
    return None
