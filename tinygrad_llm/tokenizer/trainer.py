"""Learning the merges of byte-pair encoding (Sennrich et al. 2016; on bytes: Radford et al. 2019).

Over and over, the most frequent pair of neighbours becomes a new token. Counting all pairs anew for each merge would
take hours. Instead:

* Equal words are kept once, with their count: 2 million characters of text hold 200,000 symbols of different words.
* All words lie in one row of symbols, linked to their left and right neighbours, with a border between words. Merging
  `a b` keeps the left symbol, unlinks the right one, and changes only the two pairs around it.
* Each pair knows the positions where it was born. A position that has since been merged away shows another symbol.
* The heap is lazy. Once born, a pair can only become rarer, so the count in the heap is never too small: if the top
  entry's count is still true, it is the most frequent pair; if not, it goes back with its true count.

Ties: the highest count; then the smallest left id; then the smallest right id. With single bytes numbered in
`alphabet.BYTE_ORDER`, this is exactly the rule of Hugging Face's BpeTrainer, and gives its merges. A pair may overlap
itself: "aaa" counts the pair "aa" twice, and is merged from the left, into "aa" + "a".
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable
from heapq import heapify, heappop, heappush, heapreplace
from itertools import pairwise
from typing import NamedTuple

from tinygrad_llm.backend import Kernel, chosen_backend
from tinygrad_llm.tokenizer.word_counts import Words

Pair = tuple[int, int]
Progress = Callable[[int, int], None]

WORTH_LOADING, WORTH_COMPILING = 1 << 16, 1 << 19
"""Bytes of different words from which on it pays to load the compiled twin, and to compile it where that was never
done."""

_BORDER = -1  # between two words
_GONE = -2  # a symbol that was merged into its left neighbour


class Learned(NamedTuple):
    """The merges in the order in which they were learned, and what each did."""

    pairs: list[Pair]
    """The ids of the two parts."""
    counts: list[int]
    """How often the pair stood in the text at that moment, overlaps among them."""
    saved: list[int]
    """By how many symbols the text became shorter."""
    symbols: int
    """The symbols, all single bytes, of the whole text before the first merge."""


compiled_learning = Kernel(__name__)
"""``compiled_learning(words, id_of_byte, first_id, merges, progress, min_count, compile)``: the twin of
`learn_plainly`. NotImplemented, unless `compile`, where it would first be compiled."""


def learn_merges(
    words: Words,
    id_of_byte: list[int],
    first_id: int,
    merges: int,
    progress: Progress | None = None,
    min_count: int = 1,
) -> Learned:
    """The pairs that become tokens first_id, first_id + 1, ... in this order.

    They are fewer than `merges` if no pair is left that stands `min_count` times in the text. `id_of_byte[b]` is the id
    of the single byte b, below `first_id`. `progress(done, merges)` is called now and then. Cost: about one step per
    symbol changed, plus a heap step per pair.
    """
    if min_count < 1:
        raise ValueError(f"min_count {min_count}: must be at least 1")
    backend, size = chosen_backend(), len(words.data)
    if backend == "numba" or (backend == "auto" and size >= WORTH_LOADING):
        compile = backend == "numba" or size >= WORTH_COMPILING
        learned = compiled_learning(words, id_of_byte, first_id, merges, progress, min_count, compile)
        if learned is not NotImplemented:
            return learned
    return learn_plainly(words, id_of_byte, first_id, merges, progress, min_count)


def learn_plainly(
    words: Words, id_of_byte: list[int], first_id: int, merges: int, progress: Progress | None, min_count: int
) -> Learned:
    """The reference: see `learn_merges`."""
    row = _Row(words, id_of_byte)
    heap = [(-count, *pair) for pair, count in row.count.items()]
    heapify(heap)
    learned = Learned([], [], [], sum(len(word) * count for word, count in words.items()))
    while heap and len(learned.pairs) < merges:
        negative, left, right = heap[0]
        count = row.count[left, right]
        if count != -negative:  # stale: the true count is smaller
            if count > 0:
                heapreplace(heap, (-count, left, right))
            else:
                heappop(heap)
            continue
        if count < min_count:
            break
        heappop(heap)
        born, saved = row.merge((left, right), first_id + len(learned.pairs))
        for pair in born:
            if (count_born := row.count[pair]) > 0:  # 0: in "aaaa" -> "A a a" -> "A A", the pair "A a" came and went
                heappush(heap, (-count_born, *pair))
        learned.pairs.append((left, right))
        learned.counts.append(count)
        learned.saved.append(saved)
        if progress and len(learned.pairs) % 64 == 0:
            progress(len(learned.pairs), merges)
    if progress:
        progress(len(learned.pairs), merges)
    return learned


class _Row:
    """All words in one row of symbols: `symbols[i]` with its neighbours `left[i]`, `right[i]` and its word's count.

    In arrays, as lists of Python's numbers take five times the memory: about 35 bytes per symbol.
    """

    def __init__(self, words: Words, id_of_byte: list[int]) -> None:
        self.symbols = array("i", [_BORDER])
        self.weight = array("q", [0])
        for word, count in words.items():
            self.symbols.extend([id_of_byte[byte] for byte in word])
            self.symbols.append(_BORDER)
            self.weight.extend(array("q", [count]) * (len(word) + 1))
        size = len(self.symbols)
        self.left = array("i", range(-1, size - 1))
        self.right = array("i", range(1, size + 1))
        self.count: dict[Pair, int] = defaultdict(int)  # exact at all times
        # positions of the pair's left symbol, ascending
        self.where: dict[Pair, array[int]] = defaultdict(lambda: array("i"))
        for position, pair in enumerate(pairwise(self.symbols)):
            if _BORDER not in pair:
                self.count[pair] += self.weight[position]
                self.where[pair].append(position)

    def merge(self, pair: Pair, new: int) -> tuple[set[Pair], int]:
        """Replace every `pair` by `new`, from the left; returns the pairs born by it, and the symbols it saved."""
        a, b = pair
        symbols, left, right, count, where = self.symbols, self.left, self.right, self.count, self.where
        born: set[Pair] = set()
        saved = 0
        for i in where.pop(pair):
            j = right[i]
            if symbols[i] != a or symbols[j] != b:  # merged away since
                continue
            weight, before, after = self.weight[i], left[i], right[j]
            if (x := symbols[before]) >= 0:  # x a b -> x new
                count[x, a] -= weight
                count[x, new] += weight
                where[x, new].append(before)
                born.add((x, new))
            if (y := symbols[after]) >= 0:  # a b y -> new y
                count[b, y] -= weight
                count[new, y] += weight
                where[new, y].append(i)
                born.add((new, y))
            symbols[i], symbols[j] = new, _GONE
            right[i], left[after] = after, i
            saved += weight
        del count[pair]
        return born, saved
