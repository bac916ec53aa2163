"""`derive`: the derivation of an operation's gradients, run on numbers small enough to redo on paper."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_llm.checking import Step, derivation_steps
from tinygrad_llm.operation import Operation
from tinygrad_llm.study.lookup import find_operation
from tinygrad_llm.tape import Array

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

TOLERANCE = 1e-12  # how far, per magnitude, a step may differ from the one before
MOST_ENTRIES = 1024  # of an input: its dense Jacobian has the square of that
MOST_JACOBIAN = 2**22  # entries: 32 MiB
SHOWN_JACOBIAN = 8  # rows and columns of a Jacobian that is shown


class UnknownInput(ValueError):
    """The operation has no differentiable input of that name."""


@dataclass(frozen=True, eq=False)
class GradientSteps:
    """The forms of one input's gradient; the first is its definition, the last what the vjp returned."""

    input: str
    name: str
    """The gradient's own name, ``dx``."""
    steps: tuple[Step, ...]
    jacobian: Array | None
    """If small, the dense Jacobian of the definition: a row for each entry of the result, a column for each of x."""

    @property
    def result(self) -> tuple[Array, ...]:
        """What the vjp returned: one array, or one for each input of a variadic operation."""
        value = self.steps[-1].value
        return value if isinstance(value, tuple) else (value,)

    @property
    def largest_change(self) -> float:
        """The largest difference between two steps, per magnitude."""
        return float(np.max([step.change for step in self.steps]))


@dataclass(frozen=True, eq=False, repr=False)
class Derivation:
    """What `derive` found: the numbers it drew, and each gradient's steps. Shows itself as text, and in a notebook."""

    operation: Operation
    inputs: tuple[Any, ...]
    options: dict[str, Any]
    value: Any
    dy: Any
    vjp: Callable[..., Any]
    gradients: tuple[GradientSteps, ...]
    exact: bool  # whether all the inputs were rounded, so that what is shown is what was used
    notes: tuple[str, ...] = ()

    @property
    def named_inputs(self) -> list[tuple[str, Any]]:
        """The positional arguments with their names; those of a variadic operation are numbered."""
        if not self.operation.variadic:
            return list(zip(self.operation.parameters, self.inputs, strict=False))
        name = self.operation.parameters[-1]
        return [(f"{name}[{i}]", x) for i, x in enumerate(self.inputs)]

    @property
    def call(self) -> str:
        """How the operation was called, as in ``softmax(x, axis=-1)``."""
        arguments = [name for name, _ in self.named_inputs]
        arguments += [f"{name}={value!r}" for name, value in self.options.items()]
        return f"{self.operation.name}({', '.join(arguments)})"

    @property
    def largest_change(self) -> float:
        """The largest difference between two steps of any gradient, per magnitude."""
        return float(np.max([g.largest_change for g in self.gradients]))

    def __str__(self) -> str:
        from tinygrad_llm.study.derivations.text_form import as_text

        return as_text(self)

    __repr__ = __str__

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from tinygrad_llm.study.derivations.text_form import as_lines

        return as_lines(self, options.max_width)

    def _repr_html_(self) -> str:
        from tinygrad_llm.study.derivations.html_form import DERIVATION_STYLE, derivation_html
        from tinygrad_llm.study.page import fragment

        return fragment(derivation_html(self), DERIVATION_STYLE)


def derive(
    operation: str | Operation,
    shape: Sequence[int] | None = None,
    input: str | None = None,
    seed: int = 0,
    sample: int | None = None,
) -> Derivation:
    """Derive the gradients of `operation` step by step, from the dense Jacobian to its vjp, on drawn numbers.

    `operation` is one of the registry or its name; `shape` that of its first input (fewer axes than it needs are read
    as the last ones); `input` the only input whose gradient is wanted; `sample` the number, from 1, of the way to draw
    arguments (``@operation.sample``), by default the first that fits. Inputs and cotangent are rounded before anything
    is computed: what is shown is what was used. Raises ValueError, with a remedy, where this is not possible.
    """
    operation = find_operation(operation)
    if not len(operation.sample):
        raise ValueError(
            f"{operation.name} has no sample to draw arguments from: add one with @{operation.name}.sample"
        )
    if not operation.derivations:
        example = operation.parameters[0] if operation.parameters else "x"
        raise ValueError(
            f'{operation.name} has no derivation: add one for each input with @{operation.name}.derivation("{example}")'
        )
    if input is not None and input not in operation.derivations:
        known = input in operation.parameters
        why = f"its input {input} has no derivation" if known else f"no input is called {input!r}"
        raise UnknownInput(f"{operation.name}: {why}; choose from {', '.join(operation.derivations)}")
    shape = None if shape is None else tuple(int(n) for n in shape)
    numbers = _sample_numbers(operation, sample)
    _refuse_size(operation, shape)
    for number, given, notes in _candidates(operation, shape, numbers):
        found = _on_paper(operation, number, given, input, seed, notes)
        if found is not None:
            return found
    raise ValueError(_misfit(operation, shape, input, numbers))


def sample_shape(operation: Operation, number: int) -> tuple[int, ...] | None:
    """The shape that a sample function draws by default."""
    for parameter in inspect.signature(operation.sample.functions[number]).parameters.values():
        if isinstance(parameter.default, tuple):
            return parameter.default
    return None


def wanted_inputs(operation: Operation, inputs: Sequence[Any], gradients: Any) -> list[str]:
    """The inputs, among those given, for which the vjp returned a gradient."""
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    if operation.variadic:
        return [operation.parameters[-1]] if inputs else []
    pairs = zip(operation.parameters, gradients[: len(inputs)], strict=False)
    return [name for name, gradient in pairs if gradient is not None]


def gradient_name(operation: Operation, name: str) -> str:
    """The letters of an input's gradient, as in the docstrings: ``dx``; ``gx`` where an input is itself called y."""
    return ("g" if "y" in operation.parameters else "d") + name


def draw_cotangent(rng: np.random.Generator, value: Any) -> Any:
    """A random cotangent of an operation's value: an array for each output."""
    if isinstance(value, tuple):
        return tuple(rng.standard_normal(np.shape(v)) for v in value)
    return rng.standard_normal(np.shape(value))


# ---------------------------------------------------------------------------------------------------------------------


def _sample_numbers(operation: Operation, sample: int | None) -> list[int]:
    count = len(operation.sample)
    if sample is None:
        return list(range(count))
    if not 1 <= sample <= count:
        raise ValueError(f"{operation.name}: there is no sample {sample}; they are numbered from 1 to {count}")
    return [sample - 1]


def _refuse_size(operation: Operation, shape: tuple[int, ...] | None) -> None:
    """A ValueError for a shape with a negative size, or whose dense Jacobian would be too large."""
    if shape is None:
        return
    if any(n < 0 for n in shape):
        raise ValueError(f"{operation.name}: the shape {shape} has a negative size")
    entries = math.prod(shape)
    if entries > MOST_ENTRIES:
        raise ValueError(
            f"{operation.name}: the dense Jacobian for an input of shape {shape} has {entries:,} x {entries:,} "
            f"entries, {_bytes(8 * entries**2)}; choose a shape of at most {MOST_ENTRIES:,} entries"
        )


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} PB"


def _candidates(
    operation: Operation, shape: tuple[int, ...] | None, numbers: list[int]
) -> Iterator[tuple[int, tuple[int, ...] | None, tuple[str, ...]]]:
    """(sample number, shape, notes): first the shape as it was given, then with leading axes of size 1."""
    for number in numbers:
        yield number, shape, ()
    for number in numbers:
        usual = sample_shape(operation, number)
        if shape is not None and usual is not None and len(shape) < len(usual):
            full = (1,) * (len(usual) - len(shape)) + shape
            yield number, full, (f"{operation.name} needs {len(usual)} axes here: the shape {shape} is read as {full}",)


def _misfit(operation: Operation, shape: Any, input: str | None, numbers: list[int]) -> str:
    if shape is None:
        return f"{operation.name}: no sample that was asked for has a gradient of {input}"
    works = sample_shape(operation, numbers[0])
    return (
        f"{operation.name}: the shape {shape} does not fit its first input; {works} does, with {len(works or ())} axes"
    )


def _on_paper(
    operation: Operation,
    number: int,
    shape: tuple[int, ...] | None,
    input: str | None,
    seed: int,
    notes: tuple[str, ...],
) -> Derivation | None:
    """The derivation on numbers with one decimal; with two, or all, if it does not hold for these (a pole, a tie).

    None if the sample cannot be drawn in that shape, or has no gradient for `input`.
    """
    found = None
    for decimals in (1, 2, None):
        rng = np.random.default_rng(seed)
        try:
            drawn, drawn_options = operation.sample.draw(rng, number, shape)
            inputs = tuple(_rounded(x, decimals) for x in drawn)
            options = {name: _rounded(x, decimals) for name, x in drawn_options.items()}
            value, vjp = operation.reference(*inputs, **options)
        except (ValueError, IndexError, TypeError, ZeroDivisionError):
            if shape is None:
                raise
            return None
        _refuse_jacobian(operation, inputs, value)
        dy = _rounded(draw_cotangent(rng, value), decimals)
        names = [name for name in wanted_inputs(operation, inputs, vjp(dy)) if name in operation.derivations]
        names = [name for name in names if input in (None, name)]
        if not names:
            return None
        gradients = tuple(_gradient_steps(operation, name, inputs, options, dy) for name in names)
        which = f"sample {number + 1} of {len(operation.sample)}, seed {seed}"
        found = Derivation(operation, inputs, options, value, dy, vjp, gradients, decimals is not None, (which, *notes))
        if found.largest_change <= TOLERANCE:  # false for NaN
            break
    return found


def _gradient_steps(
    operation: Operation, name: str, inputs: tuple[Any, ...], options: dict[str, Any], dy: Any
) -> GradientSteps:
    steps = tuple(derivation_steps(operation, name, inputs, options, dy))
    outputs = sum(map(np.size, dy)) if isinstance(dy, tuple) else np.size(dy)
    entries = SHOWN_JACOBIAN + 1 if operation.variadic else np.size(steps[0].value)
    if not (0 < outputs <= SHOWN_JACOBIAN and 0 < entries <= SHOWN_JACOBIAN):
        return GradientSteps(name, gradient_name(operation, name), steps, None)
    # the definition sums dy_i times row i: with a dy that is 1 at i, and else 0, it is that row
    units = (_like(unit, dy) for unit in np.eye(outputs))
    rows = [derivation_steps(operation, name, inputs, options, unit)[0].value.ravel() for unit in units]
    return GradientSteps(name, gradient_name(operation, name), steps, np.array(rows))


def _like(flat: Array, dy: Any) -> Any:
    """The entries of `flat` in the shape of dy, or of the arrays in it."""
    if not isinstance(dy, tuple):
        return flat.reshape(np.shape(dy))
    pieces = np.split(flat, np.cumsum([np.size(d) for d in dy])[:-1])
    return tuple(piece.reshape(np.shape(d)) for piece, d in zip(pieces, dy, strict=True))


def _refuse_jacobian(operation: Operation, inputs: tuple[Any, ...], value: Any) -> None:
    outputs = sum(np.size(v) for v in value) if isinstance(value, tuple) else np.size(value)
    largest = max((x.size for x in inputs if isinstance(x, np.ndarray) and x.dtype.kind == "f"), default=0)
    if max(outputs, MOST_ENTRIES) * largest > MOST_JACOBIAN:
        raise ValueError(
            f"{operation.name}: the dense Jacobian has {outputs:,} x {largest:,} entries, "
            f"{_bytes(8 * outputs * largest)}; choose a smaller shape"
        )


def _rounded(x: Any, decimals: int | None) -> Any:
    """Floating-point arrays with so many decimals, and numbers with one more; other things as they are.

    Nothing becomes 0, which may have a pole or a kink: in an array the smallest decimal takes its place.
    """
    if decimals is None:
        return x
    if isinstance(x, tuple):
        return tuple(_rounded(item, decimals) for item in x)
    if isinstance(x, float):
        return round(x, decimals + 1) or x
    if not isinstance(x, np.ndarray) or x.dtype.kind != "f":
        return x
    rounded: Array = np.round(x, decimals)
    return np.where((rounded == 0) & (x != 0), np.copysign(float(f"1e-{decimals}"), x), rounded)
