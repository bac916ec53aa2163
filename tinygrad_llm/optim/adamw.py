"""Adam, and AdamW with decoupled weight decay."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from tinygrad_llm.backend import twinned
from tinygrad_llm.nn import Parameter
from tinygrad_llm.optim.optimizer import Optimizer
from tinygrad_llm.tape import Array


@twinned
def adamw_update(
    weight: Array,
    gradient: Array,
    mean: Array,
    square: Array,
    steps: int,
    rate: float,
    betas: tuple[float, float],
    eps: float,
    decay: float,
    scale: float = 1.0,
) -> None:
    """The `steps`-th step of AdamW: changes `weight`, and the running `mean` of the gradient and of its `square`.

    With ``g = scale gradient``: ``m = b1 m + (1-b1) g`` and ``v = b2 v + (1-b2) g^2``. Both start at zero, and dividing
    by ``1 - b^t`` takes that bias out: ``mhat = m / (1 - b1^t)``, ``vhat = v / (1 - b2^t)``. Then

        w = (1 - decay) w - rate mhat / (sqrt(vhat) + eps)

    Sources: Kingma and Ba 2015, arXiv:1412.6980, algorithm 1; for the decay, which `AdamW` explains, Loshchilov and
    Hutter 2019, arXiv:1711.05101, algorithm 2.
    """
    b1, b2 = betas
    scratch = np.multiply(gradient, (1 - b1) * scale, out=np.empty_like(weight))
    mean *= b1
    mean += scratch
    np.multiply(gradient, math.sqrt(1 - b2) * scale, out=scratch)  # before it is squared, or that may overflow
    scratch *= scratch
    square *= b2
    square += scratch
    np.sqrt(square, out=scratch)
    scratch *= 1 / math.sqrt(1 - b2**steps)
    scratch += eps
    np.divide(mean, scratch, out=scratch)
    scratch *= rate / (1 - b1**steps)
    weight *= 1 - decay
    weight -= scratch


class AdamW(Optimizer):
    """Adam's step, and apart from it ``w = w - lr weight_decay w`` for the parameters that decay.

    Decoupled, so that the decay is not divided by ``sqrt(vhat)``: Loshchilov and Hutter 2019, arXiv:1711.05101,
    algorithm 2. Gains, biases and embeddings do not decay (`Parameter.decay`).
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Parameter]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
    ) -> None:
        super().__init__(named_parameters, lr)
        if not all(0 <= b < 1 for b in betas):
            raise ValueError(f"{type(self).__name__}: betas={betas} must be at least 0 and less than 1")
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay

    def update(self, name: str, parameter: Parameter, gradient: Array, lr: float, scale: float) -> None:
        state = self.buffer(name, "mean"), self.buffer(name, "square"), self.updates[name]
        decay = lr * self.weight_decay if parameter.decay else 0.0
        adamw_update(parameter.data, gradient, *state, lr, self.betas, self.eps, decay, scale)


class Adam(AdamW):
    """Adam as first published: AdamW without decay."""

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Parameter]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(named_parameters, lr, betas, eps, weight_decay=0.0)
