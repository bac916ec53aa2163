"""What was communicated: calls, bytes and seconds, by operation and by axis of the mesh.

M bytes among n ranks cost each of them, if none sends more than it must and all send alike,

    all_reduce, max                                    2 (n - 1) / n  M
    reduce_scatter, all_gather, all_to_all, broadcast    (n - 1) / n  M
    send                                                              M

where M is the whole array: what all_reduce and reduce_scatter are given, what all_gather returns. Where n does not
divide the rows, some ranks send a little more and others less, and so does the root of a broadcast; the sum over all
ranks is exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

SHARES = {"all_reduce": 2, "max": 2, "reduce_scatter": 1, "all_gather": 1, "all_to_all": 1, "broadcast": 1}
"""How often all but one of n parts of the array leave a rank."""


def formula(operation: str, size: int, ranks: int) -> Fraction:
    """The bytes each rank sends for an array of `size` bytes; the mean over the ranks where they differ."""
    if operation == "send":
        return Fraction(size)
    return Fraction(SHARES[operation] * (ranks - 1) * size, ranks)


@dataclass
class Entry:
    """What one operation over one axis has cost this rank: bytes it sent, seconds it spent in the calls."""

    count: int = 0
    bytes: int = 0
    seconds: float = 0.0


class Ledger:
    """The entries of a rank, of all its axes."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str], Entry] = {}

    def __getitem__(self, key: tuple[str, str]) -> Entry:
        """The entry of ``(operation, axis)``; an empty one if there was none."""
        return self.entries.setdefault(key, Entry())

    def __iter__(self) -> Iterator[tuple[str, str, Entry]]:
        """``(axis, operation, entry)``, sorted."""
        return iter(sorted((axis, operation, entry) for (operation, axis), entry in self.entries.items()))

    @property
    def bytes(self) -> int:
        """All bytes that this rank has sent."""
        return sum(entry.bytes for entry in self.entries.values())

    @property
    def seconds(self) -> float:
        """The time that this rank has spent in communication, not computing."""
        return sum(entry.seconds for entry in self.entries.values())

    def clear(self) -> None:
        """Begin anew."""
        self.entries.clear()

    def __str__(self) -> str:
        lines = [f"{'axis':6}{'operation':16}{'calls':>8}{'bytes sent':>16}{'seconds':>10}"]
        lines += [f"{a:6}{o:16}{e.count:>8}{e.bytes:>16,}{e.seconds:>10.3f}" for a, o, e in self]
        return "\n".join(lines)
