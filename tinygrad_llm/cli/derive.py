"""``tinygrad-llm derive``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from tinygrad_llm.cli.arguments import ShapeText, parse_shape
from tinygrad_llm.cli.console import plain_console
from tinygrad_llm.files import atomic_write
from tinygrad_llm.study.derivations.book import families, write_book
from tinygrad_llm.study.derivations.check import CheckedInput, check_derivations
from tinygrad_llm.study.derivations.derivation import UnknownInput
from tinygrad_llm.study.derivations.derivation import derive as derivation_of
from tinygrad_llm.study.derivations.html_form import derivation_page
from tinygrad_llm.study.lookup import UnknownOperation, find_operation, refuse_existing
from tinygrad_llm.study.notation.prose import first_formula, formula_text
from tinygrad_llm.tensor import registry

Flag = Annotated[bool, Parameter(negative=())]


def _known_if_given(_: Any, name: str | None) -> None:
    try:
        find_operation(name or "add")
    except UnknownOperation as error:
        raise ValueError(f"{error} (tinygrad-llm derive --list shows all)") from None


def derive(
    operation: Annotated[str | None, Parameter(validator=_known_if_given)] = None,
    *,
    shape: ShapeText = "",
    input: str | None = None,
    seed: Annotated[int, Parameter(validator=Number(gte=0))] = 0,
    sample: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    list_: Annotated[bool, Parameter(name="--list", negative=())] = False,
    check: Flag = False,
    draws: Annotated[int, Parameter(validator=Number(gte=1))] = 100,
    all_: Annotated[bool, Parameter(name="--all", negative=())] = False,
    html: Path | None = None,
    force: Flag = False,
) -> int:
    """Derive an operation's gradients step by step, with numbers, from the dense Jacobian to the code.

    Parameters
    ----------
    operation
        Name of the operation; --list shows all.
    shape
        Shape of its first input, as in 2,3; without it, one that suits the operation.
    input
        The input whose gradient to derive; by default all of them.
    seed
        Decides the numbers.
    sample
        Which of the operation's ways to draw arguments, from 1; by default the first that fits.
    list_
        List all operations by family, with their formulas.
    check
        Run the derivation of the operation, or of all, on many draws; exit status 1 if a step differs from the others.
    draws
        Draws of each sample for --check.
    all_
        Write the book of all gradients into the folder given by --html.
    html
        Write a page into this file, or with --all the book into this folder.
    force
        Replace what exists.
    """
    asked = [name for name, flag in (("--list", list_), ("--check", check), ("--all", all_)) if flag]
    if len(asked) > 1:
        return _wrong_usage(f"{' and '.join(asked)} do not go together")
    unused = [name for name, given in (("--shape", shape), ("--input", input), ("--sample", sample)) if given]
    if asked and unused:
        return _wrong_usage(f"{unused[0]} does not go together with {asked[0]}")
    if html is not None and (list_ or check):
        return _wrong_usage(f"{asked[0]} writes no page; leave out --html")
    if operation is not None and (list_ or all_):
        return _wrong_usage(f"{asked[0]} shows every operation; leave out {operation!r}")
    if list_:
        return _list()
    if check:
        return _check(operation, draws, seed)
    if all_:
        return _wrong_usage("--all needs --html FOLDER") if html is None else _book(html, force)
    if operation is None:
        return _wrong_usage("name an operation, as in tinygrad-llm derive softmax; --list shows all")
    if html is not None:
        refuse_existing(html, force)
    try:
        found = derivation_of(operation, parse_shape(shape), input, seed, sample)
    except UnknownInput as error:
        return _wrong_usage(str(error))
    if html is not None:
        atomic_write(html, derivation_page(found).encode())
        print(f"wrote {html}")
        return 0
    console = Console(highlight=False)
    console.print(found) if console.is_terminal else print(found)
    return 0


def _wrong_usage(message: str) -> int:
    plain_console(stderr=True).print(f"tinygrad-llm: error: derive: {message}")
    return 2


def _list() -> int:
    console = plain_console()
    width = max(map(len, registry))
    for family in families():
        console.print(Text(family.title, "bold"))
        for operation in family.operations:
            shown = formula_text(first_formula(operation.__doc__ or ""))
            console.print(Text(f"  {operation.name:<{width}}", "cyan").append(f"  {shown}", "default"))
    return 0


def _book(folder: Path, force: bool) -> int:
    with _progress("writing", len(registry)) as advance:
        files = write_book(folder, force, advance)
    print(f"wrote {len(files)} pages: {folder / 'index.html'}")
    return 0


def _check(operation: str | None, draws: int, seed: int) -> int:
    names = sorted(registry) if operation is None else [operation]
    with _progress("checking", len(names)) as advance:
        results = check_derivations(names, draws, seed, advance)
    console = Console(highlight=False, soft_wrap=True)
    console.print(_table(results))
    faulty = [result for result in results if not result.ok]
    for result in faulty:
        console.print(Text(f"{result.operation}, {result.input}: {result.fault}", "red"))
    steps = sum(result.steps for result in results)
    verdict = f"{len(faulty)} of {len(results)} are faulty" if faulty else "all agree"
    console.print(f"{len(results)} gradients, {steps} steps: {verdict}")
    return 1 if faulty else 0


def _table(results: list[CheckedInput]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("operation", "input"):
        table.add_column(heading, no_wrap=True)
    for heading in ("steps", "draws", "largest change"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("ok", no_wrap=True)
    for r in results:
        verdict = Text("yes", "green") if r.ok else Text("no", "bold red")
        table.add_row(r.operation, r.input, str(r.steps), str(r.draws), f"{r.largest_change:.1e}", verdict)
    return table


@contextmanager
def _progress(doing: str, count: int) -> Iterator[Callable[[str], Any]]:
    """A bar on standard error; yields the function to call with the name of what begins."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(doing, total=count)
        begun = iter(range(count + 1))
        yield lambda name: bar.update(task, description=f"{doing} {name}", completed=next(begun))
