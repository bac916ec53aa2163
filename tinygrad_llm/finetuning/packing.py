"""Examples of different lengths in one batch: each in a row of its own, filled up, or several packed into a row.

In a packed row an example must not know of those before it. Three things see to that: a mask, by which a token sees
only tokens of its own example; positions, which begin at 0 with each; and targets: the last token of an example has
none, so that nothing predicts the first token of the next.

What all of them begin with, as a system's message, stands in a row once: a causal model computes the same for it in
each. All see it, and their positions go on after it, so that values and gradients are those of examples by themselves.
Not so with a sliding window, which counts places of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tinygrad_llm.data import IGNORE
from tinygrad_llm.data.padding import padded
from tinygrad_llm.tape import Array

TRIED = 8
"""Numbers of rows for which a width is tried."""

AS_MUCH = 6
"""Attention over rows of so many times C tokens costs about as much as all matrix products, 24 C^2 operations a token
and layer: 2 T C operations of a causal row of T, at half the speed. Measured: a row of 468 tokens with C = 576 costs
10 % more for each token than one of 62, and by this 12 %."""

ALL, NOBODY = -2, -1
"""In the place of an example's number: what all examples of a row begin with, and what fills it up."""


class Rows(NamedTuple):
    """What `Decoder.loss` is given: ids, targets (B, T); if rows are packed, positions (B, T) and a mask (B, 1, T, T).

    Targets are the ids that follow, where these are to be learned, else IGNORE.
    """

    ids: Array
    targets: Array
    positions: Array | None = None
    mask: Array | None = None

    @property
    def counted(self) -> int:
        """The targets over which the loss is a sum."""
        return int((self.targets != IGNORE).sum())


def shifted(ids: Array, learned: Array) -> tuple[Array, Array]:
    """Inputs and targets (n - 1,) of a sequence (n,): at each place the id that follows if it is `learned` (n,)."""
    return ids[:-1], np.where(learned[1:], ids[1:], IGNORE)


def padded_rows(inputs: Sequence[Array], targets: Sequence[Array]) -> Rows:
    """Each sequence in a row of its own. What fills it up comes after it, where nothing of it sees it."""
    return Rows(padded(inputs)[0], padded(targets, IGNORE)[0])


def packed_rows(
    inputs: Sequence[Array], targets: Sequence[Array], most: int, channels: int, sharing: bool = False
) -> Rows:
    """Sequences packed into rows of at most `most` tokens, of which none may be longer, for a model of so many
    channels; with `sharing`, those of a row have what all begin with in common. `padded_rows` if packing saves
    nothing."""
    shared = common_beginning(inputs, targets) if sharing else 0
    bins = best_fit([len(sequence) - shared for sequence in inputs], most - shared, channels, shared)
    if len(bins) == len(inputs):
        return padded_rows(inputs, targets)
    ids, wanted, positions, owners = (
        padded(
            [np.concatenate([parts[places[0]][:shared], *(parts[p][shared:] for p in places)]) for places in bins],
            filling,
        )[0]
        for parts, filling in (
            (inputs, 0),
            (targets, IGNORE),
            ([np.arange(len(sequence)) for sequence in inputs], 0),
            (
                [np.where(np.arange(len(sequence)) < shared, ALL, place) for place, sequence in enumerate(inputs)],
                NOBODY,
            ),
        )
    )
    seen = (owners[:, :, None] == owners[:, None, :]) | (owners == ALL)[:, None, :]
    return Rows(ids, wanted, positions, seen[:, None])


def common_beginning(inputs: Sequence[Array], targets: Sequence[Array]) -> int:
    """How many tokens all sequences begin with, of those that predict nothing and are not the last."""
    shortest = min(map(len, inputs)) - 1
    same = np.array([sequence[:shortest] == inputs[0][:shortest] for sequence in inputs])
    silent = np.array([sequence[:shortest] == IGNORE for sequence in targets])
    return int(np.cumprod((same & silent).all(axis=0)).sum())


def best_fit(lengths: Sequence[int], most: int, channels: int, shared: int = 0) -> list[list[int]]:
    """`first_fit` with the width up to `most` for which the rows, filled up to the longest, cost least: each place one,
    and attention as much again in a row of ``AS_MUCH * channels``. Each sequence for itself if that costs less. Before
    the sequences of a row come `shared` tokens more."""
    longest, total = max(lengths), sum(lengths)
    fewest = max(1, -(-total // most))
    widths = {max(longest, -(-total // rows)) for rows in range(fewest, fewest + TRIED)} | {longest, max(longest, most)}
    tried = [first_fit(lengths, width) for width in sorted(widths)]

    def cost(bins: list[list[int]]) -> float:
        width = shared + max(sum(lengths[place] for place in some) for some in bins)
        return len(bins) * width * (1 + width / (AS_MUCH * channels))

    return min([[[place] for place in range(len(lengths))], *tried], key=cost)


def first_fit(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Places of `lengths` in rows of at most `width`: the longest first, each into the first row that has room.

    At most 11/9 of the fewest rows possible, and one more (Johnson 1973). ValueError for one that is too long.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        length = lengths[place]
        if length > width:
            raise ValueError(f"packing: a sequence of {length:,} tokens does not fit into a row of {width:,}")
        row = next((number for number, left in enumerate(room) if left >= length), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(width)
        rows[row].append(place)
        room[row] -= length
    return rows
