"""``tinygrad-llm plan``."""

from __future__ import annotations

import json as json_text
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console

from tinygrad_llm.files import atomic_write
from tinygrad_llm.parallel.plan import Plan, make_plan
from tinygrad_llm.parallel.plan_models import ModelSizes, find_model
from tinygrad_llm.parallel.plan_report import lines
from tinygrad_llm.parallel.plan_setup import PRECISIONS, Machine, Recompute, Setup
from tinygrad_llm.study.lookup import refuse_existing
from tinygrad_llm.study.own_step import BATCH, TRAINED, measured_lines

PREFIXES = {
    "": 1.0,
    "k": 1e3,
    "K": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "P": 1e15,
    "m": 1e-3,
    "u": 1e-6,
    "µ": 1e-6,
    "n": 1e-9,
}
QUANTITY = re.compile(r"([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([kKMGTPmunµ]?)(i?)(?:B|B/s|FLOPS|FLOP/s|s|)")


def parse_quantity(text: str) -> float:
    """``"25GB/s"``, ``"140e12"``, ``"80GiB"``, ``"5us"`` as a number; prefixes are powers of 1000, with an i of 1024.

    Raises ValueError for anything else, and for nothing or less.
    """
    found = QUANTITY.fullmatch(text.strip())
    try:
        value = float(found[1]) if found else 0.0
    except ValueError:
        value = 0.0
    if found is None or not 0 < value < 1e30:
        raise ValueError(f"expected a positive number, as 140e12, 25GB/s, 80GiB or 5us; not {text!r}")
    factor = PREFIXES[found[2]]
    if found[3]:
        factor = 1024.0 ** {"K": 1, "k": 1, "M": 2, "G": 3, "T": 4, "P": 5}.get(found[2], 0)
    return value * factor


def _proper(_: Any, text: str) -> None:
    if text:
        parse_quantity(text)


Quantity = Annotated[str, Parameter(validator=_proper)]
AtLeastOne = Annotated[int, Parameter(validator=Number(gte=1))]
Optional = Annotated[int | None, Parameter(validator=Number(gte=1))]


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """How it is trained."""

    dp: AtLeastOne = 1
    """Data-parallel ranks."""
    pp: AtLeastOne = 1
    """Pipeline ranks."""
    tp: AtLeastOne = 1
    """Tensor-parallel ranks."""
    zero: Annotated[int, Parameter(validator=Number(gte=0, lte=3))] = 0
    """What data-parallel ranks share out: 1 optimizer state, 2 also gradients, 3 also parameters."""
    microbatches: AtLeastOne = 1
    """Microbatches of a step, for each data-parallel rank (m)."""
    batch_size: Optional = None
    """Sequences of a microbatch; without it 1, and with --measure 16."""
    time: Optional = None
    """Tokens of a sequence (T); without it the model's context."""
    schedule: Literal["gpipe", "1f1b", "interleaved", "zb-h1"] = "1f1b"
    """Of the pipeline."""
    chunks: Optional = None
    """Chunks of the model on each rank (v), for interleaved; 2 without it."""
    recompute: Recompute = "none"
    """What of a layer is computed again rather than kept: nothing, attention's inside, or all."""
    sequence_parallel: bool = True
    """Share out also what lies between the matrices over the tensor-parallel ranks."""
    precision: Literal["mixed", "float32"] = "mixed"
    """mixed (16 bits, as in papers) or float32 (as ours)."""

    def setup(self, context: int) -> Setup:
        """For a model of so many positions."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return Setup(
            **given
            | {
                "time": self.time or context,
                "batch_size": self.batch_size or 1,
                "chunks": self.chunks or (2 if self.schedule == "interleaved" else 1),
                "precision": PRECISIONS[self.precision],
            }
        )


@dataclass(frozen=True, kw_only=True)
class PlannedMachine:
    """What each rank has."""

    flops: Quantity = "140e12"
    """Floating-point operations that matrix products of a rank reach in a second."""
    link: Quantity = "25GB/s"
    """Bytes that a rank can send in a second."""
    tp_link: Quantity = ""
    """The same within a tensor-parallel group; without it as --link."""
    latency: Quantity = "5us"
    """Seconds until the first byte arrives."""
    memory: Quantity = "80GB"
    """Bytes of memory of a rank."""
    bandwidth: Quantity = ""
    """Bytes of its memory that a rank reads or writes in a second, for the update of the weights."""

    def machine(self) -> Machine:
        """In numbers."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return Machine(**{name: parse_quantity(text) for name, text in given.items() if text})


@dataclass(frozen=True, kw_only=True)
class OwnSizes:
    """A model of one's own."""

    architecture: Literal["gpt", "llama"] = "gpt"
    """Of a model of your own."""
    layers: Optional = None
    """Its layers (L)."""
    channels: Optional = None
    """Its width (C)."""
    heads: Optional = None
    """Its attention heads (H)."""
    kv_heads: Optional = None
    """Its heads with keys and values of their own."""
    feed_forward: Optional = None
    """Its feed-forward width (F)."""
    vocab_size: Optional = None
    """Its tokens (V)."""

    @property
    def given(self) -> dict[str, int]:
        """The numbers that are known."""
        numbers = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "architecture"}
        return {name: value for name, value in numbers.items() if value is not None}


def plan(
    model: str = "",
    *,
    run: Annotated[PlannedRun, Parameter(name="*")] = PlannedRun(),
    machine: Annotated[PlannedMachine, Parameter(name="*")] = PlannedMachine(),
    tokens: Quantity = "",
    own: Annotated[OwnSizes, Parameter(name="*")] = OwnSizes(),
    measure: Annotated[bool, Parameter(negative=())] = False,
    json: Path | None = None,
    plot: Path | None = None,
    force: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Work out what training a model on many ranks takes: memory, bytes sent, time, and which knob to turn.

    Parameters
    ----------
    model
        A model by name, as gpt2-xl, gpt3-175b, llama-7b, llama2-70b or megatron-1t, or a folder with a config.json;
        without it, the sizes of a model of your own.
    tokens
        Tokens to train on, as 300e9: how many days that takes.
    measure
        Measure this machine instead, and predict our own training step on it, alone and on two ranks: of the GPT that
        `tinygrad-llm train` trains, or of one of your sizes.
    json
        Write all numbers into this file.
    plot
        Draw the memory as bars into this PNG file.
    force
        Replace files that exist.
    """
    for path in (json, plot):
        if path is not None:
            refuse_existing(path, force)
    if plot is not None and plot.suffix.lower() != ".png":
        raise ValueError(f"{plot}: the picture is a PNG; give a name that ends in .png")
    if measure:
        if model or own.architecture != "gpt" or json is not None or plot is not None:
            raise ValueError("--measure: predicts a GPT of our own, and prints; leave model, --json and --plot out")
        return _measure(own.given | ({"context": run.time} if run.time else {}), run.batch_size)
    sizes = _model(model, own.architecture, own.given, run.time)
    made = make_plan(sizes, run.setup(sizes.context), machine.machine())
    wanted = parse_quantity(tokens) if tokens else 0.0
    print("\n".join(lines(made, wanted)))
    _write(made, wanted, json, plot)
    return 0


def _measure(own: dict[str, int], batch_size: int | None) -> int:
    """Predict and measure our own step."""
    if "kv_heads" in own:
        raise ValueError("--kv-heads: a GPT has keys and values in all heads")
    console = Console(stderr=True)
    config = replace(TRAINED, **own)
    with console.status("") as status:
        for line in measured_lines(config, batch_size or BATCH, lambda text: status.update(f"{text} ...")):
            print(line, flush=True)
    return 0


def _model(name: str, architecture: str, own: dict[str, int], time: int | None) -> ModelSizes:
    """The named model, or one of the given sizes; not both."""
    if name:
        if own:
            given = ", ".join("--" + option.replace("_", "-") for option in own)
            raise ValueError(f"{given}: {name} has its own; leave one or the other out")
        return find_model(name)
    if missing := [option for option in ("layers", "channels", "heads") if option not in own]:
        raise ValueError(f"a model by name, or --{', --'.join(missing)} of your own")
    own.setdefault("vocab_size", 50257 if architecture == "gpt" else 32000)
    wide = 4 * own["channels"] if architecture == "gpt" else max(32, round(own["channels"] * 8 / 3 / 32) * 32)
    own.setdefault("feed_forward", wide)
    if own["channels"] % own["heads"]:
        raise ValueError(f"--channels {own['channels']} is not a multiple of --heads {own['heads']}")
    if own["heads"] % own.get("kv_heads", own["heads"]):
        raise ValueError(f"--heads {own['heads']} is not a multiple of --kv-heads {own['kv_heads']}")
    return ModelSizes(
        "",
        own["layers"],
        own["channels"],
        own["heads"],
        own["feed_forward"],
        own["vocab_size"],
        time or 1024,
        architecture == "llama",
        own.get("kv_heads", 0),
        tied=architecture == "gpt",
    )


def _write(made: Plan, tokens: float, json: Path | None, plot: Path | None) -> None:
    if json is not None:
        atomic_write(json, (json_text.dumps(made.plain(tokens), indent=2) + "\n").encode())
        print(f"wrote {json}")
    if plot is not None:
        from tinygrad_llm.parallel.plan_plot import save_plot  # matplotlib is slow to import

        save_plot(made, plot)
        print(f"wrote {plot}")
