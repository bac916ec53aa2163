"""Arguments that several study commands take; what cannot be is wrong usage, exit status 2."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from tinygrad_llm.cli.console import plain_console
from tinygrad_llm.study.lookup import find_operation
from tinygrad_llm.threads import allowed_processors, default_threads, set_threads, thread_count


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


def use_threads(count: int | None) -> None:
    """Compute with so many threads, or with as many as the environment or the machine suggests; warn of too many."""
    set_threads(thread_count() if count is None else count)
    warn_of_many(thread_count())


def warn_of_many(threads: int) -> None:
    """A line on stderr if so many threads have fewer processors that they may use. They are not made fewer: who asks
    for a number gets it."""
    processors = len(allowed_processors())
    if threads > processors:
        plain_console(stderr=True).print(
            f"warning: this process may use {processors} processor{'s' if processors > 1 else ''}, and {threads} "
            f"threads wait for each other there; --threads {default_threads()} is faster"
        )


OperationName = Annotated[str, Parameter(validator=_known_operation)]
ShapeText = Annotated[str, Parameter(validator=_proper_shape)]
Threads = Annotated[
    int | None,
    Parameter(
        validator=Number(gte=1),
        help="Threads that compute; without it TINYGRAD_LLM_THREADS, or else one for each physical core.",
    ),
]
