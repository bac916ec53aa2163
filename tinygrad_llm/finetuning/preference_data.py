"""The pairs that preferences are learned from: read, cleaned, divided, encoded, and told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rich.console import Console

from tinygrad_llm.data import DataError
from tinygrad_llm.data.dialogues import split_dialogues, without_prompts_of
from tinygrad_llm.data.preferences import (
    Preference,
    distinct_preferences,
    read_preferences,
    without_contradictions,
)
from tinygrad_llm.finetuning.dpo_config import DpoConfig
from tinygrad_llm.finetuning.packing import shifted
from tinygrad_llm.finetuning.templates import Encoded, encode_dialogues
from tinygrad_llm.tape import Array
from tinygrad_llm.tokenizer import Tokenizer
from tinygrad_llm.training.progress import counting

LISTED = 10
"""Lines that are named."""

Sequences = tuple[tuple[Array, Array], tuple[Array, Array]]
"""Of a pair: inputs and targets of the chosen and of the rejected one."""


class Pairs(NamedTuple):
    """Preferences, the inputs and targets of their answers, and the ids of their prompts."""

    preferences: list[Preference]
    sequences: list[Sequences]
    prompts: list[Array]


class PreferenceData(NamedTuple):
    """Pairs to train on and to measure with."""

    training: Pairs
    held_out: Pairs

    @property
    def digest(self) -> str:
        """SHA-256 of all ids, what of them is an answer, and what they are for."""
        content = [
            [[[ids.tolist(), targets.tolist()] for ids, targets in both] for both in part.sequences] for part in self
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def preference_data(config: DpoConfig, tokenizer: Tokenizer, context: int, console: Console) -> PreferenceData:
    """The pairs that the settings ask for, as the tokenizer's template writes them.

    What they are, and what was left out and why, goes to the console.

    Nothing that is trained on begins like what is held out. A pair with more tokens than the context is left out, not
    cut. DataError for files that cannot be used, and if nothing is left.
    """
    pairs = _read(config.data, console)
    if config.validation_data:
        held_out = _read(config.validation_data, console)
        training = without_prompts_of(pairs, held_out)
        if left := len(pairs) - len(training):
            console.print(f"left out    pairs to train on that begin as one that is held out: {left:,}")
    else:
        training, held_out = split_dialogues(pairs, config.validation_share, config.seed)
    everything = [*training, *held_out]
    with counting(console, "encoding the pairs") as progress:
        encoded = encode_dialogues(tokenizer, [dialogue for pair in everything for dialogue in pair], progress)
    both = list(zip(encoded[::2], encoded[1::2], strict=True))
    _tell_lengths(both, console)
    parts = []
    for low, part, name in ((0, training, "to train on"), (len(training), held_out, "held out")):
        fitting = [place for place in range(low, low + len(part)) if _length(both[place]) <= context]
        if left := len(part) - len(fitting):
            console.print(f"left out    pairs {name} longer than {context:,} tokens: {left:,}")
        if not fitting:
            raise DataError(f"no pair {name} is left" + (f": all are longer than {context:,} tokens" if part else ""))
        parts.append(_pairs([everything[place] for place in fitting], [both[place] for place in fitting]))
    console.print(f"split       {len(parts[0].sequences):,} pairs to train on, {len(parts[1].sequences):,} held out")
    return PreferenceData(*parts)


def _pairs(preferences: list[Preference], encoded: Sequence[tuple[Encoded, Encoded]]) -> Pairs:
    """Only the last answer of each dialogue is what was chosen or rejected."""
    sequences = [tuple(shifted(one.ids, np.arange(len(one.ids)) >= one.prompt) for one in both) for both in encoded]
    return Pairs(preferences, sequences, [chosen.ids[: chosen.prompt] for chosen, _ in encoded])  # type: ignore[arg-type]


def _length(both: tuple[Encoded, Encoded]) -> int:
    """Tokens that are read of the longer one: the last is predicted only."""
    return max(len(one.ids) for one in both) - 1


def _read(path: str, console: Console) -> list[Preference]:
    """The different pairs of a file."""
    found = read_preferences(path)
    total = len(found.pairs) + len(found.empty) + len(found.equal)
    console.print(f"data        {path}: {total:,} pairs")
    for lines, what in ((found.empty, "an answer is empty"), (found.equal, "both answers are the same")):
        if lines:
            listed = ", ".join(f"{line:,}" for line in lines[:LISTED]) + (" ..." if lines[LISTED:] else "")
            console.print(f"left out    pairs of which {what}: {len(lines):,} (line {listed})")
    distinct = distinct_preferences(found.pairs)
    if repeated := len(found.pairs) - len(distinct):
        console.print(f"left out    repetitions of a pair: {repeated:,}")
    pairs = without_contradictions(distinct)
    if contradicting := len(distinct) - len(pairs):
        console.print(f"left out    pairs that stand there the other way round too: {contradicting:,}")
    return pairs


def _tell_lengths(encoded: Sequence[tuple[Encoded, Encoded]], console: Console) -> None:
    console.print("lengths     tokens      half up to   95 % up to   99 % up to      longest")
    prompts = [chosen.prompt for chosen, _ in encoded]
    answers = [[len(one.ids) - one.prompt for one in some] for some in zip(*encoded, strict=True)]
    for name, lengths in (("prompts", prompts), ("chosen", answers[0]), ("rejected", answers[1])):
        quantiles = "  ".join(f"{int(value):>11,}" for value in np.percentile(lengths, [50, 95, 99, 100]))
        console.print(f"            {name:<9} {quantiles}")
