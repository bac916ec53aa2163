"""The mutation score: how many small mistakes in the operations and the core the tests notice.

    python benchmarks/mutation/run.py                                # every file: about an hour
    python benchmarks/mutation/run.py --module ops/softmaxes.py      # one file (may be given several times)
    python benchmarks/mutation/run.py --sample 200 --jobs 2

Each mutant (see mutants.py) is tried on a copy of the repository (see trial.py). The results are kept in a session
file, in cosmic-ray's format; a second run goes on from there, and tries only what is new (and with ``--retry`` what has
survived and is not known as equivalent). A mutant that survives and is listed in equivalent.toml, with the reason why
no test can tell it from the original, does not count. Needs ``pip install -e '.[test,mutation]'`` and an operating
system with fork.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy is loaded
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"

from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkItem, WorkResult
from mutants import Mutant, mutants
from report import Equivalent, Score, print_report, read_equivalents, reason, summary
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from trial import CORE, Plan, Worker, measured, wait

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--module", action="append", metavar="FILE", help="a file below tinygrad_llm/")
    parser.add_argument("--sample", type=int, metavar="N", help="N mutants drawn at random (the same ones each time)")
    parser.add_argument("--jobs", type=int, default=1, help="how many mutants are tried at a time")
    parser.add_argument("--session", type=Path, default=Path("mutation.sqlite"), help="the results (%(default)s)")
    parser.add_argument("--retry", action="store_true", help="try again the survivors that are not known as equivalent")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores and the survivors to FILE too")
    return parser.parse_args(arguments)


def modules(wanted: list[str] | None) -> list[str]:
    """The files to be mutated; ValueError for one that is not among those that can be."""
    package = ROOT / "tinygrad_llm"
    every = [*sorted(f"ops/{p.name}" for p in (package / "ops").glob("*.py") if p.stem != "__init__"), *CORE]
    for name in wanted or ():
        if name not in every:
            raise ValueError(f"--module {name}: expected one of {', '.join(every)}")
    return wanted or every


def copy_repository(to: Path) -> None:
    for name in ("tinygrad_llm", "tests"):
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", to)


def main() -> int:
    options = parse_arguments()
    console = Console()
    try:
        names = modules(options.module)
    except ValueError as error:
        console.print(f"error: {error}", style="red")
        return 2
    with tempfile.TemporaryDirectory() as folder, use_db(options.session, WorkDB.Mode.create) as session:
        copy = Path(folder)
        copy_repository(copy)
        every = [m for name in names for m in mutants(name, (copy / "tinygrad_llm" / name).read_text(encoding="utf-8"))]
        if options.sample is not None and options.sample < len(every):
            every = random.Random(0).sample(every, options.sample)
        entries = read_equivalents(HERE / "equivalent.toml")
        try:
            try_all(copy, every, session, entries, options, console)
            stopped = False
        except KeyboardInterrupt:
            stopped = True
        results = dict(session.results)
        scores = judge(every, results)
    print_report(console, scores, entries, whole=options.sample is None and not stopped)
    if options.json:
        options.json.write_text(json.dumps(summary(scores, entries), indent=1) + "\n", encoding="utf-8")
    if stopped:
        left = sum(m.key not in results for m in every)
        console.print(f"stopped; {left} mutants are left for the next run with --session {options.session}")
    return 130 if stopped else 0


def try_all(
    copy: Path,
    every: list[Mutant],
    session: WorkDB,
    entries: list[Equivalent],
    options: argparse.Namespace,
    console: Console,
) -> None:
    """Try the mutants of which the session holds no result yet; and again the survivors, if that is asked for."""
    known = {item.job_id for item in session.work_items}
    session.add_work_items(work_item(m) for m in every if m.key not in known)
    killed = {key: result.is_killed for key, result in session.results}
    again = {m.key for m in every if options.retry and not killed.get(m.key, True) and reason(m, entries) is None}
    waiting = [m for m in every if m.key not in killed or m.key in again]
    plans: dict[str, Plan] = {}
    columns = (TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # without a thread that draws: it would be forked too
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as progress:
        task = progress.add_task("", total=len(waiting))
        running: dict[Worker, Mutant] = {}
        idle: list[Worker] = []
        while waiting or running:
            while waiting and len(running) < options.jobs:
                mutant = waiting.pop(0)
                if mutant.module not in plans:
                    plans[mutant.module], line = measured(copy, mutant.module)
                    progress.console.print(line)
                worker = next((w for w in idle if w.module == mutant.module), None)
                if worker is None:
                    worker = Worker(copy, mutant.module, plans[mutant.module])
                    while idle:
                        idle.pop().stop()
                else:
                    idle.remove(worker)
                worker.start(mutant.source, mutant.in_derivation)
                running[worker] = mutant
            wait(list(running))
            for worker in [w for w in running if w.ready()]:
                mutant = running.pop(worker)
                session.set_result(mutant.key, result(mutant, worker.outcome().killer))
                idle.append(worker)
                progress.update(task, advance=1, description=mutant.module, refresh=True)
    for worker in idle:
        worker.stop()


def work_item(mutant: Mutant) -> WorkItem:
    place = {"start_pos": mutant.start, "end_pos": mutant.end}
    return WorkItem.single(mutant.key, MutationSpec(Path(mutant.module), mutant.operator, mutant.occurrence, **place))


def result(mutant: Mutant, killer: str | None) -> WorkResult:
    return WorkResult(
        worker_outcome=WorkerOutcome.NORMAL,
        test_outcome=TestOutcome.SURVIVED if killer is None else TestOutcome.KILLED,
        output=killer,
        diff=f"- {mutant.before}\n+ {mutant.after}",
    )


def judge(every: list[Mutant], results: dict[str, WorkResult]) -> dict[str, Score]:
    """The results by file, of the mutants that were tried."""
    scores: dict[str, Score] = {}
    for mutant in every:
        if mutant.key not in results:
            continue
        score = scores.setdefault(mutant.module, Score())
        if results[mutant.key].is_killed:
            score.killed += 1
        else:
            score.survivors.append(mutant)
    return scores


if __name__ == "__main__":
    sys.exit(main())
