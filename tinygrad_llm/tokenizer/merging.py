"""Applying learned merges to one word: always the merge with the lowest rank, leftmost first, until none applies.

Two ways to the same result. `merge_short` looks through the whole word for each merge: n^2 steps, the fastest for the
few symbols of a usual word. `merge_long` keeps the candidates in a heap: n log n steps, for a run of 100,000 letters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import heapify, heappop, heappush

# (left id, right id) -> (rank, id of the merged token)
MergeTable = Mapping[tuple[int, int], tuple[int, int]]

LONG = 48  # symbols; about where the heap starts to win (measured on random letters)
_NO_MERGE = (1 << 62, -1)


def merge_word(symbols: list[int], merges: MergeTable) -> list[int]:
    """The word's tokens; `symbols` are the ids of its single bytes, and may be overwritten."""
    return merge_short(symbols, merges) if len(symbols) < LONG else merge_long(symbols, merges)


def merge_short(symbols: list[int], merges: MergeTable, tell: Callable[[int, int], object] | None = None) -> list[int]:
    """Find the best pair, merge it, begin again. After each merge `tell` gets its rank and the merged token's place."""
    while len(symbols) > 1:
        best, at = _NO_MERGE, 0
        for i in range(len(symbols) - 1):
            found = merges.get((symbols[i], symbols[i + 1]), _NO_MERGE)
            if found < best:  # strictly: of equal ranks the leftmost stays
                best, at = found, i
        if best is _NO_MERGE:
            break
        symbols[at : at + 2] = [best[1]]
        if tell is not None:
            tell(best[0], at)
    return symbols


def merge_long(symbols: list[int], merges: MergeTable) -> list[int]:
    """The same with a heap of (rank, position, merged id) over linked symbols.

    A heap entry is stale if its pair has changed since; it is recognised by looking the present pair up again.
    """
    size = len(symbols)
    left = list(range(-1, size - 1))
    right = [*range(1, size), -1]
    heap = []
    for i in range(size - 1):
        if found := merges.get((symbols[i], symbols[i + 1])):
            heap.append((found[0], i, found[1]))
    heapify(heap)
    gone = -1
    while heap:
        rank, i, new = heappop(heap)
        j = right[i]
        if symbols[i] == gone or j < 0 or merges.get((symbols[i], symbols[j]), _NO_MERGE)[0] != rank:
            continue
        symbols[i], symbols[j] = new, gone
        before, after = left[i], right[j]
        right[i] = after
        if after >= 0:
            left[after] = i
            if found := merges.get((new, symbols[after])):
                heappush(heap, (found[0], i, found[1]))
        if before >= 0 and (found := merges.get((symbols[before], new))):
            heappush(heap, (found[0], before, found[1]))
    return [symbol for symbol in symbols if symbol != gone]
