"""Formulas of the house notation (`formulas.py`) written down: in that notation, in Unicode, as LaTeX and MathML."""

from __future__ import annotations

import functools

from markupsafe import Markup

from tinygrad_llm.study.notation.formulas import (
    CLOSING,
    FUNCTIONS,
    Applied,
    Call,
    Fraction,
    Group,
    Marked,
    Name,
    Node,
    Number,
    Partial,
    Product,
    Relation,
    Script,
    Signed,
    parse,
)

GREEK = {"alpha": "α", "beta": "β", "delta": "δ", "eps": "ε", "lambda": "λ", "mu": "μ", "pi": "π", "sigma": "σ"}
GRADIENT_OF = ("bias", "gain", "logits", "loss", "scores", "weight")  # ``dgain`` is the gradient of the gain
BIG = r"\sum"  # unbraced, so that a formula standing alone has its index below
_SUBSCRIPTS = dict(zip("0123456789aehijklmnoprstuvx-+", "₀₁₂₃₄₅₆₇₈₉ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ₋₊", strict=True))
_SUPERSCRIPTS = dict(
    zip("0123456789abcdefghijklmnoprstuvwxyzT-+", "⁰¹²³⁴⁵⁶⁷⁸⁹ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻᵀ⁻⁺", strict=True)
)


class House:
    """A tree in the notation it was read from, with regular spaces."""

    def write(self, tree: Node) -> str:
        return getattr(self, type(tree).__name__.lower())(tree)

    def number(self, tree: Number) -> str:
        return tree.text

    def name(self, tree: Name) -> str:
        return tree.text

    def script(self, tree: Script) -> str:
        return self.write(tree.base) + tree.mark + self.write(tree.script)

    def marked(self, tree: Marked) -> str:
        return self.write(tree.base) + tree.mark

    def partial(self, tree: Partial) -> str:
        return "∂" + self.write(tree.body)

    def call(self, tree: Call) -> str:
        return self.write(tree.function) + self.group(Group(tree.opening, tree.arguments))

    def applied(self, tree: Applied) -> str:
        return f"{self.write(tree.function)} {self.write(tree.body)}"

    def group(self, tree: Group) -> str:
        return tree.opening + ", ".join(map(self.write, tree.items)) + CLOSING[tree.opening]

    def product(self, tree: Product) -> str:
        parts = [(" . " if dot else " ") + self.write(f) for f, dot in zip(tree.factors, tree.dots, strict=True)]
        return "".join(parts)[1:]

    def fraction(self, tree: Fraction) -> str:
        return self.write(tree.top) + ("/" if tree.tight else " / ") + self.write(tree.bottom)

    def signed(self, tree: Signed) -> str:
        first, *others = zip(tree.signs, map(self.write, tree.terms), strict=True)
        return "".join(first) + "".join(f" {sign} {term}" for sign, term in others)

    def relation(self, tree: Relation) -> str:
        first, *others = map(self.write, tree.sides)
        return first + "".join(f" {sign} {side}" for sign, side in zip(tree.signs, others, strict=True))


class Terminal(House):
    """A tree in Unicode: δᵢⱼ, Σᵢ, x̂, √, and the plain notation where Unicode lacks a sign."""

    def number(self, tree: Number) -> str:
        digits, _, power = tree.text.partition("e")
        return f"{digits}·10{_raised(power, _SUPERSCRIPTS)}" if power else digits

    def name(self, tree: Name) -> str:
        if tree.text in ("inf", "sum", "..."):
            return {"inf": "∞", "sum": "Σ", "...": "…"}[tree.text]
        if tree.text.endswith("hat"):
            return tree.text.removesuffix("hat") + "\u0302"
        if tree.text[0] == "d" and tree.text[1:] in GREEK:
            return "d" + GREEK[tree.text[1:]]
        return GREEK.get(tree.text, tree.text)

    def script(self, tree: Script) -> str:
        signs = _SUBSCRIPTS if tree.mark == "_" else _SUPERSCRIPTS
        inner = tree.script.items[0] if isinstance(tree.script, Group) and len(tree.script.items) == 1 else tree.script
        raised = _raised(House().write(inner).replace(" ", ""), signs)
        if raised and not (tree.mark == "_" and isinstance(inner, Relation)):
            return self.write(tree.base) + raised
        return self.write(tree.base) + tree.mark + self.write(tree.script)

    def marked(self, tree: Marked) -> str:
        return self.write(tree.base) + tree.mark.replace("'", "′")

    def call(self, tree: Call) -> str:
        if tree.function != Name("sqrt"):
            return super().call(tree)
        (body,) = tree.arguments
        return f"√{self.write(body)}" if isinstance(body, Name | Number) else "√" + super().group(Group("(", (body,)))

    def applied(self, tree: Applied) -> str:
        return super().applied(tree).replace("Σ (", "Σ(")

    def product(self, tree: Product) -> str:
        return super().product(tree).replace(" . ", " · ")

    def signed(self, tree: Signed) -> str:
        return House.signed(self, Signed(tuple(s.replace("-", "−") for s in tree.signs), tree.terms))

    def relation(self, tree: Relation) -> str:
        signs = {"<=": "≤", ">=": "≥", "in": "∈"}
        return super().relation(Relation(tree.sides, tuple(signs.get(s, s) for s in tree.signs)))


class Latex(House):
    """A tree as LaTeX. Inside scripts fractions are flat."""

    def __init__(self, flat: bool = False) -> None:
        self.flat = flat

    def number(self, tree: Number) -> str:
        digits, _, power = tree.text.partition("e")
        return rf"{digits}\cdot 10^{{{power.lstrip('+')}}}" if power else digits

    def name(self, tree: Name) -> str:
        text = tree.text
        if text in ("inf", "sum", "...") or text in FUNCTIONS:
            known = {"inf": r"\infty", "sum": BIG, "...": r"\ldots"}
            return known.get(text, rf"\text{{{text}}}")
        if text in GREEK:
            return r"\varepsilon" if text == "eps" else f"\\{text}"
        if len(text) == 1:
            return text
        if text[0] in "dg" and (len(text) == 2 or text[1:] in GRADIENT_OF or (text[1:-3] and text.endswith("hat"))):
            return f"{{{text[0]}{self.name(Name(text[1:]))}}}"
        if text.endswith("hat") and len(text) > 3:
            return rf"\hat{{{self.name(Name(text.removesuffix('hat')))}}}"
        return rf"\text{{{text}}}"

    def script(self, tree: Script) -> str:
        flat = Latex(flat=True)
        if isinstance(tree.script, Group) and tree.script.opening == "(":
            script = ",".join(map(flat.write, tree.script.items))
        elif tree.mark == "_" and isinstance(tree.script, Name) and len(tree.script.text) <= 3:
            script = tree.script.text  # several subscripts, each a letter
        else:
            script = flat.write(tree.script)
        base = self.write(tree.base)
        return f"{base if base == BIG else '{' + base + '}'}{tree.mark}{{{script}}}"

    def marked(self, tree: Marked) -> str:
        return f"{{{self.write(tree.base)}}}{tree.mark}"

    def partial(self, tree: Partial) -> str:
        return rf"\partial {self.write(tree.body)}"

    def call(self, tree: Call) -> str:
        if tree.function == Name("sqrt"):
            return rf"\sqrt{{{self.write(tree.arguments[0])}}}"
        return super().call(tree)

    def applied(self, tree: Applied) -> str:
        return rf"{self.write(tree.function)}\,{self.write(tree.body)}"

    def group(self, tree: Group) -> str:
        return rf"\left{tree.opening}{', '.join(map(self.write, tree.items))}\right{CLOSING[tree.opening]}"

    def product(self, tree: Product) -> str:
        text = ""
        for factor, dot in zip(map(self.write, tree.factors), tree.dots, strict=True):
            words = r"\text" in text[-20:] and factor.lstrip("{").startswith(r"\text")
            text += (r"\cdot " if dot else r"\;" if words else r"\," if text else "") + factor
        return text

    def fraction(self, tree: Fraction) -> str:
        if self.flat:
            return f"{self.write(tree.top)}/{self.write(tree.bottom)}"
        return rf"\frac{{{self._bare(tree.top)}}}{{{self._bare(tree.bottom)}}}"

    def _bare(self, tree: Node) -> str:
        """Without the brackets that a fraction's bar makes unnecessary."""
        bracketed = isinstance(tree, Group) and tree.opening == "(" and len(tree.items) == 1
        return self.write(tree.items[0] if isinstance(tree, Group) and bracketed else tree)

    def signed(self, tree: Signed) -> str:
        if not tree.signs[0]:
            return super().signed(tree)
        # in braces the sign is a prefix; else, as in ``y = -x``, it would be spaced like a difference
        first = f"{{{tree.signs[0]}{self.write(tree.terms[0])}}}"
        return first + "".join(f" {s} {self.write(t)}" for s, t in zip(tree.signs[1:], tree.terms[1:], strict=True))

    def relation(self, tree: Relation) -> str:
        signs = {"<=": r"\le ", ">=": r"\ge ", "in": r"\in "}
        return super().relation(Relation(tree.sides, tuple(signs.get(s, s) for s in tree.signs)))


def _raised(text: str, signs: dict[str, str]) -> str:
    """`text` in small letters; empty if one of them does not exist."""
    return "".join(signs[c] for c in text) if all(c in signs for c in text) else ""


def house(tree: Node) -> str:
    """The tree in the house notation: ``parse(house(tree)) == tree``."""
    return House().write(tree)


def terminal(tree: Node) -> str:
    """The tree in Unicode, for a terminal."""
    return Terminal().write(tree)


def latex(tree: Node) -> str:
    """The tree as LaTeX."""
    return Latex().write(tree)


@functools.lru_cache(maxsize=4096)
def mathml(formula: str, display: bool = False) -> Markup:
    """A formula of the house notation as a MathML element, in a line of text or standing alone."""
    from latex2mathml.converter import convert

    return Markup(convert(latex(parse(formula)), display="block" if display else "inline"))
