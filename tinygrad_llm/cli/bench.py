"""``tinygrad-llm bench``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console, RenderableType

from tinygrad_llm.cli.arguments import possible_threads
from tinygrad_llm.cli.console import plain_console
from tinygrad_llm.data import read_documents
from tinygrad_llm.study.benchmarks import measuring
from tinygrad_llm.study.benchmarks.cases import GROUPS
from tinygrad_llm.study.benchmarks.peers import chosen_peers
from tinygrad_llm.study.benchmarks.report import changes_table, few_rounds, foreign, machine_table, tables
from tinygrad_llm.study.benchmarks.results import ROUNDS, Results
from tinygrad_llm.study.lookup import refuse_existing
from tinygrad_llm.threads import thread_count
from tinygrad_llm.training.progress import counting

WIDTH = 150
"""Columns of the tables where there is no terminal."""


def parse_threads(text: str) -> tuple[int, ...]:
    """``"1,2"`` as (1, 2); without text the usual number. Raises ValueError for anything else."""
    if not text:
        return (thread_count(),)
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"numbers of threads are whole numbers with commas between, as in 1,2; not {text!r}")
    return tuple(dict.fromkeys(map(int, parts)))


def _proper_threads(_: Any, text: str) -> None:
    if text:
        parse_threads(text)


def bench(
    *groups: Literal["kernels", "train", "decode", "tokenizer", "pretrained"],
    against: str = "",
    threads: Annotated[str, Parameter(validator=_proper_threads)] = "",
    text: Path | None = None,
    only: str = "",
    rounds: Annotated[int, Parameter(validator=Number(gte=1))] = ROUNDS,
    json: Path | None = None,
    plot: Path | None = None,
    from_: Annotated[
        Path | None, Parameter(name="--from", help="Show this file, written by --json before, rather than measure.")
    ] = None,
    compare: Path | None = None,
    warm: Annotated[bool, Parameter(negative=())] = False,
    force: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Measure this machine, then kernels, training steps, decoding, the tokenizer and a pretrained model.

    Parameters
    ----------
    groups
        What to measure: kernels, train, decode, tokenizer, pretrained (smollm2, if it is installed), or several of
        them; all if none is named.
    against
        Others to measure beside ours, with commas between: torch, tiktoken, tokenizers, gigatoken, rustbpe, bpeasy,
        xllamacpp;
        or all that are installed.
    threads
        Numbers of threads, as in 1,2; without it the usual one.
    text
        File of text for the tokenizer; without it, Python's own sources and documentation.
    only
        Measure only what has this in its name, as in "decode: GPT-2*int8"; * stands for anything.
    rounds
        Alternating rounds, of which the median counts.
    json
        Write everything that was measured into this file, row by row.
    plot
        Draw the roofline of the kernels into this PNG file.
    compare
        Compare with this file, written by --json before; exit status 1 if something has become slower.
    warm
        Only compile all kernels, so that nothing needs to wait for them later.
    force
        Replace files that exist.
    """
    if warm:
        return _warm()
    _check_files(json, plot, force)
    old = None if compare is None else Results.load(compare)
    if from_ is not None:
        results = Results.load(from_)
    else:
        others = chosen_peers(tuple(name.strip() for name in against.split(",") if name.strip()))
        if text is not None:
            next(read_documents(text))  # a text that cannot be read is told at once
        counts = tuple(dict.fromkeys(map(possible_threads, parse_threads(threads))))
        chosen = tuple(dict.fromkeys(groups)) or GROUPS
        with _kept(json) as keep:
            results = measuring.run(
                chosen, others, counts, only, rounds, Console(stderr=True), keep, "" if text is None else str(text)
            )
    _report(results, json, plot)
    slower = old is not None and _compare(results, old)
    return 1 if slower or results.failed else 0


@contextmanager
def _kept(json: Path | None) -> Iterator[Callable[[Results], object]]:
    """Yields what writes the rows so far; an interrupt says that they are there."""
    rows = 0

    def keep(found: Results) -> None:
        nonlocal rows
        if json is not None:
            found.save(json)
            rows = len(found.rows)

    try:
        yield keep
    except KeyboardInterrupt:
        if rows:
            said = f"interrupted: {json} has the {rows} row{'s' if rows > 1 else ''} measured so far"
            plain_console(stderr=True).print(said)
        raise


def _check_files(json: Path | None, plot: Path | None, force: bool) -> None:
    """Refuse files that could not be written, before anything is measured."""
    for path in (json, plot):
        if path is not None:
            refuse_existing(path, force)
    if plot is not None and plot.suffix.lower() != ".png":
        raise ValueError(f"{plot}: the picture is a PNG; give a name that ends in .png")


def _report(results: Results, json: Path | None, plot: Path | None) -> None:
    """Show the machine as it counts for the shares, then the rows, and write the files."""
    for rates in results.machines.values():
        _show(machine_table(rates))
    _show(tables(results))
    if json is not None:
        results.save(json)
        print(f"wrote {json}")
    if plot is not None:
        from tinygrad_llm.study.benchmarks.plot import plot as draw  # matplotlib is slow to import

        draw(results, plot)
        print(f"wrote {plot}")


def _show(table: RenderableType) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    console.print(table)


def _compare(results: Results, old: Results) -> bool:
    """Show what has changed; whether anything has become slower."""
    changes = results.since(old)
    for remark in (*foreign(results, old), *few_rounds(results, old)):
        print(f"note: {remark}")
    _show(changes_table(changes))
    slower = sum(change.verdict == "slower" for change in changes)
    print(f"{slower} of {len(changes)} rows slower by more than a tenth and their spread, since {old.made}")
    return slower > 0


def _warm() -> int:
    from tinygrad_llm.study.benchmarks.warming import warm

    console = plain_console(stderr=True)
    with counting(console, "compiling kernels") as progress:
        names = warm(lambda name, done, total: progress(done, total))
    print(f"compiled the kernels of {', '.join(names)}")
    return 0
