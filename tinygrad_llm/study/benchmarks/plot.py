"""The roofline: what each kernel reaches, against the two limits of the machine."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tinygrad_llm.files import atomic_write
from tinygrad_llm.study.benchmarks.results import Results, Row, threads_text
from tinygrad_llm.study.machine import Machine
from tinygrad_llm.study.rungs.plot import COLOURS


def plot(results: Results, path: Path) -> None:
    """Draw the roofline into a PNG file."""
    figure = draw(results)
    atomic_write(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150))


BACKWARD = " + backward"


def drawable(results: Results) -> list[Row]:
    """The rows that have a place in the picture: at the largest number of threads, with operations and bytes.

    Of an operation that is measured forward alone and together with backward, only the latter.
    """
    most = max(results.machines)
    names = {row.name for row in results.rows if row.threads == most}
    rows = [row for row in results.rows if row.operations and row.moved and row.threads == most]
    return [row for row in rows if row.name + BACKWARD not in names]


def draw(results: Results) -> Figure:
    """Left: operations a byte against the rate, both logarithmic, and the roof. Right: the names, by the same numbers,
    and the share of the limit that each contestant reaches.

    Raises ValueError if no row has a place.
    """
    rows = sorted(drawable(results), key=lambda row: (intensity(row), rate(row, _own(row))))
    if not rows:
        raise ValueError("--plot: there is no row with operations and bytes to draw; measure the kernels")
    machine = results.machines[max(results.machines)].machine
    with rc_context({"font.family": "sans-serif", "text.color": COLOURS["ink"]}):
        size = (13.5, max(6.5, 1.6 + 0.27 * len(rows)))
        figure = Figure(figsize=size, facecolor=COLOURS["paper"], layout="constrained")
        roof, shares = figure.subplots(1, 2, width_ratios=(1.55, 1))
        _limits(roof, machine, rows)
        _shares(shares, results, rows)
        _dress(roof, shares, machine)
        figure.draw_without_rendering()  # only then is it known how far apart two points are on paper
        _points(roof, rows)
    return figure


def intensity(row: Row) -> float:
    """Operations for each byte moved."""
    return row.operations / row.moved


def rate(row: Row, contestant: str) -> float:
    """GFLOP/s."""
    return row.operations / row.measured[contestant].times.median / 1e9


def _own(row: Row) -> str:
    return "kernel" if "kernel" in row.measured else "ours"


def _limits(axes: Axes, machine: Machine, rows: list[Row]) -> None:
    """The roof: memory's slope up to the rate of matrix products."""
    ridge = machine.gemm / machine.bandwidth
    low = min(0.5 * min(map(intensity, rows)), ridge / 30)
    high = max(6 * max(map(intensity, rows)), 6 * ridge)
    top, slope = machine.gemm / 1e9, machine.bandwidth / 1e9
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.plot([low, ridge, high], [slope * low, top, top], color=COLOURS["good"], linewidth=2.2, zorder=2)
    axes.fill_between([low, ridge, high], [slope * low, top, top], 1e9, color=COLOURS["good"], alpha=0.06, zorder=0)
    slowest = min(rate(row, name) for row in rows for name in _drawn(row))
    axes.set_xlim(low, high)
    axes.set_ylim(0.6 * min(slowest, slope * low), 2.2 * top)
    upper = low**0.2 * ridge**0.8  # far enough from the axis for the text
    for text, place in (
        (f"matrix products, {top:.0f} GFLOP/s", (high, top)),
        (f"memory, {slope:.1f} GB/s", (upper, slope * upper)),
    ):
        note = axes.annotate(text, place, (-8, 6), textcoords="offset points")
        note.set(color=COLOURS["good"], fontsize=10.5, ha="right")


STYLES: dict[str, dict[str, Any]] = {
    "reference": {"facecolors": COLOURS["paper"], "edgecolors": COLOURS["soft"], "marker": "o", "s": 34},
    "torch": {"facecolors": COLOURS["plus"], "edgecolors": COLOURS["paper"], "marker": "D", "s": 40},
    "kernel": {"facecolors": COLOURS["accent"], "edgecolors": COLOURS["paper"], "marker": "o", "s": 150},
}
NUMBER: dict[str, Any] = {"color": "#ffffff", "fontsize": 7, "fontweight": "bold"}


def _points(axes: Axes, rows: list[Row]) -> None:
    """One point for each contestant, those of a row joined by a thin line; ours carries the row's number.

    Of two discs that would overlap one stands a little aside of its line.
    """
    own = [(intensity(row), rate(row, _own(row))) for row in rows]
    disc = (math.sqrt(STYLES["kernel"]["s"]) + 1) * axes.figure.dpi / 72
    own = axes.transData.inverted().transform(_apart(axes.transData.transform(own).tolist(), disc)).tolist()
    for name in STYLES:
        others = [(intensity(row), rate(row, name)) for row in rows if name in row.measured]
        if places := own if name == "kernel" else others:
            axes.scatter(*zip(*places, strict=True), label=name, linewidths=1.2, zorder=4, **STYLES[name])
    for number, (row, place) in enumerate(zip(rows, own, strict=True), 1):
        rates = [rate(row, name) for name in _drawn(row)]
        axes.plot([intensity(row)] * 2, [min(rates), max(rates)], color=COLOURS["line"], linewidth=1.4, zorder=1)
        axes.annotate(str(number), place, ha="center", va="center_baseline", zorder=6, **NUMBER)
    axes.legend(loc="lower right", frameon=False, labelspacing=0.9)


def _apart(places: list[tuple[float, float]], size: float) -> list[tuple[float, float]]:
    """The places, each moved sideways, as little as is needed, so that no two are nearer than `size`."""
    settled: list[tuple[float, float]] = []
    for x, y in places:
        aside = (x + sign * step * size / 4 for step in itertools.count() for sign in (1, -1))
        settled.append(next((a, y) for a in aside if all(math.dist((a, y), other) >= size for other in settled)))
    return settled


def _style(contestant: str) -> str:
    return "kernel" if contestant == "ours" else contestant


def _drawn(row: Row) -> list[str]:
    """The contestants that move the bytes by which the row is placed: not float32 beside weights of fewer bits."""
    return [name for name in row.measured if _style(name) in STYLES]


def _shares(axes: Axes, results: Results, rows: list[Row]) -> None:
    """A line for each row: how near each contestant comes to the limit."""
    for number, row in enumerate(rows, 1):
        shares = {_style(name): 100 * results.share(row, name) for name in _drawn(row)}
        axes.plot([0, max(shares.values())], [number] * 2, color=COLOURS["line"], linewidth=1.2, zorder=1)
        for name, share in shares.items():
            axes.scatter(share, number, linewidths=1.2, zorder=4 + (name == "kernel"), **STYLES[name])
        place = (shares["kernel"], number)
        axes.annotate(str(number), place, ha="center", va="center_baseline", zorder=6, **NUMBER)
    axes.axvline(100, color=COLOURS["good"], linewidth=2.2, zorder=2)
    axes.set_yticks(range(1, len(rows) + 1), [row.name.removesuffix(BACKWARD) for row in rows], fontsize=9.5)
    axes.set_ylim(len(rows) + 0.7, 0.3)
    axes.set_xlim(0, None)
    axes.set_xlabel("share of the limit, %", color=COLOURS["soft"])


def _dress(roof: Axes, shares: Axes, machine: Machine) -> None:
    roof.set_xlabel("floating-point operations for each byte of memory moved", color=COLOURS["soft"])
    roof.set_ylabel("GFLOP/s", color=COLOURS["soft"])
    title = f"{machine.processor}, {threads_text(machine.threads)}, float32, forward and backward"
    roof.set_title(title, loc="left", fontsize=13, fontweight="bold", pad=14)
    roof.xaxis.set_major_formatter("{x:g}")
    roof.yaxis.set_major_formatter("{x:g}")
    for axes in (roof, shares):
        axes.set_facecolor(COLOURS["paper"])
        axes.tick_params(which="both", colors=COLOURS["soft"], length=0)
        axes.grid(which="major", axis="both" if axes is roof else "x", color=COLOURS["line"], linewidth=0.8)
        axes.set_axisbelow(True)
        for side in axes.spines.values():
            side.set_visible(False)
    shares.tick_params(axis="y", colors=COLOURS["ink"])
