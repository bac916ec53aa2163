"""The settings of a pre-training run. The command line and ``config.toml`` are both derived from this one dataclass."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, Self

import tomli_w

from tinygrad_llm.files import atomic_write
from tinygrad_llm.optim import SCHEDULES, Schedule, rate_factor
from tinygrad_llm.tokenizer.pretokenize import compile_pattern

FORMAT = 1
"""Version of the run folder; one of another version is refused."""

Architecture = Literal["gpt", "llama", "rnn", "lstm", "gru", "bert", "t5"]

RATES = {"adamw": 3e-3, "adam": 3e-3, "sgd": 0.1, "muon": 0.02}
"""Peak learning rates that suit small models."""

SLOWER = {"bert": 0.25, "t5": 0.25}
"""What they are multiplied by for models whose targets are a few of the tokens: at the full rate, a small BERT never
gets beyond how frequent each token is."""

MAY_CHANGE = ("steps", "validate_every", "sample_every", "checkpoint_every")
"""What may be set anew when a run is resumed."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides what a run computes: same settings, same data, same result."""

    data: str = ""
    """File or folder of UTF-8 text; without it, the documentation that comes with Python."""
    model: Architecture = "gpt"
    """What is trained: gpt, llama (rotary positions, RMSNorm, SwiGLU) or what came before (rnn, lstm, gru) to go on
    with a text; bert to find hidden words in it; t5 to write what was left out of it."""
    steps: int = 1100
    """Updates of the weights."""
    batch_size: int = 16
    """Sequences for each forward and backward pass (B)."""
    accumulate: int = 1
    """Passes whose gradients are added up for one update."""
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
    optimizer: Literal["adamw", "adam", "sgd", "muon"] = "muon"
    """Which optimiser updates the weights."""
    learning_rate: float = 0.0
    """Peak learning rate; 0 takes one that suits the optimiser and the model."""
    schedule: Schedule = "linear"
    """Course of the learning rate after warm-up; wsd is warmup-stable-decay."""
    warmup: int = 50
    """Steps over which the learning rate rises to its peak; at most a fifth of all steps."""
    weight_decay: float = 0.1
    """Decay of the weight matrices."""
    clip: float = 1.0
    """Largest norm of all gradients together; 0 does not clip."""
    validation_share: float = 0.05
    """Share of the text held out to measure the loss."""
    validate_every: int = 220
    """Steps between measurements on held-out text; 0 only at the end."""
    sample_every: int = 550
    """Steps between sample texts; 0 only at the end."""
    checkpoint_every: int = 220
    """Steps between checkpoints; 0 only at the end."""
    seed: int = 0
    """Decides every random draw."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{_flag(name)} {getattr(self, name)}: must be at least 1")
        for name in ("warmup", "heads", "clip", "weight_decay", "validate_every", "sample_every", "checkpoint_every"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{_flag(name)} {getattr(self, name)}: must not be negative")
        if self.accumulate > 65_536:  # the parts of a step are all held in memory
            raise ValueError(f"--accumulate {self.accumulate}: must be at most 65,536")
        if self.context < 2:
            raise ValueError(f"--context {self.context}: must be at least 2")
        if not 0 <= self.learning_rate < math.inf:
            raise ValueError(f"--learning-rate {self.learning_rate}: must not be negative, nor infinite")
        if not 0 < self.init_std < math.inf:
            raise ValueError(f"--init-std {self.init_std}: must be positive")
        if self.optimizer not in RATES:
            raise ValueError(f"--optimizer {self.optimizer}: must be one of {', '.join(RATES)}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"--schedule {self.schedule}: must be one of {', '.join(SCHEDULES)}")
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

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        peak = self.learning_rate or RATES[self.optimizer] * SLOWER.get(self.model, 1)
        return peak * rate_factor(self.schedule, step, self.steps, min(self.warmup, self.steps // 5))

    def resumed_with(self, asked: TrainConfig, given: Collection[str] | None = None) -> Self:
        """These settings, with those of `asked` that were `given`; by default the ones that are not at their default.

        Only how long and how often may change on the way; anything else is a ValueError.
        """
        if given is None:
            given = [f.name for f in fields(self) if getattr(asked, f.name) != f.default]
        names = [f.name for f in fields(self) if f.name in given and getattr(asked, f.name) != getattr(self, f.name)]
        if fixed := [name for name in names if name not in MAY_CHANGE]:
            listed = ", ".join(f"{_flag(name)} is {getattr(self, name)}, not {getattr(asked, name)}" for name in fixed)
            raise ValueError(f"the run to resume has other settings: {listed}; leave these options out")
        return replace(self, **{name: getattr(asked, name) for name in names})

    def save(self, path: Path) -> None:
        """Write as TOML."""
        atomic_write(path, tomli_w.dumps({"format": FORMAT, **asdict(self)}).encode())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote; another version, an unknown or a wrong setting is a ValueError."""
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not valid TOML ({error})") from error
        version = values.pop("format", None)
        if version != FORMAT:
            raise ValueError(f"{path}: a run of format {version!r}; this version of tinygrad_llm reads format {FORMAT}")
        known = {field.name: field.default for field in fields(cls)}
        if unknown := sorted(values.keys() - known.keys()):
            raise ValueError(f"{path}: unknown setting {', '.join(unknown)}")
        for name, value in values.items():
            if type(value) is not type(known[name]) and not (type(known[name]) is float and type(value) is int):
                raise ValueError(f"{path}: {name} = {value!r} should be of type {type(known[name]).__name__}")
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
