"""Hugging Face's `tokenizer_config.json`, which stands beside a tokenizer.json: how a sequence begins and ends, and the
chat template (newer folders keep it in a file of its own, `chat_template.jinja`). All else in it is not ours to follow.

It belongs to the file of exactly the name `tokenizer.json`; one of another name says nothing of this.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinygrad_llm.files import atomic_write
from tinygrad_llm.tokenizer.formats.checks import read_json
from tinygrad_llm.tokenizer.formats.parts import Conventions, Parts

OWNER = "tokenizer.json"
NAME = "tokenizer_config.json"
TEMPLATE_NAME = "chat_template.jinja"


def save(beside: Path, parts: Parts) -> None:
    """Write the file beside the one given, if there is anything to say, or something else is said there."""
    if beside.name != OWNER:
        return
    path, template_path = beside.with_name(NAME), beside.with_name(TEMPLATE_NAME)
    names = {number: name for name, number in parts.special_tokens.items()}
    conventions = parts.conventions
    content = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": names.get(-1 if conventions.bos_id is None else conventions.bos_id),
        "eos_token": names.get(-1 if conventions.eos_id is None else conventions.eos_id),
        "chat_template": conventions.chat_template,
    }
    content = {key: value for key, value in content.items() if value is not None}
    if len(content) > 1 or path.exists():
        atomic_write(path, (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode("utf-8"))
    if template_path.exists():
        atomic_write(template_path, (conventions.chat_template or "").encode("utf-8"))


def load(beside: Path, ids: Mapping[str, int], known: Conventions) -> Conventions:
    """What the file beside the one given adds to what is known. Raises ValueError that names the file."""
    if beside.name != OWNER:
        return known
    path, template_path = beside.with_name(NAME), beside.with_name(TEMPLATE_NAME)
    if path.is_file():
        try:
            known = _read(read_json(path), ids, known)
        except ValueError as error:
            raise ValueError(f"{NAME} beside it: {error}") from None
    if template_path.is_file():
        try:
            known = known._replace(chat_template=template_path.read_text(encoding="utf-8") or None)
        except UnicodeDecodeError as error:
            raise ValueError(f"{TEMPLATE_NAME} beside it: no UTF-8 at byte {error.start}") from None
    return known


def _read(content: Any, ids: Mapping[str, int], known: Conventions) -> Conventions:
    if not isinstance(content, dict):
        raise ValueError(f"a {type(content).__name__}, but must be a table")
    template = content.get("chat_template")
    if isinstance(template, list):  # several, by name
        named = (one for one in template if isinstance(one, dict) and one.get("name") == "default")
        template = next(named, {}).get("template")
    if not isinstance(template, str | None):
        raise ValueError(f"chat_template is a {type(template).__name__}, but must be a text")
    return known._replace(
        bos_id=_id_of("bos_token", content, ids), eos_id=_id_of("eos_token", content, ids), chat_template=template
    )


def _id_of(name: str, content: dict[str, Any], ids: Mapping[str, int]) -> int | None:
    token = content.get(name)
    text = token.get("content") if isinstance(token, dict) else token
    if text is None:
        return None
    if not isinstance(text, str) or text not in ids:
        raise ValueError(f"{name} {text!r} is not in the vocabulary")
    return ids[text]
