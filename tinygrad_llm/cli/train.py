"""``tinygrad-llm train``."""

from __future__ import annotations

from collections.abc import Collection
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tinygrad_llm.cli.arguments import Threads, use_threads
from tinygrad_llm.cli.console import plain_console
from tinygrad_llm.parallel.launch import world
from tinygrad_llm.parallel.options import Crew, ParallelOptions
from tinygrad_llm.training import TrainConfig, pretrain

Parallel = Annotated[ParallelOptions, Parameter(name="*")]

given_options: ContextVar[Collection[str] | None] = ContextVar("given_options", default=None)
"""Names of the options on the command line: a value that was asked for is more than a default of the same value."""


def train(
    config: Annotated[TrainConfig, Parameter(name="*")] = TrainConfig(),  # noqa: B008 - frozen
    parallel: Parallel = ParallelOptions(),  # noqa: B008 - frozen
    *,
    out: Path | None = None,
    resume: bool = False,
    threads: Threads = None,
) -> int:
    """Train a tokenizer and a language model on text, and write a sample.

    Without --data the text is the documentation that comes with Python: no file and no network is needed. Everything
    is left in one folder: settings, tokenizer, weights, checkpoints, metrics, a plot of the loss, samples.

    Parameters
    ----------
    out
        Folder to write to; by default "run", or "run-2" and so on if that exists.
    resume
        Go on with the run in --out (by default "run") where its last checkpoint left it.
    """
    use_threads(threads)
    crew = Crew(parallel, world())
    folder = Path(crew.told(lambda: str(out or (Path("run") if resume else free_name(Path("run"))))))
    return pretrain(config, folder, resume, plain_console(), given_options.get(), crew=crew)


def free_name(path: Path) -> Path:
    """`path`, or the first of path-2, path-3 ... that does not exist."""
    number = 2
    free = path
    while free.exists():
        free, number = path.with_name(f"{path.name}-{number}"), number + 1
    return free
