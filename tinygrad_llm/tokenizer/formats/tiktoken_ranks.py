"""OpenAI's `.tiktoken`: per line the base64 of a token's bytes, a space, and its rank, which is its id; also `.gz`.

A lower rank is merged first, whichever pair makes the token; the pairs are derived (see `pairs`). The pattern and the
special tokens do not stand in the file: they are known by the names of OpenAI's files, and else must be given.
"""

from __future__ import annotations

import base64
import gzip
import re
import zlib
from pathlib import Path
from typing import NamedTuple

from tinygrad_llm.files import atomic_write
from tinygrad_llm.tokenizer.formats.checks import MOST_TOKENS, check_ids
from tinygrad_llm.tokenizer.formats.pairs import pairs_of_ranks
from tinygrad_llm.tokenizer.formats.parts import Given, Parts
from tinygrad_llm.tokenizer.pretokenize import PATTERNS

_MOST_BYTES = 1 << 28  # of a file, unpacked: a small .gz may hold endless zeros


class _Known(NamedTuple):
    ranks: int
    pattern: str
    special_tokens: dict[str, int]


_FILES = {
    "r50k_base": _Known(50256, "gpt2", {"<|endoftext|>": 50256}),
    "p50k_base": _Known(50280, "gpt2", {"<|endoftext|>": 50256}),
    "cl100k_base": _Known(
        100256,
        "cl100k",
        {
            "<|endoftext|>": 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
    ),
    "o200k_base": _Known(199998, "o200k", {"<|endoftext|>": 199999, "<|endofprompt|>": 200018}),
}


def looks_like(head: bytes) -> bool:
    """Whether a file that begins so holds ranks."""
    return head.startswith(b"\x1f\x8b") or re.match(rb"[A-Za-z0-9+/]+=* \d+\r?\n", head) is not None


def save(path: Path, parts: Parts) -> None:
    """Write the ranks of the ordinary tokens. Raises ValueError where ranks cannot say what the merges say."""
    merges, complete = pairs_of_ranks(parts.tokens)
    if merges != parts.merges or parts.normal_form or not (complete or parts.whole_words):
        raise ValueError(f"{path}: its merges do not follow from the ranks of its tokens; write a tokenizer.json")
    ordered = sorted(parts.tokens.items(), key=lambda item: item[1])
    content = b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in ordered)
    atomic_write(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def load(path: Path, given: Given) -> Parts:
    """Read the file. Raises ValueError that says what is wrong with it; OSError if it cannot be read."""
    tokens = _read(_unpacked(path))
    known = _FILES.get(path.name.removesuffix(".gz").removesuffix(".tiktoken"))
    if known and len(tokens) != known.ranks:
        raise ValueError(f"has {len(tokens)} ranks, but that file of OpenAI's has {known.ranks}: cut short, or renamed")
    pattern = given.pattern or (known.pattern if known else None)
    if pattern is None:
        raise ValueError(
            "ranks do not say how text is cut into words: pass pattern= (one of "
            f"{', '.join(PATTERNS)}, or a regular expression) and special_tokens={{name: id}}"
        )
    specials = given.special_tokens
    if specials is None:
        specials = known.special_tokens if known else {}
    merges, complete = pairs_of_ranks(tokens)
    return Parts(tokens, merges, dict(specials), pattern, whole_words=not complete)


def _unpacked(path: Path) -> bytes:
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if packed else open(path, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"damaged, or cut short: {error}") from None
    if len(content) > _MOST_BYTES:
        raise ValueError(f"is larger than {_MOST_BYTES} bytes: no ranks of tokens")
    return content


def _read(content: bytes) -> dict[bytes, int]:
    lines = content.splitlines()
    try:
        pairs = [line.split() for line in lines]
        items = [(base64.b64decode(token, validate=True), int(rank)) for token, rank in pairs]
    except ValueError:
        items = [_item(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    tokens = dict(items)
    if not tokens:
        raise ValueError("is empty: no ranks of tokens")
    if len(tokens) < len(items):
        seen: set[bytes] = set()
        for number, (token, _) in enumerate(items, 1):
            if token in seen:
                raise ValueError(f"line {number}: the token {token!r} stands twice")
            seen.add(token)
    check_ids(tokens)
    if b"" in tokens:
        raise ValueError(f"rank {tokens[b'']} belongs to no bytes")
    return tokens


def _item(number: int, line: bytes) -> tuple[bytes, int]:
    try:
        token, rank = line.split()
        return base64.b64decode(token, validate=True), int(rank)
    except ValueError:
        raise ValueError(
            f"line {number} is {line[:60]!r}, not a token in base64, a space and its rank (0 to {MOST_TOKENS - 1}): "
            "damaged, or cut short"
        ) from None
