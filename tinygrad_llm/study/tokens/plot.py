"""The picture of compression: bytes per token as bars, file by file."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from tinygrad_llm.files import atomic_write
from tinygrad_llm.study.rungs.plot import COLOURS
from tinygrad_llm.study.tokens.compression import Counts, whole

FILES = 24
"""Bars at most; the largest files have them."""

_BARS = ("accent", "plus", "good", "soft")
_NAME = 48  # characters of a file's name


def plot(counts: Sequence[Counts], labels: Sequence[str], path: Path) -> None:
    """Draw the bars into a PNG file."""
    figure = draw(counts, labels)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a file's name in letters that the font lacks
        atomic_write(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150))


def draw(counts: Sequence[Counts], labels: Sequence[str]) -> Figure:
    """A bar for each tokenizer in each of the largest files, and for all files together."""
    shown = [*counts[:FILES], *([whole(counts)] if len(counts) > 1 else [])]
    height = 0.8 / len(labels)
    with rc_context({"font.family": "sans-serif", "text.color": COLOURS["ink"], "text.parse_math": False}):
        size = 1.6 + len(shown) * (0.2 + 0.16 * len(labels))
        figure = Figure(figsize=(9, size), facecolor=COLOURS["paper"], layout="constrained")
        axes = figure.subplots()
        axes.set_facecolor(COLOURS["paper"])
        for number, label in enumerate(labels):
            rows = [row + (number - (len(labels) - 1) / 2) * height for row in range(len(shown))]
            rates = [c.rates[number] for c in shown]
            bars = axes.barh(rows, rates, 0.92 * height, color=COLOURS[_BARS[number % len(_BARS)]], label=label)
            axes.bar_label(bars, [f"{rate:.2f}" for rate in rates], padding=4, fontsize=8.5)
        axes.set_yticks(range(len(shown)), [_short(c.name) for c in shown], fontsize=9.5)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlabel(
            "bytes per token" + (f" in the {FILES} largest of {len(counts):,} files" * (len(counts) > FILES))
        )
        axes.xaxis.label.set_color(COLOURS["soft"])
        axes.tick_params(colors=COLOURS["soft"], length=0)
        axes.tick_params(axis="y", colors=COLOURS["ink"])
        axes.margins(x=0.08)
        axes.grid(axis="x", color=COLOURS["line"], linewidth=0.8)
        axes.set_axisbelow(True)
        for side in axes.spines.values():
            side.set_visible(False)
        if len(labels) > 1:
            axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, borderaxespad=0.2)
    return figure


def _short(name: str) -> str:
    return name if len(name) <= _NAME else "..." + name[-_NAME:]
