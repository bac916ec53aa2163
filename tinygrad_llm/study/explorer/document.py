"""`explore`: the gradient explorer, one HTML file with a whole graph, its values, its gradients and their algebra.

The page's own sources are in ``assets/``; here they are put together with the graph's data (see `anatomy.py`).
"""

from __future__ import annotations

import importlib.resources
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from rich.console import Console

from tinygrad_llm.files import atomic_write
from tinygrad_llm.study.explorer.algebra import operation_of
from tinygrad_llm.study.explorer.anatomy import anatomy
from tinygrad_llm.study.graph import Graph, graph_of, reachable, remembered
from tinygrad_llm.study.lookup import refuse_existing
from tinygrad_llm.study.page import STYLE, json_in_script, templates
from tinygrad_llm.tensor import Tensor

OPERATIONS = 5000
"""How many operations a graph may have to be drawn."""

SCRIPTS = ("numbers", "layout", "heatmap", "graph", "panel", "why", "attention", "story", "explorer")
"""The parts of the page's script, in the order in which they stand in it."""


@dataclass(frozen=True, repr=False)
class Explorer:
    """The page: `html` is all of it, `operations` and `leaves` say how much it shows."""

    html: str
    operations: int
    leaves: int

    def save(self, path: str | os.PathLike[str], force: bool = False) -> Path:
        """Write the page to `path`, which must not exist unless `force` is given."""
        file = refuse_existing(path, force)
        atomic_write(file, self.html.encode("utf-8"))
        return file

    def _repr_html_(self) -> str:
        return (
            f'<iframe title="gradient explorer" srcdoc="{escape(self.html)}" '
            'style="width: 100%; height: 760px; border: 1px solid #8886; border-radius: 8px"></iframe>'
        )

    def __repr__(self) -> str:
        return f"<Explorer: operations {self.operations:,}, leaves {self.leaves:,}; save(path) writes it as one page>"


def explore(
    loss: Tensor,
    path: str | os.PathLike[str] | None = None,
    names: Mapping[str, Any] | None = None,
    words: Sequence[str] = (),
    title: str = "Gradient explorer",
    force: bool = False,
) -> Explorer:
    """The graph behind `loss` as a page to walk through, before or after ``loss.backward()``.

    `names` (variable names to Tensors or Modules) default to the caller's variables; `words` are the vocabulary's
    tokens by id, if the ids are to be shown as words. With `path`, the page is also written there (see
    `Explorer.save`).

    Modules appear as groups if the forward pass ran inside ``with tg.keep_graph():``. Raises ValueError for a Tensor
    without a graph, one that was too large to be remembered, one whose arrays have been changed since, or one of more
    than `OPERATIONS` operations.
    """
    if not isinstance(loss, Tensor):
        raise TypeError(f"explore: expected the Tensor whose gradients are wanted, not {type(loss).__name__}")
    if path is not None:
        refuse_existing(path, force)
    if names is None:
        frame = sys._getframe(1)
        names = {**frame.f_globals, **frame.f_locals}
    count = _count_operations(loss)
    with Console(stderr=True).status(f"exploring {count:,} operations"):  # shows itself in a terminal only
        graph = graph_of(loss, names)
        _check_unchanged(graph)
        leaves = sum(value.node is None for value in graph.values.values())
        explorer = Explorer(render(graph, words, title), count, leaves)
    if path is not None:
        explorer.save(path, force)
    return explorer


def _count_operations(loss: Tensor) -> int:
    """How many operations there are; a graph that has too many is refused before its gradients are computed."""
    count = sum(1 for _ in reachable([loss.node])) if loss.node is not None else 0
    if count > OPERATIONS:
        raise ValueError(
            f"explore: the graph has {count:,} operations, and at most {OPERATIONS:,} can be drawn; explore a smaller "
            "model, fewer layers or a shorter sequence, or the gradient of a part of it"
        )
    return count


def _check_unchanged(graph: Graph) -> None:
    """The arrays must still be those of the forward pass: else values and gradients would not belong together."""
    for node in graph.nodes:
        operation = operation_of(node)
        if operation is None or not operation.__module__.startswith("tinygrad_llm."):
            continue  # another's operation may draw random numbers
        memory = remembered(node)
        with np.errstate(all="ignore"):
            again = operation.compute(*memory.arrays, **memory.options)[0]
        for now, then in zip(again if node.many else (again,), memory.values, strict=True):
            scale = float(np.abs(then[np.isfinite(then)]).max(initial=0.0))
            rounding = 100 * float(np.finfo(then.dtype).eps) * scale if then.dtype.kind == "f" else 0.0
            if not np.allclose(now, then, rtol=0, atol=rounding, equal_nan=True):
                raise ValueError(
                    f"explore: an input of {node.name!r} has been changed since the forward pass, as an optimizer's "
                    "step does: run the forward and the backward pass again, and explore before the step"
                )


def render(graph: Graph, words: Sequence[str], title: str) -> str:
    """The whole page."""
    script = "\n".join(_asset(f"{name}.js") for name in SCRIPTS)
    return (
        templates()
        .from_string(_asset("explorer.html"))
        .render(
            title=title,
            style=Markup(STYLE + _asset("explorer.css")),
            script=Markup(f'(() => {{\n"use strict";\n{script}\n}})();'),
            data=json_in_script(anatomy(graph, words, title)),
        )
    )


def _asset(name: str) -> str:
    return importlib.resources.files("tinygrad_llm.study.explorer").joinpath("assets", name).read_text(encoding="utf-8")
