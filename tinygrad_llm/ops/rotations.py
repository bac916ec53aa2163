"""Rotary position embedding: positions enter attention as rotations of queries and keys."""

from __future__ import annotations

import functools

import numpy as np

from tinygrad_llm.operation import named_shape, op
from tinygrad_llm.ops.samples import normal


@op
def rotary(x, positions, base=10000.0, frequencies=None):
    """Rotate each pair of channels ``(x_i, x_(i + D/2))`` by an angle that grows with the position.

    x and y are (B, H, T, D) with D even; positions are whole numbers, (T,) or (B, T). With p the position and
    ``a = p f_i`` the angle of pair ``i < D/2``, in radians::

        y_i = x_i cos(a) - x_(i + D/2) sin(a)     y_(i + D/2) = x_(i + D/2) cos(a) + x_i sin(a)

    The frequencies, in radians per position, are ``f_i = base^(-2 i/D)``, or the (D/2,) values that are given (scaled
    ones reach further than the sequences of the training did). Rotations by two angles add up, so the dot product of a
    query at position p with a key at position q depends on ``p - q`` only: attention sees distances. Lengths are kept.

    Gradient: the transpose of a rotation is the rotation back, so dx is dy rotated by -a. Saves the cosines and sines.

    Numerics: angles are multiplied out, and reduced to one turn, in float64, for at position 100,000 a float32 angle
    may be wrong by 0.004; only cosine and sine are rounded to the type of x. They are kept for the next call, as every
    layer asks for the same. Cost: about 5 passes over x forward and backward.
    Source: Su et al. 2021, arXiv:2104.09864, equation 34, with the pairs (i, i + D/2) of GPT-NeoX and Llama.
    """
    cos, sin = cos_and_sin(x, positions, base, frequencies)

    def vjp(dy):
        return rotated(dy, cos, -sin)

    return rotated(x, cos, sin), vjp


def rotated(x, cos, sin):
    """Each pair (first half, second half) turned by the angle whose cosine and sine are given."""
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1)


def cos_and_sin(x, positions, base=10000.0, frequencies=None):
    """Cosine and sine of each pair's angle in the type of x, (T, D/2) or (B, 1, T, D/2). Checks all shapes first."""
    positions = np.asarray(positions)
    if x.ndim != 4 or x.shape[3] % 2:
        raise ValueError(f"rotary: x {named_shape(x.shape, 'BHTD')}: expected (B, H, T, D) with an even D")
    if positions.dtype.kind not in "iu":
        raise TypeError(f"rotary: positions must be whole numbers, not {positions.dtype}")
    batch, _, time, channels = x.shape
    if positions.shape not in ((time,), (batch, time)):
        raise ValueError(
            f"rotary: x {named_shape(x.shape, 'BHTD')} needs positions of shape (T,) or (B, T), not {positions.shape}"
        )
    if frequencies is not None:
        frequencies = np.asarray(frequencies, np.float64)
        if frequencies.shape != (channels // 2,):
            raise ValueError(
                f"rotary: x {named_shape(x.shape, 'BHTD')} needs frequencies of shape (D/2,), not {frequencies.shape}"
            )
        frequencies = frequencies.tobytes()
    table = _table(positions.astype(np.int64).tobytes(), float(base), frequencies, channels // 2, x.dtype)
    shape = (time, channels // 2) if positions.ndim == 1 else (batch, 1, time, channels // 2)
    return table[0].reshape(shape), table[1].reshape(shape)


@functools.lru_cache(maxsize=16)
def _table(positions, base, frequencies, pairs, dtype):
    """(2, positions, pairs): cosines and sines, read-only; arrays are given as bytes, so that they can be looked up."""
    given = base ** (-np.arange(pairs) / pairs) if frequencies is None else np.frombuffer(frequencies)
    angles = np.frombuffer(positions, np.int64)[:, None] * given
    table = np.stack((np.cos(angles), np.sin(angles))).astype(dtype)
    table.flags.writeable = False
    return table


@rotary.derivation("x")
def _(x, positions, dy, base=10000.0, frequencies=None):
    pairs = x.shape[-1] // 2
    f = base ** (-2 * np.arange(pairs) / x.shape[-1]) if frequencies is None else frequencies
    a = positions[..., None] * f
    a = a if positions.ndim == 1 else a[:, None]  # a batch of positions is the same for all heads
    cos, sin = np.cos(a), np.sin(a)
    unit = np.eye(pairs)
    cosines, sines = cos[..., None] * unit, sin[..., None] * unit
    rotation = np.concatenate(
        (np.concatenate((cosines, -sines), axis=-1), np.concatenate((sines, cosines), axis=-1)), axis=-2
    )
    yield (
        "`dx_j = sum_i dy_i ∂y_i/∂x_j` in each position; `y` is linear in `x`, `y_i = sum_j R_ij x_j`, so "
        "`∂y_i/∂x_j = R_ij`: cosines on the diagonal, and `-sin(a)` and `sin(a)` where a pair mixes",
        np.einsum("...i,...ij->...j", dy, np.broadcast_to(rotation, (*x.shape, x.shape[-1]))),
    )
    first, second = dy[..., :pairs], dy[..., pairs:]
    yield (
        "column `j` of `R` has two entries: the first channel of a pair enters both results, with `cos(a)` and "
        "`sin(a)`; the second one with `-sin(a)` and `cos(a)`",
        np.concatenate((first * cos + second * sin, second * cos - first * sin), axis=-1),
    )
    yield (
        "cosine is even and sine is odd, so this is `dy` rotated by `-a`: the transpose of a rotation turns back",
        rotated(dy, np.cos(-a), np.sin(-a)),
    )
    yield "which needs only the cosines and sines that forward has used", rotated(dy, cos, -sin)


@rotary.sample
def _(rng, shape=(2, 2, 3, 4)):
    return (normal(rng, shape), np.arange(shape[2]) + int(rng.integers(-5, 1000))), {}


@rotary.sample
def _(rng, shape=(2, 1, 2, 6)):  # positions of their own for each sequence, another base
    return (normal(rng, shape), rng.integers(0, 1000, (shape[0], shape[2]))), {"base": 500.0}


@rotary.sample
def _(rng, shape=(1, 2, 3, 4)):  # frequencies that are given
    frequencies = rng.uniform(0.001, 1, shape[3] // 2)
    return (normal(rng, shape), rng.integers(0, 1000, shape[2])), {"frequencies": frequencies}
