"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from collections.abc import Iterable

from tinygrad_llm.backend import twinned
from tinygrad_llm.nn import Parameter
from tinygrad_llm.optim.optimizer import Optimizer
from tinygrad_llm.tape import Array


@twinned
def sgd_update(
    weight: Array,
    gradient: Array,
    velocity: Array | None,
    rate: float,
    momentum: float,
    nesterov: bool,
    decay: float,
    scale: float = 1.0,
) -> None:
    """One step of `SGD`, with ``g = scale gradient + decay w``; `velocity` is None without momentum."""
    g = gradient if scale == 1 else scale * gradient
    if decay:
        g = g + decay * weight
    if velocity is not None:
        velocity *= momentum
        velocity += g
        g = g + momentum * velocity if nesterov else velocity
    weight -= rate * g


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

    def update(self, name: str, parameter: Parameter, gradient: Array, lr: float, scale: float) -> None:
        velocity = self.buffer(name, "velocity") if self.momentum else None
        decay = self.weight_decay if parameter.decay else 0.0
        sgd_update(parameter.data, gradient, velocity, lr, self.momentum, self.nesterov, decay, scale)
