"""What the user sees while training: a bar in a terminal, a line now and then in a pipe or a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from tinygrad_llm.training.metrics import smooth

LINE_SECONDS = 10.0
"""Seconds between lines where there is no terminal."""


class Progress:
    """Shows loss, targets a second, time left and validation loss of steps `start` to `steps`.

    `losses` are those of the steps before: the loss that is shown is smoothed over them too. The first step of a
    process also loads or compiles kernels, and is left out of the targets a second.
    """

    def __init__(
        self, console: Console, start: int, steps: int, losses: Sequence[float] = (), unit: str = "tokens"
    ) -> None:
        self._console, self._first, self._steps, self._unit = console, start + 1, steps, unit
        self._losses = list(losses)
        self._recent: list[tuple[int, float]] = []
        self._validation = "-"
        self._last_line = time.monotonic()
        self._bar = Bar(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=steps, completed=start, status="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def step(self, step: int, loss: float, tokens: int, seconds: float) -> None:
        """One step is done."""
        self._losses = [*self._losses[-99:], loss]
        status = f"loss {smooth(tuple(self._losses))[-1]:.3f}  validation {self._validation}"
        if step > self._first:
            self._recent = [*self._recent[-49:], (tokens, seconds)]
            rate = sum(t for t, _ in self._recent) / max(1e-9, sum(s for _, s in self._recent))
            status += f"  {rate:,.0f} {self._unit}/s"
        self._bar.update(self._task, completed=step, status=status)
        now = time.monotonic()
        if not self._console.is_terminal and (step == self._steps or now - self._last_line >= LINE_SECONDS):
            self._last_line = now
            self._console.print(f"step {step}/{self._steps}  {status}")

    def validated(self, step: int, measured: dict[str, float]) -> None:
        """A measurement on held-out data is done."""
        self._validation = f"{measured['validation_loss']:.3f}"
        if not self._console.is_terminal:
            bits = measured.get("validation_bits_per_byte")
            also = "" if bits is None else f", {bits:.3f} bits per byte"
            self._console.print(f"step {step}/{self._steps}  validation {self._validation}{also}")


@contextmanager
def counting(console: Console, what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar for work that is not training: yields a function to be told (done, total), total None if unknown."""
    if not console.is_terminal:
        console.print(f"{what} ...")
        yield _lines(console, what)
        return
    bar = Bar(TextColumn(what), BarColumn(), console=console, transient=True)
    task = bar.add_task(what, total=None)
    with bar:
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(console: Console, what: str) -> Callable[[int, int | None], None]:
    """A line now and then, of what is done."""
    last = time.monotonic()

    def tell(done: int, total: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LINE_SECONDS and done != total:
            last = now
            counted = f": {done:,}" + (f" of {total:,}" if total is not None else "") if done else " ..."
            console.print(what + counted)

    return tell


def waiting(console: Console, what: str) -> AbstractContextManager[object]:
    """A sign of life in a terminal, for work whose length is not known."""
    if console.is_terminal:
        return console.status(what)
    console.print(f"{what} ...")
    return nullcontext()
