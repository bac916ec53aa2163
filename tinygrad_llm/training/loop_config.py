"""The settings that every kind of training has: pre-training's and fine-tuning's are derived from them.

The command line and ``config.toml`` are both made from these dataclasses. Annotations are not put off here: they are
looked up by the names that the module of a derived class knows.
"""

import math
import tomllib
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import ClassVar, Literal, Self

import tomli_w

from tinygrad_llm.files import atomic_write
from tinygrad_llm.optim import SCHEDULES, Schedule, rate_factor

FORMAT = 1
"""Version of the run folder; one of another version is refused."""

RATES = {"adamw": 3e-3, "adam": 3e-3, "sgd": 0.1, "muon": 0.02}
"""Peak learning rates that suit small models that are trained from their beginning."""

MAY_CHANGE = ("steps", "validate_every", "sample_every", "checkpoint_every", "patience")
"""What may be set anew when a run is resumed."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """What the training loop goes by."""

    kind: ClassVar[str] = ""
    """What a run of these settings is, in its ``config.toml``; nothing for pre-training."""

    steps_from_data: ClassVar[bool] = False
    """Whether 0 steps mean as many as the data call for."""

    steps: int = 1100
    """Updates of the weights."""
    batch_size: int = 16
    """Sequences for each forward and backward pass (B)."""
    accumulate: int = 1
    """Passes whose gradients are added up for one update."""
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
    validate_every: int = 220
    """Steps between measurements on what is held out; 0 only at the end."""
    sample_every: int = 550
    """Steps between samples; 0 only at the end."""
    checkpoint_every: int = 220
    """Steps between checkpoints; 0 only at the end."""
    best: bool = False
    """Keep the weights of the best measurement instead of the last."""
    patience: int = 0
    """Measurements without a better one after which training ends; 0 never ends it early."""
    seed: int = 0
    """Decides every random draw."""

    def __post_init__(self) -> None:
        if self.steps < (least := 0 if self.steps_from_data else 1):
            raise ValueError(f"--steps {self.steps}: must be at least {least}")
        for name in ("batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{flag(name)} {getattr(self, name)}: must be at least 1")
        counts = "warmup", "validate_every", "sample_every", "checkpoint_every", "patience"
        for name in (*counts, "clip", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{flag(name)} {getattr(self, name)}: must not be negative")
        if self.accumulate > 65_536:  # the parts of a step are all held in memory
            raise ValueError(f"--accumulate {self.accumulate}: must be at most 65,536")
        if not 0 <= self.learning_rate < math.inf:
            raise ValueError(f"--learning-rate {self.learning_rate}: must not be negative, nor infinite")
        if self.optimizer not in RATES:
            raise ValueError(f"--optimizer {self.optimizer}: must be one of {', '.join(RATES)}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"--schedule {self.schedule}: must be one of {', '.join(SCHEDULES)}")

    def peak_rate(self) -> float:
        """The learning rate after warm-up."""
        return self.learning_rate or RATES[self.optimizer]

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.peak_rate() * rate_factor(self.schedule, step, self.steps, min(self.warmup, self.steps // 5))

    def resumed_with(self, asked: "LoopConfig", given: Collection[str] | None = None) -> Self:
        """These settings, with those of `asked` that were `given`; by default the ones that are not at their default.

        Only how long and how often may change on the way; anything else is a ValueError.
        """
        if given is None:
            given = [f.name for f in fields(self) if getattr(asked, f.name) != f.default]
        names = [f.name for f in fields(self) if f.name in given and getattr(asked, f.name) != getattr(self, f.name)]
        if fixed := [name for name in names if name not in MAY_CHANGE]:
            listed = ", ".join(f"{flag(name)} is {getattr(self, name)}, not {getattr(asked, name)}" for name in fixed)
            raise ValueError(f"the run to resume has other settings: {listed}; leave these options out")
        return replace(self, **{name: getattr(asked, name) for name in names})

    def save(self, path: Path) -> None:
        """Write as TOML."""
        about = {"format": FORMAT} | ({"kind": self.kind} if self.kind else {})
        atomic_write(path, tomli_w.dumps(about | asdict(self)).encode())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote; another version or kind, an unknown or a wrong setting is a ValueError."""
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not valid TOML ({error})") from error
        version = values.pop("format", None)
        if version != FORMAT:
            raise ValueError(f"{path}: a run of format {version!r}; this version of tinygrad_llm reads format {FORMAT}")
        if (kind := values.pop("kind", "")) != cls.kind:
            raise ValueError(f"{path}: a run of {_command(kind)}, not of {_command(cls.kind)}")
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


def flag(name: str) -> str:
    """The option on the command line that sets a setting."""
    return "--" + name.replace("_", "-")


def _command(kind: str) -> str:
    return f"tinygrad-llm finetune {kind}" if kind else "tinygrad-llm train"
