"""What stands at the beginning of a GGUF file (llama.cpp's format): names and values, and where the tensors are.

Layout, little-endian: "GGUF", version (u32), number of tensors (u64), number of values (u64); then for each value its
name (length u64, UTF-8), its type (u32) and itself; an array is the type of its items (u32), their number (u64) and the
items. Then for each tensor its name, the number of its dimensions (u32), these (u64 each, the innermost first), its
type (u32) and where it begins (u64), counted from the first byte after all this that is a multiple of the alignment.
Source: the specification in ggml, docs/gguf.md.

The package `gguf` makes several NumPy arrays of each text, which takes five seconds for a vocabulary of 49,152 tokens
and believes every length; this takes a twentieth of a second, and no length is believed that the file has no room for.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_NUMBERS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
_TEXT, _ARRAY = 8, 9
_MOST_DIMENSIONS = 4


class Place(NamedTuple):
    """What the file says of a tensor."""

    shape: tuple[int, ...]
    """The outermost dimension first, as in NumPy."""
    kind: int
    """The number of its type."""
    begin: int
    """Its first byte in the file."""


def read_metadata(path: Path) -> dict[str, Any]:
    """All names and values; texts as str, arrays as lists. Raises ValueError with the fault and its byte."""
    return read_header(path)[0]


def read_header(path: Path) -> tuple[dict[str, Any], dict[str, Place]]:
    """Names and values, and the places of the tensors by name. Raises ValueError with the fault and its byte."""
    if path.stat().st_size == 0:
        raise ValueError("is empty: no GGUF file")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _Reader(data).header()


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def header(self) -> tuple[dict[str, Any], dict[str, Place]]:
        if (magic := self.take(4)) != MAGIC:
            raise ValueError(f"begins with {magic!r}, not with {MAGIC!r}: no GGUF file")
        version = self.number("<u4")
        if version not in _VERSIONS:
            order = "; it is written big-endian" if version & 0xFFFF == 0 else ""
            raise ValueError(f"has GGUF version {version}; {_VERSIONS} can be read{order}")
        count = self.number("<u8")
        values: dict[str, Any] = {}
        for _ in range(self.number("<u8")):
            name = self.text()
            if name in values:
                raise ValueError(f"{name!r} stands twice")
            values[name] = self.value(self.number("<u4"), name)
        return values, self.places(count, values.get("general.alignment", 32))

    def places(self, count: int, alignment: Any) -> dict[str, Place]:
        if type(alignment) is not int or alignment < 1:
            raise ValueError(f"general.alignment is {alignment!r}, not a positive number")
        found: dict[str, Place] = {}
        for _ in range(count):
            name = self.text()
            if name in found:
                raise ValueError(f"the tensor {name!r} stands twice")
            dimensions = self.number("<u4")
            if not 1 <= dimensions <= _MOST_DIMENSIONS:
                raise ValueError(
                    f"the tensor {name!r} has {dimensions} dimensions; 1 to {_MOST_DIMENSIONS} are possible"
                )
            shape = tuple(self.number("<u8") for _ in range(dimensions))[::-1]
            kind, begin = self.number("<u4"), self.number("<u8")
            if begin % alignment:
                raise ValueError(f"the tensor {name!r} begins at byte {begin}, no multiple of {alignment}")
            found[name] = Place(shape, kind, begin)
        start = -(-self.at // alignment) * alignment
        return {name: place._replace(begin=start + place.begin) for name, place in found.items()}

    def value(self, kind: int, name: str) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind == _ARRAY:
            return self.array(name)
        return self.number(self.code(kind, name))

    def array(self, name: str) -> list[Any]:
        kind, count = self.number("<u4"), self.number("<u8")
        if kind == _TEXT:
            if 8 * count > self.left:
                self.too_much(f"{name} claims {count} texts")
            return self.texts(count)
        code = np.dtype(self.code(kind, name))
        if code.itemsize * count > self.left:
            self.too_much(f"{name} claims {count} numbers")
        values: list[Any] = np.frombuffer(self.take(code.itemsize * count), code).tolist()
        return values

    def code(self, kind: int, name: str) -> str:
        if kind not in _NUMBERS:
            raise ValueError(f"{name} has the type {kind}, which is unknown here (byte {self.at})")
        return _NUMBERS[kind]

    def number(self, code: str) -> Any:
        return np.frombuffer(self.take(np.dtype(code).itemsize), code)[0].item()

    def text(self) -> str:
        return self.texts(1)[0]

    def texts(self, count: int) -> list[str]:
        data, at, size = self.data, self.at, len(self.data)
        length_at = struct.Struct("<Q").unpack_from
        result = []
        for _ in range(count):
            if at + 8 > size:
                self.too_much(f"byte {at}: a text")
            begin = at + 8
            at = begin + length_at(data, at)[0]
            if at > size:
                self.too_much(f"byte {begin}: a text claims {at - begin} bytes")
            try:
                result.append(data[begin:at].decode())
            except UnicodeDecodeError as error:
                raise ValueError(f"byte {begin + error.start}: no UTF-8") from None
        self.at = at
        return result

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, size: int) -> bytes:
        if size > self.left:
            self.too_much(f"byte {self.at}: a value claims {size} bytes")
        self.at += size
        return self.data[self.at - size : self.at]

    def too_much(self, claim: str) -> NoReturn:
        raise ValueError(f"{claim}, but the file has only {len(self.data)} bytes: damaged, or cut short")
