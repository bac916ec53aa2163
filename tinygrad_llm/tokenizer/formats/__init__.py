"""The files that byte-level BPE tokenizers are kept in: one module each, and the choice between them.

Reading, a file is recognised by its content and its name:

- `tokenizer.json` (Hugging Face), the one that holds everything,
- `encoder.json` with `vocab.bpe` (GPT-2), or `vocab.json` with `merges.txt`,
- `*.tiktoken`, `*.tiktoken.gz` (OpenAI),
- `*.gguf` (llama.cpp), written together with a model only,
- a folder that has one of these.

Writing, the name decides. A merge or a token that stands twice is refused by name: it would be unclear which counts.
A merge that can never apply is harmless; many files list such ones, and no text's ids depend on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from tinygrad_llm.gguf_metadata import MAGIC
from tinygrad_llm.tokenizer.formats import gguf_tokens, tiktoken_ranks, tokenizer_json, vocab_and_merges
from tinygrad_llm.tokenizer.formats.pairs import without_superfluous
from tinygrad_llm.tokenizer.formats.parts import Given, Parts

_IN_FOLDERS = ("tokenizer.json", "vocab.json", "encoder.json", "*.tiktoken", "*.tiktoken.gz", "*.gguf")


def load(
    path: str | PathLike[str], pattern: str | None = None, special_tokens: Mapping[str, int] | None = None
) -> Parts:
    """What a tokenizer is made of, from a file or a folder.

    `pattern` and `special_tokens` are for files that do not hold them. Raises ValueError that names the file and what
    is wrong with it; OSError if it cannot be read.
    """
    file = _in_folder(Path(path)) if Path(path).is_dir() else Path(path)
    try:
        parts = _read(file, Given(pattern, None if special_tokens is None else dict(special_tokens)))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return parts._replace(merges=without_superfluous(parts.tokens, parts.merges))


def _read(file: Path, given: Given) -> Parts:
    with open(file, "rb") as opened:
        head = opened.read(1024)
    if head.startswith(MAGIC) or file.suffix == ".gguf":
        return gguf_tokens.load(file, given)
    if vocab_and_merges.both_of(file):
        return vocab_and_merges.load(file, given)
    if tiktoken_ranks.looks_like(head) or ".tiktoken" in file.suffixes:
        return tiktoken_ranks.load(file, given)
    if file.name == "vocab.txt":
        raise ValueError("the pieces of a vocab.txt are for WordPieceTokenizer.load")
    if file.suffix == ".model":
        raise ValueError("holds no ranks of tokens; SentencePiece's models cannot be read here, a tokenizer.json can")
    if given != Given():
        raise ValueError("a tokenizer.json says by itself what pattern and special_tokens are; do not pass them")
    return tokenizer_json.load(file)


def save(path: str | PathLike[str], parts: Parts) -> None:
    """Write a tokenizer, in the format that belongs to the name; into a folder as tokenizer.json."""
    file = Path(path)
    if file.is_dir():
        file = file / "tokenizer.json"
    if vocab_and_merges.both_of(file):
        vocab_and_merges.save(file, parts)
    elif ".tiktoken" in file.suffixes:
        tiktoken_ranks.save(file, parts)
    elif file.suffix == ".gguf":
        raise ValueError(f"{file}: a GGUF file holds a model too, see tinygrad-llm convert; write a tokenizer.json")
    else:
        tokenizer_json.save(file, parts)


def _in_folder(folder: Path) -> Path:
    for name in _IN_FOLDERS:
        if found := sorted(folder.glob(name)):
            return found[0]
    other = "; its vocab.txt is for WordPieceTokenizer.load" if (folder / "vocab.txt").exists() else ""
    raise FileNotFoundError(f"{folder}: this folder has no tokenizer ({', '.join(_IN_FOLDERS)}){other}")
