"""The product with a matrix in 8 or 4 bits, which a gradient passes on its way to what stands before it.

How the bits are chosen is described in `nn/quantized.py`. Here they are read: the weights of a group are ``w = d q`` in
8 bits and ``w = d q + m`` in 4, with d and m as bfloat16.
"""

from __future__ import annotations

import numpy as np

from tinygrad_llm.backend import twinned
from tinygrad_llm.operation import op
from tinygrad_llm.ops.products import rows, sum_rows
from tinygrad_llm.ops.samples import normal

GROUPS = {"int8": 64, "int4": 32}
"""Weights that share a scale."""

BLOCK = 64
"""Rows are padded with zeros to a multiple of so many weights."""

EXPANDED = 1 << 19
"""Weights that are turned into floats at once for a gradient."""


def from_bfloat16(bits):
    """The float32 values of bfloat16."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def dequantized(values, scales, minimums):
    """The padded float32 matrix (F, P) that a `Quantized` stands for."""
    d = from_bfloat16(scales)[..., None]
    if minimums is None:
        return (values.reshape(*scales.shape, GROUPS["int8"]) * d).reshape(values.shape)
    blocks = values.reshape(len(values), scales.shape[1] // 2, 1, GROUPS["int4"])
    q = np.concatenate((blocks & 15, blocks >> 4), axis=2).reshape(*scales.shape, GROUPS["int4"])
    return (q * d + from_bfloat16(minimums)[..., None]).reshape(len(values), 2 * values.shape[1])


def columns_of(low, high, values, scales, minimums):
    """What stands for the blocks low to high of the columns of the matrix."""
    a, b = (n * BLOCK // (1 if minimums is None else 2) for n in (low, high))
    c, d = (n * BLOCK // GROUPS["int8" if minimums is None else "int4"] for n in (low, high))
    return values[:, a:b], scales[:, c:d], None if minimums is None else minimums[:, c:d]


@twinned
def quantized_product(x, values, scales, minimums=None):
    """``x w^T``: x (N, C), w the (F, C) matrix of a `Quantized`; (N, F)."""
    return x @ dequantized(values, scales, minimums)[:, : x.shape[1]].T.astype(x.dtype, copy=False)


@twinned
def quantized_gradient(dy, inputs, values, scales, minimums=None):
    """``dy w``: dy (N, F), w the (F, C) matrix of a `Quantized` with C `inputs`; (N, C). Some columns at a time: the
    whole matrix of floats is never there."""
    dx = np.empty((len(dy), inputs), dy.dtype)
    step = max(1, EXPANDED // (BLOCK * max(1, len(values))))
    for low in range(0, -(-inputs // BLOCK), step):
        part = slice(low * BLOCK, min((low + step) * BLOCK, inputs))
        w = dequantized(*columns_of(low, low + step, values, scales, minimums))
        dx[:, part] = dy @ w[:, : part.stop - part.start].astype(dy.dtype, copy=False)
    return dx


@op
def quantized_linear(x, values, scales, minimums=None, bias=None):
    """``y = x w^T + b``: x (..., C), w the (F, C) matrix of a `Quantized`, given by its parts; b (F,) or None.

    The weights are whole numbers, of which there is no derivative: they stay as they are. But y is linear in x, and the
    gradient of x is what it would be with the floats that the bits stand for, whose rounding was done beforehand::

        dx = dy w,   db = sum_t dy_t

    both deferred. So what stands before the matrix, or beside it, can be trained; with adapters beside it this is what
    QLoRA does (Dettmers et al. 2023, arXiv:2305.14314). Saves the bits and not x: without a gradient of w nothing asks
    for it. Cost: 2 N C F floating-point operations each way, and turning the bits into floats.
    """
    if x.ndim == 0 or -(-x.shape[-1] // BLOCK) * BLOCK != values.shape[-1] * (1 if minimums is None else 2):
        raise ValueError(f"quantized_linear: x {x.shape}: its last axis does not fit a matrix {values.shape}")
    shape = x.shape
    y = quantized_product(rows(x), values, scales, minimums)
    if bias is not None:
        y += bias

    def vjp(dy):
        def dx():
            return quantized_gradient(rows(dy), shape[-1], values, scales, minimums).reshape(shape)

        return dx, None, None, None, lambda: sum_rows(dy)

    return y.reshape(*shape[:-1], len(values)), vjp


@quantized_linear.derivation("x")
def _(x, values, scales, dy, minimums=None, bias=None):
    group = GROUPS["int8" if minimums is None else "int4"]
    q, d = values, np.repeat(from_bfloat16(scales), group, axis=1)
    m = 0 if minimums is None else np.repeat(from_bfloat16(minimums), group, axis=1)
    if minimums is not None:  # byte j of a block holds weight j in its low bits and weight j + 32 in the high ones
        halves = q.reshape(len(q), -1, 1, group)
        q = np.concatenate((halves & 15, halves >> 4), axis=2).reshape(len(q), -1)
    w = (d.astype(x.dtype) * q + m)[:, : x.shape[-1]]
    yield (
        "`dx_tc = sum_uf dy_uf ∂y_uf/∂x_tc`, with `∂y_uf/∂x_tc = d_fc q_fc + m_fc` where `u = t`, else 0: d and m of "
        "the group in which column `c` is, and no m in 8 bits",
        np.einsum("uf,ut,fc->tc", rows(dy), np.eye(len(rows(x))), w).reshape(x.shape),
    )
    yield "only `u = t` is left of the sum over rows", np.einsum("tf,fc->tc", rows(dy), w).reshape(x.shape)
    yield "`w = d q + m` is the matrix that the bits stand for, and this a product with it", dy @ w
    half = -(-x.shape[-1] // 2)
    yield (
        "each column of `dx` needs the same column of `w` alone, so columns may be taken in blocks",
        np.concatenate((dy @ w[:, :half], dy @ w[:, half:]), axis=-1),
    )


@quantized_linear.derivation("bias")
def _(x, values, scales, minimums, bias, dy):
    yield (
        "`db_g = sum_tf dy_tf ∂y_tf/∂b_g`, with `∂y_tf/∂b_g = 1` where `f = g`, else 0: the bias is added as it is",
        np.einsum("tf,fg->g", rows(dy), np.eye(len(bias))),
    )
    yield "only `f = g` is left; every row uses the same bias, so the rows add", rows(dy).sum(0)


def bfloat16_bits(rng, shape):
    """Of values between 1/64 and 1/32."""
    return (rng.uniform(1 / 64, 1 / 32, shape).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


@quantized_linear.sample
def _(rng, shape=(2, 3)):  # int8
    width = -(-shape[-1] // BLOCK) * BLOCK
    values = rng.integers(-127, 128, (2, width)).astype(np.int8)
    return (normal(rng, shape), values, bfloat16_bits(rng, (2, width // 64))), {}


@quantized_linear.sample
def _(rng, shape=(2, 1, 66)):  # int4, more than one block, and a bias
    blocks = -(-shape[-1] // BLOCK)
    values = rng.integers(0, 256, (3, 32 * blocks)).astype(np.uint8)
    scales, minimums = bfloat16_bits(rng, (2, 3, 2 * blocks))
    return (normal(rng, shape), values, scales, minimums, normal(rng, (3,))), {}
