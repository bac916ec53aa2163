"""Sets of examples to fine-tune on that are made from what is on the machine: what they have in common."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tinygrad_llm import random
from tinygrad_llm.data.document import DataError
from tinygrad_llm.files import atomic_write

Item = TypeVar("Item")


class ExampleSet(NamedTuple):
    """Examples to train on, and others to measure with; `notes` tell what was left out, and why."""

    training: list[dict[str, Any]]
    held_out: list[dict[str, Any]]
    notes: list[str]


def write_examples(path: Path, examples: Sequence[dict[str, Any]]) -> None:
    """As JSON lines, wholly or not at all."""
    lines = [json.dumps(example, ensure_ascii=False) + "\n" for example in examples]
    atomic_write(path, "".join(lines).encode("utf-8", "replace"))


def divided(
    items: Sequence[Item], groups: Sequence[Hashable], share: float, seed: int
) -> tuple[list[Item], list[Item]]:
    """(training, held out), both in their order, of N items and the groups that they belong to (N).

    Of the different groups `share` are held out, chosen by chance, with all that is in them. DataError if there is one
    only.
    """
    different = list(dict.fromkeys(groups))
    if len(different) < 2:
        raise DataError(f"{len(different)} examples were found; at least two are needed, one of them to be held out")
    count = min(max(1, round(share * len(different))), len(different) - 1)
    order = random.stream(seed, "held out").permutation(len(different))
    chosen = {different[place] for place in order[:count]}
    parts: tuple[list[Item], list[Item]] = ([], [])
    for item, group in zip(items, groups, strict=True):
        parts[group in chosen].append(item)
    return parts
