"""The three experiments, one after the other."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from tinygrad_llm.study.architectures.distance import Reach, measure_reach
from tinygrad_llm.study.architectures.losses import (
    before_and_after,
    held_out_sequences,
    read_curve,
    train_all,
)
from tinygrad_llm.study.architectures.results import Comparison
from tinygrad_llm.study.architectures.settings import Settings
from tinygrad_llm.study.architectures.steps import time_steps
from tinygrad_llm.study.benchmarks.measuring import versions
from tinygrad_llm.study.machine import processor_name, processor_share
from tinygrad_llm.threads import thread_count
from tinygrad_llm.training import TrainConfig
from tinygrad_llm.training.progress import counting


def run_comparison(settings: Settings, folder: Path, console: Console) -> Comparison | int:
    """Train in the folder, time steps, follow gradients; an exit status if the training was stopped.

    What the folder holds of a comparison with the same settings is not done again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trainings = settings.trainings()
    had = processor_share()
    if (status := train_all(trainings, folder, console)) is not None:
        return status
    with counting(console, "timing steps") as progress:
        steps = time_steps(settings, trainings, progress)
    with counting(console, "following gradients") as progress:
        reaches = []
        for done, (kind, config) in enumerate(trainings.items()):
            progress(done, len(trainings))
            reaches += _reaches(folder / kind, kind, config, settings.sequences)
    return Comparison(
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
        processor=processor_name(),
        threads=thread_count(),
        had=min(had, processor_share()),
        settings=settings,
        curves={kind: read_curve(folder / kind, config) for kind, config in trainings.items()},
        steps=steps,
        reaches=tuple(reaches),
    )


def _reaches(run: Path, kind: str, config: TrainConfig, sequences: int) -> list[Reach]:
    ids = held_out_sequences(run, sequences, config.context)
    models = before_and_after(run, config)
    return [Reach(kind, trained, measure_reach(models[trained], ids)) for trained in (False, True)]
