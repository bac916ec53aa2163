"""GPT: the decoder-only transformer of GPT-2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy.typing as npt

from tinygrad_llm import random
from tinygrad_llm.models.decoder import Cache, Decoder
from tinygrad_llm.nn import Block, Dropout, Embedding, LayerNorm
from tinygrad_llm.tape import Array
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.weights import Layout, gpt2


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


class GPT(Decoder):
    """Token and position embeddings, L pre-norm blocks, a last norm, and a head that is the token embedding again.

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
    """

    layout: ClassVar[Layout] = gpt2
    config_type = GPTConfig

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

    def embed(self, ids: Array, positions: npt.ArrayLike) -> Tensor:
        """What the first block gets."""
        return self.dropout(self.token_embedding(ids) + self.position_embedding(positions))

    def hidden(
        self,
        ids: npt.ArrayLike,
        positions: npt.ArrayLike | None = None,
        mask: Array | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        ids, positions = self.checked(ids, positions, cache)

        def block(x: Tensor, layer: int) -> Tensor:
            return self.blocks[layer](x, mask, None if cache is None else cache.layers[layer])

        x = self.run_blocks(ids.shape, len(self.blocks), lambda: self.embed(ids, positions), block)
        return self.final_norm(x)
