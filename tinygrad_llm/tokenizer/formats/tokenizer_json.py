"""Hugging Face's `tokenizer.json`, for byte-level BPE: what we write, and what we can read without a difference.

The parts of the file: `model` (vocab: token to id; merges in order), `pre_tokenizer` (the pattern), `added_tokens`
(the special tokens), `normalizer` (none, or normal form C), `post_processor` (special tokens before and after each
text), `decoder`. Tokens are written in the characters of `alphabet`. Whatever would change the ids and is not built
here (dropout, a prefix space ...) is refused by name, never ignored.

All added tokens count as special tokens here, whether the file calls them so or not: they are encoded only where that
is allowed. `tokenizer_config.json`, which stands beside, tells more: see there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tinygrad_llm.files import atomic_write
from tinygrad_llm.tokenizer.alphabet import to_characters
from tinygrad_llm.tokenizer.formats import tokenizer_config
from tinygrad_llm.tokenizer.formats.checks import bytes_of_all, check_ids, field, merges_of, read_json, refuse
from tinygrad_llm.tokenizer.formats.parts import Conventions, Parts
from tinygrad_llm.tokenizer.pretokenize import PATTERNS, hugging_face_text, pattern_name
from tinygrad_llm.tokenizer.unicode_text import check_text

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_DIGITS = {"type": "Digits", "individual_digits": True}


# ---- writing


def save(path: Path, parts: Parts) -> None:
    """Write the file: beside, flushed to the disk, then renamed, so that no reader ever sees half of it."""
    atomic_write(path, (json.dumps(_to_json(parts), ensure_ascii=False, indent=1) + "\n").encode("utf-8"))
    tokenizer_config.save(path, parts)


def _to_json(parts: Parts) -> dict[str, Any]:
    written = {number: to_characters(token) for token, number in parts.tokens.items()}
    vocab = {text: number for number, text in written.items()} | parts.special_tokens
    added = [_added_token(name, number) for name, number in parts.special_tokens.items()]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "normalizer": {"type": parts.normal_form} if parts.normal_form else None,
        "pre_tokenizer": _pre_tokenizer(parts.pattern),
        "post_processor": _post_processor(parts),
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
    name = pattern_name(pattern)
    if name == "gpt2":
        return _BYTE_LEVEL
    if name == "smollm":
        return {"type": "Sequence", "pretokenizers": [_DIGITS, _BYTE_LEVEL]}
    split = {"type": "Split", "pattern": {"Regex": hugging_face_text(pattern)}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _BYTE_LEVEL | {"use_regex": False}]}


def _post_processor(parts: Parts) -> dict[str, Any] | None:
    before, after = parts.conventions.before, parts.conventions.after
    if not before and not after:
        return None
    name_of = {number: name for name, number in parts.special_tokens.items()}
    names = {number: name_of[number] for number in (*before, *after)}

    def around(letter: str, kind: int) -> list[dict[str, Any]]:
        text = {"Sequence": {"id": letter, "type_id": kind}}
        first, last = ([{"SpecialToken": {"id": names[i], "type_id": kind}} for i in ids] for ids in (before, after))
        return [*first, text, *last]

    special = {name: {"id": name, "ids": [number], "tokens": [name]} for number, name in names.items()}
    pair = [*around("A", 0), *around("B", 1)]
    return {"type": "TemplateProcessing", "single": around("A", 0), "pair": pair, "special_tokens": special}


# ---- reading


def load(path: Path) -> Parts:
    """Read the file. Raises ValueError that says what is wrong with it; OSError if it cannot be read."""
    content = read_json(path)
    if isinstance(content, dict) and content and all(type(number) is int for number in content.values()):
        raise ValueError("holds tokens only, no merges; name it vocab.json, and put its merges.txt beside it")
    model = field(content, "model", dict)
    if (kind := model.get("type", "BPE")) != "BPE":
        reader = "; WordPieceTokenizer.load reads it" if kind == "WordPiece" else ""
        raise ValueError(f"model type {kind!r}, but only byte-level BPE can be read{reader}")
    refuse(model, "model", ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"))
    specials = _special_tokens(content)
    vocab = field(model, "vocab", dict)
    for text, number in vocab.items():
        if text in specials and specials[text] != number:
            raise ValueError(f"special token {text!r} has the ids {specials[text]} and {number}")
    check_ids(vocab | specials)
    ordinary = {text: number for text, number in vocab.items() if text not in specials}
    tokens = dict(zip(bytes_of_all(list(ordinary)), ordinary.values(), strict=True))
    merges = merges_of(field(model, "merges", list), vocab)
    pattern = _pattern(field(content, "pre_tokenizer", dict))
    before, after = _around(content.get("post_processor"), specials)
    conventions = tokenizer_config.load(path, specials | vocab, Conventions(before, after))
    whole_words, normal_form = bool(model.get("ignore_merges")), _normal_form(content)
    return Parts(tokens, merges, specials, pattern, whole_words, normal_form, conventions)


def _special_tokens(content: dict[str, Any]) -> dict[str, int]:
    specials: dict[str, int] = {}
    for token in field(content, "added_tokens", list) if content.get("added_tokens") else []:
        name, number = field(token, "content", str), field(token, "id", int)
        if name in specials:
            raise ValueError(f"added token {name!r} stands twice")
        check_text(name)
        specials[name] = number
        refuse(token, f"added token {name!r}", ("single_word", "lstrip", "rstrip"))
    return specials


def _normal_form(content: dict[str, Any]) -> str:
    match content.get("normalizer"):
        case None:
            return ""
        case {"type": "NFC"}:
            return "NFC"
        case {"type": "Sequence", "normalizers": []}:
            return ""
        case {"type": "Sequence", "normalizers": [{"type": "NFC"}]}:
            return "NFC"
        case other:
            raise ValueError(f"normalizer {json.dumps(other)[:100]} is not supported; only NFC is")


def _around(post_processor: Any, specials: dict[str, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids before and after each text."""
    if post_processor is None:
        return (), ()
    step = field({"post_processor": post_processor}, "post_processor", dict)
    steps = field(step, "processors", list) if step.get("type") == "Sequence" else [step]
    found: tuple[tuple[int, ...], tuple[int, ...]] = (), ()
    for step in steps:
        match step:
            case {"type": "ByteLevel"}:  # moves offsets only, which we have none of
                pass
            case {"type": "TemplateProcessing", "single": list(single)} if found == ((), ()):
                found = _template(single, specials)
            case _:
                raise ValueError(f"post_processor {json.dumps(step)[:100]} is not supported")
    return found


def _template(single: list[Any], specials: dict[str, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    sides: list[list[int]] = [[]]
    for piece in single:
        match piece:
            case {"Sequence": _}:
                sides.append([])
            case {"SpecialToken": {"id": str(name)}} if name in specials:
                sides[-1].append(specials[name])
            case _:
                raise ValueError(f"post_processor: {json.dumps(piece)[:100]} is no special token of this vocabulary")
    if len(sides) != 2:
        raise ValueError("post_processor: a TemplateProcessing without its text, or with two")
    return tuple(sides[0]), tuple(sides[1])


def _pattern(pre_tokenizer: dict[str, Any]) -> str:
    """The name of the pattern if it is one of ours, else its regular expression."""
    steps = field(pre_tokenizer, "pretokenizers", list) if "pretokenizers" in pre_tokenizer else [pre_tokenizer]
    match [(step.get("type"), step) for step in steps if isinstance(step, dict)]:
        case [("ByteLevel", {"use_regex": True, "add_prefix_space": False})]:
            return "gpt2"
        case [
            ("Digits", {"individual_digits": True}),
            ("ByteLevel", {"use_regex": True, "add_prefix_space": False}),
        ]:
            return "smollm"
        case [
            ("Split", {"pattern": {"Regex": str(text)}, "behavior": str(behavior), "invert": bool(invert)}),
            ("ByteLevel", {"use_regex": False, "add_prefix_space": False}),
        ]:
            name = pattern_name(text)
            if (behavior, invert) == ("Isolated", False):
                return name
            if (behavior, invert) == ("Removed", True) and name in PATTERNS:
                return name  # what no match covers is removed; but these cover everything
    raise ValueError(
        "pre_tokenizer is none of: ByteLevel with its own pattern, after Digits (individual) or not; or one Split "
        f"(isolated) and ByteLevel without; all without prefix space: {json.dumps(pre_tokenizer)[:200]}"
    )
