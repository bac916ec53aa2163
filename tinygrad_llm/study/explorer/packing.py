"""Arrays inside a page: little-endian bytes in base64, cropped where there are too many for a page to hold."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np

from tinygrad_llm.tape import Array

ENTRIES = 1_000_000
"""How many entries of values and gradients a page holds at most; what is beyond is cropped, and said to be."""

Shape = tuple[int, ...]


def kept_shape(shape: Shape, limit: int) -> Shape:
    """The shape of the leading part that is kept of an array, so that its entries fit.

    Batches go first: of three axes or more the first is halved until it is 1; then whichever is longest.
    """
    kept = list(shape)
    while math.prod(kept) > limit and max(kept) > 1:
        axis = 0 if len(kept) > 2 and kept[0] > 1 else kept.index(max(kept))
        kept[axis] = (kept[axis] + 1) // 2
    return tuple(kept)


class Store:
    """The arrays of a page, by number. The same array added twice is stored once."""

    def __init__(self, entries: int = ENTRIES) -> None:
        self.entries = entries
        self._arrays: list[tuple[Array, bool]] = []
        self._numbers: dict[tuple[int, bool], int] = {}

    def add(self, array: Any, whole: bool = False) -> int:
        """The number of `array`; a `whole` one is never cropped, and stands in the page without a summary."""
        array = np.asarray(array)
        key = id(array), whole
        if key not in self._numbers:
            self._numbers[key] = len(self._arrays)
            self._arrays.append((array, whole))  # keeping it alive, so that its id stays its own
        return self._numbers[key]

    def limit(self) -> int:
        """Entries that one array may have, so that all together keep within the budget."""
        sizes = np.array([a.size for a, whole in self._arrays if not whole])
        low, high = 1, max(int(sizes.max(initial=1)), 1)
        while low < high:  # the largest limit that fits
            middle = (low + high + 1) // 2
            low, high = (middle, high) if np.minimum(sizes, middle).sum() <= self.entries else (low, middle - 1)
        return low

    def packed(self) -> list[dict[str, Any]]:
        """What stands in the page for each array."""
        limit = self.limit()
        return [_packed(a, a.size if whole else limit, summary=not whole) for a, whole in self._arrays]


def _packed(array: Array, limit: int, summary: bool) -> dict[str, Any]:
    kept = kept_shape(array.shape, limit)
    plain = np.ascontiguousarray(_plain(array[tuple(slice(n) for n in kept)]))
    data = base64.b64encode(plain.tobytes()).decode("ascii")
    packed = {"shape": list(array.shape), "type": plain.dtype.str[1:], "data": data}
    if kept != array.shape:
        packed["kept"] = list(kept)
    return packed | (_summary(array) if summary else {})


def _plain(array: Array) -> Array:
    """In a type that a browser knows, without loss where there is one."""
    if array.dtype.kind == "f":
        return array.astype("<f4" if array.dtype.itemsize <= 4 else "<f8")
    if array.dtype.kind == "b":
        return array.astype("u1")
    small = array.size == 0 or (abs(int(array.min())) < 2**31 and abs(int(array.max())) < 2**31)
    return array.astype("<i4" if small else "<f8")


def _summary(array: Array) -> dict[str, Any]:
    """Of the whole array: its type, range, root mean square, and how many entries are 0, NaN or infinite."""
    values = array.astype(np.float64)
    finite = values[np.isfinite(values)]
    top = float(np.abs(finite).max(initial=0.0))
    scaled = finite / top if top else finite  # squares of huge values would overflow
    return {
        "dtype": str(array.dtype),
        "low": float(finite.min()) if finite.size else None,
        "high": float(finite.max()) if finite.size else None,
        "top": top,
        "rms": float(np.sqrt((scaled**2).mean())) * top if finite.size else 0.0,
        "zeros": int((values == 0).sum()),
        "nan": int(np.isnan(values).sum()),
        "inf": int(np.isinf(values).sum()),
    }
