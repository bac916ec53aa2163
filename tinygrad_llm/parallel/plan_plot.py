"""The memory of a plan as bars: each place of the pipeline, and what one change would make of the fullest."""

from __future__ import annotations

from pathlib import Path

from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from tinygrad_llm.files import atomic_write
from tinygrad_llm.parallel.gantt import LIGHT
from tinygrad_llm.parallel.plan import Plan, knobs
from tinygrad_llm.parallel.plan_memory import KINDS, RankMemory
from tinygrad_llm.parallel.plan_report import count, duration, place, shown

COLOURS = dict(zip(KINDS, ("#2f5fd0", "#7f9fe6", "#1a7f4b", "#c2571a", "#e3a36f"), strict=True))
ROW, HEAD, TOP = 0.34, 0.8, 0.75
"""Inches of a bar, of what stands above and below the bars of a panel, and above the first panel."""
WIDTH, LEFT = 10.5, 2.45
LIMIT, BROKEN = "#b3261e", (0, (4, 3))


def save_plot(plan: Plan, path: Path) -> None:
    """Draw the bars into a PNG file."""
    figure = draw(plan)
    atomic_write(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150))


def draw(plan: Plan) -> Figure:
    ranks = [(place(plan, rank), rank, "") for rank in shown(plan)]
    changes = [(text, other.fullest, f"{duration(other.time.total)} a step") for text, other in knobs(plan)]
    panels = [("memory of each rank", ranks), ("the fullest rank, after one change", changes)]
    panels = panels if changes else panels[:1]
    most = max(plan.machine.memory, *(rank.total for _, rows in panels for _, rank, _ in rows))
    longest = min(most, 3 * max(plan.machine.memory, plan.fullest.total))
    total = TOP + sum(HEAD + ROW * len(rows) for _, rows in panels)
    with rc_context({"font.family": "sans-serif", "text.color": LIGHT["ink"], "font.size": 9.5}):
        figure = Figure(figsize=(WIDTH, total), facecolor=LIGHT["paper"])
        setup = plan.setup
        mesh = f"dp {setup.dp} x pp {setup.pp} x tp {setup.tp}, zero {setup.zero}, recompute {setup.recomputed}"
        name = plan.model.name or f"{count(plan.model.parameters)} parameters"
        figure.text(0.2 / WIDTH, 1 - 0.3 / total, f"{name}: {mesh}", fontsize=13, fontweight="bold", va="center")
        top = TOP
        for title, rows in panels:
            bottom = total - top - HEAD - ROW * len(rows) + 0.38
            box = (LEFT / WIDTH, bottom / total, 1 - (LEFT + 0.25) / WIDTH, ROW * len(rows) / total)
            _bars(figure.add_axes(box), title, rows, plan, longest)
            top += HEAD + ROW * len(rows)
        _legend(figure, plan.machine.memory, total)
    return figure


def _legend(figure: Figure, memory: float, total: float) -> None:
    handles: list[Artist] = [Patch(color=COLOURS[kind], label=kind) for kind in KINDS]
    limit = f"what a rank has, {memory / 1e9:,.4g} GB"
    handles.append(Line2D([], [], color=LIMIT, linewidth=1.4, linestyle=BROKEN, label=limit))
    legend = figure.legend(
        handles=handles,
        loc="center left",
        bbox_to_anchor=(0.12 / WIDTH, 1 - 0.6 / total),
        ncols=len(handles),
        frameon=False,
        handlelength=1.3,
        columnspacing=1.6,
    )
    for text in legend.get_texts():
        text.set_color(LIGHT["soft"])


def _bars(axes: Axes, title: str, rows: list[tuple[str, RankMemory, str]], plan: Plan, longest: float) -> None:
    for row, (_, rank, note) in enumerate(rows):
        left = 0.0
        for kind in KINDS:
            size = getattr(rank, kind) / 1e9
            axes.barh(row, size, 0.72, left=left, color=COLOURS[kind], edgecolor=LIGHT["paper"], linewidth=0.6)
            left += size
        fits = rank.total <= plan.machine.memory
        text = f"{left:,.3g} GB" if left < 1000 else f"{left:,.0f} GB"
        text += "" if fits else ", too much"
        end = (min(left, longest / 1e9), row)
        written = axes.annotate(text, end, (6, 0), textcoords="offset points", va="center", fontsize=9)
        written.set(color=LIGHT["ink"] if fits else LIMIT, bbox={"color": LIGHT["paper"], "pad": 1})
        if note:
            axes.annotate(
                note, (1, row), xycoords=("axes fraction", "data"), ha="right", va="center", color=LIGHT["soft"]
            )
    axes.axvline(plan.machine.memory / 1e9, color=LIMIT, linewidth=1.4, linestyle=BROKEN)
    axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold")
    axes.set_xlim(0, 1.38 * longest / 1e9)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.set_facecolor(LIGHT["paper"])
    axes.tick_params(colors=LIGHT["soft"], length=0)
    axes.tick_params(axis="y", colors=LIGHT["ink"])
    axes.grid(axis="x", color=LIGHT["line"], linewidth=0.8)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
