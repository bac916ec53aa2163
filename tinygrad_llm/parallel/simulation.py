"""What a pipeline schedule takes: its times, its idle time, and the microbatches that are held at once.

Times are exact fractions, so that they can be compared with closed forms, which stand at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

from tinygrad_llm.parallel.schedules import COMPUTED, SENT, Op, Orders, rank_of, stage_count, with_comms

Durations = Mapping[str, int | float | Fraction]
"""What F, I and W of a microbatch take on a rank, all its chunks together; B takes what I and W take."""
UNIT: Durations = {"F": 1, "I": 1, "W": 1}
"""Forward takes as long as each half of backward, since the matrix products of each are of the same size."""


class Span(NamedTuple):
    """An operation, and when a rank does it."""

    rank: int
    op: Op
    start: Fraction
    end: Fraction


@dataclass(frozen=True)
class Timeline:
    """A schedule with times, simulated or measured."""

    spans: tuple[Span, ...]
    """Of each rank in the order in which it did them."""
    ranks: int

    @cached_property
    def begin(self) -> Fraction:
        """The first start."""
        return min(span.start for span in self.spans)

    @cached_property
    def total(self) -> Fraction:
        """Time from the first start to the last end."""
        return max(span.end for span in self.spans) - self.begin

    @cached_property
    def busy(self) -> dict[int, Fraction]:
        """Time in which each rank computes."""
        sums = dict.fromkeys(range(self.ranks), Fraction(0))
        for span in self.spans:
            if span.op.kind in COMPUTED:
                sums[span.rank] += span.end - span.start
        return sums

    @property
    def bubble(self) -> Fraction:
        """Idle time over ideal time, which is what the busiest rank computes: ``(total - ideal) / ideal``."""
        ideal = max(self.busy.values())
        return (self.total - ideal) / ideal if ideal else Fraction(0)

    @property
    def idle_share(self) -> Fraction:
        """Idle time over all time, of all ranks together."""
        return 1 - sum(self.busy.values()) / (self.ranks * self.total) if self.total else Fraction(0)

    @property
    def peaks(self) -> dict[int, int]:
        """For each rank, the most activations it holds at once, those of a microbatch in one chunk counted as one.

        They are held from the forward pass until the end of the backward pass, both of its parts.
        """
        held, most = dict.fromkeys(range(self.ranks), 0), dict.fromkeys(range(self.ranks), 0)
        for span in self.spans:
            held[span.rank] += {"F": 1, "B": -1, "W": -1}.get(span.op.kind, 0)
            most[span.rank] = max(most[span.rank], held[span.rank])
        return most


def sent(orders: Orders) -> dict[int, int]:
    """How many messages each rank sends in a step."""
    computed = {rank: [op for op in ops if op.kind in COMPUTED] for rank, ops in orders.items()}
    return {rank: sum(op.kind in SENT for op in ops) for rank, ops in with_comms(computed).items()}


def simulate(orders: Orders, durations: Durations = UNIT, transfer: int | float | Fraction = 0) -> Timeline:
    """When each rank does what: each operation as soon as those before it in the list and those it waits for are done.

    A chunk's share of F, I and W is one v-th. A message arrives `transfer` after it was sent; sending and posting a
    receive take no time. ValueError, as for `validate`, and if all ranks wait for each other: it names the operation at
    which each of them stands, and what it waits for.
    """
    stages = stage_count(orders)
    ranks, chunks = len(orders), max(1, stages // max(1, len(orders)))
    validate(orders, stages, 1 + max((op.microbatch for ops in orders.values() for op in ops), default=-1))
    takes = {kind: Fraction(durations[kind]) / chunks for kind in ("F", "I", "W")}
    takes["B"] = takes["I"] + takes["W"]
    needs, far, none = _Needs(orders), Fraction(transfer), Fraction(0)
    ends: dict[Op, Fraction] = {}
    spans: dict[int, list[Span]] = {rank: [] for rank in orders}

    def advance(rank: int) -> bool:
        """Do the next operation of a rank, if it need not wait."""
        op = _head(orders, spans, rank)
        if op is None:
            return False
        start = spans[rank][-1].end if spans[rank] else none
        for need in needs(op):
            if need not in ends:
                return False
            start = max(start, ends[need] + far if rank_of(need.stage, ranks) != rank else ends[need])
        ends[op] = start + takes.get(op.kind, none)
        spans[rank].append(Span(rank, op, start, ends[op]))
        return True

    moving = True
    while moving:
        moving = False
        for rank in orders:
            while advance(rank):
                moving = True
    if any(_head(orders, spans, rank) for rank in orders):
        stands = "; ".join(_stand(orders, spans, rank, needs, ends) for rank in orders)
        raise ValueError(f"the schedule stands still: {stands}")
    return Timeline(tuple(span for rank in sorted(spans) for span in spans[rank]), ranks)


def _head(orders: Orders, spans: Mapping[int, list[Span]], rank: int) -> Op | None:
    """The next operation of a rank."""
    done = len(spans[rank])
    return orders[rank][done] if done < len(orders[rank]) else None


def _stand(orders: Orders, spans: Mapping[int, list[Span]], rank: int, needs: _Needs, ends: Mapping[Op, object]) -> str:
    """Where a rank stands, for an error."""
    op = _head(orders, spans, rank)
    if op is None:
        return f"rank {rank} is done"
    missing = [need for need in needs(op) if need not in ends]
    said = " and ".join(f"{need} of rank {rank_of(need.stage, len(orders))}" for need in missing)
    return f"rank {rank} at {op} waits for {said}"


class _Needs:
    """What an operation waits for, beside those before it in its rank's list."""

    def __init__(self, orders: Orders) -> None:
        self.ops = {op for ops in orders.values() for op in ops}
        self.messages = any(op.kind in SENT for op in self.ops)
        self.stages, self.ranks = stage_count(orders), len(orders)

    def __call__(self, op: Op) -> Iterator[Op]:
        kind, stage, i = op
        if kind == "F" and stage > 0:
            yield from self._from("F", stage - 1, op)
        elif kind in ("B", "I"):
            yield Op("F", stage, i)
            if stage < self.stages - 1:
                yield from self._from("B", stage + 1, op)
        elif kind == "W":
            yield Op("I", stage, i)
        elif kind == "SEND_F":
            yield Op("F", stage, i)
        elif kind == "SEND_B":
            yield self._backward(stage, i)

    def _from(self, what: str, source: int, op: Op) -> Iterator[Op]:
        """The message with an activation or a gradient, or whatever made it where messages are left out."""
        if self.messages and self.ranks > 1:
            yield Op(f"RECV_{what}", op.stage, op.microbatch)
            yield Op(f"SEND_{what}", source, op.microbatch)
        else:
            yield Op("F", source, op.microbatch) if what == "F" else self._backward(source, op.microbatch)

    def _backward(self, stage: int, microbatch: int) -> Op:
        whole = Op("B", stage, microbatch)
        return whole if whole in self.ops else Op("I", stage, microbatch)


def validate(orders: Orders, stages: int, microbatches: int) -> None:
    """ValueError if an operation is missing, there twice, or on another rank than its stage.

    Each stage has F of each microbatch, and either B or both of I and W. Where there are messages, there are all.
    """
    ranks = len(orders)
    if sorted(orders) != list(range(ranks)) or not ranks or stages % ranks:
        raise ValueError(f"a schedule of {stages} stages for ranks {sorted(orders)}: each of 0, 1, 2 ... has as many")
    for rank, ops in orders.items():
        for op, count in Counter(ops).items():
            if rank_of(op.stage, ranks) != rank:
                raise ValueError(f"rank {rank} has {op}, but stage {op.stage} lives on rank {rank_of(op.stage, ranks)}")
            if count > 1:
                raise ValueError(f"rank {rank} has {op} {count} times")
    found = {op for ops in orders.values() for op in ops}
    if any(op.kind not in COMPUTED for op in found):
        computed = {rank: [op for op in ops if op.kind in COMPUTED] for rank, ops in orders.items()}
        expected = {op for ops in with_comms(computed).values() for op in ops}
    else:
        expected = set(found)
    for stage in range(stages):
        for i in range(microbatches):
            halves = {Op("I", stage, i), Op("W", stage, i)}
            expected |= {Op("F", stage, i)} | (halves if halves & found else {Op("B", stage, i)})
            if halves & found and Op("B", stage, i) in found:
                raise ValueError(f"rank {rank_of(stage, ranks)} has {Op('B', stage, i)} as a whole and in its parts")
    wrong = sorted(expected ^ found)
    if wrong:
        what = "lacks" if wrong[0] in expected else "has too much:"
        raise ValueError(f"rank {rank_of(wrong[0].stage, ranks)} {what} {wrong[0]}" + _more(len(wrong) - 1))


def _more(count: int) -> str:
    return f" (and {count} more)" if count else ""


def closed_bubble(name: str, ranks: int, microbatches: int, chunks: int = 1, durations: Durations = UNIT) -> Fraction:
    """Idle time over ideal time of p ranks, m microbatches and v chunks, by formula.

    GPipe and 1F1B ``(p - 1) / m``; interleaved ``(p - 1) / (v m)`` (Narayanan et al. 2021, section 2.2); ZB-H1
    ``((p - 1) (F + I - W) + max(0, p - m) W) / (m (F + I + W))`` (Qi et al. 2023, table 2, which has m >= p; the second
    term was found with the simulator). ValueError for ZB-H1 with W longer than F, for which no formula is known here.
    """
    p, m = ranks, microbatches
    if name != "zb-h1":
        return Fraction(p - 1, m * chunks)
    f, i, w = (Fraction(durations[kind]) for kind in ("F", "I", "W"))
    if w > f:
        raise ValueError(f"zb-h1: no formula for W={w} longer than F={f}; simulate it")
    return ((p - 1) * (f + i - w) + max(0, p - m) * w) / (m * (f + i + w))


def closed_peak(name: str, rank: int, ranks: int, microbatches: int, chunks: int = 1) -> int:
    """The most activations that a rank r holds at once, those of a microbatch in one chunk counted as one, by formula.

    GPipe m; 1F1B ``p - r``; ZB-H1 p; interleaved ``(v - 1) p + 2 (p - 1 - r) + 1``, which on the first rank is
    ``v p (1 + (p - 1) / (p v))`` chunks (Korthikanti et al. 2022, arXiv:2205.05198, section 4.2.3); never more than
    there are.
    """
    p, r = ranks, rank
    most = {"gpipe": microbatches, "1f1b": p - r, "zb-h1": p, "interleaved": (chunks - 1) * p + 2 * (p - 1 - r) + 1}
    return min(most[name], microbatches * chunks)
