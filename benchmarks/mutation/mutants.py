"""The mutants of a source file: which small changes are made to it, and which of them count.

The changes are those of cosmic-ray's operators, and a few of our own for mistakes that people make in gradients. What
does not count is left out by rule:

* A binary operator is replaced by two of its own kind (``*`` by ``/`` and ``+``). ``x << y`` of two floating-point
  arrays only raises TypeError: such mutants are killed by anything and would flatter the score.
* ``==`` and the orderings are replaced by one another, ``is`` by ``is not``; whether ``4 is 4`` is a matter of CPython.
* Nothing is changed in annotations, in strings (docstrings, the sentences of a derivation, what ``__repr__`` returns),
  nor in what a ``raise`` says.
* The functions that draw an operation's samples (their first argument is `rng`) are the data of its checks: another
  legal draw is no mistake.
* A mutant that does not compile, or that compiles to the same program, is none.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cosmic_ray.plugins
import parso
from cosmic_ray.operators.operator import Operator

OF_THEIR_KIND = {
    "Add": ("Sub", "Mul"),
    "Sub": ("Add", "Mul"),
    "Mul": ("Div", "Add"),
    "Div": ("Mul", "Sub"),
    "FloorDiv": ("Mul", "Sub"),
    "Mod": ("Add", "Mul"),
    "Pow": ("Mul", "Div"),
    "BitOr": ("BitAnd", "BitXor"),
    "BitAnd": ("BitOr", "BitXor"),
    "BitXor": ("BitAnd", "BitOr"),
}
ORDERS = ("Eq", "NotEq", "Lt", "LtE", "Gt", "GtE")
UNCOUNTED = {"raise_stmt", "fstring", "annassign", "tfpdef", "import_from", "import_name"}
"""Kinds of syntax nothing inside which is changed; besides these, parameters' and results' annotations."""


@dataclass(frozen=True)
class Mutant:
    """One changed program.

    `before` and `after` are the changed lines, without comments and sentences, and `key` is a hash of the changed
    top-level statement: neither depends on where in its file it stands, nor on wording.
    """

    module: str
    operator: str
    occurrence: int
    start: tuple[int, int]
    end: tuple[int, int]
    before: str
    after: str
    source: str
    key: str
    in_derivation: bool


def mutants(module: str, source: str) -> list[Mutant]:
    """All mutants of a file that count, in the order of their lines."""
    tree = parso.parse(source)
    parts = [part.get_code() for part in tree.children]
    found: dict[str, Mutant] = {}
    for operator, occurrence, node, (start, end), place, changed in _changes(tree):
        if not _counts(node):
            continue
        try:
            programs = _program(parts[place]), _program(changed)
        except SyntaxError:
            continue
        if programs[0] == programs[1]:
            continue
        key = hashlib.sha256("\0".join([module, *programs]).encode()).hexdigest()[:32]
        before, after = _changed_lines(parts[place], changed)
        whole = "".join([*parts[:place], changed, *parts[place + 1 :]])
        derivation = ".derivation(" in parts[place]
        found.setdefault(key, Mutant(module, operator, occurrence, start, end, before, after, whole, key, derivation))
    return sorted(found.values(), key=lambda m: (m.start, m.operator, m.occurrence))


def _program(code: str) -> str:
    """What a statement says to Python, with its sentences blanked: rewording one does not make another program."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            node.value = " "
    return ast.dump(tree)


def _changed_lines(code: str, changed: str) -> tuple[str, str]:
    old, new = code.splitlines(), changed.splitlines()
    spans = [s for s in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes() if s[0] != "equal"]
    first, last = spans[0], spans[-1]
    return _readable(old[first[1] : last[2]]), _readable(new[first[3] : last[4]])


def _readable(lines: list[str]) -> str:
    """Lines as one, without comments, and with "..." for sentences."""
    joined = " ".join(re.sub(r"(^|  )#.*$", "", line).strip() for line in lines)
    return re.sub(r'"[^"]*"', lambda m: '"..."' if " " in m[0] else m[0], " ".join(joined.split()))


def _changes(tree: Any) -> Iterator[tuple[str, int, Any, Any, int, str]]:
    """(operator, occurrence, node, (start, end), number of the top-level statement, its changed code) of each change.

    The tree is as before when the next one is made.
    """
    nodes = [(place, node) for place, part in enumerate(tree.children) for node in _nodes(part)]
    for name, operator in operators():
        occurrence = 0
        for place, node in nodes:
            for index, span in enumerate(operator.mutation_positions(node)):
                with _restored(node):
                    new = operator.mutate(node, index)
                    if new is not node:
                        siblings = node.parent.children
                        at = next(i for i, child in enumerate(siblings) if child is node)
                        siblings[at : at + 1] = [] if new is None else [new]
                    changed = "" if new is None and node.parent is tree else tree.children[place].get_code()
                yield name, occurrence, node, span, place, changed
                occurrence += 1


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    for child in getattr(node, "children", ()):
        yield from _nodes(child)


@contextmanager
def _restored(node: Any) -> Iterator[None]:
    """Undo what an operator does to a node: to its value, to what is below it, and to its place."""
    family = [n for n in (*_nodes(node), node.parent) if n is not None]
    before = [(n, list(n.children) if hasattr(n, "children") else n.value) for n in family]
    yield
    for n, content in before:
        if hasattr(n, "children"):
            n.children = content
        else:
            n.value = content


def _counts(node: Any) -> bool:
    if "TYPE_CHECKING" in node.get_first_leaf().parent.get_code():
        return False
    child, parent = node, node.parent
    while parent is not None:
        if parent.type in UNCOUNTED or child.type in UNCOUNTED:
            return False
        if parent.type == "funcdef":
            if parent.annotation is not None and child is parent.annotation:
                return False
            if parent.name.value == "__repr__":
                return False
        function = parent.children[-1] if parent.type == "decorated" else parent
        if function.type in ("funcdef", "lambdef") and [p.name.value for p in function.get_params()[:1]] == ["rng"]:
            return False
        child, parent = parent, parent.parent
    return True


def operators() -> list[tuple[str, Operator]]:
    """(name, operator) of all changes that are made."""
    chosen = []
    for name in cosmic_ray.plugins.operator_names():
        kind = cosmic_ray.plugins.get_operator(name)
        if not kind.arguments() and _of_its_kind(name.partition("/")[2]):
            chosen.append((name, kind()))
    ours = [SwapFunction, DropTranspose, DropArgument, DropStatement]
    return [*chosen, *((f"gradients/{kind.__name__}", kind()) for kind in ours)]


def _of_its_kind(name: str) -> bool:
    base, _, change = name.partition("_")
    if base == "ReplaceBinaryOperator":
        old, new = change.split("_")
        return new in OF_THEIR_KIND.get(old, ())
    if base == "ReplaceComparisonOperator":
        old, new = change.split("_")
        return (old in ORDERS) == (new in ORDERS)
    if base == "ReplaceUnaryOperator":
        return change in ("USub_UAdd", "Delete_Not", "Delete_Invert")
    return True


class _Ours(Operator):
    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


class SwapFunction(_Ours):
    """``a.mean(...)`` for ``a.sum(...)``, and other functions that are easily taken for one another."""

    others = {"mean": "sum", "sum": "mean", "max": "min", "maximum": "minimum", "minimum": "maximum"} | {
        "zeros": "ones",
        "ones": "zeros",
        "exp": "expm1",
        "log": "log1p",
        "eye": "ones_like",
    }

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        if node.type == "name" and node.value in self.others and node.get_previous_leaf().value == ".":
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        node.value = self.others[node.value]
        return node


class DropTranspose(_Ours):
    """``a`` for ``a.T`` and for ``a.swapaxes(...)``."""

    def _places(self, node: Any) -> list[tuple[int, int]]:
        if node.type not in ("atom_expr", "power"):
            return []
        places = []
        for i, child in enumerate(node.children):
            code = child.get_code().strip()
            if code == ".T":
                places.append((i, i + 1))
            elif code == ".swapaxes":
                places.append((i, i + 2))
        return places

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        for first, last in self._places(node):
            yield node.children[first].start_pos, node.children[last - 1].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        first, last = self._places(node)[index]
        node.children = node.children[:first] + node.children[last:]
        return node


class DropArgument(_Ours):
    """A call without one of its named arguments: ``a.sum()`` for ``a.sum(axis=0)``."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        for child in self._named(node):
            yield child.start_pos, child.end_pos

    def _named(self, node: Any) -> list[Any]:
        if node.type == "arglist" or (node.type == "trailer" and node.children[0].value == "("):
            return [c for c in node.children if c.type == "argument" and getattr(c.children[1], "value", "") == "="]
        return []

    def mutate(self, node: Any, index: int) -> Any:
        place = next(i for i, c in enumerate(node.children) if c is self._named(node)[index])
        if node.type == "trailer":
            node.children = [node.children[0], node.children[-1]]
        elif place:
            node.children = node.children[: place - 1] + node.children[place + 1 :]
        else:
            node.children = node.children[place + 2 :]
        return node


class DropStatement(_Ours):
    """``pass`` for a statement that is run for its effect: ``a *= b``, ``a[i] = b``, ``a.b = c``, ``f(a)``."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        if node.type == "simple_stmt" and self._has_effect(node.children[0]):
            yield node.start_pos, node.end_pos

    def _has_effect(self, statement: Any) -> bool:
        if statement.type == "atom_expr":
            return True
        if statement.type != "expr_stmt":
            return False
        target, sign = statement.children[0], statement.children[1]
        return getattr(sign, "value", "") not in ("=", "") or target.type == "atom_expr"

    def mutate(self, node: Any, index: int) -> Any:
        prefix = node.get_first_leaf().prefix
        replacement = parso.parse("pass\n").children[0]
        replacement.get_first_leaf().prefix = prefix
        return replacement
