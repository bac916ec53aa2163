"""The compiled twin of `optim/sgd.py`: one pass over weight, gradient and velocity."""

from __future__ import annotations

import numpy as np

from tinygrad_llm import threads
from tinygrad_llm.kernels.compiled import compiled
from tinygrad_llm.kernels.layout import PIECE
from tinygrad_llm.kernels.optimizer import flat_views
from tinygrad_llm.optim.sgd import sgd_update


@compiled
def update(low, high, weight, gradient, velocity, moving, nesterov, decays, numbers):
    """The step on a range of elements; without momentum (`moving`) the velocity is not looked at."""
    w, g, v = weight[low:high], gradient[low:high], velocity[low:high]
    rate, momentum, decay, scale = numbers
    for i in range(len(w)):
        step = scale * g[i] + decay * w[i] if decays else scale * g[i]
        if moving:
            moved = momentum * v[i] + step
            v[i] = moved
            step = step + momentum * moved if nesterov else moved
        w[i] -= rate * step


@sgd_update.kernel
def _(weight, gradient, velocity, rate, momentum, nesterov, decay, scale=1.0):
    gradient = np.asarray(gradient, order="C")
    arrays = flat_views(weight, gradient, gradient if velocity is None else velocity)
    if arrays is None:
        return NotImplemented
    numbers = np.array((rate, momentum, decay, scale), weight.dtype)
    threads.run(update, weight.size, *arrays, velocity is not None, nesterov, decay != 0, numbers, least=PIECE)
    return None
