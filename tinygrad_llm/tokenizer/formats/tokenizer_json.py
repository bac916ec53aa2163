"""Hugging Face's `tokenizer.json`, for byte-level BPE: what we write, and what we can read without a difference.

The parts of the file: `model` (vocab: token to id; merges in order), `pre_tokenizer` (the pattern), `added_tokens`
(the special tokens), `decoder`. Tokens are written in the characters of `alphabet`. Whatever would change the ids and
is not built here (a normalizer, dropout, a prefix space ...) is refused by name, never ignored.
"""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

from tinygrad_llm.files import atomic_write
from tinygrad_llm.tokenizer.alphabet import from_characters, to_characters
from tinygrad_llm.tokenizer.formats.parts import Parts
from tinygrad_llm.tokenizer.pretokenize import hugging_face_text, pattern_name

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


# ---- writing


def save(path: str | PathLike[str], parts: Parts) -> None:
    """Write the file: beside, flushed to the disk, then renamed, so that no reader ever sees half of it."""
    content = json.dumps(_to_json(parts), ensure_ascii=False, indent=1) + "\n"
    atomic_write(Path(path), content.encode("utf-8"))


def _to_json(parts: Parts) -> dict[str, Any]:
    written = {number: to_characters(token) for token, number in parts.tokens.items()}
    vocab = {text: number for number, text in written.items()} | parts.special_tokens
    added = [_added_token(name, number) for name, number in parts.special_tokens.items()]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "normalizer": None,
        "pre_tokenizer": _pre_tokenizer(parts.pattern),
        "post_processor": None,
        "decoder": _BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": parts.whole_words,
            "vocab": dict(sorted(vocab.items(), key=lambda item: item[1])),
            "merges": [[written[a], written[b]] for a, b in parts.merges],
        },
    }


def _added_token(name: str, number: int) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": number, "content": name, **flags}


def _pre_tokenizer(pattern: str) -> dict[str, Any]:
    """GPT-2's pattern is built into Hugging Face's ByteLevel; any other is spelled out before it."""
    if pattern_name(pattern) == "gpt2":
        return _BYTE_LEVEL
    split = {"type": "Split", "pattern": {"Regex": hugging_face_text(pattern)}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _BYTE_LEVEL | {"use_regex": False}]}


# ---- reading


def load(path: str | PathLike[str]) -> Parts:
    """Read the file. Raises ValueError that names the file and what is wrong with it; OSError if it cannot be read."""
    try:
        return _from_json(json.loads(Path(path).read_bytes().decode("utf-8"), object_pairs_hook=_without_repeats))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a tokenizer.json: no UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not a tokenizer.json, or cut short: {error}") from None
    except RecursionError:
        raise ValueError(f"{path}: not a tokenizer.json: brackets nested too deep") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _without_repeats(items: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(items)
    if len(result) < len(items):
        keys = [key for key, _ in items]
        raise ValueError(f"{next(key for key in result if keys.count(key) > 1)!r} stands twice in one table")
    return result


def _from_json(content: Any) -> Parts:
    model = _field(content, "model", dict)
    if model.get("type", "BPE") != "BPE":
        raise ValueError(f"model type {model['type']!r}, but only byte-level BPE can be read")
    _refuse(model, "model", ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"))
    _refuse(content, "the file", ("normalizer",))
    if content.get("post_processor"):
        kind = _field(content, "post_processor", dict).get("type")
        if kind != "ByteLevel":
            raise ValueError(f"post_processor {kind!r} is not supported")
    specials: dict[str, int] = {}
    for token in _field(content, "added_tokens", list) if content.get("added_tokens") else []:
        specials[_field(token, "content", str)] = _field(token, "id", int)
        _refuse(token, f"added token {token['content']!r}", ("single_word", "lstrip", "rstrip"))
    vocab = _field(model, "vocab", dict)
    for text, number in vocab.items():
        if type(number) is not int:
            raise ValueError(f"vocab: the id of {text!r} is {number!r}, not a whole number")
        if specials.get(text, number) != number:
            raise ValueError(f"special token {text!r} has the ids {specials[text]} and {number}")
    tokens = {from_characters(text): number for text, number in vocab.items() if text not in specials}
    merges = [_merge(merge, rank, vocab) for rank, merge in enumerate(_field(model, "merges", list))]
    pattern = _pattern(_field(content, "pre_tokenizer", dict))
    return Parts(tokens, merges, specials, pattern, bool(model.get("ignore_merges")))


def _field(table: Any, name: str, kind: type) -> Any:
    if not isinstance(table, dict) or name not in table:
        raise ValueError(f"field {name!r} is missing")
    if not isinstance(table[name], kind):
        raise ValueError(f"field {name!r} is a {type(table[name]).__name__}, but must be a {kind.__name__}")
    return table[name]


def _refuse(table: dict[str, Any], where: str, names: tuple[str, ...]) -> None:
    for name in names:
        if table.get(name):
            raise ValueError(f"{where} has {name} {table[name]!r}, which is not supported")


def _merge(merge: Any, rank: int, vocab: dict[str, int]) -> tuple[int, int]:
    """A merge is a pair of tokens; older files write it as one text with a space between."""
    pair = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(pair, list) or len(pair) != 2:
        raise ValueError(f"merge {rank} is {merge!r}, not a pair of tokens")
    for text in pair:
        if not isinstance(text, str) or text not in vocab:
            raise ValueError(f"merge {rank} {merge!r} refers to {text!r}, which is not in the vocab")
    return vocab[pair[0]], vocab[pair[1]]


def _pattern(pre_tokenizer: dict[str, Any]) -> str:
    """The name of the pattern if it is one of ours, else its regular expression."""
    steps = _field(pre_tokenizer, "pretokenizers", list) if "pretokenizers" in pre_tokenizer else [pre_tokenizer]
    match [(step.get("type"), step) for step in steps if isinstance(step, dict)]:
        case [("ByteLevel", {"use_regex": True, "add_prefix_space": False})]:
            return "gpt2"
        case [
            ("Split", {"pattern": {"Regex": str(text)}, "behavior": "Isolated", "invert": False}),
            ("ByteLevel", {"use_regex": False, "add_prefix_space": False}),
        ]:
            return pattern_name(text)
    raise ValueError(
        "pre_tokenizer is neither ByteLevel with its own pattern nor one Split (isolated) and ByteLevel without, "
        f"both without prefix space: {json.dumps(pre_tokenizer)[:200]}"
    )
