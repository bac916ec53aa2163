"""What the explorer's page is made from: the boxes of a graph, grouped by module, and all their numbers.

A box is an operation or a leaf. Groups are calls of modules (see `keep_graph`); where many boxes stand side by side
without a module, consecutive ones are grouped, so that no picture has more than a few dozen parts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tinygrad_llm.study.explorer.algebra import Derivations, about
from tinygrad_llm.study.explorer.axes import axis_kinds, input_kinds
from tinygrad_llm.study.explorer.jacobians import local_jacobians
from tinygrad_llm.study.explorer.packing import Store
from tinygrad_llm.study.explorer.story import attention_patterns, story
from tinygrad_llm.study.graph import Graph, Key, Use, Value, key_of, module_path, remembered
from tinygrad_llm.tape import Node

CROWD = 48
"""How many parts a group may have before consecutive ones are grouped."""

Call = tuple[int, ...]
"""Which calls of modules, outermost first."""


def anatomy(graph: Graph, words: Sequence[str], title: str) -> dict[str, Any]:
    """Everything that the page shows, ready for JSON."""
    return _Anatomy(graph, words).data(title)


class _Anatomy:
    def __init__(self, graph: Graph, words: Sequence[str]) -> None:
        self.graph, self.words = graph, words
        self.store = Store()
        self.derivations = Derivations(graph, self.store)
        self.jacobians = local_jacobians(graph)
        self.story = story(graph, words)
        self.kinds = axis_kinds(graph, self.story.ids if self.story else None)
        self.numbers = {key: number for number, key in enumerate(graph.values)}
        self.groups: list[dict[str, Any]] = [{"name": "", "title": "", "parent": -1}]
        self.calls: dict[Call, int] = {(): 0}
        self.boxes: list[dict[str, Any]] = []
        self.box_of: dict[Key, int] = {}
        self.packed_jacobians: list[list[int]] = []

    def data(self, title: str) -> dict[str, Any]:
        """The boxes first, then the values, which know their boxes."""
        for thing in self._things():
            self._leaf(thing) if isinstance(thing, Value) else self._node(thing)
        self._name_boxes()
        values = [self._value(value) for value in self.graph.values.values()]
        self._split_crowds()
        data = {
            "title": title,
            "boxes": self.boxes,
            "groups": self.groups,
            "values": values,
            "jacobians": self.packed_jacobians,
            "operations": {node.name: about(node) for node in {n.name: n for n in self.graph.nodes}.values()},
            "texts": self.derivations.texts,
            "words": list(self.words),
            "story": self.story.data(self.numbers) if self.story else None,
        }
        return data | {"arrays": self.store.packed()}

    def _things(self) -> Iterable[Value | Node]:
        """Nodes in the order of creation, each after the leaves that it is the first to use."""
        seen: set[Key] = set()
        leaves = {value.key: value for value in self.graph.values.values() if value.node is None}
        users: dict[int, list[Value]] = {}
        for value in leaves.values():
            users.setdefault(min(use.node.order for use in value.uses), []).append(value)
        for node in self.graph.nodes:
            for value in users.get(node.order, ()):
                if value.key not in seen:
                    seen.add(value.key)
                    yield value
            yield node

    def _group(self, node: Node) -> int:
        """The group of the module call that made the node."""
        memory = remembered(node)
        path, parent = module_path(memory), 0
        for depth, (module, _) in enumerate(memory.callers):
            key = tuple(number for _, number in memory.callers[: depth + 1])
            if key not in self.calls:
                self.calls[key] = len(self.groups)
                self.groups.append({"name": path[depth], "title": type(module).__name__, "parent": parent})
            parent = self.calls[key]
        return parent

    def _leaf(self, value: Value) -> None:
        self.box_of[value.key] = len(self.boxes)
        first = min(value.uses, key=lambda use: use.node.order)
        self.boxes.append(
            {
                "op": "",
                "name": value.name,
                "group": self._group(first.node),
                "values": [self.numbers[value.key]],
                "inputs": [],
            }
        )

    def _node(self, node: Node) -> None:
        memory = remembered(node)
        values = [self.graph.values[node.order, n] for n in range(len(memory.values))]
        for value in values:
            self.box_of[value.key] = len(self.boxes)
        name = values[0].name if len(values) == 1 else values[0].name.removesuffix(".0")
        box = {
            "op": node.name,
            "name": name,
            "group": self._group(node),
            "values": [self.numbers[value.key] for value in values],
            "inputs": self._inputs(node),
            "options": [f"{name} = {_brief(option)}" for name, option in memory.options.items()],
            "algebra": self.derivations.of(node),
        }
        patterns = attention_patterns(self.graph, node)
        if patterns is not None:
            box["attention"] = {name: self.store.add(array) for name, array in patterns.items()}
        self.boxes.append(box)

    def _inputs(self, node: Node) -> list[dict[str, Any]]:
        """The arguments by position: a value of the graph, an array beside it, or something else in words."""
        edges = {edge.position: edge for edge in node.edges}
        kinds = input_kinds(node, self.kinds)
        inputs: list[dict[str, Any]] = []
        for position, argument in enumerate(remembered(node).arrays):
            row: dict[str, Any] = {"name": node.input_name(position)}
            if position in edges:
                row["value"] = self.numbers[key_of(edges[position])]
            elif isinstance(argument, np.ndarray):
                row |= {"array": self.store.add(argument), "axes": kinds[position]}
            else:
                row["text"] = _brief(argument)
            inputs.append(row)
        return inputs

    def _name_boxes(self) -> None:
        """A name for the address of each box: its own, numbered where several have it."""
        total, seen = Counter(box["name"] for box in self.boxes), Counter[str]()
        for box in self.boxes:
            seen[box["name"]] += 1
            repeated = total[box["name"]] > 1
            box["address"] = f"{box['name']}~{seen[box['name']]}" if repeated else box["name"]

    def _value(self, value: Value) -> dict[str, Any]:
        row = {
            "name": value.name,
            "box": self.box_of[value.key],
            "array": self.store.add(value.data),
            "axes": self.kinds[value.key],
            "uses": [self._use(use, value) for use in value.uses],
        }
        if value.gradient is not None:
            row["gradient"] = self.store.add(value.gradient)
        return row

    def _use(self, use: Use, value: Value) -> dict[str, Any]:
        position = use.edge.position
        row: dict[str, Any] = {"box": self.box_of[use.node.order, 0], "input": use.parameter}
        sent = self.graph.sent.get((use.node.order, position))
        if sent is not None:
            row["sent"] = self.store.add(sent)
        jacobian = self.jacobians.get((use.node.order, position))
        if jacobian is not None:
            row["jacobian"] = len(self.packed_jacobians)
            arrays = jacobian.starts, jacobian.places, jacobian.local
            self.packed_jacobians.append([self.store.add(array, whole=True) for array in arrays])
        return row

    def _split_crowds(self) -> None:
        """Of n parts that are too many for one group, make groups of about sqrt(n) consecutive ones."""
        for group in range(len(self.groups)):
            parts = self._parts(group)
            if len(parts) > CROWD:
                size = math.ceil(math.sqrt(len(parts)))
                for start in range(0, len(parts), size):
                    self._chunk(group, parts[start : start + size])

    def _parts(self, group: int) -> list[dict[str, Any]]:
        """The direct parts of a group, in the order of their first boxes."""
        first: dict[int, tuple[int, dict[str, Any]]] = {}
        for number, box in enumerate(self.boxes):
            inner, part = box["group"], box
            while inner != group and inner > 0:
                inner, part = self.groups[inner]["parent"], self.groups[inner]
            if inner == group:
                first.setdefault(id(part), (number, part))
        return [part for _, part in sorted(first.values(), key=lambda pair: pair[0])]

    def _chunk(self, group: int, parts: list[dict[str, Any]]) -> None:
        number = len(self.groups)
        self.groups.append({"name": "", "title": "", "parent": group, "chunk": True})
        for part in parts:
            part["parent" if "parent" in part else "group"] = number


def _brief(thing: Any) -> str:
    """An option in one short line; arrays by their shape."""
    if isinstance(thing, np.ndarray):
        return f"an array of shape {thing.shape}"
    text = repr(thing)
    return text if len(text) <= 60 else text[:59] + "…"
