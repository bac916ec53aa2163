"""Classes of texts: tokens, batches of about equal length, log-probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tinygrad_llm.data.padding import batches_by_length, padded
from tinygrad_llm.models import Bert
from tinygrad_llm.models.classifier import Classifier
from tinygrad_llm.models.sentences import cut_sentence
from tinygrad_llm.tape import Array, no_grad
from tinygrad_llm.tokenizer import Tokenizer, WordPieceTokenizer

TOKENS = 2048
"""Tokens, padding included, that go through the model together."""

ENCODED = 256
"""Texts that are encoded between two reports of progress."""


class Encoded(NamedTuple):
    """Texts as tokens, and how many tokens each would have if none were cut."""

    rows: list[Array]
    lengths: Array


def encode_texts(
    tokenizer: Tokenizer | WordPieceTokenizer,
    texts: Sequence[str],
    context: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Encoded:
    """Ids of each text, after those that the tokenizer puts before it; of longer ones the first `context`."""
    rows: list[Array] = []
    for low in range(0, len(texts), ENCODED):
        some = texts[low : low + ENCODED]
        if isinstance(tokenizer, WordPieceTokenizer):
            rows += [tokenizer.encode(text, disallowed_special=()) for text in some]
        else:
            start = tokenizer.conventions.before
            rows += [np.array([*start, *ids]) for ids in tokenizer.encode_batch(some, disallowed_special=())]
        progress(len(rows), len(texts))
    lengths = np.array([len(row) for row in rows])
    if isinstance(tokenizer, WordPieceTokenizer):
        return Encoded([cut_sentence(row, context) for row in rows], lengths)
    return Encoded([row[:context] for row in rows], lengths)


def with_beginning(tokenizer: Tokenizer | WordPieceTokenizer) -> Tokenizer | WordPieceTokenizer:
    """The tokenizer, with the convention that a text begins as those did that the model was trained on before."""
    if isinstance(tokenizer, WordPieceTokenizer):
        return tokenizer
    return tokenizer.with_conventions(tokenizer.conventions._replace(before=tokenizer.start_ids))


def padding_of(tokenizer: Tokenizer | WordPieceTokenizer) -> int:
    """An id that no text ends with, to fill up shorter ones."""
    return tokenizer.ids["[PAD]"] if isinstance(tokenizer, WordPieceTokenizer) else tokenizer.start_ids[0]


def log_probabilities(
    model: Classifier | Bert,
    rows: Sequence[Array],
    padding: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Array:
    """Log-probabilities (N, classes), float64, of N texts as tokens."""
    found = np.empty((len(rows), len(model.config.labels)))
    was_training, done = model.training, 0
    model.eval()
    try:
        with no_grad():
            for batch in batches_by_length(rows, TOKENS):
                ids, mask = padded([rows[number] for number in batch], padding)
                found[batch] = model(ids, mask).data
                done += len(batch)
                progress(done, len(rows))
    finally:
        model.train(was_training)
    found -= found.max(axis=1, keepdims=True)
    return found - np.log(np.exp(found).sum(axis=1, keepdims=True))
