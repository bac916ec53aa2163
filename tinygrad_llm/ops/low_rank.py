"""LoRA: what a frozen linear map is changed by, as the product of two thin matrices."""

from __future__ import annotations

import numpy as np

from tinygrad_llm.operation import named_shape, op
from tinygrad_llm.ops.products import product, rows
from tinygrad_llm.ops.samples import normal


@op
def lora(x, base, a, b, scale=1.0, parts=()):
    """``y = base + s (x A) B``, beside a linear map ``base = x W + b``: x (..., C), base and y (..., F), A (C, r),
    B (r, F), s the number `scale`.

    W + s A B is W with an update of rank r, but no matrix of the size of W is made, here or for the gradients: with
    ``h = x A`` there are only arrays of N rows, r columns. W and b belong to the operation that made `base`, and dy
    reaches it unchanged. If they are frozen, their gradients, which it defers, are never asked for. With rows t::

        dh = s dy B^T,   dx = dh A^T,   dA = x^T dh,   dB = s h^T dy,   dbase = dy

    of which dx is only that by way of A; the tape adds what comes by way of W. Saves x, h, A and B. dh, which is small,
    is made at once; the others are deferred.

    A matrix W that is several side by side (queries, keys and values) may have updates of some of them. `parts` are
    the columns ``((start, stop), ...)`` of y that are updated, each by a rank r of its own: A then has the A of all
    parts side by side, (C, r P) for P parts, and B theirs, r rows of as many columns as the parts have together.
    Elsewhere y is `base`. Without `parts` there is one, which is all of y.

    Cost: 2 N r (P C + F) floating-point operations forward and twice that backward, where W takes 2 N C F.
    Source: Hu et al. 2021, arXiv:2106.09685.
    """
    spans, rank = checked(x, base, a, b, parts)
    xs, features, places = rows(x), base.shape[-1], []
    h, at = product(xs, a) * scale, 0
    covered = sum(stop - start for start, stop in spans) == features
    y = (np.empty if covered else np.zeros)((len(xs), features), np.result_type(h, base))
    for number, (start, stop) in enumerate(spans):
        ranks, width = slice(number * rank, (number + 1) * rank), stop - start
        places.append((ranks, slice(start, stop), slice(at, at + width)))
        product(h[:, ranks], b[:, at : at + width], out=y[:, start:stop])
        at += width
    y += rows(base)
    shape = x.shape

    def vjp(dy):
        dys, dh = rows(dy), np.empty_like(h, dtype=np.result_type(h, dy))
        for ranks, here, there in places:
            dh[:, ranks] = product(dys[:, here], b[:, there].T)
        dh *= scale

        def db():
            result = np.empty_like(b)
            for ranks, here, there in places:
                result[:, there] = product(h[:, ranks].T, dys[:, here])
            return result

        return lambda: product(dh, a.T).reshape(shape), dy, lambda: product(xs.T, dh), db

    return y.reshape(base.shape), vjp


def checked(x, base, a, b, parts):
    """(parts, rank); ValueError unless all shapes fit together."""
    if a.ndim != 2 or x.ndim == 0 or x.shape[-1] != a.shape[0]:
        raise ValueError(
            f"lora: x {named_shape(x.shape, 'BTC')} and A {a.shape}: the last axis of x and the first of A must be the "
            "same C"
        )
    if base.shape[:-1] != x.shape[:-1] or base.ndim != x.ndim:
        raise ValueError(
            f"lora: base {named_shape(base.shape, 'BTF')} must have the leading axes of x {named_shape(x.shape, 'BTC')}"
        )
    spans = parts or ((0, base.shape[-1]),)
    edges = [0, *(edge for span in spans for edge in span), base.shape[-1]]
    if edges != sorted(edges):
        raise ValueError(f"lora: parts={parts} must be spans of the {base.shape[-1]} columns of y, in order and apart")
    rank, rest = divmod(a.shape[1], len(spans))
    if rest or b.shape != (expected := (rank, sum(stop - start for start, stop in spans))):
        raise ValueError(
            f"lora: A {a.shape} and B {b.shape} do not fit {len(spans)} parts of {spans}"
            + ("" if rest else f": B must be {expected}")
        )
    return spans, rank


def spread(a, b, features, parts):
    """For the derivations: A, and B written out as a matrix (r P, F) with zeros where a part's rank does not reach."""
    spans = parts or ((0, features),)
    full, at, rank = np.zeros((a.shape[1], features)), 0, len(b)
    for number, (start, stop) in enumerate(spans):
        full[number * rank : (number + 1) * rank, start:stop] = b[:, at : at + stop - start]
        at += stop - start
    return a, full


def gathered(full, rank, parts):
    """Of a gradient of `spread`'s B, what belongs to B: all else there is always zero."""
    spans = parts or ((0, full.shape[1]),)
    pieces = [full[n * rank : (n + 1) * rank, start:stop] for n, (start, stop) in enumerate(spans)]
    return np.concatenate(pieces, axis=1)


@lora.derivation("x")
def _(x, base, a, b, dy, scale=1.0, parts=()):
    a, full = spread(a, b, dy.shape[-1], parts)
    dys = rows(dy)
    yield (
        "`dx_tc = sum_uf dy_uf ∂y_uf/∂x_tc`; row `u` of `y` depends on row `u` of `x` alone, through "
        "`s sum_rc x_uc A_cr B_rf` (`base` is an input of its own), where `B` has zeros between the rank of one part "
        "and the columns of another: so the Jacobian is `s sum_r A_cr B_rf` where `u = t`, else 0",
        np.einsum("uf,ut,cr,rf->tc", dys, np.eye(len(dys)), scale * a, full).reshape(x.shape),
    )
    yield (
        "only `u = t` is left: times the transposed update `s A B` of the weight, a matrix as large as W",
        (dys @ (scale * a @ full).T).reshape(x.shape),
    )
    yield "products may be taken in any order: first `dh = s dy B^T`, which is thin", (scale * dy @ full.T) @ a.T


@lora.derivation("base")
def _(x, base, a, b, dy, scale=1.0, parts=()):
    yield (
        "`dbase_tf = sum_ug dy_ug ∂y_ug/∂base_tf`, with `∂y_ug/∂base_tf = 1` where `u = t` and `g = f`, else 0",
        (dy.ravel() @ np.eye(dy.size)).reshape(dy.shape),
    )
    yield (
        "only one term is left: the gradients of `x`, `W` and `b` by way of `base = x W + b` are those of `linear`, "
        "with the same `dy`",
        dy.copy(),
    )


@lora.derivation("a")
def _(x, base, a, b, dy, scale=1.0, parts=()):
    a, full = spread(a, b, dy.shape[-1], parts)
    xs, dys = rows(x), rows(dy)
    yield (
        "`dA_cr = sum_tf dy_tf ∂y_tf/∂A_cr`, with `∂y_tf/∂A_cr = s x_tc B_rf`",
        np.einsum("tf,tc,rf->cr", dys, scale * xs, full),
    )
    yield (
        "summed over rows first: the gradient `x^T dy` of `W`, a matrix as large as it, times `s B^T`",
        scale * (xs.T @ dys) @ full.T,
    )
    yield "in the other order: `x^T` times `dh = s dy B^T`, which is thin", xs.T @ (scale * dys @ full.T)


@lora.derivation("b")
def _(x, base, a, b, dy, scale=1.0, parts=()):
    xs, dys, rank = rows(x), rows(dy), len(b)
    yield (
        "`dB_rf = sum_t dy_tf ∂y_tf/∂B_rf`, with `∂y_tf/∂B_rf = s sum_c x_tc A_cr`, as no other column of `y` has it",
        gathered(np.einsum("tf,tc,cr->rf", dys, scale * xs, a), rank, parts),
    )
    yield (
        "summed over rows first: `A^T` times the gradient `x^T dy` of `W`, a matrix as large as it",
        gathered(scale * a.T @ (xs.T @ dys), rank, parts),
    )
    yield (
        "in the other order: `s h^T dy` with `h = x A`, which is there from the forward pass",
        gathered(scale * (xs @ a).T @ dys, rank, parts),
    )


@lora.sample
def _(rng, shape=(2, 3)):
    return (normal(rng, shape), normal(rng, (shape[0], 4)), normal(rng, (shape[-1], 2)), normal(rng, (2, 4))), {
        "scale": 1.5
    }


@lora.sample
def _(rng, shape=(2, 2, 3)):  # three matrices side by side, of which the first and the last are updated
    inputs = normal(rng, shape), normal(rng, (*shape[:-1], 7)), normal(rng, (shape[-1], 4)), normal(rng, (2, 5))
    return inputs, {"scale": 0.5, "parts": ((0, 3), (5, 7))}


@lora.sample
def _(rng, shape=(3, 2)):  # two side by side, both updated
    inputs = normal(rng, shape), normal(rng, (shape[0], 3)), normal(rng, (shape[-1], 2)), normal(rng, (1, 3))
    return inputs, {"parts": ((0, 1), (1, 3))}
