"""The compiled twins of `ops/quantized.py` and `nn/quantized.py`: products with weights in few bits.

Few rows x are rounded to 16 bits, with a scale for each group: as exact as float32 weights deserve, and a processor
multiplies and adds 16-bit integers, pairwise into 32 bits, faster than it turns bytes into floats. The sum of a group
is a whole number below 2^31, without rounding::

    y = sum_g d_g e_g sum_i q_i z_i + sum_g m_g sum_i x_i       x_i = e_g z_i, with e_g = max |x_i| / 32767

Many rows (a prompt) go to BLAS, with the weights turned into float32 some rows at a time, by each thread for itself:
so nobody waits, and they are read from the cache.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending
from numba.core import cgutils, types

from tinygrad_llm import threads
from tinygrad_llm.kernels.compiled import compiled
from tinygrad_llm.kernels.products import LEAST, UNIT
from tinygrad_llm.nn.quantized import STRETCHES, fitted
from tinygrad_llm.ops.quantized import BLOCK, GROUPS, columns_of, quantized_gradient, quantized_product

intrinsic: Any = extending.intrinsic  # what it makes is called without the context of typing

FEW = 8
"""Rows up to which integers are faster than BLAS."""

LARGEST = np.finfo(np.float32).max

PIECE = 1 << 20
"""Weights below which a second thread costs more than it saves."""

CHUNK = 1 << 19
"""Weights that are turned into float32 at once for BLAS: 2 MB."""

PARTS = 8
"""Parts, about, into which the columns of a gradient are cut for the threads."""

LANES = 16
"""Sums of a row that are kept side by side, each of two products of 16-bit integers."""

BYTE, SHORT, INT, FLOAT = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.FloatType()


def _vector(element, lanes):
    return ir.VectorType(element, lanes)


class Row:
    """A contiguous one-dimensional array of compiled code, of which vectors are loaded."""

    def __init__(self, context, builder, kind, value):
        self.builder, self.data = builder, context.make_array(kind)(context, builder, value).data

    def at(self, index):
        return self.builder.load(self.builder.gep(self.data, [index]))

    def vector(self, index, lanes):
        pointer = self.builder.gep(self.data, [index])
        kind = _vector(pointer.type.pointee, lanes)
        return self.builder.load(self.builder.bitcast(pointer, kind.as_pointer()), align=1)


def _pairwise_products(builder, q, z):
    """``q_2i z_2i + q_2i+1 z_2i+1`` of vectors of 16-bit integers, in 32 bits: one instruction on most processors."""
    lanes = q.type.count
    wide = _vector(INT, lanes)
    products = builder.mul(builder.sext(q, wide), builder.sext(z, wide))
    halves = []
    for first in (0, 1):
        order = ir.Constant(_vector(INT, lanes // 2), list(range(first, lanes, 2)))
        halves.append(builder.shuffle_vector(products, ir.Constant(wide, ir.Undefined), order))
    return builder.add(*halves)


def _add_scaled(builder, whole, scale, sums):
    """Add whole numbers, times a scale, to the float32 sums in memory, which LLVM keeps in a register."""
    vector = _vector(FLOAT, LANES)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), scale, ir.Constant(INT, 0))
    scale = builder.shuffle_vector(first, first, ir.Constant(_vector(INT, LANES), None))
    fma = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{LANES}f32"
    )
    builder.store(builder.call(fma, [builder.sitofp(whole, vector), scale, builder.load(sums)]), sums)


def _total(builder, vector):
    """The sum of a vector's elements, added pairwise."""
    kind = ir.FunctionType(FLOAT, [FLOAT, vector.type])
    name = f"llvm.vector.reduce.fadd.v{LANES}f32"
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, [ir.Constant(FLOAT, -0.0), vector], fastmath=("reassoc",))


def _float_at(builder, bfloats, index):
    """The float32 of a bfloat16."""
    bits = builder.shl(builder.zext(bfloats.at(index), INT), ir.Constant(INT, 16))
    return builder.bitcast(bits, FLOAT)


def _rows(context, builder, signature, arguments):
    return [Row(context, builder, kind, a) for kind, a in zip(signature.args, arguments, strict=True)]


@intrinsic
def product_int8(typingctx, values, scales, z, steps):
    """``sum_g d_g e_g sum_i q_i z_i``: int8 q, bfloat16 d, 16-bit z, float32 e; of d and e one for each group."""

    def generate(context, builder, signature, arguments):
        q, d, z, e = _rows(context, builder, signature, arguments)
        sums = cgutils.alloca_once_value(builder, ir.Constant(_vector(FLOAT, LANES), None))
        with cgutils.for_range(builder, context.make_array(scales)(context, builder, arguments[1]).nitems) as loop:
            start, total = builder.mul(loop.index, ir.Constant(loop.index.type, GROUPS["int8"])), None
            for half in range(0, GROUPS["int8"], 2 * LANES):
                at = builder.add(start, ir.Constant(start.type, half))
                wide = builder.sext(q.vector(at, 2 * LANES), _vector(SHORT, 2 * LANES))
                products = _pairwise_products(builder, wide, z.vector(at, 2 * LANES))
                total = products if total is None else builder.add(total, products)
            _add_scaled(builder, total, builder.fmul(_float_at(builder, d, loop.index), e.at(loop.index)), sums)
        return _total(builder, builder.load(sums))

    return types.float32(values, scales, z, steps), generate


@intrinsic
def product_int4(typingctx, values, scales, minimums, z, steps, totals):
    """The same with q of 4 bits, a block of bytes for two groups; and ``sum_g m_g t_g``, with minimums and totals."""

    def generate(context, builder, signature, arguments):
        q, d, m, z, e, t = _rows(context, builder, signature, arguments)
        sums = cgutils.alloca_once_value(builder, ir.Constant(_vector(FLOAT, LANES), None))
        least = [cgutils.alloca_once_value(builder, ir.Constant(FLOAT, 0)) for _ in range(2)]
        groups = context.make_array(scales)(context, builder, arguments[1]).nitems
        two, size = ir.Constant(groups.type, 2), ir.Constant(groups.type, GROUPS["int4"])
        with cgutils.for_range(builder, builder.udiv(groups, two)) as loop:
            both = q.vector(builder.mul(loop.index, size), GROUPS["int4"])
            low = builder.and_(both, ir.Constant(both.type, [15] * GROUPS["int4"]))
            high = builder.lshr(both, ir.Constant(both.type, [4] * GROUPS["int4"]))
            for part, bits in enumerate((low, high)):
                group = builder.add(builder.mul(loop.index, two), ir.Constant(two.type, part))
                wide = builder.zext(bits, _vector(SHORT, 2 * LANES))
                products = _pairwise_products(builder, wide, z.vector(builder.mul(group, size), 2 * LANES))
                _add_scaled(builder, products, builder.fmul(_float_at(builder, d, group), e.at(group)), sums)
                added = builder.fmul(_float_at(builder, m, group), t.at(group))
                builder.store(builder.fadd(builder.load(least[part]), added), least[part])
        minimum = builder.fadd(*map(builder.load, least))
        return builder.fadd(_total(builder, builder.load(sums)), minimum)

    return types.float32(values, scales, minimums, z, steps, totals), generate


@compiled(inline=True, reorder=True)
def round_row(x, group, z, steps, totals):
    """x (C,) as ``x = e z`` with whole z (P,) and e (P / group,); and the total of each group. All finite?"""
    finite = True
    for g in range(len(steps)):
        xs, zs = x[g * group : (g + 1) * group], z[g * group : (g + 1) * group]
        top, total = np.float32(0), np.float32(0)
        for i in range(len(xs)):
            top = max(top, abs(xs[i]))
            total += xs[i]
        if not abs(total) <= LARGEST:  # so for NaN; isfinite computes total - total, which may be reordered
            finite = False
        inverse = np.float32(32767) / top if top > 0 else np.float32(0)
        for i in range(len(xs)):
            zs[i] = np.int16(np.rint(xs[i] * inverse))
        zs[len(xs) :] = 0
        steps[g], totals[g] = top / np.float32(32767), total
    return finite


@compiled
def round_rows(x, group, z, steps, totals):
    """`round_row` of each row. Is all of x finite?"""
    finite = True
    for n in range(x.shape[0]):
        finite &= round_row(x[n], group, z[n], steps[n], totals[n])
    return finite


@compiled(inline=True)
def float_of(bits):
    """The float32 of a bfloat16."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@compiled
def times_int8(low, high, values, scales, z, steps, y):
    """``y = x w^T`` for the rows `low` to `high` of w."""
    for f in range(low, high):
        for n in range(y.shape[0]):
            y[n, f] = product_int8(values[f], scales[f], z[n], steps[n])


@compiled
def times_int4(low, high, values, scales, minimums, z, steps, totals, y):
    for f in range(low, high):
        for n in range(y.shape[0]):
            y[n, f] = product_int4(values[f], scales[f], minimums[f], z[n], steps[n], totals[n])


@compiled
def expand_int8(low, high, values, scales, w):
    for f in range(low, high):
        for g in range(scales.shape[1]):
            d = float_of(scales[f, g])
            q, out = values[f, g * 64 : (g + 1) * 64], w[f, g * 64 : (g + 1) * 64]
            for i in range(64):
                out[i] = d * np.float32(q[i])


@compiled
def expand_int4(low, high, values, scales, minimums, w):
    for f in range(low, high):
        for b in range(scales.shape[1] // 2):
            d, m = float_of(scales[f, 2 * b]), float_of(minimums[f, 2 * b])
            d2, m2 = float_of(scales[f, 2 * b + 1]), float_of(minimums[f, 2 * b + 1])
            q, first, second = (
                values[f, b * 32 : b * 32 + 32],
                w[f, b * 64 : b * 64 + 32],
                w[f, b * 64 + 32 : b * 64 + 64],
            )
            for i in range(32):
                first[i] = d * np.float32(q[i] & np.uint8(15)) + m
                second[i] = d2 * np.float32(q[i] >> np.uint8(4)) + m2


@quantized_product.kernel
def _(x, values, scales, minimums=None):
    if (
        x.dtype != np.float32
        or not x.dtype.isnative
        or not x.size
        or not all(a.flags.c_contiguous for a in (values, scales, *(() if minimums is None else (minimums,))))
    ):
        return NotImplemented
    if len(x) > FEW:
        return _many_rows(x, values, scales, minimums)
    group = GROUPS["int8" if minimums is None else "int4"]
    steps, totals = np.empty((2, len(x), scales.shape[1]), np.float32)
    z = np.empty((len(x), scales.shape[1] * group), np.int16)
    if not round_rows(np.ascontiguousarray(x), group, z, steps, totals):
        return NotImplemented  # infinity and NaN have no whole number
    y = np.empty((len(x), len(values)), np.float32)
    least = max(1, PIECE // z.shape[1])
    if minimums is None:
        threads.run(times_int8, len(values), values, scales, z, steps, y, least=least)
    else:
        threads.run(times_int4, len(values), values, scales, minimums, z, steps, totals, y, least=least)
    return y


def _many_rows(x, values, scales, minimums):
    """The product by BLAS, for which each thread turns weights of its own into float32."""
    y = np.empty((len(x), len(values)), np.float32)
    units, least = max(1, len(values) // UNIT), -(-LEAST // (x.size * UNIT))
    with threads.one_blas_thread():
        threads.run(columns_of_product, units, units, x, values, scales, minimums, y, least=least)
    return y


def columns_of_product(low, high, units, x, values, scales, minimums, y):
    """Units low to high of the columns of y, from about as many rows of weights at a time as the cache holds.

    A part is never much smaller than others, as BLAS adds up small products in another order: the last unit takes what
    is left over, and parts are equal but for one unit.
    """
    width = scales.shape[1] * GROUPS["int8" if minimums is None else "int4"]
    count = -(-(high - low) * UNIT * width // CHUNK)
    edges = [(low + (high - low) * part // count) * UNIT for part in range(count)]
    edges.append(len(values) if high == units else high * UNIT)
    w = np.empty((max(b - a for a, b in pairwise(edges)), width), np.float32)
    for first, last in pairwise(edges):
        some = w[: last - first]
        if minimums is None:
            expand_int8(0, len(some), values[first:last], scales[first:last], some)
        else:
            expand_int4(0, len(some), values[first:last], scales[first:last], minimums[first:last], some)
        np.matmul(x, some[:, : x.shape[1]].T, out=y[:, first:last])


@quantized_gradient.kernel
def _(dy, inputs, values, scales, minimums=None):
    if dy.dtype != np.float32 or not dy.dtype.isnative or not dy.size:
        return NotImplemented
    dx = np.empty((len(dy), inputs), np.float32)
    blocks = -(-inputs // BLOCK)
    width = max(1, min(CHUNK // (BLOCK * len(values)), -(-blocks // PARTS)))
    least = -(-LEAST // (dy.size * width * BLOCK))
    with threads.one_blas_thread():
        threads.run(columns_of_gradient, -(-blocks // width), width, dy, values, scales, minimums, dx, least=least)
    return dx


def columns_of_gradient(low, high, width, dy, values, scales, minimums, dx):
    """Parts low to high of the columns of ``dy w``, each of `width` blocks: the same for any number of threads."""
    w = np.empty((len(values), width * BLOCK), np.float32)
    for part in range(low, high):
        bits = columns_of(part * width, (part + 1) * width, values, scales, minimums)
        if minimums is None:
            expand_int8(0, len(w), *bits[:2], w)
        else:
            expand_int4(0, len(w), *bits, w)
        out = dx[:, part * width * BLOCK : (part + 1) * width * BLOCK]
        np.matmul(dy, w[:, : out.shape[1]], out=out)


# ---------------------------------------------------------------------------------------------------------------------


@compiled(inline=True)
def level(w, inverse, m):
    return min(max(np.rint((w - m) * inverse), np.float32(0)), np.float32(15))


@compiled
def fit_groups(low, high, groups, stretches, d, m):
    """Linear regression of each group on its levels, for several ranges; the best by squared error."""
    count = np.float32(groups.shape[1])
    for g in range(low, high):
        w = groups[g]
        least = most = w[0]
        mean_w = np.float32(0)
        for i in range(len(w)):
            least, most = min(least, w[i]), max(most, w[i])
            mean_w += w[i]
        mean_w /= count
        best = np.float32(np.inf)
        d[g], m[g] = 0, least
        if most == least:
            continue
        for stretch in stretches:
            inverse = (np.float32(15) + stretch) / (most - least)
            mean_q = np.float32(0)
            for i in range(len(w)):
                mean_q += level(w[i], inverse, least)
            mean_q /= count
            spread = covariance = np.float32(0)
            for i in range(len(w)):
                off = level(w[i], inverse, least) - mean_q
                spread += off * off
                covariance += off * (w[i] - mean_w)
            new_d = covariance / spread
            new_m = mean_w - new_d * mean_q
            inverse, error = np.float32(1) / new_d, np.float32(0)
            for i in range(len(w)):
                rest = w[i] - level(w[i], inverse, new_m) * new_d - new_m
                error += rest * rest
            if error < best:
                best, d[g], m[g] = error, new_d, new_m


@fitted.kernel
def _(groups):
    if groups.dtype != np.float32 or not groups.flags.c_contiguous:
        return NotImplemented
    d, m = np.empty((2, len(groups)), np.float32)
    threads.run(fit_groups, len(groups), groups, np.array(STRETCHES, np.float32), d, m, least=1 << 10)
    return d, m
