"""Training: the loop, checkpoints, metrics, and pre-training from raw text."""

from tinygrad_llm.training.config import TrainConfig
from tinygrad_llm.training.evaluation import evaluate_text, measure
from tinygrad_llm.training.loop import Batch, Task, train, training_step
from tinygrad_llm.training.pretraining import pretrain, read_corpus
from tinygrad_llm.training.runs import WeightKind, load_rounded, load_run, rounded
from tinygrad_llm.training.vocabulary import train_tokenizer

__all__ = [
    "Batch",
    "Task",
    "TrainConfig",
    "WeightKind",
    "evaluate_text",
    "load_rounded",
    "load_run",
    "measure",
    "pretrain",
    "read_corpus",
    "rounded",
    "train",
    "train_tokenizer",
    "training_step",
]
