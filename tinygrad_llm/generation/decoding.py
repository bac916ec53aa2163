"""Autoregressive generation: for batches of prompts of different lengths, with or without the KV cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tinygrad_llm import random
from tinygrad_llm.generation.cache import KVCache
from tinygrad_llm.generation.sampling import Sampling, choose
from tinygrad_llm.generation.speculative import SpeculativeDecoding
from tinygrad_llm.generation.streaming import TextStream
from tinygrad_llm.models import Decoder, Recurrent
from tinygrad_llm.models.decoder import Cache
from tinygrad_llm.tape import Array, no_grad
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.tokenizer import Tokenizer


def generate_tokens(
    model: Decoder,
    prompts: Sequence[Sequence[int] | Array],
    sampling: Sampling | None = None,
    seed: int = 0,
    use_cache: bool = True,
    vocab_size: int | None = None,
    length: int = 0,
) -> Iterator[Array]:
    """Yield one new token id per prompt, (B,), without end.

    Row b draws from its own stream of (seed, b), so it does not depend on the rest of the batch beyond rounding, until
    the longest row outgrows the model's context: then all rows go on from their last ``context // 2`` tokens.
    `use_cache` changes the time, not the result: without it every step computes the whole window again. Ids from
    `vocab_size` on are never chosen: some models have more rows than their tokenizer has tokens. Whoever takes only so
    many tokens that no row has more than `length` of them spares the memory of a cache of the whole context.
    """
    sampling = sampling or Sampling()
    context = model.config.context
    histories = [[int(i) for i in prompt] for prompt in prompts]
    for number, history in enumerate(histories):
        if not history:
            raise ValueError(f"generate: prompt {number} is empty; give at least one token")
        if len(history) > context:
            raise ValueError(f"generate: prompt {number} has {len(history)} tokens, the model's context is {context}")
        if not all(0 <= i < model.config.vocab_size for i in history):
            raise ValueError(f"generate: prompt {number} has ids outside 0..{model.config.vocab_size - 1}")
    streams = [random.stream(seed, "generate", row) for row in range(len(histories))]
    windows = [list(history) for history in histories]
    cache: Cache | None = None
    model.eval()
    while True:
        if max(map(len, windows)) > context:
            windows, cache = [window[-(context // 2) :] for window in windows], None
        with no_grad():
            if cache is None:
                if use_cache:
                    cache = new_cache(model, len(windows), length)
                logits = _forward(model, windows, max(map(len, windows)), cache)
            else:
                logits = _forward(model, windows, 1, cache)
        chosen = [
            choose(row[:vocab_size], sampling, history, stream.random())
            for row, history, stream in zip(logits, histories, streams, strict=True)
        ]
        for token, history, window in zip(chosen, histories, windows, strict=True):
            history.append(token)
            window.append(token)
        if not use_cache:
            cache = None
        yield np.array(chosen)


def new_cache(model: Decoder, batch: int, length: int = 0) -> Cache:
    """What a model remembers of the tokens so far: keys and values, of `length` tokens at most if that is given, or the
    state of a recurrent one."""
    return model.new_cache(batch) if isinstance(model, Recurrent) else KVCache(model.config, batch, model.dtype, length)


def _forward(model: Decoder, windows: list[list[int]], count: int, cache: Cache | None) -> Array:
    """Logits (B, V) after the windows, of which only the last `count` columns are computed anew.

    Shorter windows are padded on the left; a mask keeps their padding from being seen, and their positions start at 0
    with their first real token.
    """
    width = max(map(len, windows))
    padding = np.array([width - len(window) for window in windows])
    positions = mask = None
    if padding.any():
        columns = np.arange(width)
        positions = np.maximum(columns - padding[:, None], 0)[:, -count:]
        mask = (columns >= padding[:, None])[:, None, None, :]
    ids = np.array([([0] * (count - len(window)) + window)[-count:] for window in windows])
    x = model.hidden(ids, positions, mask, cache)
    return model.head(Tensor(x.data[:, -1])).data


def generate_text(
    model: Decoder,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    max_tokens: int,
    sampling: Sampling | None = None,
    seed: int = 0,
    use_cache: bool = True,
    stop: Sequence[str] = (),
    on_text: Callable[[int, str], None] = lambda row, text: None,
    draft: Decoder | None = None,
) -> list[str]:
    """Continue each prompt by up to `max_tokens` tokens; return the continuations, without the prompts.

    A row ends early at the end of a document (`Tokenizer.end_ids`) or before the first occurrence of a `stop` string.
    `on_text` is called with (row, text) as text becomes certain: whole characters that cannot be the beginning of a
    stop string. An empty prompt means the beginning of a document. A `draft`, a smaller model of the same tokenizer,
    runs ahead (see `speculative`); for a single prompt.
    """
    if max_tokens < 0:
        raise ValueError(f"generate: max_tokens={max_tokens} must not be negative")
    before = tokenizer.conventions.before
    encoded = [
        [*before, *tokenizer.encode(prompt, disallowed_special=())] if prompt else tokenizer.start_ids
        for prompt in prompts
    ]
    texts = [TextStream(tokenizer, stop) for _ in encoded]
    tokens = generate_tokens(model, encoded, sampling, seed, use_cache, tokenizer.vocab_size)
    if draft is not None:
        if len(prompts) != 1:
            raise ValueError(f"generate: a draft runs ahead of one prompt, not of {len(prompts)}")
        ahead = SpeculativeDecoding(model, draft, encoded[0], sampling, seed, vocab_size=tokenizer.vocab_size)
        tokens = (np.array([token]) for token in ahead)
    for _ in range(max_tokens):
        for row, (token, text) in enumerate(zip(next(tokens), texts, strict=True)):
            if not text.ended and (piece := text.end() if token in tokenizer.end_ids else text.feed(int(token))):
                on_text(row, piece)
        if all(text.ended for text in texts):
            break
    for row, text in enumerate(texts):
        if not text.ended and (piece := text.end()):
            on_text(row, piece)
    return [text.text for text in texts]
