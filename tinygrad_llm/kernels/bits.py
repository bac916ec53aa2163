"""Bytes of text seen 64 at a time: which of them are letters, digits, white space, as the bits of one number.

A comparison of 64 bytes is one instruction on a processor with vectors of that size, a few on others; the questions
"where does a word begin" and "where is the next one" are then arithmetic on 64-bit numbers instead of a loop with a
branch for each character. LLVM translates these functions for any processor.

Memory is read and written at addresses here, which are numbers, not in arrays. To hand an array over costs: from Python
45 ns, and from one compiled function to another a call that counts its references, even where the one becomes part of
the other; this was more than half of the time it takes to find a word. Nothing is checked: who passes an address must
know what is there, and keep the array that it is in.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import extending
from numba.core import cgutils, types
from numba.np.arrayobj import populate_array

intrinsic: Any = extending.intrinsic  # what it makes is called without the context of typing

BYTE, WORD = ir.IntType(8), ir.IntType(64)
LANES = 64
MASKS = ("letter", "digit", "white", "space", "line", "apostrophe", "high")
"""What `masks` tells of a byte: a to z and A to Z; 0 to 9; tab, line feed, vertical tab, form feed, carriage return and
space; a space; line feed and carriage return; an apostrophe; part of a character that is not ASCII."""


def _memory(builder, address, kind):
    return builder.inttoptr(address, kind.as_pointer())


@intrinsic
def masks(typingctx, address):
    """Seven numbers, one for each of `MASKS`: bit i tells of the byte at ``address + i``. Reads 64 bytes."""

    def generate(context, builder, signature, arguments):
        vector = ir.VectorType(BYTE, LANES)

        def number(value):
            return ir.Constant(vector, [value] * LANES)

        chars = builder.load(_memory(builder, arguments[0], vector), align=1)

        def within(chars, first, count):
            return builder.icmp_unsigned("<", builder.sub(chars, number(ord(first))), number(count))

        def equal(char):
            return builder.icmp_unsigned("==", chars, number(ord(char)))

        found = (
            within(builder.or_(chars, number(0x20)), "a", 26),
            within(chars, "0", 10),
            builder.or_(within(chars, "\t", 5), equal(" ")),
            equal(" "),
            builder.or_(equal("\n"), equal("\r")),
            equal("'"),
            builder.icmp_signed("<", chars, number(0)),
        )
        return cgutils.pack_array(builder, [builder.bitcast(truths, WORD) for truths in found])

    return types.UniTuple(types.uint64, len(MASKS))(types.uint64), generate


@intrinsic
def lowest(typingctx, bits):
    """The place of the lowest bit that is set; 64 if none is."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


@intrinsic
def highest(typingctx, bits):
    """The place of the highest bit that is set. At least one must be."""

    def generate(context, builder, signature, arguments):
        zeros = builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))
        return builder.sub(ir.Constant(WORD, 63), zeros)

    return types.uint64(types.uint64), generate


@intrinsic
def prefetch(typingctx, address):
    """Ask for the memory at an address, which will be read soon."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.VoidType(), [BYTE.as_pointer()] + [ir.IntType(32)] * 3)
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        read, soon, of_data = (ir.Constant(ir.IntType(32), number) for number in (0, 3, 1))
        builder.call(function, [_memory(builder, arguments[0], BYTE), read, soon, of_data])
        return context.get_dummy_value()

    return types.void(types.uint64), generate


def _reader(kind):
    """An intrinsic that reads a number of Numba type `kind` at any address, as 64 bits."""

    @intrinsic
    def read(typingctx, address):
        def generate(context, builder, signature, arguments):
            number = builder.load(_memory(builder, arguments[0], context.get_data_type(kind)), align=1)
            return number if kind.bitwidth == 64 else builder.zext(number, WORD)

        return types.uint64(types.uint64), generate

    return read


def _writer(kind):
    """An intrinsic that writes the lowest bits of a number, as many as a Numba type has, at any address."""

    @intrinsic
    def write(typingctx, address, number):
        def generate(context, builder, signature, arguments):
            address, number = arguments
            number = number if kind.bitwidth == 64 else builder.trunc(number, context.get_data_type(kind))
            builder.store(number, _memory(builder, address, number.type), align=1)
            return context.get_dummy_value()

        return types.void(types.uint64, types.uint64), generate

    return write


read_8, read_32, read_64 = (_reader(kind) for kind in (types.uint8, types.uint32, types.uint64))
write_8, write_32, write_64 = (_writer(kind) for kind in (types.uint8, types.uint32, types.uint64))


@intrinsic
def array_at(typingctx, address, length, dtype):
    """The memory at an address as an array of `length` numbers of a dtype.

    The caller keeps that memory.
    """
    element = dtype.instance_type
    kind = types.Array(element, 1, "C")

    def generate(context, builder, signature, arguments):
        address, length, _ = arguments
        array = context.make_array(kind)(context, builder)
        size = context.get_constant(types.intp, element.bitwidth // 8)
        length = builder.bitcast(length, WORD)
        data = builder.inttoptr(address, context.get_data_type(element).as_pointer())
        populate_array(array, data, [length], [size], size, None)
        return array._getvalue()

    return kind(types.uint64, types.uint64, dtype), generate
