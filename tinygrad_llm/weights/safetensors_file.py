"""Reading safetensors files: memory-mapped, and nothing in them is believed that was not checked.

Layout: the length n of the header (u64, little-endian), the header (n bytes of JSON: name to dtype, shape and
data_offsets, the first byte and the one after the last), then the data: tensors that follow each other without gaps.
Source: the format's description in the repository huggingface/safetensors.

The package `safetensors` writes our files. To read, it has no array for bfloat16 without a further package, and its
faults do not name the tensor.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_llm.tape import Array
from tinygrad_llm.weights.stored import Stored

DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}

LARGEST_HEADER = 100_000_000
"""Bytes; the format's own bound."""


def open_safetensors(path: Path) -> dict[str, Stored]:
    """The tensors of a file by name. FileNotFoundError if there is none, ValueError with the fault if it is damaged."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 10 or not 2 <= length <= min(LARGEST_HEADER, size - 8):
                raise ValueError(f"its header claims {length:,} bytes, the file has {size:,}")
            header = _parsed(file.read(length))
        data = np.memmap(path, np.uint8, "r", 8 + length) if size > 8 + length else np.empty(0, np.uint8)
        return _tensors(header, data)
    except ValueError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error}); it may be truncated") from error


def _parsed(text: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} stands twice in its header")
        return found

    try:
        header = json.loads(text.decode(), object_pairs_hook=once)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"its header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    header.pop("__metadata__", None)
    return header


def _tensors(header: dict[str, Any], data: Array) -> dict[str, Stored]:
    """Each tensor where the header says, which together must cover the data exactly."""
    places = {name: _place(name, about) for name, about in header.items()}
    end = 0
    for name, (_, _, first, last) in sorted(places.items(), key=lambda item: item[1][2:]):
        if first != end:
            raise ValueError(
                f"tensor {name!r} begins at byte {first:,} of the data, where the one before ends at {end:,}"
            )
        end = last
    if end != len(data):
        raise ValueError(f"its tensors take {end:,} bytes, but {len(data):,} follow the header")
    return {name: _stored(dtype, shape, data[first:last]) for name, (dtype, shape, first, last) in places.items()}


def _place(name: str, about: Any) -> tuple[str, tuple[int, ...], int, int]:
    """(dtype, shape, first byte, byte after the last), of the right kinds and agreeing with each other."""
    try:
        dtype, shape, (first, last) = about["dtype"], tuple(about["shape"]), about["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"tensor {name!r} is described by {str(about)[:80]}") from None
    if dtype not in DTYPES:
        raise ValueError(f"tensor {name!r} has dtype {str(dtype)[:20]!r}; known are {', '.join(DTYPES)}")
    if not all(type(n) is int and n >= 0 for n in (*shape, first, last)) or len(shape) > 32:
        raise ValueError(f"tensor {name!r} has shape {str(shape)[:80]} and offsets {first}, {last}")
    wanted = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
    if last - first != wanted:
        raise ValueError(f"tensor {name!r}, {dtype} {shape}, takes {wanted:,} bytes, not {last - first:,}")
    return dtype, shape, first, last


def _stored(dtype: str, shape: tuple[int, ...], data: Array) -> Stored:
    def read() -> Array:
        values = data.view(DTYPES[dtype]).reshape(shape)
        return (values.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else values

    return Stored(dtype, shape, read)
