"""LoRA: a linear map that stays as it is, with an update of low rank beside it that is trained.

The update starts at zero, as B does, so the model begins as it was. A starts at random: with both at zero, neither
would have a gradient. Sources: Hu et al. 2021, arXiv:2106.09685; over weights in fewer bits: QLoRA, Dettmers et al.
2023, arXiv:2305.14314.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tinygrad_llm import ops
from tinygrad_llm.nn.layers import Dropout, Linear, normal, unset
from tinygrad_llm.nn.module import Module, Parameter
from tinygrad_llm.nn.quantized import QuantizedLinear
from tinygrad_llm.ops.quantized import dequantized
from tinygrad_llm.tape import Array
from tinygrad_llm.tensor import Tensor


class LoRALinear(Module):
    """``y = x W + b + s (dropout(x) A) B`` with s = alpha / r; of `ops.lora`, where `parts` are described too.

    `base` is the linear map, in float or in fewer bits. A starts normal with the spread 1 / sqrt(3 C) that it has in
    PEFT, B at zero. Dropout, in training, is drawn once for all parts; in PEFT, for each.
    """

    def __init__(
        self,
        base: Linear | QuantizedLinear,
        rank: int,
        alpha: float,
        parts: Sequence[tuple[int, int]] = (),
        dropout: float = 0.0,
    ) -> None:
        if rank < 1:
            raise ValueError(f"LoRALinear: rank={rank} must be at least 1")
        if not math.isfinite(alpha) or alpha == 0:
            raise ValueError(f"LoRALinear: alpha={alpha} must be a number other than zero")
        inputs, outputs = shape_of(base)
        self.base, self.rank, self.alpha = base, rank, alpha
        self.parts = tuple(parts) or ((0, outputs),)
        self.dropout = Dropout(dropout)
        kind = base.weight.dtype if isinstance(base, Linear) else np.float32
        width = sum(stop - start for start, stop in self.parts)
        a = normal((inputs, rank * len(self.parts)), 1 / math.sqrt(3 * max(inputs, 1)))
        self.lora_a = Parameter(a.astype(kind, copy=False), decay=True)
        self.lora_b = Parameter(np.zeros((rank, width), kind), decay=True)

    @property
    def scale(self) -> float:
        """s, which keeps the size of the update about the same for any rank."""
        return self.alpha / self.rank

    @property
    def bias(self) -> Tensor | Array | None:
        """That of the linear map."""
        return self.base.bias

    def forward(self, x: Tensor, add_bias: bool = True) -> Tensor:
        y = self.base(x, add_bias)
        return ops.lora(self.dropout(x), y, self.lora_a, self.lora_b, scale=self.scale, parts=self.parts)

    def merged(self) -> Linear:
        """A `Linear` with the weight ``W + s A B``, in memory of its own and as W lies in memory.

        W itself is not touched, nor are A and B: who keeps this module has the weights before, bit for bit. Subtracting
        s A B again would not give them, as sums are rounded. Of weights in fewer bits it is the sum of the floats that
        they stand for.
        """
        if isinstance(self.base, Linear):
            weight = self.base.weight.data.copy(order="K")
        else:
            weight = np.ascontiguousarray(dequantized(*self.base.weight)[:, : self.base.inputs].T)
        at = 0
        for number, (start, stop) in enumerate(self.parts):
            a = self.lora_a.data[:, number * self.rank : (number + 1) * self.rank]
            update = a @ self.lora_b.data[:, at : at + stop - start]
            update *= self.scale
            weight[:, start:stop] += update
            at += stop - start
        return linear_of(weight, self.base.bias)


def shape_of(base: Linear | QuantizedLinear) -> tuple[int, int]:
    """(C, F) of a linear map."""
    if isinstance(base, Linear):
        return base.weight.shape[0], base.weight.shape[1]
    return base.inputs, len(base.weight.values)


def linear_of(weight: Array, bias: Parameter | Array | None) -> Linear:
    """A `Linear` with these values, which shares a bias that is a Parameter."""
    with unset(weight.size):  # nothing is drawn
        made = Linear(weight.shape[0], weight.shape[1], bias=False)
    made.weight.data = weight
    if bias is not None:
        made.bias = bias if isinstance(bias, Parameter) else Parameter(bias)
    return made
