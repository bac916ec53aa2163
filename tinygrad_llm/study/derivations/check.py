"""`check_derivations`: every step of every derivation on many random draws, and which step is the odd one out."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_llm.checking import Step, derivation_steps
from tinygrad_llm.operation import Operation
from tinygrad_llm.study.derivations.derivation import TOLERANCE, draw_cotangent, wanted_inputs
from tinygrad_llm.study.lookup import find_operation
from tinygrad_llm.study.notation.prose import plain_sentence
from tinygrad_llm.tape import Array, unbroadcast
from tinygrad_llm.tensor import registry


@dataclass
class CheckedInput:
    """The derivation of one input's gradient over all draws."""

    operation: str
    input: str
    steps: int = 0
    draws: int = 0
    largest_change: float = 0.0
    fault: str = ""

    @property
    def ok(self) -> bool:
        """Whether no draw found anything wrong."""
        return not self.fault

    def __bool__(self) -> bool:
        return self.ok


def check_derivations(
    operations: Iterable[str | Operation] | None = None,
    draws: int = 20,
    seed: int = 0,
    advance: Callable[[str], object] = lambda name: None,
) -> list[CheckedInput]:
    """Run every derivation of the operations (by default: all of the registry) on `draws` draws of each sample.

    One result for each differentiable input. `fault` says what is wrong with the first draw that failed, and names the
    step: the one that differs by more than 1e-12, per magnitude, from what most others agree on. `advance` is called
    with the operation's name as each is begun.
    """
    if draws < 1:
        raise ValueError(f"check: {draws} draws show nothing; at least 1 is needed")
    results = []
    for operation in map(find_operation, sorted(registry) if operations is None else operations):
        advance(operation.name)
        results += _check(operation, draws, seed)
    return results


def _check(operation: Operation, draws: int, seed: int) -> list[CheckedInput]:
    if not len(operation.sample):
        return [CheckedInput(operation.name, "-", fault="it has no sample to draw arguments from")]
    found: dict[str, CheckedInput] = {}
    for number in range(len(operation.sample)):
        for draw in range(draws):
            rng = np.random.default_rng([seed, zlib.crc32(operation.name.encode()), number, draw])
            inputs, options = operation.sample.draw(rng, number)
            value, vjp = operation.reference(*inputs, **options)
            dy = draw_cotangent(rng, value)
            _lock(inputs, dy)
            for name in wanted_inputs(operation, inputs, vjp(dy)):
                result = found.setdefault(name, CheckedInput(operation.name, name))
                if result.ok:
                    _check_draw(operation, name, inputs, options, dy, result)
                    result.draws += 1
    for name in operation.derivations:
        if name not in found:
            found[name] = CheckedInput(operation.name, name, fault="no sample has a gradient for it")
    return list(found.values())


def _lock(inputs: tuple[Any, ...], dy: Any) -> None:
    """Make the arrays read-only: a derivation that wrote to them would change what its steps are compared with."""
    for array in (*inputs, *(dy if isinstance(dy, tuple) else (dy,))):
        if isinstance(array, np.ndarray):
            array.flags.writeable = False


def _check_draw(
    operation: Operation, name: str, inputs: tuple[Any, ...], options: dict[str, Any], dy: Any, result: CheckedInput
) -> None:
    """Run one derivation; enter in `result` how many steps it has, its largest change, and what is wrong."""
    if name not in operation.derivations:
        result.fault = "it has no derivation"
        return
    try:
        steps = derivation_steps(operation, name, inputs, options, dy)
    except Exception as error:  # whatever a derivation does, the check goes on with the others
        result.fault = _broken(operation, name, inputs, options, dy, error)
        return
    result.steps = len(steps)
    if len(steps) == 1:  # the vjp, compared with nothing
        result.fault = "its derivation has no steps"
        return
    changes = [step.change for step in steps]
    result.largest_change = float(np.max([result.largest_change, *changes]))  # NaN wins
    if not result.largest_change <= TOLERANCE:
        result.fault = "; ".join(_odd(steps)) or f"its steps differ by {result.largest_change:.1e}"


def _odd(steps: list[Step]) -> Iterator[str]:
    """The steps that differ from what most agree on: the median of each entry over all steps."""
    flat = [_flat(step.value) for step in steps]
    middle = np.median([f for f in flat if np.isfinite(f).all()] or flat, axis=0)
    scale = max(1.0, float(np.abs(middle).max(initial=0.0)))
    for number, (step, form) in enumerate(zip(steps, flat, strict=True), 1):
        difference = float(np.abs(form - middle).max(initial=0.0)) / scale
        if not difference <= TOLERANCE / 2:
            yield f"step {number} ({plain_sentence(step.why)}) differs by {difference:.1e}"


def _flat(value: Any) -> Array:
    values = value if isinstance(value, tuple) else (value,)
    return np.concatenate([np.ravel(v) for v in values])


def _broken(
    operation: Operation, name: str, inputs: tuple[Any, ...], options: dict[str, Any], dy: Any, error: Exception
) -> str:
    """Which step could not be compared: it raised `error`, or has a shape that is not the input's."""
    given = {} if operation.variadic else dict(zip(operation.parameters, inputs, strict=False))
    positional = inputs if operation.variadic else ()
    number = 0
    try:
        for number, (why, value) in enumerate(operation.derivations[name](*positional, **given, dy=dy, **options), 1):
            values, xs = (value, inputs) if operation.variadic else ((value,), (given[name],))
            for v, x in zip(values, xs, strict=True):
                try:
                    unbroadcast(np.asarray(v), np.shape(x))
                except ValueError:
                    return f"step {number} ({plain_sentence(why)}) has the shape {np.shape(v)}, its input {np.shape(x)}"
    except Exception as raised:
        return f"step {number + 1} raises {type(raised).__name__}: {raised}"
    return f"the steps raise {type(error).__name__}: {error}"
