"""How a run is shared out among ranks. Its results do not depend on it, so it is no setting of the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console

from tinygrad_llm.nn import Module
from tinygrad_llm.optim import Optimizer
from tinygrad_llm.parallel.communicator import Communicator, Solo
from tinygrad_llm.parallel.data_parallel import DataRanks
from tinygrad_llm.parallel.mesh import Mesh, RanksError
from tinygrad_llm.parallel.ranks import OneProcess, Ranks
from tinygrad_llm.parallel.sharing import Named

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class ParallelOptions:
    """How a run is shared out among the processes that mpiexec starts. The result is the same as that of one."""

    dp: int = 1
    """Processes that share out the passes of each step; --accumulate must be a multiple of it."""
    zero: int = 0
    """What these do not hold all of: 1 the optimizer's state, 2 the gradients too, 3 the weights too (ZeRO)."""


class Crew:
    """The processes of a run: one, or those that mpiexec has started."""

    def __init__(self, options: ParallelOptions = ParallelOptions(), world: Communicator | None = None) -> None:
        self.options = options
        if world is not None and world.size > options.dp:
            raise RanksError(
                f"mpiexec has started {world.size} processes, and --dp {options.dp} uses {options.dp}: "
                f"give --dp {world.size}, or start fewer"
            )
        self.mesh = Mesh(dp=options.dp, world=world or Solo())

    @property
    def leads(self) -> bool:
        """Whether this one shows progress and writes files."""
        return self.mesh.rank == 0

    def told(self, prepare: Callable[[], Value]) -> Value:
        """What the one that leads has prepared, before the others go on: something that JSON can say."""
        told: list[Value] = self.mesh.world.gather_objects(prepare() if self.leads else None)
        return told[0]

    def console(self, console: Console) -> Console:
        """Where to tell what all know: one of them does."""
        return console if self.leads else Console(quiet=True)

    def ranks(self, model: Module, make_optimizer: Callable[[list[Named]], Optimizer]) -> Ranks:
        """Who computes the steps of training the model."""
        if self.mesh.size == 1:
            return OneProcess(make_optimizer([(n, p) for n, p in model.named_parameters() if p.requires_grad]))
        return DataRanks(self.mesh.dp, model, make_optimizer, self.options.zero)
