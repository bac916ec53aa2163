"""Conversations from the package chatterbot-corpus (BSD), of which only the files of English YAML are read."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinygrad_llm.data.dialogues import Dialogue, dialogue_of, distinct_dialogues, plain_messages
from tinygrad_llm.data.document import DataError
from tinygrad_llm.data.example_sets import ExampleSet, divided
from tinygrad_llm.data.packages import package_file

HELD_OUT = 0.1
ROLES = "user", "assistant"


def corpus_folder() -> Path:
    """The files in the installed package; FileNotFoundError says how to install it."""
    place = "chatterbot_corpus/data/english"
    return package_file("conversations", "chatterbot-corpus", "1.3.3", place, "pyyaml")


def conversation_examples(seed: int = 0, folder: Path | None = None) -> ExampleSet:
    """{messages}: what is said in turns, user and assistant. Each conversation once.

    Conversations that begin with the same question are all held out, or none of them. A last word that nobody answers
    is left out, and so are lines that are no text. DataError for a file that cannot be read.
    """
    found, unanswered, wrong = [], 0, 0
    for said in read_conversations(corpus_folder() if folder is None else folder):
        texts = [text.strip() for text in said if isinstance(text, str) and text.strip()]
        if len(texts) < max(2, len(said)):
            wrong += 1
            continue
        unanswered += len(texts) % 2
        texts = texts[: len(texts) // 2 * 2]
        messages = [{"role": ROLES[place % 2], "content": text} for place, text in enumerate(texts)]
        found.append(dialogue_of({"messages": messages}))
    different = distinct_dialogues(found)
    training, held_out = divided(
        different, [plain_messages(one.messages[:1]).lower() for one in different], HELD_OUT, seed
    )
    notes = [
        f"left out {len(found) - len(different):,} repetitions",
        f"left out {unanswered:,} last words that nobody answers, and {wrong:,} that are no conversations",
    ]
    return ExampleSet(_examples(training), _examples(held_out), notes)


def _examples(dialogues: list[Dialogue]) -> list[dict[str, Any]]:
    return [{"messages": list(dialogue.messages)} for dialogue in dialogues]


def read_conversations(folder: Path) -> Iterator[list[Any]]:
    """What each file has under ``conversations``, in the order of their names."""
    try:
        yaml: Any = importlib.import_module("yaml")
    except ImportError:
        raise FileNotFoundError(
            "conversations: the package pyyaml, which reads them, is not installed. To have it:\n  pip install pyyaml"
        ) from None
    for file in sorted(folder.glob("*.yml")):
        try:
            found = list(yaml.safe_load(file.read_text(encoding="utf-8"))["conversations"])
        except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise DataError(f"{file}: has no conversations that can be read ({error})") from error
        for said in found:
            yield said if isinstance(said, list) else [said]
