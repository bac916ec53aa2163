"""`why`: for one entry of one gradient, the paths by which it came about, with numbers that add up to it.

By the chain rule an entry of a gradient is a sum over everything that was computed from it directly. If the value x is
an input of consumers with outputs y, y' ..., then::

    dL/dx_j = sum_i dL/dy_i ∂y_i/∂x_j + sum_i dL/dy'_i ∂y'_i/∂x_j + ...

The upstream gradients dL/dy_i are entries of gradients themselves, and can be asked about in turn. The local
derivatives are read off the vjps (see `local.py`).
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from rich.console import Console, Group
from rich.text import Text
from rich.tree import Tree

from tinygrad_llm.study.graph import Graph, Key, Use, Value, graph_behind, graph_of
from tinygrad_llm.study.local import Index, exact_sum, local_terms
from tinygrad_llm.study.page import fragment, short
from tinygrad_llm.tensor import Tensor

DEEPEST = 200
"""How many consumers deep `why` may be asked to go: deeper is more than anyone reads."""

WIDEST = 400
"""Characters a line, when the tree becomes a text and no terminal's width is known."""


@dataclass(frozen=True)
class Term:
    """One output entry of a consumer: the local derivative, times the upstream gradient; and why that is what it is."""

    output: str
    index: Index
    local: float
    upstream: float
    because: Entry

    @property
    def product(self) -> float:
        return self.local * self.upstream


@dataclass(frozen=True)
class Path:
    """What one consumer contributes by its input `parameter`: the largest terms, and the sums of all others.

    `others` of smaller terms add up to `others_total`; `rest` is the sum of terms too many to be taken apart.
    """

    operation: str
    module: str
    parameter: str
    terms: tuple[Term, ...]
    others: int
    others_total: float
    rest: float

    @property
    def total(self) -> float:
        return exact_sum([*(term.product for term in self.terms), self.others_total, self.rest])


@dataclass(frozen=True)
class Entry:
    """One entry of the gradient of a value. Without paths it is where backward began, or it was not taken apart."""

    name: str
    operation: str
    index: Index
    value: float
    gradient: float
    given: bool
    paths: tuple[Path, ...]

    @property
    def total(self) -> float:
        """The sum of what all consumers contribute."""
        return exact_sum(path.total for path in self.paths)


@dataclass(frozen=True)
class Explanation:
    """What `why` found: `entry` with its paths. Prints as a tree; in a notebook one that unfolds."""

    entry: Entry

    @property
    def total(self) -> float:
        """The sum of all paths."""
        return self.entry.total

    @property
    def difference(self) -> float:
        """The sum of all paths minus the entry: rounding, and nothing else."""
        return 0.0 if self.total == self.entry.gradient else self.total - self.entry.gradient  # inf - inf is NaN

    def operations(self) -> list[str]:
        """The operations that occur in it, in order of appearance."""
        found: dict[str, None] = {}
        stack = [self.entry]
        seen: set[int] = set()
        while stack:
            entry = stack.pop()
            if id(entry) not in seen:
                seen.add(id(entry))
                found |= {path.operation: None for path in entry.paths}
                stack.extend(term.because for path in reversed(entry.paths) for term in reversed(path.terms))
        return list(found)

    def __rich__(self) -> Group:
        tree = Tree(Text(" ".join(_headline(self.entry)), style="bold"), guide_style="dim")
        _grow(tree, self.entry, set())
        return Group(tree, Text(self.summary))

    def __str__(self) -> str:
        text = io.StringIO()
        Console(file=text, width=WIDEST, no_color=True, highlight=False, legacy_windows=False).print(self)
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines())

    __repr__ = __str__

    @property
    def summary(self) -> str:
        """The sum of all paths beside the entry itself."""
        return (
            f"all paths add up to {self.total:.17g}; the entry of the gradient is {self.entry.gradient:.17g}; "
            f"difference {self.difference:.1e}"
        )

    def _repr_html_(self) -> str:
        body = Markup("<div class='why'>{}<p class='soft'>{}</p></div>").format(
            _unfolding(_headline(self.entry), self.entry, set(), True), self.summary
        )
        return fragment(body, _STYLE)


_STYLE = """
.study .why details, .study .why .end { margin-left: 1.1em; border-left: 2px solid var(--line); padding-left: 0.7em; }
.study .why > details > summary { font-weight: 650; }
.study .why .number { color: var(--accent); margin-right: 0.6em; }
.study .why > details { margin-left: 0; border-left: none; padding-left: 0; }
.study .why .end { padding-left: 1.8em; }
.study .why summary { cursor: pointer; }
"""


def _headline(entry: Entry) -> Line:
    """``x[2, 5] = 0.3, gradient 0.021``, and where that comes from."""
    origin = "where backward() began" if entry.given else _sum_of(entry.paths)
    return f"{_at(entry.name, entry.index)} = {short(entry.value)}, gradient {short(entry.gradient, 6)}:", origin


def _sum_of(paths: tuple[Path, ...]) -> str:
    if not paths:
        return "no path from it carries a gradient"
    if len(paths) == 1:
        return "from one use"
    return f"from {len(paths)} uses, " + " + ".join(short(path.total, 6) for path in paths).replace("+ -", "- ")


def _at(name: str, index: Index) -> str:
    return f"{name}[{', '.join(map(str, index))}]" if index else name


Line = tuple[str, str]
"""The numbers, and what they are."""


def _path_line(path: Path, entry: Entry) -> Line:
    """What the consumer contributes; with the term itself, if there is only one."""
    where = f" ({path.module})" if path.module else ""
    through = f"through {path.operation}{where}, as its input {path.parameter}"
    if _single(path):
        numbers, names = _term_line(path.terms[0], entry)
        return numbers, f"{names}, {through}"
    return short(path.total, 6), f"{through}:"


def _term_line(term: Term, entry: Entry) -> Line:
    """The product in numbers, and in names."""
    output = _at(term.output, term.index)
    numbers = f"{short(term.local)} × {short(term.upstream)} = {short(term.product, 6)}"
    names = f"∂{output}/∂{_at(entry.name, entry.index)} × gradient of {output}"
    return numbers, names + (" (where backward() began)" if term.because.given else "")


def _single(path: Path) -> bool:
    return len(path.terms) == 1 and not path.others and not path.rest


def _remainder(path: Path) -> list[Line]:
    """Lines for what is not shown term by term."""
    plural = "s" if path.others > 1 else ""
    lines = [(short(path.others_total, 6), f"from {path.others} smaller term{plural}")] if path.others else []
    return lines + ([(short(path.rest, 6), "from terms too many to be taken apart")] if path.rest else [])


def _known(term: Term, shown: set[int]) -> str:
    """A remark for an entry that has been explained already, and stands in the tree once."""
    if not term.because.paths:
        return ""
    if id(term.because) in shown:
        return "  (explained above)"
    shown.add(id(term.because))
    return ""


def _grow(tree: Tree, entry: Entry, shown: set[int]) -> None:
    """Add the paths of an entry below it, and so on upstream."""

    def text(line: Line, remark: str = "") -> Text:
        return Text.assemble((line[0], "bold cyan"), "  ", line[1], remark)

    for path in entry.paths:
        branch = tree if _single(path) else tree.add(text(_path_line(path, entry)))
        for term in path.terms:
            line, remark = _path_line(path, entry) if _single(path) else _term_line(term, entry), _known(term, shown)
            leaf = branch.add(text(line, remark))
            if not remark:
                _grow(leaf, term.because, shown)
        for line in _remainder(path):
            branch.add(text(line))


def _unfolding(line: Line, entry: Entry, shown: set[int], unfolded: bool = False) -> Markup:
    """The same tree, each level of which unfolds."""
    inside = Markup()
    for path in entry.paths:
        terms = Markup()
        for term in path.terms:
            line_, remark = _path_line(path, entry) if _single(path) else _term_line(term, entry), _known(term, shown)
            if remark or not term.because.paths:
                terms += Markup("<div class='end'>{}{}</div>").format(_html_line(line_), remark)
            else:
                terms += _unfolding(line_, term.because, shown)
        for rest in _remainder(path):
            terms += Markup("<div class='end'>{}</div>").format(_html_line(rest))
        if not _single(path):
            title = _html_line(_path_line(path, entry))
            terms = Markup("<details open><summary>{}</summary>{}</details>").format(title, terms)
        inside += terms
    opened = Markup(" open") if unfolded else ""
    return Markup("<details{}><summary>{}</summary>{}</details>").format(opened, _html_line(line), inside)


def _html_line(line: Line) -> Markup:
    return Markup("<span class='number'>{}</span> <span class='soft'>{}</span>").format(*line)


def why(
    tensor: Tensor,
    index: int | Index = (),
    depth: int = 3,
    terms: int = 3,
    of: Tensor | None = None,
    names: Mapping[str, Any] | None = None,
) -> Explanation:
    """Explain ``tensor.grad[index]``: which consumers it comes from, and by which terms, `depth` consumers deep.

    Of each consumer the `terms` largest are shown, and the sum of the others. `of` is the output whose gradient is
    meant; it is needed only if backward() has not been called on it. `names` (variable names to Tensors or Modules)
    default to the caller's variables.

    Raises ValueError for an index outside the tensor, a Tensor that no gradient reached, a graph that was too large to
    be remembered (see `tinygrad_llm.keep_graph`), and a gradient that is not that of the graph alone: one summed over
    several backward calls, or from before its arrays were changed.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"why: a {type(tensor).__name__} does not know where it came from; give the Tensor and the index: "
            "why(t, (2, 5)) for t.grad[2, 5]"
        )
    if not 1 <= depth <= DEEPEST or terms < 1:
        raise ValueError(f"why: depth is from 1 to {DEEPEST}, and terms at least 1; not {depth} and {terms}")
    place = _place(tensor, index)
    if names is None:
        frame = sys._getframe(1)
        names = {**frame.f_globals, **frame.f_locals}
    graph = graph_behind(tensor, names) if of is None else graph_of(of, names)
    value = graph.value(tensor)
    _check_same(value, tensor, place)
    return Explanation(_Search(graph, terms).entry(value, place, depth))


def _place(tensor: Tensor, index: int | Index) -> Index:
    """`index` as non-negative whole numbers, one for each axis."""
    given = index if isinstance(index, tuple) else (index,)
    if given and not tensor.ndim:
        raise ValueError(f"why: {list(given)} of a Tensor that is one number: it has no axes; leave the index out")
    if len(given) != tensor.ndim:
        example = ", ".join("0" for _ in tensor.shape)
        raise ValueError(
            f"why: {list(given)} is not one entry of a Tensor of shape {tensor.shape}; "
            f"give {tensor.ndim} whole number{'s' if tensor.ndim != 1 else ''}, as in [{example}]"
        )
    place = []
    for axis, (i, size) in enumerate(zip(given, tensor.shape, strict=True)):
        if not isinstance(i, (int, np.integer)):
            raise TypeError(f"why: the index of axis {axis} is {i!r}; one entry has a whole number there")
        if not -size <= i < size:
            raise ValueError(f"why: index {i} is outside axis {axis}, which has {size} entries")
        place.append(int(i) % size)
    return tuple(place)


def _check_same(value: Value, tensor: Tensor, place: Index) -> None:
    """The graph's own gradient must be what stands in ``tensor.grad``, if anything does."""
    if value.gradient is None:
        raise ValueError("why: no gradient reaches this Tensor: the output does not depend on it")
    if tensor.grad is None:
        return
    found, stored = float(value.gradient[place]), float(tensor.grad[place])
    scale = float(np.abs(value.gradient).max(initial=0.0))
    if abs(found - stored) > 100 * np.finfo(tensor.dtype).eps * max(scale, abs(stored)):
        raise ValueError(
            f"why: .grad has {short(stored, 9)} there, but the last graph alone gives {short(found, 9)}: several "
            "backward() calls were added up (zero_grad() in between), or arrays were changed since, as by an optimizer"
        )


class _Search:
    """Takes entries of a graph's gradients apart; each entry once."""

    def __init__(self, graph: Graph, terms: int) -> None:
        self.graph, self.count = graph, terms
        self.known: dict[tuple[Key, Index], tuple[int, Entry]] = {}

    def entry(self, value: Value, index: Index, depth: int) -> Entry:
        """The entry at `index` of the value's gradient, taken apart `depth` consumers deep."""
        key = value.key, index
        if key not in self.known or self.known[key][0] < depth:
            assert value.gradient is not None
            paths = [self._path(use, index, depth) for use in value.uses] if depth else []
            entry = Entry(
                value.name,
                value.operation,
                index,
                float(value.data[index]),
                float(value.gradient[index]),
                value.node in self.graph.outputs,
                tuple(path for path in paths if path.terms),
            )
            self.known[key] = depth, entry
        return self.known[key][1]

    def _path(self, use: Use, index: Index, depth: int) -> Path:
        found, rest = local_terms(use, index, self.graph.cotangents[use.node.order])
        outputs = [self.graph.values[use.node.order, n] for n in range(len(use.node.outputs))]
        shown = [
            Term(
                outputs[t.output].name,
                t.index,
                t.local,
                t.upstream,
                self.entry(outputs[t.output], t.index, depth - 1),
            )
            for t in found[: self.count]
        ]
        others = found[self.count :]
        return Path(
            use.node.name,
            ".".join(outputs[0].path[1:]),
            use.parameter,
            tuple(shown),
            len(others),
            exact_sum(t.product for t in others),
            rest,
        )
