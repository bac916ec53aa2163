"""How long a step takes: computation, communication that is not hidden behind it, and idle time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from tinygrad_llm.parallel.plan_ledger import rank_traffic
from tinygrad_llm.parallel.plan_memory import rank_parameters
from tinygrad_llm.parallel.plan_models import ModelSizes
from tinygrad_llm.parallel.plan_setup import Machine, Setup, rank_layers
from tinygrad_llm.parallel.plan_traffic import BEFORE_BACKWARD, Traffic
from tinygrad_llm.parallel.simulation import closed_bubble

ASSUMED = (
    "every rank is as slow as the slowest; tp communication is not hidden, but for inputs that sequence parallelism "
    "gathers again for backward; pp is, where the schedule lets a rank compute meanwhile; gradients hide behind "
    "backward passes (ZeRO 0 and 1: those of the last microbatch), ZeRO 3's gathers behind both; the gather after the "
    "update is not hidden"
)
"""What the step time takes for granted."""
UPDATE_BYTES = 28
"""Read and written for each parameter by AdamW: its value, gradient and two moments, in float32, and three of them
again; with mixed precision 2 + 12 read, and 12 + 2 written."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step, by part; together they are the step."""

    products: float
    """Matrix products, those that are done again included."""
    tp: float
    bubble: float
    pp: float
    dp: float
    update: float

    @property
    def total(self) -> float:
        return self.products + self.tp + self.bubble + self.pp + self.dp + self.update


def passes(model: ModelSizes, setup: Setup, machine: Machine, pp: int) -> dict[str, float]:
    """Seconds of F, I and W of a microbatch on a rank: matrix products alone.

    A product ``x W`` costs as much forward as for the gradient of x (I) and for that of W (W); attention has no
    weights, so both of its gradients are in I, and so is what is worked out again.
    """
    products, attention = model.layer_operations(setup.tokens, setup.time)
    layers, rate = rank_layers(model, setup, pp), machine.flops * setup.tp
    again = {"none": 0.0, "selective": attention, "full": products + attention}[setup.recomputed]
    head = model.head_operations(setup.tokens) if pp == setup.pp - 1 else 0.0
    return {
        "F": (layers * (products + attention) + head) / rate,
        "I": (layers * (products + 2 * attention + again) + head) / rate,
        "W": (layers * products + head) / rate,
    }


def seconds(parts: Sequence[Traffic], machine: Machine) -> float:
    """Of calls one after the other: ``latency x messages + bytes / rate``."""
    return sum(t.count * machine.send_seconds(t.axis, t.messages, t.each) for t in parts)


def bubble(setup: Setup, durations: dict[str, float]) -> float:
    """Idle time over the time of the passes (see `simulation.closed_bubble`)."""
    exact = {kind: Fraction(time) for kind, time in durations.items()}
    return float(closed_bubble(setup.schedule, setup.pp, setup.microbatches, setup.chunks, exact))


def exposed_transfer(setup: Setup, hop: float, weights: float) -> float:
    """Seconds by which messages between stages make a step longer, each of them taking ``hop``.

    GPipe sends ``2 (p - 1)`` that nothing hides, while the pipeline fills and drains. In 1F1B, each rank waits for its
    neighbour at every turn, but one in p: ``2 s`` more, with ``s = floor((m - 1) (p - 1) / p)``. ZB-H1 has W to do
    meanwhile, `weights` seconds, for all but the first p - 1 of these s. Interleaved, microbatches come in groups of p,
    of which others are computed meanwhile: ``2 (p v - 1)``, as long as a message takes no longer than a chunk's forward
    pass. All equal what the simulator finds (see `simulation.simulate`).
    """
    p, m = setup.pp, setup.microbatches
    if setup.chunks > 1:
        return 2 * (p * setup.chunks - 1) * hop if p > 1 else 0.0
    turns = {"gpipe": 0}.get(setup.schedule, (m - 1) * (p - 1) // p)
    waits = min(turns, p - 1) if setup.schedule == "zb-h1" else turns
    return 2 * (p - 1 + waits) * hop + (turns - waits) * max(0.0, 2 * hop - weights)


def step_time(model: ModelSizes, setup: Setup, machine: Machine) -> StepTime:
    """The time of a step, under `ASSUMED`: ``m (F + I + W) (1 + bubble)``, and what is not hidden."""
    places = range(setup.pp)
    m = setup.microbatches
    work = {kind: max(passes(model, setup, machine, pp)[kind] for pp in (0, setup.pp - 1)) for kind in "FIW"}
    sent = {axis: [_along(axis, model, setup, pp) for pp in places] for axis in ("dp", "pp", "tp")}
    waited = [[part for part in parts if part.what != BEFORE_BACKWARD] for parts in sent["tp"]]
    sending = max(seconds(parts, machine) for parts in waited) / m
    forward = sending * (2 / 6 if setup.recomputed == "full" else 1 / 2)
    durations = {"F": work["F"] + forward, "I": work["I"] + sending - forward, "W": work["W"]}
    hop = max((machine.send_seconds("pp", 1, t.each) for t in sent["pp"][0] if t.what == "activations"), default=0.0)
    return StepTime(
        m * sum(work.values()),
        m * sending,
        bubble(setup, durations) * m * sum(durations.values()),
        exposed_transfer(setup, hop, durations["W"]) + _exposed_table(sent["pp"], machine, sum(durations.values())),
        max(_exposed(model, setup, machine, pp, sent["dp"][pp], durations) for pp in places),
        _update(model, setup, machine),
    )


def _along(axis: str, model: ModelSizes, setup: Setup, pp: int) -> list[Traffic]:
    return [part for part in rank_traffic(model, setup, pp) if part.axis == axis]


def _exposed_table(places: Sequence[Sequence[Traffic]], machine: Machine, passes: float) -> float:
    """Making the two copies of a tied embedding agree. Of several messages all but the last hide behind passes."""
    total = 0.0
    parts = {part.what: part for place in (places[0], places[-1]) for part in place}
    for what, part in parts.items():
        if what not in ("activations", "their gradients"):
            each = machine.send_seconds("pp", part.messages, part.each)
            total += each + (part.count - 1) * max(0.0, each - passes)
    return total


def _exposed(
    model: ModelSizes,
    setup: Setup,
    machine: Machine,
    pp: int,
    parts: Sequence[Traffic],
    durations: dict[str, float],
) -> float:
    """Data-parallel communication that no computation hides."""
    m, backward = setup.microbatches, durations["I"] + durations["W"]
    gathers = seconds([part for part in parts if part.operation == "all_gather"], machine)
    times = m if setup.zero >= 2 else 1
    each = (seconds(parts, machine) - gathers) / times
    last = each / max(1, rank_layers(model, setup, pp))  # when it is there, nothing is left to hide behind
    total = times * max(each - backward, last)
    if setup.zero < 3:
        return total + gathers
    half = gathers / (2 * m)
    return total + m * (max(0.0, half - durations["F"]) + max(0.0, half - backward))


def _update(model: ModelSizes, setup: Setup, machine: Machine) -> float:
    if not machine.bandwidth:
        return 0.0
    count = max(rank_parameters(model, setup, pp) for pp in range(setup.pp))
    return UPDATE_BYTES * count / (setup.dp if setup.zero else 1) / machine.bandwidth


def training_days(tokens: float, parameters: float, ranks: int, flops: float, recompute: bool = True) -> float:
    """``8 T P / (n X)`` in days: T tokens, P parameters, n ranks of X floating-point operations in a second.

    2 forward, 4 backward and 2 for full recomputation, without which it is 6. Source: Narayanan et al. 2021,
    arXiv:2104.04473, section 5.1: 34 days for 175 billion parameters and 300 billion tokens on 1024 GPUs at 140e12,
    84 for 1 trillion parameters and 450 billion tokens on 3072 at 163e12.
    """
    return (8 if recompute else 6) * tokens * parameters / (ranks * flops) / 86400
