"""The layers that hold parameters: Linear, Embedding, LayerNorm, RMSNorm; and Dropout, which holds none.

Initial values come from the current random scope (see `tinygrad_llm.random`), so a model built twice in the same scope
is the same.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tinygrad_llm import ops, random
from tinygrad_llm.nn.module import Module, Parameter
from tinygrad_llm.operation import Operation
from tinygrad_llm.tape import Array
from tinygrad_llm.tensor import Tensor

_unset: ContextVar[list[int] | None] = ContextVar("unset", default=None)  # how many numbers may still be asked for


@contextlib.contextmanager
def unset(most: int) -> Iterator[None]:
    """Within it, matrices are made without values, which is quick: they come from a file. ValueError, before memory is
    asked for, if they have more than `most` numbers together."""
    token = _unset.set([most])
    try:
        yield
    finally:
        _unset.reset(token)


def normal(shape: tuple[int, ...], std: float) -> Array:
    """float32 values from a normal distribution of mean 0."""
    if (left := _unset.get()) is not None:
        left[0] -= math.prod(shape)
        if left[0] < 0:
            raise ValueError(f"the sizes lead to a matrix {shape} and more numbers than the file could hold")
        return np.empty(shape, np.float32)
    values = random.next_stream("init").standard_normal(shape, np.float32)
    values *= np.float32(std)
    return values


class Linear(Module):
    """``y = x W + b``: x (..., C), W (C, F) stored as (in, out), b (F,). W starts normal with `std`, b at zero.

    ``std sqrt(C)`` is the factor by which it scales a random x at first; 1/sqrt(C) keeps its size."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True, std: float = 0.02) -> None:
        self.weight = Parameter(normal((inputs, outputs), std), decay=True)
        self.bias = Parameter(np.zeros(outputs, np.float32)) if bias else None

    def forward(self, x: Tensor, add_bias: bool = True) -> Tensor:
        """y; without its bias if an operation that follows adds it."""
        return ops.linear(x, self.weight, self.bias if add_bias else None)

    def head_loss(self, x: Tensor, targets: Array, **options: Any) -> Tensor:
        """`ops.cross_entropy` of ``x W`` as logits: for a head, which has no bias."""
        frozen = not self.weight.requires_grad
        return ops.linear_cross_entropy(x, self.weight.T, targets, **options, frozen=frozen)


class Embedding(Module):
    """Row `id` of a (V, C) table for each id: (...) integers to (..., C)."""

    def __init__(self, vocabulary: int, channels: int, std: float = 0.02) -> None:
        self.weight = Parameter(normal((vocabulary, channels), std))

    def forward(self, ids: npt.ArrayLike) -> Tensor:
        return ops.embedding(self.weight, np.asarray(ids))

    def head(self, x: Tensor) -> Tensor:
        """``x W^T``: the table as the tied head of a model, (..., C) to logits (..., V)."""
        return ops.matmul(x, self.weight.T)

    def head_loss(self, x: Tensor, targets: Array, **options: Any) -> Tensor:
        """`ops.cross_entropy` of those logits."""
        frozen = not self.weight.requires_grad
        return ops.linear_cross_entropy(x, self.weight, targets, **options, frozen=frozen)

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the vectors."""
        return self.weight.dtype


class Norm(Module):
    """What `LayerNorm` and `RMSNorm` have in common."""

    operation: ClassVar[Operation]
    operation_of_sum: ClassVar[Operation]
    eps: float

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.operation(x, *self.scales(), eps=self.eps)
        return y

    def add(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """``x + y`` and the norm of it, by one operation."""
        total, normed = self.operation_of_sum(x, y, *self.scales(), eps=self.eps)
        return total, normed

    def scales(self) -> tuple[Tensor, ...]:
        """The parameters."""
        raise NotImplementedError(f"{type(self).__name__} defines no scales()")


class LayerNorm(Norm):
    """`ops.layer_norm` with a gain that starts at one and a bias that starts at zero."""

    operation, operation_of_sum = ops.layer_norm, ops.add_layer_norm

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        self.gain = Parameter(np.ones(channels, np.float32))
        self.bias = Parameter(np.zeros(channels, np.float32))
        self.eps = eps

    def scales(self) -> tuple[Tensor, ...]:
        return self.gain, self.bias


class RMSNorm(Norm):
    """`ops.rms_norm` with a gain that starts at one."""

    operation, operation_of_sum = ops.rms_norm, ops.add_rms_norm

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        self.gain = Parameter(np.ones(channels, np.float32))
        self.eps = eps

    def scales(self) -> tuple[Tensor, ...]:
        return (self.gain,)


class Dropout(Module):
    """In training, zero each element with probability `p` and scale the others by 1/(1-p); otherwise nothing.

    The draw comes from the current random scope, so it is the same when a step is repeated.
    """

    def __init__(self, p: float) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"Dropout: p={p} must be at least 0 and less than 1")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        key = int(random.next_stream("dropout").integers(2**63))
        return ops.dropout(x, p=self.p, key=key)
