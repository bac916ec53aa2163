"""Instructions with answers, and conversations: from JSON and JSON lines, divided so that no prompt is on both sides.

A file holds a JSON list, or a JSON object in each line. An object has ``instruction`` and ``output``, and perhaps an
``input``, as those of Alpaca; or ``prompt`` and ``completion``; or ``messages``, each with ``role`` and ``content``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from os import PathLike
from typing import Any, NamedTuple, Protocol, TypeVar

from tinygrad_llm import random
from tinygrad_llm.data.document import DataError
from tinygrad_llm.data.objects import read_objects
from tinygrad_llm.data.records import text_value

FORMS = {"messages": "messages", "instruction": "instruction and output", "prompt": "prompt and completion"}
"""By the key that tells them: the forms of an object."""


class Dialogue(NamedTuple):
    """Messages of which the last is the assistant's: the answer to all before it."""

    messages: tuple[dict[str, str], ...]

    @property
    def prompt(self) -> tuple[dict[str, str], ...]:
        """What stands before the answer."""
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        """What is to be said."""
        return self.messages[-1]["content"]

    @property
    def asked(self) -> str:
        """The last message before the answer."""
        return self.messages[-2]["content"]


class Prompted(Protocol):
    """What has a prompt: a dialogue, or a pair of answers."""

    @property
    def prompt(self) -> tuple[dict[str, str], ...]:
        """The messages before the answer."""


Asking = TypeVar("Asking", bound=Prompted)


@dataclass(frozen=True)
class Dialogues:
    """The dialogues of a file."""

    dialogues: list[Dialogue]
    form: str
    """What an object of the file has; several forms are joined by commas."""
    empty: list[int]
    """Lines of objects that have an empty answer, from which nothing can be learned: they are left out."""


# ---- files


def read_dialogues(path: str | PathLike[str]) -> Dialogues:
    """The dialogues of a file.

    DataError lists all faulty objects by the lines that they begin in: broken JSON, missing keys, what is no text,
    empty prompts, messages in an impossible order. Also for a file all of whose answers are empty.
    """
    dialogues, empty, forms = [], [], []
    for line, (form, dialogue) in read_objects(path, _formed):
        forms.append(FORMS[form])
        if all(m["content"].strip() for m in dialogue.messages if m["role"] == "assistant"):
            dialogues.append(dialogue)
        else:
            empty.append(line)
    if not dialogues:
        why = f"all {len(empty):,} answers are empty" if empty else "has no examples"
        raise DataError(f"{path}: {why}", "empty")
    return Dialogues(dialogues, ", ".join(dict.fromkeys(forms)), empty)


# ---- one object


def dialogue_of(value: Mapping[str, Any]) -> Dialogue:
    """What an object of a file says. ValueError for what is wrong with it."""
    return _formed(value)[1]


def _formed(value: Mapping[str, Any]) -> tuple[str, Dialogue]:
    """(the key that tells the form of an object, what it says)."""
    form = _form_of(value)
    return form, _dialogue(value, form)


def _form_of(value: Mapping[str, Any]) -> str:
    """The key that tells the form of an object."""
    for key in FORMS:
        if key in value:
            return key
    keys = ", ".join(repr(key if len(key) <= 30 else f"{key[:27]}...") for key in list(value)[:8]) or "none"
    raise ValueError(f"has neither {', nor '.join(FORMS.values())}; its keys are {keys}")


def _dialogue(value: Mapping[str, Any], form: str) -> Dialogue:
    if form == "messages":
        return Dialogue(tuple(_messages(value["messages"])))
    if form == "prompt":
        asked = {"role": "user", "content": _filled(value["prompt"], "prompt")}
        answer = text_value(value.get("completion"), "completion")
    else:
        asked = _instructed(_filled(value["instruction"], "instruction"), text_value(value.get("input") or "", "input"))
        answer = text_value(value.get("output"), "output")
    return Dialogue((asked, {"role": "assistant", "content": answer}))


def _instructed(instruction: str, given: str) -> dict[str, str]:
    """The message of an instruction and what is given with it: together, and each by itself for a template that has a
    place for both."""
    if not given.strip():
        return {"role": "user", "content": instruction}
    return {"role": "user", "content": f"{instruction}\n\n{given}", "instruction": instruction, "input": given}


def _messages(value: Any) -> Iterator[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise ValueError("messages is not a list of messages")
    roles = []
    for number, message in enumerate(value, 1):
        if not isinstance(message, dict):
            raise ValueError(f"message {number} is not a JSON object, which is written in braces")
        role = text_value(message.get("role"), f"the role of message {number}")
        content = text_value(message.get("content"), f"the content of message {number}")
        if role not in ("system", "user", "assistant"):
            raise ValueError(f"message {number} has the role {role!r}, not system, user or assistant")
        if role == "system" and number > 1:
            raise ValueError(f"message {number} is the system's, which may only be the first")
        if role == "user":
            _filled(content, f"message {number}")
        roles.append(role)
        yield {"role": role, "content": content}
    turns = roles[1:] if roles[0] == "system" else roles
    if turns[:1] != ["user"]:
        raise ValueError("the first message, or that after the system's, is not the user's")
    for number, (before, role) in enumerate(pairwise(turns), len(roles) - len(turns) + 2):
        if before == role:
            raise ValueError(f"message {number} is the {role}'s again; user and assistant take turns")
    if turns[-1] != "assistant":
        raise ValueError("the last message is the user's; there is no answer to learn")


def _filled(value: Any, name: str) -> str:
    text = text_value(value, name)
    if not text.strip():
        raise ValueError(f"{name} is empty")
    return text


# ---- training and held-out examples


def plain_messages(messages: Iterable[Mapping[str, str]]) -> str:
    """What two prompts must have in common to be the same: roles and contents, but for white space."""
    return json.dumps([[message["role"], " ".join(message["content"].split())] for message in messages])


def distinct_dialogues(dialogues: Iterable[Dialogue]) -> list[Dialogue]:
    """Each once, in their order. One prompt may have several answers."""
    found: dict[str, Dialogue] = {}
    for dialogue in dialogues:
        found.setdefault(plain_messages(dialogue.messages), dialogue)
    return list(found.values())


def opening(dialogue: Asking) -> str:
    """How it begins, up to the user's first message, as `plain_messages`: of dialogues that begin alike, one has the
    prompts of another, and the answers to them."""
    roles = [message["role"] for message in dialogue.prompt]
    return plain_messages(dialogue.prompt[: roles.index("user") + 1])


def without_prompts_of(dialogues: Iterable[Asking], held_out: Iterable[Asking]) -> list[Asking]:
    """Those that begin like none of the ones held out."""
    openings = {opening(dialogue) for dialogue in held_out}
    return [dialogue for dialogue in dialogues if opening(dialogue) not in openings]


def split_dialogues(dialogues: Sequence[Asking], share: float, seed: int) -> tuple[list[Asking], list[Asking]]:
    """(training, held out), both in their order: of the different openings `share` are held out, chosen by chance, at
    least one, with all that begins so. DataError if all begin alike."""
    openings = list(dict.fromkeys(opening(dialogue) for dialogue in dialogues))
    if len(openings) < 2:
        raise DataError("there is only one prompt to begin with, so that none can be held out to measure with")
    count = min(max(1, round(share * len(openings))), len(openings) - 1)
    order = random.stream(seed, "split of prompts").permutation(len(openings))
    chosen = {openings[place] for place in order[:count]}
    held_out = [dialogue for dialogue in dialogues if opening(dialogue) in chosen]
    return without_prompts_of(dialogues, held_out), held_out
