"""The settings of a pre-training run. The command line and ``config.toml`` are both derived from this one dataclass."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, Self

import tomli_w

from tinygrad_llm.files import atomic_write
from tinygrad_llm.models import GPTConfig
from tinygrad_llm.optim import Schedule
from tinygrad_llm.tokenizer.pretokenize import compile_pattern

FORMAT = 1
"""Version of the run folder; one of another version is refused."""

MAY_CHANGE = ("steps", "validate_every", "sample_every", "checkpoint_every")
"""What may be set anew when a run is resumed."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides what a run computes: same settings, same data, same result."""

    data: str = ""
    """File or folder of UTF-8 text; without it, the documentation that comes with Python."""
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
    """How text is cut into words before merging: own, gpt2, cl100k, or a regular expression."""
    layers: int = 4
    """Transformer blocks (L)."""
    channels: int = 96
    """Width of the model (C)."""
    heads: int = 3
    """Attention heads (H)."""
    dropout: float = 0.0
    """Share of activations dropped in training."""
    init_std: float = 0.02
    """Spread of the initial weights (GPT-2's is 0.02)."""
    optimizer: Literal["adamw", "adam", "sgd", "muon"] = "muon"
    """Which optimiser updates the weights."""
    learning_rate: float = 0.02
    """Peak learning rate."""
    schedule: Schedule = "linear"
    """Course of the learning rate after warm-up; wsd is warmup-stable-decay."""
    warmup: int = 50
    """Steps over which the learning rate rises to its peak."""
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
        for name in ("warmup", "clip", "weight_decay", "validate_every", "sample_every", "checkpoint_every"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{_flag(name)} {getattr(self, name)}: must not be negative")
        if self.accumulate > 65_536:  # the parts of a step are all held in memory
            raise ValueError(f"--accumulate {self.accumulate}: must be at most 65,536")
        if self.context < 2:
            raise ValueError(f"--context {self.context}: must be at least 2")
        if not self.learning_rate > 0:
            raise ValueError(f"--learning-rate {self.learning_rate}: must be positive")
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
        self.model_config(self.vocab_size)  # refuses sizes that do not fit each other

    def model_config(self, vocab_size: int) -> GPTConfig:
        """The model's sizes, with the vocabulary that the tokenizer really got."""
        return GPTConfig(
            vocab_size=vocab_size,
            context=self.context,
            channels=self.channels,
            layers=self.layers,
            heads=self.heads,
            dropout=self.dropout,
            init_std=self.init_std,
        )

    def resumed_with(self, asked: TrainConfig) -> Self:
        """These settings, with what `asked` sets to something else than its default.

        Only how long and how often may change on the way; anything else is a ValueError.
        """
        names = [f.name for f in fields(self) if getattr(asked, f.name) not in (f.default, getattr(self, f.name))]
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
        known = {field.name: field.type for field in fields(cls)}
        if unknown := sorted(values.keys() - known.keys()):
            raise ValueError(f"{path}: unknown setting {', '.join(unknown)}")
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
