"""GPT-2's two files: `encoder.json` (token to id) and `vocab.bpe` (the merges in order), or as Hugging Face calls them,
`vocab.json` and `merges.txt`. Names may have a beginning of their own, as `gpt2-vocab.json` and `gpt2-merges.txt`.

The files do not say how text is cut into words: GPT-2's pattern, unless the caller says otherwise. Nor do they say
which tokens are special: these are the entries that are no byte and that no merge makes, as `<|endoftext|>`.
"""

from __future__ import annotations

import json
from pathlib import Path

from tinygrad_llm.files import atomic_write
from tinygrad_llm.tokenizer.alphabet import to_characters
from tinygrad_llm.tokenizer.formats.checks import bytes_of_all, check_ids, merges_of, read_json
from tinygrad_llm.tokenizer.formats.parts import Given, Parts
from tinygrad_llm.tokenizer.pretokenize import pattern_name

_NAMES = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))


def both_of(path: Path) -> tuple[Path, Path] | None:
    """The two files, if the path is, by its name, one of them."""
    for names in _NAMES:
        for name in names:
            if path.name.endswith(name):
                start = path.name.removesuffix(name)
                return path.with_name(start + names[0]), path.with_name(start + names[1])
    return None


def save(path: Path, parts: Parts) -> None:
    """Write both files. Raises ValueError for a tokenizer that they cannot hold."""
    vocab_path, merges_path = both_of(path) or (path, path)
    if pattern_name(parts.pattern) != "gpt2" or parts.whole_words or parts.normal_form:
        raise ValueError(f"{path}: these files stand for GPT-2's pattern alone; write a tokenizer.json instead")
    written = {number: to_characters(token) for token, number in parts.tokens.items()}
    vocab = {text: number for number, text in written.items()} | parts.special_tokens
    text = json.dumps(dict(sorted(vocab.items(), key=lambda item: item[1])), ensure_ascii=False)
    lines = ["#version: 0.2", *(f"{written[a]} {written[b]}" for a, b in parts.merges), ""]
    atomic_write(vocab_path, text.encode("utf-8"))
    atomic_write(merges_path, "\n".join(lines).encode("utf-8"))


def load(path: Path, given: Given) -> Parts:
    """Read both files, of which one is named. Raises ValueError with the fault; OSError if one cannot be read."""
    vocab_path, merges_path = both_of(path) or (path, path)
    vocab = read_json(vocab_path)
    if not isinstance(vocab, dict):
        raise ValueError(f"{vocab_path.name} is no table of tokens and ids")
    check_ids(vocab)
    try:
        lines = merges_path.read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{merges_path.name}: no UTF-8 at byte {error.start}") from None
    if lines[0].startswith("#version"):
        del lines[0]
    written = [line.rstrip("\r") for line in lines if line.strip()]
    try:
        merges = merges_of(written, vocab)
    except ValueError as error:
        raise ValueError(f"{merges_path.name}: {error}") from None
    specials = dict(given.special_tokens or {})
    ordinary = _ordinary(vocab, {text.replace(" ", "") for text in written}, specials, merges_path.name)
    tokens = dict(zip(bytes_of_all(list(ordinary)), ordinary.values(), strict=True))
    return Parts(tokens, merges, specials, given.pattern or "gpt2")


def _ordinary(vocab: dict[str, int], made: set[str], specials: dict[str, int], merges_name: str) -> dict[str, int]:
    """The entries that are bytes or made by merges; of the others, those that look special join `specials`."""
    ordinary = {}
    for text, number in vocab.items():
        if specials.get(text, number) != number:
            raise ValueError(f"special token {text!r} has the ids {specials[text]} and {number}")
        if text in specials:
            continue
        if len(text) == 1 or text in made:
            ordinary[text] = number
        elif (text[:1], text[-1:]) in (("<", ">"), ("[", "]")):
            specials[text] = number
        else:
            raise ValueError(
                f"no merge makes the token {text!r}: {merges_name} is cut short, or the token is special; "
                f"then pass special_tokens={{{text!r}: {number}}}"
            )
    return ordinary
