"""Operations of all ranks, made of messages between two of them.

Each is a generator: it begins some messages, yields them, and goes on when they have arrived. So any number of them can
be under way at once, and the tags of their messages keep them apart.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np

from tinygrad_llm.optim.pairwise import PairwiseSum
from tinygrad_llm.parallel.ledger import Entry
from tinygrad_llm.parallel.waiting import Request, Stages
from tinygrad_llm.tape import Array

COLLECTIVE, DIRECT = 0, 1
"""Messages of an operation of all ranks, and those from one rank to another, never meet."""

Message = tuple[int, Array]
"""To or from which rank, and what."""


class Transport(Protocol):
    """Carries bytes between the ranks of a group."""

    rank: int
    ranks: Sequence[int]
    """The numbers in the world of the ranks of this group."""

    def send(self, array: Array, to: int, tag: int, channel: int) -> Request:
        """Begin to send; the array must stay as it is until the request is done."""

    def receive(self, array: Array, source: int, tag: int, channel: int) -> Request:
        """Begin to receive into an array of exactly the size that is sent."""

    def among(self, members: Sequence[int]) -> Transport:
        """A group of some of these ranks, this one among them. All call it at once, each with its own group."""


class Exchange:
    """The messages of one operation: they have a tag of their own, and those of two stages arrive in this order."""

    def __init__(self, transport: Transport, tag: int, entry: Entry) -> None:
        self._transport, self._entry, self._tag = transport, entry, tag
        self.rank, self.size = transport.rank, len(transport.ranks)
        self.others = [(self.rank + distance) % self.size for distance in range(1, self.size)]
        """The ranks to send to, each rank beginning with another one."""

    def begin(self, sends: Iterable[Message], receives: Iterable[Message]) -> list[Request]:
        """The next stage."""
        requests = [self._transport.receive(into, source, self._tag, COLLECTIVE) for source, into in receives]
        for to, array in sends:
            requests.append(self._transport.send(array, to, self._tag, COLLECTIVE))
            self._entry.bytes += array.nbytes
        return requests


def chunk_bounds(length: int, ranks: int) -> list[slice]:
    """`length` rows cut into a chunk for each rank; the first ones have one row more where they cannot be equal."""
    least, longer = divmod(length, ranks)
    edges = [least * rank + min(rank, longer) for rank in range(ranks + 1)]
    return [slice(low, high) for low, high in itertools.pairwise(edges)]


def ordered_sum(rows: Sequence[Array]) -> Array:
    """The sum of arrays, added up two and two by their numbers; they are written to."""
    sums = PairwiseSum()
    for row in rows:
        sums.add([row])
    (total,) = sums.finish()
    assert total is not None
    return total


def largest(rows: Sequence[Array]) -> Array:
    """The largest of each element; NaN if there is one."""
    return functools.reduce(np.maximum, rows)


Combine = Callable[[Sequence[Array]], Array]


def reduce_chunks(x: Exchange, array: Array, combine: Combine) -> Stages:
    """All to all: this rank's chunk of every array, combined in the order of the ranks."""
    if x.size == 1:
        return array
    bounds = chunk_bounds(len(array), x.size)
    rows = [np.empty_like(array[bounds[x.rank]]) for _ in range(x.size)]
    rows[x.rank][...] = array[bounds[x.rank]]
    yield x.begin([(r, array[bounds[r]]) for r in x.others], [(r, rows[r]) for r in x.others])
    return combine(rows)


def gather_chunks(x: Exchange, chunk: Array, bounds: Sequence[slice]) -> Stages:
    """The chunks of all ranks, each in its place."""
    if x.size == 1:
        return chunk
    whole = np.empty((bounds[-1].stop, *chunk.shape[1:]), chunk.dtype)
    whole[bounds[x.rank]] = chunk
    yield x.begin([(r, chunk) for r in x.others], [(r, whole[bounds[r]]) for r in x.others])
    return whole


def gather_rows(x: Exchange, row: Array) -> Stages:
    """Equal arrays of all ranks, one after the other."""
    return (yield from gather_chunks(x, row, chunk_bounds(x.size * len(row), x.size)))


def all_reduce(x: Exchange, array: Array, combine: Combine) -> Stages:
    """Each rank combines its chunk, and sends it to all."""
    if x.size == 1:
        return array
    flat = array.reshape(-1)
    chunk = yield from reduce_chunks(x, flat, combine)
    whole = yield from gather_chunks(x, chunk, chunk_bounds(flat.size, x.size))
    return whole.reshape(array.shape)


def all_to_all(x: Exchange, array: Array) -> Stages:
    """Chunk s goes to rank s; all arrays have as many rows, and so what comes in are equal chunks."""
    if x.size == 1:
        return array
    bounds = chunk_bounds(len(array), x.size)
    rows = np.empty((x.size, *array[bounds[x.rank]].shape), array.dtype)
    rows[x.rank] = array[bounds[x.rank]]
    yield x.begin([(r, array[bounds[r]]) for r in x.others], [(r, rows[r]) for r in x.others])
    return rows.reshape(rows.shape[0] * rows.shape[1], *array.shape[1:])


def broadcast(x: Exchange, array: Array, root: int) -> Stages:
    """The root sends its own chunk to all, and to each other rank that one's, which then sends it to the rest."""
    if x.size == 1:
        return array
    flat = array.reshape(-1)
    bounds = chunk_bounds(flat.size, x.size)
    if x.rank == root:
        yield x.begin([(r, flat[bounds[r]]) for r in x.others], [])
        yield x.begin([(r, flat[bounds[root]]) for r in x.others], [])
        return array
    whole = np.empty_like(flat)
    yield x.begin([], [(root, whole[bounds[x.rank]])])
    sends = [(r, whole[bounds[x.rank]]) for r in x.others if r != root]
    yield x.begin(sends, [(r, whole[bounds[r]]) for r in x.others])
    return whole.reshape(array.shape)


def gather_texts(x: Exchange, text: bytes) -> Stages:
    """The texts of all ranks, of any lengths: these first."""
    lengths = yield from gather_rows(x, np.array([len(text)]))
    ends = np.cumsum(lengths)
    bounds = [slice(int(end - length), int(end)) for end, length in zip(ends, lengths, strict=True)]
    whole = yield from gather_chunks(x, np.frombuffer(text, np.uint8), bounds)
    return [bytes(whole[b]) for b in bounds]
