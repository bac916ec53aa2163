"""``tinygrad-llm explore``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tinygrad_llm.cli.console import plain_console
from tinygrad_llm.study.explorer.document import explore as explore_graph
from tinygrad_llm.study.lookup import refuse_existing
from tinygrad_llm.study.tiny import tiny_step


def explore(
    *,
    out: Path = Path("explorer.html"),
    force: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Write one training step of a tiny GPT as a page: its graph, every value and gradient, and their algebra.

    The page is one file that needs no network. For a graph of your own, call tinygrad_llm.study.explore(loss).

    Parameters
    ----------
    out
        File to write.
    force
        Replace the file if it exists.
    """
    refuse_existing(out, force)
    console = plain_console()
    step = tiny_step()
    names = {"logits": step.logits, "loss": step.loss}
    page = explore_graph(step.loss, names=names, words=step.words, title="One training step of a tiny GPT")
    page.save(out, force)
    console.print(f"wrote {out}: {page.operations} operations, {page.leaves} leaves, {out.stat().st_size / 1e6:.1f} MB")
    console.print(f"open it in a browser: {out.absolute().as_uri()}")
    return 0
