"""The settings that every kind of fine-tuning has. Annotations are not put off here, see `loop_config`."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from tinygrad_llm.training.loop_config import RATES, LoopConfig

FULL, ADAPTED = 0.03, 0.15
"""What the learning rate of a training from the beginning is multiplied by, for all weights and for an adapter: weights
that are good already are to move little; those of an adapter begin at zero."""

WIDTH = 768
"""Channels of the models that these suit."""


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """What is trained, and on what."""

    model: str = ""
    """The model to begin with: a folder, a GGUF file, smollm2 or minilm."""
    data: str = ""
    """File of examples."""
    validation_data: str = ""
    """File of examples to measure with; without it a share of --data is held out."""
    validation_share: float = 0.1
    """Share of the examples held out."""
    epochs: float = 3.0
    """How often each example is trained on."""
    context: int = 0
    """Tokens of an example at most; 0 as many as the model takes."""
    lora: str = ""
    """Train an adapter only, as in r=8,alpha=16,targets=q+v; see `LoRASettings`."""
    weights: Literal["float32", "int8"] = "float32"
    """How the weights that an adapter stands beside are kept."""
    blocks: int = -1
    """How many of the last blocks are trained, besides a head that is not the embedding; -1 all, the embeddings too."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(LoopConfig, FinetuneSettings):  # in this order the fields of the last class come first
    """Everything that decides what fine-tuning computes."""

    steps_from_data: ClassVar[bool] = True

    steps: int = 0
    """Updates of the weights; 0 as many as --epochs make."""
    batch_size: int = 8
    """Examples for each forward and backward pass (B)."""
    optimizer: Literal["adamw", "adam", "sgd", "muon"] = "adamw"
    """Which optimiser updates the weights."""
    weight_decay: float = 0.01
    """Decay of the weight matrices."""
    validate_every: int = 0
    """Steps between measurements on what is held out; 0 once in each epoch."""
    sample_every: int = 0
    """Steps between samples; 0 once in each epoch."""
    checkpoint_every: int = 0
    """Steps between checkpoints; 0 once in each epoch."""
    best: bool = True
    """Keep the weights of the best measurement instead of the last."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.validation_share < 1:
            raise ValueError(f"--validation-share {self.validation_share}: must lie between 0 and 1")
        if not 0 < self.epochs < 1e6:
            raise ValueError(f"--epochs {self.epochs}: must be positive")
        if self.validation_data and self.validation_share != FinetuneSettings.validation_share:
            raise ValueError("--validation-share: nothing of --data is held out where --validation-data is given")
        if self.context < 0 or self.context == 1:
            raise ValueError(f"--context {self.context}: must be at least 2, or 0 for as many as the model takes")
        if self.blocks < -1:
            raise ValueError(f"--blocks {self.blocks}: must be at least 0, or -1 for all")
        if self.lora and self.blocks != -1:
            raise ValueError("--lora trains no block itself; leave --blocks out")
        if self.weights != "float32" and not self.lora:
            raise ValueError(f"--weights {self.weights} cannot be trained; give --lora, which leaves them as they are")

    def peak_rate(self) -> float:
        return self.learning_rate or RATES[self.optimizer] * (ADAPTED if self.lora else FULL)

    def counted(self, examples: int, channels: int) -> Self:
        """These settings for so many examples and a model of that width: numbers of steps, and the learning rate, where
        there were none. Adam's rate goes with 1 / width, as in Yang et al. 2022, arXiv:2203.03466, table 3."""
        batches = -(-examples // self.batch_size)
        each = -(-batches // self.accumulate)
        return replace(
            self,
            learning_rate=self.learning_rate or self.peak_rate() * WIDTH / channels,
            steps=self.steps or math.ceil(self.epochs * batches / self.accumulate),
            validate_every=self.validate_every or each,
            sample_every=self.sample_every or each,
            checkpoint_every=self.checkpoint_every or each,
        )
