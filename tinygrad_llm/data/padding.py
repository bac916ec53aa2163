"""Texts of different lengths side by side: about equal ones together, the shorter filled up on the right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tinygrad_llm.tape import Array


def padded(rows: Sequence[Array], padding: int = 0) -> tuple[Array, Array]:
    """ids (B, T), filled up on the right with `padding`, and the mask (B, 1, 1, T) of what is real."""
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, padding, np.int64)
    ids[mask] = np.concatenate(rows)
    return ids, mask[:, None, None]


SORTED = 32
"""Batches that are sorted by length together."""


def shuffled_batches(lengths: Array, batch_size: int, generator: np.random.Generator) -> list[Array]:
    """The places of `lengths` in batches of `batch_size`, the last of them smaller, each place once, by chance.

    So that batches are of about equal length, some of them at a time are made of places in the order of their lengths;
    then the batches are shuffled.
    """
    order = generator.permutation(len(lengths))
    batches = []
    for low in range(0, len(order), SORTED * batch_size):
        some = order[low : low + SORTED * batch_size]
        some = some[np.argsort(lengths[some], kind="stable")]
        batches += [some[begin : begin + batch_size] for begin in range(0, len(some), batch_size)]
    return [batches[number] for number in generator.permutation(len(batches))]


def batches_by_length(rows: Sequence[Array], tokens: int) -> Iterator[list[int]]:
    """Numbers of rows, the longest first, as many as have at most `tokens` when they are padded, but at least one."""
    order = sorted(range(len(rows)), key=lambda number: -len(rows[number]))
    while order:
        count = max(1, tokens // max(1, len(rows[order[0]])))
        yield order[:count]
        order = order[count:]
