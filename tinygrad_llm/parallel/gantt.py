"""Pictures of pipeline schedules: who computes what when, as text, SVG and PNG; predicted above executed.

A trace is what was executed: a JSON list of ``[rank, operation, start, end]`` in seconds, as ``[0, "0F0", 0.0, 1.25]``.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from tinygrad_llm.files import atomic_write
from tinygrad_llm.parallel.schedules import COMPUTED, Op, stage_count
from tinygrad_llm.parallel.simulation import Durations, Span, Timeline

KIND_NAMES = {"F": "forward", "B": "backward", "I": "backward: input", "W": "backward: weights"}
LIGHT = {
    "paper": "#fdfcf9",
    "ink": "#1d2330",
    "soft": "#5b6476",
    "line": "#dfe2e8",
    "idle": "#f0eee8",
    "F": "#2f5fd0",
    "B": "#1a7f4b",
    "I": "#1a7f4b",
    "W": "#c2571a",
    "label": "#ffffff",
}
DARK = {
    "paper": "#14171d",
    "ink": "#e7eaf0",
    "soft": "#9aa4b5",
    "line": "#323846",
    "idle": "#1c2028",
    "F": "#7fa6ff",
    "B": "#62c795",
    "I": "#62c795",
    "W": "#f0955a",
    "label": "#14171d",
}


class Panel(NamedTuple):
    """A timeline in a picture."""

    title: str
    timeline: Timeline
    unit: str = ""
    """Of its times: "s", or nothing for those that only compare with each other."""


# -- traces ------------------------------------------------------------------------------------------------------------


def write_trace(path: Path, spans: Sequence[Span]) -> None:
    """Write what was executed as JSON, an operation a line."""
    rows = (json.dumps([span.rank, str(span.op), float(span.start), float(span.end)]) for span in spans)
    atomic_write(path, ("[\n" + ",\n".join(rows) + "\n]\n").encode())


def read_trace(path: Path) -> Timeline:
    """Back from `write_trace`. ValueError names the file and what is wrong in it."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path}: a trace is a list of [rank, operation, start, end], and at least one")
    spans = [_span(path, row) for row in rows]
    ranks = 1 + max(span.rank for span in spans)
    if not any(span.op.kind in COMPUTED for span in spans):
        raise ValueError(f"{path}: nothing is computed in it, only sent and received")
    return Timeline(tuple(sorted(spans, key=lambda span: (span.rank, span.start, span.end))), ranks)


def _span(path: Path, row: Any) -> Span:
    try:
        rank, op, start, end = row
        span = Span(int(rank), Op.parse(op), Fraction(start), Fraction(end))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {row!r} is not [rank, operation, start, end] ({error})") from error
    if not (0 <= span.rank < 4096 and span.start <= span.end):
        raise ValueError(f"{path}: {row!r} has no possible rank, or ends before it starts")
    return span


def measured_durations(timeline: Timeline) -> Durations:
    """The medians of what F, I and W took on a rank, all its chunks together; a whole B counts half as I, half as W."""
    chunks = max(1, stage_count({0: [span.op for span in timeline.spans]}) // timeline.ranks)
    times: dict[str, list[Fraction]] = {}
    for span in timeline.spans:
        times.setdefault(span.op.kind, []).append((span.end - span.start) * chunks)
    whole = Fraction(median(times.get("B", [Fraction(0)]))) / 2
    return {
        kind: Fraction(median(times.get(kind, [Fraction(0) if kind == "F" else whole]))) for kind in ("F", "I", "W")
    }


# -- text --------------------------------------------------------------------------------------------------------------

WIDEST, ROUNDED = 240, 120
"""Columns of a chart at most, and of one with so many times that a column for each would be too much."""


def chart(timeline: Timeline, columns: int = 0) -> list[str]:
    """A line for each rank, a column for each unit of time.

    ``0123`` is forward, ``abcd`` backward (with zero-bubble the part of the input), ``ABCD`` the part of the weights,
    by the microbatch's last digit (j is 9); ``.`` is idle. There are at most so many `columns`.
    """
    times = [time - timeline.begin for span in timeline.spans for time in (span.start, span.end)]
    common = math.lcm(*(time.denominator for time in times))
    unit = Fraction(math.gcd(*(int(time * common) for time in times)), common)
    count = timeline.total / unit if unit else Fraction(0)
    if count > (limit := columns or WIDEST):
        count = Fraction(min(limit, ROUNDED))
        unit = timeline.total / count
    lines = [["."] * math.ceil(count) for _ in range(timeline.ranks)]
    for span in timeline.spans:
        if span.op.kind in COMPUTED:
            first, last = (round((t - timeline.begin) / unit) for t in (span.start, span.end))
            lines[span.rank][first:last] = [_letter(span.op)] * (last - first)
    return [f"{rank:>{len(str(timeline.ranks - 1))}} |{''.join(line)}" for rank, line in enumerate(lines)]


def _letter(op: Op) -> str:
    digit = op.microbatch % 10
    return str(digit) if op.kind == "F" else chr(ord("A" if op.kind == "W" else "a") + digit)


# -- SVG ---------------------------------------------------------------------------------------------------------------

ROW, GAP, LEFT, RIGHT = 30, 6, 84, 24
NARROWEST, BROADEST = 1200, 2400
"""Pixels of a picture: as many as its numbers need."""


def svg(title: str, panels: Sequence[Panel]) -> str:
    """The panels below each other as an SVG, light or dark as its reader's system is.

    Panels whose times have one unit share an axis, so that what is below each other happens at the same time.
    """
    parts, top, width = [f'<text class="title" x="20" y="36">{html.escape(title)}</text>'], 52, broad(panels)
    parts.append(_legend(panels, top))
    top += 34
    longest = {
        unit: max(float(p.timeline.total) for p in panels if p.unit == unit) for unit in {p.unit for p in panels}
    }
    for panel in panels:
        drawn, top = _panel(panel, top, longest[panel.unit], width)
        parts += drawn
    height = top + 4
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{html.escape(title)}">\n<style>{_style()}</style>\n'
        f'<rect class="paper" width="{width}" height="{height}"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _style() -> str:
    def colours(palette: dict[str, str]) -> str:
        fills = "".join(f".{kind}{{fill:{palette[kind]}}}" for kind in ("paper", "idle", "F", "B", "I", "W"))
        return (
            f"{fills}text{{fill:{palette['ink']}}}.soft{{fill:{palette['soft']}}}.n{{fill:{palette['label']}}}"
            f".line{{stroke:{palette['line']}}}.edge{{stroke:{palette['paper']}}}"
        )

    return (
        "text{font-family:system-ui,'Helvetica Neue',Arial,sans-serif;font-size:13px}"
        ".title{font-size:19px;font-weight:700}.head{font-size:14px;font-weight:600}"
        ".n{font-size:11.5px;font-weight:600;text-anchor:middle}.end{text-anchor:end}.mid{text-anchor:middle}"
        f"{colours(LIGHT)}@media(prefers-color-scheme:dark){{{colours(DARK)}}}"
    )


def _legend(panels: Sequence[Panel], top: int) -> str:
    kinds = [k for k in KIND_NAMES if any(span.op.kind == k for p in panels for span in p.timeline.spans)]
    parts, x = [], 20
    for kind, name in [*((k, KIND_NAMES[k]) for k in kinds), ("idle", "idle")]:
        parts.append(f'<rect class="{kind}" x="{x}" y="{top}" width="14" height="14" rx="3"/>')
        parts.append(f'<text class="soft" x="{x + 20}" y="{top + 12}">{name}</text>')
        x += 44 + round(7.2 * len(name))
    return "".join(parts) + f'<text class="soft" x="{x}" y="{top + 12}">{legend_note(panels)}</text>'


def legend_note(panels: Sequence[Panel]) -> str:
    """What the boxes say, beside their colours."""
    chunked = any(span.op.stage >= p.timeline.ranks for p in panels for span in p.timeline.spans)
    sent = any(span.op.kind not in COMPUTED for p in panels for span in p.timeline.spans)
    notes = [
        "a number is a microbatch",
        *["a lighter box is a later chunk"] * chunked,
        *["a thin line is a message"] * sent,
    ]
    return "; ".join(notes)


def broad(panels: Sequence[Panel]) -> int:
    """Pixels from left to right, so that half of the numbers have room."""
    needed = 0.0
    for panel in panels:
        lengths = [span.end - span.start for span in panel.timeline.spans if span.op.kind in COMPUTED]
        needed = max(needed, 19 * float(panel.timeline.total) / (float(median(lengths)) or 1))
    return round(min(max(NARROWEST, LEFT + RIGHT + needed), BROADEST))


def _panel(panel: Panel, top: int, longest: float, picture: int) -> tuple[list[str], int]:
    """A panel's lines, and where the next one begins."""
    timeline = panel.timeline
    scale = (picture - LEFT - RIGHT) / (longest or 1)
    parts = [f'<text class="head" x="20" y="{top + 18}">{html.escape(panel.title)}</text>']
    parts.append(f'<text class="soft end" x="{picture - RIGHT}" y="{top + 18}">{summary(panel)}</text>')
    top += 30
    for rank in range(timeline.ranks):
        y = top + rank * (ROW + GAP)
        parts.append(f'<text class="soft end" x="{LEFT - 12}" y="{y + ROW / 2 + 4.5:g}">rank {rank}</text>')
        width = float(timeline.total) * scale
        parts.append(f'<rect class="idle" x="{LEFT}" y="{y}" width="{width:.2f}" height="{ROW}" rx="3"/>')
        parts += [_box(span, timeline, y, scale) for span in timeline.spans if span.rank == rank]
    bottom = top + timeline.ranks * (ROW + GAP) - GAP
    parts += _axis(longest, panel.unit, bottom, scale)
    return parts, bottom + 44


def _box(span: Span, timeline: Timeline, y: int, scale: float) -> str:
    """An operation; a message is a thin line at the bottom."""
    x, width = LEFT + float(span.start - timeline.begin) * scale, float(span.end - span.start) * scale
    tip = (
        f"<title>{span.op}: {float(span.start - timeline.begin):.6g} to {float(span.end - timeline.begin):.6g}</title>"
    )
    if span.op.kind not in COMPUTED:
        return f'<rect class="soft" x="{x:.2f}" y="{y + ROW - 3}" width="{max(width, 0.5):.2f}" height="3">{tip}</rect>'
    shade = chunk_shade(span.op.stage // timeline.ranks)
    opacity = f' fill-opacity="{shade:g}"' if shade < 1 else ""
    edge, corner = min(1.0, 0.12 * width), min(3.0, width / 4)  # narrow boxes would be all edge
    rect = (
        f'<rect class="{span.op.kind} edge" x="{x:.2f}" y="{y}" width="{width:.2f}" height="{ROW}" rx="{corner:.1f}"'
        f' stroke-width="{edge:.2f}"{opacity}>{tip}</rect>'
    )
    text = str(span.op.microbatch)
    if width < 4 + 7 * len(text):
        return rect
    return rect + f'<text class="n" x="{x + width / 2:.2f}" y="{y + ROW / 2 + 4:g}">{text}</text>'


def chunk_shade(chunk: int) -> float:
    """How opaque a chunk's boxes are: the first wholly, later ones less."""
    return max(0.4, 1 - 0.3 * chunk)


def _axis(longest: float, unit: str, bottom: int, scale: float) -> list[str]:
    step = tick_step(longest)
    parts = []
    for number in range(int(longest / step * (1 + 1e-9)) + 1):
        x = LEFT + number * step * scale
        parts.append(f'<line class="line" x1="{x:.2f}" x2="{x:.2f}" y1="{bottom + 3}" y2="{bottom + 9}"/>')
        parts.append(
            f'<text class="soft mid" x="{x:.2f}" y="{bottom + 24}">{time_label(number * step, step, unit)}</text>'
        )
    return parts


def tick_step(longest: float) -> float:
    """1, 2 or 5 times a power of ten, so that there are about ten ticks."""
    if longest <= 0:
        return 1.0
    power = 10 ** math.floor(math.log10(longest / 10))
    return next(factor * power for factor in (1, 2, 5, 10) if longest / (factor * power) <= 13)


def time_label(time: float, step: float, unit: str) -> str:
    """A time at an axis, whose steps decide between seconds, milliseconds and microseconds."""
    if not unit:
        return f"{time:g}"
    factor, name = next(((f, n) for f, n in ((1, "s"), (1e3, "ms")) if step * f >= 0.5), (1e6, "µs"))
    return f"{float(f'{time * factor:.4g}'):g} {name}"


def summary(panel: Panel) -> str:
    """Time, idle share and bubble of a panel, in a line."""
    timeline, total = panel.timeline, float(panel.timeline.total)
    time = time_label(total, total, panel.unit) if panel.unit else f"{total:g} units of time"
    idle, bubble = 100 * float(timeline.idle_share), 100 * float(timeline.bubble)
    return f"{time}, idle {idle:.1f} % of it; bubble {bubble:.1f} % of the ideal time"
