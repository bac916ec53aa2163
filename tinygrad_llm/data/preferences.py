"""Preferences: prompts with an answer that was chosen and one that was rejected, from JSON and JSON lines.

An object of a file has ``prompt``, ``chosen`` and ``rejected``. The prompt is text, or the messages of a conversation,
each with ``role`` and ``content``, the last of them the user's; the answers are text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, NamedTuple

from tinygrad_llm.data.dialogues import Dialogue, dialogue_of, plain_messages
from tinygrad_llm.data.document import DataError
from tinygrad_llm.data.objects import read_objects
from tinygrad_llm.data.records import text_value


class Preference(NamedTuple):
    """Two dialogues with the same prompt, of which the first has the better answer."""

    chosen: Dialogue
    rejected: Dialogue

    @property
    def prompt(self) -> tuple[dict[str, str], ...]:
        """What stands before the answer."""
        return self.chosen.prompt


@dataclass(frozen=True)
class Preferences:
    """The pairs of a file, and the lines of those that are left out, since nothing can be learned from them."""

    pairs: list[Preference]
    empty: list[int]
    """With an empty answer."""
    equal: list[int]
    """Whose answers are the same, but for white space."""


def read_preferences(path: str | PathLike[str]) -> Preferences:
    """The pairs of a file.

    DataError lists all faulty objects by the lines that they begin in: broken JSON, missing keys, what is no text,
    empty prompts, messages in an impossible order. Also for a file in which no pair is left.
    """
    pairs, empty, equal = [], [], []
    for line, pair in read_objects(path, preference_of):
        if not (pair.chosen.answer.strip() and pair.rejected.answer.strip()):
            empty.append(line)
        elif pair.chosen.answer.split() == pair.rejected.answer.split():
            equal.append(line)
        else:
            pairs.append(pair)
    if not pairs:
        left_out = f"{len(empty):,} with an empty answer and {len(equal):,} with equal answers"
        raise DataError(f"{path}: no pairs" + (f" but {left_out}" if empty or equal else ""), "empty")
    return Preferences(pairs, empty, equal)


def preference_of(value: dict[str, Any]) -> Preference:
    """What an object of a file says. ValueError for what is wrong with it."""
    prompt = value.get("prompt")
    if not isinstance(prompt, list):
        prompt = [{"role": "user", "content": text_value(prompt, "prompt")}]
    chosen, rejected = (text_value(value.get(name), name) for name in ("chosen", "rejected"))
    return Preference(*(_answered(prompt, answer) for answer in (chosen, rejected)))


def _answered(prompt: list[Any], answer: str) -> Dialogue:
    return dialogue_of({"messages": [*prompt, {"role": "assistant", "content": answer}]})


def distinct_preferences(pairs: Iterable[Preference]) -> list[Preference]:
    """Each once, in their order. One prompt may have several pairs."""
    found: dict[tuple[str, str], Preference] = {}
    for pair in pairs:
        found.setdefault(_answers(pair), pair)
    return list(found.values())


def without_contradictions(pairs: Sequence[Preference]) -> list[Preference]:
    """Those whose two answers do not stand there the other way round too."""
    known = {_answers(pair) for pair in pairs}
    return [pair for pair in pairs if _answers(pair)[::-1] not in known]


def _answers(pair: Preference) -> tuple[str, str]:
    """What was chosen and what was rejected, each with its prompt."""
    return plain_messages(pair.chosen.messages), plain_messages(pair.rejected.messages)
