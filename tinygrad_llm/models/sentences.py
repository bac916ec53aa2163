"""Sentence embeddings: one vector for each sentence, whose products with others say how alike their meanings are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tinygrad_llm.data.padding import batches_by_length, padded
from tinygrad_llm.models.bert import Bert
from tinygrad_llm.tape import Array, no_grad
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.tokenizer import WordPieceTokenizer

BATCH = 1024
"""Tokens, padding included, that go through the model together: what flows between its blocks stays in the cache."""


def mean_pooled(x: Tensor, mask: Array) -> Tensor:
    """The mean (B, C) of the vectors (B, T, C) at positions that are no padding; `mask` (B, 1, 1, T) as in `Bert`."""
    real = mask[:, 0, 0, :, None].astype(x.dtype)
    return (x * real).sum(axis=1) * (1 / np.maximum(real.sum(axis=1), 1))


def embed(
    model: Bert,
    tokenizer: WordPieceTokenizer,
    sentences: Sequence[str],
    longest: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Array:
    """(N, C): for each of N sentences the mean of its tokens' vectors, of length 1, so that products are cosines.

    Sentences of about equal length go through the model together, in batches of at most `BATCH` tokens. A sentence of
    more than `longest` tokens (the model's context if 0), with [CLS] and [SEP], is cut. `progress(done)` is told the
    number of sentences done so far. Source: Reimers and Gurevych 2019, arXiv:1908.10084.
    """
    if isinstance(sentences, str):
        raise TypeError("embed: sentences is one text; give a list of them")
    context = model.config.context
    longest = longest or context
    if not 2 < longest <= context:
        raise ValueError(f"embed: longest={longest} must be from 3 to the model's context, {context}")
    rows = [cut_sentence(tokenizer.encode(sentence, disallowed_special=()), longest) for sentence in sentences]
    vectors = np.empty((len(rows), model.config.channels), model.dtype)
    was_training, done = model.training, 0
    model.eval()
    try:
        with no_grad():
            for batch in batches_by_length(rows, BATCH):
                ids, mask = padded([rows[number] for number in batch])
                vectors[batch] = mean_pooled(model.hidden(ids, mask), mask).data
                done += len(batch)
                if progress:
                    progress(done)
    finally:
        model.train(was_training)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def cut_sentence(ids: Array, longest: int) -> Array:
    """The first tokens, and the [SEP] at the end, `longest` together at most."""
    return ids if len(ids) <= longest else np.append(ids[: longest - 1], ids[-1])
