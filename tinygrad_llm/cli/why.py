"""``tinygrad-llm why``."""

from __future__ import annotations

import difflib
import re
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter
from markupsafe import Markup
from rich.console import Console

from tinygrad_llm.nn import Module
from tinygrad_llm.study import why as explain
from tinygrad_llm.study.lookup import refuse_existing
from tinygrad_llm.study.page import page
from tinygrad_llm.study.tiny import tiny_step
from tinygrad_llm.tape import keep_graph
from tinygrad_llm.tensor import Tensor

_ENTRY = re.compile(r"(?P<name>[\w.]+?)(\.grad)?\s*(\[(?P<index>[-\d,\s]*)\])?")


def why(
    entry: str = "",
    script: Path | None = None,
    *,
    depth: int = 3,
    terms: int = 3,
    list_: Annotated[bool, Parameter(name="--list", negative=())] = False,
    html: Path | None = None,
    force: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Explain one entry of one gradient: the paths by which it came about, with numbers that add up to it.

    Parameters
    ----------
    entry
        The entry, as in "x.grad[2, 5]"; left out: the largest entry of some gradient.
    script
        A Python script that computes something and calls backward(); without one, a tiny GPT that has just been trained
        on a few sentences.
    depth
        How many operations deep the explanation goes.
    terms
        How many terms of each sum are shown.
    list_
        Only list the gradients that can be asked about.
    html
        Write the explanation as a page that unfolds.
    force
        Replace the page if it exists.
    """
    if script is None and entry.endswith(".py"):
        entry, script = "", Path(entry)
    if html is not None:
        refuse_existing(html, force)
    names = _tiny() if script is None else _run(script)
    tensors = _gradients(names)
    if list_:
        for name, tensor in tensors.items():
            print(f"{name}.grad  {tensor.shape}")
        return 0
    name, index = _parse(entry, tensors) if entry else _largest(tensors)
    found = explain(tensors[name], index, depth, terms, names=names)
    if html is not None:
        html.write_text(page(f"why {name}.grad{list(index)}", Markup(found._repr_html_())), encoding="utf-8")
        print(f"wrote {html}")
        return 0
    console = Console(highlight=False)
    console.print(found) if console.is_terminal else print(found)
    print("the algebra of each step: " + ", ".join(f"tinygrad-llm derive {o}" for o in found.operations()))
    return 0


def _tiny() -> dict[str, Any]:
    step = tiny_step()
    print("a tiny GPT reads:     " + " ".join(step.words[i] for i in step.ids[0]))
    print("and should predict:   " + " ".join(step.words[i] for i in step.targets[0]))
    return {"logits": step.logits, "loss": step.loss, **dict(step.model.named_parameters())}


def _run(script: Path) -> dict[str, Any]:
    """The variables that a script leaves behind; its graphs are remembered."""
    if not script.is_file():
        raise ValueError(f"{script}: there is no such script")
    argv, path = sys.argv, sys.path
    sys.argv, sys.path = [str(script)], [str(script.absolute().parent), *path]
    try:
        with keep_graph():
            return runpy.run_path(str(script), run_name="__main__")
    except SyntaxError as error:
        raise ValueError(f"{script}, line {error.lineno}: {error.msg}") from error
    finally:
        sys.argv, sys.path = argv, path


def _gradients(names: Mapping[str, Any]) -> dict[str, Tensor]:
    """Name to Tensor, of all variables and parameters that backward() has reached."""
    found: dict[str, Tensor] = {}
    for name, thing in names.items():
        if isinstance(thing, Tensor):
            found[name] = thing
        elif isinstance(thing, Module):
            found |= {f"{name}.{inner}": parameter for inner, parameter in thing.named_parameters()}
    found = {name: t for name, t in found.items() if t.grad is not None or t.node is not None}
    if not found:
        raise ValueError("no variable of the script is a Tensor with a gradient: does it call backward()?")
    return found


def _parse(entry: str, tensors: Mapping[str, Tensor]) -> tuple[str, tuple[int, ...]]:
    match = _ENTRY.fullmatch(entry.strip())
    if match is None:
        raise ValueError(f"{entry!r} does not name an entry of a gradient; write it as in 'x.grad[2, 5]'")
    name = match["name"]
    if name not in tensors:
        near = difflib.get_close_matches(name, tensors, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else "--list shows all"
        raise ValueError(f"no gradient is called {name!r}; {hint}")
    numbers = [part.strip() for part in (match["index"] or "").split(",") if part.strip()]
    try:
        return name, tuple(int(number) for number in numbers)
    except ValueError:
        raise ValueError(f"{entry!r}: an index is a whole number") from None


def _largest(tensors: Mapping[str, Tensor]) -> tuple[str, tuple[int, ...]]:
    """The largest entry of all gradients."""
    known = {name: t.grad for name, t in tensors.items() if t.grad is not None and t.grad.size}
    if not known:
        raise ValueError("backward() has reached no Tensor that has a name in this script")
    name = max(known, key=lambda n: float(np.abs(known[n]).max()))
    return name, tuple(int(i) for i in np.unravel_index(int(np.abs(known[name]).argmax()), known[name].shape))
