"""Running the cases: worker processes are started, shown to agree, and timed in alternating rounds."""

from __future__ import annotations

import importlib.metadata
import itertools
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from tinygrad_llm.backend import why_no_kernels
from tinygrad_llm.study.benchmarks.cases import GROUPS, Case, cases, fits
from tinygrad_llm.study.benchmarks.group import Asker, Process, WorkFailed, alternate
from tinygrad_llm.study.benchmarks.job import AGREEMENT, agree
from tinygrad_llm.study.benchmarks.peers import PEERS, NoEqual
from tinygrad_llm.study.benchmarks.results import Measured, Results, Row, threads_text
from tinygrad_llm.study.benchmarks.startup import STARTS, startup_rows
from tinygrad_llm.study.machine import Rates
from tinygrad_llm.training.progress import counting

OWN = ("kernel", "ours")
TURN = 0.2
"""About how long a contestant works before it is another one's turn."""
MACHINE_SECONDS = 5.0
"""About how long the machine is measured; starting its process takes a few more."""
PACKAGES = ("tinygrad-llm", "numpy", "numba", *PEERS)

Progress = Callable[[int, int | None], object]


class Workers:
    """The worker processes that are alive, one for each contestant; leaving the block ends them all."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._alive: dict[str, Process] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exception: object) -> None:
        for name in list(self._alive):
            self.end(name)

    def get(self, contestant: str) -> Process:
        """The worker of that contestant, started if there is none."""
        if contestant not in self._alive:
            self._alive[contestant] = Process(contestant, self.threads)
        return self._alive[contestant]

    def end(self, contestant: str) -> None:
        """End one worker."""
        if worker := self._alive.pop(contestant, None):
            worker.__exit__()


def run(
    groups: Sequence[str],
    against: tuple[str, ...],
    threads: Sequence[int],
    only: str,
    rounds: int,
    console: Console,
    keep: Callable[[Results], object] = lambda results: None,
    text: str = "",
) -> Results:
    """Measure the machine, then all cases of the groups for each number of threads, then the machine once more.

    `keep` is told all that has been found after each row: a measurement that is interrupted loses nothing. `text` names
    a file for the tokenizer. Raises ValueError if there is no case that `only` fits, and for kernels where Numba cannot
    compile any.
    """
    if "kernels" in groups and (reason := why_no_kernels()):
        others = ", ".join(group for group in GROUPS if group != "kernels")
        raise ValueError(f"bench kernels: there are none here: {reason}; what can be measured without: {others}")
    chosen = {group: cases(group, only, against, text) for group in groups}
    first = {
        group: [name for name in STARTS[group] if fits(only, group, name) or only == "startup"]
        for group in groups
        if group in STARTS
    }
    if not any(chosen.values()) and not any(first.values()):
        raise ValueError(f"--only {only}: no benchmark of {', '.join(groups)} has such a name")
    total = len(threads) * (sum(map(len, chosen.values())) + sum(map(bool, first.values())))
    places = (f"{number} of {total}" for number in itertools.count(1))
    machines: dict[int, Rates] = {}
    rows: list[Row] = []
    notes: list[str] = []

    def found() -> Results:
        made = datetime.now(UTC).isoformat(timespec="seconds")
        return Results(made, versions(), dict(machines), tuple(rows), tuple(notes), failed=bool(notes))

    for count in threads:
        machines[count] = _machine(count, console)
        for group in chosen.values():
            for row in _rows(group, count, rounds, console, notes, places):
                rows.append(row)
                keep(found())
        for group_name, names in first.items():
            if names:
                with counting(console, f"{next(places)}: {group_name}: first run, {threads_text(count)}") as progress:
                    rows += [row for row in startup_rows(group_name, count, rounds, progress) if row.name in names]
        machines[count] = machines[count].best(_machine(count, console))
    return found()


def _machine(threads: int, console: Console) -> Rates:
    what = f"measuring the machine for about 10 seconds, {threads_text(threads)}"
    with counting(console, what), Process("ours", threads) as worker:
        return Rates.from_plain(worker.ask("machine", seconds=MACHINE_SECONDS))


def _rows(
    found: Sequence[Case], threads: int, rounds: int, console: Console, notes: list[str], places: Iterator[str]
) -> Iterator[Row]:
    """Measure the cases of a group. Kernels share their workers; else each case has fresh ones, for their memory."""
    with Workers(threads) as workers:
        for case in found:
            with counting(console, f"{next(places)}: {case.group}: {case.name}, {threads_text(threads)}") as progress:
                row = measure(case, workers, rounds, progress, notes)
            if row is not None:
                yield row
            if case.group != "kernels":
                for name in case.contestants:
                    workers.end(name)


def measure(case: Case, workers: Workers, rounds: int, progress: Progress, notes: list[str]) -> Row | None:
    """One row; contestants that cannot do the work, or do another work than ours, are left out with a note.

    None if ours cannot do it. Raises ChildProcessError if the process of ours ends by itself.
    """
    ready: dict[str, Asker] = {}
    told: dict[str, dict[str, Any]] = {}
    for name in sorted(case.contestants, key=lambda name: name not in OWN):
        with _left_out(name, case, workers, notes):
            told[name] = workers.get(name).ask("prepare", case=case.plain())
            progress(0, None)
            ready[name] = workers.get(name)
            if not agree(told[name]["checks"], told[next(iter(told))]["checks"]):
                del ready[name]
                notes.append(f"{case.name}: {name} is not timed: its results differ by more than {AGREEMENT:g}")
        if not ready:
            return None
    ready = {name: ready[name] for name in case.contestants if name in ready}
    times = alternate(ready, rounds, TURN, progress)
    measured = {}
    for name, worker in ready.items():
        seconds, cpu = zip(*times[name], strict=True)
        measured[name] = Measured(tuple(seconds), statistics.median(cpu), worker.ask("finish")["peak"])
    first = next(iter(told.values()))
    amount = first["amount"] or case.amount
    return Row(case.group, case.name, workers.threads, measured, first["operations"], first["moved"], amount, case.unit)


@contextmanager
def _left_out(name: str, case: Case, workers: Workers, notes: list[str]) -> Iterator[None]:
    """Inside, a contestant that fails is noted, and its process ended; a crash of our own is an error.

    Nothing is said of one that has no equal of the work.
    """
    try:
        yield
    except WorkFailed as error:
        if not str(error).startswith(f"{name}: {NoEqual.__name__}: "):
            notes.append(f"{case.name}: {error}")
            workers.end(name)
    except ChildProcessError as error:
        workers.end(name)
        if name in OWN:
            raise
        notes.append(f"{case.name}: {error}")


def versions() -> dict[str, str]:
    """Of Python, the system, and the packages that are here."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
