"""A run in its folder: one process at a time, with the settings that hold, taken up where it was left.

Pre-training and fine-tuning differ in what they prepare; from then on they go on here.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Collection, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from filelock import FileLock, Timeout
from rich.console import Console

from tinygrad_llm.models.pretrained import Pretrained
from tinygrad_llm.nn import Module, Parameter
from tinygrad_llm.optim import SGD, Adam, AdamW, Muon, Optimizer
from tinygrad_llm.parallel.options import Crew
from tinygrad_llm.parallel.ranks import Ranks
from tinygrad_llm.training.checkpoints import Saver, folder_of, load_checkpoint, publish, verify
from tinygrad_llm.training.loop import Task, train
from tinygrad_llm.training.loop_config import LoopConfig
from tinygrad_llm.training.metrics import past_losses
from tinygrad_llm.training.progress import Progress
from tinygrad_llm.training.runs import RunFiles
from tinygrad_llm.training.signals import StopRequest

Config = TypeVar("Config", bound=LoopConfig)


@contextlib.contextmanager
def run_folder(run: Path, command: str, console: Console, crew: Crew) -> Iterator[None]:
    """Within it, the folder `run` is there and this crew's alone. `command` is what resumes the run after Ctrl-C."""
    if not crew.leads:
        yield
        return
    if run.is_file():
        raise ValueError(f"{run}: is a file; --out needs a folder")
    is_new = not run.exists()
    run.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{run}: another process is training in this folder") from None
    try:
        yield
    except KeyboardInterrupt:
        if RunFiles(run).config.exists():
            console.print(how_to_go_on(run, command))
        raise
    finally:
        lock.release()
        if is_new and not RunFiles(run).config.exists():  # nothing came of it, as the text could not be used
            (run / ".lock").unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                run.rmdir()


def how_to_go_on(run: Path, command: str) -> str:
    return f"To go on:\n  tinygrad-llm {command} --resume --out {shlex.quote(str(run))}"


def settled(config: Config, run: Path, resume: bool, given: Collection[str] | None, console: Console) -> Config:
    """The settings that hold: those asked for, or those of the run that is taken up.

    `given` names the settings that were asked for, where some are left to a run that is resumed.
    """
    file = RunFiles(run).config
    if not file.exists():
        if any(not path.name.startswith(".") for path in run.iterdir()):
            raise ValueError(f"{run}: a folder that is not empty and holds no run; choose another --out")
        if resume and given is not None and not set(given) - {"resume", "out"}:
            raise ValueError(f"{run}: there is no run to resume; to begin one, give the whole command again")
        if resume:
            console.print(f"{run}: there is no run to resume yet; this begins one")
        return config
    if not resume:
        raise ValueError(f"{run}: there is a run already; continue it with --resume, or choose another --out")
    for leftover in run.glob(".*.tmp"):  # of a process that was killed while it wrote
        leftover.unlink()
    saved = type(config).load(file)
    try:
        return saved.resumed_with(config, given)
    except ValueError as error:
        raise ValueError(f"{run}: {error}") from error


def make_optimizer(config: LoopConfig, named: list[tuple[str, Parameter]]) -> Optimizer:
    """The optimiser that the settings ask for, of these parameters."""
    rate, decay = config.rate(0), config.weight_decay
    match config.optimizer:
        case "sgd":
            return SGD(named, rate, momentum=0.9, weight_decay=decay)
        case "adam":
            return Adam(named, rate)
        case "muon":
            return Muon(named, rate, weight_decay=decay)
    return AdamW(named, rate, weight_decay=decay)


def ready(crew: Crew, model: Module, config: LoopConfig) -> Ranks:
    """Who computes the steps. RanksError or ValueError if they cannot, as the settings are."""
    ranks = crew.ranks(model, lambda named: make_optimizer(config, named))
    ranks.parts(config.accumulate)
    return ranks


class Trained(NamedTuple):
    """How a run ended."""

    done: bool
    status: int
    """The exit status, if it was stopped."""


def run_task(
    run: Path,
    model: Pretrained,
    saver: Saver,
    task: Task,
    config: LoopConfig,
    about: dict[str, Any],
    command: str,
    console: Console,
    crew: Crew,
) -> Trained:
    """Train from the last checkpoint in `run`, or from the beginning, to the end or a stop, and say so.

    Then the model is the run's: the last one, or the best if the settings want that. `about` are digests of what the
    run was trained with; ValueError if its checkpoints know others.
    """
    trained, total = sum(p.size for p in model.parameters() if p.requires_grad), model.parameter_count()
    crew.agree(about | asdict(config))
    ranks = ready(crew, model, config)
    state = load_checkpoint(run, saver, ranks, lambda message: console.print(f"warning: {message}"))
    start = 0 if state is None else int(state["step"])
    if state is not None and any(state.get(name) != digest for name, digest in about.items()):
        raise ValueError(f"{run}: its tokenizer or its text is not the one that its checkpoints were trained with")
    if start > config.steps:
        raise ValueError(f"{run}: {start} steps are done already; --steps {config.steps} would be fewer")
    if crew.leads:
        config.save(RunFiles(run).config)
    part = "" if trained == total else f", of which {trained:,} are trained"
    went_on = f", continued after step {start}" if start else ""
    console.print(f"model       {type(model).__name__}, {total:,} parameters{part}{went_on}")
    if crew.mesh.size > 1:
        order = "" if crew.same_order(config.accumulate) else "; sums are made in another order than in one process"
        console.print(f"ranks       {crew.mesh.size}, {crew.division}{order}")
    losses = past_losses(run / "metrics.jsonl", start) if crew.leads else []
    with StopRequest() as stop, Progress(console, start, config.steps, losses, task.unit) as progress:
        reached = train(model, saver, ranks, task, config, run, about, start, progress, stop)
        status = max(crew.mesh.world.gather_objects(stop.status))  # who does not write waits here for who does
    if not reached.done:
        text = f"stopped after step {reached.step} of {config.steps}; nothing is lost. "
        console.print(text + how_to_go_on(run, command))
        return Trained(False, status)
    if reached.step < config.steps:
        console.print(f"stopped after step {reached.step}, as {reached.best.since} measurements gave no better one")
    ranks.disband()
    if config.best:
        _take_best(run, reached.best.step, saver, console, crew.leads)
    model.eval()
    return Trained(True, 0)


def _take_best(run: Path, step: int, saver: Saver, console: Console, leads: bool) -> None:
    """Make the weights after `step` the model's and the run's, if their checkpoint is sound."""
    folder = folder_of(run, step)
    try:
        verify(folder)
    except ValueError as error:
        console.print(f"warning: the best weights, {folder.name}, cannot be read, and the last are taken: {error}")
        return
    saver.load(folder)
    if leads:
        publish(run, folder, saver)
    console.print(f"kept        the weights after step {step}, the best that were measured")
