"""The settings of instruction tuning. Annotations are not put off here, see `loop_config`."""

from dataclasses import dataclass
from typing import ClassVar

from tinygrad_llm.finetuning.config import FinetuneConfig
from tinygrad_llm.finetuning.templates import TemplateName


@dataclass(frozen=True, kw_only=True)
class InstructSettings:
    """How examples are written, and how answers are measured."""

    template: TemplateName = "auto"
    """How a conversation is written: own as the model knows it, alpaca, or chatml, which adds two tokens to a model
    that lacks them; auto takes its own if there is one, else alpaca."""
    packing: bool = True
    """Put several examples into one row, where none sees another, instead of filling up rows."""
    rehearsal: str = ""
    """File of examples that are learned besides and not measured, so that what they show is not forgotten."""
    questions: str = ""
    """File of questions after other things, one in a line: answered before and after, to see what is forgotten."""
    answered: int = 200
    """Held-out prompts that are answered before and after training; 0 measures the loss alone."""
    answer_tokens: int = 0
    """Tokens of an answer that is generated, at most; 0 as many as the longest that is held out has, from 32 to 256."""


@dataclass(frozen=True, kw_only=True)
class InstructConfig(FinetuneConfig, InstructSettings):  # in this order the fields of the last class come first
    """Everything that decides what instruction tuning computes."""

    kind: ClassVar[str] = "instruct"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.answered < 0:
            raise ValueError(f"--answered {self.answered}: must not be negative")
        if self.answer_tokens < 0:
            raise ValueError(f"--answer-tokens {self.answer_tokens}: must not be negative")
