"""A derivation in the terminal."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator

import numpy as np
from rich.console import Console, RenderableType
from rich.syntax import Syntax
from rich.text import Text

from tinygrad_llm.checking import Step
from tinygrad_llm.study.derivations.derivation import TOLERANCE, Derivation, GradientSteps
from tinygrad_llm.study.notation.numbers import plain_numbers
from tinygrad_llm.study.notation.prose import plain_docstring, plain_sentence, source_of
from tinygrad_llm.study.page import shape_text

FIXED = "\N{NO-BREAK SPACE}"  # keeps the formulas in a sentence whole
MOST_NAMED = 36  # entries of an intermediate result that is shown
WIDTH = 100  # of text that does not go to a terminal


def as_text(derivation: Derivation) -> str:
    """The derivation as plain text."""
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None, legacy_windows=False)
    console.print(derivation)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().rstrip()


def as_lines(derivation: Derivation, width: int) -> Iterator[RenderableType]:
    """The parts of the derivation, from the top, no wider than `width`."""
    yield Text(derivation.operation.name, "bold")
    yield _paragraphs(plain_docstring(derivation.operation.__doc__ or ""), width)
    yield _heading("The numbers")
    for note in derivation.notes:
        yield Text(note, "dim")
    for name, value in derivation.named_inputs:
        yield from _named(name, value, width, derivation.exact)
    for name, value in derivation.options.items():
        if isinstance(value, np.ndarray):
            yield from _named(name, value, width, derivation.exact)
    yield from _named(derivation.call, derivation.value, width)
    yield from _named("dy", derivation.dy, width, derivation.exact)
    for gradient in derivation.gradients:
        yield _heading(f"The gradient of {gradient.input}")
        for number, step in enumerate(gradient.steps, 1):
            yield from _step(gradient, number, step, width)
    yield _heading("The lines of vjp")
    yield Syntax(source_of(derivation.vjp), "python", theme="ansi_dark", background_color="default", word_wrap=False)


def agreement(step: Step) -> str:
    """How a step compares with the one before."""
    if step.change <= TOLERANCE:
        same = "exactly" if step.change == 0 else f"within {step.change:.1e}"
        return f"equal to the step before {same}"
    return f"differs from the step before by {step.change:.1e}"


def reason(step: Step) -> str:
    """The sentence of a step; the last one of a derivation stands for the code."""
    return "this is what the lines of vjp compute" if step.why == "the vjp" else step.why


def worth_showing(step: Step) -> dict[str, object]:
    """What a step gave a name to, as far as it is small enough to be followed."""
    return {name: thing for name, thing in step.named.items() if np.size(thing) <= MOST_NAMED}


def jacobian_caption(gradient: GradientSteps) -> str:
    """What the rows and columns of the Jacobian are."""
    return f"the dense Jacobian, a row for each entry of the result and a column for each of {gradient.input}"


def _step(gradient: GradientSteps, number: int, step: Step, width: int) -> Iterator[RenderableType]:
    prefix = f"{number}. "
    pieces = plain_sentence(reason(step), FIXED if width >= 60 else " ")
    lines = textwrap.wrap(pieces, max(width - len(prefix), 20))
    sentence = ("\n" + " " * len(prefix)).join(lines).replace(FIXED, " ")
    yield Text.assemble((prefix, "bold cyan"), sentence)
    for name, named in worth_showing(step).items():
        yield from _named(name, named, width - 4, indent=4)
    if number == 1 and gradient.jacobian is not None:
        yield _indented(
            f"{jacobian_caption(gradient)}:\n"
            f"{textwrap.indent(plain_numbers(gradient.jacobian, width - 8), '    ')}\nsummed with dy:"
        )
    several = isinstance(step.value, tuple)
    for i, value in enumerate(step.value if several else (step.value,)):
        yield Text(f"    {gradient.name}{f'[{i}]' if several else ''}", "bold")
        yield _indented(plain_numbers(np.asarray(value), width - 8), indent=8)
    if number > 1:
        yield _indented(agreement(step), "green" if step.change <= TOLERANCE else "bold red")
    yield Text()


def _named(name: str, value: object, width: int, exact: bool = False, indent: int = 0) -> Iterator[RenderableType]:
    if isinstance(value, tuple) and any(isinstance(v, np.ndarray) for v in value):
        for i, each in enumerate(value):
            yield from _named(f"{name}[{i}]", each, width, exact, indent)
        return
    if not isinstance(value, np.ndarray | np.generic):
        yield Text(f"{' ' * indent}{name} = {value!r}")
        return
    array = np.asarray(value)
    yield Text(" " * indent).append(name, "cyan").append(f"  {shape_text(array)}", "dim")
    yield _indented(plain_numbers(array, width - 4, exact), indent=4 + indent)


def _paragraphs(text: str, width: int) -> Text:
    parts = [p if p.startswith(" ") else textwrap.fill(p, max(width, 20)) for p in text.split("\n\n")]
    return Text("\n\n".join(parts))


def _heading(text: str) -> RenderableType:
    return Text("\n").append(text, "bold underline")


def _indented(text: str, style: str = "", indent: int = 4) -> Text:
    return Text(textwrap.indent(text, " " * indent), style, no_wrap=True, overflow="ignore")
