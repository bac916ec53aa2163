"""The tape: what is recorded on the way forward, and how gradients flow back along it.

Every operation (see `operation.py`) turns arrays into an array and a *vjp*, the function that maps the cotangent `dy`
of its output to the gradients of its inputs (a vector-Jacobian product: ``dx = dy . dy/dx``). The tape is nothing but
these vjps, each in a `Node` that knows where its inputs came from. `sweep` visits the nodes in the reverse of the order
in which they were created: every consumer of a value was created after the value, so when a node's turn comes, all
contributions to its cotangent have arrived and been summed. That is all the topological sorting there is.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ContextDecorator, contextmanager
from contextvars import ContextVar, Token
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from tinygrad_llm import later
from tinygrad_llm.locks import lock, unlock

if TYPE_CHECKING:
    from tinygrad_llm.tensor import Tensor

Array = npt.NDArray[Any]

_grad_enabled: ContextVar[bool] = ContextVar("grad_enabled", default=True)
_anomaly_detection: ContextVar[bool] = ContextVar("anomaly_detection", default=False)
_graph_kept: ContextVar[bool] = ContextVar("graph_kept", default=False)
_callers: ContextVar[tuple[tuple[Any, int], ...]] = ContextVar("callers", default=())
_creation = itertools.count()


class _Setting(ContextDecorator):
    """Sets a context variable in a ``with`` block or a decorated function; nests. A new thread starts without it."""

    variable: ContextVar[bool]
    value: bool

    def __init__(self) -> None:
        self._tokens: list[Token[bool]] = []

    def _recreate_cm(self) -> Self:
        """A decorated function enters a setting of its own at each call: threads may call it at once."""
        return type(self)()

    def __enter__(self) -> Self:
        self._tokens.append(self.variable.set(self.value))
        return self

    def __exit__(self, *exception: object) -> None:
        self.variable.reset(self._tokens.pop())


class no_grad(_Setting):
    """``with no_grad():`` records nothing: less time and memory where no gradient is wanted."""

    variable, value = _grad_enabled, False


class enable_grad(_Setting):
    """``with enable_grad():`` records again inside a `no_grad` block."""

    variable, value = _grad_enabled, True


class detect_anomaly(_Setting):
    """``with detect_anomaly():`` stops at the first operation whose value or gradient has a NaN or an infinity.

    Raises FloatingPointError naming the operation and the ranges of its inputs. Costs a pass over every array.
    """

    variable, value = _anomaly_detection, True


class keep_graph(_Setting):
    """``with keep_graph():`` remembers every operation with all its values, also after backward, for study.

    Small operations are always remembered (see `Memory`); this is for graphs that are not small, and it costs the
    memory of all of their values.
    """

    variable, value = _graph_kept, True


def graph_kept() -> bool:
    """Whether every operation is being remembered for study."""
    return _graph_kept.get()


@contextmanager
def called_by(caller: Any) -> Iterator[None]:
    """Operations recorded inside remember that `caller` (a Module) was at work, and which of its calls it was."""
    token = _callers.set((*_callers.get(), (caller, next(_creation))))
    try:
        yield
    finally:
        _callers.reset(token)


def next_order() -> int:
    """A number between those of the nodes made before and after this call."""
    return next(_creation)


def anomaly_detection() -> bool:
    """Whether values and gradients are checked for NaN and infinities."""
    return _anomaly_detection.get()


def grad_enabled() -> bool:
    """Whether operations are being recorded."""
    return _grad_enabled.get()


def describe(array: Array) -> str:
    """One line about an array: shape, dtype, range, mean, spread, and how many NaN and infinities there are."""
    text = f"shape={array.shape}, {array.dtype}"
    if array.size == 0 or array.dtype.kind not in "fiub":
        return text
    values = array.astype(np.float64)
    finite = values[np.isfinite(values)]
    if array.size == 1 and finite.size == 1:
        return f"{text}, value {finite[0]:.6g}"
    if finite.size:
        # dividing by the largest magnitude first keeps huge values from overflowing in the spread
        scale = float(np.abs(finite).max()) or 1.0
        mean, std = float((finite / scale).mean()) * scale, float((finite / scale).std()) * scale
        text += f", range [{finite.min():.4g}, {finite.max():.4g}], mean {mean:.4g}, std {std:.4g}"
    nans, infinities = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    return text + (f", NaN: {nans}!" if nans else "") + (f", infinite: {infinities}!" if infinities else "")


def unbroadcast(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Sum a gradient over the axes along which its input was broadcast, back to the input's `shape`.

    Broadcasting copies a value along an axis; each copy receives a cotangent, and the value receives their sum.
    """
    if gradient.shape == shape:
        return gradient
    extra = gradient.ndim - len(shape)
    if extra < 0 or any(n not in (1, m) for n, m in zip(shape, gradient.shape[extra:], strict=True)):
        raise ValueError(f"a gradient of shape {gradient.shape} is no broadcast of {shape}")
    stretched = tuple(i + extra for i, n in enumerate(shape) if n == 1 and gradient.shape[i + extra] != 1)
    # with the axes kept the sum is an array, even over all of them: without, it could be a NumPy scalar
    return gradient.sum(tuple(range(extra)) + stretched, keepdims=True).reshape(shape)


def saved_arrays(function: Callable[..., Any]) -> list[Array]:
    """The arrays a vjp holds on to until backward: what its closure, and the closures inside it, captured."""
    found: list[Array] = []
    for cell in getattr(function, "__closure__", None) or ():
        try:
            thing = cell.cell_contents
        except ValueError:  # a name that the forward pass never assigned
            continue
        if isinstance(thing, np.ndarray):
            found.append(thing)
        elif isinstance(thing, (tuple, list)):
            found.extend(a for a in thing if isinstance(a, np.ndarray))
        elif hasattr(thing, "__closure__") and thing is not function:
            found.extend(saved_arrays(thing))
    return found


# ---------------------------------------------------------------------------------------------------------------------


class GradientError(RuntimeError):
    """A vjp returned no gradient for an input that requires one: None, or an array of a `shape` that does not fit."""

    def __init__(self, message: str, shape: tuple[int, ...] | None, wanted: tuple[int, ...]) -> None:
        super().__init__(message)
        self.shape, self.wanted = shape, wanted


class Edge:
    """Where the gradient of one input of a node goes: to an output of an earlier node, or to a leaf Tensor."""

    __slots__ = ("dtype", "position", "shape", "target", "target_output")

    def __init__(self, position: int, tensor: Tensor) -> None:
        self.position = position
        self.target: Node | Tensor = tensor if tensor.node is None else tensor.node
        self.target_output = tensor.output_index
        self.shape, self.dtype = tensor.data.shape, tensor.data.dtype


SMALL = 1 << 16
"""Operations whose inputs and outputs take no more bytes than this are remembered for study (see `Memory`)."""


class Memory(NamedTuple):
    """What study wants to know of a node: the arguments, the outputs' values, and the Modules that were at work.

    Every small operation has one, and keeps its vjp and cotangents after backward: so a gradient can be explained after
    the fact, in the small graphs that people study, at no cost in the large ones, which need `keep_graph`. It lives as
    long as the node.
    """

    arrays: Sequence[Any]
    options: Mapping[str, Any]
    values: tuple[Array, ...]
    callers: tuple[tuple[Any, int], ...]


class Node:
    """One recorded operation: its vjp, and the edges along which it hands gradients back."""

    __slots__ = (
        "edges",
        "input_ranges",
        "locked",
        "many",
        "memory",
        "name",
        "order",
        "outputs",
        "parameters",
        "replay",
        "retained",
        "vjp",
    )

    def __init__(
        self, name: str, parameters: Sequence[str], edges: list[Edge], vjp: Callable[..., Any], many: bool
    ) -> None:
        self.many = many  # whether the outputs, and so the cotangents, are a tuple, even of one
        self.name, self.parameters, self.edges = name, parameters, edges
        self.vjp: Callable[..., Any] | None = vjp
        self.order = next(_creation)
        self.outputs: list[tuple[tuple[int, ...], np.dtype[Any]]] = []
        self.locked: list[Array] = []
        self.retained: dict[int, Tensor] = {}
        self.input_ranges: list[str] = []
        self.memory: Memory | None = None
        self.replay: tuple[Callable[..., Any], list[Array | None]] | None = None  # vjp, cotangents; after backward

    def remember(self, arrays: Sequence[Any], options: Mapping[str, Any], values: tuple[Array, ...]) -> None:
        """Keep what study needs, if the operation is small or the graph is to be kept."""
        size = 0
        for array in (*arrays, *values):
            if isinstance(array, np.ndarray):
                size += array.nbytes
        if size <= SMALL or _graph_kept.get():
            self.memory = Memory(arrays, options, values, _callers.get())

    def lock(self, candidates: Sequence[Any]) -> None:
        """Make what the vjp saved read-only, and whatever among `candidates` (inputs, outputs) shares its memory."""
        assert self.vjp is not None
        saved = saved_arrays(self.vjp)
        if not saved:
            return
        owners = {id(a if a.base is None else a.base) for a in saved}
        shared = [a for a in candidates if isinstance(a, np.ndarray) and id(a if a.base is None else a.base) in owners]
        self.locked = saved + shared
        for array in self.locked:
            lock(array)

    def free(self) -> None:
        """Drop the vjp with all it saved, and make its arrays writeable again."""
        self.vjp = None
        for array in self.locked:
            unlock(array)
        self.locked = []

    def __del__(self) -> None:
        if self.locked:
            self.free()

    def input_name(self, position: int) -> str:
        """The parameter at `position`; inputs beyond the last are the further ones of a variadic operation."""
        if position < len(self.parameters):
            return self.parameters[position]
        return f"{self.parameters[-1]}[{position - len(self.parameters) + 1}]"

    def pull(self, cotangents: list[Array | None]) -> list[Any]:
        """Run the vjp; return one gradient per edge, un-broadcast, in the input's dtype (what makes it, if that is put
        off). Frees the node."""
        if self.vjp is None:
            raise RuntimeError(
                f"backward: the graph behind '{self.name}' was already freed by an earlier backward(); "
                "run the forward pass again before the second one"
            )
        result = self.gradients(self.vjp, cotangents, self.edges)
        if self.memory is not None:
            self.replay = self.vjp, cotangents
        self.free()
        return result

    def gradients(
        self, vjp: Callable[..., Any], cotangents: Sequence[Array | None], edges: Sequence[Edge]
    ) -> list[Any]:
        """One gradient for each of `edges`; a cotangent of None is zero."""
        filled = [
            np.zeros(shape, dtype) if c is None else c
            for c, (shape, dtype) in zip(cotangents, self.outputs, strict=True)
        ]
        gradients = vjp(tuple(filled) if self.many else filled[0])
        if not isinstance(gradients, (tuple, list)):
            gradients = (gradients,)
        if (waiting := later.current.get()) is None:
            return [self._gradient(edge, gradients) for edge in edges]
        made = (partial(self._gradient, edge, gradients) for edge in edges)
        return [make if waiting.takes(make.args[0].target) else make() for make in made]

    def _gradient(self, edge: Edge, gradients: Sequence[Any]) -> Array:
        gradient = gradients[edge.position] if edge.position < len(gradients) else None
        where = f"{self.name}: the gradient of input '{self.input_name(edge.position)}'"
        if gradient is None:
            message = f"{where} is not defined (its vjp gives None), but that input requires a gradient"
            raise GradientError(message, None, edge.shape)
        gradient = np.asarray(gradient() if callable(gradient) else gradient)
        try:
            gradient = unbroadcast(gradient, edge.shape)
        except ValueError as error:
            message = f"{where} has shape {gradient.shape}, the input has {edge.shape}"
            raise GradientError(message, gradient.shape, edge.shape) from error
        if _anomaly_detection.get() and not np.isfinite(gradient).all():
            inputs = "; ".join(self.input_ranges) or "not recorded: run the forward pass under detect_anomaly() too"
            raise FloatingPointError(f"{where} is not finite: {describe(gradient)}. Inputs: {inputs}")
        return gradient if gradient.dtype == edge.dtype else gradient.astype(edge.dtype)


Send = Callable[["Node | Tensor", int, Array, Sequence[Array]], None]
_outer_send: ContextVar[Send | None] = ContextVar("outer_send", default=None)


def sweep(outputs: Sequence[Tensor], cotangents: Sequence[Array], since: int = 0) -> None:
    """Propagate `cotangents` from `outputs` to every leaf that requires a gradient, adding to its `.grad`.

    A sweep inside a vjp (recomputation) visits only nodes made `since` it began; what arrives at older ones, which
    belong to the graph outside, is handed to the sweep that runs the vjp.
    """
    outer = _outer_send.get()
    leaves: list[Tensor] = []
    remembered, waiting = True, later.current.get()
    pending: dict[int, tuple[Node, list[Array | None]]] = {}
    queue: list[int] = []  # a heap of negated creation numbers: the newest node first

    def send(target: Node | Tensor, index: int, gradient: Array, foreign: Sequence[Array]) -> None:
        if not isinstance(target, Node):
            _accumulate(target, gradient, foreign)
            leaves.append(target)
            return
        if target.order < since and outer is not None:
            outer(target, index, gradient, foreign)
            return
        if target.order not in pending:
            pending[target.order] = target, [None] * len(target.outputs)
            heapq.heappush(queue, -target.order)
        sums = pending[target.order][1]
        before = sums[index]
        sums[index] = gradient if before is None else before + gradient

    def visit(node: Node, arrived: list[Array | None]) -> None:
        for index, tensor in node.retained.items():
            if (cotangent_here := arrived[index]) is not None:
                _accumulate(tensor, cotangent_here, [cotangent_here])
        foreign = [*node.locked, *(a for a in arrived if a is not None)]
        token = _outer_send.set(send)
        try:
            gradients = node.pull(arrived)
        finally:
            _outer_send.reset(token)
        for number, (edge, gradient) in enumerate(zip(node.edges, gradients, strict=True)):
            others = gradients[:number] + gradients[number + 1 :]
            if waiting is not None and callable(gradient):
                waiting.add(partial(_arrive_late, edge.target, gradient, foreign, others))
            else:  # what is put off may still need this array
                send(edge.target, edge.target_output, gradient, foreign + others if waiting is None else [gradient])

    for output, cotangent in zip(outputs, cotangents, strict=True):
        send(output if output.node is None else output.node, output.output_index, cotangent, [cotangent])
    while queue:
        node, arrived = pending.pop(-heapq.heappop(queue))
        visit(node, arrived)
        remembered = remembered and node.memory is not None
        del arrived  # the next vjp needs the memory more than a cotangent that has done its work
    for leaf in leaves:
        leaf.origin = tuple(t.node for t in outputs if t.node is not None) if remembered else ()


def _arrive_late(leaf: Any, make: Callable[[], Array], foreign: Sequence[Array], others: Sequence[Any]) -> None:
    """What was put off; its node gives `others` too."""
    _accumulate(leaf, make(), [*foreign, *(a for a in others if isinstance(a, np.ndarray))])


def _accumulate(leaf: Tensor, gradient: Array, foreign: Sequence[Array]) -> None:
    """Add to ``leaf.grad``. The leaf owns its gradient: memory shared with any `foreign` array is copied."""
    if leaf.grad is not None:
        leaf.grad += gradient
    elif not gradient.flags.writeable or any(np.may_share_memory(gradient, other) for other in foreign):
        leaf.grad = gradient.copy()
    else:
        leaf.grad = gradient
