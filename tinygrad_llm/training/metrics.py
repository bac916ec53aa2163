"""Metrics of a run: one JSON object a line, and the picture of the loss made from them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from tinygrad_llm.files import atomic_write


class Metrics:
    """Appends to ``metrics.jsonl``; each line is flushed, so a kill loses nothing but the line being written."""

    def __init__(self, path: Path | None = None, resume_from: int = 0) -> None:
        """Keep the lines up to step `resume_from` (none for a new run): later ones will be measured again.

        Without a path nothing is written: of several ranks, one keeps the file.
        """
        self.path, self._file = path, None
        if path is None:
            return
        kept = [row for row in read_metrics(path) if row["step"] <= resume_from] if path.exists() else []
        atomic_write(path, "".join(json.dumps(row) + "\n" for row in kept).encode())
        self._file = path.open("a", encoding="utf-8")

    def write(self, **values: Any) -> None:
        """Append one line; it must have a ``step``."""
        if self._file is not None:
            self._file.write(json.dumps(values) + "\n")
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All complete lines; a last line cut off by a kill is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return [row for row in rows if isinstance(row, dict) and "step" in row]


def past_losses(path: Path, step: int) -> list[float]:
    """The training losses up to `step`, if the file is there."""
    rows = read_metrics(path) if path.exists() else []
    return [row["loss"] for row in rows if "loss" in row and row["step"] <= step]


class BestMeasurement:
    """The step after which the loss on what is held out was lowest, and how many measurements came since."""

    def __init__(self) -> None:
        self.step, self.loss, self.since = 0, math.inf, 0

    @classmethod
    def of(cls, rows: Iterable[dict[str, Any]]) -> Self:
        """That of the metrics so far."""
        best = cls()
        for row in rows:
            if "validation_loss" in row:
                best.see(row["step"], row["validation_loss"])
        return best

    def see(self, step: int, loss: float) -> bool:
        """Take a measurement into account; whether it is better than all before."""
        if loss < self.loss:
            self.step, self.loss, self.since = step, loss, 0
            return True
        self.since += 1
        return False

    def tired(self, patience: int) -> bool:
        """Whether so many measurements came since, and none was better; never for 0."""
        return 0 < patience <= self.since


def plot_loss(rows: list[dict[str, Any]], path: Path, target: str = "token") -> None:
    """The training loss (each step, and smoothed), the validation loss, and the learning rate, over the steps."""
    from matplotlib.figure import Figure  # slow to import, and only needed here

    training = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    validation = [(row["step"], row["validation_loss"]) for row in rows if "validation_loss" in row]
    rates = [(row["step"], row["learning_rate"]) for row in rows if "learning_rate" in row]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    if training:
        steps, losses = zip(*training, strict=True)
        axes.plot(steps, losses, color="tab:blue", alpha=0.25, linewidth=0.8)
        axes.plot(steps, smooth(losses), color="tab:blue", label="training (smoothed)")
    if validation:
        axes.plot(*zip(*validation, strict=True), "o-", color="tab:orange", markersize=4, label="validation")
    axes.set(xlabel="step", ylabel=f"loss (nats per {target})")
    axes.grid(alpha=0.3)
    if rates:
        right = axes.twinx()
        right.plot(*zip(*rates, strict=True), color="tab:gray", linewidth=1, linestyle=":", label="learning rate")
        right.set_ylabel("learning rate")
        right.set_ylim(bottom=0)
    if rows:
        figure.legend(loc="upper right", bbox_to_anchor=(1, 1), bbox_transform=axes.transAxes)
    atomic_write(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))


def write_samples(rows: list[dict[str, Any]], path: Path) -> None:
    """The sample texts with the step after which each was written; no file without any."""
    samples = [f"--- after step {row['step']} ---\n{row['sample']}\n" for row in rows if "sample" in row]
    if samples:
        atomic_write(path, "\n".join(samples).encode())
    else:
        path.unlink(missing_ok=True)


def smooth(values: tuple[float, ...], weight: float = 0.95) -> list[float]:
    """Exponential moving average, with the bias towards its start divided out."""
    total = mass = 0.0
    result = []
    for value in values:
        total, mass = weight * total + (1 - weight) * value, weight * mass + 1 - weight
        result.append(total / mass)
    return result
