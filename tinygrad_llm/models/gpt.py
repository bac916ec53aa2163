"""GPT: the decoder-only transformer of GPT-2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from tinygrad_llm import random
from tinygrad_llm.nn import Block, Dropout, Embedding, LayerNorm, Module
from tinygrad_llm.nn.transformer import LayerCache
from tinygrad_llm.tape import Array
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.weights import load_arrays, save_arrays

FORMAT = 1
"""Version of the weight file; a file of another version is refused."""


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of a GPT: V tokens, T positions at most, C channels, L layers, H heads, F feed-forward channels (4C if 0).

    Matrices and embeddings start out normal with `init_std`; 0.02 suits C = 768, where ``init_std sqrt(C)``, the factor
    by which a linear map scales its input, is about 1/2; with Adam, a narrow model learns faster from a larger value.
    `dropout` acts on the embeddings and on what each part adds to the residual stream, not inside attention. The
    defaults are GPT-2's smallest model, 124 million parameters.
    """

    vocab_size: int = 50257
    context: int = 1024
    channels: int = 768
    layers: int = 12
    heads: int = 12
    feed_forward: int = 0
    dropout: float = 0.0
    init_std: float = 0.02

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context", "channels", "layers", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"GPTConfig: {name}={getattr(self, name)} must be at least 1")
        if self.channels % self.heads:
            raise ValueError(f"GPTConfig: channels={self.channels} is not a multiple of heads={self.heads}")
        if self.feed_forward < 0:
            raise ValueError(f"GPTConfig: feed_forward={self.feed_forward} must not be negative (0 means 4 x channels)")
        if not self.init_std > 0:
            raise ValueError(f"GPTConfig: init_std={self.init_std} must be positive")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"GPTConfig: dropout={self.dropout} must be at least 0 and less than 1")

    @property
    def kv_heads(self) -> int:
        """Heads that have keys and values of their own: all."""
        return self.heads

    @property
    def head_size(self) -> int:
        """D, the channels of a head."""
        return self.channels // self.heads


class Cache(Protocol):
    """Keys and values of all layers, for the positions seen so far (see `tinygrad_llm.generation`)."""

    @property
    def length(self) -> int:
        """Positions held."""

    @property
    def layers(self) -> Sequence[LayerCache]:
        """One for each block."""


class GPT(Module):
    """Token and position embeddings, L pre-norm blocks, a last norm, and a head that is the token embedding again.

    ``model(ids)`` maps (B, T) token ids to (B, T, V) logits: at each position, scores for the token that follows.
    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
    """

    def __init__(self, config: GPTConfig, seed: int = 0) -> None:
        self.config = config
        with random.scope(seed, "embeddings"):
            self.token_embedding = Embedding(config.vocab_size, config.channels, config.init_std)
            self.position_embedding = Embedding(config.context, config.channels, config.init_std)
        self.dropout = Dropout(config.dropout)
        width = config.feed_forward or 4 * config.channels
        self.blocks: list[Block] = []
        for layer in range(config.layers):
            with random.scope(seed, "block", layer):
                self.blocks.append(
                    Block(config.channels, config.heads, width, config.layers, config.dropout, config.init_std)
                )
        self.final_norm = LayerNorm(config.channels)

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

    def head(self, x: Tensor) -> Tensor:
        """Logits (..., V) of what `hidden` returns, or of some of its positions."""
        return self.token_embedding.head(x)

    def hidden(
        self,
        ids: npt.ArrayLike,
        positions: npt.ArrayLike | None = None,
        mask: Array | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """The (B, T, C) vectors that the head turns into logits; arguments as for `forward`."""
        ids = np.asarray(ids)
        if ids.ndim != 2:
            raise ValueError(f"GPT: ids must be (B, T), not of shape {ids.shape}; a single sequence is ids[None]")
        past = 0 if cache is None else cache.length
        if positions is None:
            end = past + ids.shape[1]
            if end > self.config.context:
                raise ValueError(f"GPT: {end} positions, but the model's context is {self.config.context}")
            positions = np.arange(past, end)
        elif np.max(positions, initial=0) >= self.config.context:
            raise ValueError(f"GPT: position {np.max(positions)}, but the model's context is {self.config.context}")
        x = self.dropout(self.token_embedding(ids) + self.position_embedding(positions))
        for layer, block in enumerate(self.blocks):
            x = block(x, mask, None if cache is None else cache.layers[layer])
        return self.final_norm(x)

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of what flows through the model."""
        return self.token_embedding.dtype

    def save_pretrained(self, path: str | Path) -> None:
        """Write ``model.safetensors``, sizes included, into the folder `path`."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        about = {"architecture": "gpt", "format": FORMAT, "config": asdict(self.config)}
        save_arrays(folder / "model.safetensors", self.state_dict(), about)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Self:
        """The model in the folder `path`, as `save_pretrained` or ``tinygrad-llm train`` left it."""
        file = Path(path) / "model.safetensors"
        arrays, about = load_arrays(file)
        model = cls(_config(file, about))
        if all(array.dtype == np.float64 for array in arrays.values()):
            model.astype(np.float64)
        try:
            model.load_state_dict(arrays)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        return model


def _config(file: Path, about: dict[str, Any]) -> GPTConfig:
    if about.get("architecture") != "gpt" or about.get("format") != FORMAT:
        raise ValueError(
            f"{file}: architecture {about.get('architecture')!r}, format {about.get('format')!r}; "
            f"this version reads architecture 'gpt', format {FORMAT}"
        )
    try:
        return GPTConfig(**about["config"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file}: its configuration does not describe a GPT ({error})") from error
