"""What the optimisers share: the parameters, the saved state, and clipping by the global norm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from tinygrad_llm.backend import twinned
from tinygrad_llm.nn import Parameter
from tinygrad_llm.tape import Array


class Optimizer:
    """Updates parameters in place from their ``.grad``. A parameter without a gradient is left alone.

    ``state`` maps each parameter's name to its arrays (momentum and so on); ``updates`` counts how often each was
    updated, which differs where some were frozen for a while.
    """

    def __init__(self, named_parameters: Iterable[tuple[str, Parameter]], lr: float) -> None:
        pairs = list(named_parameters)
        if any(isinstance(pair, Parameter) for pair in pairs):
            raise TypeError(f"{type(self).__name__}: give (name, parameter) pairs, as model.named_parameters() does")
        self.parameters = dict(pairs)
        if len(self.parameters) < len(pairs):
            raise ValueError(f"{type(self).__name__}: two parameters have the same name")
        if not self.parameters:
            raise ValueError(f"{type(self).__name__}: there are no parameters to train")
        if not lr >= 0:
            raise ValueError(f"{type(self).__name__}: lr={lr} must not be negative")
        self.lr = lr
        self.state: dict[str, dict[str, Array]] = {}
        self.updates: dict[str, int] = {}

    def step(self, lr: float | None = None, scale: float = 1.0) -> None:
        """One update, with the given learning rate or the optimiser's own.

        All gradients count `scale` times: given `clip_factor`, that clips them without writing them to memory again.
        """
        rate = self.lr if lr is None else lr
        trained = [(name, p, p.grad) for name, p in self.parameters.items() if p.grad is not None]
        for name, parameter, _ in trained:  # all are looked at before the first is updated
            if not parameter.data.flags.writeable:
                raise RuntimeError(
                    f"{type(self).__name__}: {name} cannot be updated while a graph that was not sent backward "
                    "needs its values; delete that graph's result first, or compute it under no_grad()"
                )
        for name, parameter, gradient in trained:
            self.updates[name] = self.updates.get(name, 0) + 1
            self.update(name, parameter, gradient, rate, scale)

    def update(self, name: str, parameter: Parameter, gradient: Array, lr: float, scale: float) -> None:
        """Update one parameter, from `scale` times its gradient."""
        raise NotImplementedError

    def buffer(self, name: str, kind: str) -> Array:
        """The state array of that kind of a parameter: zeros at first."""
        kinds = self.state.setdefault(name, {})
        if kind not in kinds:
            kinds[kind] = np.zeros_like(self.parameters[name].data)
        return kinds[kind]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def state_dict(self) -> dict[str, Array]:
        """All state as flat names to arrays: ``name/kind``, and the counts as ``name/updates``."""
        arrays = {f"{name}/{kind}": a for name, kinds in self.state.items() for kind, a in kinds.items()}
        return arrays | {f"{name}/updates": np.array(count) for name, count in self.updates.items()}

    def load_state_dict(self, arrays: Mapping[str, Array]) -> None:
        """Restore what `state_dict` gave; names and shapes must fit the parameters."""
        state: dict[str, dict[str, Array]] = {}
        updates: dict[str, int] = {}
        for key, array in arrays.items():
            name, _, kind = key.rpartition("/")
            if kind == "updates" and name in self.parameters:
                updates[name] = int(array)
                continue
            if name not in self.parameters or self.parameters[name].shape != array.shape:
                raise ValueError(f"{type(self).__name__}: state {key!r} of shape {array.shape} fits no parameter")
            state.setdefault(name, {})[kind] = np.array(array)
        self.state, self.updates = state, updates


BLOCK = 4096
"""Elements whose squares are added up in their own dtype."""


@twinned
def block_squares(array: Array) -> Array:
    """float64 ``sum a^2`` of each `BLOCK` elements, in the order of memory (C), each added up in the array's dtype."""
    flat = np.ravel(array)
    whole = flat.size // BLOCK * BLOCK
    rows, rest = flat[:whole].reshape(-1, BLOCK), flat[whole:]
    sums = np.einsum("ij,ij->i", rows, rows).astype(np.float64)
    return np.append(sums, np.vdot(rest, rest)) if rest.size else sums


def exact_sum(values: Array) -> float:
    """The sum of numbers, rounded once: it does not depend on their order."""
    total = float(values.sum())
    return math.fsum(values) if math.isfinite(total) else total


def sum_of_squares(array: Array) -> float:
    """``sum a^2`` over all elements."""
    return exact_sum(block_squares(array))


def global_norm(parameters: Iterable[Parameter]) -> float:
    """``sqrt(sum g^2)`` over all gradients: the same, whoever holds which of their blocks."""
    return math.sqrt(exact_sum(squares_of(parameters)))


def squares_of(parameters: Iterable[Parameter]) -> Array:
    """`block_squares` of the gradients that there are."""
    return np.concatenate([np.zeros(0), *(block_squares(p.grad) for p in parameters if p.grad is not None)])


def clip_factor(norm: float, limit: float) -> float:
    """What gradients of this global norm must be multiplied by so that it does not exceed `limit`: 1 if it does not.

    Source: Pascanu, Mikolov, Bengio 2013, arXiv:1211.5063, section 3.2.
    """
    if not limit >= 0:
        raise ValueError(f"clip_by_global_norm: limit={limit} must not be negative")
    return limit / norm if norm > limit else 1.0


def clip_by_global_norm(parameters: Iterable[Parameter], limit: float) -> float:
    """Multiply all gradients by their `clip_factor`; return their global norm before."""
    parameters = list(parameters)
    norm = global_norm(parameters)
    factor = clip_factor(norm, limit)
    if factor != 1:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad *= parameter.dtype.type(factor)
    return norm
