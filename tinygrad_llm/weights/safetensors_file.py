"""Safetensors files: read memory-mapped, believing nothing that was not checked; and written.

Layout: the length n of the header (u64, little-endian), the header (n bytes of JSON: name to dtype, shape and
data_offsets, the first byte and the one after the last), then the data: tensors that follow each other without gaps.
Source: the format's description in the repository huggingface/safetensors.

The package `safetensors` has no array for bfloat16 without a further package, and its faults do not name the tensor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tinygrad_llm.files import atomic_write
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
    return open_with_metadata(path)[0]


def open_with_metadata(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """The tensors by name, and the texts that stand in the header beside them."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 10 or not 2 <= length <= min(LARGEST_HEADER, size - 8):
                raise ValueError(f"its header claims {length:,} bytes, the file has {size:,}")
            header = _parsed(file.read(length))
        data = np.memmap(path, np.uint8, "r", 8 + length) if size > 8 + length else np.empty(0, np.uint8)
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
            raise ValueError("its metadata are not texts by name")
        return _tensors(header, data), metadata
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
    if not isinstance(dtype, str) or dtype not in DTYPES:
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


# ---------------------------------------------------------------------------------------------------------------------

OURS = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64"}
"""What is written."""

Dtype = Literal["float32", "float16", "bfloat16"]


def write_safetensors(
    path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str], dtype: Dtype | None = None
) -> None:
    """Write a file, wholly or not at all: all tensors as `dtype`, or each as it is. Equal content gives equal bytes."""
    kinds = {name: dtype or str(array.dtype) for name, array in tensors.items()}
    names = sorted(tensors, key=lambda name: (-np.dtype(DTYPES[OURS[kinds[name]]]).itemsize, name))  # all aligned
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name in names:
        begin, end = end, end + tensors[name].size * np.dtype(DTYPES[OURS[kinds[name]]]).itemsize
        header[name] = {"dtype": OURS[kinds[name]], "shape": list(tensors[name].shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data begin at a multiple of 8 bytes

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in names:
                file.write(encoded(tensors[name], kinds[name]).data)

    atomic_write(path, write)


def encoded(array: Array, kind: str) -> Array:
    """The numbers in their order in memory as they stand in a file. ValueError if one is too large for it."""
    if kind == "bfloat16":
        bits = np.ascontiguousarray(array, "<f4").view(np.uint32)
        return ((bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16).astype("<u2")
    with np.errstate(over="ignore"):
        result = np.ascontiguousarray(array, DTYPES[OURS[kind]])
    if kind == "float16" and not np.isfinite(result).all():
        raise ValueError(f"{np.abs(array).max():.4g} is too large for float16; bfloat16 reaches as far as float32")
    return result
