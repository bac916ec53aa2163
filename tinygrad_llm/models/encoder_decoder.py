"""What models that make an output sequence of an input sequence have in common: how they are trained, and padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tinygrad_llm import ops
from tinygrad_llm.models.pretrained import Pretrained
from tinygrad_llm.tape import Array
from tinygrad_llm.tensor import Tensor


class EncoderDecoderModel(Pretrained):
    """``model(ids, decoder_ids)`` maps inputs (B, S) and outputs so far (B, T) to logits (B, T, V): scores for the
    token that follows each.

    A subclass defines `encode`, `decode` and `head`, and ``start``, ``step`` and ``reorder`` for generation. Its
    configuration has `start_id`, which every output begins after, and `pad_id`, which fills up what is shorter.
    """

    def forward(self, ids: npt.ArrayLike, decoder_ids: npt.ArrayLike, mask: Array | None = None) -> Tensor:
        """Logits (B, T, V) of inputs ids (B, S) and decoder_ids (B, T), which begin with `start_id`.

        `mask` (B, 1, 1, S) is False where the input is padding. Outputs that are padded at the end need none: nothing
        before them sees them.
        """
        return self.head(self.decode(decoder_ids, self.encode(ids, mask), mask))

    def encode(self, ids: npt.ArrayLike, mask: Array | None = None) -> Any:
        """What `decode` needs of the inputs (B, S)."""
        raise NotImplementedError(f"{type(self).__name__} defines no encode()")

    def decode(self, decoder_ids: npt.ArrayLike, memory: Any, mask: Array | None = None) -> Tensor:
        """The (B, T, C) vectors that the head turns into logits; `memory` is what `encode` returned."""
        raise NotImplementedError(f"{type(self).__name__} defines no decode()")

    def head(self, x: Tensor) -> Tensor:
        """Logits (..., V) of what `decode` returns."""
        raise NotImplementedError(f"{type(self).__name__} defines no head()")

    def loss(
        self,
        ids: npt.ArrayLike,
        targets: npt.ArrayLike,
        mask: Array | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> Tensor:
        """`ops.cross_entropy` of the targets (B, T), each predicted from the inputs and the targets before it.

        This is teacher forcing: the decoder is given the targets one place later, behind `start_id`.
        """
        x = self.decode(self.shifted(targets, ignore_index), self.encode(ids, mask), mask)
        return self.loss_of(x, targets, ignore_index=ignore_index, reduction=reduction)

    def loss_of(self, x: Tensor, targets: npt.ArrayLike, **options: Any) -> Tensor:
        """The loss, from what `decode` returned."""
        return ops.cross_entropy(self.head(x), targets, **options)

    def shifted(self, targets: npt.ArrayLike, ignore_index: int = -100) -> Array:
        """What the decoder is given to predict the targets (B, T): one place later, padding where they do not count."""
        targets = np.asarray(targets)
        if targets.ndim != 2:
            raise ValueError(f"{type(self).__name__}: targets must be (B, T), not of shape {targets.shape}")
        start = np.full((len(targets), 1), self.config.start_id)
        before = np.concatenate([start, targets], axis=1)[:, : targets.shape[1]]
        return np.where(before == ignore_index, self.config.pad_id, before)

    def padded(self, inputs: Sequence[Sequence[int] | Array]) -> tuple[Array, Array]:
        """Inputs of any lengths as ids (B, S), filled up with `pad_id`, and the mask (B, 1, 1, S) of what is not."""
        for number, one in enumerate(inputs):
            if not len(one):
                raise ValueError(f"{type(self).__name__}: input {number} is empty; give at least one token")
        lengths = np.array([len(one) for one in inputs], int)
        ids = np.full((len(inputs), lengths.max(initial=0)), self.config.pad_id)
        for row, one in zip(ids, inputs, strict=True):
            row[: len(one)] = one
        return ids, (np.arange(ids.shape[1]) < lengths[:, None])[:, None, None]

    def checked(self, name: str, ids: npt.ArrayLike) -> Array:
        """The ids as an array. ValueError unless it is (B, T)."""
        ids = np.asarray(ids)
        if ids.ndim != 2:
            shape, model = ids.shape, type(self).__name__
            raise ValueError(f"{model}: {name} must be (B, T), not of shape {shape}; a single sequence is ids[None]")
        return ids

    def check_pairs(self, inputs: int, outputs: int) -> None:
        """ValueError unless there are as many outputs as inputs."""
        if inputs != outputs:
            raise ValueError(
                f"{type(self).__name__}: {inputs} inputs and {outputs} outputs; there must be one output for each"
            )
