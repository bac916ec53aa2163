"""``tinygrad-llm exercise``: write, check, list."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console

from tinygrad_llm.cli.arguments import OperationName
from tinygrad_llm.study.exercises import course as exercises

app = App(
    name="exercise",
    help="Write the vjp of an operation yourself, from add to attention.",
    help_epilogue="Example: tinygrad-llm exercise softmax",
)


@app.default
def exercise(
    operation: OperationName | None = None,
    *,
    dir_: Annotated[Path, Parameter(name="--dir")] = Path(exercises.FOLDER),
    list_: Annotated[bool, Parameter(name="--list", negative=())] = False,
    force: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Write an exercise: a file with the vjp of an operation left blank, and a test beside it.

    Parameters
    ----------
    operation
        Name of the operation; left out: the list of all.
    dir_
        Folder of the exercises.
    list_
        Show all exercises in their order, and how far you are.
    force
        Replace an exercise that exists, and with it what you have written.
    """
    if list_ or operation is None:
        print(exercises.exercise_list(dir_))
        return 0
    path, test = exercises.exercise(operation, dir_, force)
    print(f"wrote {path} and {test}")
    print(f"Write the vjp in {path.name}, then: tinygrad-llm exercise check {exercises.quoted(path)}")
    return 0


@app.command(help_epilogue="Example: tinygrad-llm exercise check exercises/softmax.py --hint")
def check(
    file: Path,
    *,
    hint: Annotated[bool, Parameter(negative=())] = False,
    reveal: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Check an exercise, and say what is likely wrong with it.

    Parameters
    ----------
    file
        The exercise, as tinygrad-llm exercise wrote it and you have changed it; or the operation's name, for its
        exercise in the folder exercises.
    hint
        Show the next step of the derivation, one more each time, beside what your vjp gives.
    reveal
        Show the library's own vjp.
    """
    if reveal:
        print(exercises.reveal_exercise(file))
        return 0
    with Console(stderr=True).status(f"running {file}"):
        found = exercises.hint_exercise(file) if hint else exercises.check_exercise(file)
    print(found)
    return 0 if found or hint else 1
