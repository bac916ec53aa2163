"""The settings of learning from preferences. Annotations are not put off here, see `loop_config`."""

import math
from dataclasses import dataclass
from typing import ClassVar

from tinygrad_llm.finetuning.config import FinetuneConfig
from tinygrad_llm.finetuning.templates import TemplateName

GENTLER = 0.1
"""What the learning rate of other fine-tuning is multiplied by: the model can answer already, and is only to lean."""


@dataclass(frozen=True, kw_only=True)
class DpoSettings:
    """How pairs are written, and what is learned from them."""

    beta: float = 0.1
    """How dear it is to leave the model that training begins with."""
    label_smoothing: float = 0.0
    """Chance that a pair stands the wrong way round."""
    template: TemplateName = "auto"
    """How a conversation is written: own as the model knows it, alpaca, or chatml, which adds two tokens to a model
    that lacks them; auto takes its own if there is one, else alpaca."""
    answered: int = 50
    """Held-out prompts that are answered before and after training."""


@dataclass(frozen=True, kw_only=True)
class DpoConfig(FinetuneConfig, DpoSettings):  # in this order the fields of the last class come first
    """Everything that decides what learning from preferences computes."""

    kind: ClassVar[str] = "dpo"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta < math.inf:
            raise ValueError(f"--beta {self.beta}: must be positive")
        if not 0 <= self.label_smoothing <= 0.5:
            raise ValueError(f"--label-smoothing {self.label_smoothing}: must lie between 0 and 0.5")
        if self.answered < 0:
            raise ValueError(f"--answered {self.answered}: must not be negative")

    def peak_rate(self) -> float:
        return self.learning_rate or GENTLER * super().peak_rate()
