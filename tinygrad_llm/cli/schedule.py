"""``tinygrad-llm schedule``."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console

from tinygrad_llm.files import atomic_write
from tinygrad_llm.parallel import schedules
from tinygrad_llm.parallel.gantt import Panel, chart, measured_durations, read_trace, svg
from tinygrad_llm.parallel.schedules import COMPUTED, Orders
from tinygrad_llm.parallel.simulation import UNIT, Durations, Timeline, sent, simulate
from tinygrad_llm.study.lookup import refuse_existing

MOST = 20_000
"""Passes in a step whose times are worked out: this many take some seconds."""

AtLeastOne = Annotated[int, Parameter(validator=Number(gte=1))]


def parse_durations(text: str) -> Durations:
    """``"F=1,I=1.5,W=1/2"`` as fractions; what is left out is 1. Raises ValueError for anything else."""
    found = dict(UNIT)
    for part in filter(None, (part.strip() for part in text.split(","))):
        kind, _, value = part.partition("=")
        try:
            time = Fraction(value)
        except (ValueError, ZeroDivisionError):
            time = Fraction(-1)
        if kind not in UNIT or time < 0:
            raise ValueError(f"durations are those of F, I and W, as in F=1,I=1,W=1 (B is I + W); not {part!r}")
        found[kind] = time
    if not any(found.values()):
        raise ValueError("durations: not all of F, I and W may be 0")
    return found


def _proper_durations(_: Any, text: str) -> None:
    if text:
        parse_durations(text)


def schedule(
    name: Literal["gpipe", "1f1b", "interleaved", "zb-h1"],
    /,
    *,
    stages: AtLeastOne = 4,
    microbatches: AtLeastOne = 8,
    chunks: AtLeastOne | None = None,
    durations: Annotated[str, Parameter(validator=_proper_durations)] = "",
    trace: Path | None = None,
    ops: Annotated[bool, Parameter(negative=())] = False,
    out: Path | None = None,
    force: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Show a pipeline schedule: who computes what when, the idle time, and what is held in memory. Needs no MPI.

    Parameters
    ----------
    name
        gpipe, 1f1b, interleaved (1F1B with several chunks of the model on each rank) or zb-h1 (zero-bubble).
    stages
        Ranks, each with a stage of the model (p).
    microbatches
        Microbatches of a step (m).
    chunks
        Chunks of the model on each rank (v), for interleaved; 2 without it.
    durations
        Times of the forward pass, and of the backward pass for the input and for the weights, as in F=1,I=1,W=1;
        without it those, or with --trace the medians of what was executed.
    trace
        What a run executed, a JSON list of [rank, operation, start, end] in seconds: drawn below what is predicted.
    ops
        Also list each rank's operations with its messages, as 0F0 0SEND_F0.
    out
        Draw the schedule into this file, .svg or .png.
    force
        Replace the file if it exists.
    """
    if out is not None:
        refuse_existing(out, force)
        if out.suffix.lower() not in (".svg", ".png"):
            raise ValueError(f"{out}: the picture is an SVG or a PNG; give a name that ends in .svg or .png")
    chunks = chunks or (2 if name == "interleaved" else 1)
    if stages * microbatches * chunks > MOST:
        raise ValueError(f"{stages} stages x {microbatches} microbatches x {chunks} chunks: at most {MOST:,} are shown")
    orders = schedules.schedule(name, stages, microbatches, chunks)
    executed = None if trace is None else _executed(trace, orders, name)
    times = parse_durations(durations) if durations or executed is None else measured_durations(executed)
    unit = "" if executed is None else "s"
    panels = [Panel("predicted" if executed else "simulated", simulate(orders, times), unit)]
    if executed is not None:
        panels.append(Panel("executed", executed, unit))
    sizes = [(stages, "stage"), (microbatches, "microbatch"), *([(chunks, "chunk")] if chunks > 1 else [])]
    title = f"{name}: " + ", ".join(_plural(*size) for size in sizes)
    _report(title, panels, orders, chunks)
    if ops:
        print(schedules.to_text(schedules.with_comms(orders)))
    if out is not None:
        _draw(title, panels, out)
        print(f"wrote {out}")
    return 0


def _executed(trace: Path, orders: Orders, name: str) -> Timeline:
    """The trace, if it is one of these sizes."""
    executed = read_trace(trace)
    found = {span.op for span in executed.spans if span.op.kind in COMPUTED}
    planned = {op for ops in orders.values() for op in ops}
    if executed.ranks != len(orders) or not found <= planned:
        other = next(iter(sorted(found - planned)), None)
        what = f"{executed.ranks} ranks" + (f" and {other}" if other else "")
        raise ValueError(f"{trace}: has {what}, which {name} with these --stages, --microbatches and --chunks has not")
    return executed


def _draw(title: str, panels: list[Panel], out: Path) -> None:
    if out.suffix.lower() == ".svg":
        atomic_write(out, svg(title, panels).encode())
    else:
        from tinygrad_llm.parallel.gantt_png import save_png  # matplotlib is slow to import

        save_png(title, panels, out)


def _report(title: str, panels: list[Panel], orders: Orders, chunks: int) -> None:
    console = Console(highlight=False)
    width = console.width - 6 if console.is_terminal else 0
    print(title)
    for panel in panels:
        print(f"\n{panel.title}")
        print("\n".join(chart(panel.timeline, width)))
        print("\n".join(_facts(panel, chunks)))
    count = list(sent(orders).values())
    print(f"messages      {sum(count)} in a step, of which are sent {_row(count)}")


def _facts(panel: Panel, chunks: int) -> list[str]:
    timeline: Timeline = panel.timeline
    peaks = list(timeline.peaks.values())
    held = f"held at most  {_row(peaks)} of the microbatches' activations"
    if chunks > 1:
        held += f", those in one of {chunks} chunks counted as one"
    unit = f" {panel.unit}" if panel.unit else ""
    total, ideal = float(timeline.total), float(max(timeline.busy.values()))
    bubble, idle = _exact(timeline.bubble), _exact(timeline.idle_share)
    return [
        f"time          {total:.6g}{unit}; if no rank were idle {ideal:.6g}{unit}",
        f"bubble        {bubble} of the ideal time; ranks are idle {idle} of all time",
        held,
    ]


def _plural(number: int, noun: str) -> str:
    """1 stage, 4 stages, 8 microbatches."""
    return f"{number} {noun}" + ("" if number == 1 else "es" if noun.endswith("ch") else "s")


def _row(values: list[int]) -> str:
    """A number for each rank; once if all have the same."""
    if len(set(values)) == 1:
        return f"{values[0]} on each rank"
    shown = list(map(str, values)) if len(values) <= 16 else [*map(str, values[:4]), "...", *map(str, values[-4:])]
    return f"{' '.join(shown)} on ranks 0 to {len(values) - 1}"


def _exact(share: Fraction) -> str:
    """3/8 (37.5 %), or only the second where the fraction is long."""
    percent = f"{100 * float(share):.1f} %"
    return f"{share} ({percent})" if 0 < share.denominator <= 999 and share.denominator > 1 else percent
