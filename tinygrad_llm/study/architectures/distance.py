"""How far back a gradient reaches: that of the loss at the last position, at the embedding of each one before it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinygrad_llm import ops
from tinygrad_llm.models import Decoder
from tinygrad_llm.nn import Embedding
from tinygrad_llm.tape import Array
from tinygrad_llm.tensor import Tensor


@dataclass(frozen=True)
class Reach:
    """Of a model before or after training: ``norms[k]`` is the gradient's norm k positions before the last one."""

    model: str
    trained: bool
    norms: tuple[float, ...]

    def kept(self, distance: int) -> float:
        """The norm at that distance over the one at distance 1; distance 0 has a direct path in every model."""
        return self.norms[distance] / self.norms[1]


class Watched(Embedding):
    """An embedding that remembers the vectors it gave, with their gradients."""

    def __init__(self, embedding: Embedding) -> None:
        self.weight = embedding.weight

    def forward(self, ids: npt.ArrayLike) -> Tensor:
        self.vectors = super().forward(ids).retain_grad()
        return self.vectors


@contextmanager
def watched(model: Decoder) -> Iterator[Watched]:
    """Inside, the token embedding of the model remembers its vectors."""
    embedding = model.token_embedding
    model.token_embedding = Watched(embedding)
    try:
        yield model.token_embedding
    finally:
        model.token_embedding = embedding


def gradients_back(model: Decoder, ids: Array) -> Array:
    """``dl_T / dx_(T-k)`` as (B, T, C), k from 0: l_T is the loss of the last of ids (B, T + 1), x_t an embedding.

    The loss has no other target, so what arrives at x_(T-k) has come all the way from the last position.
    """
    with watched(model.eval()) as embedding:
        last = model.hidden(ids[:, :-1])[:, -1]
        ops.cross_entropy(model.head(last), ids[:, -1], reduction="sum").backward()
    model.zero_grad()
    assert embedding.vectors.grad is not None
    return embedding.vectors.grad[:, ::-1]


def measure_reach(model: Decoder, ids: Array) -> tuple[float, ...]:
    """Norms by distance, each the median of those of the B sequences; in float64, which holds what is very small.

    The model is in float64 afterwards.
    """
    norms = np.linalg.norm(gradients_back(model.astype(np.float64), ids), axis=-1)
    return tuple(np.median(norms, axis=0).tolist())
