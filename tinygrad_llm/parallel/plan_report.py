"""A plan as text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from tinygrad_llm.parallel.plan import Plan, advice
from tinygrad_llm.parallel.plan_memory import KINDS, RankMemory
from tinygrad_llm.parallel.plan_time import ASSUMED

SHOWN = 8
"""Places of a pipeline that are shown; of a longer one the first two, the fullest and the last."""


def amount(number: float, unit: str = "") -> str:
    """Three digits and a prefix, as 31.4 GB: powers of 1000."""
    prefixes = ["", "k", "M", "G", "T", "P", "E"]
    while abs(number) >= 999.5 and len(prefixes) > 1:
        number /= 1000
        prefixes.pop(0)
    text = f"{number:.3g}" if number else "0"
    return f"{text} {prefixes[0]}{unit}".rstrip()


def count(number: float) -> str:
    """As 174.6 billion."""
    for size, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if number >= 0.9995 * size:
            return f"{number / size:.4g} {name}"
    return f"{number:,.0f}"


def duration(seconds: float) -> str:
    """As 37.4 s, 28.3 ms."""
    for size, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= 0.9995 * size:
            return f"{seconds / size:.3g} {name}"
    return f"{seconds / 1e-6:.3g} µs" if seconds else "0"


def lines(plan: Plan, tokens: float = 0.0) -> Iterator[str]:
    """What is printed: model, mesh, memory, bytes, time, and what to do."""
    yield from _heading(plan)
    yield ""
    yield from _memory(plan)
    yield ""
    yield from _traffic(plan)
    yield ""
    yield from _time(plan, tokens)
    yield ""
    room = f"{amount(plan.fullest.total, 'B')} of {amount(plan.machine.memory, 'B')}"
    yield f"memory      {room} on the fullest rank: {advice(plan)}"


def _heading(plan: Plan) -> Iterator[str]:
    model, setup, machine = plan.model, plan.setup, plan.machine
    sizes = f"L={model.layers} C={model.channels} H={model.heads} F={model.feed_forward} V={model.vocab_size}"
    yield f"model       {model.name or 'own sizes'}, {sizes}: {count(model.parameters)} parameters"
    options = [f"zero {setup.zero}", setup.schedule + (f" with {setup.chunks} chunks" if setup.chunks > 1 else "")]
    options += [f"recompute {setup.recomputed}", f"{setup.precision.name} precision"]
    options += ["sequence parallel"] * (setup.tp > 1 and setup.sequence_parallel)
    yield f"mesh        dp {setup.dp} x pp {setup.pp} x tp {setup.tp} = {setup.ranks} ranks; {', '.join(options)}"
    parts = (
        f"{setup.microbatches} microbatch{'es' * (setup.microbatches > 1)} of {setup.batch_size} on each of {setup.dp}"
    )
    size = f"{setup.sequences} sequences of {setup.time}, {count(plan.step_tokens)} tokens"
    yield f"step        {parts}: {size}"
    links = f"{amount(machine.link, 'B/s')} between ranks"
    links += f" and {amount(machine.tp_link, 'B/s')} within tp" if machine.tp_link and setup.tp > 1 else ""
    yield f"machine     {amount(machine.flops, 'FLOP/s')}, {amount(machine.memory, 'B')}, {links}"


def _memory(plan: Plan) -> Iterator[str]:
    yield f"memory of a rank, GB     {''.join(f'{kind:>13}' for kind in (*KINDS, 'total'))}"
    for rank in shown(plan):
        values = "".join(f"{getattr(rank, kind) / 1e9:13.3f}" for kind in (*KINDS, "total"))
        yield f"  {place(plan, rank):<22} {values}"


def shown(plan: Plan) -> list[RankMemory]:
    """The places of the pipeline that are shown."""
    if len(plan.memory) <= SHOWN:
        return list(plan.memory)
    chosen = {0, 1, plan.fullest.pp, len(plan.memory) - 1}
    return [rank for rank in plan.memory if rank.pp in chosen]


def place(plan: Plan, rank: RankMemory) -> str:
    """A place of the pipeline, as it is called in tables."""
    layers = f"{rank.layers} layer{'s' * (rank.layers > 1)}"
    return f"pp rank {rank.pp}, {layers}" if len(plan.memory) > 1 else f"each, {layers}"


def _traffic(plan: Plan) -> Iterator[str]:
    traffic = plan.traffic
    if not traffic:
        yield "sent by a rank in a step: nothing, there is no other"
        return
    where = ", where it is most" if plan.setup.pp > 1 else ""
    yield f"sent by a rank in a step{where}: {amount(sum(part.sent for part in traffic), 'B')}"
    for part in traffic:
        calls = f"{part.count} x {amount(part.size, 'B')}"
        yield f"  {part.axis}  {part.operation:<15} {part.what:<26} {calls:>18}  {amount(part.sent, 'B'):>9}"


def _time(plan: Plan, tokens: float) -> Iterator[str]:
    time = plan.time
    idle = time.bubble / (time.products + time.tp)
    share = f"bubble {100 * idle:.1f} % of the ideal time" if plan.setup.pp > 1 else "no bubble"
    yield f"time of a step: {duration(time.total)}; {share}"
    named = {
        "products": "matrix products",
        "tp": "tp communication",
        "bubble": "waiting in the pipeline",
        "pp": "pp communication",
        "dp": "dp communication not hidden",
        "update": "update of the weights",
    }
    for part, name in named.items():
        value = getattr(time, part)
        if value:
            yield f"  {name:<28} {duration(value):>9} {100 * value / time.total:6.1f} %"
    yield from textwrap.wrap(f"({ASSUMED})", 110, initial_indent="  ", subsequent_indent="  ")
    speed = f"{count(plan.tokens_per_second)} tokens/s, MFU {100 * plan.utilisation:.1f} % of the rate above"
    days = f"; {plan.days(tokens):.4g} days for {count(tokens)} tokens" if tokens else ""
    yield f"speed       {speed}{days}"
