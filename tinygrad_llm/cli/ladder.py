"""``tinygrad-llm ladder``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console

from tinygrad_llm.cli.arguments import OperationName, ShapeText, Threads, parse_shape, use_threads
from tinygrad_llm.study import ladder as climb
from tinygrad_llm.study.lookup import refuse_existing


def ladder(
    operation: OperationName,
    *,
    shape: ShapeText = "",
    seed: int = 0,
    repeats: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    plot: Path | None = None,
    threads: Threads = None,
    force: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Compute one gradient in several ways, and show what each costs: error, time, memory, distance to the limit.

    Parameters
    ----------
    operation
        Name of the operation.
    shape
        Shape of its first input, as in 512,768; without it, one that takes milliseconds.
    seed
        Decides the numbers.
    repeats
        Runs of each way to do it; without it, as many as take a few seconds.
    plot
        Draw the times into this PNG file.
    force
        Replace the file if it exists.
    """
    if plot is not None:
        refuse_existing(plot, force)
        if plot.suffix.lower() != ".png":
            raise ValueError(f"{plot}: the picture is a PNG; give a name that ends in .png")
    use_threads(threads)
    found = climb(operation, parse_shape(shape), seed, repeats)
    console = Console(highlight=False)
    console.print(found) if console.is_terminal else print(found)
    if plot is not None:
        found.plot(plot, force)
        print(f"wrote {plot}")
    return 0
