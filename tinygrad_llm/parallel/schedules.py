"""Pipeline schedules as data: for each rank, the list of what it computes, in order.

The layers of a model are cut into stages; stage s lives on rank ``s mod p``, so that with v chunks on each of p ranks
there are p v stages. Each of m microbatches goes forward through all stages and then backward through all of them. A
schedule says in which order a rank does its part, and nothing else: what waits for what follows from the model, and
`simulation` works out the times, the idle ones and the memory.

An operation is written as PyTorch writes it: ``2F0`` is the forward pass of microbatch 0 through stage 2. The kinds:

    F           forward
    B           backward, as a whole
    I, W        backward in two parts: the gradient of the stage's input, and of its weights
    SEND_F, RECV_F    an activation leaves for the next stage, or arrives from the one before
    SEND_B, RECV_B    a gradient leaves for the stage before, or arrives from the next one
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

COMPUTED = ("F", "B", "I", "W")
SENT, RECEIVED = ("SEND_F", "SEND_B"), ("RECV_F", "RECV_B")
KINDS = (*COMPUTED, *SENT, *RECEIVED)
WRITTEN = re.compile(rf"(\d+)({'|'.join(KINDS)})(\d+)")


class Op(NamedTuple):
    """One entry of a schedule."""

    kind: str
    stage: int
    microbatch: int

    def __str__(self) -> str:
        return f"{self.stage}{self.kind}{self.microbatch}"

    @classmethod
    def parse(cls, text: str) -> Op:
        """Back from its text, as ``2F0``. ValueError for anything else."""
        found = WRITTEN.fullmatch(text)
        if found is None:
            raise ValueError(
                f"{text!r} is no operation of a schedule; those are stage, kind and microbatch, as in 2F0, "
                f"with the kinds {', '.join(KINDS)}"
            )
        return cls(found[2], int(found[1]), int(found[3]))


Orders = Mapping[int, Sequence[Op]]
"""What each rank does, in order."""


def gpipe(ranks: int, microbatches: int) -> dict[int, list[Op]]:
    """All forward passes, then all backward passes, in the same order. Every activation is held until the end.

    Source: Huang et al. 2018, "GPipe", arXiv:1811.06965. There the backward passes come in the reverse order; the
    times are the same, and in this order gradients add up as in one process.
    """
    order = range(microbatches)
    return {r: [*(Op("F", r, i) for i in order), *(Op("B", r, i) for i in order)] for r in range(ranks)}


def one_forward_one_backward(ranks: int, microbatches: int) -> dict[int, list[Op]]:
    """1F1B: rank r begins with ``p - 1 - r`` forward passes, then one forward and one backward pass alternate.

    So no more than ``p - r`` microbatches are held at once. Source: Narayanan et al. 2021, "Efficient Large-Scale
    Language Model Training on GPU Clusters", arXiv:2104.04473, section 2.2.
    """

    def order(rank: int) -> list[Op]:
        ahead = min(ranks - 1 - rank, microbatches)
        ops = [Op("F", rank, i) for i in range(ahead)]
        for i in range(microbatches):
            if ahead + i < microbatches:
                ops.append(Op("F", rank, ahead + i))
            ops.append(Op("B", rank, i))
        return ops

    return {rank: order(rank) for rank in range(ranks)}


def interleaved(ranks: int, microbatches: int, chunks: int) -> dict[int, list[Op]]:
    """1F1B where each rank has v chunks of the model, of p v: the idle time falls by v, messages rise by v.

    Microbatches go in groups of p through one chunk after the other; rank r begins with ``2 (p - 1 - r) + (v - 1) p``
    forward passes. Source: Narayanan et al. 2021, arXiv:2104.04473, section 2.2. ValueError unless the microbatches
    are a multiple of the ranks.
    """
    if microbatches % ranks:
        raise ValueError(
            f"interleaved: {microbatches} microbatches are not a multiple of {ranks} stages, "
            "in whose groups they go through the chunks"
        )
    count = microbatches * chunks

    def step(kind: str, rank: int, number: int) -> Op:
        """The `number`-th pass of a rank: groups of p microbatches, each through all chunks."""
        group, within = divmod(number, ranks * chunks)
        chunk, member = divmod(within, ranks)
        chunk = chunk if kind == "F" else chunks - 1 - chunk
        return Op(kind, chunk * ranks + rank, group * ranks + member)

    def order(rank: int) -> list[Op]:
        ahead = min(2 * (ranks - 1 - rank) + (chunks - 1) * ranks, count)
        ops = [step("F", rank, k) for k in range(ahead)]
        for k in range(count):
            if ahead + k < count:
                ops.append(step("F", rank, ahead + k))
            ops.append(step("B", rank, k))
        return ops

    return {rank: order(rank) for rank in range(ranks)}


def zero_bubble(ranks: int, microbatches: int) -> dict[int, list[Op]]:
    """ZB-H1: 1F1B with the backward pass in two parts; the weights' part, which nobody waits for, fills idle time.

    Rank r puts its W off by r microbatches, so that every rank holds what p microbatches need, which is what 1F1B has
    on its first rank. In the end, I and W alternate. Source: Qi et al. 2023, "Zero Bubble Pipeline Parallelism",
    arXiv:2401.10241, section 2.
    """

    def order(rank: int) -> list[Op]:
        ahead = min(ranks - 1 - rank, microbatches)
        ops = [Op("F", rank, i) for i in range(ahead)]
        for i in range(microbatches):
            if ahead + i < microbatches:
                ops.append(Op("F", rank, ahead + i))
            ops.append(Op("I", rank, i))
            if i >= rank:
                ops.append(Op("W", rank, i - rank))
        return ops + [Op("W", rank, i) for i in range(max(0, microbatches - rank), microbatches)]

    return {rank: order(rank) for rank in range(ranks)}


SCHEDULES: dict[str, Callable[[int, int, int], dict[int, list[Op]]]] = {
    "gpipe": lambda p, m, _: gpipe(p, m),
    "1f1b": lambda p, m, _: one_forward_one_backward(p, m),
    "interleaved": interleaved,
    "zb-h1": lambda p, m, _: zero_bubble(p, m),
}
"""By name, of ranks, microbatches, and chunks on each rank."""


def schedule(name: str, ranks: int, microbatches: int, chunks: int = 1) -> dict[int, list[Op]]:
    """The schedule of a name for p ranks, m microbatches and v chunks on each rank. ValueError says what is wrong."""
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}; known are {', '.join(SCHEDULES)}")
    for what, value in (("stages", ranks), ("microbatches", microbatches), ("chunks", chunks)):
        if value < 1:
            raise ValueError(f"{name}: {what}={value} must be at least 1")
    if chunks > 1 and name != "interleaved":
        raise ValueError(f"{name}: {chunks} chunks on a rank; only interleaved has more than one")
    return SCHEDULES[name](ranks, microbatches, chunks)


def rank_of(stage: int, ranks: int) -> int:
    """Where a stage lives."""
    return stage % ranks


def stage_count(orders: Orders) -> int:
    """Stages of a schedule: one more than the last that is named."""
    return 1 + max((op.stage for ops in orders.values() for op in ops), default=-1)


def with_comms(orders: Orders, ahead: int = 1) -> dict[int, list[Op]]:
    """The same with messages: sends follow what made them, receives are posted `ahead` computations before their use.

    Both are meant not to block: a receive says where the message may be put, and the computation that needs it waits.
    Stages that live on one rank send each other nothing.
    """
    ranks, last = len(orders), stage_count(orders) - 1

    def receive(op: Op) -> Op | None:
        if op.kind == "F" and op.stage > 0 and ranks > 1:
            return Op("RECV_F", op.stage, op.microbatch)
        if op.kind in ("B", "I") and op.stage < last and ranks > 1:
            return Op("RECV_B", op.stage, op.microbatch)
        return None

    def send(op: Op) -> Op | None:
        if op.kind == "F" and op.stage < last and ranks > 1:
            return Op("SEND_F", op.stage, op.microbatch)
        if op.kind in ("B", "I") and op.stage > 0 and ranks > 1:
            return Op("SEND_B", op.stage, op.microbatch)
        return None

    def order(ops: Sequence[Op]) -> list[Op]:
        posted: dict[int, list[Op]] = {}
        for place, op in enumerate(ops):
            if (found := receive(op)) is not None:
                posted.setdefault(max(0, place - ahead), []).append(found)
        made: list[Op] = []
        for place, op in enumerate(ops):
            made += [*posted.get(place, ()), op]
            if (found := send(op)) is not None:
                made.append(found)
        return made

    return {rank: order(ops) for rank, ops in orders.items()}


def peer(op: Op) -> Op:
    """The other end of a message: the receive of a send, the send of a receive."""
    way, what = op.kind.split("_")
    other = {"SEND": "RECV", "RECV": "SEND"}[way]
    forward = (way == "SEND") == (what == "F")
    return Op(f"{other}_{what}", op.stage + (1 if forward else -1), op.microbatch)


def tag(op: Op, stages: int) -> int:
    """A number that tells a message from all others of the step; the same at both of its ends."""
    receiver = op if op.kind in RECEIVED else peer(op)
    return 2 * (receiver.microbatch * stages + receiver.stage) + (receiver.kind == "RECV_B")


def to_text(orders: Orders) -> str:
    """A line for each rank: its operations with spaces between."""
    return "\n".join(" ".join(map(str, orders[rank])) for rank in sorted(orders))


def from_text(text: str) -> dict[int, list[Op]]:
    """Back from `to_text`. ValueError names what is no operation."""
    return {rank: [Op.parse(word) for word in line.split()] for rank, line in enumerate(text.splitlines())}
