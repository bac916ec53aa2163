"""Span corruption, how a T5 is pre-trained: spans of a text are left out, and the model writes what is missing.

    text       Thank you for inviting me to your party last week
    input      Thank you <X> me to your party <Y> week <end>
    target     <X> for inviting <Y> last <end>

Each span that is left out is replaced by a sentinel, a token that occurs once. The target names each sentinel and what
it stands for. Sentinels are the last ids of the vocabulary: the first is V - 1, the next V - 2 ... Source: Raffel et
al. 2020, arXiv:1910.10683, section 3.1.4. As in their code, both sides end with the end token, where figure 2 shows one
more sentinel.
"""

from __future__ import annotations

import numpy as np

from tinygrad_llm import random
from tinygrad_llm.data import TokenFile
from tinygrad_llm.generation import Sampling, generate_outputs
from tinygrad_llm.generation.filling import text_with_gaps
from tinygrad_llm.models import T5, T5Config
from tinygrad_llm.tape import Array, no_grad
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.tokenizer import Tokenizer
from tinygrad_llm.training.config import TrainConfig
from tinygrad_llm.training.loop import Batch

NOISE, MEAN_SPAN = 0.15, 3.0
"""The share of the tokens that is left out, and the mean length of a span of them."""

INIT_FACTOR = 0.1
"""Of the initial values. T5 begins with embeddings of spread 1, which suits Adafactor, whose steps grow with the
weights (Shazeer and Stern 2018, arXiv:1804.04235). Steps of one size would move them too slowly: from 0.1 the loss of a
small model came as far in 300 steps as from 1 in 900."""

MEASURED = 16_384
"""Targets of held-out text that are measured during training."""


def span_counts(length: int, noise: float = NOISE, mean_span: float = MEAN_SPAN) -> tuple[int, int]:
    """(tokens left out, spans) of a text of so many tokens: the same for all texts of that length.

    At least one token is left out and one kept, and each span has a token before it that is kept.
    """
    if length < 2:
        raise ValueError(f"span corruption: {length} tokens; at least 2 are needed, one to keep and one to leave out")
    if not 0 < noise < 1 or not mean_span >= 1:
        raise ValueError(
            f"span corruption: noise={noise} must lie between 0 and 1, and mean_span={mean_span} be at least 1"
        )
    tokens = min(max(round(length * noise), 1), length - 1)
    return tokens, min(max(round(tokens / mean_span), 1), length - tokens)


def partitions(rows: int, total: int, parts: int, generator: np.random.Generator) -> Array:
    """(rows, parts) lengths of at least 1 that add up to `total`, all such rows equally likely."""
    cuts = generator.random((rows, total - 1)).argsort(axis=1)[:, : parts - 1] + 1
    edges = np.concatenate([np.zeros((rows, 1), int), np.sort(cuts, axis=1), np.full((rows, 1), total)], axis=1)
    return np.diff(edges, axis=1)


def noise_spans(
    rows: int, length: int, generator: np.random.Generator, noise: float = NOISE, mean_span: float = MEAN_SPAN
) -> Array:
    """(rows, length): 0 where a token is kept, and n where it belongs to the n-th span that is left out.

    Kept and left out parts take turns, beginning with a kept one and ending with one left out; each has a token.
    """
    tokens, spans = span_counts(length, noise, mean_span)
    kept = partitions(rows, length - tokens, spans, generator)
    left_out = partitions(rows, tokens, spans, generator)
    edges = np.stack([kept, left_out], axis=2).reshape(rows, 2 * spans).cumsum(axis=1)[:, :-1]
    begins = np.zeros((rows, length), int)
    np.put_along_axis(begins, edges, 1, axis=1)
    part = begins.cumsum(axis=1)  # 0 kept, 1 left out, 2 kept ...
    return np.where(part % 2 == 1, (part + 1) // 2, 0)


def corrupt(ids: Array, spans: Array, vocab_size: int, end_id: int) -> tuple[Array, Array]:
    """(inputs, targets) of texts, ids (B, L), from which `spans` (B, L), as from `noise_spans`, are left out.

    All rows have the same counts, so no side needs padding.
    """
    begins = (spans > 0) & (np.diff(spans, axis=1, prepend=0) != 0)
    sentinels = vocab_size - spans
    end = np.full((len(ids), 1), end_id)
    kept = np.where(begins, sentinels, ids)[(spans == 0) | begins].reshape(len(ids), -1)
    pairs = np.stack([np.where(begins, sentinels, -1), np.where(spans > 0, ids, -1)], axis=2).reshape(len(ids), -1)
    targets = pairs[pairs >= 0].reshape(len(ids), -1)
    return np.concatenate([kept, end], axis=1), np.concatenate([targets, end], axis=1)


def t5_config(config: TrainConfig, vocab_size: int) -> T5Config:
    """A T5 of the sizes of a run, with as many layers in each stack, for a tokenizer of `vocab_size` tokens.

    Behind these follow the token that outputs begin after and all end with, and as many sentinels as there are spans.
    """
    heads = config.heads or max(1, config.channels // 32)
    return T5Config(
        vocab_size=vocab_size + 1 + span_counts(config.context)[1],
        channels=config.channels,
        layers=config.layers,
        heads=heads,
        head_channels=max(1, config.channels // heads),
        feed_forward=4 * config.channels,
        dropout=config.dropout,
        init_factor=INIT_FACTOR,
        pad_id=vocab_size,
        start_id=vocab_size,
        end_id=vocab_size,
    )


class SpanCorruption:
    """Pre-training of a T5 by span corruption, on windows drawn from a token file (a `Task`, see `loop.py`)."""

    unit = "tokens"

    def __init__(self, config: TrainConfig, training: TokenFile, validation: TokenFile, tokenizer: Tokenizer) -> None:
        self.config, self.training, self.validation, self.tokenizer = config, training, validation, tokenizer
        self.end_id = tokenizer.vocab_size
        self.vocab_size = t5_config(config, tokenizer.vocab_size).vocab_size

    def batch(self, step: int, part: int) -> Batch:
        generator = random.stream(self.config.seed, "batch", step, part)
        inputs, targets = self._drawn(self.training, self.config.batch_size, generator)
        return Batch((inputs, targets), targets.size)

    def loss(self, model: T5, batch: Batch) -> Tensor:
        inputs, targets = batch.arrays
        return model.loss(inputs, targets, reduction="sum")

    def validate(self, model: T5) -> dict[str, float]:
        """Nats per target token, on the same corrupted windows of the held-out text each time."""
        generator = random.stream(self.config.seed, "held out spans")
        nats, count = 0.0, 0
        with no_grad():
            while count < MEASURED:
                inputs, targets = self._drawn(self.validation, self.config.batch_size, generator)
                nats += model.loss(inputs, targets, reduction="sum").item()
                count += targets.size
        return {"validation_loss": nats / count}

    def sample(self, model: T5) -> str:
        """A corrupted piece of the held-out text, what the model puts in, and what was there."""
        generator = random.stream(self.config.seed, "sample spans")
        inputs, targets = self._drawn(self.validation, 1, generator)
        config = model.config
        greedy, most = Sampling(temperature=0), targets.shape[1]
        (found,) = generate_outputs(model, list(inputs), most, config.start_id, config.end_id, greedy)
        rows = {"input": inputs[0, :-1], "output": found, "target": targets[0, :-1]}
        return "\n".join(f"{name}: {self.readable(np.asarray(ids, int))}" for name, ids in rows.items())

    def readable(self, ids: Array) -> str:
        """The text of ids, in which sentinels are <1>, <2> ..."""
        return text_with_gaps(ids, self.tokenizer, self.vocab_size)

    def _drawn(self, tokens: TokenFile, rows: int, generator: np.random.Generator) -> tuple[Array, Array]:
        ids, _ = tokens.batch(rows, self.config.context, generator)
        spans = noise_spans(len(ids), ids.shape[1], generator)
        return corrupt(ids, spans, self.vocab_size, self.end_id)
