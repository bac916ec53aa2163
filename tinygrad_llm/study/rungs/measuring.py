"""The ladder: one gradient computed in several ways, and what each of them costs."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from tinygrad_llm import random
from tinygrad_llm.backend import use_backend, why_no_kernels
from tinygrad_llm.operation import Operation
from tinygrad_llm.study.lookup import find_operation
from tinygrad_llm.study.machine import measure_machine
from tinygrad_llm.study.rungs.primitives import compositions
from tinygrad_llm.study.rungs.report import Costs, Ladder, Rung, Times, size_text
from tinygrad_llm.study.rungs.workloads import Shape, arrays_read, draw_workload, fitting, product_operations
from tinygrad_llm.tape import Array, Node, enable_grad, saved_arrays, sweep, unbroadcast
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.training.progress import counting

DTYPE = np.dtype(np.float32)
LARGEST_JACOBIAN = 1 << 22
"""Entries of a dense Jacobian beyond which that rung is left out."""
SECONDS = 2.5
"""About how long the rungs are measured, unless a number of repeats is given."""
FEWEST, MOST = 5, 200
"""Repeats in that time, at least and at most."""


def ladder(
    operation: str | Operation, shape: Sequence[int] | None = None, seed: int = 0, repeats: int | None = None
) -> Ladder:
    """Compute one gradient on every rung of the ladder, and measure: error, time, memory, distance to the limit.

    The rungs, as far as the operation has them:

    * composed: made of simpler operations (`study.primitives`), the gradient left to the tape;
    * dense Jacobian: the derivation's first line, in float64, with all ``∂y_i/∂x_j`` written out, if they are few;
    * closed form: the operation's own forward and vjp in NumPy, to which the derivation leads;
    * kernel: its compiled twin, if it has one that accepts the arguments.

    `operation` is a name or an operation, a user's own too; `shape` that of its first input, `seed` decides the numbers
    and a random cotangent. All other rungs run in float32, through the tape, on the same arguments.

    Error: the largest difference to the closed form in float64 (from the same float32 arguments), over the largest
    entry of that array, in units of float32's epsilon, 1.2e-7.
    Time: forward and backward, median and quartiles of `repeats` runs (by default as many as take a few seconds) in the
    order A, B, C, A, B, C, so that a slow moment of the machine meets all rungs.
    Saved: bytes of the arrays that the vjps keep for backward, shared memory counted once; and how many of them are
    beyond the inputs and the output, which exist anyway. Nodes: how many the tape records.
    Limit: the larger of two times. The bytes of inputs (of a table only the rows looked up), outputs, cotangent and
    gradients, moved once, at the measured bandwidth of memory; and the operations of the matrix products at the
    measured rate of BLAS. A share of 40 % means that the limit is 40 % of the measured time, forward and backward
    together. It can exceed 100 % where arrays stay in the cache, where nothing is moved (a view), or if the machine was
    busy just before and after, when it was measured.

    Raises UnknownOperation, ValueError for a shape that does not fit, MemoryError for one that is too large.
    """
    operation = find_operation(operation)
    if repeats is not None and repeats < 1:
        raise ValueError(f"ladder: repeats={repeats}; at least one is needed")
    case = _prepare(operation, None if shape is None else tuple(int(n) for n in shape), seed)
    runners, notes = _rungs(case)
    console = Console(stderr=True)
    with counting(console, f"measuring {operation.name}") as progress, _quiet_collector():
        machine = measure_machine(0.5)
        with fitting(operation, case.shape):
            studied = [runner.run(case, study=True) for runner in runners]  # and kernels are compiled
        if repeats is None:
            start = time.perf_counter()
            for runner in runners:
                runner.run(case)
            repeats = int(np.clip(SECONDS / (time.perf_counter() - start), FEWEST, MOST))
        times: list[list[tuple[float, float]]] = [[] for _ in runners]
        for number in range(repeats):
            for runner, mine in zip(runners, times, strict=True):
                run = runner.run(case)
                mine.append((run.forward, run.backward))
            progress(number + 1, repeats)
        machine = machine.best(measure_machine(0.5))
    rungs = [_summary(case, r.name, s, t) for r, s, t in zip(runners, studied, times, strict=True)]
    return Ladder(case.call(), repeats, machine, case.moved(), case.products(), tuple(rungs), tuple(notes))


@contextmanager
def _quiet_collector() -> Iterator[None]:
    """No garbage collection inside: it would strike at random."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


# -- what all rungs compute --------------------------------------------------------------------------------------------


@dataclass
class _Case:
    """One call of the operation, in float32, and what its value and gradients are in float64.

    `gradients` maps the position of each input that has a gradient to that gradient.
    """

    operation: Operation
    shape: Shape | None
    inputs: list[Any]
    options: dict[str, Any]
    dys: tuple[Array, ...]
    many: bool
    values: tuple[Array, ...]
    gradients: dict[int, Array]

    def call(self) -> str:
        """The call, with shapes in place of arrays."""
        named = [(_input_name(self.operation, i), x) for i, x in enumerate(self.inputs)]
        parts = [
            f"{name} {x.shape}" if isinstance(x, np.ndarray) else f"{name}={x!r}"
            for name, x in (*named, *self.options.items())
        ]
        return f"{self.operation.name}({', '.join(parts)})"

    def arguments(self, requires_grad: bool) -> list[Any]:
        """The inputs, those with a gradient as Tensors."""
        return [Tensor(x, requires_grad) if i in self.gradients else x for i, x in enumerate(self.inputs)]

    def moved(self) -> int:
        """Bytes of inputs, outputs, cotangents and gradients, each once."""
        inputs = sum(x.nbytes for x in arrays_read(self.operation, self.inputs, self.options))
        entries = sum(2 * v.size for v in self.values) + sum(g.size for g in self.gradients.values())
        return inputs + DTYPE.itemsize * entries

    def products(self) -> int:
        """Floating-point operations of matrix products, forward and backward."""
        return sum(product_operations(self.operation, self.inputs, self.options, self.values[0].shape))


def _input_name(operation: Operation, position: int) -> str:
    return f"{operation.parameters[0]}[{position}]" if operation.variadic else operation.parameters[position]


def _prepare(operation: Operation, shape: Shape | None, seed: int) -> _Case:
    """Draw arguments and a cotangent, round them to float32, and compute from these in float64 what is exact."""
    rng = random.stream(seed, "ladder", operation.name)
    inputs, options = draw_workload(operation, rng, shape)
    single = [_as_dtype(x, DTYPE) for x in inputs]
    options = {name: _as_dtype(x, DTYPE) for name, x in options.items()}
    exact_inputs = [_as_dtype(x, np.dtype(np.float64)) for x in single]
    exact_options = {name: _as_dtype(x, np.dtype(np.float64)) for name, x in options.items()}
    with fitting(operation, shape):
        value, vjp = operation.reference(*exact_inputs, **exact_options)
    many = isinstance(value, tuple)
    values = tuple(np.asarray(v) for v in value) if many else (np.asarray(value),)
    dys = tuple(rng.standard_normal(v.shape, DTYPE) for v in values)
    exact_dys = tuple(dy.astype(np.float64) for dy in dys)
    found = vjp(exact_dys if many else exact_dys[0])
    gradients = {}
    for position, gradient in enumerate(found if isinstance(found, (tuple, list)) else (found,)):
        if gradient is not None and position < len(single) and isinstance(single[position], np.ndarray):
            gradient = np.asarray(gradient() if callable(gradient) else gradient)
            gradients[position] = unbroadcast(gradient, single[position].shape)
    if not gradients:
        raise ValueError(f"{operation.name}: none of its inputs has a gradient, so there is nothing to compare")
    return _Case(operation, shape, single, options, dys, many, values, gradients)


def _as_dtype(x: Any, dtype: np.dtype[Any]) -> Any:
    """Floating-point arrays in `dtype`; anything else as it is."""
    return x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x


# -- the rungs ---------------------------------------------------------------------------------------------------------


class _Run(NamedTuple):
    """One run of a rung: seconds (forward is NaN where there is none), results, and, if asked for, the costs."""

    forward: float
    backward: float
    values: tuple[Array, ...]
    gradients: dict[int, Array]
    costs: Costs | None = None


@dataclass(frozen=True)
class _Taped:
    """A rung that is a function of Tensors."""

    name: str
    function: Callable[..., Any]
    backend: str

    def run(self, case: _Case, study: bool = False) -> _Run:
        """Forward and backward, timed apart."""
        arguments = case.arguments(True)
        with use_backend(self.backend), enable_grad():
            start = time.perf_counter()
            result = self.function(*arguments, **case.options)
            forward = time.perf_counter() - start
            outputs: tuple[Tensor, ...] = result if case.many else (result,)
            costs = _costs(outputs, case) if study else None
            start = time.perf_counter()
            sweep(outputs, case.dys)
            backward = time.perf_counter() - start
        gradients = {i: arguments[i].grad for i in case.gradients}
        return _Run(forward, backward, tuple(t.data for t in outputs), gradients, costs)


@dataclass(frozen=True)
class _Jacobian:
    """The rung of the derivations' first lines, which have the Jacobian written out; there is no forward apart.

    In float64, for which derivations are made: some of their definitions (a series) need its range.
    """

    name: str = "dense Jacobian"

    def run(self, case: _Case, study: bool = False) -> _Run:
        """The first form of every gradient."""
        operation, double = case.operation, np.dtype(np.float64)
        inputs = [_as_dtype(x, double) for x in case.inputs]
        dys = tuple(dy.astype(double) for dy in case.dys)
        options = {name: _as_dtype(x, double) for name, x in case.options.items()}
        options["dy"] = dys if case.many else dys[0]
        named = dict(zip(operation.parameters, inputs, strict=False))
        gradients = {}
        start = time.perf_counter()
        if operation.variadic:
            forms = operation.derivations[operation.parameters[0]](*inputs, **options)
            gradients = dict(enumerate(next(forms)[1]))
        else:
            for position in case.gradients:
                forms = operation.derivations[operation.parameters[position]](**named, **options)
                gradients[position] = next(forms)[1]
        gradients = {i: unbroadcast(np.asarray(g), case.inputs[i].shape) for i, g in gradients.items()}
        return _Run(math.nan, time.perf_counter() - start, (), gradients)


def _rungs(case: _Case) -> tuple[list[_Taped | _Jacobian], list[str]]:
    """The rungs that this operation has for these arguments, and why others are missing."""
    operation, rungs, notes = case.operation, list[_Taped | _Jacobian](), list[str]()
    composed = compositions.get(operation.name) if operation.__module__.startswith("tinygrad_llm.") else None
    if composed is None:
        notes.append(f"{operation.name} is not composed of simpler operations here: no such rung.")
    elif composed(*case.arguments(False), **case.options) is NotImplemented:
        notes.append("There is no composition of simpler operations for these options.")
    else:
        rungs.append(_Taped("composed", composed, "numpy"))
    inputs = sum(g.size for g in case.gradients.values())
    largest = max(inputs, sum(v.size for v in case.values))  # a derivation may have inner Jacobians, inputs by inputs
    derived = {operation.parameters[0 if operation.variadic else i] for i in case.gradients}
    if not derived <= set(operation.derivations):
        notes.append(f"{operation.name} has no derivation for each of its gradients: no dense Jacobian.")
    elif largest * inputs > LARGEST_JACOBIAN:
        notes.append(
            f"Left out is the dense Jacobian, of up to {largest:,} × {inputs:,} entries, "
            f"{size_text(DTYPE.itemsize * largest * inputs)}; a small shape shows it."
        )
    else:
        rungs.append(_Jacobian())
        notes.append("The dense Jacobian is the first line of the derivation, in float64.")
    rungs.append(_Taped("closed form", operation, "numpy"))
    if not operation.kernel:
        notes.append(f"{operation.name} has no kernel yet.")
    elif operation.kernel(*case.inputs, **case.options) is NotImplemented:
        notes.append("The kernel declines these arguments.")
    else:
        rungs.append(_Taped("kernel", operation, "auto" if why_no_kernels() else "numba"))
    return rungs, notes


def _costs(outputs: Sequence[Tensor], case: _Case) -> Costs:
    """Nodes behind `outputs`, the bytes that their vjps keep, and how many of these are not inputs or outputs."""
    nodes: dict[int, Node] = {}
    pending = [t.node for t in outputs if t.node is not None]
    while pending:
        node = pending.pop()
        if node.order not in nodes:
            nodes[node.order] = node
            pending += [edge.target for edge in node.edges if isinstance(edge.target, Node)]
    given = [x for x in (*case.inputs, *case.options.values()) if isinstance(x, np.ndarray)]
    known = {id(_owner(a)) for a in (*given, *(t.data for t in outputs))}
    kept = [_owner(a) for node in nodes.values() if node.vjp is not None for a in saved_arrays(node.vjp)]
    saved = {id(a): a.nbytes for a in kept}
    return Costs(len(nodes), sum(saved.values()), sum(size for key, size in saved.items() if key not in known))


def _owner(array: Array) -> Array:
    """The array that holds the memory of `array`, which may be a view."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _summary(case: _Case, name: str, study: _Run, times: list[tuple[float, float]]) -> Rung:
    forward, backward = (Times(*np.quantile(each, (0.25, 0.5, 0.75)).tolist()) for each in zip(*times, strict=True))
    values = [relative_error(a, b) for a, b in zip(study.values, case.values, strict=bool(study.values))]
    gradients = {
        _input_name(case.operation, i): relative_error(study.gradients[i], exact) for i, exact in case.gradients.items()
    }
    return Rung(name, forward, backward, max(values, default=math.nan), gradients, study.costs)


def relative_error(found: Array, exact: Array) -> float:
    """``max |found - exact| / max |exact|``, in units of float32's epsilon; infinite where NaN or infinity differ."""
    with np.errstate(invalid="ignore"):
        difference = np.where(found == exact, 0.0, np.abs(found.astype(np.float64) - exact))
    worst = float(difference.max(initial=0.0))
    largest = float(np.abs(exact).max(initial=0.0, where=np.isfinite(exact)))
    return math.inf if math.isnan(worst) else worst / (largest or 1.0) / float(np.finfo(DTYPE).eps)
