"""``tinygrad-llm predict``."""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
from cyclopts import Parameter
from cyclopts.validators import Number

from tinygrad_llm.cli.arguments import Threads, use_threads
from tinygrad_llm.data.tables import read_texts
from tinygrad_llm.finetuning.classify_config import ClassifyConfig
from tinygrad_llm.finetuning.predicting import encode_texts, log_probabilities, padding_of
from tinygrad_llm.generation.loading import Loaded, load_pretrained
from tinygrad_llm.memory import keep_freed_memory
from tinygrad_llm.models import Bert
from tinygrad_llm.models.classifier import Classifier, classes_of
from tinygrad_llm.training.runs import RunFiles

Count = Annotated[int, Parameter(validator=Number(gte=1))]


def predict(
    run: str,
    text: Annotated[list[str] | None, Parameter(negative=())] = None,
    /,
    *,
    data: Path | None = None,
    text_column: str = "",
    top: Count = 1,
    json: Annotated[bool, Parameter(negative=())] = False,
    batch_size: Count = 32,
    threads: Threads = None,
) -> int:
    """Tell the classes of texts: of those given, of a file's, or of each line of standard input.

    Each line of the output belongs to a text: its label, the probability of it, and the text, with tabs between.

    Parameters
    ----------
    run
        Folder that tinygrad-llm finetune classify wrote, or Hugging Face folder of a classifier.
    text
        Texts to classify.
    data
        File of texts: CSV, TSV or JSON lines with a column of texts, or any other file with a text in each line.
    text_column
        Column of the texts; by default one with a usual name, as text or sentence.
    top
        Tell so many classes of each text, the most probable first.
    json
        Write each prediction as a line of JSON, with the text as it is.
    batch_size
        Texts that are read before they are classified together. With 1, as always in a terminal, each line of standard
        input is answered at once.
    """
    if text and data is not None:
        raise ValueError("predict: give texts or --data, not both")
    use_threads(threads)
    keep_freed_memory()
    texts: Iterable[str]
    if text:
        texts = text
    elif data is not None:
        texts = read_texts(data, text_column)
    else:
        texts, batch_size = _lines(), 1 if sys.stdin.isatty() else batch_size
    loaded = load_pretrained(run)
    labels = classes_of(loaded.model)
    if not labels:
        raise ValueError(f"{run}: holds a {type(loaded.model).__name__} that is no classifier; train one with finetune")
    for some, found in _predicted(loaded, _context(loaded), texts, batch_size):
        for one, probabilities in zip(some, found, strict=True):
            best = np.argsort(-probabilities, kind="stable")[:top]
            told = [(labels[number], round(float(probabilities[number]), 6)) for number in best]
            print(_json_line(one, told) if json else _line(one, told))
        sys.stdout.flush()
    return 0


def _lines() -> Iterator[str]:
    """Those of standard input that are not blank."""
    for line in sys.stdin:
        if line.strip():
            yield line.rstrip("\r\n")


def _context(loaded: Loaded) -> int:
    """The tokens that the model was trained to read of a text."""
    file = RunFiles(loaded.path).config
    asked = ClassifyConfig.load(file).context if file.is_file() else 0
    return asked or loaded.model.config.context


def _predicted(
    loaded: Loaded, context: int, texts: Iterable[str], batch_size: int
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Some texts at a time, and their probabilities (N, classes)."""
    model, padding = loaded.model, padding_of(loaded.tokenizer)
    assert isinstance(model, (Classifier, Bert))
    texts = iter(texts)
    while some := list(islice(texts, batch_size)):
        rows = encode_texts(loaded.tokenizer, some, context).rows
        yield some, np.exp(log_probabilities(model, rows, padding))


def _line(text: str, told: list[tuple[str, float]]) -> str:
    fields = [field for label, probability in told for field in (label, f"{probability:.3f}")]
    return "\t".join([*fields, " ".join(text.split())])


def _json_line(text: str, told: list[tuple[str, float]]) -> str:
    value = {"text": text, "label": told[0][0], "probability": told[0][1], "probabilities": dict(told)}
    return json_format.dumps(value, ensure_ascii=False)
