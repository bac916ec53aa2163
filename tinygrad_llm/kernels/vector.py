"""Small blocks in vector registers: a matrix product and a transpose, as LLVM vector instructions.

Loops that LLVM vectorises by itself reach a third to a half of what a core can do in a matrix product. Here the block
of the result stays in registers: `ROWS` rows of two vectors each, 16 accumulators where there are 32 registers, 8 where
there are 16. Each step of the inner index loads two vectors of b, and multiplies and adds them to every row with one
number of a. Both functions are written for vectors of any length; LLVM translates those that a processor lacks.
"""

from __future__ import annotations

import platform
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import extending
from numba.core import cgutils, types
from numba.np.arrayobj import populate_array

from tinygrad_llm.kernels.compiled import compiled

intrinsic: Any = extending.intrinsic  # what it makes is called without the context of typing


def registers() -> tuple[int, int]:
    """(bytes of a vector register, how many there are) on this processor."""
    try:
        features = llvmlite.binding.get_host_cpu_features()
    except RuntimeError:  # LLVM does not know how to ask this kind of processor
        features = {}
    if features.get("avx512f"):
        return 64, 32
    return (32 if features.get("avx") else 16), (32 if platform.machine().lower() in ("arm64", "aarch64") else 16)


VECTOR, _count = registers()
ROWS = 8 if _count == 32 and VECTOR > 16 else 4  # never more than the columns of a block, in float64 too
"""Rows of a block of a product. It has ``2 VECTOR`` bytes of columns: see `block_columns`."""


@compiled(inline=True)
def block_columns(array):
    """Columns of a block of a product of arrays of this dtype."""
    return 2 * VECTOR // array.itemsize


@compiled(inline=True)
def allocate(rows, columns, like):
    """An uninitialised (rows, columns) array, aligned for vectors."""
    memory = np.empty(rows * columns + VECTOR // like.itemsize, like.dtype)
    skipped = (VECTOR - memory.ctypes.data % VECTOR) // like.itemsize
    return memory[skipped : skipped + rows * columns].reshape(rows, columns)


class Matrix:
    """What the instructions need of a two-dimensional array: where its elements are."""

    def __init__(self, context, builder, kind, value):
        array = context.make_array(kind)(context, builder, value)
        self.builder = builder
        self.memory = builder.bitcast(array.data, ir.IntType(8).as_pointer())
        self.strides = cgutils.unpack_tuple(builder, array.strides, 2)
        self.element = context.get_data_type(kind.dtype)
        self.size = kind.dtype.bitwidth // 8

    def at(self, row, column, kind, skipped=0):
        """A pointer to a value of LLVM type `kind` at [row, column], so many elements to the right of it."""
        builder = self.builder
        offset = builder.add(builder.mul(row, self.strides[0]), builder.mul(column, self.strides[1]))
        offset = builder.add(offset, ir.Constant(offset.type, skipped * self.size))
        return builder.bitcast(builder.gep(self.memory, [offset]), kind.as_pointer())

    def load(self, row, column, kind, skipped=0):
        return self.builder.load(self.at(row, column, kind, skipped), align=self.size)

    def store(self, value, row, column, skipped=0):
        self.builder.store(value, self.at(row, column, value.type, skipped), align=self.size)


def _plus(builder, index, number):
    return builder.add(index, ir.Constant(index.type, number))


def block_product(rows):
    """The product of a block of so many rows: see `multiply_block`."""

    def product(typingctx, a, i, b, j, first, last, c, m, n, add):
        signature = types.void(a, *[types.intp] * 1, b, *[types.intp] * 3, c, *[types.intp] * 2, types.boolean)

        def generate(context, builder, signature, arguments):
            a, i, b, j, first, last, c, m, n, add = arguments
            a, b, c = (Matrix(context, builder, signature.args[p], x) for p, x in ((0, a), (2, b), (6, c)))
            lanes = VECTOR // a.size
            vector = ir.VectorType(a.element, lanes)
            name = f"llvm.fmuladd.v{lanes}{a.element.intrinsic_name}"  # one instruction, where the processor has it
            fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
            unset = ir.Constant(vector, ir.Undefined)
            places = [(row, half) for row in range(rows) for half in range(2)]
            total = {place: cgutils.alloca_once(builder, vector) for place in places}  # LLVM keeps them in registers
            for place in places:
                builder.store(ir.Constant(vector, None), total[place])
            with builder.if_then(add):
                for row, half in places:
                    builder.store(c.load(_plus(builder, m, row), n, vector, half * lanes), total[row, half])
            with cgutils.for_range_slice(builder, first, last, ir.Constant(first.type, 1)) as (k, _):
                right = [b.load(k, j, vector, half * lanes) for half in range(2)]
                for row in range(rows):
                    number = a.load(_plus(builder, i, row), k, a.element)
                    left = builder.insert_element(unset, number, ir.Constant(ir.IntType(32), 0))
                    left = builder.shuffle_vector(left, left, ir.Constant(ir.VectorType(ir.IntType(32), lanes), None))
                    for half in range(2):
                        place = total[row, half]
                        builder.store(builder.call(fma, [left, right[half], builder.load(place)]), place)
            for row, half in places:
                c.store(builder.load(total[row, half]), _plus(builder, m, row), n, half * lanes)
            return context.get_dummy_value()

        return signature, generate

    return intrinsic(product)


multiply_block = block_product(ROWS)
"""``c[m:m+R, n:n+W] = a[i:i+R, first:last] @ b[first:last, j:j+W]``, added to what c holds if `add` is true.

R is `ROWS` and W `block_columns`. a may have any strides; the rows of b and c are contiguous. Nothing is checked: the
arrays must be large enough, and of one dtype, and c must not overlap the others.
"""

multiply_pair = block_product(2)
"""The same for two rows, in the same order: it takes less time, and gives the same bits."""


@intrinsic
def transpose_block(typingctx, x, i, j, y, m, n):
    """``y[m:m+L, n:n+L] = x[i:i+L, j:j+L].T`` with L numbers in a vector. Rows are contiguous; nothing is checked.

    A round interleaves vector r with vector r + L/2: so the highest bit of the row becomes the lowest of the column,
    and the highest of the column the lowest of the row. After log2(L) rounds rows and columns have changed places.
    """
    signature = types.void(x, types.intp, types.intp, y, types.intp, types.intp)

    def generate(context, builder, signature, arguments):
        x, i, j, y, m, n = arguments
        x, y = Matrix(context, builder, signature.args[0], x), Matrix(context, builder, signature.args[3], y)
        lanes = VECTOR // x.size
        vector = ir.VectorType(x.element, lanes)
        order = [lane // 2 + lanes * (lane % 2) for lane in range(2 * lanes)]
        masks = [ir.Constant(ir.VectorType(ir.IntType(32), lanes), part) for part in (order[:lanes], order[lanes:])]
        rows = [x.load(_plus(builder, i, r), j, vector) for r in range(lanes)]
        for _ in range(lanes.bit_length() - 1):
            pairs = zip(rows[: lanes // 2], rows[lanes // 2 :], strict=True)
            rows = [builder.shuffle_vector(upper, lower, mask) for upper, lower in pairs for mask in masks]
        for r, row in enumerate(rows):
            y.store(row, _plus(builder, m, r), n)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def largest(typingctx, row):
    """The largest number of a contiguous row that is not NaN; -inf if there is none."""

    def generate(context, builder, signature, arguments):
        (kind,) = signature.args
        array = context.make_array(kind)(context, builder, arguments[0])
        element, size = context.get_data_type(kind.dtype), kind.dtype.bitwidth // 8
        lanes = VECTOR // size
        vector = ir.VectorType(element, lanes)
        (length,) = cgutils.unpack_tuple(builder, array.shape, 1)
        zero, step = ir.Constant(length.type, 0), ir.Constant(length.type, lanes)
        whole = builder.sub(length, builder.srem(length, step))

        def larger(x, y):
            return builder.select(builder.fcmp_ordered(">", x, y), x, y)

        least = ir.Constant(element, float("-inf"))
        top = cgutils.alloca_once_value(builder, ir.Constant(vector, [least] * lanes))
        with cgutils.for_range_slice(builder, zero, whole, step) as (index, _):
            place = builder.bitcast(builder.gep(array.data, [index]), vector.as_pointer())
            builder.store(larger(builder.load(place, align=size), builder.load(top)), top)
        best = builder.load(top)
        half = lanes // 2
        while half:
            turned = [ir.Constant(ir.IntType(32), (lane + half) % lanes) for lane in range(lanes)]
            best = larger(
                best, builder.shuffle_vector(best, best, ir.Constant(ir.VectorType(ir.IntType(32), lanes), turned))
            )
            half //= 2
        last = cgutils.alloca_once_value(builder, builder.extract_element(best, ir.Constant(ir.IntType(32), 0)))
        with cgutils.for_range_slice(builder, whole, length, ir.Constant(length.type, 1)) as (index, _):
            builder.store(larger(builder.load(builder.gep(array.data, [index])), builder.load(last)), last)
        return builder.load(last)

    return row.dtype(row), generate


def _view(context, builder, kind, memory, shape, strides):
    """An array of Numba type `kind` over memory that something else keeps alive."""
    array = context.make_array(kind)(context, builder)
    size = ir.Constant(ir.IntType(64), kind.dtype.bitwidth // 8)
    memory = builder.bitcast(memory, array.data.type)
    populate_array(array, data=memory, shape=shape, strides=strides or [size], itemsize=size, meminfo=None)
    return array._getvalue()


@intrinsic
def matrix_at(typingctx, address, stride, rows, columns, like):
    """The (rows, columns) matrix at an address, of the dtype of `like`: contiguous rows, `stride` bytes apart.

    So one compiled function serves arrays of every layout. Their owner must keep them.
    """
    kind = types.Array(like.dtype, 2, "A")

    def generate(context, builder, signature, arguments):
        address, stride, rows, columns, _ = arguments
        memory = builder.inttoptr(address, ir.IntType(8).as_pointer())
        size = ir.Constant(stride.type, like.dtype.bitwidth // 8)
        return _view(context, builder, kind, memory, [rows, columns], [stride, size])

    return kind(*[types.intp] * 4, like), generate


@intrinsic
def row_of(typingctx, x, i):
    """Row i of a matrix of contiguous rows, as an array that LLVM knows to be contiguous.

    Unlike ``x[i]`` it takes no part in counting references, which costs more than a short row: x must be kept.
    """
    kind = types.Array(x.dtype, 1, "C")

    def generate(context, builder, signature, arguments):
        matrix = Matrix(context, builder, signature.args[0], arguments[0])
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        _, columns = cgutils.unpack_tuple(builder, array.shape, 2)
        zero = ir.Constant(ir.IntType(64), 0)
        return _view(context, builder, kind, matrix.at(arguments[1], zero, matrix.element), [columns], [])

    return kind(x, types.intp), generate


@intrinsic
def rows_from(typingctx, x, i):
    """``x[i:]`` of a matrix, on the same terms as `row_of`."""
    kind = types.Array(x.dtype, 2, "A")

    def generate(context, builder, signature, arguments):
        matrix = Matrix(context, builder, signature.args[0], arguments[0])
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        rows, columns = cgutils.unpack_tuple(builder, array.shape, 2)
        memory = matrix.at(arguments[1], ir.Constant(rows.type, 0), matrix.element)
        return _view(context, builder, kind, memory, [builder.sub(rows, arguments[1]), columns], matrix.strides)

    return kind(x, types.intp), generate
