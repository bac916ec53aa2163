"""The picture of a ladder: bars of forward and backward time, and the machine's limit as a line."""

from __future__ import annotations

import io
import math
import re

from markupsafe import escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tinygrad_llm.study.rungs.report import Ladder, Rung, digits, error_text, size_text, time_text, time_unit

COLOURS = {
    "paper": "#fdfcf9",
    "ink": "#1d2330",
    "soft": "#5b6476",
    "line": "#dfe2e8",
    "accent": "#2f5fd0",
    "plus": "#c2571a",
    "good": "#1a7f4b",
}
"""The light colours of the style sheet in `study.page`, by their names there; in HTML they become those names."""

UNITS = {"s": "seconds", "ms": "milliseconds", "µs": "microseconds", "ns": "nanoseconds"}
BAR = 0.42
"""Height of a bar; the rungs are 1 apart."""


def draw(ladder: Ladder) -> Figure:
    """One bar a rung, forward and backward end to end; quartiles as thin lines; error, memory and nodes below it."""
    rungs = ladder.rungs
    with rc_context({"font.family": "sans-serif", "text.color": COLOURS["ink"]}):
        figure = Figure(figsize=(9, 1.9 + 0.82 * len(rungs)), facecolor=COLOURS["paper"], layout="constrained")
        axes = figure.subplots()
        axes.set_facecolor(COLOURS["paper"])
        longest = max(*(_end(rung) for rung in rungs), ladder.limit)
        factor, unit = time_unit(longest)
        for row, rung in enumerate(rungs):
            _bar(axes, row, rung, ladder, factor)
        left = ladder.limit < 0.5 * longest
        axes.annotate(
            f"the machine's limit, {time_text(ladder.limit)}",
            (factor * ladder.limit, -0.5 * BAR - 0.08),
            (0 if left else 4, 3),
            textcoords="offset points",
            ha="left" if left else "right",
            color=COLOURS["good"],
            fontsize=10,
        )
        axes.set_ylim(len(rungs) - 0.45, -0.62)
        axes.set_xlim(0, 1.28 * factor * longest)
        axes.set_xlabel(f"{UNITS[unit]}: medians of {ladder.repeats} alternating runs, with quartiles")
        _dress(axes, ladder)
    return figure


def _end(rung: Rung) -> float:
    """Seconds at which the rung's bar and its quartiles end."""
    return (0.0 if math.isnan(rung.forward.median) else rung.forward.median) + rung.backward.high


def _bar(axes: Axes, row: int, rung: Rung, ladder: Ladder, factor: float) -> None:
    start, last = 0.0, row == len(ladder.rungs) - 1
    for times, colour, word in ((rung.forward, "accent", "forward"), (rung.backward, "plus", "backward")):
        if math.isnan(times.median):
            continue
        low, median, high = (factor * t for t in times)
        label = word if last else None
        bars = axes.barh(row, median, BAR, left=start, color=COLOURS[colour], label=label)
        bars[0].set(edgecolor=COLOURS["paper"], linewidth=1.2)
        axes.hlines(row, start + low, start + high, color=COLOURS["ink"], linewidth=1.2, zorder=4)
        start += median
    limit, reach = factor * ladder.limit, BAR / 2 + 0.08
    axes.vlines(limit, row - reach, row + reach, color=COLOURS["good"], linewidth=2.5, zorder=5)
    share = ladder.share(rung)
    text = time_text(rung.total) + (f", {digits(1 / share)} × the limit" if share > 0 else "")  # not for NaN either
    place = (factor * max(_end(rung), ladder.limit), row)
    axes.annotate(text, place, (8, 0), textcoords="offset points", va="center", fontsize=10.5)
    below = axes.annotate(facts(rung), (0, row + reach), (2, -3), textcoords="offset points")
    below.set(va="top", fontsize=9, color=COLOURS["soft"])


def facts(rung: Rung) -> str:
    """Error, memory and nodes, in words."""
    parts = [f"gradient error {error_text(rung.gradient_error)}"]
    if rung.costs:
        nodes = "1 node" if rung.costs.nodes == 1 else f"{rung.costs.nodes} nodes"
        saved, extra = size_text(rung.costs.saved), size_text(rung.costs.extra)
        parts += [f"saves {saved}, {extra} of it beyond in- and outputs", nodes]
    return "   ·   ".join(parts)


def _dress(axes: Axes, ladder: Ladder) -> None:
    axes.set_yticks(range(len(ladder.rungs)), [rung.name for rung in ladder.rungs], fontsize=11.5)
    axes.xaxis.label.set_color(COLOURS["soft"])
    size = min(13.0, 1000 / len(ladder.call))  # the title is one line
    axes.set_title(ladder.call, loc="left", fontsize=size, fontweight="bold", pad=26)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.tick_params(axis="x", colors=COLOURS["soft"], length=0)
    axes.tick_params(axis="y", colors=COLOURS["ink"], length=0)
    axes.grid(axis="x", color=COLOURS["line"], linewidth=0.8)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, borderaxespad=0.2)


def as_svg(ladder: Ladder) -> str:
    """The picture for HTML: its text is text, and its colours follow the page's, light and dark."""
    stream = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": ladder.call}):
        figure = draw(ladder)
        figure.axes[0].set_title("", loc="left")  # the page has a heading
        figure.savefig(stream, format="svg", metadata={"Date": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    label = escape(f"Times of the rungs of {ladder.call}; the table has the numbers.")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
