"""The graph behind a gradient, as study sees it: the values, who made them, who uses them, and every gradient.

The tape keeps a graph only to run it once. Here it is read without being used up: nodes that the tape remembers (see
`tape.Memory`) still hold their values and vjps, before and after backward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinygrad_llm.nn import Module
from tinygrad_llm.tape import Array, Edge, Memory, Node
from tinygrad_llm.tensor import Tensor

Key = tuple[int, int]
"""Of a value: (creation number of its node, number of the output); of a leaf: (its id, -1)."""


@dataclass(frozen=True)
class Use:
    """One consumer of a value: the node, and the edge by which it sends a gradient back."""

    node: Node
    edge: Edge

    @property
    def parameter(self) -> str:
        """Which input of the consumer the value is."""
        return self.node.input_name(self.edge.position)


@dataclass(eq=False)
class Value:
    """A leaf, or an output of a node. `path` names the modules that were at work, outermost first."""

    key: Key
    name: str
    data: Array
    node: Node | None
    output: int
    path: tuple[str, ...] = ()
    gradient: Array | None = None
    uses: list[Use] = field(default_factory=list)

    @property
    def operation(self) -> str:
        """The operation that made it, or "leaf"."""
        return "leaf" if self.node is None else self.node.name


class Graph:
    """Everything between `outputs` and the leaves that require a gradient, with all gradients computed.

    `values` are in the order of creation, leaves first; `nodes` too. `cotangents` maps a node's creation number to what
    arrived at its outputs, and `sent` maps (creation number, position) to the gradient of that input of the node.
    `names` gives names to Tensors; parameters of the modules at work are known by theirs.
    """

    def __init__(self, outputs: Sequence[tuple[Node, Sequence[Array | None]]], names: Mapping[str, Any]) -> None:
        self.nodes = sorted(reachable([node for node, _ in outputs]), key=lambda node: node.order)
        self.outputs = [node for node, _ in outputs]
        self.values: dict[Key, Value] = {}
        self.cotangents: dict[int, list[Array | None]] = {n.order: [None] * len(n.outputs) for n in self.nodes}
        self.sent: dict[tuple[int, int], Array] = {}
        self._collect(_names_by_identity(names, self.nodes))
        for node, cotangents in outputs:
            for number, cotangent in enumerate(cotangents):
                if cotangent is not None:
                    self._add(self.values[node.order, number], cotangent)
        for node in reversed(self.nodes):
            self._pull(node)

    def _collect(self, names: Mapping[int, str]) -> None:
        """Enter every value and every use of it."""
        total: dict[str, int] = {}
        for node in self.nodes:
            total[node.name] = total.get(node.name, 0) + 1
        seen: dict[str, int] = {}
        for node in self.nodes:
            for edge in node.edges:
                key, leaf = key_of(edge), edge.target
                if isinstance(leaf, Tensor) and key not in self.values:
                    self.values[key] = Value(key, names.get(id(leaf), "leaf"), leaf.data, None, 0)
        for node in self.nodes:
            seen[node.name] = number = seen.get(node.name, 0) + 1
            name = node.name if total[node.name] == 1 else f"{node.name}_{number}"
            memory = remembered(node)
            for output, data in enumerate(memory.values):
                title = names.get(id(data), name if len(memory.values) == 1 else f"{name}.{output}")
                value = Value((node.order, output), title, data, node, output, module_path(memory))
                self.values[value.key] = value
            for edge in node.edges:
                self.values[key_of(edge)].uses.append(Use(node, edge))

    def _add(self, value: Value, gradient: Array) -> None:
        value.gradient = gradient if value.gradient is None else value.gradient + gradient
        if value.node is not None:
            self.cotangents[value.node.order][value.output] = value.gradient

    def _pull(self, node: Node) -> None:
        arrived = self.cotangents[node.order]
        if all(c is None for c in arrived):
            return
        for edge, gradient in zip(node.edges, node.gradients(vjp_of(node), arrived, node.edges), strict=True):
            self.sent[node.order, edge.position] = gradient
            self._add(self.values[key_of(edge)], gradient)

    def value(self, tensor: Tensor) -> Value:
        """The value that `tensor` holds; ValueError if it is not part of this graph."""
        key = (id(tensor), -1) if tensor.node is None else (tensor.node.order, tensor.output_index)
        if key not in self.values:
            raise ValueError("this Tensor is not part of the graph: the output does not depend on it")
        return self.values[key]


def graph_of(output: Tensor, names: Mapping[str, Any] | None = None) -> Graph:
    """The graph behind `output`, before or after ``output.backward()``.

    Before, a scalar's cotangent is taken to be 1. Raises ValueError if there is no graph, or it was not remembered.
    """
    if output.node is None:
        raise ValueError("this Tensor was not computed from any Tensor with requires_grad=True: it has no graph")
    return Graph([_start(output.node, output.output_index)], names or {})


def graph_behind(tensor: Tensor, names: Mapping[str, Any] | None = None) -> Graph:
    """The graph of the last backward that reached `tensor`, or the leaves that it was computed from."""
    leaves = [tensor] if tensor.node is None else _leaves(tensor.node)
    for leaf in leaves:
        if leaf.origin:
            return Graph([_start(node, 0) for node in leaf.origin], names or {})
    if any(leaf.grad is not None for leaf in leaves):
        raise ValueError(
            "the graph behind this gradient was too large to be kept after backward(): "
            "run the forward and the backward pass again inside `with tg.keep_graph():`"
        )
    raise ValueError("no backward() has reached this Tensor yet: call it on the output first, as in loss.backward()")


def _start(node: Node, output: int) -> tuple[Node, list[Array | None]]:
    """Where backward begins, with what arrived there, or with 1."""
    if node.replay is not None:
        return node, node.replay[1]
    shape, dtype = node.outputs[output]
    if np.prod(shape) != 1:
        raise ValueError(
            f"an output of shape {shape} needs a cotangent: call backward(dy) with one, or reduce it to a number first"
        )
    return node, [np.ones(shape, dtype) if n == output else None for n in range(len(node.outputs))]


def reachable(nodes: Sequence[Node]) -> Iterator[Node]:
    """Every node from these backwards, once."""
    stack, seen = list(nodes), set()
    while stack:
        node = stack.pop()
        if node.order in seen:
            continue
        seen.add(node.order)
        yield node
        stack.extend(edge.target for edge in node.edges if isinstance(edge.target, Node))


def _leaves(node: Node) -> list[Tensor]:
    return [e.target for n in reachable([node]) for e in n.edges if isinstance(e.target, Tensor)]


def key_of(edge: Edge) -> Key:
    """Of the value that the edge leads to."""
    target = edge.target
    return (target.order, edge.target_output) if isinstance(target, Node) else (id(target), -1)


def remembered(node: Node) -> Memory:
    """What the tape remembers of a node; ValueError if it was too large for that."""
    if node.memory is None:
        shapes = " and ".join(str(shape) for shape, _ in node.outputs)
        raise ValueError(
            f"the operation {node.name!r} with its output {shapes} was not remembered for study (too large, or inside "
            "checkpoint()): run the forward and the backward pass again inside `with tg.keep_graph():`"
        )
    return node.memory


def vjp_of(node: Node) -> Callable[..., Any]:
    """The vjp of a remembered node, before or after backward."""
    remembered(node)
    if node.vjp is not None:
        return node.vjp
    if node.replay is None:
        raise ValueError(f"the vjp of {node.name!r} is gone")
    return node.replay[0]


def module_path(memory: Memory) -> tuple[str, ...]:
    """The names of the modules that were at work, outermost first: ("GPT", "blocks.0", "attention")."""
    names: list[str] = []
    parent: Module | None = None
    for module, _ in memory.callers:
        names.append(_child_name(parent, module))
        parent = module
    return tuple(names)


def _child_name(parent: Module | None, module: Module) -> str:
    for name, child in parent.children() if parent is not None else ():
        if child is module:
            return name
    return type(module).__name__


def _names_by_identity(names: Mapping[str, Any], nodes: Sequence[Node]) -> dict[int, str]:
    """id to name: of the Tensors given by name (an intermediate one goes by its array), and of modules' parameters."""
    found: dict[int, str] = {}
    for node in nodes:
        if node.memory is not None and node.memory.callers:
            top = node.memory.callers[0][0]
            if id(top) not in found:
                found[id(top)] = type(top).__name__
                found |= {id(parameter): name for name, parameter in top.named_parameters()}
    for name, thing in names.items():
        if isinstance(thing, Tensor):
            found[id(thing) if thing.node is None else id(thing.data)] = name
    for name, thing in names.items():  # what a module calls its parameters says more than a variable's name
        if isinstance(thing, Module):
            found |= {id(parameter): f"{name}.{inner}" for inner, parameter in thing.named_parameters()}
    return found
