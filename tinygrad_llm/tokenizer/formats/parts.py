"""What a tokenizer is made of, whatever file it stands in."""

from __future__ import annotations

from typing import NamedTuple


class Parts(NamedTuple):
    """What a tokenizer is made of: the arguments of `Tokenizer`."""

    tokens: dict[bytes, int]
    merges: list[tuple[int, int]]
    special_tokens: dict[str, int]
    pattern: str
    whole_words: bool = False
