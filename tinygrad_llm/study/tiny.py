"""A GPT small enough to look at every number of: the example of `why` and of the explorer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinygrad_llm import ops
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.optim import AdamW
from tinygrad_llm.tape import Array, keep_graph
from tinygrad_llm.tensor import Tensor

SENTENCES = (
    "the cat sees the dog and the dog sees the cat",
    "the dog sees a bird and the bird sees the dog",
    "a bird hears the cat and the cat hears a bird",
    "the cat hears a dog and a dog hears the cat",
)


@dataclass(frozen=True)
class TinyStep:
    """One training step: the model, the words of its vocabulary, ids and targets (B, T), logits and the loss."""

    model: GPT
    words: tuple[str, ...]
    ids: Array
    targets: Array
    logits: Tensor
    loss: Tensor


def tiny_step(warmup: int = 60, seed: int = 0) -> TinyStep:
    """Train a two-layer GPT on a few sentences for `warmup` steps, then do one more and remember all of it.

    In float64, so that numbers can be followed to the last digit; after the step ``loss.backward()`` has been called.
    """
    words = tuple(sorted({word for sentence in SENTENCES for word in sentence.split()}))
    rows = np.array([[words.index(word) for word in sentence.split()] for sentence in SENTENCES])
    model = GPT(GPTConfig(vocab_size=len(words), context=10, channels=8, layers=2, heads=2, init_std=0.2), seed)
    model.astype(np.float64)
    optimizer = AdamW(model.named_parameters(), lr=0.02)
    for _ in range(warmup):
        optimizer.zero_grad()
        ops.cross_entropy(model(rows[:, :-1]), rows[:, 1:]).backward()
        optimizer.step()
    optimizer.zero_grad()
    ids, targets = rows[:1, :-1], rows[:1, 1:]
    with keep_graph():
        logits = model(ids)
        loss = ops.cross_entropy(logits, targets)
        loss.backward()
    return TinyStep(model, words, ids, targets, logits, loss)
