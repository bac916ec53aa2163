"""Loss against tokens and against time: every architecture trained by the ordinary training, and its metrics read."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from tinygrad_llm.models import Decoder, new_model
from tinygrad_llm.tape import Array
from tinygrad_llm.training import TrainConfig, load_run, pretrain
from tinygrad_llm.training.architectures import model_config
from tinygrad_llm.training.metrics import read_metrics
from tinygrad_llm.training.runs import RunFiles


@dataclass(frozen=True)
class Curve:
    """A training: after so many `tokens` and `seconds` of training steps, the held-out loss in nats for each token."""

    parameters: int
    channels: int
    layers: int
    learning_rate: float
    tokens: tuple[int, ...]
    seconds: tuple[float, ...]
    losses: tuple[float, ...]

    def seconds_until(self, loss: float) -> float | None:
        """Seconds until the held-out loss was at most that, between measurements along a line; None if it never was."""
        for now, reached in enumerate(self.losses):
            if reached <= loss:
                if now == 0 or reached == loss:
                    return self.seconds[now]
                share = (self.losses[now - 1] - loss) / (self.losses[now - 1] - reached)
                return self.seconds[now - 1] + share * (self.seconds[now] - self.seconds[now - 1])
        return None


def train_all(trainings: Mapping[str, TrainConfig], folder: Path, console: Console) -> int | None:
    """Train each model in a folder of its name, or go on with what is there; the exit status if it was stopped.

    Raises ValueError for a run that is there with other settings.
    """
    for kind, config in trainings.items():
        _check_same(folder / kind, config)
    for number, (kind, config) in enumerate(trainings.items(), 1):
        run = folder / kind
        if finished(run, config):
            console.print(f"{run}: is trained already")
            continue
        console.print(f"{number} of {len(trainings)}: training {kind}")
        _warm(config)
        status = pretrain(config, run, RunFiles(run).config.exists(), console, vars(config), brief=True)
        if status or not finished(run, config):
            console.print("the same tinygrad-llm compare goes on from here, with what is trained already")
            return status
    return None


def _check_same(run: Path, config: TrainConfig) -> None:
    """ValueError if the run has begun with other settings."""
    file = RunFiles(run).config
    if file.exists() and TrainConfig.load(file) != config:
        raise ValueError(f"{run}: a run with other settings; choose another --out, or remove it")


def finished(run: Path, config: TrainConfig) -> bool:
    """Whether the run has all of its steps."""
    metrics = run / "metrics.jsonl"
    saved = (run / "checkpoints" / f"step-{config.steps:08d}").is_dir()  # what is written last
    return saved and any(row["step"] == config.steps for row in read_metrics(metrics))


def _warm(config: TrainConfig) -> None:
    """Load or compile the kernels: what comes once is no part of the time that a training step takes."""
    model = new_model(model_config(config, config.vocab_size))
    assert isinstance(model, Decoder)
    ids = np.zeros((config.batch_size, config.context), np.int64)
    model.loss(ids, ids).backward()


def read_curve(run: Path, config: TrainConfig) -> Curve:
    """The curve of a run that is finished. Time is that of the steps alone, without measuring and saving."""
    rows = read_metrics(run / "metrics.jsonl")
    steps = {row["step"]: row for row in rows if "seconds" in row}
    measured = {row["step"]: row["validation_loss"] for row in rows if "validation_loss" in row}
    tokens = dict(zip(steps, itertools.accumulate(row["tokens"] for row in steps.values()), strict=True))
    usual = statistics.median(row["seconds"] for row in steps.values())
    # the first step of a process also makes the optimiser's arrays and kernels: it counts as a usual one
    times = [usual if step == 1 else row["seconds"] for step, row in steps.items()]
    seconds = dict(zip(steps, itertools.accumulate(times), strict=True))
    model, _ = load_run(run)
    return Curve(
        parameters=model.parameter_count(),
        channels=config.channels,
        layers=config.layers,
        learning_rate=config.learning_rate,
        tokens=tuple(tokens[step] for step in measured),
        seconds=tuple(seconds[step] for step in measured),
        losses=tuple(measured.values()),
    )


def before_and_after(run: Path, config: TrainConfig) -> tuple[Decoder, Decoder]:
    """The model as it was at the start of the run, and as it is now."""
    trained, tokenizer = load_run(run)
    untrained = new_model(model_config(config, tokenizer.vocab_size), config.seed)
    assert isinstance(untrained, Decoder)
    return untrained, trained


def held_out_sequences(run: Path, count: int, length: int) -> Array:
    """Up to `count` sequences (B, T + 1) of held-out text, spread over all of it."""
    ids = np.asarray(RunFiles(run).load()[2].ids)
    count = min(count, len(ids) // (length + 1))
    starts = np.linspace(0, len(ids) - length - 1, count).astype(np.int64)
    return ids[starts[:, None] + np.arange(length + 1)].astype(np.int64)
