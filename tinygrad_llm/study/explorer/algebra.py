"""The algebra of a graph's nodes: formulas, derivations run with the nodes' own numbers, and sources."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from tinygrad_llm.checking import derivation_steps
from tinygrad_llm.operation import Operation
from tinygrad_llm.study.explorer.packing import Store
from tinygrad_llm.study.graph import Graph, remembered, vjp_of
from tinygrad_llm.study.notation.prose import (
    docstring_html,
    forward_source,
    highlight,
    html_sentence,
    source_of,
    vjp_source,
)
from tinygrad_llm.tape import Array, Edge, Node
from tinygrad_llm.tensor import registry

DENSE = 200_000
"""Entries of a dense Jacobian up to which a derivation is run: its first step often multiplies one out."""

STEPS = 250_000
"""How many entries of steps a page holds at most."""


def operation_of(node: Node) -> Operation | None:
    """The registered operation that made the node; None if it was another of that name, or none."""
    operation = registry.get(node.name)
    return operation if operation is not None and operation.parameters == tuple(node.parameters) else None


def about(node: Node) -> dict[str, str]:
    """What is told of an operation, as HTML: its docstring, and the sources of its forward pass and its vjp."""
    operation = operation_of(node)
    if operation is None:
        return {"doc": "", "forward": "", "vjp": highlight(source_of(vjp_of(node)))}
    source = vjp_source(operation) if len(operation.sample) else source_of(vjp_of(node))
    return {
        "doc": _documented(operation.__doc__ or ""),
        "forward": highlight(forward_source(operation)),
        "vjp": highlight(source),
    }


def _documented(doc: str) -> Markup:
    """A docstring; as it stands, if its formulas are not in the house notation, as a user's need not be."""
    try:
        return docstring_html(doc)
    except ValueError:
        return Markup("<pre>{}</pre>").format(doc.strip())


def _sentence(why: str) -> Markup:
    try:
        return html_sentence(why)
    except ValueError:
        return escape(why)


class Derivations:
    """Runs the derivations of nodes; their sentences are kept once each, in `texts`."""

    def __init__(self, graph: Graph, store: Store, entries: int = STEPS) -> None:
        self.graph, self.store, self.entries = graph, store, entries
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}

    def of(self, node: Node) -> list[dict[str, Any]]:
        """For each input with a gradient: its steps as [text, array, change], or a note why there are none."""
        return [{"input": node.input_name(edge.position)} | self._steps(node, edge) for edge in node.edges]

    def _steps(self, node: Node, edge: Edge) -> dict[str, Any]:
        operation = operation_of(node)
        name = node.parameters[min(edge.position, len(node.parameters) - 1)]
        if operation is None or name not in operation.derivations:
            return {"note": f"No derivation is attached to the input {name} of {node.name}."}
        outputs = sum(math.prod(shape) for shape, _ in node.outputs)
        row = edge.shape[-1] if len(edge.shape) > 1 else 1  # a loss has the Jacobian of each row inside
        dense = math.prod(edge.shape) * max(outputs, row)
        if dense > DENSE:
            return {
                "note": f"The derivation was not run here: its dense Jacobian would have about {dense:,} entries, "
                f"and at most {DENSE:,} are computed."
            }
        if self.entries <= 0:
            return {"note": "The derivation was not run here: the page is full. Explore a smaller graph to see it."}
        try:
            with np.errstate(all="ignore"):
                steps = derivation_steps(operation, name, *self._arguments(node), self._cotangent(node))
        except Exception as error:  # a derivation is anyone's code, and must not keep the page from being made
            return {"note": f"The derivation stopped: {type(error).__name__}: {error}"}
        rows = []
        for step in steps:
            value = step.value[edge.position] if operation.variadic else step.value
            self.entries -= value.size
            change = step.change if math.isfinite(step.change) else None
            rows.append([self._text(step.why), self.store.add(value, whole=True), change])
        return {"steps": rows}

    def _arguments(self, node: Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        memory = remembered(node)
        return tuple(memory.arrays), dict(memory.options)

    def _cotangent(self, node: Node) -> Array | tuple[Array, ...]:
        arrived = self.graph.cotangents[node.order]
        filled = [
            np.zeros(shape, dtype) if dy is None else dy
            for dy, (shape, dtype) in zip(arrived, node.outputs, strict=True)
        ]
        return tuple(filled) if node.many else filled[0]

    def _text(self, why: str) -> int:
        if why not in self._numbers:
            self._numbers[why] = len(self.texts)
            self.texts.append(_sentence(why))
        return self._numbers[why]
