"""How a run is shared out among ranks. Its results do not depend on it, so it is no setting of the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from rich.console import Console

from tinygrad_llm.nn import Module
from tinygrad_llm.optim import Optimizer
from tinygrad_llm.parallel.communicator import Communicator, Solo
from tinygrad_llm.parallel.data_parallel import DataRanks
from tinygrad_llm.parallel.mesh import Mesh, RanksError
from tinygrad_llm.parallel.pipeline import PipelineRanks
from tinygrad_llm.parallel.ranks import OneProcess, Ranks
from tinygrad_llm.parallel.sharing import Named
from tinygrad_llm.parallel.tensor_ranks import TensorRanks

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class ParallelOptions:
    """How a run is shared out among the processes that mpiexec starts. The result is that of one, at least to the
    last digits (see `Crew.same_order`)."""

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
    tp: int = 1
    """Processes that share out every matrix of a GPT or Llama, by heads, channels and tokens."""
    sequence_parallel: bool = False
    """Let these share out also, by positions, what lies between the matrices."""
    trace: Path | None = None
    """Write here when the stages did what in the last step, for `tinygrad-llm schedule --trace`."""

    def check(self) -> None:
        """RanksError where options do not go together."""
        if self.zero not in (0, 1, 2, 3):
            raise RanksError(f"--zero {self.zero}: must be 0, 1, 2 or 3")
        if self.trace is not None and not self.trace.absolute().parent.is_dir():
            raise RanksError(f"--trace {self.trace}: there is no folder {self.trace.absolute().parent}")
        if self.pp > 1 and self.zero:
            raise RanksError(f"--zero {self.zero}: the ranks of a pipeline divide the layers; give --zero 0, or --pp 1")
        if self.trace is not None and self.pp == 1:
            raise RanksError("--trace: it is the stages of a pipeline that are traced; give --pp 2 or more")
        if self.sequence_parallel and self.tp == 1:
            raise RanksError("--sequence-parallel: it is the ranks of --tp that share out the positions; give --tp 2")
        if self.chunks < 1:
            raise RanksError(f"--chunks {self.chunks}: must be at least 1")


class Crew:
    """The processes of a run: one, or those that mpiexec has started."""

    def __init__(self, options: ParallelOptions = ParallelOptions(), world: Communicator | None = None) -> None:
        self.options = options
        options.check()
        others = {"pp": options.pp, "tp": options.tp}
        used = options.dp * math.prod(others.values())
        if world is not None and world.size > used:
            asked = f"--dp {options.dp}" + "".join(f" --{axis} {size}" for axis, size in others.items() if size > 1)
            raise RanksError(
                f"mpiexec has started {world.size} processes, and {asked} uses {used}: "
                f"give --dp {world.size * options.dp // used}, or start fewer"
            )
        if world is not None:
            _agree(world, asdict(options) | {"trace": str(options.trace)})
        self.mesh = Mesh(dp=options.dp, **others, world=world or Solo())

    @property
    def division(self) -> str:
        """What each does, in words."""
        options = self.options
        layers = f"has 1 of {options.pp} parts of the layers ({options.pipeline})" if options.pp > 1 else ""
        matrices = f"has 1 of {options.tp} parts of every matrix" if options.tp > 1 else ""
        passes = f"computes 1 of {options.dp} passes" if options.dp > 1 or not (layers or matrices) else ""
        return "of which each " + " and ".join(filter(None, (layers, matrices, passes)))

    def same_order(self, passes: int) -> bool:
        """Whether the gradients of so many passes of a step are added up as in one process: two and two, by their
        numbers. Each rank adds up those of its own first; or, with ZeRO 2 and 3, all add up one pass of each."""
        options = self.options
        first = options.dp if options.zero >= 2 and passes > options.dp else passes // options.dp
        return options.tp == 1 and first.bit_count() == 1

    @property
    def leads(self) -> bool:
        """Whether this one shows progress and writes files."""
        return self.mesh.rank == 0

    def told(self, prepare: Callable[[], Value]) -> Value:
        """What the one that leads has prepared, before the others go on: something that JSON can say."""
        world = self.mesh.world
        with world.engine.patiently():
            told: list[Value] = world.gather_objects(prepare() if self.leads else None)
        return told[0]

    def agree(self, known: Mapping[str, Any]) -> None:
        """RanksError if the ranks know different things: they would train different models, and not tell."""
        _agree(self.mesh.world, known)

    def console(self, console: Console) -> Console:
        """Where to tell what all know: one of them does."""
        return console if self.leads else Console(quiet=True)

    def ranks(self, model: Module, make_optimizer: Callable[[list[Named]], Optimizer]) -> Ranks:
        """Who computes the steps of training the model."""
        options, mesh = self.options, self.mesh

        def others(model: Module) -> Ranks:
            if options.pp > 1:
                chunks = options.chunks if options.pipeline == "interleaved" else 1
                shared = options.sequence_parallel
                return PipelineRanks(mesh, model, make_optimizer, options.pipeline, chunks, options.trace, shared)
            if options.dp > 1:
                return DataRanks(mesh.dp, model, make_optimizer, options.zero)
            return OneProcess(make_optimizer([(n, p) for n, p in model.named_parameters() if p.requires_grad]))

        return TensorRanks(mesh, model, others, options.sequence_parallel) if options.tp > 1 else others(model)


def _agree(world: Communicator, known: Mapping[str, Any]) -> None:
    told = world.gather_objects(dict(known))
    own = told[world.rank]
    for rank, other in enumerate(told):
        for name in own:
            if own[name] != other.get(name):
                raise RanksError(
                    f"{name} is {own[name]!r} on rank {world.rank} and {other.get(name)!r} on rank {rank}: "
                    "start all of them with the same command, files and settings"
                )
