"""Threads that work on one thing step by step, and wait for each other between the steps, inside compiled code.

To hand work to other threads from Python takes tens of microseconds, to meet here less than one: a thread that is
early looks at a number in memory until the last one has changed it. If that takes long, as when other programs want the
processor, it lets them have it between two looks.
"""

from __future__ import annotations

import platform
import sys
from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending
from numba.core import cgutils, types

from tinygrad_llm import threads
from tinygrad_llm.kernels.compiled import compiled

intrinsic: Any = extending.intrinsic  # what it makes is called without the context of typing

ARRIVED, TURN, GIVEN_UP = 0, 8, 16
"""Where the numbers of a meeting are: how many threads have arrived, how many times all have, and whether one has left
for good. Each has a cache line of its own."""

PATIENCE = 1 << 12
"""Looks, about 40 us, after which a thread lets others run."""

LOOKS = 1 << 12
"""Looks, 50 to 200 us, for which a thread of the pool waits for more work before it sleeps."""

MOMENT = 200
"""Pauses, 3 to 8 us."""

WORD = ir.IntType(64)


def _place(context, builder, signature, arguments):
    """A pointer to element i of the array: the first two arguments."""
    return builder.gep(context.make_array(signature.args[0])(context, builder, arguments[0]).data, [arguments[1]])


@intrinsic
def read(typingctx, x, i):
    """``x[i]``, as other threads have left it; what they wrote before is seen afterwards."""

    def generate(context, builder, signature, arguments):
        return builder.load_atomic(_place(context, builder, signature, arguments), "acquire", 8)

    return types.int64(x, types.intp), generate


@intrinsic
def write(typingctx, x, i, value):
    """``x[i] = value``, for other threads to read; what was written before is seen with it."""

    def generate(context, builder, signature, arguments):
        builder.store_atomic(arguments[2], _place(context, builder, signature, arguments), "release", 8)
        return context.get_dummy_value()

    return types.void(x, types.intp, types.int64), generate


@intrinsic
def add_one(typingctx, x, i):
    """``x[i] += 1``, which no other thread comes between; returns what it was before."""

    def generate(context, builder, signature, arguments):
        return builder.atomic_rmw("add", _place(context, builder, signature, arguments), WORD(1), "acq_rel")

    return types.int64(x, types.intp), generate


@intrinsic
def pause(typingctx):
    """Tell the processor that this is a loop that waits."""

    def generate(context, builder, signature, arguments):
        if platform.machine().lower() in ("x86_64", "amd64"):
            function = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, function, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def let_others_run(typingctx):
    """Offer the processor to whoever waits for it."""

    def generate(context, builder, signature, arguments):
        name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
        function = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, function, name), [])
        return context.get_dummy_value()

    return types.void(), generate


@compiled
def meet(meeting, count):
    """Wait until all `count` threads are here; False if one of them never will be."""
    turn = read(meeting, TURN)
    if add_one(meeting, ARRIVED) == count - 1:
        write(meeting, ARRIVED, 0)
        write(meeting, TURN, turn + 1)
        return True
    looks = 0
    while read(meeting, TURN) == turn:
        if read(meeting, GIVEN_UP) and read(meeting, TURN) == turn:  # not one who left after this meeting
            return False
        looks += 1
        if looks < PATIENCE:
            pause()
        else:
            let_others_run()
    return True


@compiled
def watch(numbers, place, value):
    """Look at a number until it is not the value any more, or for `LOOKS` times; see `pool.watch`.

    Then wait a moment longer: whoever wrote it holds Python's lock, which the caller of this is about to ask for, and
    lets go of it as he begins his own work. To find it taken costs as much as to be woken.
    """
    looks = 0
    while read(numbers, place) == value and looks < LOOKS:
        looks += 1
        pause()
    if 0 < looks < LOOKS:
        for _ in range(MOMENT):
            pause()


@compiled(inline=True)
def share(length, step, thread, count):
    """First and last of the numbers below `length` that are this thread's, in whole steps."""
    steps = (length + step - 1) // step
    return steps * thread // count * step, min(steps * (thread + 1) // count * step, length)


def run_together(kernel, *arguments, most):
    """``kernel(thread, count, meeting, *arguments)`` in all threads, at most so many, where it may `meet` the others.

    If one of them fails, the others are not left waiting: `meet` tells them.
    """
    meeting = np.zeros(3 * 8, np.int64)

    def give_up():
        meeting[GIVEN_UP] = 1

    def part(thread, count):
        try:
            kernel(thread, count, meeting, *arguments)
        except BaseException:
            give_up()
            raise

    threads.together(part, give_up, most)
