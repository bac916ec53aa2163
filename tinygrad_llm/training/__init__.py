"""Training: the loop, checkpoints, metrics, and pre-training from raw text."""

from tinygrad_llm.training.config import TrainConfig
from tinygrad_llm.training.loop import Batch, Task, train, training_step
from tinygrad_llm.training.pretraining import (
    WeightKind,
    evaluate_run,
    load_rounded,
    load_run,
    pretrain,
    read_corpus,
    rounded,
)
from tinygrad_llm.training.vocabulary import train_tokenizer

__all__ = [
    "Batch",
    "Task",
    "TrainConfig",
    "WeightKind",
    "evaluate_run",
    "load_rounded",
    "load_run",
    "pretrain",
    "read_corpus",
    "rounded",
    "train",
    "train_tokenizer",
    "training_step",
]
