"""The metadata at the beginning of a GGUF file (llama.cpp's format): names and values, without the tensors.

Layout, little-endian: "GGUF", version (u32), number of tensors (u64), number of values (u64); then for each value its
name (length u64, UTF-8), its type (u32) and itself; an array is the type of its items (u32), their number (u64) and the
items. Source: the specification in ggml, docs/gguf.md.

The package `gguf` makes several NumPy arrays of each text, which takes five seconds for a vocabulary of 49,152 tokens
and believes every length; this takes a twentieth of a second, and no length is believed that the file has no room for.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_NUMBERS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
_TEXT, _ARRAY = 8, 9


def read_metadata(path: Path) -> dict[str, Any]:
    """All names and values; texts as str, arrays as lists. Raises ValueError with the fault and its byte."""
    if path.stat().st_size == 0:
        raise ValueError("is empty: no GGUF file")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _Reader(data).metadata()


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def metadata(self) -> dict[str, Any]:
        if (magic := self.take(4)) != _MAGIC:
            raise ValueError(f"begins with {magic!r}, not with {_MAGIC!r}: no GGUF file")
        version = self.number("<u4")
        if version not in _VERSIONS:
            order = "; it is written big-endian" if version & 0xFFFF == 0 else ""
            raise ValueError(f"has GGUF version {version}; {_VERSIONS} can be read{order}")
        self.number("<u8")  # tensors
        values: dict[str, Any] = {}
        for _ in range(self.number("<u8")):
            name = self.text()
            if name in values:
                raise ValueError(f"{name!r} stands twice")
            values[name] = self.value(self.number("<u4"), name)
        return values

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
