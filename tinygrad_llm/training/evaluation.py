"""How well a language model predicts a text: perplexity and bits per byte, with windows that may overlap."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from tinygrad_llm import ops
from tinygrad_llm.data import IGNORE, TextFiles, TokenFile, write_tokens
from tinygrad_llm.models import Decoder
from tinygrad_llm.ops.fused_losses import LEAST_ROWS, LOGITS
from tinygrad_llm.tape import Array, no_grad
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.tokenizer import Tokenizer
from tinygrad_llm.training.progress import counting
from tinygrad_llm.training.runs import RunFiles

TOKENS = 2048
"""Tokens, padding included, that go through a model together."""


def rows_at_once(model: Decoder) -> int:
    """How many vectors are to pass the head together, so that their logits do not take too much memory."""
    return max(LEAST_ROWS, LOGITS // (model.config.vocab_size * model.dtype.itemsize))


def token_losses(model: Decoder, ids: Array, targets: Array) -> Array:
    """Nats (N,) of the N targets (B, T) that are not IGNORE, in their order, each after the ids (B, T) up to its place.

    Only these pass the head, a few at a time, so that not all of their logits are held at once.
    """
    counted = targets != IGNORE
    wanted = targets[counted]
    step = rows_at_once(model)
    with no_grad():
        x = model.hidden(ids).data[counted]
        parts = [
            ops.cross_entropy(model.head(Tensor(x[low : low + step])), wanted[low : low + step], reduction="none").data
            for low in range(0, len(x), step)
        ]
    return np.concatenate(parts, dtype=np.float64)


def measure(
    model: Decoder,
    tokenizer: Tokenizer,
    tokens: TokenFile,
    batch_size: int = 0,
    limit: float = math.inf,
    stride: int = 0,
    context: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Loss (nats per token), perplexity and bits per byte over the file, or its first windows with `limit` tokens.

    A window of the model's context, or of `context` if that is given, is moved on by `stride` tokens at a time. All
    targets of the first window count, and of each later one the last `stride`, so that each token of the file counts
    once, and has at least ``context - stride`` before it. By default windows do not overlap: the first tokens of each
    have little before them, and the loss is an upper bound. A smaller stride costs ``context / stride`` times as much.
    Bits per byte are the nats divided by ``ln 2`` and by the UTF-8 bytes of the predicted tokens; a separator counts 0
    bytes. `batch_size` windows go through the model together, if 0 as many as have `TOKENS` tokens.
    `progress(done, total)` is told the tokens.
    """
    if context > model.config.context:
        raise ValueError(f"a context of {context:,} tokens is more than the model's, {model.config.context:,}")
    context = context or model.config.context
    batch_size = batch_size or max(1, TOKENS // context)
    model.eval()
    nats, count, size, total = 0.0, 0, 0, int(min(limit, len(tokens) - 1))
    for inputs, targets in tokens.windows(context, batch_size, stride):
        nats += float(token_losses(model, inputs, targets).sum())
        predicted = targets[targets != IGNORE]
        count, size = count + predicted.size, size + tokenizer.count_bytes(predicted)
        progress(count, total)
        if count >= limit:
            break
    return {
        "loss": nats / count,
        "perplexity": math.exp(min(700.0, nats / count)),
        "bits_per_byte": nats / math.log(2) / max(1, size),
        "tokens": count,
        "bytes": size,
    }


def evaluate_text(
    path: Path,
    model: Decoder,
    tokenizer: Tokenizer,
    data: str,
    console: Console,
    stride: int = 0,
    context: int = 0,
) -> dict[str, Any]:
    """`measure` on the file or folder `data`, or, if it is empty, on the text that the run in `path` held out."""

    def measured(tokens: TokenFile) -> dict[str, Any]:
        with counting(console, "measuring") as progress:
            return measure(model, tokenizer, tokens, stride=stride, context=context, progress=progress)

    if not data:
        file = RunFiles(path).validation
        if not file.is_file():
            raise ValueError(f"{path}: holds no text to measure with; give one with --data")
        return measured(TokenFile(file))
    texts = TextFiles(data)
    size = texts.size()
    with tempfile.TemporaryDirectory() as folder:
        with counting(console, "encoding the text") as progress:
            write_tokens(texts, tokenizer, Path(folder) / "tokens", lambda done: progress(done, size))
        return measured(TokenFile(Path(folder) / "tokens"))
