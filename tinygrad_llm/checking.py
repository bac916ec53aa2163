"""Gradient checks that say what is wrong, not only that something is.

`gradcheck` compares the gradients that the tape computes with numerical derivatives of the same function, in float64,
and names the likely cause where they differ (see `diagnosis`). The cotangent is always random: a constant one would
pass a softmax or LayerNorm whose backward returns zeros, since their outputs sum to a constant whatever the input is.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinygrad_llm.diagnosis import Diagnosis, Evidence, diagnose, kinks
from tinygrad_llm.diagnosis.report import NOT_COMPARED, InputReport, Report
from tinygrad_llm.diagnosis.whole import no_gradient
from tinygrad_llm.differentiation import EPS, Derivative, Slopes, as_tensor_function, outputs_of, tape_gradients
from tinygrad_llm.operation import Operation
from tinygrad_llm.tape import Array, GradientError, unbroadcast
from tinygrad_llm.tensor import Tensor

COMPLEX_RTOL = 1e-9
CENTRAL_RTOL = 1e-6
FULL_JACOBIAN_LIMIT = 400
TINY = float(np.finfo(np.float64).tiny)


def gradcheck(
    function: Callable[..., Any],
    *arrays: npt.ArrayLike | Tensor,
    names: Sequence[str] | None = None,
    seed: int = 0,
    rtol: float | None = None,
    **options: Any,
) -> Report:
    """Compare the gradients of ``function(*arrays, **options)`` with numerical ones, for every floating-point input.

    `function` takes Tensors and returns a Tensor or a tuple of them; or it is an undecorated operation, which takes
    arrays and returns ``(value, vjp)``. It must give the same result each time it is called.

    With J the Jacobian of all outputs by one input, the check is ``dx = dy J`` for random `dy`, and for every unit `dy`
    if the outputs are few. J is computed whole up to 400 input elements; beyond, ``dx . v = dy (J v)`` is checked for
    random directions v. J comes from the complex step, ``Im f(x + ih)/h`` (exact to rounding; Squire and Trapp 1998)
    where the function is analytic, else from five-point central differences. Which of the two is found out by
    comparing them.

    The tolerance of entry j is `rtol` (1e-9 and 1e-6 by method) times ``sum_i |dy_i J_ij|``, plus rounding: of the
    largest entry of J, and for central differences of the function's values divided by the step.
    The function is given read-only arrays: one that writes to its inputs, or a vjp that writes to dy, fails.

    A gradient that differs is diagnosed: the report names the likely cause. Before a vjp is blamed, the differences are
    looked at with ever shorter steps and from both sides. At a kink (relu at 0, a tie in max) there is no derivative:
    a gradient between the two slopes passes, and the report says so. Where the differences do not converge (the
    function jumps, is noisy, or draws random numbers), nothing was checked: the report is false, but says "undecided".
    """
    values = [np.asarray(a.data if isinstance(a, Tensor) else a) for a in arrays]
    values = [a.astype(np.float64, copy=False) if a.dtype.kind == "f" else a for a in values]
    call = as_tensor_function(function, values, options)
    if names is None:
        names = call.parameters[: len(values)] if isinstance(call, Operation) and not call.variadic else ()
        names = [*names, *(f"input {i}" for i in range(len(names), len(values)))]
    if len(names) != len(values):
        raise ValueError(f"gradcheck: {len(names)} names for {len(values)} inputs")
    rng = np.random.default_rng(seed)
    where = [i for i, a in enumerate(values) if a.dtype.kind == "f"]
    if not where:
        raise ValueError("gradcheck: none of the inputs is a floating-point array, so there is no gradient to check")
    point = _Point(call, tuple(values), options, tuple(names))
    probes = [rng.standard_normal(point.at.size) for _ in range(3)]
    if point.at.size <= 32:
        probes += list(np.eye(point.at.size))
    try:
        gradients = [tape_gradients(call, values, options, dy) for dy in probes]
    except GradientError:  # some input has none; the others can still be checked, each by itself
        point.alone = True
        return Report(_describe(function), tuple(_check_alone(point, i, np.array(probes), rtol, rng) for i in where))
    reports = tuple(_check(point, i, np.array(probes), [g[i] for g in gradients], rtol, rng) for i in where)
    return Report(_describe(function), reports)


def _describe(function: Any) -> str:
    """Its name; for one that has none, where it stands."""
    function = getattr(function, "func", function)  # of a functools.partial
    name = str(getattr(function, "__name__", type(function).__name__))
    code = getattr(function, "__code__", None)
    return f"the lambda in {Path(code.co_filename).name}:{code.co_firstlineno}" if name == "<lambda>" and code else name


class _Point:
    """A function and the inputs at which it is checked."""

    def __init__(
        self, call: Callable[..., Any], values: tuple[Array, ...], options: dict[str, Any], names: tuple[str, ...]
    ) -> None:
        self.call, self.values, self.options, self.names = call, values, options, names
        self.outputs = tuple(outputs_of(call, list(values), options))
        self.at = np.concatenate([y.ravel() for y in self.outputs])
        self.alone = False  # whether the gradients are computed for one input at a time

    def derivative(self, number: int, values: tuple[Array, ...] | None = None) -> Derivative:
        values = self.values if values is None else values
        return Derivative(self.call, list(values), self.options, number, self.at)

    def arrived(self, number: int, dy: Array) -> Array | None:
        """The tape's gradient; None if none arrived."""
        return tape_gradients(self.call, list(self.values), self.options, dy, number if self.alone else None)[number]

    def gradient(self, number: int, dy: Array) -> Array:
        """The tape's gradient, as a vector; zeros if there is none."""
        gradient = self.arrived(number, dy)
        return np.zeros(self.values[number].size) if gradient is None else gradient.ravel()

    def evidence(
        self, number: int, directions: list[Array], rows: Array | Slopes, method: str, attached: bool
    ) -> Evidence:
        """What a diagnosis needs; `rows` are the derivatives along `directions`, all unit vectors unless x is large."""
        size, limit = self.at.size, FULL_JACOBIAN_LIMIT
        units = size <= limit and self.values[number].size <= limit
        cotangents = np.eye(size) if units else np.random.default_rng(2).standard_normal((min(size, 24), size))
        flat = np.array([v.ravel() for v in directions])
        given = np.array([self.gradient(number, dy) for dy in cotangents])
        given = given if self.values[number].size <= limit else given @ flat.T  # 0 times a NaN would spread it
        best = rows.best if isinstance(rows, Slopes) else rows
        right = cotangents @ best.T
        if isinstance(rows, Slopes):  # nothing is wrong within the bounds of a kink, or of what is known
            low, high = np.array([rows.bounds(dy, doubt=True) for dy in cotangents]).swapaxes(0, 1)
            right = np.where((low <= given) & (given <= high), given, right)

        def jacobian(position: int, values: tuple[Array, ...]) -> Array:
            return cotangents @ self.derivative(position, values).along(directions)[1].T

        return Evidence(
            names=self.names,
            inputs=self.values,
            position=number,
            outputs=self.outputs,
            options=self.options,
            right=right,
            given=given,
            rtol=COMPLEX_RTOL if method == "complex step" else CENTRAL_RTOL,
            noise=100 * EPS * float(np.abs(best).max(initial=0.0)) + self.derivative(number).rounding,
            units=units,
            shaped=self.values[number].size <= limit,
            attached=attached,
            vjp=lambda dy: self.gradient(number, dy),
            jacobian=jacobian,
        )


def _check_alone(
    point: _Point, number: int, probes: Array, rtol: float | None, rng: np.random.Generator
) -> InputReport:
    """As `_check`; an input for which a vjp returns None or a wrong shape fails."""
    try:
        return _check(point, number, probes, [point.arrived(number, dy) for dy in probes], rtol, rng)
    except GradientError as error:
        found = point.names[number], point.values[number].shape, NOT_COMPARED, np.inf, 0.0, None, np.nan, np.nan
        return InputReport(*found, attached=True, verdict="FAIL", diagnosis=no_gradient(error))


@np.errstate(all="ignore")
def _check(
    point: _Point,
    number: int,
    probes: Array,
    gradients: Sequence[Array | None],
    rtol: float | None,
    rng: np.random.Generator,
    moved: bool = False,
) -> InputReport:
    """Compare the gradients of one input, one for each cotangent in `probes`, with ``dy J`` or ``dy (J v)``."""
    x = point.values[number]
    whole = x.size <= FULL_JACOBIAN_LIMIT
    units = [unit.reshape(x.shape) for unit in np.eye(x.size)] if whole else []
    directions = units if whole else [rng.standard_normal(x.shape) / np.sqrt(x.size) for _ in range(8)]
    if not directions or not point.at.size:
        return InputReport(point.names[number], x.shape, "nothing to vary", 0.0, 0.0, None, 0.0, 0.0, attached=True)
    derivative = point.derivative(number)
    method, rows = derivative.along(directions)
    comparison = _Comparison(point.names[number], derivative, method, probes, gradients, directions, rtol, whole)
    report = comparison.of(rows)
    if report.passed:
        return report
    if note := kinks.unrepeatable(point.outputs, outputs_of(point.call, list(point.values), point.options)):
        return replace(report, verdict="open", diagnosis=note)
    if not np.isfinite(point.at).all():
        return replace(report, verdict="open", diagnosis=kinks.undefined(point.at))
    slopes = derivative.slopes(directions) if method != "complex step" else None
    kinked: Array = np.zeros(len(directions), bool)
    if slopes is not None:
        kinked, strict, failed = np.abs(slopes.kink).sum(1) > 0, report, ~comparison.right
        report = comparison.of(slopes.best, slopes)
        if report.passed:
            ties = kinks.overcounted_tie(slopes, derivative, lambda dy: point.gradient(number, dy)) if whole else None
            if ties is not None:
                return replace(strict, diagnosis=ties)
            note = kinks.at_kink(slopes, x, kinked & failed)
            return report if note is None else replace(report, verdict="kink", diagnosis=note)
        report = comparison.of(slopes.best, slopes, doubt=True)
        if report.passed:
            return replace(report, verdict="open", diagnosis=kinks.unclear(slopes, point.outputs))
    if not moved and (cause := _diagnosis_nearby(point, number, probes, rtol, rng)):
        return replace(report, diagnosis=cause)
    if slopes is not None and kinked[~comparison.right].all():
        return replace(report, diagnosis=kinks.outside_kink(slopes, ~comparison.right))
    evidence = point.evidence(number, directions, rows if slopes is None else slopes, method, report.attached)
    return replace(report, diagnosis=diagnose(evidence))


def _diagnosis_nearby(
    point: _Point, number: int, probes: Array, rtol: float | None, rng: np.random.Generator
) -> Diagnosis | None:
    """At zeros and equal entries many causes look alike: there, the diagnosis is made at a general point close by."""
    if not any(a.dtype.kind == "f" and _is_special(a) for a in point.values):
        return None
    values = tuple(a + rng.uniform(0.05, 0.25, a.shape) if a.dtype.kind == "f" and a.ndim else a for a in point.values)
    try:
        near = _Point(point.call, values, point.options, point.names)
        near.alone = point.alone
        report = _check(near, number, probes, [near.arrived(number, dy) for dy in probes], rtol, rng, moved=True)
    except Exception:  # the function need not be defined there
        return None
    if report.verdict != "FAIL" or report.diagnosis is None or report.diagnosis.cause == "unknown":
        return None
    where = f" (seen at a point close by: here, some entries of {' or '.join(point.names)} are equal or 0)"
    return replace(report.diagnosis, evidence=report.diagnosis.evidence + where)


def _is_special(a: Array) -> bool:
    return bool(a.size and (len(np.unique(np.abs(a))) < a.size or not a.all()))


class _Comparison:
    """The tape's gradients along some directions, one row for each cotangent, to be compared with derivatives."""

    def __init__(
        self,
        name: str,
        derivative: Derivative,
        method: str,
        probes: Array,
        gradients: Sequence[Array | None],
        directions: list[Array],
        rtol: float | None,
        whole: bool,
    ) -> None:
        self.name, self.derivative, self.method, self.probes, self.whole = name, derivative, method, probes, whole
        self.shape = derivative.x.shape
        self.attached = any(g is not None for g in gradients)
        dxs = np.array([np.zeros(derivative.x.size) if g is None else g.ravel() for g in gradients])
        flat = np.array([v.ravel() for v in directions])
        self.measured: Array = dxs if whole else dxs @ flat.T
        self.size: Array | float = 0.0 if whole else np.abs(dxs) @ np.abs(flat).T
        self.rtol = rtol if rtol is not None else COMPLEX_RTOL if method == "complex step" else CENTRAL_RTOL
        self.right = np.ones(len(directions), bool)  # along which directions the last comparison found no error

    def of(self, rows: Array, slopes: Slopes | None = None, doubt: bool = False) -> InputReport:
        """Compare with the derivatives `rows`, one for each direction; or with the bounds that `slopes` leaves."""
        numeric = low = high = self.probes @ rows.T
        if slopes is not None:
            low, high = np.array([slopes.bounds(dy, doubt) for dy in self.probes]).swapaxes(0, 1)
        errors: Array = np.maximum(np.maximum(low - self.measured, self.measured - high), 0)
        errors = np.where(np.isnan(errors), np.inf, errors)  # NaN must not pass,
        if slopes is not None and doubt:  # unless nothing at all is known
            errors = np.where(~np.isfinite(self.measured) & np.isinf(slopes.high).any(1), 0.0, errors)
        allowed = self._allowed(rows)
        self.right = (errors > allowed).sum(0) == 0
        k, j = (int(i) for i in np.unravel_index(int((errors / (allowed + TINY)).argmax()), errors.shape))
        error, tolerance = float(errors[k, j]), float(allowed[k, j])
        return InputReport(
            self.name,
            self.shape,
            self.method,
            error,
            tolerance,
            tuple(int(i) for i in np.unravel_index(j, self.shape)) if self.whole else None,
            float(self.measured[k, j]),
            float(numeric[k, j]),
            self.attached,
            "ok" if error <= tolerance else "FAIL",
        )

    def _allowed(self, rows: Array) -> Array:
        """`rtol` times ``sum_i |dy_i J_ij|``, plus rounding."""
        scales = np.maximum(np.abs(self.probes) @ np.abs(rows).T, self.size)
        rounding = 100 * EPS * float(np.abs(rows).max(initial=0.0)) + self.derivative.noise + self.derivative.rounding
        return self.rtol * scales + rounding * np.abs(self.probes).sum(1, keepdims=True)


# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One form of a gradient in a derivation; `change` is the largest difference to the form before, per magnitude.

    `named` holds the numbers and arrays that the derivation has given a name to since the step before.
    """

    why: str
    value: Any
    change: float
    named: Mapping[str, Any] = field(default_factory=dict)


def derivation_steps(
    operation: Operation, name: str, inputs: Sequence[Any], options: dict[str, Any], dy: Any
) -> list[Step]:
    """Run the derivation of the gradient of input `name`; the last step is what the vjp itself returns.

    Each value is summed over broadcast axes to the input's shape, so that all steps can be compared. For a variadic
    operation a value is a tuple, one gradient per input.
    """
    parameters = dict(zip(operation.parameters, inputs, strict=False))
    if operation.variadic:
        forms = operation.derivations[name](*inputs, dy=dy, **options)
        shapes = [np.shape(x) for x in inputs]
    else:
        forms = operation.derivations[name](**parameters, dy=dy, **options)
        shapes = [np.shape(parameters[name])]
    gradients = operation.reference(*inputs, **options)[1](dy)
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    wanted = gradients if operation.variadic else (gradients[operation.parameters.index(name)],)
    final = tuple(g() if callable(g) else g for g in wanted)
    steps: list[Step] = []
    before = np.empty(0)
    last: list[tuple[str, Any, dict[str, Any]]] = [("the vjp", final if operation.variadic else final[0], {})]
    for why, value, named in itertools.chain(_with_names(forms), last):
        values = value if operation.variadic else (value,)
        values = tuple(unbroadcast(np.asarray(v), s) for v, s in zip(values, shapes, strict=True))
        flat = np.concatenate([v.ravel() for v in values])
        change = _relative_change(flat, before) if steps else 0.0
        steps.append(Step(why, values if operation.variadic else values[0], change, named))
        before = flat
    return steps


def _with_names(forms: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Each form, and what the derivation's local variables have come to hold since the one before."""
    seen = list(_locals(forms).values())  # the arguments; kept, so that no id is used twice
    for why, value in forms:
        known = {id(thing) for thing in seen}
        new = {name: thing for name, thing in _locals(forms).items() if id(thing) not in known}
        seen.extend(new.values())
        yield why, value, {n: t for n, t in new.items() if isinstance(t, (np.ndarray, float)) and t is not value}


def _locals(forms: Iterator[Any]) -> dict[str, Any]:
    return inspect.getgeneratorlocals(forms) if inspect.isgenerator(forms) else {}


def _relative_change(now: Array, before: Array) -> float:
    difference = float(np.abs(now - before).max(initial=0.0))
    return difference / max(1.0, float(np.abs(now).max(initial=0.0)))
