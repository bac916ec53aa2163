"""The examples of instruction tuning: read, cleaned, divided, encoded, and told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rich.console import Console

from tinygrad_llm.data import DataError
from tinygrad_llm.data.dialogues import (
    Dialogue,
    distinct_dialogues,
    read_dialogues,
    split_dialogues,
    without_prompts_of,
)
from tinygrad_llm.finetuning.instruct_config import InstructConfig
from tinygrad_llm.finetuning.templates import Encoded, encode_dialogues
from tinygrad_llm.tape import Array
from tinygrad_llm.tokenizer import Tokenizer
from tinygrad_llm.training.progress import counting

LISTED = 10
"""Lines that are named."""


class Examples(NamedTuple):
    """Dialogues, and their ids."""

    dialogues: list[Dialogue]
    encoded: list[Encoded]


class InstructionData(NamedTuple):
    """Examples to train on and to measure with, and the tokens of all prompts and answers, of those that were too long
    too; and examples that are rehearsed: trained on besides."""

    training: Examples
    held_out: Examples
    prompt_lengths: Array
    answer_lengths: Array
    context: int
    rehearsal: Examples = Examples([], [])

    @property
    def digest(self) -> str:
        """SHA-256 of all ids, what of them is learned, and what they are for."""
        parts = [self.training, self.held_out, *([self.rehearsal] if self.rehearsal.encoded else [])]
        content = [[[e.ids.tolist(), e.answers.tolist()] for e in part.encoded] for part in parts]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def instruction_data(config: InstructConfig, tokenizer: Tokenizer, context: int, console: Console) -> InstructionData:
    """The examples that the settings ask for, as the tokenizer's template writes them; what they are, and what was left
    out and why, goes to the console.

    Nothing that is trained on begins like what is held out. An example with more tokens than the context is left out,
    not cut. DataError for files that cannot be used, and if nothing is left.
    """
    dialogues = _read(config.data, console)
    if config.validation_data:
        held_out = _read(config.validation_data, console)
        training = without_prompts_of(dialogues, held_out)
        if left := len(dialogues) - len(training):
            console.print(f"left out    examples to train on that begin as one that is held out: {left:,}")
    else:
        training, held_out = split_dialogues(dialogues, config.validation_share, config.seed)
    with counting(console, "encoding the examples") as progress:
        encoded = encode_dialogues(tokenizer, [*training, *held_out], progress)
    fitting = [len(one.ids) - 1 <= context for one in encoded]  # the last token is predicted, and never read
    prompts = np.array([one.prompt for one in encoded])
    answers = np.array([len(one.ids) for one in encoded]) - prompts
    _tell_lengths(prompts, answers, console)
    _tell_left_out(fitting, answers, len(training), context, console)
    parts = []
    for part, low, name in ((training, 0, "to train on"), (held_out, len(training), "held out")):
        places = [place for place in range(len(part)) if fitting[low + place]]
        if not places:
            raise DataError(
                f"no example {name} is left, as all are longer than {context:,} tokens; a shorter --template, as "
                "chatml, may help, or a model of a longer context"
            )
        parts.append(Examples([part[place] for place in places], [encoded[low + place] for place in places]))
    console.print(f"split       {len(parts[0].dialogues):,} examples to train on, {len(parts[1].dialogues):,} held out")
    rehearsal = (
        _rehearsal(config.rehearsal, held_out, tokenizer, context, console) if config.rehearsal else Examples([], [])
    )
    return InstructionData(parts[0], parts[1], prompts, answers, context, rehearsal)


def _rehearsal(
    path: str, held_out: Sequence[Dialogue], tokenizer: Tokenizer, context: int, console: Console
) -> Examples:
    """The examples of a file that are not held out and fit. DataError if there are none."""
    dialogues = without_prompts_of(_read(path, console), held_out)
    encoded = encode_dialogues(tokenizer, dialogues)
    both = [(d, e) for d, e in zip(dialogues, encoded, strict=True) if len(e.ids) - 1 <= context]
    if not both:
        raise DataError(f"{path}: no example is left to rehearse: all are held out, or longer than {context:,} tokens")
    answers = sum(int(one.answers.sum()) for _, one in both)
    console.print(f"rehearsal   {len(both):,} examples more, spread over each epoch: {answers:,} tokens of answers")
    return Examples([one for one, _ in both], [one for _, one in both])


def _read(path: str, console: Console) -> list[Dialogue]:
    """The different dialogues of a file."""
    found = read_dialogues(path)
    console.print(f"data        {path}: {len(found.dialogues) + len(found.empty):,} examples with {found.form}")
    if found.empty:
        lines = ", ".join(f"{line:,}" for line in found.empty[:LISTED]) + (" ..." if found.empty[LISTED:] else "")
        console.print(f"left out    examples whose answer is empty: {len(found.empty):,} (line {lines})")
    dialogues = distinct_dialogues(found.dialogues)
    if repeated := len(found.dialogues) - len(dialogues):
        console.print(f"left out    repetitions of an example: {repeated:,}")
    return dialogues


def _tell_lengths(prompts: Array, answers: Array, console: Console) -> None:
    console.print("lengths     tokens     half up to   95 % up to   99 % up to      longest")
    for name, lengths in (("prompts", prompts), ("answers", answers), ("both", prompts + answers)):
        quantiles = "  ".join(f"{int(value):>11,}" for value in np.percentile(lengths, [50, 95, 99, 100]))
        console.print(f"            {name:<8} {quantiles}")


def _tell_left_out(fitting: Sequence[bool], answers: Array, training: int, context: int, console: Console) -> None:
    """How many examples are too long, and of which part."""
    too_long = ~np.array(fitting)
    if not too_long.any():
        return
    alone = int((too_long & (answers - 1 > context)).sum())
    console.print(
        f"left out    examples longer than {context:,} tokens: {int(too_long[:training].sum()):,} to train on, "
        f"{int(too_long[training:].sum()):,} held out" + (f" ({alone:,} by the answer alone)" if alone else "")
    )
