"""Muon: momentum whose matrices are made orthogonal before they are applied."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from tinygrad_llm.backend import twinned
from tinygrad_llm.nn import Parameter
from tinygrad_llm.optim.adamw import AdamW
from tinygrad_llm.tape import Array

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


@twinned
def orthogonalize(matrix: Array, steps: int = 5) -> Array:
    """The nearest matrix whose singular values are all about 1, by Newton-Schulz iteration.

    After 5 steps those that were above 1 % of the largest lie between 0.69 and 1.21; tinier ones are on their way.

    ``X = U S V^T`` becomes about ``U V^T``: each step applies ``p(s) = a s + b s^3 + c s^5`` to every singular value,
    as ``X = a X + (b A + c A A) X`` with ``A = X X^T``. Dividing by the Frobenius norm first brings all of them below
    1, where repeated p drives them towards 1; the coefficients trade exactness for speed near 0.
    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix  # so that A is the smaller of the two products
    norm = float(np.linalg.norm(x))
    if norm == 0:
        return np.zeros_like(matrix)
    x = x / norm
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.T if tall else x


@twinned
def muon_update(
    weight: Array, gradient: Array, velocity: Array, rate: float, momentum: float, decay: float, scale: float = 1.0
) -> None:
    """One step of `Muon` for a matrix: changes `weight` and `velocity`.

    ``g = scale gradient``, ``v = momentum v + g``, ``w = (1 - decay) w - rate orthogonalize(g + momentum v)``.
    """
    g = gradient if scale == 1 else scale * gradient
    velocity *= momentum
    velocity += g
    direction = orthogonalize(g + momentum * velocity)
    weight *= 1 - decay
    weight -= rate * direction


class Muon(AdamW):
    """Nesterov momentum, orthogonalised, for the matrices of linear maps; AdamW for every other parameter.

    The orthogonal step is scaled by ``0.2 sqrt(max(rows, columns))``, which gives it the size of an AdamW step, so one
    learning rate serves both (Liu et al. 2025, arXiv:2502.16982, equation 4).
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Parameter]],
        lr: float = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
    ) -> None:
        super().__init__(named_parameters, lr, betas, eps, weight_decay)
        if not 0 <= momentum < 1:
            raise ValueError(f"Muon: momentum={momentum} must be at least 0 and less than 1")
        self.momentum = momentum

    def update(self, name: str, parameter: Parameter, gradient: Array, lr: float, scale: float) -> None:
        if not (parameter.decay and parameter.ndim == 2):
            super().update(name, parameter, gradient, lr, scale)
            return
        velocity, rate = self.buffer(name, "velocity"), lr * 0.2 * math.sqrt(max(parameter.shape))
        muon_update(parameter.data, gradient, velocity, rate, self.momentum, lr * self.weight_decay, scale)
