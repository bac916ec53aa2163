"""What the vjp of an operation must return, in words: one gradient for each differentiable input, and its shape."""

from __future__ import annotations

import inspect
import itertools
import re
from typing import Any

import numpy as np

from tinygrad_llm.operation import Operation
from tinygrad_llm.study.derivations.derivation import draw_cotangent, gradient_name
from tinygrad_llm.study.exercises.told import without_gradients


def returned(operation: Operation) -> list[str | None]:
    """The inputs for which the library's vjp returns a gradient, by position; None where it returns None."""
    _, gradients = _gradients(operation, 0, 0)
    return [None if g is None else name for g, name in zip(gradients, operation.parameters, strict=False)]


def task(operation: Operation) -> list[str]:
    """Sentences that say what the vjp takes and what it must return."""
    names = returned(operation)
    if operation.variadic:
        inputs = operation.parameters[-1]
        wanted = f"Return a tuple: the gradient of each array in {inputs}, in the same order and of its shape."
    elif len(names) == 1 and names[0]:
        wanted = f"Return {_wanted(operation, names[0])}."
    else:
        listed = ", ".join("None" if name is None else gradient_name(operation, name) for name in names)
        wanted = f"Return the tuple ({listed}): " + "; ".join(_wanted(operation, n) for n in names if n) + "."
    sentences = [_taken(operation), wanted]
    if _broadcasts(operation):
        sentences.append(
            "Where an input was broadcast, its gradient may have the broadcast shape: the tape sums it to the input's."
        )
    return sentences


def _taken(operation: Operation) -> str:
    inputs, options = operation.sample.draw(np.random.default_rng(0), 0)
    if isinstance(operation.reference(*inputs, **options)[0], tuple):
        return "The argument is a tuple: the cotangent of each output, of its shape."
    return "The argument is the cotangent of the value, an array of the value's shape."


def _wanted(operation: Operation, name: str) -> str:
    letters = shape_letters(operation, name)
    return f"{gradient_name(operation, name)}, of the shape of {name}" + (f" {letters}" if letters else "")


def shape_letters(operation: Operation, name: str) -> str:
    """The shape of an input in letters, as its docstring or that of its module gives it; empty if neither does."""
    docs = without_gradients(operation.__doc__ or ""), inspect.getdoc(inspect.getmodule(operation.reference)) or ""
    pattern = re.compile(rf"(?<!\w)`*{re.escape(name)}`*(?: and `*\w+`*)? (?P<letters>\((?:[A-Z]\w*|\.\.\.|, ?)+\))")
    for doc in docs:
        match = pattern.search(doc)
        if match:
            return match["letters"]
    return ""


def _broadcasts(operation: Operation) -> bool:
    """Whether the library's vjp returns, for some sample, a gradient of another shape than its input."""
    for number, seed in itertools.product(range(len(operation.sample)), range(8)):
        inputs, gradients = _gradients(operation, number, seed)
        for x, gradient in zip(inputs, gradients, strict=False):
            if gradient is not None and np.shape(gradient() if callable(gradient) else gradient) != np.shape(x):
                return True
    return False


def _gradients(operation: Operation, number: int, seed: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """(inputs, gradients) of one sample by the library's vjp."""
    rng = np.random.default_rng(seed)
    inputs, options = operation.sample.draw(rng, number)
    value, vjp = operation.reference(*inputs, **options)
    gradients = vjp(draw_cotangent(rng, value))
    return inputs, gradients if isinstance(gradients, tuple) else (gradients,)
