"""The local Jacobians of a graph's operations, sparse: every ``∂y_i/∂x_j`` that is not zero.

A vjp is linear in its cotangent, so with the unit cotangent ``e_i`` it gives row i of the Jacobian. Here all rows are
wanted, for all entries of the inputs at once; `local.py` finds the terms of one entry with fewer runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tinygrad_llm.study.graph import Graph, vjp_of
from tinygrad_llm.tape import Array, Node

RUNS = 100_000
"""How many unit cotangents are tried in all."""

TERMS = 400_000
"""How many local derivatives are kept in all."""

WORK = 4_000_000
"""Entries of inputs times entries of outputs: larger nodes are left out."""


@dataclass(frozen=True)
class Jacobian:
    """``∂y_i/∂x_j`` by columns: those of entry j are `local[starts[j]:starts[j + 1]]`, of outputs `places[...]`.

    x is counted in flat order, and so is y; the outputs of a node that has several are counted one after the other.
    """

    starts: Array
    places: Array
    local: Array


def local_jacobians(graph: Graph, runs: int = RUNS, terms: int = TERMS) -> dict[tuple[int, int], Jacobian]:
    """(creation number of a node, position of its input) to Jacobian; small nodes first, as far as the budget goes."""
    found: dict[tuple[int, int], Jacobian] = {}
    for node in sorted(graph.nodes, key=_outputs):
        outputs, inputs = _outputs(node), sum(math.prod(edge.shape) for edge in node.edges)
        if outputs > runs or outputs * inputs > WORK:
            continue
        runs -= outputs
        jacobians = node_jacobians(node)
        size = sum(j.local.size for j in jacobians)
        if size <= terms:
            terms -= size
            found |= {(node.order, e.position): j for e, j in zip(node.edges, jacobians, strict=True)}
    return found


def _outputs(node: Node) -> int:
    return sum(math.prod(shape) for shape, _ in node.outputs)


def node_jacobians(node: Node) -> list[Jacobian]:
    """One Jacobian for each edge of the node."""
    vjp = vjp_of(node)
    rows: list[list[tuple[Array, Array]]] = [[] for _ in node.edges]
    for number, (shape, dtype) in enumerate(node.outputs):
        for place in range(math.prod(shape)):
            unit = np.zeros(math.prod(shape), dtype)
            unit[place] = 1
            cotangents = [unit.reshape(shape) if n == number else None for n in range(len(node.outputs))]
            with np.errstate(all="ignore"):
                gradients = node.gradients(vjp, cotangents, node.edges)
            for row, gradient in zip(rows, gradients, strict=True):
                flat = gradient.ravel()
                nonzero = np.flatnonzero(flat)
                row.append((nonzero, flat[nonzero]))
    return [_by_columns(row, math.prod(e.shape), e.dtype) for row, e in zip(rows, node.edges, strict=True)]


def _by_columns(rows: list[tuple[Array, Array]], columns: int, dtype: np.dtype) -> Jacobian:
    """Rows of (columns, entries) turned into columns of (rows, entries)."""
    where = np.concatenate([np.empty(0, np.intp), *(column for column, _ in rows)])
    local = np.concatenate([np.empty(0, dtype), *(entries for _, entries in rows)])
    places = np.repeat(np.arange(len(rows)), [len(column) for column, _ in rows])
    order = np.argsort(where, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(where, minlength=columns))])
    return Jacobian(starts.astype(np.int32), places[order].astype(np.int32), local[order])
