"""Module: a model as a tree of named parts, the leaves of which are Parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np

from tinygrad_llm.tape import Array, called_by, graph_kept
from tinygrad_llm.tensor import Tensor


class Parameter(Tensor):
    """A Tensor that is trained. `decay`: whether weight decay may shrink it (matrices of linear maps, not gains)."""

    __slots__ = ("decay",)

    def __init__(self, data: Array, decay: bool = False) -> None:
        super().__init__(data, requires_grad=True)
        self.decay = decay


class Module:
    """A part of a model. Parameters and Modules that are attributes, also in lists and dicts, are found by their names.

    A subclass defines ``forward``; calling the module calls it. ``training`` is what Dropout looks at.
    """

    training: bool = True

    def forward(self, *inputs: Any, **options: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} defines no forward()")

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        if not graph_kept():
            return self.forward(*inputs, **options)
        with called_by(self):
            return self.forward(*inputs, **options)

    def children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of each direct part, in the order of assignment; list elements are called ``name.0`` ..."""
        yield from ((name, part) for name, part in _parts(vars(self)) if isinstance(part, Module))

    def modules(self) -> Iterator[Module]:
        """This module and all below it."""
        yield self
        for _, child in self.children():
            yield from child.modules()

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter) of every parameter; one that is used in two places (tied) appears once."""
        seen: set[int] = set()
        for name, parameter in self._all_parameters(""):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, parameter

    def _all_parameters(self, prefix: str) -> Iterator[tuple[str, Parameter]]:
        for name, part in _parts(vars(self)):
            if isinstance(part, Parameter):
                yield prefix + name, part
        for name, child in self.children():
            yield from child._all_parameters(f"{prefix}{name}.")

    def parameters(self) -> list[Parameter]:
        """Every parameter once."""
        return [parameter for _, parameter in self.named_parameters()]

    def parameter_count(self) -> int:
        """How many numbers are trained; tied ones count once."""
        return sum(parameter.size for parameter in self.parameters())

    def train(self, mode: bool = True) -> Self:
        """Training mode: Dropout drops."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Evaluation mode: Dropout does nothing."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    def astype(self, dtype: Any) -> Self:
        """Convert every parameter, in place: float64 to check gradients, float32 to train."""
        for parameter in self.parameters():
            parameter.data, parameter.grad = parameter.data.astype(dtype), None
        return self

    def state_dict(self) -> dict[str, Array]:
        """Name to array of every parameter; the arrays themselves, not copies."""
        return {name: parameter.data for name, parameter in self.named_parameters()}

    def load_state_dict(self, arrays: Mapping[str, Array]) -> None:
        """Copy arrays into the parameters. Names, shapes and kinds must fit; all that do not are listed together."""
        own = dict(self.named_parameters())
        problems = [f"missing: {name} {own[name].shape}" for name in own if name not in arrays]
        problems += [f"unexpected: {name} {arrays[name].shape}" for name in arrays if name not in own]
        for name in own.keys() & arrays.keys():
            given = arrays[name]
            if given.shape != own[name].shape:
                problems.append(f"mismatched: {name} is {own[name].shape} in the model, {given.shape} in the file")
            elif given.dtype.kind != "f":
                problems.append(f"mismatched: {name} has dtype {given.dtype}, which is not floating-point")
        if problems:
            raise ValueError("load_state_dict: the arrays do not fit the model:\n  " + "\n  ".join(sorted(problems)))
        for name, parameter in own.items():
            parameter.data = np.array(arrays[name], dtype=parameter.dtype)
            parameter.grad = None

    def tree(self) -> str:
        """The parts by indentation, with the shapes and the number of parameters of each."""
        rows = list(self._tree_rows("", 0))
        width = max(len(left) for left, _ in rows)
        return "\n".join(f"{left:<{width}}  {count:>13,}" for left, count in rows)

    def _tree_rows(self, name: str, depth: int) -> Iterator[tuple[str, int]]:
        shapes = ", ".join(f"{k} {v.shape}" for k, v in _parts(vars(self)) if isinstance(v, Parameter))
        label = f"{name}: {type(self).__name__}" if name else type(self).__name__
        yield "  " * depth + label + (f"  {shapes}" if shapes else ""), self.parameter_count()
        for child_name, child in self.children():
            yield from child._tree_rows(child_name, depth + 1)

    def __repr__(self) -> str:
        return self.tree()


def _parts(values: Mapping[str, Any]) -> Iterator[tuple[str, Parameter | Module]]:
    """(name, part) of all Parameters and Modules among `values`, and in lists and dicts of them."""
    for name, value in values.items():
        if isinstance(value, (Parameter, Module)):
            yield name, value
        elif isinstance(value, (list, tuple)):
            yield from ((f"{name}.{inner}", part) for inner, part in _parts({str(i): v for i, v in enumerate(value)}))
        elif isinstance(value, dict):
            yield from ((f"{name}.{inner}", part) for inner, part in _parts({str(k): v for k, v in value.items()}))
