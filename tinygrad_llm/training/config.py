"""The settings of a pre-training run. The command line and ``config.toml`` are both derived from this one dataclass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tinygrad_llm.tokenizer.pretokenize import compile_pattern
from tinygrad_llm.training.loop_config import RATES, LoopConfig

Architecture = Literal["gpt", "llama", "rnn", "lstm", "gru", "bert", "t5"]

SLOWER = {"bert": 0.25, "t5": 0.25}
"""What learning rates are multiplied by for models whose targets are a few of the tokens: at the full rate, a small
BERT never gets beyond how frequent each token is."""


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """What is trained, and on what."""

    data: str = ""
    """File or folder of UTF-8 text; without it, the documentation that comes with Python."""
    model: Architecture = "gpt"
    """What is trained: gpt, llama (rotary positions, RMSNorm, SwiGLU) or what came before (rnn, lstm, gru) to go on
    with a text; bert to find hidden words in it; t5 to write what was left out of it."""
    context: int = 64
    """Tokens that the model sees at most (T)."""
    vocab_size: int = 4096
    """Tokens of the tokenizer trained for the run (V)."""
    pattern: str = "own"
    """How text is cut into words before merging: own, gpt2, smollm, cl100k, llama3, qwen2, o200k, or a regex."""
    layers: int = 4
    """Transformer blocks (L)."""
    channels: int = 96
    """Width of the model (C)."""
    heads: int = 0
    """Attention heads (H); 0 gives each about 32 channels."""
    dropout: float = 0.0
    """Share of activations dropped in training."""
    init_std: float = 0.02
    """Spread of the initial weights (GPT-2's is 0.02)."""
    validation_share: float = 0.05
    """Share of the text held out to measure the loss."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(LoopConfig, ModelSettings):  # in this order the fields of the last class come first
    """Everything that decides what a run computes: same settings, same data, same result."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.heads < 0:
            raise ValueError(f"--heads {self.heads}: must not be negative")
        if self.context < 2:
            raise ValueError(f"--context {self.context}: must be at least 2")
        if not 0 < self.init_std < math.inf:
            raise ValueError(f"--init-std {self.init_std}: must be positive")
        if not 0 < self.validation_share < 1:
            raise ValueError(f"--validation-share {self.validation_share}: must lie between 0 and 1")
        if self.vocab_size < 257:
            raise ValueError(
                f"--vocab-size {self.vocab_size}: must be at least 257, the bytes and the document separator"
            )
        try:
            compile_pattern(self.pattern)
        except ValueError as error:
            raise ValueError(f"--pattern: {error}") from error
        from tinygrad_llm.training.architectures import model_config  # which needs this module

        model_config(self, self.vocab_size)  # refuses sizes that do not fit each other

    @property
    def head_count(self) -> int:
        """The heads asked for, or as many as divide the channels into about 32 each."""
        widest = max(1, self.channels // 32)
        return self.heads or next(heads for heads in range(widest, 0, -1) if self.channels % heads == 0)

    def peak_rate(self) -> float:
        return self.learning_rate or RATES[self.optimizer] * SLOWER.get(self.model, 1)
