"""A kernel of your own: the compiled twin of an operation, checked against it and timed beside it.

The operation is the squared ReLU (So et al. 2021, arXiv:2109.08668). NumPy makes several passes over the array; the
compiled loops make one forward and one backward, shared out among the threads. About 3 s with the compiling.
"""

from timeit import repeat

import numpy as np

import tinygrad_llm as tg
from tinygrad_llm import backend, threads

if reason := backend.why_no_kernels():
    raise SystemExit(f"This example needs Numba's compiler: {reason}")
from tinygrad_llm.kernels.compiled import compiled


@tg.op
def squared_relu(x):
    """``y = max(x, 0)^2``; ``dx = 2 max(x, 0) dy``."""
    return np.maximum(x, 0) ** 2, lambda dy: 2 * np.maximum(x, 0) * dy


@compiled
def forward(low, high, x, y):
    x, y = x[low:high], y[low:high]  # sliced first and indexed from 0: only then does the compiler use vectors
    for i in range(len(x)):
        y[i] = x[i] * x[i] if x[i] > 0 else 0


@compiled
def backward(low, high, x, dy, dx):
    x, dy, dx = x[low:high], dy[low:high], dx[low:high]
    for i in range(len(x)):
        dx[i] = 2 * x[i] * dy[i] if x[i] > 0 else 0


def run(kernel, *inputs):
    out = np.empty_like(inputs[0], order="C")  # contiguous, so that ravel gives a view of it
    threads.run(kernel, out.size, *map(np.ravel, (*inputs, out)), least=1 << 18)  # fewer are not worth a thread
    return out


@squared_relu.kernel
def _(x):
    if x.dtype not in (np.float32, np.float64):
        return NotImplemented  # the reference takes what a kernel declines, such as complex numbers
    return run(forward, x), lambda dy: run(backward, x, dy)


x = np.random.default_rng(0).standard_normal((2048, 1536), np.float32)
print(tg.gradcheck(squared_relu, x[:3, :5].astype(np.float64)))
seconds = [("numpy", []), ("numba", [])]
for name, times in 20 * seconds:  # the value and the vjp, and a call of that
    with tg.use_backend(name):
        times += repeat(lambda: squared_relu.compute(x)[1](x), number=1, repeat=1)
for name, times in seconds:
    print(f"{name}: {1e3 * np.median(times):.2f} ms forward and backward")
