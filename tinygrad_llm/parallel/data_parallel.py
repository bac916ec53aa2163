"""Data parallel training: each rank computes some parts of a step, and the ranks add up the gradients.

ZeRO divides among the ranks what would be the same on all of them: the optimizer's state (stage 1), then the gradients
too (2), then the weights (3), which are gathered block by block while they are used. For Psi parameters in float32 and
N ranks that takes 16 Psi, 8 Psi + 8 Psi/N, 4 Psi + 12 Psi/N and 16 Psi/N bytes, and one block's weights.

    stage 0, 1   rank r computes the parts next to each other, adds up their gradients, and then the ranks add theirs
    stage 2, 3   rank r computes every N-th part; after each, the ranks add up, and each keeps its share of the sum

In both, the sums are those of the tree in `optim.pairwise`. Source: Rajbhandari et al. 2019, arXiv:1910.02054.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tinygrad_llm.backend import part_of
from tinygrad_llm.nn import Module, Parameter
from tinygrad_llm.operation import checkpoint
from tinygrad_llm.optim import Muon, Optimizer
from tinygrad_llm.optim.optimizer import block_squares
from tinygrad_llm.optim.pairwise import PairwiseSum, take_gradients
from tinygrad_llm.parallel.communicator import Communicator
from tinygrad_llm.parallel.flat_space import Piece, Unit
from tinygrad_llm.parallel.mesh import RanksError
from tinygrad_llm.parallel.ranks import LossOf, joined
from tinygrad_llm.parallel.sharing import Named, parts_of, passing
from tinygrad_llm.parallel.waiting import Handle
from tinygrad_llm.tape import Array, grad_enabled
from tinygrad_llm.tensor import Tensor

MOST_PENDING = 3
"""Sums of units that are on their way at once: each holds the gradients of a block."""

MakeOptimizer = Callable[[list[Named]], Optimizer]


class Share:
    """A unit of parameters on this rank: its pieces, and what is on its way."""

    def __init__(self, named: Sequence[Named], comm: Communicator, zero: int) -> None:
        self.unit = Unit(named, comm.size)
        self.parameters = [parameter for _, parameter in self.unit.named]
        self.sums = PairwiseSum()
        self.used = [False] * len(self.parameters)
        self.pieces: list[tuple[str, Parameter]] = []
        """Of stage 1 and up: views of the weights that this rank updates, by the name and place of each."""
        self.places = list(self.unit.pieces(comm.rank)) if zero else []
        self.chunk: Array | None = None
        """Of stage 3: the weights that this rank keeps, of which the pieces are views."""
        if zero == 3:
            flat = self.unit.join({name: p.data for name, p in self.unit.named})
            self.chunk = flat.reshape(comm.size, -1)[comm.rank].copy()
        for name, start, stop, place in self.places:
            parameter = dict(self.unit.named)[name]
            if self.chunk is None:
                parameter.data = np.ascontiguousarray(parameter.data)
                data = parameter.data.reshape(-1)[start:stop]
            else:
                data = self.chunk[place : place + stop - start]
            self.pieces.append((f"{name}[{start}:{stop}]", Parameter(data, parameter.decay)))

    def take(self) -> list[Array | None]:
        """The gradients, of which the parameters are left without."""
        gradients = take_gradients(self.parameters)
        self.used = [used or g is not None for used, g in zip(self.used, gradients, strict=True)]
        return gradients

    def flat(self, arrays: Sequence[Array | None]) -> Array:
        """The flat space with an array for each parameter."""
        names = (name for name, _ in self.unit.named)
        return self.unit.join(dict(zip(names, arrays, strict=True)))

    def set_weights(self, flat: Array) -> None:
        """Let the parameters be views of a flat space."""
        for (_, parameter), view in zip(self.unit.named, self.unit.views(flat).values(), strict=True):
            parameter.data = view

    def forget_weights(self) -> None:
        """Leave the parameters without their values: NaN, which takes no memory and which no result hides."""
        for _, parameter in self.unit.named:
            parameter.data = np.broadcast_to(parameter.dtype.type(math.nan), parameter.shape)


class DataRanks:
    """The ranks of one axis, which share out the parts of each step (see `Ranks`)."""

    def __init__(self, comm: Communicator, model: Module, make_optimizer: MakeOptimizer, zero: int = 0) -> None:
        if zero not in (0, 1, 2, 3):
            raise RanksError(f"--zero {zero}: must be 0, 1, 2 or 3")
        self.comm, self.zero = comm, zero
        rest, blocks = parts_of(model)
        self.rest = [Share(rest, comm, zero)] if rest else []
        self.shares = [*self.rest, *(Share(named, comm, zero) for _, named in blocks)]
        self._waiting: list[Share] = []
        """Whose gradients of the part are not there yet."""
        self._entered: list[Share] = []
        """Whose blocks the part has gone through."""
        self._pending: list[tuple[Share, Handle]] = []
        self._last_part, self._most = False, 0
        self._hooked: list[Module] = []
        for share, (block, _) in zip(self.shares[len(self.rest) :], blocks, strict=True):
            self._hook(block, share)
        if zero:
            pieces = [pair for share in self.shares for pair in share.pieces]
            self.optimizer = make_optimizer(pieces or [("none", Parameter(np.zeros(0, np.float32)))])
        else:
            self.optimizer = make_optimizer([pair for share in self.shares for pair in share.unit.named])
        self._whole_sizes = {
            key: dict(share.unit.named)[piece.name].size
            for share in self.shares
            for piece, (key, _) in zip(share.places, share.pieces, strict=True)
        }
        if zero:
            self._update_as_parts()
        if zero and isinstance(self.optimizer, Muon):
            raise RanksError(f"--zero {zero}: muon updates whole matrices; take --optimizer adamw, or --zero 0")
        if zero == 3:
            for share in self.shares:
                share.forget_weights()

    # ---- what `Ranks` asks for

    def parts(self, count: int) -> Sequence[int]:
        rank, size = self.comm.rank, self.comm.size
        if count % size:
            raise RanksError(
                f"--dp {size}: the {count} passes of a step cannot be shared out evenly; "
                f"let --accumulate be a multiple of {size}"
            )
        return range(rank, count, size) if self.zero >= 2 else range(rank * count // size, (rank + 1) * count // size)

    def total(self, values: Iterable[int]) -> int:
        return sum(self.comm.gather_objects(sum(values)))

    def run(self, parts: Sequence[int], loss_of: LossOf) -> list[float]:
        losses, self._most = [], 0
        self.optimizer.zero_grad()
        for share in self.rest if self.zero == 3 else ():
            share.set_weights(self._gathered(share))
        for number, part in enumerate(parts):
            self._last_part = number == len(parts) - 1
            self._waiting, self._entered = list(self.shares), []
            loss = loss_of(part)
            loss.backward()
            losses.append(loss.item())
            del loss
            while self._waiting:  # what stands before the first block
                self._take(self._waiting[-1])
        self._finish()
        for share in self.rest if self.zero == 3 else ():
            share.forget_weights()
        return [loss for found in self.comm.gather_objects(losses) for loss in found]

    def squares(self, left_out: Collection[str] = ()) -> Array:
        found = [np.zeros(0)]
        for key, parameter in self.optimizer.parameters.items():
            if parameter.grad is not None and key.partition("[")[0] not in left_out:
                with part_of(self._whole_sizes.get(key, 0)):
                    found.append(block_squares(parameter.grad))
        sums = np.concatenate(found)
        return joined(self.comm, sums) if self.zero else sums

    def update(self, rate: float, scale: float) -> None:
        self.optimizer.step(rate, scale)
        if self.zero in (1, 2):
            for share in self.shares:
                chunk = np.zeros(share.unit.chunk, share.unit.dtype)
                for piece, (_, view) in zip(share.places, share.pieces, strict=True):
                    chunk[piece.place : piece.place + view.size] = view.data
                flat = self.comm.all_gather(chunk)
                for (_, parameter), values in zip(share.unit.named, share.unit.views(flat).values(), strict=True):
                    parameter.data[...] = values

    def _update_as_parts(self) -> None:
        """Have the optimizer update each piece as it would update the whole parameter."""
        update = self.optimizer.update

        def updated(name: str, *arguments: Any) -> None:
            with part_of(self._whole_sizes.get(name, 0)):
                update(name, *arguments)

        self.optimizer.update = updated  # type: ignore[method-assign, assignment]

    # ---- saving and loading

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Within it, every rank has all weights; what is written to them stays."""
        absent = self.shares if self.zero == 3 else []
        flats = [self._gathered(share) for share in absent]
        for share, flat in zip(absent, flats, strict=True):
            share.set_weights(flat)
        try:
            yield
        finally:
            for share, flat in zip(absent, flats, strict=True):
                assert share.chunk is not None
                share.chunk[...] = flat.reshape(self.comm.size, -1)[self.comm.rank]
                share.forget_weights()

    def disband(self) -> None:
        """Training is over: leave the whole model with every rank, to be used without the others."""
        for share in self.shares if self.zero == 3 else ():
            share.set_weights(self._gathered(share))
        for block in self._hooked:
            del block.forward  # what its class has is found again

    def state_dict(self) -> dict[str, Array]:
        """The optimizer's state, as one process would have it; every rank must ask."""
        if not self.zero:
            return self.optimizer.state_dict()
        updates: dict[str, int] = {}
        kinds: set[str] = set()
        own = {piece.name: self.optimizer.updates.get(key, 0) for piece, key in self._pieces()}
        for counts, found in self.comm.gather_objects(
            (own, sorted({k for s in self.optimizer.state.values() for k in s}))
        ):
            updates |= counts
            kinds |= set(found)
        arrays = {f"{name}/updates": np.array(count) for name, count in updates.items() if count}
        for share in self.shares:
            for kind in sorted(kinds):
                chunk = np.zeros(share.unit.chunk, share.unit.dtype)
                for piece, (key, parameter) in zip(share.places, share.pieces, strict=True):
                    state = self.optimizer.state.get(key, {}).get(kind, 0)
                    chunk[piece.place : piece.place + parameter.size] = state
                views = share.unit.views(self.comm.all_gather(chunk))
                arrays |= {f"{name}/{kind}": view for name, view in views.items() if updates[name]}
        return arrays

    def load_state_dict(self, arrays: Mapping[str, Array]) -> None:
        """Take from the state that one process would have what is this rank's."""
        if not self.zero:
            self.optimizer.load_state_dict(arrays)
            return
        shapes = {name: p.shape for share in self.shares for name, p in share.unit.named}
        for entry, array in arrays.items():
            name, _, kind = entry.rpartition("/")
            if name not in shapes or (kind != "updates" and array.shape != shapes[name]):
                raise ValueError(f"ZeRO: the optimizer's state {entry!r} of shape {array.shape} fits no parameter")
        state = {}
        for piece, key in self._pieces():
            for entry, array in arrays.items():
                name, _, kind = entry.rpartition("/")
                if name == piece.name:
                    whole = kind == "updates"
                    state[f"{key}/{kind}"] = array if whole else array.reshape(-1)[piece.start : piece.stop]
        self.optimizer.load_state_dict(state)

    def _pieces(self) -> Iterator[tuple[Piece, str]]:
        """The pieces that this rank updates, with the names by which its optimizer knows them."""
        for share in self.shares:
            for piece, (key, _) in zip(share.places, share.pieces, strict=True):
                yield piece, key

    def held(self) -> dict[str, int]:
        """Bytes of this rank's parameters and optimizer state, and the most that sums of gradients took in the last
        step, without those on their way. As sums are made two and two, more than two parts of a rank's own leave more
        than one of them, at most one for each power of two."""
        parameters = [p.data for share in self.shares for p in share.parameters if self.zero < 3]
        weights = [*parameters, *(share.chunk for share in self.shares if share.chunk is not None)]
        state = [array for kinds in self.optimizer.state.values() for array in kinds.values()]
        return {
            "parameters": sum(array.nbytes for array in weights),
            "gradients": self._most,
            "optimizer": sum(array.nbytes for array in state),
        }

    # ---- what all ranks do alike

    @property
    def leads(self) -> bool:
        """Whether this rank shows progress and writes files."""
        return self.comm.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on some rank."""
        return any(self.comm.gather_objects(bool(flag)))

    def told(self, value: Any) -> Any:
        """The value of the rank that leads."""
        return self.comm.gather_objects(value if self.leads else None)[0]

    # ---- gradients, as they become known

    def _hook(self, block: Module, share: Share) -> None:
        """Have the block tell in backward that its gradients are there; in stage 3 it also has its weights fetched."""
        forward = block.forward

        def hooked(x: Tensor, *inputs: Any, **options: Any) -> Any:
            if not grad_enabled():
                return self._with_weights(share, lambda x: forward(x, *inputs, **options), x)
            if share in self._entered:  # the gradients of a second pass would come when the first one's are taken
                raise RanksError("--dp: this training goes through the model more than once for a loss; give --dp 1")
            self._entered.append(share)
            x = passing(x, lambda: self._take(share))
            if self.zero < 3:
                return forward(x, *inputs, **options)
            return checkpoint(lambda x: self._with_weights(share, lambda y: forward(y, *inputs, **options), x), x)

        block.forward = hooked  # type: ignore[method-assign]
        self._hooked.append(block)

    def _with_weights(self, share: Share, function: Callable[[Tensor], Any], x: Tensor) -> Any:
        """``function(x)`` with the weights of a block, which this rank has only a part of in stage 3."""
        absent = self.zero == 3 and share.parameters[0].data.strides == (0,) * share.parameters[0].ndim
        if not absent:
            return function(x)
        share.set_weights(self._gathered(share))
        try:
            return function(x)
        finally:
            share.forget_weights()

    def _gathered(self, share: Share) -> Array:
        assert share.chunk is not None
        return self.comm.all_gather(share.chunk)

    def _take(self, share: Share) -> None:
        """All gradients of a unit are there, for this part: send them off when no more will come."""
        if share not in self._waiting:
            return
        self._waiting.remove(share)
        gradients = share.take()
        if self.zero < 2:
            share.sums.add(gradients)
            self._measure()
            gradients = share.sums.finish() if self._last_part else []
        if gradients:
            start = self.comm.start_reduce_scatter if self.zero else self.comm.start_all_reduce
            self._pending.append((share, start(share.flat(gradients))))
        while len(self._pending) > MOST_PENDING or (self._pending and self._pending[0][1].done()):
            self._receive()
        self.comm.progress()

    def _receive(self) -> None:
        """Wait for the first sum that is on its way."""
        share, pending = self._pending.pop(0)
        share.sums.add([pending.wait()])
        self._measure()

    def _measure(self) -> None:
        self._most = max(self._most, sum(share.sums.nbytes for share in self.shares))

    def _finish(self) -> None:
        """Leave the sums over all parts as gradients of what the optimizer updates."""
        while self._pending:
            self._receive()
        used = [any(flags) for flags in zip(*self.comm.gather_objects(self._used()), strict=True)]
        for share in self.shares:
            (flat,) = share.sums.finish()
            assert flat is not None
            here = dict(zip((name for name, _ in share.unit.named), used[: len(share.used)], strict=True))
            used = used[len(share.used) :]
            share.used = [False] * len(share.used)
            if self.zero:
                for piece, (_, parameter) in zip(share.places, share.pieces, strict=True):
                    part = flat[piece.place : piece.place + parameter.size]
                    parameter.grad = part if here[piece.name] else None
            else:
                for (name, parameter), view in zip(share.unit.named, share.unit.views(flat).values(), strict=True):
                    parameter.grad = view if here[name] else None

    def _used(self) -> list[bool]:
        """Of every parameter, whether a part here had a gradient of it."""
        return [used for share in self.shares for used in share.used]
