"""What learning from preferences leaves to read: scores and answers before and after, and pictures of the margins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from tinygrad_llm.files import atomic_write
from tinygrad_llm.finetuning.labelled_data import short
from tinygrad_llm.tape import Array

SHOWN = 10
"""Answers that are printed."""

ROWS = (
    ("loss (nats per pair)", "loss", "{:.3f}"),
    ("accuracy (positive margins)", "accuracy", "{:.1%}"),
    ("mean margin", "margin", "{:.3f}"),
    ("chosen likelier than rejected", "likelier", "{:.1%}"),
    ("log-probability of the chosen", "chosen", "{:.2f}"),
    ("log-probability of the rejected", "rejected", "{:.2f}"),
    ("own answers that are the chosen", "answers_chosen", "{:.1%}"),
    ("own answers that are the rejected", "answers_rejected", "{:.1%}"),
)


def tell_measured(scores: dict[str, dict[str, float]], count: int, console: Console) -> None:
    """The table of scores. Margins are relative to the model before training, which so has none."""
    before, after = scores["before"], scores["after"]
    console.print(f"{f'{count:,} held-out pairs':<36}{'before':>12}{'after':>12}")
    for title, name, form in ROWS:
        if name in after:
            console.print(f"{title:<36}{form.format(before[name]):>12}{form.format(after[name]):>12}")
    error = math.sqrt(after["accuracy"] * (1 - after["accuracy"]) / count)
    console.print(f"{'  standard error of the accuracy':<36}{'':>12}{f'{error:.1%}':>12}")


def tell_answers(answers: Sequence[dict[str, Any]], console: Console) -> None:
    """Some answers before and after."""
    for one in answers[:SHOWN]:
        console.print(f"prompt      {short(one['prompt'], 100)}")
        for name in ("chosen", "rejected", "before", "after"):
            console.print(f"  {name:<9} {short(one[name], 100)}")


def plot_margins(margins: Array, metrics: Sequence[dict[str, Any]], path: Path) -> None:
    """How many held-out pairs have which margin after training, and the course of accuracy and mean margin."""
    from matplotlib.figure import Figure  # slow to import, and only needed here

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    reach = 1.02 * float(np.abs(margins).max()) or 1.0
    edges = np.linspace(-reach, reach, 41)  # zero is an edge, so that a bar is right or wrong
    counts = np.histogram(margins, edges)[0]
    colors = ["tab:red" if edge < 0 else "tab:blue" for edge in edges[:-1] + 1e-9 * reach]
    left.bar(edges[:-1], counts, np.diff(edges), align="edge", color=colors)
    left.axvline(float(margins.mean()), color="black", linestyle="--", label=f"mean {margins.mean():.2f}")
    share = float((margins > 0).mean())
    left.set(xlabel="margin (nats of reward)", ylabel="held-out pairs", title=f"{share:.1%} are positive")
    left.legend()
    rows = [row for row in metrics if "validation_accuracy" in row]
    steps = [row["step"] for row in rows]
    lines = right.plot(steps, [row["validation_accuracy"] for row in rows], "o-", color="tab:blue", label="accuracy")
    right.set(xlabel="step", ylabel="accuracy", ylim=(0, 1.02), title="during training")
    margin = right.twinx()
    lines += margin.plot(
        steps, [row["validation_margin"] for row in rows], "s:", color="tab:orange", label="mean margin"
    )
    margin.set_ylabel("mean margin (nats of reward)")
    margin.legend(handles=lines, loc="lower right")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    atomic_write(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))
