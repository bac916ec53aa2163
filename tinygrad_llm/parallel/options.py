"""How a run is shared out among ranks. Its results do not depend on it, so it is no setting of the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from rich.console import Console

from tinygrad_llm.nn import Module
from tinygrad_llm.optim import Optimizer
from tinygrad_llm.parallel.communicator import Communicator, Solo
from tinygrad_llm.parallel.data_parallel import DataRanks
from tinygrad_llm.parallel.mesh import Mesh, RanksError
from tinygrad_llm.parallel.pipeline import PipelineRanks
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
    pp: int = 1
    """Processes that share out the layers, one stage each, through which the passes of a step go one behind another."""
    pipeline: Literal["gpipe", "1f1b", "interleaved", "zb-h1"] = "1f1b"
    """The schedule of these; `tinygrad-llm schedule` draws it."""
    chunks: int = 2
    """Stages on each of them, for --pipeline interleaved."""
    trace: Path | None = None
    """Write here when the stages did what in the last step, for `tinygrad-llm schedule --trace`."""

    def check(self) -> None:
        """RanksError where options do not go together."""
        if self.pp > 1 and self.zero:
            raise RanksError(f"--zero {self.zero}: the ranks of a pipeline divide the layers; give --zero 0, or --pp 1")
        if self.trace is not None and self.pp == 1:
            raise RanksError("--trace: it is the stages of a pipeline that are traced; give --pp 2 or more")
        if self.chunks < 1:
            raise RanksError(f"--chunks {self.chunks}: must be at least 1")


class Crew:
    """The processes of a run: one, or those that mpiexec has started."""

    def __init__(self, options: ParallelOptions = ParallelOptions(), world: Communicator | None = None) -> None:
        self.options = options
        options.check()
        used, asked = options.dp * options.pp, f"--dp {options.dp}" + (f" --pp {options.pp}" if options.pp > 1 else "")
        if world is not None and world.size > used:
            raise RanksError(
                f"mpiexec has started {world.size} processes, and {asked} uses {used}: "
                + (f"give --dp {world.size // options.pp}, or start fewer")
            )
        self.mesh = Mesh(dp=options.dp, pp=options.pp, world=world or Solo())

    @property
    def division(self) -> str:
        """What each does, in words."""
        options = self.options
        layers = f"has 1 of {options.pp} parts of the layers ({options.pipeline})" if options.pp > 1 else ""
        passes = f"computes 1 of {options.dp} passes" if options.dp > 1 or not layers else ""
        return "of which each " + " and ".join(filter(None, (layers, passes)))

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
        if self.options.pp > 1:
            chunks = self.options.chunks if self.options.pipeline == "interleaved" else 1
            return PipelineRanks(self.mesh, model, make_optimizer, self.options.pipeline, chunks, self.options.trace)
        return DataRanks(self.mesh.dp, model, make_optimizer, self.options.zero)
