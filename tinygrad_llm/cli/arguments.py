"""Arguments that several study commands take; what cannot be is wrong usage, exit status 2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import Parameter, Token
from cyclopts.validators import Number

from tinygrad_llm.cli.console import plain_console
from tinygrad_llm.study.lookup import find_operation
from tinygrad_llm.threads import allowed_processors, set_threads, thread_count


def parse_shape(text: str) -> tuple[int, ...] | None:
    """``"2,3"`` as (2, 3); None for nothing. Raises ValueError for anything but whole numbers of at least 0."""
    if not text:
        return None
    sizes = [part.strip() for part in text.strip("() ").rstrip(",").split(",")]
    if not all(size.isdecimal() for size in sizes):
        raise ValueError(f"a shape is whole numbers with commas between, as in 2,3; not {text!r}")
    return tuple(map(int, sizes))


def _known_operation(_: Any, name: str | None) -> None:
    if name is not None:  # not given, where it may be left out
        find_operation(name)


def _proper_shape(_: Any, text: str) -> None:
    parse_shape(text)


def _whole_number(_: Any, tokens: Sequence[Token]) -> int:
    """Without this 1.5 would be rounded."""
    text = tokens[0].value
    if not text.removeprefix("-").isdecimal():
        raise ValueError(f"expected a whole number, not {text!r}")
    return int(text)


def use_threads(count: int | None) -> None:
    """Compute with so many threads, or with as many as the environment or the machine suggests."""
    set_threads(possible_threads(thread_count() if count is None else count))


def possible_threads(count: int) -> int:
    """So many threads, or one for each processor that this process may use, and a line on stderr that says so.

    More would wait for each other at every product: a training step with 99 threads on two cores took 10 s
    rather than 0.1 s. A container may have fewer processors than whoever wrote its environment thought.
    """
    processors = len(allowed_processors())
    if count <= processors:
        return count
    plain_console(stderr=True).print(
        f"warning: {count} threads would wait for each other, as this process may use {processors} "
        f"processor{'s' if processors > 1 else ''}: no more are used"
    )
    return processors


OperationName = Annotated[str, Parameter(validator=_known_operation)]
ShapeText = Annotated[str, Parameter(validator=_proper_shape)]
Threads = Annotated[
    int | None,
    Parameter(
        converter=_whole_number,
        validator=Number(gte=1),
        help="Threads that compute; without it TINYGRAD_LLM_THREADS, or else one for each physical core. "
        "More than one for each processor are not used.",
    ),
]
