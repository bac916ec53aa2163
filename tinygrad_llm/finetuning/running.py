"""One fine-tuning, whatever its task: model and examples, what of the model is trained, the loop, the report."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from rich.console import Console

from tinygrad_llm.files import atomic_write
from tinygrad_llm.finetuning.config import FinetuneConfig
from tinygrad_llm.generation.loading import PACKAGES, Loaded, load_pretrained
from tinygrad_llm.memory import peak_memory
from tinygrad_llm.models.adapter_files import AdapterAlone, MergedModel
from tinygrad_llm.models.adapters import LoRASettings, attach, sizes
from tinygrad_llm.models.pretrained import Pretrained
from tinygrad_llm.nn.quantized import quantize
from tinygrad_llm.parallel.options import Crew
from tinygrad_llm.parallel.sharing import blocks_of
from tinygrad_llm.tokenizer import Tokenizer, WordPieceTokenizer
from tinygrad_llm.training.checkpoints import Saver, WholeModel
from tinygrad_llm.training.loop import Task
from tinygrad_llm.training.metrics import read_metrics
from tinygrad_llm.training.progress import counting, waiting
from tinygrad_llm.training.running import run_folder, run_task, settled
from tinygrad_llm.training.runs import RunFiles
from tinygrad_llm.weights.adapters import CONFIG as ADAPTER_CONFIG

NEW_HEADS = "score", "classifier", "pooler"
"""Parts of a model that are trained besides an adapter, if it has them: they begin with random numbers."""

BEFORE, AFTER = "before.json", "report.json"
"""Files of a run: what was measured before training, and at the end."""

CHOSEN = "the best weights were chosen by the held-out examples that are measured here: on others, expect a little less"
"""What the report owns to, unless the last weights are kept."""

Config = TypeVar("Config", bound=FinetuneConfig)


class FinetuneTask(Task, Protocol):
    """A `Task` with all that it was made of."""

    next_command: str
    """What to do with the result: a command, in which RUN stands for its folder."""

    @property
    def model(self) -> Pretrained:
        """What is trained."""

    @property
    def tokenizer(self) -> Tokenizer | WordPieceTokenizer:
        """What belongs to the model, and is saved with it."""

    @property
    def training_examples(self) -> int:
        """How many there are to train on."""

    @property
    def data_digest(self) -> str:
        """Of the examples: a run is not resumed with others."""

    def measure_before(self, console: Console) -> dict[str, Any]:
        """What the report will compare with, as JSON can say it: measured once, before the first step."""

    def begin(self, before: dict[str, Any]) -> None:
        """Take what training needs of it: called once, before the first step of each process. ValueError if it does not
        belong to this model or these examples."""

    def report(self, run: Path, before: dict[str, Any], console: Console) -> dict[str, Any]:
        """Print how well it went and leave pictures in the folder; all numbers, as JSON can say them."""


Prepare = Callable[[Config, Loaded, Console], FinetuneTask]
"""Reads the examples, says what they are, and makes the task; ValueError for what is wrong with them."""


def finetune(
    prepare: Prepare[Config],
    config: Config,
    run: Path,
    resume: bool,
    console: Console,
    given: Collection[str] | None = None,
    crew: Crew | None = None,
) -> int:
    """Fine-tune in the folder `run`, and report; returns the exit status (130 after Ctrl-C, else 0).

    `given` names the settings that were asked for, where some are left to a run that is resumed. `crew` are the
    processes that share the work, all of which must call this.
    """
    command, crew = f"finetune {config.kind}", crew or Crew()
    console = crew.console(console)
    with run_folder(run, command, console, crew):
        config = type(config)(**crew.told(lambda: asdict(settled(config, run, resume, given, console))))
        if not config.model:
            raise ValueError(f"{command}: give the model to begin with: a folder, a GGUF file, smollm2 or minilm")
        if not config.data:
            raise ValueError(f"{command}: give a file of examples with --data")
        with waiting(console, f"reading {config.model}"):
            loaded = load_pretrained(config.model)
        task = prepare(config, loaded, console)
        config = config.counted(task.training_examples, task.model.config.channels)
        saver = adapted(task.model, config, loaded.path, console)
        if crew.leads:
            task.tokenizer.save(run / task.tokenizer.FILE)
            config.save(RunFiles(run).config)
        before = crew.told(lambda: _before(task, run, console))
        task.begin(before)
        about = {"data": task.data_digest}
        trained = run_task(run, task.model, saver, task, config, about, command, console, crew)
        if not trained.done or not crew.leads:
            return trained.status
        measured = task.report(run, before, console)
        if config.best:
            measured["note"] = CHOSEN
            console.print(f"note        {CHOSEN}")
        measured["training"] = _tell_cost(run, console)
        atomic_write(run / AFTER, json.dumps(measured, indent=2).encode() + b"\n")
        console.print(f"wrote       {run}: {saver.files[1]}, {AFTER}, loss.png, metrics.jsonl ...")
        console.print(f"next        tinygrad-llm {task.next_command.replace('RUN', shlex.quote(str(run)))}")
    return 0


def adapted(model: Pretrained, config: FinetuneConfig, base: Path, console: Console) -> Saver:
    """Settle what of the model is trained, an adapter or weights of its own, and so what is saved of it."""
    if not config.lora:
        freeze(model, config.blocks)
        if not any(parameter.requires_grad and parameter.ndim > 1 for parameter in model.parameters()):
            raise ValueError("--blocks 0: only a norm would be trained, as the head is the embedding; train a block")
        return WholeModel(model)
    settings = LoRASettings.parse(config.lora)
    heads = [name for name in NEW_HEADS if getattr(model, name, None) is not None]
    if not heads and (base / ADAPTER_CONFIG).exists():
        raise ValueError(
            f"--lora: {base} is an adapter itself, and an adapter on another could not be read elsewhere; merge it "
            f"first: tinygrad-llm convert {base} merged"
        )
    if config.weights != "float32":
        if heads:
            raise ValueError(f"--weights {config.weights}: with a new head, all weights are saved, in float32 only")
        with counting(console, f"rounding the weights to {config.weights}") as progress:
            quantize(model, config.weights, progress)
    attach(model, settings, config.seed, heads)
    count = sizes(model)
    if not count.trained:
        raise ValueError(f"--lora {config.lora}: nothing would be trained; give a rank of at least 1, as in r=8")
    trained, frozen = f"{count.trained_bytes / 1e6:,.1f} MB", f"{count.frozen_bytes / 1e6:,.1f} MB"
    console.print(f"adapter     {count.trained:,} numbers are trained ({trained}) beside {count.frozen:,} ({frozen})")
    if heads:
        return MergedModel(model)
    return AdapterAlone(model, config.model if config.model in PACKAGES else str(base.resolve()))


def freeze(model: Any, blocks: int) -> None:
    """Train only what stands after the blocks, or a recurrent model's layers, and the last `blocks` of these; -1 trains
    everything."""
    if blocks == -1:
        return
    stack = blocks_of(model) or list(getattr(model, "recurrent", ()))
    if not stack:
        raise ValueError(
            f"--blocks {blocks}: a {type(model).__name__} has no blocks of which some could be frozen; leave it out"
        )
    if blocks > len(stack):
        raise ValueError(f"--blocks {blocks}: the model has {len(stack)}")
    lower = {id(p) for block in stack[: len(stack) - blocks] for p in block.parameters()}
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "embedding" not in name and id(parameter) not in lower


def _tell_cost(run: Path, console: Console) -> dict[str, Any]:
    """How long a step took, and the most memory that this process held, on the console and to be saved."""
    seconds = [row["seconds"] for row in read_metrics(run / "metrics.jsonl") if "seconds" in row]
    middle, peak = float(np.median(seconds)), peak_memory()
    memory = "" if peak is None else f", and {peak / 1e9:.2f} GB of memory were held at most"
    console.print(f"cost        {len(seconds):,} steps, half of them within {middle:.3g} s{memory}")
    return {"steps": len(seconds), "median_step_seconds": middle, "peak_memory_bytes": peak}


def _before(task: FinetuneTask, run: Path, console: Console) -> dict[str, Any]:
    """What was measured before the first step of the run, now or when it began."""
    file = run / BEFORE
    if not file.exists():
        measured = task.measure_before(console)
        kept = {"data": task.data_digest, "measured": measured}
        atomic_write(file, json.dumps(kept, indent=2).encode() + b"\n")
        return measured
    kept = json.loads(file.read_text(encoding="utf-8"))
    if kept["data"] != task.data_digest:
        raise ValueError(f"{file}: was measured on other examples than these; begin another run with --out")
    return dict(kept["measured"])
