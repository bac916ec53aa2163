"""Drawing small legal arguments, shared by the operations' samples."""

from __future__ import annotations

import numpy as np

from tinygrad_llm.tape import Array

Shape = tuple[int, ...]


def normal(rng: np.random.Generator, shape: Shape) -> Array:
    """Standard normal float64 values."""
    return rng.standard_normal(shape)


def positive(rng: np.random.Generator, shape: Shape) -> Array:
    """Values in [0.5, 2.5], away from the pole of 1/x and log."""
    return rng.uniform(0.5, 2.5, shape)


def apart(rng: np.random.Generator, shape: Shape, gap: float = 0.1) -> Array:
    """Values of which no two, nor any and zero, are closer than `gap`: no ties and no kinks within a small step."""
    size = int(np.prod(shape))
    ranks = rng.permutation(size) + 1.0
    return (gap * ranks * rng.choice([-1.0, 1.0], size)).reshape(shape)


def broadcast_shape(rng: np.random.Generator, shape: Shape) -> Shape:
    """A shape that broadcasts to `shape`: some axes become 1, some leading axes are left out."""
    kept = tuple(1 if rng.random() < 0.3 else n for n in shape)
    return kept[int(rng.integers(len(kept) + 1)) :] if rng.random() < 0.5 else kept


def one_axis(rng: np.random.Generator, shape: Shape) -> int:
    """An axis of `shape`, counted from the start or from the end."""
    return int(rng.integers(-len(shape), len(shape)))


def axes(rng: np.random.Generator, shape: Shape) -> int | tuple[int, ...] | None:
    """What a reduction takes: one axis, several, or None for all."""
    kind = rng.integers(3)
    if kind == 0:
        return None
    if kind == 1:
        return one_axis(rng, shape)
    chosen = rng.permutation(len(shape))[: int(rng.integers(1, len(shape) + 1))]
    return tuple(int(a) for a in chosen)
