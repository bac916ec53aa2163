"""What every decoder-only language model has: logits from ids, and checks of positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tinygrad_llm import random
from tinygrad_llm.models.pretrained import Pretrained
from tinygrad_llm.models.stage import Stage, StageEnd
from tinygrad_llm.nn import Embedding, Linear
from tinygrad_llm.tape import Array
from tinygrad_llm.tensor import Tensor


class Cache(Protocol):
    """What is remembered of the positions seen so far: keys and values (see `tinygrad_llm.generation`), or states."""

    @property
    def length(self) -> int:
        """Positions held."""

    @property
    def layers(self) -> Sequence[Any]:
        """One for each block: a `LayerCache`, or the state of a recurrent layer."""


class Decoder(Pretrained):
    """A decoder-only language model. ``model(ids)`` maps (B, T) token ids to (B, T, V) logits: at each position, scores
    for the token that follows. A subclass sets `token_embedding` and `lm_head`, and defines `hidden`."""

    token_embedding: Embedding
    lm_head: Linear | None = None
    """None if the head is the token embedding again (tied)."""
    stage: Stage | None = None
    """Set while a pipeline runs a part of the model; None for all of it."""

    def forward(
        self,
        ids: npt.ArrayLike,
        positions: npt.ArrayLike | None = None,
        mask: Array | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Logits (B, T, V) of ids (B, T).

        `positions` (B, T) default to 0, 1, 2 ..., counted on from what the cache holds; `mask` (B, 1, 1, S) is True
        where a key may be seen (False on padding).
        """
        return self.head(self.hidden(ids, positions, mask, cache))

    def hidden(
        self,
        ids: npt.ArrayLike,
        positions: npt.ArrayLike | None = None,
        mask: Array | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """The (B, T, C) vectors that the head turns into logits; arguments as for `forward`."""
        raise NotImplementedError(f"{type(self).__name__} defines no hidden()")

    def loss(
        self,
        ids: npt.ArrayLike,
        targets: npt.ArrayLike,
        ignore_index: int = -100,
        reduction: str = "mean",
        positions: npt.ArrayLike | None = None,
        mask: Array | None = None,
    ) -> Tensor:
        """`ops.cross_entropy` of the logits of ids (B, T) at targets (B, T), of which never all are held at once.

        `positions` (B, T) and `mask`, here up to (B, H, T, T), as for `forward`. Logits are only made where there is a
        target to be learned.
        """
        x, targets = self.hidden(ids, positions, mask), np.asarray(targets)
        kept = np.flatnonzero(targets != ignore_index)
        if len(kept) < targets.size and targets.shape == x.shape[:-1]:
            x, targets = x.reshape(targets.size, -1)[kept], targets.ravel()[kept]
        head = self.token_embedding if self.lm_head is None else self.lm_head
        return head.head_loss(x, targets, ignore_index=ignore_index, reduction=reduction)

    def run_blocks(
        self,
        shape: tuple[int, ...],
        layers: int,
        embed: Callable[[], Tensor],
        block: Callable[[Tensor, int], Tensor],
    ) -> Tensor:
        """What is left of ids of this shape (B, T) after ``x = embed()`` and ``x = block(x, layer)`` for each layer.

        If only a `stage` of the model runs, it does its part. Each part draws from a stream of its own, so that dropout
        does not depend on which parts run. Raises StageEnd at the end of a stage that is not the last.
        """
        number, stage = random.next_number(), self.stage or Stage(range(layers), last=True)
        if stage.receive is not None:
            x = stage.receive(shape)
        else:
            with random.within(number, "embeddings"):
                x = embed()
        for layer in stage.layers:
            with random.within(number, "block", layer):
                x = block(x, layer)
        if not stage.last:
            raise StageEnd(x)
        return x

    def add_tokens(self, first: int, count: int) -> None:
        """Make room for ids up to ``first + count``: rows of embedding and head from `first` on become means of those
        before, so that new tokens are about as likely as others. Source: Hewitt 2021, "Initializing New Word Embeddings
        for Pretrained Language Models"."""
        tables = [self.token_embedding.weight] + ([] if self.lm_head is None else [self.lm_head.weight])
        for number, parameter in enumerate(tables):
            known = parameter.data.T if number else parameter.data  # (V, C), as a head is (C, V)
            new = np.broadcast_to(known[:first].mean(axis=0), (count, known.shape[1]))
            grown = np.concatenate([known[:first], new, known[first + count :]])
            parameter.data = np.ascontiguousarray(grown.T if number else grown)
        self.config = replace(self.config, vocab_size=max(self.config.vocab_size, first + count))

    def head(self, x: Tensor) -> Tensor:
        """Logits (..., V) of what `hidden` returns, or of some of its positions."""
        return self.token_embedding.head(x) if self.lm_head is None else self.lm_head(x)

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of what flows through the model."""
        return self.token_embedding.dtype

    def checked(
        self, ids: npt.ArrayLike, positions: npt.ArrayLike | None, cache: Cache | None
    ) -> tuple[Array, npt.ArrayLike]:
        """ids (B, T) and positions (T,) or (B, T) as arrays; ValueError if there are more than the context."""
        name, context = type(self).__name__, self.config.context
        ids = np.asarray(ids)
        if ids.ndim != 2:
            raise ValueError(f"{name}: ids must be (B, T), not of shape {ids.shape}; a single sequence is ids[None]")
        if positions is None:
            past = 0 if cache is None else cache.length
            end = past + ids.shape[1]
            if end > context:
                raise ValueError(f"{name}: {end} positions, but the model's context is {context}")
            return ids, np.arange(past, end)
        if np.max(positions, initial=0) >= context:
            raise ValueError(f"{name}: position {np.max(positions)}, but the model's context is {context}")
        return ids, positions
