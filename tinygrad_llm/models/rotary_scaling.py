"""Scaled rotary positions: slower turns, so that a model reaches further than the sequences it was trained on.

A pair of channels that turns by f radians per position has the wavelength ``2 pi / f``. Pairs that turned many times
within the original context have seen all angles, and may stay; those that never came round have not, and are slowed
down by the factor, so that a longer text looks to them like one they know. What lies between is mixed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tinygrad_llm.tape import Array


@dataclass(frozen=True)
class RotaryScaling:
    """How rotary frequencies are changed; in brackets the name in Hugging Face's configuration.

    linear: every frequency is divided by `factor` (Chen et al. 2023, arXiv:2306.15595). llama3: those with less than
    `low_frequency` (low_freq_factor) turns within the `original_context` (original_max_position_embeddings) are, those
    with more than `high_frequency` (high_freq_factor) are not, and between them the share changes with the turns
    (Llama 3.1). yarn: the same with `slow` and `fast` turns (beta_slow, beta_fast), where the share changes with the
    number of the pair, and the cosines and sines are multiplied by `attention_factor`, which is
    ``0.1 ln(factor) + 1`` unless given (Peng et al. 2023, arXiv:2309.00071, equations 18 to 22).
    """

    kind: Literal["linear", "llama3", "yarn"]
    factor: float = 0.0
    original_context: int | None = None
    low_frequency: float | None = None
    high_frequency: float | None = None
    fast: float | None = None
    slow: float | None = None
    attention_factor: float | None = None

    def __post_init__(self) -> None:
        needed = {"linear": (), "llama3": ("original_context", "low_frequency", "high_frequency")}
        if self.kind not in ("linear", "llama3", "yarn"):
            raise ValueError(f"RotaryScaling: kind={self.kind!r}: known are linear, llama3 and yarn")
        for name in ("factor", *needed.get(self.kind, ("original_context",))):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise ValueError(f"RotaryScaling: {name}={value} must be a positive number for {self.kind}")
        if self.kind == "llama3" and not (self.low_frequency or 0) < (self.high_frequency or 0):
            raise ValueError(
                f"RotaryScaling: low_frequency={self.low_frequency} must be below high_frequency={self.high_frequency}"
            )

    @property
    def magnitude(self) -> float:
        """By what queries and keys are multiplied."""
        if self.kind != "yarn":
            return 1.0
        return self.attention_factor or (0.1 * math.log(self.factor) + 1 if self.factor > 1 else 1.0)

    def frequencies(self, base: float, width: int) -> Array:
        """Radians per position of the D/2 pairs of a head of `width` D."""
        plain = base ** (-np.arange(0, width, 2) / width)
        slowed = plain / self.factor
        if self.kind == "linear":
            return slowed
        kept = self._kept(plain, base, width)
        return kept * plain + (1 - kept) * slowed

    def _kept(self, plain: Array, base: float, width: int) -> Array:
        """1 for the pairs that stay as they are, 0 for those slowed down."""
        context = self.original_context or 0
        if self.kind == "llama3":
            low, high = self.low_frequency or 0, self.high_frequency or 0
            return np.clip((context * plain / (2 * math.pi) - low) / (high - low), 0, 1)

        def pair_with(turns: float) -> float:
            """The pair (counted with fractions) that turns so often within the original context."""
            return width * math.log(context / (2 * math.pi * turns)) / (2 * math.log(base))

        first = max(math.floor(pair_with(self.fast or 32.0)), 0)
        last = min(math.ceil(pair_with(self.slow or 1.0)), width - 1)
        return 1 - np.clip((np.arange(width // 2) - first) / max(last - first, 1e-3), 0, 1)
