"""How the commands print: plain text, never re-wrapped, so that paths and commands can be copied."""

from __future__ import annotations

from rich.console import Console


def plain_console(stderr: bool = False) -> Console:
    """A console that prints text as it is."""
    return Console(stderr=stderr, soft_wrap=True, markup=False, highlight=False)
