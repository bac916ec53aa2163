"""`@op`: a NumPy function that returns its value and its vjp becomes a differentiable operation.

    @op
    def mul(x, y):
        '''x * y'''
        def vjp(dy):
            return dy * y, dy * x
        return x * y, vjp

The function sees arrays, never Tensors, and never writes to its inputs. `vjp` returns one gradient per input, in the
order of the parameters; ``None``, or a shorter tuple, where an input has none. A gradient that costs something may be a
function without arguments (``lambda: x.T @ dy``): the tape calls it only if that input requires a gradient. Several
outputs are a tuple of arrays, and `vjp` then takes a tuple. Broadcast inputs need no care: the tape sums over them.

An operation also carries how it is studied and checked: `derivation` (the algebra, executable), `sample` (small legal
arguments) and, for speed, `kernel` (a twin with the same signature).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tinygrad_llm import random
from tinygrad_llm.backend import Kernel
from tinygrad_llm.tape import (
    Array,
    Edge,
    Node,
    anomaly_detection,
    describe,
    enable_grad,
    grad_enabled,
    graph_kept,
    next_order,
    no_grad,
    sweep,
)
from tinygrad_llm.tensor import Tensor, registry


class Samples:
    """An operation's small legal arguments: a decorator that adds a way to draw them, and the draw itself.

    Each function takes a random generator and the shape of the first input, and returns ``(inputs, options)``.
    """

    def __init__(self) -> None:
        self.functions: list[Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]] = []

    def __call__(self, what: Any, shape: tuple[int, ...] | None = None) -> Any:
        if inspect.isfunction(what):
            self.functions.append(what)
            return what
        return self.draw(what, int(what.integers(len(self.functions))), shape)

    def __len__(self) -> int:
        return len(self.functions)

    def draw(
        self, generator: np.random.Generator, number: int, shape: tuple[int, ...] | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments from the sample function of that number, of its default shape unless one is given."""
        function = self.functions[number]
        return function(generator) if shape is None else function(generator, shape)


class Operation:
    """A differentiable operation: callable on Tensors and arrays, recorded on the tape when a gradient is wanted."""

    def __init__(self, reference: Callable[..., Any], name: str | None = None) -> None:
        self.reference = reference
        self.name = name or reference.__name__
        self.__name__, self.__doc__, self.__wrapped__ = self.name, reference.__doc__, reference
        self.__module__ = reference.__module__
        signature = inspect.signature(reference).parameters.values()
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in signature)
        positional = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
        self._defaults = {p.name: p.default for p in signature if p.kind in positional}
        self.parameters = tuple(p.name for p in signature if p.kind in (*positional, inspect.Parameter.VAR_POSITIONAL))
        self.kernel = Kernel(self.__module__ or "")
        self.sample = Samples()
        self.derivations: dict[str, Callable[..., Iterator[tuple[str, Any]]]] = {}

    def __repr__(self) -> str:
        return f"<operation {self.name}({', '.join(self.parameters)})>"

    def derivation(self, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Attach the derivation of the gradient of input `name`.

        A generator that takes the operation's arguments and the keyword `dy`, and yields ``(why, value)``: successive
        forms of one gradient, from its definition to the line that the vjp runs.
        """
        if name not in self.parameters:
            raise ValueError(f"{self.name}: no input is called {name!r}; it has {', '.join(self.parameters)}")

        def attach(function: Callable[..., Any]) -> Callable[..., Any]:
            self.derivations[name] = function
            return function

        return attach

    def compute(self, *arrays: Any, **options: Any) -> tuple[Any, Callable[..., Any]]:
        """(value, vjp) of plain arrays: from the kernel if there is one and it does not decline, or the reference."""
        result = self.kernel.run(arrays, options)
        return self.reference(*arrays, **options) if result is NotImplemented else result

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        if self.variadic and inputs and isinstance(inputs[0], (list, tuple)):
            if len(inputs) > 1:
                raise TypeError(f"{self.name}: give what follows the list of inputs by name, as in axis=1")
            inputs = tuple(inputs[0])
        if inputs and isinstance(inputs[0], tuple):  # a tuple further on may be an index or a shape
            inputs = (list(inputs[0]), *inputs[1:])
        if options:
            inputs, options = self._place(inputs, options)
        arrays = [_plain(x) for x in inputs]
        try:
            value, vjp = self._pair(self.compute(*arrays, **options))
        except (ValueError, IndexError, TypeError, AttributeError, OverflowError) as error:
            raise self._explained(error, arrays) from error
        many = isinstance(value, tuple)
        values = tuple(np.asarray(v) for v in value) if many else (np.asarray(value),)
        if anomaly_detection():
            self._check_finite(arrays, values)
        if grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in inputs):
            return record(self.name, self.parameters, inputs, arrays, values, vjp, many, options)
        outputs = tuple(Tensor(v) for v in values)
        return outputs if many else outputs[0]

    def _pair(self, result: Any) -> tuple[Any, Callable[..., Any]]:
        if not (isinstance(result, tuple) and len(result) == 2 and callable(result[1])):
            raise TypeError(
                f"{self.name}: an operation returns (value, vjp); this one returned {type(result).__name__}"
            )
        return result

    def _place(self, inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Move arguments given by name to their position as far as they are Tensors; unwrap the others."""
        named = [i for i, p in enumerate(self.parameters) if isinstance(options.get(p), Tensor)]
        if named and not self.variadic:
            for parameter in self.parameters[len(inputs) : max(named) + 1]:
                value = options.pop(parameter, self._defaults[parameter])
                if value is inspect.Parameter.empty:
                    raise TypeError(f"{self.name}: the argument {parameter!r} is missing")
                inputs = (*inputs, value)
        for name, value in options.items():
            if isinstance(value, Tensor) and value.requires_grad:
                raise TypeError(f"{self.name}: {name!r} is an option, which receives no gradient; detach() it first")
        return inputs, {name: _plain(value) for name, value in options.items()}

    def _explained(self, error: Exception, arrays: list[Any]) -> Exception:
        """The same error, with the operation and the shapes of its inputs in front."""
        message = str(error)
        if message.startswith(f"{self.name}:"):
            return error
        shapes = [a.shape for a in arrays if isinstance(a, np.ndarray)]
        if message.startswith("operands could not be broadcast"):
            message = explain_broadcast(shapes)
        if isinstance(error, (AttributeError, OverflowError)):  # a number where an array belongs, integers where floats
            kinds = " and ".join(str(getattr(a, "dtype", type(a).__name__)) for a in arrays)
            message = f"expected floating-point arrays, got {kinds} ({message})"
        kind = next((k for k in (ValueError, IndexError) if isinstance(error, k)), TypeError)
        return kind(f"{self.name}: {' and '.join(map(str, shapes))}: {message}")

    def _check_finite(self, arrays: list[Any], values: tuple[Array, ...]) -> None:
        for value in values:
            if not np.isfinite(value).all():
                inputs = "; ".join(describe(a) for a in arrays if isinstance(a, np.ndarray))
                raise FloatingPointError(f"{self.name}: its value is not finite: {describe(value)}. Inputs: {inputs}")


def op(reference: Callable[..., Any]) -> Operation:
    """Make `reference` a differentiable operation and enter it in the registry under its name."""
    return register(Operation(reference))


def register(operation: Operation) -> Operation:
    """Enter an operation in the registry. Two operations may not share a name, unless a module is loaded again."""
    known = registry.get(operation.name)
    if known is not None and known.__module__ != operation.__module__:
        raise ValueError(f"op: the name {operation.name!r} is taken by {known.__module__}; choose another")
    registry[operation.name] = operation
    return operation


def record(
    name: str,
    parameters: Sequence[str],
    inputs: Sequence[Any],
    arrays: Sequence[Any],
    values: tuple[Array, ...],
    vjp: Callable[..., Any],
    many: bool,
    options: Mapping[str, Any] | None,
) -> Any:
    """Put one operation on the tape and return its outputs as Tensors: a tuple if `many`, else the only one.

    `inputs` are the arguments as given (Tensors among them), `arrays` the same as the operation saw them. `options`
    are remembered for study; None if the vjp must run but once, and so cannot be studied.
    """
    edges = [Edge(i, x) for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad]
    node = Node(name, parameters, edges, vjp, many)
    node.lock((*arrays, *values))
    if options is not None:
        node.remember(arrays, options, values)
    if anomaly_detection():
        node.input_ranges = [describe(a) for a in arrays if isinstance(a, np.ndarray)]
    outputs = []
    for index, value in enumerate(values):
        output = Tensor(value)
        if value.dtype.kind in "fc":  # an integer output has no gradient
            output.requires_grad, output.node, output.output_index = True, node, index
        node.outputs.append((value.shape, value.dtype))
        outputs.append(output)
    if _meeting is not None:
        _meeting(name, inputs, outputs)
    return tuple(outputs) if many else outputs[0]


Meeting = Callable[[str, Sequence[Any], Sequence[Tensor]], None]
_meeting: Meeting | None = None


def meet_by(rule: Meeting) -> None:
    """From now on ``rule(name, inputs, outputs)`` is called for every operation that is recorded, and may raise."""
    global _meeting
    _meeting = rule


def checkpoint(function: Callable[..., Any], *inputs: Any) -> Any:
    """``function(*inputs)``, recomputed in backward rather than remembered: same bits, less memory, more time.

    Only the inputs are kept. Random draws inside (dropout) are repeated. Parameters that `function` uses without being
    among `inputs` receive their gradients too, but must not change before backward. Under `keep_graph` it simply calls
    the function, and remembers everything. Source: Chen et al. 2016, arXiv:1604.06174.
    """
    if not grad_enabled() or graph_kept():
        return function(*inputs)
    arrays = [_plain(x) for x in inputs]
    state = random.get_state()
    with no_grad():
        result = function(*inputs)
    many = isinstance(result, (tuple, list))
    results = tuple(result) if many else (result,)
    if not all(isinstance(t, Tensor) for t in results):
        raise TypeError("checkpoint: the function must return a Tensor or a tuple of them")
    values = tuple(t.data for t in results)

    def vjp(dys: Any) -> tuple[Array | None, ...]:
        again = [_again(x, a) if isinstance(x, Tensor) else x for a, x in zip(arrays, inputs, strict=True)]
        begin = next_order()
        with random.replayed(state), enable_grad():
            outputs = function(*again)
        pairs = zip(outputs, dys, strict=True) if many else [(outputs, dys)]
        taped = [(t, dy) for t, dy in pairs if t.requires_grad]
        sweep([t for t, _ in taped], [dy for _, dy in taped], since=begin)
        return tuple(_gradient_or_zero(t) if isinstance(t, Tensor) else None for t in again)

    return record("checkpoint", ("inputs",), inputs, arrays, values, vjp, many, None)


def _again(tensor: Tensor, array: Array) -> Tensor:
    """The same input as a leaf."""
    leaf = Tensor(array, tensor.requires_grad)
    if hasattr(tensor, "placements"):
        leaf.placements = tensor.placements
    return leaf


def _gradient_or_zero(tensor: Tensor) -> Array:
    return np.zeros_like(tensor.data) if tensor.grad is None else tensor.grad


def _plain(value: Any) -> Any:
    """What an operation sees of an argument: arrays for Tensors and lists; numbers stay numbers.

    NumPy's scalars become Python numbers, which do not turn float32 arrays into float64 ones.
    """
    if isinstance(value, Tensor):
        return value.data
    if isinstance(value, list):
        if any(isinstance(item, Tensor) for item in value):
            raise TypeError("a list of Tensors is not a Tensor: join them with stack() or concatenate() first")
        return np.asarray(value)
    return value.item() if isinstance(value, np.generic) else value


def explain_broadcast(shapes: Sequence[tuple[int, ...]]) -> str:
    """Which axis keeps arrays of these shapes from being broadcast together."""
    for axis in range(-1, -1 - max(map(len, shapes), default=0), -1):
        sizes = {s[axis] for s in shapes if len(s) >= -axis} - {1}
        if len(sizes) > 1:
            listed = " and ".join(map(str, sorted(sizes)))
            return f"axis {axis} has sizes {listed}; they must be equal, or one of them 1"
    return "the shapes do not broadcast"


def named_shape(shape: tuple[int, ...], letters: str) -> str:
    """A shape with the last of the given letters: ``(2, 8, 64)`` and ``"BTC"`` give ``(B=2, T=8, C=64)``."""
    extra = len(shape) - len(letters)
    names = ["..."] * extra + list(letters)[max(0, -extra) :]
    return (
        "(" + ", ".join(f"{n}={size}" if n != "..." else str(size) for n, size in zip(names, shape, strict=True)) + ")"
    )
