"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from collections.abc import Iterable

from tinygrad_llm.nn import Parameter
from tinygrad_llm.optim.optimizer import Optimizer
from tinygrad_llm.tape import Array


class SGD(Optimizer):
    """``v = momentum v + g``, then ``w = w - lr v``; with ``nesterov``, ``w = w - lr (g + momentum v)``.

    `weight_decay` adds ``weight_decay w`` to the gradient of the parameters that decay.
    Source: Polyak 1964; Sutskever et al. 2013 for both forms of momentum.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Parameter]],
        lr: float = 0.1,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(named_parameters, lr)
        if not 0 <= momentum < 1:
            raise ValueError(f"SGD: momentum={momentum} must be at least 0 and less than 1")
        self.momentum, self.nesterov, self.weight_decay = momentum, nesterov, weight_decay

    def update(self, name: str, parameter: Parameter, gradient: Array, lr: float) -> None:
        if self.weight_decay and parameter.decay:
            gradient = gradient + self.weight_decay * parameter.data
        if self.momentum:
            velocity = self.buffer(name, "velocity")
            velocity *= self.momentum
            velocity += gradient
            gradient = gradient + self.momentum * velocity if self.nesterov else velocity
        parameter.data -= lr * gradient
