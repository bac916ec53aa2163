"""Which parameters are communicated together, and how a block of a model tells that its gradients are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tinygrad_llm.nn import Module, Parameter
from tinygrad_llm.operation import record
from tinygrad_llm.tensor import Tensor

Named = tuple[str, Parameter]


def blocks_of(model: Module) -> Sequence[Module]:
    """The blocks of a model, or of the one that it is built on; none if it has no such thing."""
    return list(getattr(model, "blocks", ()))


def parts_of(model: Module) -> tuple[list[Named], list[tuple[Module, list[Named]]]]:
    """(what belongs to no block, each block with its own): the parameters that are trained, by their names."""
    owner = {id(p): number for number, block in enumerate(blocks_of(model)) for p in block.parameters()}
    rest: list[Named] = []
    own: list[list[Named]] = [[] for _ in blocks_of(model)]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            number = owner.get(id(parameter))
            (rest if number is None else own[number]).append((name, parameter))
    return rest, [(block, named) for block, named in zip(blocks_of(model), own, strict=True) if named]


def passing(x: Tensor, passed: Callable[[], None]) -> Tensor:
    """``x``; in backward, `passed` is called when its gradient arrives: all that was made from it has done its work."""
    if not x.requires_grad:
        return x

    def vjp(dy: Any) -> Any:
        passed()
        return dy

    result: Tensor = record("passing", ("x",), (x,), [x.data], (x.data,), vjp, False, None)
    return result
