"""``tinygrad-llm compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console

from tinygrad_llm.cli.arguments import Threads, use_threads
from tinygrad_llm.cli.console import plain_console
from tinygrad_llm.data import TextFiles
from tinygrad_llm.study.architectures.experiment import run_comparison
from tinygrad_llm.study.architectures.report import tables
from tinygrad_llm.study.architectures.settings import KINDS, Kind, Settings
from tinygrad_llm.study.lookup import refuse_existing

WIDTH = 120
"""Columns of the tables where there is no terminal."""


def compare(
    *models: Kind,
    data: str = "",
    steps: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    context: Annotated[int | None, Parameter(validator=Number(gte=2))] = None,
    channels: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    layers: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    seed: int = 0,
    quick: Annotated[bool, Parameter(negative=())] = False,
    out: Path = Path("comparison"),
    json: Path | None = None,
    plot: Path | None = None,
    threads: Threads = None,
    force: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Show why the transformer replaced recurrent networks: a GPT beside an LSTM, a GRU and an RNN, on this machine.

    Three experiments: loss against tokens and time at equal parameters; time of a training step against the length of
    its sequences; and how far back the gradient reaches. It takes some minutes. After Ctrl-C, the same command goes on.

    Parameters
    ----------
    models
        What to compare: gpt, lstm, gru, rnn, or some of them; all if none is named.
    data
        File or folder of UTF-8 text; by default the documentation that comes with Python.
    steps
        Updates of the weights in each training.
    context
        Tokens of a training sequence.
    channels
        Width of the GPT; the others become so wide that they have as many parameters.
    layers
        Layers of the GPT; the others have at most two.
    seed
        Decides every random draw.
    quick
        Small sizes and a few steps: it takes seconds, and shows only that everything works.
    out
        Folder for the trained models and the results.
    json
        File for all that was measured; by default comparison.json in the folder.
    plot
        PNG file for the picture; by default comparison.png in the folder.
    force
        Replace the two files if they exist. Models in the folder are never trained again.
    """
    json, plot = json or out / "comparison.json", plot or out / "comparison.png"
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is a file; --out needs a folder")
    for path in (json, plot):
        if path.parent != out or out.exists():  # the folder is made when it is needed
            refuse_existing(path, force)
    if plot.suffix.lower() != ".png":
        raise ValueError(f"{plot}: the picture is a PNG; give a name that ends in .png")
    if data:
        TextFiles(data)
    given: dict[str, Any] = {"steps": steps, "context": context, "channels": channels, "layers": layers}
    chosen = tuple(dict.fromkeys(models)) or KINDS
    settings = Settings.of(quick, models=chosen, data=data, seed=seed, **given)
    use_threads(threads)
    found = run_comparison(settings, out, plain_console(stderr=True))
    if isinstance(found, int):
        return found
    found.save(json)
    from tinygrad_llm.study.architectures.plot import plot as draw  # matplotlib is slow to import

    draw(found, plot)
    console = Console(highlight=False)
    (console if console.is_terminal else Console(highlight=False, width=WIDTH)).print(tables(found))
    print(f"wrote {json}")
    print(f"wrote {plot}")
    return 0
