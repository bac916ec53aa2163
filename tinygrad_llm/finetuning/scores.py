"""How well classes were told apart: confusion matrix, precision, recall, F1, and the picture."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinygrad_llm.files import atomic_write
from tinygrad_llm.tape import Array

LABEL, MOST = 24, 60
"""Characters of a label, and classes, that the picture shows at most."""


class ClassScore(NamedTuple):
    """Of one class: `precision`, the share of what was taken for it that is of it; `recall`, the share of what is of it
    that was taken for it; `f1`, their harmonic mean; `examples` of it. A share of nothing is 0."""

    precision: float
    recall: float
    f1: float
    examples: int


def confusion_matrix(targets: Array, predicted: Array, classes: int) -> Array:
    """Counts (K, K): in row i and column j, examples of class i that were taken for class j."""
    return np.bincount(targets * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def class_scores(confusion: Array) -> list[ClassScore]:
    """Of each class of a confusion matrix."""
    scores = []
    for number in range(len(confusion)):
        right, taken, there = (
            int(n) for n in (confusion[number, number], confusion[:, number].sum(), confusion[number].sum())
        )
        f1 = 2 * right / (taken + there) if right else 0.0
        scores.append(ClassScore(right / max(1, taken), right / max(1, there), f1, there))
    return scores


def accuracy(confusion: Array) -> float:
    """The share of the examples that were taken for what they are."""
    return float(np.trace(confusion) / confusion.sum())


def standard_error(confusion: Array) -> float:
    """That of the accuracy a of n examples, ``sqrt(a (1 - a) / n)``."""
    right = accuracy(confusion)
    return math.sqrt(right * (1 - right) / float(confusion.sum()))


def macro_f1(confusion: Array) -> float:
    """The mean of the classes' F1, each counted alike; without classes that neither occur nor were predicted."""
    occurs = confusion.sum(axis=0) + confusion.sum(axis=1) > 0
    return float(np.mean([score.f1 for score, there in zip(class_scores(confusion), occurs, strict=True) if there]))


def plot_confusion(confusion: Array, labels: Sequence[str], path: Path) -> None:
    """The confusion matrix as a picture: counts, and in colour the share of each row."""
    from matplotlib.figure import Figure  # slow to import, and only needed here

    shown = np.sort(np.argsort(-confusion.sum(axis=1), kind="stable")[:MOST])
    title = f"{accuracy(confusion):.1%} of {confusion.sum():,} right"
    if len(shown) < len(labels):
        title += f"; the {MOST} most frequent of {len(labels):,} classes"
    shares = (confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1))[np.ix_(shown, shown)]
    confusion, labels, count = confusion[np.ix_(shown, shown)], [labels[number] for number in shown], len(shown)
    names = [" ".join(label.split()) for label in labels]
    names = [name if len(name) <= LABEL else f"{name[: LABEL - 3]}..." for name in names]
    cell = 0.42 if count > 12 else 0.6
    margin = 1.0 + 0.085 * max(map(len, names))
    side = max(2.2, cell * count)
    figure = Figure(figsize=(side + margin + 1.2, side + margin), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(confusion):
        axes.text(
            column,
            row,
            f"{confusion[row, column]:,}",
            ha="center",
            va="center",
            color="white" if shares[row, column] > 0.55 else "black",
            fontsize=9 if count <= 12 else 7,
        )
    axes.set_xticks(range(count), names, rotation=90 if count > 4 else 0, parse_math=False)
    axes.set_yticks(range(count), names, parse_math=False)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_xticks(np.arange(count - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(count - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="0.9", linewidth=0.8)
    axes.tick_params(which="minor", length=0)
    axes.set_title(title)
    figure.colorbar(image, ax=axes, label="share of the true class", fraction=0.046)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of signs that the font lacks: a box stands for them
        atomic_write(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))
