"""Gradient checks that say what is wrong, not only that something is.

`gradcheck` compares the gradients that the tape computes with numerical derivatives of the same function, in float64.
The cotangent is always random: a constant one would pass a softmax or LayerNorm whose backward returns zeros, since
their outputs sum to a constant whatever the input is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tinygrad_llm.operation import Operation
from tinygrad_llm.tape import Array, enable_grad, no_grad, sweep, unbroadcast
from tinygrad_llm.tensor import Tensor

COMPLEX_RTOL = 1e-9
CENTRAL_RTOL = 1e-6
FULL_JACOBIAN_LIMIT = 400
EPS = float(np.finfo(np.float64).eps)
CENTRAL_STEP = EPS ** (1 / 5)  # balances the truncation error h^4 of the five-point formula against rounding, eps / h
COMPLEX_STEP = 1e-30
TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class InputReport:
    """What was found for one input. `error` and `tolerance` are absolute; `index` is where the error is largest."""

    name: str
    shape: tuple[int, ...]
    method: str
    error: float
    tolerance: float
    index: tuple[int, ...] | None
    analytic: float
    numeric: float
    attached: bool

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance

    def __str__(self) -> str:
        where = "in a random direction" if self.index is None else f"at {list(self.index)}" if self.index else "in it"
        line = (
            f"  {'ok  ' if self.passed else 'FAIL'} d{self.name} {self.shape}: largest error {self.error:.2e} {where}"
            f" (tape {self.analytic:.9g}, numeric {self.numeric:.9g}; allowed {self.tolerance:.1e}; {self.method})"
        )
        return line if self.attached else line + "\n       no gradient reached this input: is it attached to the tape?"


@dataclass(frozen=True)
class Report:
    """The result of `gradcheck`: true if every input passed, and readable when printed."""

    function: str
    inputs: tuple[InputReport, ...]

    @property
    def passed(self) -> bool:
        return all(report.passed for report in self.inputs)

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        title = f"gradcheck of {self.function}: {'passed' if self.passed else 'FAILED'}"
        return "\n".join([title, *map(str, self.inputs)])

    __repr__ = __str__


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
    """
    values = [np.asarray(a.data if isinstance(a, Tensor) else a) for a in arrays]
    values = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in values]
    call = _as_tensor_function(function, values, options)
    if names is None:
        names = call.parameters[: len(values)] if isinstance(call, Operation) and not call.variadic else ()
        names = [*names, *(f"input {i}" for i in range(len(names), len(values)))]
    if len(names) != len(values):
        raise ValueError(f"gradcheck: {len(names)} names for {len(values)} inputs")
    rng = np.random.default_rng(seed)
    where = [i for i, a in enumerate(values) if a.dtype.kind == "f"]
    if not where:
        raise ValueError("gradcheck: none of the inputs is a floating-point array, so there is no gradient to check")
    at = _flat(call, values, options)
    probes = [rng.standard_normal(at.size) for _ in range(3)]
    if at.size <= 32:
        probes += list(np.eye(at.size))
    analytic = [_tape_gradients(call, values, options, dy) for dy in probes]
    reports = []
    for i in where:
        gradients = [g[i] for g in analytic]
        attached = any(g is not None for g in gradients)
        dxs = [np.zeros(values[i].shape) if g is None else g for g in gradients]
        derivative = _Derivative(call, values, options, i, at)
        if values[i].size <= FULL_JACOBIAN_LIMIT:
            reports.append(_check_entries(derivative, names[i], probes, dxs, attached, rtol))
        else:
            reports.append(_check_directions(derivative, names[i], probes, dxs, attached, rtol, rng))
    name = str(getattr(function, "__name__", type(function).__name__))
    return Report(name, tuple(reports))


def _as_tensor_function(function: Any, arrays: list[Array], options: dict[str, Any]) -> Callable[..., Any]:
    """An undecorated ``(value, vjp)`` function is made an operation; everything else takes Tensors already."""
    if isinstance(function, Operation):
        return function
    try:
        result = function(*arrays, **options)
    except Exception:  # it wants Tensors; if it is simply wrong, the next call shows that with its own traceback
        return function
    returns_vjp = isinstance(result, tuple) and len(result) == 2 and callable(result[1])
    return Operation(function) if returns_vjp else function


def _outputs(result: Any) -> tuple[Tensor, ...]:
    outputs = result if isinstance(result, (tuple, list)) else (result,)
    for output in outputs:
        if not isinstance(output, Tensor):
            raise TypeError(f"gradcheck: the function must return Tensors, or (value, vjp); it returned {type(output)}")
    return tuple(outputs)


def _flat(call: Callable[..., Any], arrays: list[Array], options: dict[str, Any]) -> Array:
    """All outputs as one vector."""
    with no_grad():
        outputs = _outputs(call(*(Tensor(_frozen(a)) if a.dtype.kind in "fc" else a for a in arrays), **options))
    return np.concatenate([t.data.ravel() for t in outputs])


def _tape_gradients(
    call: Callable[..., Any], arrays: list[Array], options: dict[str, Any], cotangent: Array
) -> list[Array | None]:
    """The gradients that the tape gives for one cotangent of all outputs."""
    leaves = [Tensor(_frozen(a), requires_grad=True) if a.dtype.kind == "f" else a for a in arrays]
    with enable_grad():
        outputs = _outputs(call(*leaves, **options))
    pieces = np.split(cotangent, np.cumsum([t.size for t in outputs])[:-1])
    taped = [(t, _frozen(dy).reshape(t.shape)) for t, dy in zip(outputs, pieces, strict=True) if t.requires_grad]
    sweep([t for t, _ in taped], [dy for _, dy in taped])
    return [leaf.grad if isinstance(leaf, Tensor) else None for leaf in leaves]


def _frozen(array: Array) -> Array:
    """A read-only copy."""
    copy = np.array(array)
    copy.flags.writeable = False
    return copy


class _Derivative:
    """Numerical derivatives of all outputs along a direction of one input."""

    def __init__(
        self, call: Callable[..., Any], arrays: list[Array], options: dict[str, Any], number: int, at: Array
    ) -> None:
        self.call, self.arrays, self.options, self.number = call, arrays, options, number
        self.x = arrays[number]
        self.magnitude = float(np.abs(at).max(initial=0.0))
        self.noise = 0.0  # of the method that `along` has used, in the derivative of one output

    def _at(self, x: Array) -> Array:
        return _flat(self.call, [x if i == self.number else a for i, a in enumerate(self.arrays)], self.options)

    def central(self, v: Array, h: float) -> Array:
        with np.errstate(all="ignore"):
            near = self._at(self.x + h * v) - self._at(self.x - h * v)
            far = self._at(self.x + 2 * h * v) - self._at(self.x - 2 * h * v)
            return (8 * near - far) / (12 * h)

    def complex_step(self, v: Array) -> Array | None:
        """None where the function refuses complex numbers or drops the imaginary part."""
        try:
            with np.errstate(all="ignore"):
                value = self._at(self.x + COMPLEX_STEP * 1j * v)
        except Exception:
            return None
        return value.imag / COMPLEX_STEP if value.dtype.kind == "c" else None

    def along(self, directions: list[Array]) -> tuple[str, Array]:
        """(method, derivatives): one row for each direction.

        The complex step is used if it agrees with central differences of some step in every direction: the usual one
        is too long where the function bends within it, or is not defined on one side.
        """
        exact = [self.complex_step(v) for v in directions]
        rows, analytic = [], True
        for v, precise in zip(directions, exact, strict=True):
            # where the direction is a unit, only that entry's size matters
            step = CENTRAL_STEP * max(1.0, float(np.abs(self.x[v != 0]).max(initial=0.0)))
            found = None
            for h in (step, step / 10, step / 100, step / 1000, step / 10000):
                central = self.central(v, h)
                noise = 4 * EPS * self.magnitude / h
                if not np.isfinite(central).all():
                    continue
                if found is None:
                    found, self.noise = central, max(self.noise, noise)
                scale = np.abs(central).max(initial=0.0)
                if precise is not None and np.allclose(precise, central, rtol=1e-5, atol=1e-5 * scale + 100 * noise):
                    break
            else:
                analytic = False
            rows.append(central if found is None else found)
        if analytic:
            self.noise = 0.0
            return "complex step", np.array(exact)
        return "central differences", np.array(rows)


def _check_entries(
    derivative: _Derivative,
    name: str,
    probes: list[Array],
    dxs: list[Array],
    attached: bool,
    rtol: float | None,
) -> InputReport:
    """Compare every entry of every dx with ``dy J``, J computed whole."""
    shape = derivative.x.shape
    units = [unit.reshape(shape) for unit in np.eye(derivative.x.size)]
    if not units or not probes[0].size:
        return InputReport(name, shape, "nothing to vary", 0.0, 0.0, None, 0.0, 0.0, attached=True)
    method, rows = derivative.along(units)  # (inputs, outputs)
    worst = None
    for dy, dx in zip(probes, dxs, strict=True):
        numeric = (rows @ dy).reshape(shape)
        tolerances = _tolerance(derivative, method, rtol, np.abs(rows) @ np.abs(dy), rows, dy).reshape(shape)
        errors = np.abs(dx - numeric)
        errors = np.where(np.isnan(errors), np.inf, errors)
        index = tuple(int(i) for i in np.unravel_index(int((errors / (tolerances + TINY)).argmax()), shape))
        tolerance = float(tolerances[index])
        found = InputReport(
            name,
            shape,
            method,
            float(errors[index]),
            tolerance,
            index,
            float(dx[index]),
            float(numeric[index]),
            attached,
        )
        worst = _worse(worst, found)
    assert worst is not None
    return worst


def _check_directions(
    derivative: _Derivative,
    name: str,
    probes: list[Array],
    dxs: list[Array],
    attached: bool,
    rtol: float | None,
    rng: np.random.Generator,
) -> InputReport:
    """Compare ``dx . v`` with ``dy . (J v)`` for random directions v."""
    shape = derivative.x.shape
    directions = [rng.standard_normal(shape) / np.sqrt(derivative.x.size) for _ in range(8)]
    method, rows = derivative.along(directions)
    worst = None
    for dy, dx in zip(probes, dxs, strict=True):
        for v, row in zip(directions, rows, strict=True):
            analytic, numeric = float((dx * v).sum()), float(row @ dy)
            scale = max(float(np.abs(row) @ np.abs(dy)), float((np.abs(dx) * np.abs(v)).sum()))
            tolerance = float(_tolerance(derivative, method, rtol, np.array([scale]), rows, dy)[0])
            error = abs(analytic - numeric)
            found = InputReport(
                name, shape, method, np.inf if np.isnan(error) else error, tolerance, None, analytic, numeric, attached
            )
            worst = _worse(worst, found)
    assert worst is not None
    return worst


def _tolerance(
    derivative: _Derivative, method: str, rtol: float | None, scales: Array, rows: Array, dy: Array
) -> Array:
    """Allowed errors of entries whose ``sum_i |dy_i J_ij|`` are `scales`; `rows` are the derivatives."""
    default = COMPLEX_RTOL if method == "complex step" else CENTRAL_RTOL
    rounding = (100 * EPS * np.abs(rows).max(initial=0.0) + derivative.noise) * np.abs(dy).sum()
    return (default if rtol is None else rtol) * scales + rounding


def _worse(a: InputReport | None, b: InputReport) -> InputReport:
    if a is None:
        return b
    return max(a, b, key=lambda r: r.error / (r.tolerance + TINY))


# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One form of a gradient in a derivation; `change` is the largest difference to the form before, per magnitude."""

    why: str
    value: Any
    change: float


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
    for why, value in [*forms, ("the vjp", final if operation.variadic else final[0])]:
        values = value if operation.variadic else (value,)
        values = tuple(unbroadcast(np.asarray(v), s) for v, s in zip(values, shapes, strict=True))
        flat = np.concatenate([v.ravel() for v in values])
        change = _relative_change(flat, before) if steps else 0.0
        steps.append(Step(why, values if operation.variadic else values[0], change))
        before = flat
    return steps


def _relative_change(now: Array, before: Array) -> float:
    difference = float(np.abs(now - before).max(initial=0.0))
    return difference / max(1.0, float(np.abs(now).max(initial=0.0)))
