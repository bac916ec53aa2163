"""One derivative, computed twice: by the tape, and from values of the function alone.

`tape_gradients` runs the vjps. `Derivative` never looks at them: it varies one input and watches the outputs, by the
complex step or by finite differences. `checking` compares the two; `diagnosis` explains the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_llm.operation import Operation
from tinygrad_llm.tape import Array, enable_grad, no_grad, sweep
from tinygrad_llm.tensor import Tensor

EPS = float(np.finfo(np.float64).eps)
CENTRAL_STEP = EPS ** (1 / 5)  # balances the truncation error h^4 of the five-point formula against rounding, eps / h
COMPLEX_STEP = 1e-30
STEP_DIVISORS = (1, 10, 100, 1000, 10000)
SHORTER_DIVISORS = (100000, 1000000)  # for a kink close by; rounding is already large there
UNDERFLOW = 1e-100  # nothing that small matters, but an exp far down may leave it
SETTLED = 1e-6  # relative change from one step to the next, below which a central difference has converged
SIDED = 1e-3  # the same for a one-sided difference, which is of a lower order
DOUBT = 10  # a derivative that has not converged is known to this many times its change from step to step


def as_tensor_function(function: Any, arrays: list[Array], options: dict[str, Any]) -> Callable[..., Any]:
    """An undecorated ``(value, vjp)`` function is made an operation; everything else takes Tensors already."""
    if isinstance(function, Operation):
        return function
    try:
        result = function(*arrays, **options)
    except Exception:  # it wants Tensors; if it is simply wrong, the next call shows that with its own traceback
        return function
    returns_vjp = isinstance(result, tuple) and len(result) == 2 and callable(result[1])
    name = getattr(function, "__name__", type(function).__name__)  # a functools.partial has none
    return Operation(function, name) if returns_vjp else function


def outputs_of(call: Callable[..., Any], arrays: list[Array], options: dict[str, Any]) -> list[Array]:
    """The outputs as arrays; nothing is recorded."""
    with no_grad():
        result = call(*(Tensor(_frozen(a)) if a.dtype.kind in "fc" else a for a in arrays), **options)
    return [t.data for t in _tensors(result)]


def tape_gradients(
    call: Callable[..., Any], arrays: list[Array], options: dict[str, Any], cotangent: Array, only: int | None = None
) -> list[Array | None]:
    """The gradients that the tape gives for one cotangent of all outputs; None where nothing arrived.

    If `only` is given, no other input requires a gradient. Raises GradientError if a vjp returns none that fits.
    """
    wanted = range(len(arrays)) if only is None else (only,)
    leaves = [Tensor(_frozen(a), requires_grad=i in wanted) if a.dtype.kind == "f" else a for i, a in enumerate(arrays)]
    with enable_grad():
        outputs = _tensors(call(*leaves, **options))
    pieces = np.split(cotangent, np.cumsum([t.size for t in outputs])[:-1])
    taped = [(t, _frozen(dy).reshape(t.shape)) for t, dy in zip(outputs, pieces, strict=True) if t.requires_grad]
    sweep([t for t, _ in taped], [dy for _, dy in taped])
    return [leaf.grad if isinstance(leaf, Tensor) else None for leaf in leaves]


def _tensors(result: Any) -> tuple[Tensor, ...]:
    outputs = result if isinstance(result, (tuple, list)) else (result,)
    for output in outputs:
        if not isinstance(output, Tensor):
            raise TypeError(f"gradcheck: the function must return Tensors, or (value, vjp); it returned {type(output)}")
    return tuple(outputs)


def _frozen(array: Array) -> Array:
    """A read-only view, in the same memory layout."""
    view = np.asarray(array).view()  # arithmetic on arrays without axes gives scalars
    view.flags.writeable = False
    return view


@dataclass(frozen=True)
class Slopes:
    """What is known of the derivatives of all outputs along some directions: one row for each direction.

    `best` is the estimate. The derivative lies between `low` and `high`: equal to `best` but for rounding where the
    function is smooth; the two one-sided derivatives at a `kink` (1 if the slope grows there, as that of max does, -1
    if it falls, else 0); far apart where `unclear`, that is, where the differences do not converge as the step shrinks.
    """

    best: Array
    low: Array
    high: Array
    kink: Array
    unclear: Array

    def bounds(self, dy: Array, doubt: bool) -> tuple[Array, Array]:
        """The least and the greatest ``dy . slopes`` for each direction; `doubt`: also where the slopes are unclear."""
        wide = np.ones_like(self.unclear) if doubt else ~self.unclear
        slack = np.where(self.kink == 0, 0.0, SIDED * np.maximum(np.abs(self.low), np.abs(self.high)))
        with np.errstate(all="ignore"):
            sides = (np.where(wide, side, self.best) for side in (self.low - slack, self.high + slack))
            ends = np.array([np.where(dy == 0, 0.0, side * dy) for side in sides])
            return ends.min(0).sum(1), ends.max(0).sum(1)


class Derivative:
    """Numerical derivatives of all outputs along directions of the input of that `number`."""

    def __init__(
        self, call: Callable[..., Any], arrays: list[Array], options: dict[str, Any], number: int, at: Array
    ) -> None:
        self.call, self.arrays, self.options, self.number = call, arrays, options, number
        self.x, self.at = arrays[number], at
        self.magnitude = float(np.abs(at[np.isfinite(at)]).max(initial=0.0))
        # a value that is all but 0 was a difference of larger ones, such as the inputs, and has their rounding errors
        x = float(np.abs(self.x[np.isfinite(self.x)]).max(initial=0.0))
        self.inner_magnitude = x if self.magnitude <= 100 * EPS * x else self.magnitude
        self.noise = 0.0  # of the method that `along` has used, in the derivative of one output
        # what a vjp computes from the value, such as 1 - y^2, inherits the value's rounding
        self.rounding = 10 * EPS * min(1.0, self.magnitude) + UNDERFLOW

    def _at(self, x: Array) -> Array:
        inputs = [x if i == self.number else a for i, a in enumerate(self.arrays)]
        return np.concatenate([y.ravel() for y in outputs_of(self.call, inputs, self.options)])

    def _step(self, v: Array) -> float:
        """Where the direction is a unit, only that entry's size matters."""
        return CENTRAL_STEP * max(1.0, float(np.abs(self.x[v != 0]).max(initial=0.0)))

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
            found = None
            for h in (self._step(v) / divisor for divisor in STEP_DIVISORS):
                central = self.central(v, h)
                noise = 4 * EPS * self.magnitude / h
                if not np.isfinite(central).all():
                    continue
                if found is None:
                    found, self.noise = central, max(self.noise, noise)
                slack = 1e-5 * np.abs(central).max(initial=0.0) + 400 * EPS * self.inner_magnitude / h
                if precise is not None and np.allclose(precise, central, rtol=1e-5, atol=slack):
                    break
            else:
                analytic = False
            rows.append(central if found is None else found)
        if analytic:
            self.noise = 0.0
            return "complex step", np.array(exact)
        return "central differences", np.array(rows)

    def slopes(self, directions: list[Array]) -> Slopes:
        """A closer look than `along`: how the differences change with the step, and whether both sides agree."""
        found = [self._look_closer(v) for v in directions]
        best, low, high, kink, unclear = (np.array(rows) for rows in zip(*found, strict=True))
        return Slopes(best, low, high, kink, unclear)

    def _look_closer(self, v: Array) -> tuple[Array, ...]:
        """One row of each field of `Slopes`.

        Going to ever shorter steps, an output is smooth at the first at which its central difference no longer changes
        and both sides agree. It has a kink where each side settles, but not on the same slope. Else it is unclear: the
        slope is somewhere around the central difference that changed least, and the one-sided ones there.
        """
        steps = np.array([self._step(v) / divisor for divisor in (*STEP_DIVISORS, *SHORTER_DIVISORS)])
        noise = (8 * EPS * self.magnitude / steps)[1:, None]
        with np.errstate(all="ignore"):
            found = np.array([self._three(v, h) for h in steps])
            changes, first, found = np.abs(found[1:] - found[:-1]), found[0], found[1:]
            (central, left, right), moved = found.swapaxes(0, 1), changes[:, 0]
            steepness = np.maximum(np.abs(left), np.abs(right))
            sided = (changes[:, 1:] <= SIDED * steepness[:, None] + 4 * noise[:, None]).all(1)
            differ = np.abs(right - left) > 4 * (SIDED * steepness + 4 * noise)
            # steps too short for a rounded function to notice; but 0 is right beside a kink whose one side is flat
            stuck = (found == 0).all(1) & (np.abs(first[1:]) > SIDED * np.abs(first[1:]).max(0)).all(0)
            smooth = (moved <= SETTLED * np.abs(central) + noise) & ~differ & ~stuck
            unclear = ~(smooth | (sided & differ)).any(0)
            moved = np.where(np.isfinite(moved) & ~stuck, moved, np.inf)
            at = np.where(unclear, moved.argmin(0), (smooth | (sided & differ)).argmax(0))

            def there(table: Array) -> Array:
                return np.take_along_axis(table, at[None], 0)[0]

            best, left, right = there(central), there(left), there(right)
            kink = np.where(~unclear & there(differ), np.sign(right - left), 0).astype(int)
            # noise grows tenfold from step to step; what grows faster is a pole, about which nothing is known
            growth = 10.0 ** (np.arange(len(moved))[:, None] - at)
            pole = (np.where(np.isfinite(moved), moved, 0.0) > 10 * there(moved) * growth).any(0)
            spread = np.where(unclear, DOUBT * there(moved), there(np.broadcast_to(noise, central.shape)))
            ends = np.array([best - spread, best + spread, left, right])
            low, high = np.where(unclear, ends.min(0), ends[0]), np.where(unclear, ends.max(0), ends[1])
            low, high = np.where(kink, ends[2:].min(0), low), np.where(kink, ends[2:].max(0), high)
        unbounded = unclear & (pole | ~np.isfinite(best) | np.isnan(low) | np.isnan(high))
        low, high, best = (np.where(unbounded, a, b) for a, b in ((-np.inf, low), (np.inf, high), (0.0, best)))
        return best, low, high, kink, unclear

    def _three(self, v: Array, h: float) -> Array:
        """Differences with step h: central (error h^4), and from the left and the right alone (error h^2)."""
        back2, back, on, on2 = (self._at(self.x + k * h * v) for k in (-2, -1, 1, 2))
        central = (8 * (on - back) - (on2 - back2)) / (12 * h)
        return np.array([central, (3 * self.at - 4 * back + back2) / (2 * h), (4 * on - on2 - 3 * self.at) / (2 * h)])
