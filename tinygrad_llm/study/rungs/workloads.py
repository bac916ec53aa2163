"""Arguments of the size that a small training step has, and what an operation cannot do without: bytes and operations.

The samples of the operations are made to be checked and read; some of them keep one side small whatever the shape (an
attention with three keys, a weight with four columns). Such operations have a workload here; the others take their
first sample at a larger shape.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinygrad_llm.operation import Operation
from tinygrad_llm.ops.recurrent import draw
from tinygrad_llm.ops.samples import normal
from tinygrad_llm.ops.scaled_attention import unseen
from tinygrad_llm.study.machine import available_memory
from tinygrad_llm.tape import Array

Shape = tuple[int, ...]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]

USUAL_SHAPE = (2048, 1024)
SHAPES: dict[str, Shape] = {
    "add_layer_norm": (2048, 768),
    "add_rms_norm": (2048, 768),
    "attention": (4, 8, 256, 64),
    "biased_attention": (4, 8, 256, 64),
    "cross_entropy": (512, 8192),
    "einsum": (512, 512),
    "embedding": (8192, 256),
    "getitem": (8192, 256),
    "gru": (16, 64, 128),
    "gru_cell": (2048, 1536),
    "layer_norm": (2048, 768),
    "linear": (512, 768),
    "linear_cross_entropy": (512, 256),
    "lstm": (16, 64, 128),
    "matmul": (512, 512),
    "rms_norm": (2048, 768),
    "rnn": (16, 64, 128),
    "rotary": (4, 8, 256, 64),
    "self_attention": (4, 256, 1536),
}
"""Shape of the first input, where it is not the usual one."""


def _attention(rng: np.random.Generator, shape: Shape) -> Arguments:
    return tuple(normal(rng, shape) for _ in range(3)), {"causal": True}


def _biased_attention(rng: np.random.Generator, shape: Shape) -> Arguments:
    _, heads, time, _ = shape
    return (*(normal(rng, shape) for _ in range(3)), normal(rng, (1, heads, time, time))), {"causal": True}


def _self_attention(rng: np.random.Generator, shape: Shape) -> Arguments:
    heads = next(h for h in (8, 4, 2, 1) if shape[-1] % (3 * h) == 0 or h == 1)
    return (normal(rng, shape),), {"heads": heads, "causal": True}


def _einsum(rng: np.random.Generator, shape: Shape) -> Arguments:
    return (normal(rng, shape), normal(rng, shape[::-1])), {"subscripts": "ij,jk->ik"}


def _vocabulary(rng: np.random.Generator, shape: Shape) -> Arguments:
    tokens = 16 * shape[-1]
    weight = normal(rng, (tokens, shape[-1])) / math.sqrt(max(shape[-1], 1))
    return (normal(rng, shape), weight, rng.integers(0, tokens, shape[:-1])), {}


def _lookup(rng: np.random.Generator, shape: Shape) -> Arguments:
    return (normal(rng, shape), rng.integers(0, shape[0], (8, 256))), {}


def _linear(rng: np.random.Generator, shape: Shape) -> Arguments:
    width = shape[-1]
    return (normal(rng, shape), normal(rng, (width, width)) / math.sqrt(max(width, 1)), normal(rng, (width,))), {}


def _matmul(rng: np.random.Generator, shape: Shape) -> Arguments:
    return (normal(rng, shape), normal(rng, (*shape[:-2], shape[-1], shape[-1]))), {}


def _recurrent(**kind: int) -> Callable[[np.random.Generator, Shape], Arguments]:
    """As many units as channels."""
    return lambda rng, shape: (draw(rng, shape, units=shape[-1], **kind), {})


def _last_axis(rng: np.random.Generator, shape: Shape) -> Arguments:
    return (normal(rng, shape),), {"axis": -1}


def _reversed(rng: np.random.Generator, shape: Shape) -> Arguments:
    return (normal(rng, shape),), {"axes": None}


WORKLOADS: dict[str, Callable[[np.random.Generator, Shape], Arguments]] = {
    "attention": _attention,
    "biased_attention": _biased_attention,
    "self_attention": _self_attention,
    "einsum": _einsum,
    "embedding": _lookup,
    "getitem": _lookup,
    "gru": _recurrent(gates=3, biases=2),
    "linear_cross_entropy": _vocabulary,
    "linear": _linear,
    "log_softmax": _last_axis,
    "logsumexp": _last_axis,
    "lstm": _recurrent(gates=4, states=2),
    "matmul": _matmul,
    "max": _last_axis,
    "mean": _last_axis,
    "rnn": _recurrent(gates=1),
    "softmax": _last_axis,
    "sum": _last_axis,
    "transpose": _reversed,
}


BYTES_PER_ENTRY = 64
"""Memory that comparing several ways to compute a gradient takes, for each entry of the largest array: about this."""


def usual_shape(operation: Operation) -> Shape | None:
    """The shape of the first input of a workload; None for a user's own operation, whose sample decides it."""
    return SHAPES.get(operation.name, USUAL_SHAPE) if _ours(operation) else None


def _ours(operation: Operation) -> bool:
    return operation.__module__.startswith("tinygrad_llm.")


@contextmanager
def fitting(operation: Operation, shape: Shape | None) -> Iterator[None]:
    """Inside, an error of drawing or using arguments becomes one line that says which shape did not fit."""
    try:
        yield
    except (ValueError, IndexError, TypeError) as error:
        if shape is None:
            raise
        message = str(error).removeprefix(f"{operation.name}: ")
        usual = usual_shape(operation)
        example = f"; its usual one is {usual}" if usual else ""
        raise ValueError(f"{operation.name}: the shape {shape} does not fit: {message}{example}") from error


def draw_workload(operation: Operation, rng: np.random.Generator, shape: Shape | None = None) -> Arguments:
    """float64 arguments whose first input has the given shape, or one of the size that a training step has.

    A user's own operation takes its first sample. Raises ValueError if it has none, or if the shape does not fit, and
    MemoryError if there is too little memory to work with them.
    """
    draw = WORKLOADS.get(operation.name) if _ours(operation) else None
    if draw is None and not len(operation.sample):
        raise ValueError(f"{operation.name} has no sample to draw from: add one with @{operation.name}.sample")
    if draw is None and shape is not None and len(inspect.signature(operation.sample.functions[0]).parameters) < 2:
        raise ValueError(f"{operation.name}: its sample takes no shape, so none can be asked for")
    wanted = usual_shape(operation) if shape is None else shape
    if wanted is not None:
        check_memory(operation, math.prod(wanted))
    with fitting(operation, shape):
        inputs, options = operation.sample.draw(rng, 0, wanted) if draw is None else draw(rng, wanted or ())
        check_memory(operation, largest_array(operation, inputs, options.get("heads", 1)))
    return inputs, options


def check_memory(operation: Operation, entries: int) -> None:
    """Raise MemoryError if there is not enough to work with arrays of so many entries."""
    needed, available = entries * BYTES_PER_ENTRY, available_memory()
    if available is not None and needed > available:
        raise MemoryError(
            f"{operation.name}: arrays of {entries:,} entries would take about {needed / 1e9:,.0f} GB, and "
            f"{available / 1e9:,.0f} GB are available; choose a smaller --shape"
        )


def largest_array(operation: Operation, inputs: Sequence[Any], heads: int = 1) -> int:
    """Entries of the largest array there will be: an input, the scores of an attention, or one-hot rows."""
    sizes = [np.size(x) for x in inputs]
    if operation.name in ("attention", "biased_attention") and all(np.ndim(x) == 4 for x in inputs[:2]):
        sizes.append(math.prod(inputs[0].shape[:3]) * inputs[1].shape[2])
    if operation.name == "self_attention" and np.ndim(inputs[0]) == 3:
        batch, time, _ = inputs[0].shape
        sizes.append(batch * heads * time**2)
    if operation.name == "linear_cross_entropy":
        sizes.append(math.prod(np.shape(inputs[0])[:-1]) * len(inputs[1]))
    if operation.name == "embedding":
        sizes.append(np.size(inputs[1]) * len(inputs[0]))
    return max(sizes)


# ---------------------------------------------------------------------------------------------------------------------


def arrays_read(operation: Operation, inputs: Sequence[Any], options: dict[str, Any]) -> list[Array]:
    """The arrays among the arguments of a workload, and of a table only the rows that are looked up, each once."""
    arrays = [x for x in (*inputs, *options.values()) if isinstance(x, np.ndarray)]
    if operation.name in ("embedding", "getitem") and _ours(operation):
        arrays[0] = arrays[0][np.unique(arrays[1])]
    return arrays


def product_operations(
    operation: Operation, inputs: Sequence[Any], options: dict[str, Any], output: Shape
) -> tuple[int, int]:
    """Floating-point operations of the matrix products that (forward, backward) cannot do without.

    2 for every multiplication and addition of a product, twice as many backward, where each factor has its own. Only
    matrix products are counted; what is done element by element is limited by memory, not arithmetic. A causal
    attention needs the products of visible pairs only.
    """
    if operation.name in ("matmul", "linear", "einsum") and _ours(operation):
        forward = 2 * math.prod(output) * np.shape(inputs[0])[-1]
    elif operation.name in ("attention", "biased_attention") and _ours(operation):
        q, k, v = inputs[:3]
        pairs = math.prod(q.shape[2:3] + k.shape[2:3])
        if options.get("causal"):
            pairs -= int(unseen(q.shape[2], k.shape[2], 0).sum())
        forward = 2 * q.shape[0] * q.shape[1] * pairs * (q.shape[3] + v.shape[3])
    elif operation.name == "linear_cross_entropy" and _ours(operation):
        forward = 2 * np.size(inputs[0]) * len(inputs[1])
    elif operation.name == "self_attention" and _ours(operation):
        batch, time, channels = inputs[0].shape
        pairs = time * (time + 1) // 2 if options.get("causal") else time**2
        forward = 4 * batch * pairs * (channels // 3)
    elif operation.name in ("rnn", "lstm", "gru") and _ours(operation):
        given = dict(zip(operation.parameters, inputs, strict=True))
        forward = 2 * math.prod(given["x"].shape[:2]) * (given["weight_x"].size + given["weight_h"].size)
    else:
        forward = 0
    return forward, 2 * forward
