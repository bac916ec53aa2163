"""The compiled twin of `optim/adamw.py`: weight, gradient and both running means are read once, three written once."""

from __future__ import annotations

import math

import numpy as np

from tinygrad_llm import threads
from tinygrad_llm.kernels.compiled import compiled
from tinygrad_llm.kernels.layout import PIECE
from tinygrad_llm.kernels.optimizer import flat_views
from tinygrad_llm.optim.adamw import adamw_update


@compiled
def update(low, high, weight, gradient, mean, square, numbers):
    """The step on a range of elements; `numbers` are the factors that the reference multiplies by, in its order."""
    w, g, m, v = weight[low:high], gradient[low:high], mean[low:high], square[low:high]
    b1, new1, b2, new2, correction, eps, rate, shrink = numbers
    for i in range(len(w)):
        first = m[i] * b1 + g[i] * new1
        root = g[i] * new2
        second = v[i] * b2 + root * root
        m[i] = first
        v[i] = second
        w[i] = w[i] * shrink - first / (np.sqrt(second) * correction + eps) * rate


@adamw_update.kernel
def _(weight, gradient, mean, square, steps, rate, betas, eps, decay, scale=1.0):
    arrays = flat_views(weight, np.asarray(gradient, order="C"), mean, square)
    if arrays is None:
        return NotImplemented
    b1, b2 = betas
    correction, rate = 1 / math.sqrt(1 - b2**steps), rate / (1 - b1**steps)
    numbers = b1, (1 - b1) * scale, b2, math.sqrt(1 - b2) * scale, correction, eps, rate, 1 - decay
    threads.run(update, weight.size, *arrays, np.array(numbers, weight.dtype), least=PIECE)
    return None
