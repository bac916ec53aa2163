"""Optimisers, learning-rate schedules, and clipping."""

from tinygrad_llm.optim.adamw import Adam, AdamW
from tinygrad_llm.optim.muon import Muon
from tinygrad_llm.optim.optimizer import Optimizer, clip_by_global_norm, clip_factor, global_norm
from tinygrad_llm.optim.schedules import SCHEDULES, Schedule, rate_factor
from tinygrad_llm.optim.sgd import SGD

__all__ = [
    "SCHEDULES",
    "SGD",
    "Adam",
    "AdamW",
    "Muon",
    "Optimizer",
    "Schedule",
    "clip_by_global_norm",
    "clip_factor",
    "global_norm",
    "rate_factor",
]
