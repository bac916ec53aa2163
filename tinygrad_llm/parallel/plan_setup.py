"""How a model that is planned is to be trained: mesh, batch, schedule, precision, and on what machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tinygrad_llm.parallel.mesh import RanksError
from tinygrad_llm.parallel.plan_models import ModelSizes
from tinygrad_llm.parallel.schedules import SCHEDULES, rank_of
from tinygrad_llm.parallel.stages import layers_of

Recompute = Literal["none", "selective", "full"]


@dataclass(frozen=True)
class Precision:
    """Bytes for each parameter, and for each number of an activation."""

    name: str
    parameter: int
    gradient: int
    optimizer: int
    activation: int


MIXED = Precision("mixed", 2, 2, 12, 2)
"""16-bit parameters, gradients and activations; the optimizer has a 32-bit copy and Adam's two moments: K = 12.
Rajbhandari et al. 2019, ZeRO, arXiv:1910.02054, section 3.1."""
FLOAT32 = Precision("float32", 4, 4, 8, 4)
"""32 bits for all, and Adam's two moments, which is how tinygrad_llm trains."""
PRECISIONS = {precision.name: precision for precision in (MIXED, FLOAT32)}


@dataclass(frozen=True)
class Setup:
    """How it is trained. A step has ``dp x microbatches x batch_size`` sequences of `time` tokens."""

    time: int
    dp: int = 1
    pp: int = 1
    tp: int = 1
    zero: int = 0
    microbatches: int = 1
    batch_size: int = 1
    """Sequences of a microbatch."""
    schedule: str = "1f1b"
    chunks: int = 1
    recompute: Recompute = "none"
    sequence_parallel: bool = True
    precision: Precision = MIXED

    @property
    def ranks(self) -> int:
        """All of them."""
        return self.dp * self.pp * self.tp

    @property
    def sequences(self) -> int:
        """Of a step."""
        return self.dp * self.microbatches * self.batch_size

    @property
    def tokens(self) -> int:
        """Of a microbatch."""
        return self.batch_size * self.time

    @property
    def recomputed(self) -> Recompute:
        """What of a layer is computed again. Our own ZeRO 3 does so with all of it: a layer's forward pass is done in
        backward once more, where its weights are there again. In a pipeline there is no ZeRO of ours."""
        own = self.precision == FLOAT32 and self.zero == 3 and self.dp > 1 and self.pp == 1
        return "full" if own else self.recompute

    @property
    def norm_shards(self) -> int:
        """Over how many ranks the activations between the matrices are shared out."""
        return self.tp if self.sequence_parallel else 1


def check(model: ModelSizes, setup: Setup) -> None:
    """ValueError, in one line, if the model cannot be trained so; RanksError if that is for ranks or schedule."""
    for name in ("time", "dp", "pp", "tp", "microbatches", "batch_size", "chunks"):
        if getattr(setup, name) < 1:
            raise RanksError(f"{name}={getattr(setup, name)} must be at least 1")
    if setup.zero not in range(4):
        raise RanksError(f"zero={setup.zero} must be 0, 1, 2 or 3")
    if setup.schedule not in SCHEDULES:
        raise RanksError(f"unknown schedule {setup.schedule!r}; known are {', '.join(SCHEDULES)}")
    kv_heads = model.kv_heads or model.heads
    if model.heads % setup.tp or kv_heads % setup.tp:
        raise RanksError(
            f"tp={setup.tp} does not divide the {model.heads} heads, {kv_heads} of them with keys and values"
        )
    if model.feed_forward % setup.tp:
        raise RanksError(f"tp={setup.tp} does not divide the {model.feed_forward} feed-forward channels")
    if model.layers < setup.pp * setup.chunks:
        chunks = f" x {setup.chunks} chunks" if setup.chunks > 1 else ""
        raise RanksError(
            f"pp={setup.pp}{chunks} needs as many layers, and {model.name or 'the model'} has {model.layers}"
        )
    if setup.chunks > 1 and setup.schedule != "interleaved":
        raise RanksError(f"{setup.schedule}: {setup.chunks} chunks on a rank; only interleaved has more than one")
    if setup.schedule == "interleaved" and setup.microbatches % setup.pp:
        raise RanksError(f"interleaved: {setup.microbatches} microbatches are not a multiple of pp={setup.pp}")
    if setup.time > model.context and model.positions:
        raise ValueError(
            f"{setup.time} tokens in a sequence, but {model.name or 'the model'} has {model.context} positions"
        )


def chunk_layers(model: ModelSizes, setup: Setup) -> list[int]:
    """Layers of each stage, in order, as the ranks of a pipeline share them out."""
    stages = setup.pp * setup.chunks
    return [len(layers_of(stage, stages, model.layers)) for stage in range(stages)]


def rank_layers(model: ModelSizes, setup: Setup, rank: int) -> int:
    """Layers on a rank of the pipeline."""
    return sum(n for stage, n in enumerate(chunk_layers(model, setup)) if rank_of(stage, setup.pp) == rank)


@dataclass(frozen=True)
class Machine:
    """What a rank has. Rates in a second; bytes; seconds."""

    flops: float
    """Floating-point operations that matrix products reach, not those that a data sheet promises."""
    link: float
    """Bytes that a rank can send to others."""
    memory: float
    """Bytes that a rank may hold."""
    latency: float = 5e-6
    """Seconds until the first byte arrives."""
    tp_link: float = 0.0
    """Bytes that a rank can send within its tensor-parallel group, which is one host; as `link` if 0."""
    bandwidth: float = 0.0
    """Bytes of its memory read or written; the optimizer's update takes no time if 0."""

    def send_seconds(self, axis: str, messages: float, size: float) -> float:
        """``latency x messages + bytes / rate``."""
        rate = self.tp_link if axis == "tp" and self.tp_link else self.link
        return self.latency * messages + size / rate
