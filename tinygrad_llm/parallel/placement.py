"""How the ranks of an axis hold a Tensor, and what may meet.

    R       replicated: every rank holds the whole value, and the whole cotangent
    S(dim)  sharded: each rank holds its chunk of the rows along `dim`
    P       partial: the value is the sum of what the ranks hold
    V       varying: each rank holds something of its own, and the program knows what

The one rule: the cotangent of a replicated tensor is replicated. It would not be if a replicated tensor met one that
differs from rank to rank: each rank would find only its own part. So `enter` comes before (see `communication_ops`),
and an operation in which they meet without it raises an error. A partial value is no value yet: `reduce` or
`scatter_sum` comes before anything else.

A Tensor of which nothing is said is replicated. One that needs no gradient may meet anything. Nothing is looked at
before the first Tensor is placed otherwise, so it costs a training without such axes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from tinygrad_llm.operation import meet_by
from tinygrad_llm.parallel.communicator import Communicator
from tinygrad_llm.tensor import Tensor


class Placement(NamedTuple):
    """How the ranks of one axis hold a Tensor."""

    kind: str
    dim: int | None = None

    def __str__(self) -> str:
        return self.kind if self.dim is None else f"{self.kind} along dim {self.dim}"


R, P, V = Placement("replicated"), Placement("partial"), Placement("varying")


def S(dim: int) -> Placement:
    """Sharded along `dim`."""
    return Placement("sharded", dim)


def place(tensor: Tensor, communicator: Communicator, placement: Placement) -> Tensor:
    """Say how the ranks hold `tensor`; returns it. With a single rank there is nothing to say.

    Whoever makes a Tensor that differs from rank to rank, such as a shard of a weight, says so.
    """
    if communicator.size > 1 and placement != placement_of(tensor, communicator.axis):
        if placement.dim is not None:
            placement = S(range(tensor.ndim)[placement.dim])
        tensor.placements = {**getattr(tensor, "placements", {}), communicator.axis: placement}
        meet_by(meet)
    return tensor


def placement_of(tensor: Tensor, axis: str) -> Placement:
    """How the ranks along an axis hold `tensor`."""
    return getattr(tensor, "placements", {}).get(axis, R)


def meet(name: str, inputs: Sequence[Any], outputs: Iterable[Tensor]) -> None:
    """What any operation makes of placed tensors, except those that communicate: V where an input is not R."""
    tensors = [x for x in inputs if isinstance(x, Tensor)]
    axes = {axis for x in tensors for axis in getattr(x, "placements", ())}
    if not axes or any(isinstance(x, Communicator) for x in inputs):
        return
    for axis in sorted(axes):
        found = [placement_of(x, axis) for x in tensors]
        if P in found:
            raise ValueError(
                f"{name}: an input of shape {tensors[found.index(P)].shape} is partial over {axis}: what the ranks "
                "hold must be added up first, by reduce(x) or scatter_sum(x)"
            )
        others = [placement for placement in found if placement != R]
        if not others:
            continue
        for x, placement in zip(tensors, found, strict=True):
            if placement == R and x.requires_grad:
                raise ValueError(
                    f"{name}: an input of shape {x.shape} is replicated over {axis} and meets one that is {others[0]}; "
                    "its cotangent would be only this rank's part: enter(x) first (or place(x) if it is not replicated)"
                )
        for output in outputs:
            output.placements = {**getattr(output, "placements", {}), axis: V}
