"""``tinygrad-llm eval``."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console

from tinygrad_llm.cli.arguments import Threads, use_threads
from tinygrad_llm.cli.console import plain_console
from tinygrad_llm.data import TextFiles
from tinygrad_llm.files import atomic_write
from tinygrad_llm.generation.loading import Loaded, load_pretrained
from tinygrad_llm.memory import keep_freed_memory
from tinygrad_llm.models import Bert
from tinygrad_llm.models.sentences import embed
from tinygrad_llm.study.lookup import refuse_existing
from tinygrad_llm.tokenizer import WordPieceTokenizer
from tinygrad_llm.training import WeightKind, evaluate_text, rounded
from tinygrad_llm.training.choices import Question, measure_choices, read_questions
from tinygrad_llm.training.progress import counting
from tinygrad_llm.training.similarity import Pair, measure_similarity, read_pairs

Count = Annotated[int, Parameter(validator=Number(gte=0), show_default=False)]


def evaluate(
    model: str,
    *,
    data: str = "",
    stride: Count = 0,
    context: Count = 0,
    choices: Path | None = None,
    similarity: Path | None = None,
    weights: WeightKind = "float32",
    json: Path | None = None,
    force: bool = False,
    threads: Threads = None,
) -> int:
    """Measure a model: loss, perplexity and bits per byte of a text, answers to multiple choice, sentence similarity.

    Parameters
    ----------
    model
        Folder that tinygrad-llm train wrote, Hugging Face folder, GGUF file, or smollm2 or minilm for the packages'
        models.
    data
        File or folder of UTF-8 text; by default the text that the run held out, unless something else is measured.
    stride
        Move the window on by so many tokens, so that each token has at least context - stride before it; by default
        windows do not overlap. Slower, and nearer to what the model can do.
    context
        Tokens of a window, to compare models of different contexts; by default as many as the model takes.
    choices
        File of JSON lines {"question": text, "choices": [text, ...], "answer": index}, counted from 0: the share of
        questions whose right choice the model finds the most probable.
    similarity
        For an encoder: file of JSON lines [sentence, sentence, score], or of the same with tabs between if its name
        ends in .tsv: the correlation of the cosines with the scores.
    weights
        Bits of a weight: what `generate` would lose by fewer of them.
    json
        Write what was measured into this file too.
    force
        Replace the file of --json.
    """
    use_threads(threads)
    keep_freed_memory()
    console = plain_console(stderr=True)
    if json is not None:
        refuse_existing(json, force)
    if data:
        TextFiles(data)
    elif (stride or context) and (choices or similarity):
        raise ValueError("--stride and --context are for a text; give one with --data")
    questions = None if choices is None else read_questions(choices)
    pairs = None if similarity is None else read_pairs(similarity)
    loaded = load_pretrained(model)
    if isinstance(loaded.model, Bert):
        if pairs is None or questions or data or weights != "float32":
            raise ValueError(f"{model}: an encoder is measured with --similarity FILE, and with nothing else")
        measured = _similarity(loaded, pairs, console)
    elif pairs is not None:
        raise ValueError(f"{model}: holds a {type(loaded.model).__name__}; --similarity is for an encoder, as minilm")
    else:
        measured = _language_model(loaded, data, stride, context, questions, weights, console)
    for name, value in measured.items():
        print(f"{name:<16} {value:,.4f}" if isinstance(value, float) else f"{name:<16} {value:,}")
    if json is not None:
        atomic_write(json, json_format.dumps({"model": model, **measured}, indent=2).encode() + b"\n")
    return 0


def _language_model(
    loaded: Loaded,
    data: str,
    stride: int,
    context: int,
    questions: list[Question] | None,
    weights: WeightKind,
    console: Console,
) -> dict[str, Any]:
    """Of a text, unless there are only questions."""
    model, tokenizer = rounded(loaded, weights, console)
    measured: dict[str, Any] = {}
    if data or questions is None:
        measured |= evaluate_text(loaded.path, model, tokenizer, data, console, stride, context)
    if questions is not None:
        with counting(console, "answering") as progress:
            measured |= measure_choices(model, tokenizer, questions, progress)
    return measured


def _similarity(loaded: Loaded, pairs: list[Pair], console: Console) -> dict[str, Any]:
    model, tokenizer = loaded.model, loaded.tokenizer
    assert isinstance(model, Bert)
    if not isinstance(tokenizer, WordPieceTokenizer):
        raise ValueError(f"{loaded.path}: an encoder needs the tokenizer it was trained with, in vocab.txt")
    with counting(console, "embedding") as progress:
        return measure_similarity(
            lambda some: embed(model, tokenizer, some, progress=lambda n: progress(n, len(some))), pairs
        )
