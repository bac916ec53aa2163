"""The sizes of a model that is planned, how many parameters it has, and what a step of it computes.

Letters as everywhere: V tokens, T positions, C channels, L layers, H heads of D channels, F feed-forward channels; N is
the number of tokens in a batch. Papers write h for C, s for T, a for H.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinygrad_llm.models import GPT, GPTConfig, Llama, LlamaConfig


@dataclass(frozen=True)
class ModelSizes:
    """A decoder-only transformer: a GPT (LayerNorm, biases, learned positions), or `gated` a Llama."""

    name: str
    layers: int
    channels: int
    heads: int
    feed_forward: int
    vocab_size: int
    context: int
    gated: bool = False
    kv_heads: int = 0
    """Heads with keys and values of their own; all if 0."""
    head_channels: int = 0
    """D; C / H if 0."""
    tied: bool = True
    """Whether the head is the token embedding again."""
    qkv_bias: bool = False
    qk_norm: bool = False
    dropout: float = 0.0

    @classmethod
    def of(cls, config: GPTConfig | LlamaConfig, name: str = "") -> ModelSizes:
        """Those of a configuration of ours."""
        common = {
            "name": name,
            **{n: getattr(config, n) for n in ("layers", "channels", "heads", "kv_heads", "vocab_size", "context")},
            "feed_forward": config.feed_forward or 4 * config.channels,
            "head_channels": config.head_size,
        }
        if isinstance(config, GPTConfig):
            return cls(**common, dropout=config.dropout)
        return cls(**common, gated=True, tied=config.tied, qkv_bias=config.qkv_bias, qk_norm=config.qk_norm)

    @property
    def head_size(self) -> int:
        """D."""
        return self.head_channels or self.channels // self.heads

    @property
    def q_channels(self) -> int:
        """H D, the channels of all queries."""
        return self.heads * self.head_size

    @property
    def kv_channels(self) -> int:
        """Hkv D, the channels of all keys, and of all values."""
        return (self.kv_heads or self.heads) * self.head_size

    @property
    def qkv_channels(self) -> int:
        """Channels of queries, keys and values together."""
        return self.q_channels + 2 * self.kv_channels

    @property
    def layer_matrices(self) -> int:
        """Numbers in the matrices of a layer: of a GPT ``12 C^2``, of attention ``4 C^2`` and of the network ``2 C F``
        with F = 4 C; a gated network has three matrices."""
        attention = self.channels * (self.qkv_channels + self.q_channels)
        return attention + (3 if self.gated else 2) * self.channels * self.feed_forward

    @property
    def layer_sharded(self) -> int:
        """Parameters of a layer that tensor parallelism shares out: its matrices, and the biases of their outputs
        where these are shared out, too."""
        biases = self.qkv_channels * (not self.gated or self.qkv_bias) + self.feed_forward * (not self.gated)
        return self.layer_matrices + biases

    @property
    def layer_copied(self) -> int:
        """Parameters of a layer that each tensor-parallel rank holds: norms, and biases that are added to sums."""
        if self.gated:
            return 2 * self.channels + (2 * self.head_size if self.qk_norm else 0)
        return 6 * self.channels

    @property
    def layer_parameters(self) -> int:
        """All of a layer; of a GPT ``12 C^2 + 13 C``."""
        return self.layer_sharded + self.layer_copied

    @property
    def final_norm(self) -> int:
        """Parameters of the last norm."""
        return self.channels if self.gated else 2 * self.channels

    @property
    def positions(self) -> int:
        """Parameters of learned positions."""
        return 0 if self.gated else self.context * self.channels

    @property
    def table(self) -> int:
        """Numbers in the token embedding, and in a head of its own."""
        return self.vocab_size * self.channels

    @property
    def parameters(self) -> int:
        """All, each once: ``L (12 C^2 + 13 C) + (V + T) C + 2 C`` of a GPT."""
        tables = self.table * (1 if self.tied else 2)
        return self.layers * self.layer_parameters + tables + self.positions + self.final_norm

    def layer_operations(self, tokens: int, time: int) -> tuple[float, float]:
        """(matrix products with weights, attention) of a layer's forward pass, in floating-point operations.

        ``2 N`` for each number in the matrices; attention's ``Q K^T`` and its product with V, ``2 N T H D`` each, all
        of it, as papers count, though causal attention needs half.
        """
        return 2.0 * tokens * self.layer_matrices, 4.0 * tokens * time * self.q_channels

    def head_operations(self, tokens: int) -> float:
        """The logits' matrix product, ``2 N V C``."""
        return 2.0 * tokens * self.table

    def step_operations(self, sequences: int, time: int, recompute: str = "none") -> float:
        """Floating-point operations of a training step; backward takes twice what forward takes.

        Without recomputation ``72 B T L C^2 (1 + T / 6C + V / 12LC)`` for a GPT with F = 4 C; with full recomputation
        of the layers ``96 B T L C^2 (1 + T / 6C + V / 16LC)``: Narayanan et al. 2021, arXiv:2104.04473, appendix.
        Selective recomputation does Q K^T and its product with V once more, which is ``4 B T^2 C`` a layer, or
        ``(T / 18C) / (1 + T / 6C)`` of a step's layers: 0.9 % for GPT-3 and 0.55 % for MT-NLG. Korthikanti et al.
        2022, arXiv:2205.05198, print 2.7 % and 1.6 %, which equal ``T / 6C``: there, attention seems to be counted as
        three times as much.
        """
        tokens = sequences * time
        products, attention = self.layer_operations(tokens, time)
        again = {"none": 0.0, "selective": attention, "full": products + attention}[recompute]
        return self.layers * (3 * (products + attention) + again) + 3 * self.head_operations(tokens)


def gpt(name: str, layers: int, channels: int, heads: int, vocab_size: int = 50257, context: int = 1024) -> ModelSizes:
    return ModelSizes(name, layers, channels, heads, 4 * channels, vocab_size, context)


def llama(
    name: str, layers: int, channels: int, heads: int, kv_heads: int, feed_forward: int, **more: Any
) -> ModelSizes:
    sizes = {"vocab_size": 32000, "context": 2048, "tied": False} | more
    return ModelSizes(name, layers, channels, heads, feed_forward, gated=True, kv_heads=kv_heads, **sizes)


_MEGATRON = {
    "1.7b": (24, 2304, 24),
    "3.6b": (30, 3072, 32),
    "7.5b": (36, 4096, 32),
    "18b": (40, 6144, 48),
    "22b": (48, 6144, 64),
    "39b": (48, 8192, 64),
    "76b": (60, 10240, 80),
    "146b": (80, 12288, 96),
    "310b": (96, 16384, 128),
    "530b": (105, 20480, 128),
    "1t": (128, 25600, 160),
}
"""Layers, channels, heads: Narayanan et al. 2021, table 1, and Korthikanti et al. 2022, table 3, for 22b."""

NAMED = {
    model.name: model
    for model in (
        gpt("gpt2", 12, 768, 12),
        gpt("gpt2-medium", 24, 1024, 16),
        gpt("gpt2-large", 36, 1280, 20),
        gpt("gpt2-xl", 48, 1600, 25),
        gpt("gpt3-175b", 96, 12288, 96, 51200, 2048),
        *(gpt(f"megatron-{name}", *sizes, 51200, 2048) for name, sizes in _MEGATRON.items()),
        llama("llama-7b", 32, 4096, 32, 32, 11008),
        llama("llama-13b", 40, 5120, 40, 40, 13824),
        llama("llama-65b", 80, 8192, 64, 64, 22016),
        llama("llama2-70b", 80, 8192, 64, 8, 28672, context=4096),
        llama("llama3-8b", 32, 4096, 32, 8, 14336, vocab_size=128256, context=8192),
        llama("llama3-70b", 80, 8192, 64, 8, 28672, vocab_size=128256, context=8192),
    )
}
"""Models by name. GPT-2: Radford et al. 2019; GPT-3: Brown et al. 2020, with its vocabulary padded as Megatron's; the
Llamas: Touvron et al. 2023, arXiv:2302.13971 and 2307.09288; Grattafiori et al. 2024, arXiv:2407.21783."""


def find_model(name: str) -> ModelSizes:
    """A named model, or that of a folder with a ``config.json``, or of such a file. ValueError if there is none."""
    if name.lower() in NAMED:
        return NAMED[name.lower()]
    path = Path(name)
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{name}: neither a folder with a config.json nor a model by name: {', '.join(NAMED)}")
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not valid JSON ({error})") from error
    return ModelSizes.of(_configuration(file, settings), name)


def _configuration(file: Path, settings: Any) -> GPTConfig | LlamaConfig:
    kind = settings.get("model_type") if isinstance(settings, Mapping) else None
    try:
        if kind in GPT.layout.MODEL_TYPES:
            return GPTConfig(**GPT.layout.read_config(settings))
        if kind in Llama.layout.MODEL_TYPES:
            return LlamaConfig(**Llama.layout.read_config(settings))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from error
    known = ", ".join((*GPT.layout.MODEL_TYPES, *Llama.layout.MODEL_TYPES))
    raise ValueError(f"{file}: model_type {kind!r} cannot be planned; known are {known}")
