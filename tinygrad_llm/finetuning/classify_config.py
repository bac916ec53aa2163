"""The settings of fine-tuning a classifier. Annotations are not put off here, see `loop_config`."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from tinygrad_llm.finetuning.config import FinetuneConfig

Pooling = Literal["auto", "last", "mean", "first"]
Balance = Literal["none", "oversample", "undersample"]


@dataclass(frozen=True, kw_only=True)
class ClassifySettings:
    """What is read, and how it becomes classes."""

    text_column: str = ""
    """Column of the texts; without it one with a usual name, as text or sentence."""
    label_column: str = ""
    """Column of the labels; without it one with a usual name, as label or class."""
    pooling: Pooling = "auto"
    """The vector that is classified: the last token's (decoders), the mean of all, or the first's through the pooler
    (encoders); auto takes last for decoders, and for encoders first if they have a pooler, else mean."""
    balance: Balance = "none"
    """Show classes equally often in each epoch: the rarer ones again (oversample), or fewer of the others
    (undersample)."""


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig(FinetuneConfig, ClassifySettings):  # in this order the fields of the last class come first
    """Everything that decides what fine-tuning a classifier computes."""

    kind: ClassVar[str] = "classify"

    batch_size: int = 16
    """Texts for each forward and backward pass (B)."""
