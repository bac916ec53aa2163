"""The answers to many prompts at once: prompts of about equal length go through the model together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from tinygrad_llm.generation.decoding import generate_tokens
from tinygrad_llm.generation.sampling import Sampling
from tinygrad_llm.models import Decoder
from tinygrad_llm.tape import Array

TOKENS = 4096
"""Tokens of prompts and answers that are kept at once: their keys and values take memory."""

ROWS = 64
"""Prompts that are answered at once, at most: the shorter answers wait for the longest."""


def answer_prompts(
    model: Decoder,
    prompts: Sequence[Array],
    ends: Collection[int],
    max_tokens: int,
    vocab_size: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[int]]:
    """The likeliest token after the other, up to one of `ends`, which is left out, or to `max_tokens`.

    Shorter if the context has no room for more. Of ids from `vocab_size` on none is chosen. `progress(done, total)`
    counts prompts. ValueError for a prompt that is empty or longer than the context.
    """
    order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
    answers: list[list[int]] = [[] for _ in prompts]
    # of each the most that the context has room for, which in a batch is the same; one too long is refused below
    room = [min(max_tokens, max(1, model.config.context - len(prompt) + 1)) for prompt in prompts]
    was_training, done = model.training, 0
    try:
        while done < len(order):
            most = room[order[done]]
            rows = min(ROWS, max(1, TOKENS // max(1, len(prompts[order[done]]) + most)))
            batch = [place for place in order[done : done + rows] if room[place] == most]
            found = _batch(model, [prompts[place] for place in batch], ends, most, vocab_size)
            for place, tokens in zip(batch, found, strict=True):
                answers[place] = tokens
            done += len(batch)
            progress(done, len(order))
    finally:
        model.train(was_training)
    return answers


def _batch(
    model: Decoder, prompts: Sequence[Array], ends: Collection[int], most: int, vocab_size: int
) -> list[list[int]]:
    """The answers to some prompts, of `most` tokens at most."""
    answers: list[list[int]] = [[] for _ in prompts]
    going, longest = np.ones(len(prompts), bool), max(map(len, prompts))
    tokens = generate_tokens(
        model, prompts, Sampling(temperature=0), vocab_size=vocab_size, length=longest + max(0, most - 1)
    )
    for _ in range(most):
        for row, token in enumerate(next(tokens)):
            going[row] &= int(token) not in ends
            if going[row]:
                answers[row].append(int(token))
        if not going.any():
            break
    return answers
