"""What is wrong with a file, in words that name the thing; shared by the formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_llm.tokenizer.alphabet import BYTE_OF_CHARACTER, from_characters

MOST_TOKENS = 1 << 24
"""Ids must be smaller. Tables are as long as the highest id, so one wrong digit could ask for all memory."""


def read_json(path: Path) -> Any:
    """The content of a JSON file, in which no name stands twice in one table. Raises ValueError with the fault."""
    try:
        return json.loads(path.read_bytes().decode("utf-8"), object_pairs_hook=_without_repeats)
    except UnicodeDecodeError as error:
        raise ValueError(f"no UTF-8 at byte {error.start}: not a tokenizer, or damaged") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON, or cut short: {error}") from None
    except RecursionError:
        raise ValueError("not a tokenizer: brackets nested too deep") from None


def _without_repeats(items: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(items)
    if len(result) < len(items):
        keys = [key for key, _ in items]
        raise ValueError(f"{next(key for key in result if keys.count(key) > 1)!r} stands twice in one table")
    return result


def field(table: Any, name: str, kind: type) -> Any:
    """``table[name]``. Raises ValueError if it is missing or of another kind."""
    if not isinstance(table, dict) or name not in table:
        raise ValueError(f"field {name!r} is missing")
    if not isinstance(table[name], kind):
        raise ValueError(f"field {name!r} is a {type(table[name]).__name__}, but must be a {kind.__name__}")
    return table[name]


def refuse(table: dict[str, Any], where: str, names: tuple[str, ...]) -> None:
    """Raises ValueError for a field that is set, and that would change the ids."""
    for name in names:
        if table.get(name):
            raise ValueError(f"{where} has {name} {table[name]!r}, which is not supported")


def check_ids(numbers: dict[Any, Any]) -> None:
    """Raises ValueError for an id that is no whole number, negative, far too large, or another's too."""
    for name, number in numbers.items():
        if type(number) is not int:
            raise ValueError(f"vocab: the id of {name!r} is {number!r}, not a whole number")
    if len(set(numbers.values())) < len(numbers):
        names: dict[int, Any] = {}
        for name, number in numbers.items():
            if number in names:
                raise ValueError(f"{names[number]!r} and {name!r} have the same id {number}: one id to two tokens")
            names[number] = name
    if min(numbers.values(), default=0) < 0 or max(numbers.values(), default=0) >= MOST_TOKENS:
        name, number = next((n, i) for n, i in numbers.items() if not 0 <= i < MOST_TOKENS)
        kind = "negative id" if number < 0 else "id"
        raise ValueError(f"{name!r} has the {kind} {number}; ids are 0 to {MOST_TOKENS - 1}")


def merges_of(written: list[Any], vocab: dict[str, int]) -> list[tuple[int, int]]:
    """The merges as pairs of ids, from pairs of tokens or from texts with one space between.

    Raises ValueError for one that is no pair, refers to no token, or stands twice.
    """
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in written]
    try:
        merges = [(vocab[left], vocab[right]) for left, right in pairs]
    except (KeyError, TypeError, ValueError):
        merges = [_merge(pair, rank, vocab) for rank, pair in enumerate(pairs)]
    if len(set(merges)) < len(merges):
        first: dict[tuple[int, int], int] = {}
        for rank, merge in enumerate(merges):
            if merge in first:
                raise ValueError(f"merge {rank} {written[rank]!r} stands already as merge {first[merge]}; remove one")
            first[merge] = rank
    return merges


def _merge(pair: Any, rank: int, vocab: dict[str, int]) -> tuple[int, int]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise ValueError(f"merge {rank} is {pair!r}, not a pair of tokens")
    for text in pair:
        if not isinstance(text, str) or text not in vocab:
            raise ValueError(f"merge {rank} {pair!r} refers to {text!r}, which is not in the vocab")
    return vocab[pair[0]], vocab[pair[1]]


# The byte of each character of the alphabet, by code point; 256 for all others.
_BYTES = np.full(max(map(ord, BYTE_OF_CHARACTER)) + 2, 256, np.uint16)
_BYTES[list(map(ord, BYTE_OF_CHARACTER))] = list(BYTE_OF_CHARACTER.values())


def bytes_of_all(texts: list[str]) -> list[bytes]:
    """`alphabet.from_characters` of many tokens at once, in a tenth of the time."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))
    values = _BYTES[np.minimum(codes, len(_BYTES) - 1)]
    if values.max(initial=0) > 255:
        return [from_characters(text) for text in texts]  # says which
    data, end = values.astype(np.uint8).tobytes(), 0
    return [data[end : (end := end + len(text))] for text in texts]
