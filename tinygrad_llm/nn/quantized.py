"""Weights in 8 or 4 bits, for generating text: a token costs one reading of all weights, so smaller ones are faster.

A weight matrix is cut along its input axis into groups that share a scale, and in 4 bits a minimum too::

    int8:  w = d q        q in -127 .. 127     one d for 64 weights                   8.25 bits a weight
    int4:  w = d q + m    q in 0 .. 15         one d and one m for 32 weights         5 bits a weight

d and m are kept as bfloat16, the upper half of a float32; q is chosen for the rounded ones. int8 takes the d that the
largest weight of the group needs. int4 tries several d and m, improves each by least squares for the q that it gives,
and keeps the pair with the smallest squared error, as llama.cpp does for its k-quants (`make_qkx2_quants`); groups with
a minimum of their own are its Q4_1. A token embedding that is the head too suffers most: it takes 8 bits in either
case. Nothing is trained: no gradient passes a quantised weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from tinygrad_llm import ops
from tinygrad_llm.backend import twinned
from tinygrad_llm.nn.layers import Embedding, Linear
from tinygrad_llm.nn.module import Module
from tinygrad_llm.nn.packing import in_one_block
from tinygrad_llm.ops.quantized import BLOCK, GROUPS, dequantized, from_bfloat16
from tinygrad_llm.tape import Array
from tinygrad_llm.tensor import Tensor

Kind = Literal["int8", "int4"]
STRETCHES = (-1.0, -0.6, -0.3, 0.0, 0.3, 0.6)
"""What int4 tries: the range of a group has 15 + t steps, of which those beyond 15 are cut off."""

CHUNK = 1 << 20
"""Weights that are quantised at once: their temporaries stay in the cache."""


class Quantized(NamedTuple):
    """A matrix (F, C) by rows: q, the scales d, and the minimums m; the last are None for int8."""

    values: Array
    """int8 (F, P) or, for int4, uint8 (F, P/2), with P = C padded to a multiple of `BLOCK`. Of each block of 64, byte j
    holds weight j in its low four bits and weight j + 32, of the next group, in the high ones."""
    scales: Array
    """bfloat16 as uint16 (F, P / group)."""
    minimums: Array | None

    @property
    def nbytes(self) -> int:
        """Memory."""
        return self.values.nbytes + self.scales.nbytes + (0 if self.minimums is None else self.minimums.nbytes)

    def rows(self, which: Any) -> Quantized:
        """Some of the rows."""
        return Quantized(*(None if a is None else a[which] for a in self))  # type: ignore[arg-type]


def to_bfloat16(x: Array) -> Array:
    """float32 rounded to the nearest bfloat16, as uint16."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def quantized(matrix: Array, kind: Kind) -> Quantized:
    """The rows of a (F, C) matrix in groups along C. ValueError if a value is not finite."""
    if kind not in GROUPS:
        raise ValueError(f"quantize: unknown kind {kind!r}; expected one of {', '.join(GROUPS)}")
    features, inputs = matrix.shape
    if not np.isfinite(matrix).all():
        raise ValueError("quantize: the weights are not finite; training diverged, or their file is damaged")
    step = max(1, CHUNK // max(inputs, 1))
    code = _int8 if kind == "int8" else _int4
    parts = []
    for low in range(0, max(features, 1), step):
        rows = matrix[low : low + step]
        padded = np.zeros((len(rows), -(-inputs // BLOCK) * BLOCK), np.float32)
        padded[:, :inputs] = rows
        parts.append(code(padded))
    values, scales, minimums = (None if p[0] is None else np.concatenate(p) for p in zip(*parts, strict=True))
    return Quantized(values, scales, minimums)  # type: ignore[arg-type]


def _int8(w: Array) -> tuple[Array, Array, None]:
    groups = w.reshape(len(w), w.shape[1] // GROUPS["int8"], GROUPS["int8"])
    scales = to_bfloat16(np.abs(groups).max(-1, initial=0) / 127)  # off by 2^-9 at most: no q rounds to 128
    d = from_bfloat16(scales)[..., None]
    q = np.rint(np.divide(groups, d, out=np.zeros_like(groups), where=d > 0))
    return q.astype(np.int8).reshape(w.shape), scales, None


def _int4(w: Array) -> tuple[Array, Array, Array]:
    groups = w.reshape(w.size // GROUPS["int4"], GROUPS["int4"])
    shape = len(w), w.shape[1] // GROUPS["int4"]
    scales, minimums = (to_bfloat16(a).reshape(shape) for a in fitted(groups))
    q = levels(groups, from_bfloat16(scales).reshape(-1, 1), from_bfloat16(minimums).reshape(-1, 1)).astype(np.uint8)
    pairs = q.reshape(len(w), w.shape[1] // BLOCK, 2, GROUPS["int4"])
    return (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(len(w), w.shape[1] // 2), scales, minimums


def levels(groups: Array, d: Array, m: Array) -> Array:
    """The q of 0 .. 15 nearest to ``(w - m) / d``, as floats; 0 where d is 0."""
    inverse = np.divide(1, d, out=np.zeros_like(d), where=d > 0)
    return np.clip(np.rint((groups - m) * inverse), 0, 15)


@twinned
def fitted(groups: Array) -> tuple[Array, Array]:
    """The d and m (N,) that suit groups (N, 32): of what `STRETCHES` lead to, those with the smallest squared error."""
    low = groups.min(-1, keepdims=True)
    width = groups.max(-1, keepdims=True) - low
    best, d, m = np.full(low.shape, np.inf, np.float32), np.zeros_like(low), low.copy()
    for stretch in STRETCHES:
        q = levels(groups, width / np.float32(15 + stretch), low)
        new_d, new_m = _least_squares(groups, q)
        error = np.square(groups - levels(groups, new_d, new_m) * new_d - new_m).sum(-1, keepdims=True)
        better = error < best
        best, d, m = np.where(better, error, best), np.where(better, new_d, d), np.where(better, new_m, m)
    return d[:, 0], m[:, 0]


def _least_squares(w: Array, q: Array) -> tuple[Array, Array]:
    """The d and m that minimise ``sum (w - d q - m)^2`` in each group: linear regression of w on q."""
    mean_w, mean_q = w.mean(-1, keepdims=True), q.mean(-1, keepdims=True)
    spread = np.square(q - mean_q).sum(-1, keepdims=True)
    covariance = ((w - mean_w) * (q - mean_q)).sum(-1, keepdims=True)
    d = np.divide(covariance, spread, out=np.zeros_like(spread), where=spread > 0)
    return d, mean_w - d * mean_q


def _checked(x: Tensor, inputs: int) -> Tensor:
    if x.ndim == 0 or x.shape[-1] != inputs:
        raise ValueError(f"quantised linear: x {x.shape}: its last axis must have the {inputs} inputs of the weight")
    return x


class QuantizedLinear(Module):
    """``y = x W + b`` with the weight of a `Linear`, in fewer bits."""

    def __init__(self, linear: Linear, kind: Kind) -> None:
        self.inputs, self.kind = linear.weight.shape[0], kind
        self.weight = quantized(linear.weight.data.T, kind)
        self.bias = None if linear.bias is None else linear.bias.data

    def forward(self, x: Tensor, add_bias: bool = True) -> Tensor:
        return ops.quantized_linear(_checked(x, self.inputs), *self.weight, self.bias if add_bias else None)

    def head_loss(self, x: Tensor, targets: Array, **options: Any) -> Tensor:
        """`ops.cross_entropy` of y as logits."""
        return ops.cross_entropy(self(x), targets, **options)


class QuantizedEmbedding(Module):
    """An `Embedding` whose table is also the tied head, in int8."""

    def __init__(self, embedding: Embedding) -> None:
        self.channels, self.dtype = embedding.weight.shape[1], embedding.dtype
        self.weight = quantized(embedding.weight.data, "int8")

    def forward(self, ids: npt.ArrayLike) -> Tensor:
        ids = np.asarray(ids)
        if ids.size and not (ids.min() >= 0 and ids.max() < len(self.weight.values)):
            raise IndexError(
                f"embedding: ids reach from {ids.min()} to {ids.max()}, not 0 to {len(self.weight.values) - 1}"
            )
        rows = dequantized(*self.weight.rows(ids.reshape(-1)))[:, : self.channels]
        return Tensor(rows.reshape(*ids.shape, self.channels).astype(self.dtype, copy=False))

    def head(self, x: Tensor) -> Tensor:
        """``x W^T``: (..., C) to logits (..., V)."""
        return ops.quantized_linear(_checked(x, self.channels), *self.weight)

    def head_loss(self, x: Tensor, targets: Array, **options: Any) -> Tensor:
        """`ops.cross_entropy` of those logits."""
        return ops.cross_entropy(self.head(x), targets, **options)


def quantize(model: Module, kind: Kind, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Put every Linear and the token embedding of a model, which mostly is its head too, into fewer bits, in place.

    The float32 weights are given up one by one, so memory only shrinks. `progress` is told (weights done, weights in
    all). Norms, biases and positions stay as they are: they are few.
    """
    found = [
        (parent, name, part)
        for parent in model.modules()
        for name, part in vars(parent).items()
        if isinstance(part, Linear) or (isinstance(part, Embedding) and name == "token_embedding")
    ]
    total, done = sum(part.weight.size for _, _, part in found), 0
    if not found:
        raise ValueError("quantize: the model has no Linear; is it quantised already?")
    made: list[QuantizedLinear | QuantizedEmbedding] = []
    while found:
        parent, name, part = found.pop()
        made.append(QuantizedLinear(part, kind) if isinstance(part, Linear) else QuantizedEmbedding(part))
        setattr(parent, name, made[-1])
        done += part.weight.size
        del part
        progress(done, total)
    made.reverse()  # the order in which they are read
    arrays = iter(in_one_block([a for smaller in made for a in smaller.weight if a is not None]))
    for smaller in made:
        smaller.weight = Quantized(*(None if a is None else next(arrays) for a in smaller.weight))  # type: ignore[arg-type]
