"""The picture of a comparison: loss against tokens and time, time against length, gradient against distance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tinygrad_llm.files import atomic_write
from tinygrad_llm.study.architectures.report import NAMES
from tinygrad_llm.study.architectures.results import Comparison
from tinygrad_llm.study.rungs.plot import COLOURS

OF_MODEL = {"gpt": COLOURS["accent"], "lstm": COLOURS["plus"], "gru": COLOURS["good"], "rnn": "#8a4bb3"}
"""The colour of each model."""

LEAST = 1e-12
"""Of a gradient's share, below which nothing is drawn."""

End = tuple[str, float, float]
"""(model, x, y) of the end of a line, where the model's name is written."""


def plot(found: Comparison, path: Path) -> None:
    """Draw it into a PNG file."""
    figure = draw(found)
    atomic_write(path, lambda temporary: figure.savefig(temporary, format="png", dpi=75))


def draw(found: Comparison) -> Figure:
    """Four panels; every line is named at its end."""
    with rc_context({"font.family": "sans-serif", "text.color": COLOURS["ink"]}):
        figure = Figure(figsize=(11.5, 8.4), facecolor=COLOURS["paper"], layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # type: ignore[union-attr, call-arg]
        tokens, seconds, lengths, distances = figure.subplots(2, 2).ravel()
        ends = [(tokens, _tokens(tokens, found)), (seconds, _seconds(seconds, found))]
        ends += [(lengths, _lengths(lengths, found)), (distances, _distances(distances, found))]
        for axes, _ in ends:
            _dress(axes)
        figure.draw_without_rendering()  # only then is it known how far apart two names are on paper
        for axes, own in ends:
            _name(axes, own)
    return figure


def _tokens(axes: Axes, found: Comparison) -> list[End]:
    ends: list[End] = []
    for model, curve in found.curves.items():
        thousands = np.array(curve.tokens) / 1e3
        axes.plot(thousands, curve.losses, color=OF_MODEL[model], linewidth=1.8)
        ends.append((model, float(thousands[-1]), curve.losses[-1]))
    axes.set_title("Loss against tokens, at equal parameters")
    axes.set(xlabel="thousand tokens of training", ylabel="held-out loss, nats a token")
    return ends


def _seconds(axes: Axes, found: Comparison) -> list[End]:
    ends: list[End] = []
    for model, curve in found.curves.items():
        axes.plot(curve.seconds, curve.losses, color=OF_MODEL[model], linewidth=1.8)
        ends.append((model, curve.seconds[-1], curve.losses[-1]))
    axes.set_title("Loss against time")
    axes.set(xlabel="seconds of training", ylabel="held-out loss, nats a token")
    return ends


def _lengths(axes: Axes, found: Comparison) -> list[End]:
    """Solid: as many tokens in each step; dashed: one sequence alone."""
    ends: list[End] = []
    lengths = list(found.settings.lengths)
    for model in found.models:
        many = [found.step(model, max(1, found.settings.tokens // length), length).per_token for length in lengths]
        alone = [found.step(model, 1, length).per_token for length in lengths]
        axes.plot(lengths, 1e6 * np.array(alone), "--", color=OF_MODEL[model], linewidth=1.4)
        axes.plot(lengths, 1e6 * np.array(many), color=OF_MODEL[model], linewidth=1.8)
        ends.append((model, lengths[-1], 1e6 * many[-1]))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.set_title("Time of a training step against length")
    axes.set_xlabel(f"tokens of a sequence; solid: {found.settings.tokens:,} tokens a step, dashed: one sequence alone")
    axes.set_ylabel("microseconds a token")
    return ends


def _distances(axes: Axes, found: Comparison) -> list[End]:
    """Solid: trained; dotted: untrained. All are 1 at distance 1."""
    ends: list[End] = []
    for reach in found.reaches:
        norms = np.array(reach.norms[1:]) / reach.norms[1]
        norms[norms < LEAST] = np.nan
        k = np.arange(1, len(norms) + 1)
        style = "-" if reach.trained else ":"
        axes.plot(k, norms, style, color=OF_MODEL[reach.model], linewidth=1.8 if reach.trained else 1.3)
        drawn = np.flatnonzero(~np.isnan(norms))[-1]
        if reach.trained:
            ends.append((reach.model, float(k[drawn]), float(norms[drawn])))
    axes.set_yscale("log")
    axes.set_title("Gradient against distance")
    axes.set_xlabel("distance k in tokens; solid: trained, dotted: untrained")
    axes.set_ylabel("norm of the gradient k tokens back, 1 at k = 1")
    return ends


def _dress(axes: Axes) -> None:
    axes.set_facecolor(COLOURS["paper"])
    axes.title.set(fontsize=12, fontweight="bold", ha="left", x=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(COLOURS["soft"])
    axes.tick_params(colors=COLOURS["soft"], length=0, which="both")
    axes.grid(color=COLOURS["line"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.02)
    for side in axes.spines.values():
        side.set_visible(False)


def _name(axes: Axes, ends: Sequence[End], apart: float = 14.0) -> None:
    """Write the names beside the ends of the lines, at least `apart` points above each other."""
    scale = 72 / axes.figure.dpi
    places = [axes.transData.transform((x, y)) * scale for _, x, y in ends]
    order = sorted(range(len(ends)), key=lambda i: places[i][1])
    heights = [places[i][1] for i in order]
    for _ in range(50):  # neighbours that are too near push each other away
        for i in range(len(heights) - 1):
            lacking = apart - (heights[i + 1] - heights[i])
            if lacking > 0:
                heights[i], heights[i + 1] = heights[i] - lacking / 2, heights[i + 1] + lacking / 2
    for i, height in zip(order, heights, strict=True):
        model, x, y = ends[i]
        label = axes.annotate(
            NAMES[model], (x, y), (6, height - places[i][1]), textcoords="offset points", annotation_clip=False
        )
        label.set(color=OF_MODEL[model], fontweight="bold", fontsize=10.5, va="center")
