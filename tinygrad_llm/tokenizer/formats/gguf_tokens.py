"""The tokenizer in a GGUF file: llama.cpp's `tokenizer.ggml.*`, for byte-level BPE (there called "gpt2").

`tokens` (in the characters of `alphabet`; special ones as they are), `token_type`, `merges`, `pre` (a name for the
pattern), `bos_token_id`, `eos_token_id`, `add_bos_token`, `add_eos_token`, and `tokenizer.chat_template`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinygrad_llm.gguf_metadata import read_metadata
from tinygrad_llm.tokenizer.alphabet import to_characters
from tinygrad_llm.tokenizer.formats.checks import bytes_of_all, check_ids, merges_of
from tinygrad_llm.tokenizer.formats.parts import Conventions, Given, Parts

# llama.cpp's names of patterns
_PATTERNS = {
    "gpt-2": "gpt2",
    "smollm": "smollm",
    "starcoder": "smollm",
    "refact": "smollm",
    "llama-bpe": "llama3",
    "llama-v3": "llama3",
    "llama3": "llama3",
    "qwen2": "qwen2",
    "deepseek-r1-qwen": "qwen2",
    "gpt-4o": "o200k",
}
# types of tokens
_NORMAL, _CONTROL, _UNUSED = 1, 3, 5
_SPECIAL = (2, 3, 4)  # unknown, control, user-defined


def values_of(parts: Parts, rows: int) -> dict[str, Any]:
    """Names and values that stand for a tokenizer in a GGUF file whose model has `rows` tokens: `load` backwards.

    Raises ValueError for one that such a file cannot hold.
    """
    names = {ours: name for name, ours in reversed(_PATTERNS.items())}
    if parts.pattern not in names:
        raise ValueError(f"GGUF has no name for the pattern {parts.pattern[:60]!r}; it has them for {', '.join(names)}")
    if (parts.whole_words, parts.normal_form) != _habits(parts.pattern):
        raise ValueError(
            f"GGUF cannot say that whole words are {'' if parts.whole_words else 'not '}looked up first and the normal "
            f"form is {parts.normal_form!r} with the pattern {parts.pattern}"
        )
    texts = {number: to_characters(token) for token, number in parts.tokens.items()}
    merges = [f"{texts[a]} {texts[b]}" for a, b in parts.merges]
    if not merges:
        raise ValueError("GGUF has no tokenizer without merges")
    types = dict.fromkeys(texts, _NORMAL) | dict.fromkeys(parts.special_tokens.values(), _CONTROL)
    texts |= {number: name for name, number in parts.special_tokens.items()}
    if max(texts) >= rows:
        raise ValueError(f"the tokenizer has the id {max(texts)}, the model has {rows} tokens")
    values: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": names[parts.pattern],
        "tokenizer.ggml.tokens": [texts.get(number, f"[PAD{number}]") for number in range(rows)],  # as llama.cpp's
        "tokenizer.ggml.token_type": [types.get(number, _UNUSED) for number in range(rows)],
        "tokenizer.ggml.merges": merges,
    }
    around = parts.conventions
    for end, number, added in (("bos", around.bos_id, around.before), ("eos", around.eos_id, around.after)):
        if added not in ((), (number,)):
            raise ValueError(f"GGUF can add the {end} token {number} to a text, but not {list(added)}")
        values |= {f"tokenizer.ggml.add_{end}_token": bool(added)}
        values |= {f"tokenizer.ggml.{end}_token_id": number} if number is not None else {}
    return values | ({"tokenizer.chat_template": around.chat_template} if around.chat_template else {})


def _habits(pattern: str) -> tuple[bool, str]:
    """Whether whole words are looked up first, and the normal form: as the models' own tokenizer.json have them."""
    return pattern == "llama3", "NFC" if pattern == "qwen2" else ""


def load(path: Path, given: Given) -> Parts:
    """Read what belongs to the tokenizer. Raises ValueError with the fault; OSError if the file cannot be read."""
    values = read_metadata(path)
    if (kind := _value(values, "tokenizer.ggml.model", str)) != "gpt2":
        raise ValueError(f'tokenizer.ggml.model is {kind!r}; only byte-level BPE, "gpt2", can be read')
    texts = _value(values, "tokenizer.ggml.tokens", list)
    types = _value(values, "tokenizer.ggml.token_type", list, [_NORMAL] * len(texts))
    if len(types) != len(texts):
        raise ValueError(f"tokenizer.ggml has {len(texts)} tokens, but {len(types)} of token_type")
    vocab: dict[str, int] = {}
    for number, text in enumerate(texts):
        if vocab.setdefault(text, number) != number:
            raise ValueError(f"tokenizer.ggml.tokens: {text!r} stands twice, as {vocab[text]} and {number}")
    check_ids(vocab)
    specials = {texts[number]: number for number, kind in enumerate(types) if kind in _SPECIAL}
    ordinary = [number for number, kind in enumerate(types) if kind not in (*_SPECIAL, _UNUSED)]
    tokens = dict(zip(bytes_of_all([texts[number] for number in ordinary]), ordinary, strict=True))
    merges = merges_of(_value(values, "tokenizer.ggml.merges", list), vocab)
    pattern = given.pattern or _pattern(values)
    whole_words, normal_form = _habits(pattern)
    return Parts(
        tokens,
        merges,
        specials | (given.special_tokens or {}),
        pattern,
        whole_words,
        normal_form,
        _conventions(values, len(texts), pattern == "llama3"),
    )


def _value(values: dict[str, Any], name: str, kind: type, default: Any = None) -> Any:
    value = values.get(name, default)
    if value is None:
        raise ValueError(f"{name} is missing: no tokenizer in this file")
    if type(value) is not kind:
        raise ValueError(f"{name} is a {type(value).__name__}, but must be a {kind.__name__}")
    return value


def _pattern(values: dict[str, Any]) -> str:
    name = _value(values, "tokenizer.ggml.pre", str, "")
    if name not in _PATTERNS:
        raise ValueError(
            f"tokenizer.ggml.pre is {name!r}, a pattern not known here (known: {', '.join(_PATTERNS)}); "
            "pass pattern= with its regular expression"
        )
    return _PATTERNS[name]


def _conventions(values: dict[str, Any], count: int, begins: bool) -> Conventions:
    ids = {}
    for end in ("bos", "eos"):
        number = values.get(f"tokenizer.ggml.{end}_token_id")
        if number is not None and (type(number) is not int or not 0 <= number < count):
            raise ValueError(f"tokenizer.ggml.{end}_token_id is {number!r}, but there are {count} tokens")
        ids[end] = number
    around = {}
    for end, default in (("bos", begins), ("eos", False)):
        number = ids[end]
        added = _value(values, f"tokenizer.ggml.add_{end}_token", bool, default)
        around[end] = (number,) if added and number is not None else ()
    template = _value(values, "tokenizer.chat_template", str, "")
    return Conventions(around["bos"], around["eos"], ids["bos"], ids["eos"], template or None)
