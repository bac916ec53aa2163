"""One attempt at an exercise: the student's function called on the operation's samples, and what it answers.

Mistakes become sentences that name the gradient, the line and the shapes. Everything here runs the student's code, and
so belongs into a process of its own (`trial.py`).
"""

from __future__ import annotations

import contextlib
import linecache
import os
import re
import runpy
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_llm.checking import gradcheck
from tinygrad_llm.diagnosis.report import Report
from tinygrad_llm.operation import Operation
from tinygrad_llm.study.derivations.derivation import draw_cotangent, gradient_name, wanted_inputs
from tinygrad_llm.study.exercises.blanking import MISSING
from tinygrad_llm.tape import unbroadcast


@dataclass(frozen=True)
class Problem:
    """Why there is no gradient to be checked. `unwritten`: the vjp is still blank."""

    text: str
    unwritten: bool = False


class Mistake(Exception):
    """A problem that concerns the whole file."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.text)
        self.problem = problem


@dataclass(frozen=True)
class Attempt:
    """The student's function, and where it stands."""

    operation: Operation
    function: Callable[..., Any]
    path: Path
    notes: list[str] = field(default_factory=list)
    """Remarks on gradients that are right."""

    def gradients(self, inputs: Sequence[Any], options: dict[str, Any], dy: Any) -> dict[str, Any]:
        """By input, the gradient that the student's vjp returns in the input's shape, or a Problem.

        For a variadic operation the one gradient is a tuple. Raises Mistake if forward does not give what the library's
        does, or fails.
        """
        inputs, options, dy = _frozen(inputs), _frozen(options), _frozen(dy)
        vjp = self._forward(inputs, options)
        library = self._library(inputs, options, dy)
        names = list(library)
        try:
            returned = vjp(dy)
        except Exception as error:
            return dict.fromkeys(names, self.problem(error))
        if returned is None:
            return dict.fromkeys(names, Problem("the vjp returned nothing: is its return statement missing?"))
        returned = tuple(returned) if isinstance(returned, tuple | list) else (returned,)
        miscounted = self._miscounted(returned, inputs, names)
        if miscounted:
            return dict.fromkeys(names, miscounted)
        if self.operation.variadic:
            pairs = enumerate(zip(returned, inputs, strict=True))
            found = [self._gradient(f"d{names[0]}[{i}]", gradient, x) for i, (gradient, x) in pairs]
            problems = [g for g in found if isinstance(g, Problem)]
            return {names[0]: problems[0] if problems else tuple(found)}
        gradients = {}
        for name, expected in library.items():
            i = self.operation.parameters.index(name)
            gradients[name] = self._gradient(gradient_name(self.operation, name), returned[i], inputs[i], expected)
        return gradients

    def is_right(self, name: str, inputs: Sequence[Any], options: dict[str, Any], dy: Any) -> bool:
        """Whether the gradient of input `name`, which must be there, equals the library's."""
        with quiet():
            mine = _many(self.gradients(inputs, options, dy)[name])
        right = _many(self._library(inputs, options, dy)[name])
        given = inputs if self.operation.variadic else (inputs[self.operation.parameters.index(name)],)
        summed = [unbroadcast(np.asarray(g), np.shape(x)) for g, x in zip(right, given, strict=True)]
        return all(np.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(mine, summed, strict=True))

    def _library(self, inputs: Sequence[Any], options: dict[str, Any], dy: Any) -> dict[str, Any]:
        """By input, the library's gradient as its vjp returns it; a tuple for a variadic operation."""
        returned = _many(self.operation.reference(*inputs, **options)[1](dy))
        names = wanted_inputs(self.operation, inputs, returned)
        called = [g() if callable(g) else g for g in returned]
        if self.operation.variadic:
            return {name: tuple(called) for name in names}
        return {name: called[self.operation.parameters.index(name)] for name in names}

    def _forward(self, inputs: Sequence[Any], options: dict[str, Any]) -> Callable[..., Any]:
        name = self.operation.name
        try:
            result = self.function(*inputs, **options)
        except Exception as error:
            raise Mistake(self.problem(error)) from error
        if not (isinstance(result, tuple) and len(result) == 2 and callable(result[1])):
            raise Mistake(Problem(f"{name} must return (value, vjp), with vjp a function; it returned {_kind(result)}"))
        expected = self.operation.reference(*inputs, **options)[0]
        pairs = list(zip(_many(result[0]), _many(expected), strict=False))
        if len(_many(result[0])) != len(_many(expected)) or not all(_equal(a, b) for a, b in pairs):
            raise Mistake(
                Problem(
                    f"{name} no longer computes what the library's {name} does, when it is called with "
                    f"{describe(self.operation, inputs, options)}: leave the forward as it was (a fresh copy: "
                    f"tinygrad-llm exercise {name} --dir fresh)"
                )
            )
        return result[1]

    def _miscounted(self, returned: tuple[Any, ...], inputs: Sequence[Any], names: list[str]) -> Problem | None:
        operation = self.operation
        if operation.variadic:
            if len(returned) == len(inputs):
                return None
            return Problem(
                f"the vjp returned {_count(len(returned), 'gradient')} for {_count(len(inputs), 'input')}: "
                f"return one for each array in {names[0]}"
            )
        needed = 1 + max((operation.parameters.index(name) for name in names), default=-1)
        if needed <= len(returned) <= len(operation.parameters):
            return None
        order = ", ".join(
            gradient_name(operation, p) if p in operation.derivations else "None"
            for p in operation.parameters[: max(needed, 1)]
        )
        return Problem(f"the vjp returned {_count(len(returned), 'gradient')}; expected {needed}: {order}")

    def _gradient(self, name: str, given: Any, x: Any, expected: Any = None) -> Any:
        """One gradient in the shape of its input x, or what is wrong with it; `expected` is the library's."""
        if callable(given):
            try:
                given = given()
            except Exception as error:
                problem = self.problem(error)
                return Problem(f"{name}: {problem.text}", problem.unwritten)
        shape = np.shape(x)
        if given is None:
            return Problem(f"{name} is None; expected an array of shape {shape}, that of its input")
        try:
            array = np.asarray(given)
        except ValueError as error:
            return Problem(f"{name} is not an array of numbers: {error}")
        if array.dtype.kind not in "fiub":
            return Problem(f"{name} is not an array of real numbers but {_kind(given)}")
        try:
            gradient = unbroadcast(array, shape)
        except ValueError:
            return Problem(
                f"{name} has the shape {array.shape}, expected {shape}, that of its input{_remedy(array, shape)}"
            )
        if array.shape != shape == np.shape(expected) and not any(note.startswith(f"{name} ") for note in self.notes):
            came = f"{name} came in the shape {array.shape}, and the tape summed it to {shape}"
            self.notes.append(f"{came}; the library's vjp does that sum itself.")
        return gradient

    def problem(self, error: BaseException) -> Problem:
        """What went wrong, with the line of the student's file where it did, and the shapes of what stands there."""
        frames = [(f, n) for f, n in traceback.walk_tb(error.__traceback__) if f.f_code.co_filename == str(self.path)]
        if not frames:
            return Problem(f"{type(error).__name__}: {error}")
        frame, line = frames[-1]
        code = linecache.getline(str(self.path), line).strip()
        where = f"{self.path.name}, line {line}, in {frame.f_code.co_name}"
        if isinstance(error, NotImplementedError) and str(error) == MISSING:
            return Problem(f"not written yet: {where}", unwritten=True)
        lines = [f"{where}: {type(error).__name__}: {error}", f"    {code}"]
        shapes = [
            f"{name} {np.shape(frame.f_locals[name])}"
            for name in dict.fromkeys(re.findall(r"(?<![.\w])[A-Za-z_]\w*", code))
            if isinstance(frame.f_locals.get(name), np.ndarray | np.generic)
        ]
        lines += [f"    with the shapes {', '.join(shapes)}"] if shapes else []
        if "read-only" in str(error):
            lines.append("    dy, the inputs and what forward has computed may be used again: do not write to them")
        return Problem("\n".join(lines))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what the student prints: their vjp is called many times."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def load(operation: Operation, path: Path) -> Attempt:
    """Run the file at `path`, which defines the function of that operation. Raises Mistake where it cannot."""
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    linecache.checkcache(str(path))
    unloaded = Attempt(operation, operation.reference, path)
    try:
        names = runpy.run_path(str(path), run_name="exercise")
    except SyntaxError as error:
        if error.filename != str(path):
            raise Mistake(unloaded.problem(error)) from error
        line = (error.text or "").rstrip()
        raise Mistake(Problem(f"{path.name}, line {error.lineno}: {error.msg}\n    {line.strip()}".rstrip())) from error
    except (Exception, SystemExit) as error:
        raise Mistake(unloaded.problem(error)) from error
    function = names.get(operation.name)
    if not callable(function):
        raise Mistake(Problem(f"{path.name} no longer defines the function {operation.name}"))
    return Attempt(operation, function, path)


def check_sample(operation: Operation, function: Callable[..., Any], number: int, seed: int = 0) -> Report:
    """gradcheck of `function`, written like an operation's, on arguments from one of the operation's samples.

    Inputs that have no gradient (an index, a mask) are kept fixed.
    """
    rng = np.random.default_rng([seed, number])
    inputs, options = operation.sample.draw(rng, number)
    value, vjp = operation.reference(*inputs, **options)
    if operation.variadic:
        varied = dict(enumerate(f"{operation.parameters[-1]}[{i}]" for i in range(len(inputs))))
    else:
        names = wanted_inputs(operation, inputs, vjp(draw_cotangent(rng, value)))
        varied = {operation.parameters.index(name): name for name in names}
    varied = {i: name for i, name in varied.items() if isinstance(inputs[i], np.ndarray)}  # not a plain number
    attempt = Operation(function, operation.name)

    def call(*tensors: Any) -> Any:
        given = dict(zip(varied, tensors, strict=True))
        return attempt(*(given.get(i, x) for i, x in enumerate(inputs)), **options)

    call.__name__ = operation.name
    return gradcheck(call, *(inputs[i] for i in varied), names=list(varied.values()), seed=seed)


def describe(operation: Operation, inputs: Sequence[Any], options: dict[str, Any]) -> str:
    """A call in a few words: the shapes of the inputs, and the options."""
    names = operation.parameters * len(inputs) if operation.variadic else operation.parameters
    parts = [
        f"{name} {np.shape(x)}" if isinstance(x, np.ndarray) else f"{name}={_brief(x)}"
        for name, x in zip(names, inputs, strict=False)
    ]
    return ", ".join([*parts, *(f"{name}={_brief(value)}" for name, value in options.items())])


def _brief(value: Any) -> str:
    return f"array of shape {value.shape}" if isinstance(value, np.ndarray) else repr(value)


def _remedy(array: Any, shape: tuple[int, ...]) -> str:
    """What a gradient of the wrong shape suggests."""
    if array.shape == shape[::-1]:
        return ": is it transposed?"
    try:
        fits = np.broadcast_shapes(array.shape, shape) == shape
    except ValueError:
        return ""
    return ": each entry of the input needs its own value (np.broadcast_to)" if fits else ""


def _frozen(value: Any) -> Any:
    """Read-only copies of all arrays, as the tape gives them."""
    if isinstance(value, np.ndarray):
        value = value.copy()
        value.flags.writeable = False
    elif isinstance(value, tuple):
        return tuple(map(_frozen, value))
    elif isinstance(value, dict):
        return {name: _frozen(item) for name, item in value.items()}
    return value


def _many(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _equal(a: Any, b: Any) -> bool:
    try:
        return np.shape(a) == np.shape(b) and bool(np.allclose(a, b, rtol=1e-9, atol=1e-12, equal_nan=True))
    except (TypeError, ValueError):
        return False


def _kind(value: Any) -> str:
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else type(value).__name__


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
