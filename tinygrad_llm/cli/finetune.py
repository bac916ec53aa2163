"""``tinygrad-llm finetune``: classify, instruct, dpo."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from tinygrad_llm.cli.arguments import Threads, use_threads
from tinygrad_llm.cli.console import plain_console
from tinygrad_llm.cli.train import Parallel, free_name, given_options
from tinygrad_llm.finetuning.classification import prepare_classification
from tinygrad_llm.finetuning.classify_config import ClassifyConfig
from tinygrad_llm.finetuning.dpo_config import DpoConfig
from tinygrad_llm.finetuning.instruct_config import InstructConfig
from tinygrad_llm.finetuning.instruction import prepare_instruction
from tinygrad_llm.finetuning.preferences import prepare_preferences
from tinygrad_llm.finetuning.running import Prepare, finetune
from tinygrad_llm.parallel.launch import world
from tinygrad_llm.parallel.options import Crew, ParallelOptions

app = App(name="finetune", help="Let a trained model go on learning, from examples of one task.")

FOLDER = Path("finetuned")
"""Where a run is written, if nothing else is said."""


@app.command(help_epilogue="Example: tinygrad-llm finetune classify minilm --data reviews.csv --out reviews")
def classify(
    model: str = "",
    /,
    config: Annotated[ClassifyConfig, Parameter(name="*")] = ClassifyConfig(),  # noqa: B008 - frozen
    parallel: Parallel = ParallelOptions(),  # noqa: B008 - frozen
    *,
    out: Path | None = None,
    resume: bool = False,
    threads: Threads = None,
) -> int:
    """Sort texts into classes, as labelled examples show: from any decoder or encoder.

    What is held out is measured beside the most frequent class and a bag of words.

    Parameters
    ----------
    model
        What to begin with, as --model says it.
    out
        Folder to write to; by default "finetuned", or "finetuned-2" and so on if that exists.
    resume
        Go on with the run in --out (by default "finetuned") where its last checkpoint left it.
    """
    return _run(prepare_classification, model, config, parallel, out, resume, threads)


@app.command(help_epilogue="Example: tinygrad-llm finetune instruct smollm2 --data answers.jsonl --out tuned")
def instruct(
    model: str = "",
    /,
    config: Annotated[InstructConfig, Parameter(name="*")] = InstructConfig(),  # noqa: B008 - frozen
    parallel: Parallel = ParallelOptions(),  # noqa: B008 - frozen
    *,
    out: Path | None = None,
    resume: bool = False,
    threads: Threads = None,
) -> int:
    """Answer as examples do: from any decoder, and a JSON list or JSON lines of instructions or conversations.

    An example has instruction, perhaps input, and output; or prompt and completion; or messages. Only answers are
    learned. Held-out prompts are answered before and after; tinygrad-llm chat talks with the result.

    Parameters
    ----------
    model
        What to begin with, as --model says it.
    out
        Folder to write to; by default "finetuned", or "finetuned-2" and so on if that exists.
    resume
        Go on with the run in --out (by default "finetuned") where its last checkpoint left it.
    """
    return _run(prepare_instruction, model, config, parallel, out, resume, threads)


@app.command(help_epilogue="Example: tinygrad-llm finetune dpo smollm2 --data pairs.jsonl --out preferring")
def dpo(
    model: str = "",
    /,
    config: Annotated[DpoConfig, Parameter(name="*")] = DpoConfig(),  # noqa: B008 - frozen
    parallel: Parallel = ParallelOptions(),  # noqa: B008 - frozen
    *,
    out: Path | None = None,
    resume: bool = False,
    threads: Threads = None,
) -> int:
    """Prefer some answers to others, as pairs show: from any decoder, and a JSON list or JSON lines.

    A pair has prompt (a text, or messages), chosen and rejected. The model learns by direct preference optimisation to
    make the chosen answer more probable than the rejected one, compared with what it was before.

    Parameters
    ----------
    model
        What to begin with, as --model says it.
    out
        Folder to write to; by default "finetuned", or "finetuned-2" and so on if that exists.
    resume
        Go on with the run in --out (by default "finetuned") where its last checkpoint left it.
    """
    return _run(prepare_preferences, model, config, parallel, out, resume, threads)


def _run(
    prepare: Prepare[Any],
    model: str,
    config: Any,
    parallel: ParallelOptions,
    out: Path | None,
    resume: bool,
    threads: int | None,
) -> int:
    """Fine-tune with the model that stands without a name, or that of --model."""
    if model and config.model not in ("", model):
        raise ValueError(f"two models are given, {model} and --model {config.model}; leave one out")
    given = given_options.get()
    if model:
        config, given = replace(config, model=model), None if given is None else {*given, "model"}
    use_threads(threads)
    crew = Crew(parallel, world())
    folder = Path(crew.told(lambda: str(out or (FOLDER if resume else free_name(FOLDER)))))
    return finetune(prepare, config, folder, resume, plain_console(), given, crew)
