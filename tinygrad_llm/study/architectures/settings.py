"""What is compared, and how widths are found at which all architectures have the same number of parameters."""

from __future__ import annotations

import bisect
import sys
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from tinygrad_llm.models import new_model
from tinygrad_llm.nn import unset
from tinygrad_llm.training import TrainConfig
from tinygrad_llm.training.architectures import model_config

Kind = Literal["gpt", "lstm", "gru", "rnn"]
KINDS: tuple[Kind, ...] = get_args(Kind)

RECURRENT_LAYERS = 2
"""Of the rnn, lstm and gru: few and wide, as they were used (Zaremba et al. 2014, arXiv:1409.2329)."""

RATES: dict[str, float] = {"gpt": 0.02, "lstm": 0.04, "gru": 0.02, "rnn": 0.01}
"""Peak learning rates of Muon, for each architecture the best of those tried: none is held back by that of another."""

SPREADS: dict[str, float] = {"gpt": 0.02, "lstm": 0.1, "gru": 0.1, "rnn": 0.1}
"""Of the initial embeddings, and of the matrices of the GPT: chosen likewise. Recurrent layers have no norm that would
enlarge small inputs."""

QUICK: dict[str, Any] = {
    "steps": 8,
    "batch_size": 2,
    "context": 16,
    "vocab_size": 300,
    "channels": 32,
    "layers": 1,
    "measurements": 2,
    "lengths": (8, 16, 32),
    "tokens": 32,
    "rounds": 2,
    "sequences": 4,
}
"""Enough to see that everything works, and for nothing else."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of the three experiments. `channels` and `layers` are the GPT's; the others become as wide as they must."""

    models: tuple[str, ...] = KINDS
    data: str = ""
    steps: int = 800
    """Updates of the weights."""
    batch_size: int = 8
    context: int = 128
    """Tokens of a training sequence (T), and how far gradients are followed back."""
    vocab_size: int = 1024
    channels: int = 128
    layers: int = 4
    measurements: int = 16
    """How often the held-out loss is measured in a training."""
    lengths: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1024)
    """Sequence lengths at which a step is timed."""
    tokens: int = 1024
    """Tokens of a timed step, divided into sequences of each length; then one sequence alone is timed as well."""
    rounds: int = 7
    sequences: int = 64
    """Held-out sequences whose gradients are followed."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < self.measurements:
            raise ValueError(f"--steps {self.steps}: must be at least {self.measurements}")
        if unknown := [name for name in self.models if name not in KINDS]:
            raise ValueError(f"unknown architecture {unknown[0]!r}; known are {', '.join(KINDS)}")
        self.training("gpt", self.channels)  # refuses sizes that do not fit each other

    @classmethod
    def of(cls, quick: bool, **given: Any) -> Self:
        """The settings that are `given` and not None, the others usual, or small ones that take seconds."""
        named = {name: value for name, value in given.items() if value is not None}
        return cls(**((QUICK if quick else {}) | named))

    def training(self, kind: str, channels: int) -> TrainConfig:
        """The settings of the training of one architecture: its width, its depth and its learning rate are its own."""
        return TrainConfig(
            data=self.data,
            model=kind,  # type: ignore[arg-type]
            steps=self.steps,
            batch_size=self.batch_size,
            context=self.context,
            vocab_size=self.vocab_size,
            layers=self.layers if kind == "gpt" else min(RECURRENT_LAYERS, self.layers),
            channels=channels,
            init_std=SPREADS[kind],
            optimizer="muon",
            learning_rate=RATES[kind],
            validate_every=self.steps // self.measurements,
            sample_every=0,
            checkpoint_every=0,
            seed=self.seed,
        )

    def trainings(self) -> dict[str, TrainConfig]:
        """Those of all models, each of the width at which it has nearest to as many parameters as the GPT."""
        wanted = self.parameters("gpt", self.channels)
        return {kind: self.training(kind, self.width(kind, wanted)) for kind in self.models}

    def parameters(self, kind: str, channels: int) -> int:
        """How many numbers are trained."""
        with unset(sys.maxsize):  # only the shapes matter
            return new_model(model_config(self.training(kind, channels), self.vocab_size)).parameter_count()

    def width(self, kind: str, wanted: int) -> int:
        """The channels at which an architecture has nearest to so many parameters."""
        if kind == "gpt":
            return self.channels
        widths = range(1, 16 * self.channels)  # the count grows with the width
        above = bisect.bisect_left(widths, wanted, key=lambda channels: self.parameters(kind, channels))
        near = [widths[i] for i in (above - 1, above) if 0 <= i < len(widths)]
        return min(near, key=lambda channels: abs(self.parameters(kind, channels) - wanted))
