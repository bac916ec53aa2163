"""The tokenizer in a GGUF file: llama.cpp's `tokenizer.ggml.*`, for byte-level BPE (there called "gpt2").

`tokens` (in the characters of `alphabet`; special ones as they are), `token_type`, `merges`, `pre` (a name for the
pattern), `bos_token_id`, `eos_token_id`, `add_bos_token`, `add_eos_token`, and `tokenizer.chat_template`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinygrad_llm.gguf_metadata import read_metadata
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
_NORMAL, _UNUSED = 1, 5
_SPECIAL = (2, 3, 4)  # unknown, control, user-defined


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
    return Parts(
        tokens,
        merges,
        specials | (given.special_tokens or {}),
        pattern,
        whole_words=pattern == "llama3",  # as llama.cpp and the model's own tokenizer.json have it
        normal_form="NFC" if pattern == "qwen2" else "",  # so the model's own tokenizer.json
        conventions=_conventions(values, len(texts), pattern == "llama3"),
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
