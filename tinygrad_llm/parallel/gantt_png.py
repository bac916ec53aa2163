"""The picture of `gantt.svg` as a PNG, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tinygrad_llm.files import atomic_write
from tinygrad_llm.parallel.gantt import (
    KIND_NAMES,
    LIGHT,
    Panel,
    broad,
    chunk_shade,
    legend_note,
    summary,
    tick_step,
    time_label,
)
from tinygrad_llm.parallel.schedules import COMPUTED

ROW, HEAD, TOP = 0.31, 0.78, 0.72
"""Inches of a rank's line, of what stands above and below the lines of a panel, and above the first panel."""
LEFT, RIGHT = 0.75, 0.22


def save_png(title: str, panels: Sequence[Panel], path: Path) -> None:
    """Draw the panels below each other into a PNG file; panels of one unit share an axis."""
    figure = draw(title, panels)
    atomic_write(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150))


def draw(title: str, panels: Sequence[Panel]) -> Figure:
    heights = [HEAD + ROW * panel.timeline.ranks for panel in panels]
    total, width = TOP + sum(heights), broad(panels) / 100
    with rc_context({"font.family": "sans-serif", "text.color": LIGHT["ink"], "font.size": 9.5}):
        figure = Figure(figsize=(width, total), facecolor=LIGHT["paper"])
        figure.text(0.2 / width, 1 - 0.3 / total, title, fontsize=14, fontweight="bold", va="center")
        _legend(figure, panels, width, total)
        top = TOP
        for panel, height in zip(panels, heights, strict=True):
            bottom = total - top - height + 0.38
            place = (LEFT / width, bottom / total, 1 - (LEFT + RIGHT) / width, (height - HEAD) / total)
            longest = max(float(p.timeline.total) for p in panels if p.unit == panel.unit)
            _draw_panel(figure.add_axes(place), panel, longest, 72 * (width - LEFT - RIGHT) / (longest or 1))
            top += height
    return figure


def _legend(figure: Figure, panels: Sequence[Panel], width: float, total: float) -> None:
    kinds = [k for k in KIND_NAMES if any(span.op.kind == k for p in panels for span in p.timeline.spans)]
    patches = [Patch(color=LIGHT[kind], label=KIND_NAMES[kind]) for kind in kinds]
    patches.append(Patch(color=LIGHT["idle"], label="idle"))
    patches.append(Patch(alpha=0, label=legend_note(panels)))
    legend = figure.legend(
        handles=patches,
        loc="center left",
        bbox_to_anchor=(0.12 / width, 1 - 0.6 / total),
        ncols=len(patches),
        frameon=False,
        handlelength=1.1,
        columnspacing=1.6,
    )
    for text in legend.get_texts():
        text.set_color(LIGHT["soft"])


def _draw_panel(axes: Axes, panel: Panel, longest: float, points: float) -> None:
    """A panel; a unit of time is so many `points` long."""
    timeline, begin = panel.timeline, float(panel.timeline.begin)
    axes.set_xlim(0, longest or 1)
    axes.set_ylim(timeline.ranks - 0.5, -0.5)
    axes.barh(range(timeline.ranks), [float(timeline.total)] * timeline.ranks, 0.84, color=LIGHT["idle"], zorder=0)
    for span in timeline.spans:
        start, length = float(span.start) - begin, float(span.end - span.start)
        if span.op.kind not in COMPUTED:
            axes.barh(span.rank + 0.38, length, 0.08, left=start, color=LIGHT["soft"], zorder=2)
            continue
        axes.barh(
            span.rank,
            length,
            0.84,
            left=start,
            color=LIGHT[span.op.kind],
            alpha=chunk_shade(span.op.stage // timeline.ranks),
            edgecolor=LIGHT["paper"],
            linewidth=min(0.9, 0.12 * length * points),
            zorder=1,
        )
        text = str(span.op.microbatch)
        if length * points >= 3 + 5.2 * len(text):
            place = (start + length / 2, span.rank)
            axes.annotate(
                text, place, ha="center", va="center_baseline", color=LIGHT["label"], fontsize=8, fontweight="bold"
            )
    _dress(axes, panel, longest)


def _dress(axes: Axes, panel: Panel, longest: float) -> None:
    axes.set_facecolor(LIGHT["paper"])
    axes.set_title(panel.title, loc="left", fontsize=10.5, fontweight="bold", pad=5)
    axes.set_title(summary(panel), loc="right", fontsize=9.5, color=LIGHT["soft"], pad=5)
    step = tick_step(longest)
    ticks = [number * step for number in range(int(longest / step * (1 + 1e-9)) + 1)]
    axes.set_xticks(ticks, [time_label(tick, step, panel.unit) for tick in ticks])
    ranks = range(panel.timeline.ranks)
    axes.set_yticks(ranks, [f"rank {rank}" for rank in ranks])
    axes.tick_params(colors=LIGHT["soft"], length=0, pad=4)
    for side in axes.spines.values():
        side.set_visible(False)
