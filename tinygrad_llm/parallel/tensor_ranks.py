"""Tensor parallel training: the ranks of the axis tp are together what one is to the other axes.

All of them compute the same parts of a step, each with its part of every matrix (see `tensor_parallel`). Whoever they
share the work with otherwise, along dp or pp, has the same parts of the matrices. Sums over a cut matrix are made in
another order than in one process, so results agree to rounding, and not bit for bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from tinygrad_llm.nn import Module
from tinygrad_llm.optim import Muon
from tinygrad_llm.parallel.mesh import Mesh, RanksError
from tinygrad_llm.parallel.ranks import LossOf, Ranks, joined
from tinygrad_llm.parallel.tensor_parallel import CutModel
from tinygrad_llm.tape import Array


class TensorRanks:
    """The ranks of a mesh whose axis tp has several (see `Ranks`). ``others(model)`` are those of the other axes."""

    def __init__(self, mesh: Mesh, model: Module, others: Callable[[Module], Ranks], sequence: bool) -> None:
        self.world, self.tp = mesh.world, mesh.tp
        replicated = {name for name, _ in model.named_parameters()}
        self.cut = CutModel(model, mesh.tp, sequence)
        self.others = others(model)
        if isinstance(getattr(self.others, "optimizer", None), Muon):
            raise RanksError(f"--tp {mesh.tp.size}: muon updates whole matrices; take --optimizer adamw, or --tp 1")
        self.replicated = replicated - set(self.cut.parts)

    def parts(self, count: int) -> Sequence[int]:
        return self.others.parts(count)

    def total(self, values: Iterable[int]) -> int:
        return self.others.total(values)

    def run(self, parts: Sequence[int], loss_of: LossOf) -> list[float]:
        return self.others.run(parts, loss_of)

    def squares(self, left_out: Collection[str] = ()) -> Array:
        """Those of replicated parameters count on one rank only."""
        own = self.others.squares({*left_out, *self.replicated} if self.tp.rank else left_out)
        return joined(self.tp, own)

    def update(self, rate: float, scale: float) -> None:
        self.others.update(rate, scale)

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Within it, every rank has all weights; what is written to them stays."""
        with self.others.whole():
            self.cut.take_out()
            try:
                yield
            finally:
                self.cut.keep()
                self.cut.put_in()

    def disband(self) -> None:
        """Training is over: leave the whole model with every rank, to be used without the others."""
        self.others.disband()
        self.cut.take_out()

    def state_dict(self) -> dict[str, Array]:
        """The optimizer's state, as one process would have it; every rank must ask."""
        return {entry: self._of(entry, array, whole=True) for entry, array in self.others.state_dict().items()}

    def load_state_dict(self, arrays: Mapping[str, Array]) -> None:
        """Take from the state that one process would have what is this rank's."""
        self.others.load_state_dict({entry: self._of(entry, array, whole=False) for entry, array in arrays.items()})

    def _of(self, entry: str, array: Array, whole: bool) -> Array:
        """A parameter's state, joined to the whole or cut, as the parameter is."""
        parameter, part, how = self.cut.parts.get(entry.rpartition("/")[0], (None, None, None))
        if how is None or parameter is None or part is None or not array.ndim:
            return array
        given = part.shape if whole else parameter.shape
        if array.shape != given:
            raise ValueError(f"--tp: the optimizer's state {entry!r} has shape {array.shape}, and not {given}")
        return how.join(array, self.tp) if whole else how.part(array, self.tp)

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
