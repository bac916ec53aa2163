"""Compiling every kernel ahead of its use, so that the first training step need not wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_llm import random
from tinygrad_llm.backend import use_backend
from tinygrad_llm.generation import generate_tokens
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.operation import Operation
from tinygrad_llm.optim import AdamW, Muon, Optimizer
from tinygrad_llm.parallel.ranks import OneProcess
from tinygrad_llm.study.benchmarks.job import single
from tinygrad_llm.tensor import registry
from tinygrad_llm.tokenizer import Tokenizer
from tinygrad_llm.training.config import TrainConfig
from tinygrad_llm.training.loop import training_step
from tinygrad_llm.training.pretraining import OneBatch


def warm(progress: Callable[[str, int, int], object] = lambda name, done, total: None) -> list[str]:
    """Call every kernel on small float32 arrays, forward and backward; then learn a vocabulary, train and generate.

    Returns the names of the operations that have a kernel. The compiled functions stay in Numba's cache on disk.
    """
    names = [name for name, operation in sorted(registry.items()) if operation.kernel]
    with use_backend("numba"):
        for number, name in enumerate(names):
            progress(name, number, len(names) + 2)
            _call(registry[name])
        progress("a training step", len(names), len(names) + 2)
        _train_and_generate()
        progress("the tokenizer", len(names) + 1, len(names) + 2)
        _tokenize()
    progress("", len(names) + 2, len(names) + 2)
    return names


def _call(operation: Operation) -> None:
    """Every sample that the operation has, in float32."""
    for number in range(len(operation.sample)):
        rng = random.stream(0, "warm", operation.name, number)
        inputs, options = operation.sample.draw(rng, number)
        arrays = [single(x) for x in inputs]
        value, vjp = operation.compute(*arrays, **{name: single(x) for name, x in options.items()})
        many = isinstance(value, tuple)
        dys = tuple(np.ones_like(v) for v in (value if many else (value,)))
        for gradient in _listed(vjp(dys if many else dys[0])):
            if callable(gradient):
                gradient()


def _listed(found: Any) -> tuple[Any, ...]:
    return tuple(found) if isinstance(found, (tuple, list)) else (found,)


def _train_and_generate() -> None:
    ids = np.arange(24).reshape(2, 12) % 7
    for kind in (AdamW, Muon):
        model = GPT(GPTConfig(vocab_size=7, context=12, channels=16, layers=1, heads=2))
        optimizer: Optimizer = kind(model.named_parameters())
        training_step(model, OneProcess(optimizer), OneBatch((ids, ids)), 0, TrainConfig())
    tokens = generate_tokens(model, [[1, 2, 3]])
    for _ in range(2):
        next(tokens)


def _tokenize() -> None:
    tokenizer = Tokenizer.train(["the theory of the thing", "x" * 100], 262)
    texts = ["the thing", "the" * 1000]
    for ids in (*map(tokenizer.encode, texts), *tokenizer.encode_batch(texts)):
        for dtype in (np.int32, np.int64, np.uint16):
            tokenizer.decode(np.tile(ids, 100).astype(dtype))
