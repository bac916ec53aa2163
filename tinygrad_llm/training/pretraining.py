"""Pre-training a language model from raw text: corpus, tokenizer, token files, then the loop.

Every stage leaves its result in the run folder, written wholly or not at all, and is skipped when it is found there: so
a run that was stopped at any moment goes on from where it was.
"""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console

from tinygrad_llm import random
from tinygrad_llm.data import (
    Document,
    Split,
    TextFiles,
    TokenFile,
    bigram_bits_per_byte,
    default_corpus,
    gzip_bits_per_byte,
    split,
    write_tokens,
)
from tinygrad_llm.data.files import Errors
from tinygrad_llm.files import atomic_write
from tinygrad_llm.generation import Sampling, generate_text
from tinygrad_llm.models import Decoder, new_model
from tinygrad_llm.parallel.options import Crew
from tinygrad_llm.tape import Array
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.tokenizer import Tokenizer
from tinygrad_llm.training.architectures import model_config
from tinygrad_llm.training.checkpoints import WholeModel, known_tokenizer
from tinygrad_llm.training.config import TrainConfig
from tinygrad_llm.training.evaluation import measure
from tinygrad_llm.training.loop import Batch, Task
from tinygrad_llm.training.masked import MaskedLanguageModeling
from tinygrad_llm.training.metrics import read_metrics
from tinygrad_llm.training.progress import counting, waiting
from tinygrad_llm.training.running import ready, run_folder, run_task, settled
from tinygrad_llm.training.runs import RunFiles
from tinygrad_llm.training.spans import SpanCorruption
from tinygrad_llm.training.vocabulary import train_tokenizer

MEASURED_DURING, MEASURED_AFTER, COUNTED = 16_384, 262_144, 8_000_000
"""Tokens of held-out text that are measured during and after training, and tokens that the bigram model counts: all of
the default corpus, but bounded for a large one."""


class LanguageModeling:
    """Next-token prediction on windows drawn from a token file."""

    unit = "tokens"

    def __init__(self, config: TrainConfig, training: TokenFile, validation: TokenFile, tokenizer: Tokenizer) -> None:
        self.config, self.training, self.validation, self.tokenizer = config, training, validation, tokenizer

    def batch(self, step: int, part: int) -> Batch:
        generator = random.stream(self.config.seed, "batch", step, part)
        inputs, targets = self.training.batch(self.config.batch_size, self.config.context, generator)
        return Batch((inputs, targets), targets.size)

    def loss(self, model: Decoder, batch: Batch) -> Tensor:
        inputs, targets = batch.arrays
        return model.loss(inputs, targets, reduction="sum")

    def validate(self, model: Decoder) -> dict[str, float]:
        measured = measure(model, self.tokenizer, self.validation, self.config.batch_size, MEASURED_DURING)
        return {"validation_loss": measured["loss"], "validation_bits_per_byte": measured["bits_per_byte"]}

    def sample(self, model: Decoder) -> str:
        sampling = Sampling(temperature=0.8, top_p=0.95)
        return generate_text(model, self.tokenizer, [""], 200, sampling, self.config.seed)[0]


TASKS: dict[str, Callable[[TrainConfig, TokenFile, TokenFile, Tokenizer], Task]] = {
    "bert": MaskedLanguageModeling,
    "t5": SpanCorruption,
}
"""Of the architectures that do not go on with a text."""

EXAMPLES = {"bert": "Return the [MASK] of the list.", "t5": "Return the <1> of the list."}
"""Their prompts."""


class OneBatch(LanguageModeling):
    """Pre-training on one batch again and again."""

    def __init__(self, arrays: tuple[Array, Array]) -> None:
        self.arrays = arrays

    def batch(self, step: int, part: int) -> Batch:
        return Batch(self.arrays, self.arrays[1].size)


def read_corpus(data: str, errors: Errors = "strict") -> TextFiles | list[Document]:
    """The user's file or folder, or the default corpus if `data` is empty; `errors`: see `read_documents`."""
    return TextFiles(data, errors=errors) if data else default_corpus()


def pretrain(
    config: TrainConfig,
    run: Path,
    resume: bool,
    console: Console,
    given: Collection[str] | None = None,
    brief: bool = False,
    crew: Crew | None = None,
) -> int:
    """Train in the folder `run`, and report; returns the exit status (130 after Ctrl-C, else 0).

    `given` names the settings that were asked for, where some are left to a run that is resumed. `brief` leaves the
    report out, for one training among several: no comparison with simple methods, and no sample is shown.
    `crew` are the processes that share the work, all of which must call this.
    """
    crew = crew or Crew()
    console = crew.console(console)
    with run_folder(run, "train", console, crew):
        return _pretrain(config, run, resume, console, given, brief, crew)


def _pretrain(
    config: TrainConfig,
    run: Path,
    resume: bool,
    console: Console,
    given: Collection[str] | None,
    brief: bool,
    crew: Crew,
) -> int:
    files = RunFiles(run)
    config = TrainConfig(**crew.told(lambda: asdict(settled(config, run, resume, given, console))))
    if crew.mesh.size > 1:  # tried with a model of two tokens, before anything is written
        ready(crew, new_model(model_config(config, 2), config.seed), config)
    prepared = crew.told(lambda: asdict(_prepared(config, files, console)))
    config = TrainConfig(**prepared)
    tokenizer, training, validation = files.load()
    model = new_model(model_config(config, tokenizer.vocab_size), config.seed)
    about = {"tokenizer": tokenizer.digest, "training_tokens": training.digest}
    task = TASKS.get(config.model, LanguageModeling)(config, training, validation, tokenizer)
    trained = run_task(run, model, WholeModel(model), task, config, about, "train", console, crew)
    if not trained.done or not crew.leads:
        return trained.status
    if brief:
        return 0
    if isinstance(model, Decoder):
        _compare(run, model, tokenizer, training, validation, config, console)
    _show_result(run, EXAMPLES.get(config.model, "def "), console)
    return 0


def _prepared(config: TrainConfig, files: RunFiles, console: Console) -> TrainConfig:
    """The settings, when the tokenizer and the token files that they call for are there."""
    if not files.prepared():
        sides = _read(config, console)  # before anything is written: the text may be unusable
        if not files.config.exists():
            config.save(files.config)
        _prepare(config, files, sides, console)
    return config


def _read(config: TrainConfig, console: Console) -> Split:
    """The text, divided; it is read again at each use, so it need not fit in memory."""
    documents = read_corpus(config.data)
    with waiting(console, "reading the text"):
        sides = split(documents, config.seed, config.validation_share)
    if isinstance(documents, TextFiles) and documents.skipped:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(documents.skipped.items()))
        console.print(f"skipped     files of {config.data}: {counts}")
    return sides


def _prepare(config: TrainConfig, files: RunFiles, sides: Split, console: Console) -> None:
    """Train the tokenizer, unless there is one already, and write the two token files.

    Raises ValueError, before it writes, if the tokenizer is not the one that the run's checkpoints were trained with.
    """
    trained_with = known_tokenizer(files.config.parent)
    if trained_with and files.tokenizer.exists() and Tokenizer.load(files.tokenizer).digest != trained_with:
        raise ValueError(f"{files.tokenizer}: is not the tokenizer that the run's checkpoints were trained with")
    console.print(f"text        {config.data or 'the documentation that comes with Python'}")
    if not files.tokenizer.exists():
        texts = (document.text for document in sides.training)
        train_tokenizer(texts, config.vocab_size, config.pattern, console).save(files.tokenizer)
    tokenizer = Tokenizer.load(files.tokenizer)
    with counting(console, "encoding the text") as progress:
        training = write_tokens(sides.training, tokenizer, files.training, lambda done: progress(done, None))
        validation = write_tokens(sides.validation, tokenizer, files.validation, lambda done: progress(done, None))
    rate = (training.n_bytes + validation.n_bytes) / (len(training) + len(validation))
    console.print(f"tokenizer   {tokenizer.vocab_size:,} tokens, {rate:.2f} bytes per token")
    console.print(
        f"split       {len(training):,} tokens to train on, {len(validation):,} held out "
        f"({training.n_bytes / 1e6:.2f} and {validation.n_bytes / 1e6:.2f} MB)"
    )


def _compare(
    run: Path,
    model: Decoder,
    tokenizer: Tokenizer,
    training: TokenFile,
    validation: TokenFile,
    config: TrainConfig,
    console: Console,
) -> None:
    """Bits per byte beside the simple methods'."""
    with waiting(console, "measuring the held-out text"):
        measured = measure(model, tokenizer, validation, config.batch_size, MEASURED_AFTER)
        compared = compare(tokenizer, training, np.asarray(validation.ids[: measured["tokens"] + 1]))
    report = {"model": measured, "bits_per_byte_of": compared}
    atomic_write(run / "report.json", json.dumps(report, indent=2).encode())
    console.print(f"held out    {measured['loss']:.3f} nats per token, {measured['bits_per_byte']:.3f} bits per byte")
    for name, value in compared.items():
        console.print(f"            {value:.3f} bits per byte: {name}")


def _show_result(run: Path, prompt: str, console: Console) -> None:
    """A sample, where everything is, and how to go on."""
    samples = [row["sample"] for row in read_metrics(run / "metrics.jsonl") if "sample" in row]
    console.print("sample")
    console.print(samples[-1].rstrip() if samples else "")
    console.print(
        f"wrote       {run}{'' if str(run).endswith('/') else '/'}: model.safetensors, loss.png, sample.txt ..."
    )
    console.print(f'next        tinygrad-llm generate {shlex.quote(str(run))} --prompt "{prompt}"')


def compare(tokenizer: Tokenizer, training: TokenFile, held_out: Array) -> dict[str, float]:
    """Bits per byte of simple methods on the held-out ids, as far as they are long enough for them."""
    text = tokenizer.decode_bytes(held_out[held_out != tokenizer.separator_id])
    result = {"gzip -9": gzip_bits_per_byte(text)}
    with contextlib.suppress(ValueError):
        counted = np.asarray(training.ids[:COUNTED])
        result["a bigram model of the same tokens"] = bigram_bits_per_byte(
            counted, held_out, tokenizer.vocab_size, len(text)
        )
    return result
