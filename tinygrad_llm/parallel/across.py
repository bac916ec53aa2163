"""A program of several ranks as one function of what all of them hold.

Where the ranks are threads of this process, it is an ordinary function, and `gradcheck` checks it as any other. Where
they are those of MPI, all call it with the same arrays, and `gradcheck` runs on all of them in step: each varies the
same number at the same time, and sees the whole result.

Replicated and sharded inputs and outputs are whole arrays; varying ones have an axis of ranks in front.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygrad_llm.parallel.collectives import chunk_bounds
from tinygrad_llm.parallel.communicator import Communicator
from tinygrad_llm.parallel.loopback import Loopback
from tinygrad_llm.parallel.placement import Placement, R, place
from tinygrad_llm.tape import Array, enable_grad, sweep
from tinygrad_llm.tensor import Tensor

Program = Callable[..., Tensor]
"""``program(communicator, *tensors)``: what each rank runs, with its parts of the inputs."""

Whole = Callable[..., tuple[Array, Callable[[Array], tuple[Array, ...]]]]
"""A function of whole arrays that returns its value and its vjp."""


def across(program: Program, communicator: Communicator, given: Sequence[Placement], made: Placement) -> Whole:
    """The program as this rank computes it together with the others; `given` and `made` place inputs and output."""

    def function(*arrays: Array) -> Any:
        with enable_grad():
            tensors = [_part(a, communicator, p) for a, p in zip(arrays, given, strict=True)]
            output = program(communicator, *tensors)

        def vjp(dy: Array) -> tuple[Array, ...]:
            if output.requires_grad:
                sweep([output], [_part(dy, communicator, made).data])
            return tuple(
                whole(np.zeros_like(t.data) if t.grad is None else t.grad, communicator, p)
                for t, p in zip(tensors, given, strict=True)
            )

        return whole(output.data, communicator, made), vjp

    return function


def on_threads(program: Program, ranks: int, given: Sequence[Placement], made: Placement) -> Whole:
    """The program on so many ranks that are threads."""
    world = Loopback(ranks)
    functions = [across(program, communicator, given, made) for communicator in world.ranks]

    def function(*arrays: Array) -> Any:
        results = world.run(lambda communicator: functions[communicator.rank](*arrays))
        return results[0][0], lambda dy: world.run(lambda communicator: results[communicator.rank][1](dy))[0]

    return function


def _part(array: Array, communicator: Communicator, placement: Placement) -> Tensor:
    """What this rank holds of a whole array."""
    if placement.dim is not None:
        bounds = chunk_bounds(array.shape[placement.dim], communicator.size)[communicator.rank]
        array = np.take(array, range(bounds.start, bounds.stop), placement.dim)
    elif placement != R:
        array = array[communicator.rank]
    return place(Tensor(array, requires_grad=array.dtype.kind == "f"), communicator, placement)


def whole(part: Array, communicator: Communicator, placement: Placement) -> Array:
    """What all ranks hold together. ValueError if they do not hold the same bits of what is replicated."""
    if placement.dim is not None:
        return np.moveaxis(communicator.all_gather(np.moveaxis(part, placement.dim, 0)), 0, placement.dim)
    held = communicator.all_gather(part[None])
    if placement != R:
        return held
    if any(row.tobytes() != held[0].tobytes() for row in held):
        raise ValueError(
            f"over {communicator.axis} the ranks hold different values of a replicated array of shape {part.shape}: "
            "somewhere a replicated tensor was not entered, or a sum was not reduced"
        )
    return part
