"""Matrix products: matmul, linear, einsum. The arithmetic is BLAS; written here is which product to ask for.

One rule is behind every gradient of this file. Each factor enters a product linearly, so the gradient of one factor is
the cotangent times the other factor, summed over every letter that the factor itself does not have::

    y_tf = sum_c x_tc W_cf     dx_tc = sum_f dy_tf W_cf     dW_cf = sum_t x_tc dy_tf     dx = dy W^T     dW = x^T dy
"""

from __future__ import annotations

import math
import string
from functools import partial

import numpy as np

from tinygrad_llm.backend import twinned
from tinygrad_llm.operation import Operation, named_shape, op, register
from tinygrad_llm.ops.samples import normal


def rows(a):
    """`a` as a matrix: its last axis, and all the others as one. No copy where the layout allows a view."""
    return a.reshape(math.prod(a.shape[:-1]), a.shape[-1])


@twinned
def sum_rows(a):
    """Sum over all axes but the last: what a parameter shared by every row receives.

    As a product with a row of ones, since BLAS adds rows several times faster than NumPy's `sum`.
    """
    a = rows(a)
    return np.ones(len(a), a.dtype) @ a


@twinned
def product(x, y, out=None):
    """``x @ y`` of two matrices, into `out` if it is given. BLAS; its twin only says who computes which part."""
    return np.matmul(x, y, out=out)


@op
def linear(x, weight, bias=None):
    """``y = x W + b``: x (..., C), weight (C, F), bias (F,) or None, y (..., F). The weight is stored as (in, out).

    All leading axes of x are rows of one matrix, so there is one matrix product, however many axes x has. Saves x and
    the weight, copies of neither. With rows t::

        dx = dy W^T,   dW = x^T dy,   db = sum_t dy_t

    all three deferred: the gradient of a frozen weight costs no arithmetic, and a pipeline schedule may put the weight
    gradients off. Cost, with N rows: 2 N C F floating-point operations forward and twice that backward.
    """
    if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[0]:
        raise ValueError(
            f"linear: {named_shape(x.shape, 'BTC')} @ {named_shape(weight.shape, 'CF')}: "
            "the last axis of x and the first of the weight must be the same C"
        )
    features = weight.shape[1]
    if bias is not None and bias.shape != (features,):
        raise ValueError(
            f"linear: the weight {named_shape(weight.shape, 'CF')} needs a bias (F={features},), not {bias.shape}"
        )
    y = product(rows(x), weight)
    if bias is not None:
        y += bias

    def vjp(dy):
        def dx():
            return product(rows(dy), weight.T).reshape(x.shape)

        return dx, lambda: product(rows(x).T, rows(dy)), lambda: sum_rows(dy)

    return y.reshape(*x.shape[:-1], features), vjp


@linear.derivation("x")
def _(x, weight, dy, bias=None):
    jacobian = weight.T  # ∂y_f/∂x_c = W_cf
    yield (
        "`dx_tc = sum_uf dy_uf ∂y_uf/∂x_tc` over rows `u` and features `f`; row `u` of `y` depends on row `u` of `x` "
        "alone, so its Jacobian is `W_cf` where `u = t`, else 0",
        np.einsum("uf,ut,fc->tc", rows(dy), np.eye(len(rows(x))), jacobian).reshape(x.shape),
    )
    yield "only `u = t` is left of the sum over rows", np.einsum("tf,fc->tc", rows(dy), jacobian).reshape(x.shape)
    yield "a sum over a row of `dy` and one of `W`: times `W` transposed", dy @ weight.T


@linear.derivation("weight")
def _(x, weight, dy, bias=None):
    x, dy = rows(x), rows(dy)
    jacobian = np.einsum("tc,fg->tfcg", x, np.eye(weight.shape[1]))
    yield (
        "`dW_cg = sum_tf dy_tf ∂y_tf/∂W_cg`, with `∂y_tf/∂W_cg = x_tc` where `f = g`, else 0",
        np.einsum("tf,tfcg->cg", dy, jacobian),
    )
    yield "only `f = g` is left: an outer product of `x_t` and `dy_t` for each row", sum(map(np.outer, x, dy))
    yield "a sum over rows of outer products is `x` transposed times `dy`", x.T @ dy


@linear.derivation("bias")
def _(x, weight, bias, dy):
    features = len(bias)
    yield (
        "`db_g = sum_tf dy_tf ∂y_tf/∂b_g`, with `∂y_tf/∂b_g = 1` where `f = g`, else 0: the bias is added as it is",
        np.einsum("tf,fg->g", rows(dy), np.eye(features)),
    )
    yield "only `f = g` is left; every row uses the same bias, so the rows add", rows(dy).sum(0)


@linear.sample
def _(rng, shape=(2, 3)):
    return (normal(rng, shape), normal(rng, (shape[-1], 4)), normal(rng, (4,))), {}


@linear.sample
def _(rng, shape=(2, 2, 3)):
    return (normal(rng, shape), normal(rng, (shape[-1], 2))), {}


# ---------------------------------------------------------------------------------------------------------------------


@op
def matmul(x, y):
    """``z_mn = sum_k x_mk y_kn``, ``z = x @ y``: the last two axes are matrices (M, K) and (K, N), others broadcast.

    A 1-D x is one row, and a 1-D y one column; that axis is missing from z. Saves x and y. With ``Z = X Y``, ``dy`` the
    cotangent of z, and ``gx``, ``gy`` the gradients of x and y::

        gx = dy Y^T,   gy = X^T dy

    both deferred. Where a factor was broadcast over batch axes, the tape adds up its gradients; but the common case, x
    (..., M, K) and one matrix y (K, N), is a single product over all rows, forward and backward, rather than a batch of
    small ones. Cost: 2 M K N floating-point operations per matrix forward, twice that backward.
    """
    check_matmul(x, y)
    xm = x if x.ndim > 1 else x[None, :]
    ym = y if y.ndim > 1 else y[:, None]
    single = ym.ndim == 2
    zm = product(rows(xm), ym).reshape(*xm.shape[:-1], ym.shape[1]) if single else xm @ ym
    z = zm if x.ndim > 1 else zm[..., 0, :]
    shape = zm.shape

    def vjp(dy):
        dz = dy.reshape(shape)

        def gx():
            return product(rows(dz), ym.T).reshape(xm.shape) if single else dz @ ym.swapaxes(-1, -2)

        def gy():
            return product(rows(xm).T, rows(dz)).reshape(y.shape) if single else xm.swapaxes(-1, -2) @ dz

        return gx, gy

    return z if y.ndim > 1 else z[..., 0], vjp


def check_matmul(x, y):
    """Raise ValueError, naming the axes, unless x @ y is defined."""
    shapes = f"matmul: {named_shape(x.shape, 'BTC')} @ {named_shape(y.shape, 'BCF' if y.ndim > 2 else 'CF'[: y.ndim])}"
    if x.ndim == 0 or y.ndim == 0:
        raise ValueError(f"{shapes}: a number is not a matrix; multiply by it with *")
    if x.shape[-1] != (inner := y.shape[max(0, y.ndim - 2)]):
        raise ValueError(f"{shapes}: inner sizes {x.shape[-1]} and {inner} differ")
    try:
        np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    except ValueError:
        raise ValueError(f"{shapes}: batch axes {x.shape[:-2]} and {y.shape[:-2]} do not broadcast") from None


def as_matrices(x, y, dy):
    """x, y and dy of a matmul with all axes written out: those missing from 1-D operands, and the batch axes."""
    xm, ym = np.atleast_2d(x), y if y.ndim > 1 else y[:, None]
    batch = np.broadcast_shapes(xm.shape[:-2], ym.shape[:-2])
    dz = dy.reshape(*batch, xm.shape[-2], ym.shape[-1])
    return np.broadcast_to(xm, (*batch, *xm.shape[-2:])), np.broadcast_to(ym, (*batch, *ym.shape[-2:])), dz


@matmul.derivation("x")
def _(x, y, dy):
    xm, ym, dz = as_matrices(x, y, dy)
    jacobian = np.einsum("mp,...kn->...mnpk", np.eye(xm.shape[-2]), ym)
    yield (
        "`gx_pk = sum_mn dy_mn ∂z_mn/∂x_pk`, with `∂z_mn/∂x_pk = y_kn` where `m = p`, else 0 (in each matrix of the "
        "batch)",
        np.einsum("...mn,...mnpk->...pk", dz, jacobian),
    )
    yield "only `m = p` is left", np.einsum("...pn,...kn->...pk", dz, ym)
    yield "a sum over `n`, the last axis of both: times `y` transposed", dz @ ym.swapaxes(-1, -2)


@matmul.derivation("y")
def _(x, y, dy):
    xm, _, dz = as_matrices(x, y, dy)
    jacobian = np.einsum("...mk,nq->...mnkq", xm, np.eye(dz.shape[-1]))

    def as_y(gradient):
        return gradient if y.ndim > 1 else gradient[..., 0]

    yield (
        "`gy_kq = sum_mn dy_mn ∂z_mn/∂y_kq`, with `∂z_mn/∂y_kq = x_mk` where `n = q`, else 0 (in each matrix of the "
        "batch)",
        as_y(np.einsum("...mn,...mnkq->...kq", dz, jacobian)),
    )
    yield "only `n = q` is left", as_y(np.einsum("...mk,...mq->...kq", xm, dz))
    yield "a sum over `m`, the first axis of both: `x` transposed times `dy`", as_y(xm.swapaxes(-1, -2) @ dz)


@matmul.sample
def _(rng, shape=(2, 3)):
    return (normal(rng, shape), normal(rng, (shape[-1], 2))), {}


@matmul.sample
def _(rng, shape=(2, 2, 3)):  # batch axes that broadcast, in both directions
    return (normal(rng, shape), normal(rng, (3, 1, shape[-1], 2))), {}


@matmul.sample
def _(rng, shape=(3, 2, 2)):  # one matrix for a whole batch
    return (normal(rng, shape), normal(rng, (shape[-1], 4))), {}


@matmul.sample
def _(rng, shape=(3,)):  # a row times a batch of matrices
    return (normal(rng, shape), normal(rng, (2, shape[-1], 2))), {}


@matmul.sample
def _(rng, shape=(2, 2, 3)):  # a batch of matrices times a column
    return (normal(rng, shape), normal(rng, shape[-1:])), {}


@matmul.sample
def _(rng, shape=(3,)):  # a row times a column: a number
    return (normal(rng, shape), normal(rng, shape[-1:])), {}


# ---------------------------------------------------------------------------------------------------------------------


def parse_subscripts(subscripts, shapes):
    """One string of letters per operand, and one for the output.

    An ellipsis becomes letters of its own, the last axes aligned, as in broadcasting. A missing output is NumPy's: the
    ellipsis, then the letters that occur once, in alphabetical order. ValueError if shapes and letters differ.
    """
    inputs, arrow, output = subscripts.replace(" ", "").partition("->")
    terms = inputs.split(",")
    where = f"einsum: {subscripts!r}"
    if len(terms) != len(shapes):
        raise ValueError(f"{where} describes {len(terms)} operands, but {len(shapes)} were given")
    hidden = [len(shape) - len(term.replace("...", "")) for term, shape in zip(terms, shapes, strict=True)]
    unused = [letter for letter in string.ascii_letters if letter not in subscripts]
    fresh = "".join(unused[: max([0, *(n for n, term in zip(hidden, terms, strict=True) if "..." in term)])])
    letters = []
    for term, shape, n in zip(terms, shapes, hidden, strict=True):
        if n < 0 or (n > 0 and "..." not in term):
            raise ValueError(f"{where}: {term!r} does not name the {len(shape)} axes of an operand of shape {shape}")
        letters.append(term.replace("...", fresh[len(fresh) - n :]))
    together = "".join(letters)
    if arrow:
        output = output.replace("...", fresh)
    else:
        output = fresh + "".join(sorted(c for c in set(together) if together.count(c) == 1 and c not in fresh))
    for letter in output:
        if letter not in together or output.count(letter) > 1:
            raise ValueError(f"{where}: the output must name each of its axes once, and only axes of the operands")
    axes = [pair for term, shape in zip(letters, shapes, strict=True) for pair in zip(term, shape, strict=True)]
    for letter in sorted(set(together)):
        sizes = {size for name, size in axes if name == letter} - {1}
        if len(sizes) > 1:
            raise ValueError(f"{where}: {letter} has the sizes {' and '.join(map(str, sorted(sizes)))}")
    return letters, output


class Einsum(Operation):
    """Lets the subscripts stand first, as everyone writes them; the operation itself takes them by name.

    So the operation's positional inputs are exactly the arrays, and its gradients stand in the same order.
    """

    def __call__(self, *inputs, **options):
        if inputs and isinstance(inputs[0], str):
            inputs, options = inputs[1:], {"subscripts": inputs[0], **options}
        return super().__call__(*inputs, **options)


def einsum_reference(*xs, subscripts):
    """``y = einsum(subscripts, a, b, ...)``: multiply the operands and sum over the letters that the output lacks.

    ``einsum("bij,bjk->bik", a, b)`` is a batched product. Letters may repeat within an operand (its diagonal), occur in
    one operand only (a plain sum), and hide in an ellipsis. Saves the operands. y is linear in each of them, and the
    gradient of one is an einsum again: the cotangent takes its place, and its letters are the output::

        y = einsum("ij,jk->ik", a, b)     da = einsum("ik,jk->ij", dy, b)     db = einsum("ik,ij->jk", dy, a)

    Two cases need a word. A letter that only this operand has (or only this one at its full size) was summed away,
    ``sum_i a_i = sum_i a_i 1_i``: so a vector of ones is its other factor. A letter that it has twice reads its
    diagonal, so the gradient is written to the diagonal of zeros. Cost: NumPy's einsum in an optimised order, through
    BLAS where two operands make a plain matrix product; in a hot loop write `matmul`, which always is one. Source, for
    derivatives in this notation: Laue, Mitterreiter, Giesen 2018, "Computing higher order derivatives of matrix and
    tensor expressions".
    """
    terms, output = parse_subscripts(str(subscripts), [x.shape for x in xs])

    def product(terms, arrays, output):
        return np.einsum(f"{','.join(terms)}->{output}", *arrays, optimize=True)

    def vjp(dy):
        def gradient(i):
            axes = dict(zip(terms[i], xs[i].shape, strict=True))  # the letters of operand i, each once, and their sizes
            names = [output, *terms[:i], *terms[i + 1 :]]
            arrays = [dy, *xs[:i], *xs[i + 1 :]]
            known = {axis for name, a in zip(names, arrays, strict=True) for axis in zip(name, a.shape, strict=True)}
            missing = {letter: size for letter, size in axes.items() if (letter, size) not in known}
            ones = [np.ones(size, dy.dtype) for size in missing.values()]
            return on_diagonal(product([*names, *missing], [*arrays, *ones], "".join(axes)), terms[i], "".join(axes))

        return tuple(partial(gradient, i) for i in range(len(xs)))

    return product(terms, xs, output), vjp


def on_diagonal(values, term, axes):
    """`values`, of the letters `axes`, as one of the letters `term`: zero off the diagonal of a repeated letter."""
    if term == axes:
        return values
    sizes = dict(zip(axes, values.shape, strict=True))
    full = np.zeros([sizes[letter] for letter in term], values.dtype)
    np.einsum(f"{term}->{axes}", full)[...] = values  # an einsum without a sum is a view
    return full


einsum = register(Einsum(einsum_reference, "einsum"))


@einsum.derivation("xs")
def _(*xs, subscripts, dy):
    terms, output = parse_subscripts(subscripts, [x.shape for x in xs])

    def by_columns(i):
        dx = np.zeros(xs[i].shape)
        for j in np.ndindex(dx.shape):
            unit = np.zeros(dx.shape)
            unit[j] = 1
            dx[j] = np.sum(dy * np.einsum(subscripts, *xs[:i], unit, *xs[i + 1 :]))
        return dx

    yield (
        "`dx_j = sum_o dy_o ∂y_o/∂x_j`; `y` is linear in each operand, so column `j` of its Jacobian is `y` with the "
        "operand replaced by the unit array `e_j`",
        tuple(by_columns(i) for i in range(len(xs))),
    )

    sizes = {c: n for term, x in zip(terms, xs, strict=True) for c, n in zip(term, x.shape, strict=True)}

    def by_terms(i):
        dx = np.zeros(xs[i].shape)
        for values in np.ndindex(*sizes.values()):
            at = dict(zip(sizes, values, strict=True))
            elements = [x[tuple(at[c] for c in term)] for term, x in zip(terms, xs, strict=True)]
            others = math.prod(elements[:i] + elements[i + 1 :])
            dx[tuple(at[c] for c in terms[i])] += dy[tuple(at[c] for c in output)] * others
        return dx

    yield (
        "write `y` as one sum over the values of all letters: in each term `x_j` is multiplied by elements of the "
        "other operands, and this, times `dy_o`, is what the term adds to `dx_j`",
        tuple(by_terms(i) for i in range(len(xs))),
    )  # the vjp sorts the same sum by the letters of x: an einsum with dy in the place of x


@einsum.sample
def _(rng, shape=(2, 3)):
    return (normal(rng, shape), normal(rng, (shape[-1], 2))), {"subscripts": "ij,jk->ik"}


@einsum.sample
def _(rng, shape=(2, 2, 3)):  # a batch, letters in another order, one of them in one operand only
    return (normal(rng, shape), normal(rng, (4, shape[-1], shape[0]))), {"subscripts": "bij,kjb->kb"}


@einsum.sample
def _(rng, shape=(2, 3)):  # a diagonal, kept by one operand and summed in the other; no output given
    return (normal(rng, (*shape, shape[-1])), normal(rng, (2, 2))), {"subscripts": "iaa,kk"}


@einsum.sample
def _(rng, shape=(2, 3)):  # an ellipsis of different length in each operand, three operands
    return (normal(rng, (2, *shape)), normal(rng, shape[:1]), normal(rng, shape[-1:])), {
        "subscripts": "...j,...,j->...j"
    }


@einsum.sample
def _(rng, shape=(2, 3)):  # one operand, transposed without an arrow
    return (normal(rng, shape),), {"subscripts": "ba"}
