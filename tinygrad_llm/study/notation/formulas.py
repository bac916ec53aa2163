"""The house notation for formulas: its grammar, and three ways to write a formula.

Docstrings and derivations write formulas in plain text, near to what one would say: ``dx_j = sum_i dy_i ∂y_i/∂x_j``.
`parse` makes a small tree of one, `house`, `latex` and `terminal` write the tree down again: in the same notation, as
LaTeX, and in Unicode. The notation, from the loosest binding to the tightest:

* relations ``= < > <= >= in``, sums and differences, products by juxtaposition ``p (dy - s)``, a dot between vectors
  ``q_t . k_s``;
* `` / `` between spaces divides the whole product before it, ``x y / z``; a tight slash only its two neighbours,
  ``1/N``, ``∂y_i/∂x_j``;
* ``sum_i`` reaches to the end of its product; ``log x`` and the other functions of `FUNCTIONS` to the end of a factor;
* ``f(x)`` and ``x[i]`` without a space apply and index; ``e^x_i`` is e to the power x_i, ``e^x^2`` to the
  power x^2; ``p_ts`` has two subscripts, ``p_(target)`` a word. An underscore before four letters or more belongs to
  the name: ``label_smoothing``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

FUNCTIONS = ("arcsin", "argsort", "cosh", "erf", "erfc", "exp", "expm1", "log", "log1p", "sign", "sinh", "sqrt", "tanh")
ENGLISH = (
    "and",
    "are",
    "by",
    "else",
    "for",
    "from",
    "if",
    "is",
    "of",
    "or",
    "so",
    "that",
    "the",
    "was",
    "where",
    "which",
)
RELATIONS = ("=", "<=", ">=", "<", ">", "in")
CLOSING = {"(": ")", "[": "]", "|": "|"}

_TOKEN = re.compile(
    r"(?P<number>\d+(\.\d+)?(e[+-]?\d+)?(?![A-Za-z]))|(?P<name>[A-Za-z][A-Za-z0-9]*(_[A-Za-z]{4,})*)"
    r"|(?P<sign>\.\.\.|<=|>=|[-+=<>/^_()\[\]|,.!'∂])"
)


@dataclass(frozen=True)
class Number:
    """``2``, ``0.5``, ``3.7e-44``."""

    text: str


@dataclass(frozen=True)
class Name:
    """``x``, ``xhat``, ``label_smoothing``, ``...``."""

    text: str


@dataclass(frozen=True)
class Script:
    """``base_script`` or ``base^script``."""

    base: Node
    mark: str
    script: Node


@dataclass(frozen=True)
class Marked:
    """``u'`` or ``k!``."""

    base: Node
    mark: str


@dataclass(frozen=True)
class Partial:
    """``∂body``."""

    body: Node


@dataclass(frozen=True)
class Call:
    """``f(x, y)``, and ``x[i]``."""

    function: Node
    opening: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True)
class Applied:
    """``log x``, and ``sum_i x_i``."""

    function: Node
    body: Node


@dataclass(frozen=True)
class Group:
    """``(a, b)``, ``[ids_n = v]``, ``|x|``."""

    opening: str
    items: tuple[Node, ...]


@dataclass(frozen=True)
class Product:
    """``a b c``, with a dot where `dots` says so: before factor number 1, 2, ..."""

    factors: tuple[Node, ...]
    dots: tuple[bool, ...]


@dataclass(frozen=True)
class Fraction:
    """``a / b``, or ``a/b`` if `tight`."""

    top: Node
    bottom: Node
    tight: bool


@dataclass(frozen=True)
class Signed:
    """``a - b + c``: the terms, each with its sign; the first sign may be empty."""

    signs: tuple[str, ...]
    terms: tuple[Node, ...]


@dataclass(frozen=True)
class Relation:
    """``a = b <= c``."""

    sides: tuple[Node, ...]
    signs: tuple[str, ...]


Node = (
    Number | Name | Script | Marked | Partial | Call | Applied | Group | Product | Fraction | Signed | Relation
)  # what a formula is made of


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    start: int
    spaced: bool  # whether a space stands before it


def parse(text: str) -> Node:
    """The tree of one formula. Raises ValueError, showing the place, where `text` is not in the house notation."""
    return _Parser(text).formula()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text, self.at, self.tokens = text, 0, list[_Token]()
        self.bars = 0  # how many absolute values are open: a bar then closes one
        end = 0
        while end < len(text.rstrip()):
            start = end + len(text[end:]) - len(text[end:].lstrip())
            match = _TOKEN.match(text, start)
            if match is None:
                raise self.error(start, f"{text[start]!r} is not in the notation")
            self.tokens.append(_Token(match.lastgroup or "", match[0], start, start > end))
            end = match.end()
        self.tokens.append(_Token("end", "", end, True))

    def error(self, place: int, why: str) -> ValueError:
        return ValueError(f"formula {self.text!r}: {why} (column {place + 1})")

    @property
    def next(self) -> _Token:
        return self.tokens[self.at]

    def is_(self, *texts: str) -> bool:
        return self.next.kind != "number" and self.next.text in texts

    def take(self, *texts: str) -> _Token:
        if texts and not self.is_(*texts):
            raise self.error(self.next.start, f"expected {' or '.join(texts)}, found {self.next.text or 'the end'!r}")
        self.at += 1
        return self.tokens[self.at - 1]

    def formula(self) -> Node:
        tree = self.relation()
        if self.next.kind != "end":
            raise self.error(self.next.start, f"did not expect {self.next.text!r}")
        return tree

    def relation(self) -> Node:
        sides, signs = [self.signed()], []
        while self.is_(*RELATIONS):
            signs.append(self.take().text)
            sides.append(self.signed())
        return Relation(tuple(sides), tuple(signs)) if signs else sides[0]

    def signed(self) -> Node:
        signs = [self.take().text if self.is_("-", "+") else ""]
        terms = [self.product()]
        while self.is_("-", "+"):
            signs.append(self.take().text)
            terms.append(self.product())
        return terms[0] if signs == [""] else Signed(tuple(signs), tuple(terms))

    def product(self) -> Node:
        factors, dots = [self.tight()], [False]
        while True:
            if self.is_("/"):  # a spaced one: `tight` has taken the others
                self.take()
                factors, dots = [Fraction(_product(factors, dots), self.tight(), False)], [False]
            elif self.is_(".") or self.starts_factor():
                dots.append(self.is_(".") and bool(self.take()))
                factors.append(self.tight())
            else:
                return _product(factors, dots)

    def starts_factor(self) -> bool:
        if self.is_("|"):
            return self.bars == 0
        return (self.next.kind in ("number", "name") and self.next.text != "in") or self.is_("(", "[", "∂", "...")

    def tight(self) -> Node:
        """A factor, and what it is divided by without spaces."""
        tree = self.factor()
        while self.is_("/") and not self.next.spaced and not self.tokens[self.at + 1].spaced:
            self.take()
            tree = Fraction(tree, self.factor(), True)
        return tree

    def factor(self) -> Node:
        if self.is_("∂"):
            self.take()
            return Partial(self.factor())
        word = self.next.text
        tree = self.postfix(self.atom())
        if isinstance(tree, Call) or not (word in FUNCTIONS or word == "sum") or not self.starts_factor():
            return tree
        return Applied(tree, self.product() if word == "sum" else self.factor())

    def atom(self) -> Node:
        token = self.next
        if self.is_("(", "[", "|"):
            self.take()
            return Group(token.text, self.items(CLOSING[token.text]))
        if token.kind == "number":
            return Number(self.take().text)
        if token.text in ENGLISH and not self.text.startswith("(", token.start + len(token.text)):
            raise self.error(token.start, f"{token.text!r} is a word of the text, not of a formula")
        if token.kind == "name" or token.text == "...":
            return Name(self.take().text)
        raise self.error(token.start, f"expected a name, a number or a bracket, found {token.text or 'the end'!r}")

    def items(self, closing: str) -> tuple[Node, ...]:
        self.bars += closing == "|"
        items = [self.relation()]
        while self.is_(","):
            self.take()
            items.append(self.relation())
        self.take(closing)
        self.bars -= closing == "|"
        return tuple(items)

    def postfix(self, tree: Node) -> Node:
        """`tree` with what follows it without a space: scripts, marks, arguments, an index."""
        while not self.next.spaced:
            if self.is_("_", "^"):
                mark = self.take().text
                tree = Script(tree, mark, self.script(mark))
            elif self.is_("'", "!"):
                tree = Marked(tree, self.take().text)
            elif self.is_("(", "[") and isinstance(tree, Name | Script | Marked):
                opening = self.take().text
                tree = Call(tree, opening, self.items(CLOSING[opening]))
            else:
                break
        return tree

    def script(self, mark: str) -> Node:
        if mark == "^" and self.is_("-"):
            self.take()
            return Signed(("-",), (self.postfix(self.atom()),))
        if self.is_("("):  # the brackets only hold the script together: e^(x - m) (y) is a product
            return self.atom()
        return self.postfix(self.atom()) if mark == "^" else self.atom()


def _product(factors: list[Node], dots: list[bool]) -> Node:
    return factors[0] if len(factors) == 1 else Product(tuple(factors), tuple(dots))
