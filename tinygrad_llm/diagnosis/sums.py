"""Hypotheses about sums: terms that are left out, sums too many, and a missing mean or projection."""

from __future__ import annotations

import numpy as np

from tinygrad_llm.diagnosis.evidence import Diagnosis, Evidence
from tinygrad_llm.tape import Array


def repeated_index(e: Evidence) -> Diagnosis | None:
    """Where an entry is used several times, the sum over the outputs has kept one term: it was assigned."""
    kept, dropped = _terms(e)
    if kept is None or dropped is None:
        return None
    several = (kept | dropped).sum(0) > 1
    by_index = any(a.dtype.kind in "iu" for a in e.inputs) or not several.all()
    if not by_index or (kept.sum(0)[several] != 1).any() or dropped[:, ~several].any() or not several.any():
        return None
    return Diagnosis(
        "repeated_index",
        "an entry that was read several times keeps one cotangent instead of their sum: dx[index] = dy assigns; add "
        "with np.add.at(dx, index, dy)",
        f"wrong exactly at the entries that are used more than once: {e.places(several)}",
    )


def dropped_terms(e: Evidence) -> Diagnosis | None:
    """Some terms are left out: those of a whole output, or of all but some places along an axis of it."""
    kept, dropped = _terms(e)
    if kept is None or dropped is None:
        return None
    if e.elementwise and (kept.sum(0) + dropped.sum(0)).max() == 1:  # each sum has one term: see wrong_places
        return None
    left_out, seen = dropped.sum(1) > 0, kept.sum(1) > 0
    counts = f"{int(dropped.sum())} of {int((kept | dropped).sum())} terms are left out, the others are right"
    number = np.repeat(np.arange(len(e.outputs)), [y.size for y in e.outputs])  # of the output that each row belongs to
    if not set(number[left_out]) & set(number[seen]):
        text = "ignored: the gradients through all outputs add up"
        return Diagnosis("output_ignored", f"the cotangent of output {number[left_out][0]} is {text}", counts)
    for axis in range(e.outputs[0].ndim) if len(e.outputs) == 1 else ():
        index = np.indices(e.outputs[0].shape)[axis].ravel()
        inside, outside = {int(i) for i in index[seen]}, {int(i) for i in index[left_out]}
        if inside and not inside & outside:
            where = f"{e.axis_name(axis, e.outputs[0].ndim)} of the output"
            text = f"the sum over {where} is missing: d{e.name} must add up what arrives from every place along it"
            return Diagnosis("missing_sum", text, f"only places {sorted(inside)} along it count; {counts}")
    if kept.shape[0] == kept.shape[1] and np.array_equal(kept, kept & np.eye(len(kept), dtype=bool)):
        text = "an output depends on other entries too: of sum_i dy_i J_ij the terms with i other than j are missing"
        return Diagnosis("missing_cross_terms", text, f"only the diagonal of the Jacobian is used; {counts}")
    text = "some terms of the sum over the outputs are missing: look for a mask or an index that leaves them out"
    return Diagnosis("missing_terms", text, counts)


def _terms(e: Evidence) -> tuple[Array, Array] | tuple[None, None]:
    """Which terms of ``dx_j = sum_i dy_i J_ij`` are kept and which left out, if every G_ij is J_ij or 0."""
    dropped = e.wrong & (np.abs(e.given) <= e.floor)
    kept = ~e.wrong & (np.abs(e.right) > e.floor)
    return (kept, dropped) if e.units and np.array_equal(e.wrong, dropped) and kept.any() else (None, None)


def cotangent_summed(e: Evidence) -> Diagnosis | None:
    """All rows of G are the same: dx depends on the sum of dy only."""
    if not e.units or len(e.given) < 2 or not e.near(e.given, e.given[:1]).all():
        return None
    return Diagnosis(
        "cotangent_summed",
        "only the sum (or the mean) of dy is used: each entry of dy must meet the derivatives of its own output",
        f"all {len(e.given)} unit cotangents gave the same gradient",
    )


def extra_sum(e: Evidence) -> Diagnosis | None:
    """G is J summed, or averaged, along an axis of x, and repeated."""
    for axis in e.long_axes():
        lines = e.right.reshape(-1, *e.x.shape)
        for what, reduced in (("sum", lines.sum(axis + 1)), ("mean", lines.mean(axis + 1))):
            if e.explains(
                np.repeat(np.expand_dims(reduced, axis + 1), e.x.shape[axis], axis + 1).reshape(e.right.shape)
            ):
                where = e.axis_name(axis)
                return Diagnosis(
                    "extra_sum",
                    f"there is a {what} over {where} of d{e.name} that does not belong there",
                    f"each value is the {what} of the right ones along {where}",
                )
    return None


# ---------------------------------------------------------------------------------------------------------------------


def missing_direction(e: Evidence) -> Diagnosis | None:
    """J - G = c u along an axis, with u known: ones (a missing mean), or x, xhat, y or p (a missing projection)."""
    for axis in e.long_axes():
        error, right = e.along(e.error, axis), e.along(e.right, axis)
        constant, *others = _directions(e, axis).items()
        for cause, candidates in (
            ("missing_mean", [[constant]]),
            ("missing_projection", [[other] for other in others]),
            ("missing_mean_and_projection", [[constant, other] for other in others]),
        ):
            fitting = []
            for candidate in candidates:
                known = [u for _, u in candidate]
                enough = np.count_nonzero(np.abs(error).max(2) > e.floor) * (error.shape[2] - len(known)) >= 2
                if enough and _inside(e, error, known) and not _inside(e, right, known):
                    fitting.append(candidate[-1][0])
            if fitting:
                return _missing(e, cause, " or ".join(fitting), axis)
    return None


def _directions(e: Evidence, axis: int) -> dict[str, Array]:
    """Vectors along `axis` in which a term may be missing, each (rest, N)."""
    x, y = e.x, e.y
    found = {"a constant": np.ones_like(x), e.name: x, f"{e.name} minus its mean": x - x.mean(axis, keepdims=True)}
    if y is not None and y.shape == x.shape:
        found |= {"the output y": y, "exp(y)": np.exp(y)}
    exponentials = np.exp(x - x.max(axis, keepdims=True))
    found[f"softmax({e.name})"] = exponentials / exponentials.sum(axis, keepdims=True)
    return {name: e.along(u[None], axis)[0] for name, u in found.items()}


def _inside(e: Evidence, lines: Array, known: list[Array]) -> bool:
    """Whether every line (K, rest, N) is a combination of the known vectors (rest, N) there."""
    basis = np.stack(known, -1)  # (rest, N, vectors)
    if not np.isfinite(basis).all():
        return False
    projected = np.einsum("krn,rmn->krm", lines, basis @ np.linalg.pinv(basis))
    return bool(e.near(lines, projected).all())


def _missing(e: Evidence, cause: str, direction: str, axis: int) -> Diagnosis:
    where = e.axis_name(axis)
    mean = f"the mean over {where} is not subtracted, or with a wrong factor"
    projection = (
        f"the term along {direction} ({where}) is missing or has a wrong factor: the vjp needs one that is {direction} "
        "times a sum (or mean) of dy times something"
    )
    text = {"missing_mean": mean, "missing_projection": projection}.get(cause, f"{mean}; and {projection}")
    hidden = e.units and (np.abs(e.error.sum(0)) <= 100 * e.floor).all()
    shown = {"missing_mean": "constant", "missing_projection": f"{direction} times a number"}
    shape = shown.get(cause, f"a constant plus {direction} times a number")
    evidence = f"along {where}, tape minus numeric is {shape} for every cotangent"
    if hidden:
        evidence += "; it is 0 for a constant cotangent, which would have hidden this"
    return Diagnosis(cause, text, evidence)


def rank_one(e: Evidence) -> Diagnosis | None:
    """J - G = c u along an axis, u not known: one term of the form ``u sum(dy v)`` is missing or wrong."""
    for axis in e.long_axes():
        error, right = e.along(e.error, axis), e.along(e.right, axis)
        ranks = [np.linalg.matrix_rank(a.swapaxes(0, 1), tol=1e3 * e.floor).max() for a in (error, right)]
        if ranks[0] == 1 and ranks[1] > 1 and min(error.shape[0], error.shape[2]) > 2:
            where = e.axis_name(axis)
            return Diagnosis(
                "rank_one",
                f"one term is missing or wrong, of the kind u sum(v dy) along {where}, as in the gradients of softmax "
                "and of norms: the input also acts through a sum that all outputs share",
                f"along {where} tape minus numeric is one vector, times a number that depends on dy "
                f"(rank 1; the derivative itself has rank {ranks[1]})",
            )
    return None
