"""What a comparison found, as data: written to JSON, and read back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from tinygrad_llm.files import atomic_write
from tinygrad_llm.study.architectures.distance import Reach
from tinygrad_llm.study.architectures.losses import Curve
from tinygrad_llm.study.architectures.settings import Settings
from tinygrad_llm.study.architectures.steps import StepTime

KIND, FORMAT = "tinygrad_llm architectures", 1


@dataclass(frozen=True)
class Comparison:
    """The three experiments, with what they were measured on. `had` is the share of its threads' time that a matrix
    product got: about 1, unless other programs took a part."""

    made: str
    versions: dict[str, str]
    processor: str
    threads: int
    had: float
    settings: Settings
    curves: dict[str, Curve]
    steps: tuple[StepTime, ...]
    reaches: tuple[Reach, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """In the order in which they are shown."""
        return tuple(self.curves)

    def step(self, model: str, batch: int, length: int) -> StepTime:
        """The time of one kind of step."""
        return next(s for s in self.steps if (s.model, s.batch, s.length) == (model, batch, length))

    def reach(self, model: str, trained: bool) -> Reach:
        """How far back the gradients of a model reach."""
        return next(r for r in self.reaches if (r.model, r.trained) == (model, trained))

    def save(self, path: Path) -> None:
        """Write everything as JSON."""
        body = {"kind": KIND, "format": FORMAT, **asdict(self)}
        atomic_write(path, (json.dumps(body, indent=1, allow_nan=False) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote. Raises ValueError, with the file's name, for anything else."""
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: not a comparison: it is not JSON ({error})") from None
        if not isinstance(plain, dict) or plain.pop("kind", None) != KIND:
            raise ValueError(f"{path}: not a comparison; tinygrad-llm compare writes one")
        if (version := plain.pop("format", None)) != FORMAT:
            raise ValueError(f"{path}: format {version!r}; this version reads format {FORMAT}")
        try:
            return cls(
                **{
                    **plain,
                    "settings": Settings(**_tuples(plain["settings"])),
                    "curves": {name: Curve(**_tuples(curve)) for name, curve in plain["curves"].items()},
                    "steps": tuple(StepTime(**_tuples(step)) for step in plain["steps"]),
                    "reaches": tuple(Reach(**_tuples(reach)) for reach in plain["reaches"]),
                }
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path}: a damaged comparison ({type(error).__name__}: {error})") from None


def _tuples(plain: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists only."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()}
