"""The training loop: one for pre-training and everything after it.

What differs between kinds of training is a `Task`: where batches come from, what the loss is, how it is measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from tinygrad_llm import random
from tinygrad_llm.memory import keep_freed_memory
from tinygrad_llm.nn import Module
from tinygrad_llm.optim import clip_factor
from tinygrad_llm.optim.optimizer import exact_sum
from tinygrad_llm.parallel.ranks import Ranks
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.training.checkpoints import Saver, save_checkpoint
from tinygrad_llm.training.loop_config import LoopConfig
from tinygrad_llm.training.metrics import BestMeasurement, Metrics, plot_loss, read_metrics, write_samples
from tinygrad_llm.training.progress import Progress
from tinygrad_llm.training.signals import StopRequest


@dataclass(frozen=True)
class Batch:
    """What one forward pass is given, and over how many targets its loss is a sum."""

    arrays: tuple[Any, ...]
    targets: int


class Task(Protocol):
    """One kind of training."""

    unit: str
    """What a batch counts as targets, in the plural: tokens, texts ..."""

    def batch(self, step: int, part: int) -> Batch:
        """The `part`-th batch of `step`; the same whenever it is asked for."""

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """The loss summed over the batch's targets."""

    def validate(self, model: Any) -> dict[str, float]:
        """Measurements on held-out data, ``validation_loss`` (nats per target) among them."""

    def sample(self, model: Any) -> str:
        """A text that shows what the model does now."""


def training_step(model: Module, ranks: Ranks, task: Task, step: int, config: LoopConfig) -> tuple[float, float, int]:
    """One update; returns the mean loss, the gradient's norm before clipping, and the number of targets.

    Each part's summed loss is divided by the number of targets of all parts together. So the gradients that add up are
    those of the mean over one large batch, however it is divided, and whoever computes which part.
    """
    parts = ranks.parts(config.accumulate)
    batches = {part: task.batch(step, part) for part in parts}
    targets = ranks.total(batch.targets for batch in batches.values())

    def loss_of(part: int) -> Tensor:
        with random.scope(config.seed, "training step", step, part):
            return task.loss(model, batches[part]) * (1 / max(1, targets))

    loss = exact_sum(np.array(ranks.run(parts, loss_of)))
    norm = math.sqrt(exact_sum(ranks.squares()))
    if not (math.isfinite(loss) and math.isfinite(norm)):  # before the weights are touched
        raise FloatingPointError(
            f"step {step + 1}: the loss is {loss:.4g} and the gradient's norm {norm:.4g}; a lower --learning-rate "
            "or a longer --warmup usually helps (the last checkpoint is untouched)"
        )
    ranks.update(config.rate(step), clip_factor(norm, config.clip) if config.clip else 1.0)
    return loss, norm, targets


class Reached(NamedTuple):
    """Where training ended."""

    step: int
    """Completed steps."""
    done: bool
    """Whether all is done: every step, or as many as patience allowed."""
    best: BestMeasurement
    """The best measurement so far."""


def train(
    model: Module,
    saver: Saver,
    ranks: Ranks,
    task: Task,
    config: LoopConfig,
    run: Path,
    about: dict[str, Any],
    start: int,
    progress: Progress,
    stop: StopRequest,
) -> Reached:
    """Run steps `start` to the end, or until there is no more patience, or a stop is requested.

    Leaves checkpoints and metrics in the folder `run`, and the plot and the samples made from the metrics.
    """
    keep_freed_memory()
    metrics = Metrics(run / "metrics.jsonl", start) if ranks.leads else Metrics()
    best = BestMeasurement.of(ranks.told(read_metrics(run / "metrics.jsonl") if ranks.leads else None))
    step, tired, stopping = start, best.tired(config.patience), False
    try:
        while step < config.steps and not (tired or stopping):
            step += 1
            model.train()
            began = time.perf_counter()
            with np.errstate(all="ignore"):  # what is not finite is reported once, as an error
                loss, norm, targets = training_step(model, ranks, task, step - 1, config)
            seconds = time.perf_counter() - began
            rate = config.rate(step - 1)
            metrics.write(
                step=step, loss=loss, gradient_norm=norm, learning_rate=rate, tokens=targets, seconds=round(seconds, 6)
            )
            progress.step(step, loss, targets, seconds)
            last, improved = step == config.steps, False
            if last or _due(step, config.validate_every):
                measured = _led(ranks, lambda: task.validate(model.eval()))
                metrics.write(step=step, **measured)
                progress.validated(step, measured)
                improved = best.see(step, measured["validation_loss"])
                tired = best.tired(config.patience)
                if ranks.leads:
                    _show(run, task.unit)
            if last or tired or _due(step, config.sample_every):
                metrics.write(step=step, sample=_led(ranks, lambda: task.sample(model.eval())))
            stopping = ranks.any(stop.requested)
            ends = last or tired or stopping
            if ends or _due(step, config.checkpoint_every) or (config.best and improved):
                state, kept = ranks.state_dict(), best.step if config.best else 0
                with ranks.whole():
                    if ranks.leads:
                        save_checkpoint(run, step, saver, state, about, kept)
    finally:
        metrics.close()
    if ranks.leads:
        _show(run, task.unit)
    return Reached(step, step == config.steps or tired, best)


def _led(ranks: Ranks, measure: Callable[[], Any]) -> Any:
    """What one of the ranks measures with all of the weights, while the others wait."""
    with ranks.whole():
        return ranks.told(measure() if ranks.leads else None)


def _show(run: Path, unit: str) -> None:
    """Make the plot and the samples file from the metrics."""
    rows = read_metrics(run / "metrics.jsonl")
    plot_loss(rows, run / "loss.png", unit.removesuffix("s"))
    write_samples(rows, run / "sample.txt")


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
