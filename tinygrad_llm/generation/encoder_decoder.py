"""Greedy generation and sampling for models that make an output from an input: see `EncoderDecoder` in `beam.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygrad_llm import random
from tinygrad_llm.generation.beam import EncoderDecoder
from tinygrad_llm.generation.sampling import Sampling, choose
from tinygrad_llm.tape import Array


def generate_outputs(
    model: EncoderDecoder[Any],
    inputs: Sequence[Sequence[int] | Array],
    max_tokens: int,
    start_id: int,
    end_id: int,
    sampling: Sampling | None = None,
    seed: int = 0,
    vocab_size: int | None = None,
    on_token: Callable[[int, int], None] = lambda row, token: None,
) -> list[list[int]]:
    """An output for each input: up to `max_tokens` ids, or fewer that `end_id` followed, which is not among them.

    ``Sampling(temperature=0)`` always takes the likeliest token. Output b draws from its own stream of (seed, b), so it
    does not depend on the rest of the batch beyond rounding; what has ended is not computed any more. Ids from
    `vocab_size` on are never chosen. `on_token` is called with (b, id) for each token as it comes.
    """
    if max_tokens < 0:
        raise ValueError(f"generate: max_tokens={max_tokens} must not be negative")
    sampling = sampling or Sampling()
    streams = [random.stream(seed, "generate", row) for row in range(len(inputs))]
    outputs: list[list[int]] = [[] for _ in inputs]
    live = np.arange(len(inputs))
    if not len(inputs) or not max_tokens:
        return outputs
    state, ids = model.start(inputs), np.full(len(inputs), start_id)
    for _ in range(max_tokens):
        logits = model.step(ids, state)[:, :vocab_size]
        ids = np.array(
            [
                choose(row, sampling, outputs[b], streams[b].random())
                for b, row in zip(live.tolist(), logits, strict=True)
            ]
        )
        going = np.flatnonzero(ids != end_id)
        if len(going) < len(live):
            live, ids = live[going], ids[going]
            if not len(live):
                break
            state = model.reorder(state, going)
        for b, token in zip(live.tolist(), ids.tolist(), strict=True):
            outputs[b].append(token)
            on_token(b, token)
    return outputs
