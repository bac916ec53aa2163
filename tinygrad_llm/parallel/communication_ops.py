"""Communication that gradients flow through: `enter`, `reduce`, `gather`, `scatter_sum`, `split`, `shift`, `exchange`.

Each takes the part that this rank holds of a tensor, and the communicator of an axis. The rule that makes their
gradients what they are: the cotangent of a replicated tensor is replicated. So what is used differently by the ranks
afterwards must pass through `enter`, whose vjp adds up what they found; and `reduce` sends its cotangent on unchanged,
since every rank has the whole of it. (Libraries differ here: where cotangents of replicated tensors are partial, the
vjp of an all-reduce is an all-reduce. Sources: Shoeybi et al. 2019, arXiv:1909.08053, section 3, for `enter` and
`reduce`, there f and g; Korthikanti et al. 2022, arXiv:2205.05198, section 4.2, for `gather` and `scatter_sum`.)

    enter        R -> V       the same everywhere                     vjp: sum over the ranks        all-reduce
    reduce       V -> R       sum over the ranks                      vjp: the same everywhere       identity
    gather       S -> V       all chunks, everywhere                  vjp: sum, each rank's chunk    reduce-scatter
    scatter_sum  V -> S       each rank's chunk of the sum            vjp: all chunks                all-gather
    split        R -> S       each rank's chunk                       vjp: all chunks                all-gather
    shift        V -> V       from the rank `steps` before            vjp: back again                messages
    exchange     S(i) -> S(j) each rank's chunk of all others' parts  vjp: back again                all-to-all

On one rank none of them is what its vjp is the gradient of: the gradient is that of all ranks together. So they are not
in the registry of ordinary operations. ``enter.whole(x, ranks)`` is one: the same operation on what all ranks hold,
with the ranks as threads of this process. There R and S are the whole array, and V has an axis of ranks in front. The
derivations speak of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinygrad_llm.operation import Operation
from tinygrad_llm.parallel.across import on_threads
from tinygrad_llm.parallel.collectives import chunk_bounds, ordered_sum
from tinygrad_llm.parallel.communicator import Communicator
from tinygrad_llm.parallel.placement import Placement, R, S, V, place, placement_of
from tinygrad_llm.tape import Array
from tinygrad_llm.tensor import Tensor

communications: dict[str, Communication] = {}
"""Name to operation, as `registry` has the ordinary ones."""

Placements = Callable[..., Placement]


class Communication(Operation):
    """An operation ``(x, communicator, **options)``.

    ``given(**options)`` and ``made(**options)`` say how the ranks hold x and the result. An x of one of the kinds
    `also` is taken too.
    """

    def __init__(self, reference: Callable[..., Any], given: Placements, made: Placements, also: str) -> None:
        super().__init__(reference)
        self._given, self._made, self._also = given, made, also.split()
        self.whole = Operation(self._of_all, self.name)
        self.whole.__doc__ = self.__doc__
        self.whole.derivations, self.whole.sample = self.derivations, self.sample

    def __call__(self, x: Any, communicator: Communicator, **options: Any) -> Any:
        if communicator.size > 1 and isinstance(x, Tensor) and x.requires_grad:
            self._check(x, communicator, self._given(**options))
        y = super().__call__(x, communicator, **options)
        if y.requires_grad:
            if hasattr(x, "placements"):
                y.placements = x.placements
            place(y, communicator, self._made(**options))
        return y

    def _check(self, x: Tensor, communicator: Communicator, wanted: Placement) -> None:
        found = placement_of(x, communicator.axis)
        if wanted.dim is not None:
            wanted = S(range(x.ndim)[wanted.dim])
        if found != wanted and found.kind not in self._also:
            kinds = " or ".join(map(str, [wanted, *self._also]))
            raise ValueError(f"{self.name}: {x.shape}: x is {found} over {communicator.axis}, and must be {kinds}")

    def _of_all(self, x: Array, ranks: int, **options: Any) -> tuple[Array, Callable[[Array], Any]]:
        def program(communicator: Communicator, part: Tensor) -> Tensor:
            return self(part, communicator, **options)

        return on_threads(program, int(ranks), [self._given(**options)], self._made(**options))(x)


def communication(given: Placements, made: Placements, also: str = "") -> Callable[..., Communication]:
    """Make a function ``(x, communicator, **options) -> (value, vjp)`` a communication, and enter it in the list."""

    def make(reference: Callable[..., Any]) -> Communication:
        communications[reference.__name__] = Communication(reference, given, made, also)
        return communications[reference.__name__]

    return make


def _along(operation: Callable[[Array], Array], x: Array, dim: int) -> Array:
    """An operation on rows, along another dim."""
    return operation(x) if dim == 0 else np.moveaxis(operation(np.moveaxis(x, dim, 0)), 0, dim)


def _chunk(x: Array, communicator: Communicator, dim: int) -> Array:
    """This rank's chunk."""
    bounds = [slice(None)] * x.ndim
    bounds[dim] = chunk_bounds(x.shape[dim], communicator.size)[communicator.rank]
    return x[tuple(bounds)]


def _check_size(name: str, x: Array, communicator: Communicator, dim: int) -> None:
    if x.shape[dim] % communicator.size:
        raise ValueError(
            f"{name}: {x.shape}: the {x.shape[dim]} rows along dim {dim} cannot be shared out equally among the "
            f"{communicator.size} ranks over {communicator.axis}"
        )


def _sum(arrays: Array) -> Array:
    return ordered_sum([a.copy() for a in arrays])


# ---------------------------------------------------------------------------------------------------------------------


@communication(given=lambda: R, made=lambda: V)
def enter(x: Array, communicator: Communicator) -> Any:
    """``y_r = x``: a replicated tensor, about to be used differently by each rank r.

    ``dx = sum_r dy_r``, an all-reduce of x's size. Forward nothing is sent.
    """
    return x, communicator.all_reduce


@enter.derivation("x")
def _(x: Array, ranks: int, dy: Array) -> Iterator[tuple[str, Any]]:
    flat, delta = dy.reshape(ranks, -1), np.eye(x.size)
    yield (
        "dx_j = sum_r sum_i dy_ri dy_ri/dx_j over all ranks r; each holds x itself, so dy_ri/dx_j = delta_ij",
        np.einsum("ri,ij->j", flat, delta).reshape(x.shape),
    )
    yield "delta_ij leaves i = j: the cotangents that the ranks have found are added up", dy.sum(0)
    yield "two and two by their numbers, as an all-reduce does, and every rank has the sum", _sum(dy)


@enter.sample
def _(rng: np.random.Generator, shape: tuple[int, ...] = (1, 2)) -> Any:
    return (rng.standard_normal(shape), int(rng.integers(2, 4))), {}


@communication(given=lambda: V, made=lambda: R, also="partial")
def reduce(x: Array, communicator: Communicator) -> Any:
    """``y = sum_r x_r``, on every rank: an all-reduce of x's size.

    ``dx_r = dy``: every rank has the whole cotangent already, and nothing is sent.
    """
    return communicator.all_reduce(x), lambda dy: dy


@reduce.derivation("x")
def _(x: Array, ranks: int, dy: Array) -> Iterator[tuple[str, Any]]:
    delta = np.eye(dy.size)
    yield (
        "dx_rj = sum_i dy_i dy_i/dx_rj, and y_i = sum_r x_ri gives dy_i/dx_rj = delta_ij for every rank r",
        np.einsum("i,ij,r->rj", dy.ravel(), delta, np.ones(ranks)).reshape(x.shape),
    )
    yield "delta_ij leaves i = j: dx_r = dy on every rank, which has it", np.stack([dy] * ranks)


@reduce.sample
def _(rng: np.random.Generator, shape: tuple[int, ...] = (1, 2)) -> Any:
    ranks = int(rng.integers(2, 4))
    return (rng.standard_normal((ranks, *shape)), ranks), {}


@communication(given=lambda dim=0: S(dim), made=lambda dim=0: V, also="varying")
def gather(x: Array, communicator: Communicator, *, dim: int = 0) -> Any:
    """``y_r = (x_0, x_1, ...)`` joined along `dim`, on every rank r, to be used differently by each: an all-gather.

    ``dx_s = sum_r (chunk s of dy_r)``, a reduce-scatter. Each costs half of what `enter` and `reduce` do.
    """

    def vjp(dy: Array) -> Array:
        return _along(communicator.reduce_scatter, dy, dim)

    return _along(communicator.all_gather, x, dim), vjp


@gather.derivation("x")
def _(x: Array, ranks: int, dy: Array, dim: int = 0) -> Iterator[tuple[str, Any]]:
    flat, delta = dy.reshape(ranks, -1), np.eye(x.size)
    yield (
        "with x the chunks of all ranks, dx_j = sum_r sum_i dy_ri dy_ri/dx_j, and each rank comes to hold x itself: "
        "dy_ri/dx_j = delta_ij",
        np.einsum("ri,ij->j", flat, delta).reshape(x.shape),
    )
    yield "delta_ij leaves i = j: the cotangents are added up, as in enter", dy.sum(0)
    chunks = [np.array_split(y, ranks, dim) for y in dy]
    yield (
        "rank s needs chunk s of the sum only: it receives chunk s of every cotangent, which is a reduce-scatter",
        np.concatenate([_sum(np.array([chunks[r][s] for r in range(ranks)])) for s in range(ranks)], dim),
    )


@gather.sample
def _(rng: np.random.Generator, shape: tuple[int, ...] = (1, 1, 2)) -> Any:
    ranks, dim = int(rng.integers(2, 4)), int(rng.integers(-1, len(shape)))
    return (rng.standard_normal(_shared(shape, dim, ranks)), ranks), {"dim": dim}


@communication(given=lambda dim=0: V, made=lambda dim=0: S(dim), also="partial")
def scatter_sum(x: Array, communicator: Communicator, *, dim: int = 0) -> Any:
    """``y_s = sum_r (chunk s of x_r)`` along `dim`: a reduce-scatter.

    ``dx_r = (dy_0, dy_1, ...)`` on every rank r, an all-gather.
    """
    _check_size("scatter_sum", x, communicator, dim)

    def vjp(dy: Array) -> Array:
        return _along(communicator.all_gather, dy, dim)

    return _along(communicator.reduce_scatter, x, dim), vjp


@scatter_sum.derivation("x")
def _(x: Array, ranks: int, dy: Array, dim: int = 0) -> Iterator[tuple[str, Any]]:
    delta = np.eye(dy.size)
    yield (
        "with y the chunks of all ranks, dx_rj = sum_i dy_i dy_i/dx_rj, and y_i = sum_r x_ri: dy_i/dx_rj = delta_ij",
        np.einsum("i,ij,r->rj", dy.ravel(), delta, np.ones(ranks)).reshape(x.shape),
    )
    yield "delta_ij leaves i = j: on every rank dx_r = dy, all of it", np.stack([dy] * ranks)
    joined = np.concatenate(np.array_split(dy, ranks, dim), dim)
    yield "each rank has its chunk of dy, and needs the chunks of all: an all-gather", np.stack([joined] * ranks)


@scatter_sum.sample
def _(rng: np.random.Generator, shape: tuple[int, ...] = (1, 1, 2)) -> Any:
    ranks, dim = int(rng.integers(2, 4)), int(rng.integers(-1, len(shape)))
    return (rng.standard_normal((ranks, *_shared(shape, dim, ranks))), ranks), {"dim": dim}


@communication(given=lambda dim=0: R, made=lambda dim=0: S(dim))
def split(x: Array, communicator: Communicator, *, dim: int = 0) -> Any:
    """``y_s = chunk s of x`` along `dim`, a replicated tensor: nothing is sent.

    ``dx = (dy_0, dy_1, ...)`` on every rank, an all-gather.
    """
    _check_size("split", x, communicator, dim)

    def vjp(dy: Array) -> Array:
        return _along(communicator.all_gather, dy, dim)

    return _chunk(x, communicator, dim), vjp


@split.derivation("x")
def _(x: Array, ranks: int, dy: Array, dim: int = 0) -> Iterator[tuple[str, Any]]:
    delta = np.eye(x.size)
    yield (
        "with y the chunks of all ranks, y = x: dx_j = sum_i dy_i dy_i/dx_j with dy_i/dx_j = delta_ij",
        np.einsum("i,ij->j", dy.ravel(), delta).reshape(x.shape),
    )
    chunks = np.array_split(dy, ranks, dim)
    yield "x_j went to one rank alone, whose cotangent comes back: the chunks are joined", np.concatenate(chunks, dim)


@split.sample
def _(rng: np.random.Generator, shape: tuple[int, ...] = (1, 1, 2)) -> Any:
    ranks, dim = int(rng.integers(2, 4)), int(rng.integers(-1, len(shape)))
    return (rng.standard_normal(_shared(shape, dim, ranks)), ranks), {"dim": dim}


@communication(given=lambda steps=1: V, made=lambda steps=1: V, also="sharded")
def shift(x: Array, communicator: Communicator, *, steps: int = 1) -> Any:
    """``y_r = x_s`` with ``s = (r - steps) mod n``: each of n ranks sends its x to the one `steps` further on the ring.

    ``dx_r = dy_s`` with ``s = (r + steps) mod n``: the cotangents travel back.
    """
    return _shifted(x, communicator, steps), lambda dy: _shifted(dy, communicator, -steps)


def _shifted(x: Array, communicator: Communicator, steps: int) -> Array:
    if steps % communicator.size == 0:
        return x
    to, source = ((communicator.rank + distance) % communicator.size for distance in (steps, -steps))
    receiving = communicator.start_receive(x.shape, x.dtype, source, label="shift")
    communicator.send(x, to, label="shift")
    return receiving.wait()


@shift.derivation("x")
def _(x: Array, ranks: int, dy: Array, steps: int = 1) -> Iterator[tuple[str, Any]]:
    r, s = np.ogrid[:ranks, :ranks]
    travels = ((r - steps) % ranks == s).astype(x.dtype)  # 1 where what rank s holds goes to rank r
    yield (
        "dx_s = sum_r dy_r dy_r/dx_s, and dy_r/dx_s is 1 where s = (r - steps) mod n, else 0",
        np.einsum("r...,rs->s...", dy, travels),
    )
    yield "for each s that is one r, (s + steps) mod n: the shift back", np.roll(dy, -steps, 0)


@shift.sample
def _(rng: np.random.Generator, shape: tuple[int, ...] = (1, 2)) -> Any:
    ranks = int(rng.integers(3, 5))  # of two, both neighbours are one
    return (rng.standard_normal((ranks, *shape)), ranks), {"steps": int(rng.integers(-2, 6))}


@communication(given=lambda gathered, shared: S(gathered), made=lambda gathered, shared: S(shared), also="varying")
def exchange(x: Array, communicator: Communicator, *, gathered: int, shared: int) -> Any:
    """Sharded along dim `gathered` before, along dim `shared` after: rank s gets chunk s of every rank's x, joined.

    An all-to-all, and so is its vjp, with the two dims exchanged.
    """
    if range(x.ndim)[gathered] == range(x.ndim)[shared]:
        raise ValueError(f"exchange: {x.shape}: gathered={gathered} and shared={shared} are the same dim")
    _check_size("exchange", x, communicator, shared)
    return (
        _exchanged(x, communicator, gathered, shared),
        lambda dy: _exchanged(dy, communicator, shared, gathered),
    )


def _exchanged(x: Array, communicator: Communicator, gathered: int, shared: int) -> Array:
    rows = communicator.all_to_all(np.moveaxis(x, shared, 0))
    return np.concatenate([np.moveaxis(part, 0, shared) for part in np.split(rows, communicator.size)], gathered)


@exchange.derivation("x")
def _(x: Array, ranks: int, dy: Array, gathered: int, shared: int) -> Iterator[tuple[str, Any]]:
    delta = np.eye(x.size)
    yield (
        "with x and y the chunks of all ranks, y = x: dx_j = sum_i dy_i dy_i/dx_j with dy_i/dx_j = delta_ij",
        np.einsum("i,ij->j", dy.ravel(), delta).reshape(x.shape),
    )
    blocks = [np.array_split(column, ranks, gathered) for column in np.array_split(dy, ranks, shared)]
    back = [np.concatenate([blocks[s][r] for s in range(ranks)], shared) for r in range(ranks)]
    yield (
        "block (r, s), which went from rank r to rank s, comes back: rank s sends it, rank r joins what it receives",
        np.concatenate(back, gathered),
    )


@exchange.sample
def _(rng: np.random.Generator, shape: tuple[int, ...] = (1, 1, 2)) -> Any:
    ranks = int(rng.integers(2, 4))
    gathered, shared = (int(d) for d in rng.permutation(len(shape))[:2])
    x = rng.standard_normal(_shared(_shared(shape, gathered, ranks), shared, ranks))
    return (x, ranks), {"gathered": gathered, "shared": shared - len(shape) * int(rng.integers(2))}


def _shared(shape: tuple[int, ...], dim: int, ranks: int) -> tuple[int, ...]:
    """A shape with `ranks` times as many rows along `dim`."""
    where = range(len(shape))[dim]
    return (*shape[:where], ranks * shape[where], *shape[where + 1 :])
