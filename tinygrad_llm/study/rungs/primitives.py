"""Operations composed of simpler ones, as one would write them without deriving a gradient: the tape does it all.

Each function has the signature of the operation of the same name, takes Tensors, and gives the same value and the same
gradients, by the chain rule through many small nodes. `ladder` sets the two side by side: this is what a derived
gradient saves. As primitive count arithmetic, exp, log, sqrt, power, where, max, sum, matmul, getitem, and whatever
only moves values; they are not composed. Neither is einsum, which is a whole family.

A maximum that is subtracted to keep exponentials finite is a constant here: the result does not depend on it, so it
has no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_llm import ops, random
from tinygrad_llm.ops.activations import GELU_CUBIC, SQRT_2_OVER_PI
from tinygrad_llm.ops.losses import checked_targets
from tinygrad_llm.ops.reductions import group_size
from tinygrad_llm.ops.rotations import cos_and_sin
from tinygrad_llm.ops.scaled_attention import unseen
from tinygrad_llm.tape import Array
from tinygrad_llm.tensor import Tensor

Axis = int | tuple[int, ...] | None


def tanh(x: Tensor) -> Tensor:
    up, down = ops.exp(x), ops.exp(-x)
    return (up - down) / (up + down)


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + ops.exp(-x))


def silu(x: Tensor) -> Tensor:
    return x * sigmoid(x)


def softplus(x: Tensor) -> Tensor:
    return ops.log(1 + ops.exp(x))


def relu(x: Tensor) -> Tensor:
    return ops.where(x.data > 0, x, 0.0)


def absolute(x: Tensor) -> Tensor:
    return x * np.sign(x.data)


def clip(x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    bounded = np.clip(x.data, low, high)
    return ops.where(bounded == x.data, x, bounded)


def gelu(x: Tensor, approximate: bool = True) -> Any:
    if not approximate:
        return NotImplemented  # there is no erfc to compose it of
    inner = SQRT_2_OVER_PI * (x + GELU_CUBIC * (x * x * x))
    return 0.5 * x * (1 + ops.tanh(inner))


def bias_gelu(x: Tensor, bias: Tensor, approximate: bool = True) -> Any:
    return gelu(x + bias, approximate)


def dropout(x: Tensor, p: float, key: int) -> Tensor:
    kept = random.stream(key, "dropout").random(x.shape, np.float32) >= p
    return x * (kept / x.dtype.type(1 - p))


def mean(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    return ops.sum(x, axis=axis, keepdims=keepdims) / group_size("mean", x.data, axis)


# -- softmaxes ---------------------------------------------------------------------------------------------------------


def largest(x: Tensor, axis: int) -> Array:
    """The largest entry of each row, as a constant; 0 for a row with nothing but -inf."""
    top = x.data.max(axis=axis, keepdims=True, initial=-np.inf)
    return np.where(top == -np.inf, x.dtype.type(0), top)


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    e = ops.exp(x - largest(x, axis))
    total = ops.sum(e, axis=axis, keepdims=True)
    return e / (total + (total.data == 0))  # a fully masked row is 0, not 0/0


def logsumexp(x: Tensor, axis: int = -1, keepdims: bool = False) -> Tensor:
    top = largest(x, axis)
    z = ops.log(ops.sum(ops.exp(x - top), axis=axis, keepdims=True)) + top
    return z if keepdims else ops.sum(z, axis=axis)  # a sum over one entry only drops the axis


def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    return x - logsumexp(x, axis, keepdims=True)


# -- layers ------------------------------------------------------------------------------------------------------------


def layer_norm(x: Tensor, gain: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    centred = x - ops.mean(x, axis=-1, keepdims=True)
    variance = ops.mean(centred * centred, axis=-1, keepdims=True)
    return gain * (centred / ops.sqrt(variance + eps)) + bias


def rms_norm(x: Tensor, gain: Tensor, eps: float = 1e-5) -> Tensor:
    return gain * (x / ops.sqrt(ops.mean(x * x, axis=-1, keepdims=True) + eps))


def add_layer_norm(x: Tensor, residual: Tensor, gain: Tensor, bias: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    s = x + residual
    return s, layer_norm(s, gain, bias, eps)


def add_rms_norm(x: Tensor, residual: Tensor, gain: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    s = x + residual
    return s, rms_norm(s, gain, eps)


def rotary(x: Tensor, positions: Any, base: float = 10000.0, frequencies: Any = None) -> Tensor:
    cos, sin = cos_and_sin(x.data, positions, base, frequencies)
    first, second = ops.split(x, 2, axis=-1)
    return ops.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return silu(gate) * up


def geglu(gate: Tensor, up: Tensor) -> Any:
    return gelu(gate) * up


def lstm_cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    i, f, g, o = ops.split(gates, 4, axis=-1)
    after = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(after), after


def gru_cell(x_gates: Tensor, h_gates: Tensor, h: Tensor) -> Tensor:
    (x_r, x_z, x_n), (h_r, h_z, h_n) = ops.split(x_gates, 3, axis=-1), ops.split(h_gates, 3, axis=-1)
    z, n = sigmoid(x_z + h_z), tanh(x_n + sigmoid(x_r + h_r) * h_n)
    return (1 - z) * n + z * h


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y = ops.matmul(x, weight)
    return y if bias is None else y + bias


def embedding(weight: Tensor, ids: Any) -> Tensor:
    ids = np.asarray(ids)
    onehot = np.zeros((*ids.shape, len(weight)), weight.dtype)
    np.put_along_axis(onehot, ids[..., None], 1, -1)
    return ops.matmul(onehot, weight)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    mask: Any,
    causal: bool,
    scale: float | None,
    window: int = 0,
) -> Tensor:
    _, heads, queries, width = q.shape
    kv_heads, keys = k.shape[1:3]
    if kv_heads != heads:  # each key head serves a group of query heads: repeat it for each of them
        each = np.repeat(np.arange(kv_heads), heads // kv_heads)
        k, v = k[:, each], v[:, each]
    scores = ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) * (1 / math.sqrt(width) if scale is None else scale)
    if bias is not None:
        scores = scores + bias
    if causal:
        scores = ops.where(unseen(queries, keys, window), -np.inf, scores)
    if mask is not None:
        mask = np.asarray(mask)
        scores = ops.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    return ops.matmul(softmax(scores), v)


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Any = None, causal: bool = False, scale: float | None = None, window: int = 0
) -> Tensor:
    return _attend(q, k, v, None, mask, causal, scale, window)


def biased_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Any = None, causal: bool = False, scale: float | None = None
) -> Tensor:
    return _attend(q, k, v, bias, mask, causal, scale)


def self_attention(
    qkv: Tensor, heads: int, mask: Any = None, causal: bool = False, scale: float | None = None
) -> Tensor:
    batch, time, channels = qkv.shape
    parts = ops.transpose(ops.reshape(qkv, (batch, time, 3, heads, channels // (3 * heads))), (2, 0, 3, 1, 4))
    y = _attend(parts[0], parts[1], parts[2], None, mask, causal, scale)
    return ops.reshape(ops.transpose(y, (0, 2, 1, 3)), (batch, time, channels // 3))


def cross_entropy(
    logits: Tensor,
    targets: Any,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    targets = np.asarray(targets)
    wanted, kept = checked_targets("cross_entropy", logits.shape, targets, ignore_index)
    x = ops.reshape(logits, (-1, logits.shape[-1]))
    lse = logsumexp(x)
    log_p = x - ops.reshape(lse, (-1, 1))
    loss = -(1 - label_smoothing) * log_p[np.arange(len(wanted)), wanted]
    if label_smoothing:
        loss = loss - label_smoothing * ops.mean(log_p, axis=-1)
    if z_loss:
        loss = loss + z_loss * lse**2
    loss = loss * kept.astype(x.dtype)
    if reduction == "none":
        return ops.reshape(loss, targets.shape)
    return ops.sum(loss) / (max(int(kept.sum()), 1) if reduction == "mean" else 1)


def linear_cross_entropy(
    x: Tensor, weight: Tensor, targets: Any, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    return cross_entropy(ops.matmul(x, ops.transpose(weight)), targets, ignore_index, reduction=reduction)


compositions: dict[str, Callable[..., Any]] = {
    "abs": absolute,
    "add_layer_norm": add_layer_norm,
    "add_rms_norm": add_rms_norm,
    "attention": attention,
    "bias_gelu": bias_gelu,
    "biased_attention": biased_attention,
    "clip": clip,
    "cross_entropy": cross_entropy,
    "dropout": dropout,
    "embedding": embedding,
    "geglu": geglu,
    "gelu": gelu,
    "gru_cell": gru_cell,
    "layer_norm": layer_norm,
    "linear": linear,
    "linear_cross_entropy": linear_cross_entropy,
    "log_softmax": log_softmax,
    "logsumexp": logsumexp,
    "lstm_cell": lstm_cell,
    "mean": mean,
    "relu": relu,
    "rms_norm": rms_norm,
    "rotary": rotary,
    "self_attention": self_attention,
    "sigmoid": sigmoid,
    "silu": silu,
    "softmax": softmax,
    "softplus": softplus,
    "swiglu": swiglu,
    "tanh": tanh,
}
"""Name of an operation to the function that composes it. A function may decline options with NotImplemented."""
