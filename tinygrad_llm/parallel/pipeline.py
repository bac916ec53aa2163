"""Pipeline parallel training: each rank has some layers, and microbatches go through them one behind the other.

The parts of a step are the microbatches. What a rank does in which order says a schedule (see `schedules`), whatever
that is, gradients of microbatches are added up in their order, by the tree in `optim.pairwise`: so all schedules give
the bits of one process. Data parallel ranks, each with a pipeline of its own, add theirs up afterwards.

A head that is the token embedding again stands at both ends. The first stage has it; the last has a copy, sends the
gradient of each microbatch to the first, which adds its own as one process does, and gets the new values back.
"""

from __future__ import annotations

import contextlib
import math
import platform
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_llm.nn import Module, Parameter
from tinygrad_llm.optim.optimizer import squares_of
from tinygrad_llm.optim.pairwise import added
from tinygrad_llm.parallel.data_parallel import MakeOptimizer, Share
from tinygrad_llm.parallel.gantt import write_trace
from tinygrad_llm.parallel.mesh import Mesh, RanksError
from tinygrad_llm.parallel.ranks import LossOf, joined
from tinygrad_llm.parallel.schedules import Op, rank_of, schedule, with_comms
from tinygrad_llm.parallel.simulation import Span
from tinygrad_llm.parallel.stages import TABLE_TAG, Execution, head_tag, staged
from tinygrad_llm.parallel.waiting import Handle
from tinygrad_llm.tape import Array


class PipelineRanks:
    """The ranks of the axes pp and dp of a mesh (see `Ranks`). `trace` is where to write when the last step did what.

    A rank keeps the weights of its own stages only. `sequence` says that the ranks along tp share out what goes from
    stage to stage by positions.
    """

    def __init__(
        self,
        mesh: Mesh,
        model: Module,
        make_optimizer: MakeOptimizer,
        pipeline: str = "1f1b",
        chunks: int = 1,
        trace: Path | None = None,
        sequence: bool = False,
    ) -> None:
        self.positions = mesh.tp if sequence else None
        self.world, self.pp, self.dp = mesh.world, mesh.pp, mesh.dp
        self.pipeline, self.chunks, self.trace = pipeline, chunks, trace
        self.stages = self.pp.size * chunks
        self.model, named = staged(model, self.stages)
        self.owners = [(rank_of(stage, self.pp.size), n, p) for stage, pairs in enumerate(named) for n, p in pairs]
        table = self.model.token_embedding.weight
        self.table = table if self.model.lm_head is None else None
        """What first and last stage share."""
        own = {s: pairs for s, pairs in enumerate(named) if rank_of(s, self.pp.size) == self.pp.rank}
        self.has_first, self.has_last = self.pp.rank == 0, self.pp.rank == self.pp.size - 1
        self.shares = {
            s: Share([pair for pair in pairs if pair[1] is not self.table], self.dp, 0) for s, pairs in own.items()
        }
        self.ends: Share | None = None
        """The table at the first stage."""
        if self.table is not None and self.has_first:
            self.ends = Share([pair for pair in own[0] if pair[1] is self.table], self.dp, 0)
        self.optimizer = make_optimizer([pair for pairs in own.values() for pair in pairs])
        self._held = {id(p) for pairs in own.values() for _, p in pairs}
        if self.has_last and self.table is not None:
            self._held.add(id(self.table))
        self._arriving: list[tuple[Handle, Array | None]] = []
        self._sent: list[Handle] = []
        self._spans: list[tuple[str, float, float]] = []
        self._forget()

    # ---- what `Ranks` asks for

    def parts(self, count: int) -> Sequence[int]:
        rank, size = self.dp.rank, self.dp.size
        if count % size:
            raise RanksError(
                f"--dp {size}: the {count} passes of a step cannot be shared out evenly; "
                f"let --accumulate be a multiple of {size}"
            )
        if self.pipeline == "interleaved" and count // size % self.pp.size:
            raise RanksError(
                f"--pipeline interleaved: {count // size} passes of a step are not a multiple of --pp {self.pp.size}, "
                f"in whose groups they go through the chunks; let --accumulate be a multiple of {size * self.pp.size}"
            )
        return range(rank * count // size, (rank + 1) * count // size)

    def total(self, values: Iterable[int]) -> int:
        return sum(self.dp.gather_objects(sum(values)))

    def run(self, parts: Sequence[int], loss_of: LossOf) -> list[float]:
        self.optimizer.zero_grad()
        if self.table is not None:
            self.table.grad = None
        ops = with_comms(schedule(self.pipeline, self.pp.size, len(parts), self.chunks))[self.pp.rank]
        parameters = {stage: list(self._trained(stage)) for stage in self.shares}
        execution = Execution(self.pp, self.model, self.stages, parameters, parts, loss_of, self._take, self.positions)
        begin = self._begin() if self.trace is not None else 0.0
        losses = execution.run(ops)
        self._spans = [(str(op), start - begin, end - begin) for op, start, end in execution.times]
        self._finish()
        losses = [loss for found in self.pp.gather_objects(losses) for loss in found]
        return [loss for found in self.dp.gather_objects(losses) for loss in found]

    def squares(self, left_out: Collection[str] = ()) -> Array:
        """Every parameter counts once, at its owner; the ranks along dp have the same."""
        own = squares_of(p for name, p in self.optimizer.parameters.items() if name not in left_out)
        return joined(self.pp, own)

    def update(self, rate: float, scale: float) -> None:
        self.optimizer.step(rate, scale)
        if self.table is not None and self.has_first:
            self.pp.send(self.table.data, self.pp.size - 1, TABLE_TAG, "token embedding")
        elif self.table is not None and self.has_last:
            shape, dtype = self.table.shape, self.table.dtype
            self.table.data[...] = self.pp.receive(shape, dtype, 0, TABLE_TAG, "token embedding")

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Within it, every rank has all weights; what is written to them stays."""
        self._gather()
        try:
            yield
        finally:
            self._forget()

    def disband(self) -> None:
        """Training is over: leave the whole model with every rank, to be used without the others."""
        self._gather()
        if self.trace is not None:
            rows = self.pp.gather_objects(self._spans)
            spans = [Span(rank, Op.parse(op), *times) for rank, found in enumerate(rows) for op, *times in found]
            if self.leads and spans:
                write_trace(self.trace, spans)

    def state_dict(self) -> dict[str, Array]:
        """The optimizer's state, as one process would have it; every rank must ask."""
        own = self.optimizer.state_dict()
        told = self.pp.gather_objects([[name, list(a.shape), a.dtype.str] for name, a in own.items()])
        return {
            name: self.pp.broadcast(own[name] if owner == self.pp.rank else np.empty(shape, dtype), owner, name)
            for owner, entries in enumerate(told)
            for name, shape, dtype in entries
        }

    def load_state_dict(self, arrays: Mapping[str, Array]) -> None:
        """Take from the state that one process would have what is this rank's."""
        elsewhere = {name for owner, name, _ in self.owners if owner != self.pp.rank}
        self.optimizer.load_state_dict({k: a for k, a in arrays.items() if k.rpartition("/")[0] not in elsewhere})

    @property
    def leads(self) -> bool:
        """Whether this rank shows progress and writes files."""
        return self.world.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on some rank."""
        return any(self.world.gather_objects(bool(flag)))

    def told(self, value: Any) -> Any:
        """The value of the rank that leads."""
        return self.world.gather_objects(value if self.leads else None)[0]

    # ---- weights

    def _gather(self) -> None:
        """Get the weights of all stages."""
        for owner, name, parameter in self.owners:
            data = parameter.data if owner == self.pp.rank else np.empty(parameter.shape, parameter.dtype)
            got = self.pp.broadcast(data, owner, name)
            if id(parameter) not in self._held:
                parameter.data = got

    def _forget(self) -> None:
        """Leave the parameters of other stages without their values: NaN, which takes no memory, and which no result
        hides."""
        for _, _, parameter in self.owners:
            if id(parameter) not in self._held:
                parameter.data = np.broadcast_to(parameter.dtype.type(math.nan), parameter.shape)

    def _begin(self) -> float:
        """When this step begins, by this rank's clock: after a barrier, and on one machine the same for all."""
        self.world.barrier("trace")
        found = self.pp.gather_objects([platform.node(), time.monotonic()])
        return float(next(clock for machine, clock in found if machine == platform.node()))

    # ---- gradients

    def _trained(self, stage: int) -> Iterator[Parameter]:
        """The parameters that get gradients at a stage."""
        yield from self.shares[stage].parameters
        if self.table is not None and stage in (0, self.stages - 1):
            yield self.table

    def _take(self, stage: int, microbatch: int) -> None:
        """Add up the gradients of a microbatch."""
        share, last = self.shares[stage], self.pp.size - 1
        share.sums.add(share.take())
        if self.table is None or stage not in (0, self.stages - 1):
            return
        label = f"head, microbatch {microbatch}"
        if self.ends is None:
            gradient, self.table.grad = self.table.grad, None
            gradient = np.zeros(self.table.shape, self.table.dtype) if gradient is None else gradient
            self._sent.append(self.pp.start_send(gradient, 0, head_tag(microbatch), label))
            return
        (own,) = self.ends.take()
        handle = self.pp.start_receive(self.table.shape, self.table.dtype, last, head_tag(microbatch), label)
        self._arriving.append((handle, own))
        while self._arriving and self._arriving[0][0].done():
            self._join_ends()

    def _join_ends(self) -> None:
        """Add the head's gradient of a microbatch and the embedding's."""
        assert self.ends is not None
        handle, own = self._arriving.pop(0)
        self.ends.sums.add(added([handle.wait()], [own]))

    def _finish(self) -> None:
        """Leave the sums over all parts as gradients of what the optimizer updates."""
        while self._arriving:
            self._join_ends()
        for handle in self._sent:
            handle.wait()
        self._sent = []
        shares = [*self.shares.values(), *([] if self.ends is None else [self.ends])]
        flats = [self.dp.start_all_reduce(share.flat(share.sums.finish()), "gradients") for share in shares]
        flags = self.dp.gather_objects([share.used for share in shares])
        for number, (share, flat) in enumerate(zip(shares, flats, strict=True)):
            used = [any(found) for found in zip(*(each[number] for each in flags), strict=True)]
            views = share.unit.views(flat.wait()).values()
            for (_, parameter), view, is_used in zip(share.unit.named, views, used, strict=True):
                parameter.grad = view if is_used else None
            share.used = [False] * len(share.used)
