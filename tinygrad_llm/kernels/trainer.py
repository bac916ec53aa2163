"""The twin of `tokenizer.trainer`: learning merges on flat arrays.

All words lie in one row of symbols, with a border between words. A symbol stands at the place of its first byte, and
once more at that of its last one; what stands between is old. So its neighbours are found with the lengths of symbols,
and nothing needs to be linked.

Pairs have numbers, in the order in which they come up. Each place knows the number of the pair that begins there, so
when a merge changes a pair, the old one is not searched. The new ones hold the new symbol: within one merge a row with
a number for each other symbol finds them. Hence there is a table of pairs only for bytes, and no hash table.

The places of a pair are a list, in ascending order. A place that has since become part of another pair shows another
number.

The heap is lazy, as in the reference, and small: it holds no pair below a certain count, the floor. When it is empty,
the floor is halved, and all pairs are looked through once.
"""

from __future__ import annotations

import numpy as np

from tinygrad_llm.kernels.bits import prefetch
from tinygrad_llm.kernels.compiled import compiled, is_ready
from tinygrad_llm.tokenizer.trainer import Learned, Progress, compiled_learning
from tinygrad_llm.tokenizer.word_counts import Words

BORDER = -1
"""The symbol between two words."""
NONE = -1
"""The number of no pair."""
AT_ONCE = 64
"""Merges between two reports of progress. In between, Ctrl-C waits."""
AHEAD = 6
"""Entries of a list by which places are asked for in advance: to wait for them took 40 % of the time."""
LARGEST = 1 << 29
"""Places in the row: the entries of lists, which become three times as many at most, have 31 bits."""


ROW = np.dtype([("symbol", "i4"), ("pair", "i4"), ("weight", "i8")])
"""A place in the row."""
PLACE_SIZE = np.uint64(ROW.itemsize)
PAIRS = np.dtype([("left", "i4"), ("right", "i4"), ("count", "i8"), ("first", "i4"), ("last", "i4"), ("size", "i8")])
"""A pair: its parts, its count, its list of places: the first and last entry, and their number."""
PLACES = np.dtype([("place", "i4"), ("next", "i4")])
"""An entry of such a list."""
HEAP = np.dtype([("count", "i8"), ("parts", "i8"), ("pair", "i8")])
"""A pair: the count that it had, both parts as one number, which one it is. The parent of entry i is (i - 1) // 2."""
SYMBOLS = np.dtype([("length", "i4"), ("before", "i4"), ("after", "i4")])
"""A symbol: its length in bytes, and its pairs with the new one; see `merge`."""
MERGES = np.dtype([("pair", "i8"), ("count", "i8"), ("saved", "i8")])
"""What was learned: the pair, its count, and the symbols saved."""

N_PAIRS, N_PLACES, N_HEAP, N_MERGES, FLOOR = range(5)


@compiled
def lay_out(data, ends, counts, id_of_byte, row, pairs, used):
    """Write the words into the row, and number and count their pairs."""
    square = np.full(65536, NONE, np.int32)
    place, begin, found = 1, 0, 0
    row[0].symbol, row[0].pair = BORDER, NONE
    for word in range(len(ends)):
        for i in range(begin, ends[word]):
            row[place].symbol = id_of_byte[data[i]]
            row[place].weight = counts[word]
            row[place].pair = NONE
            if i + 1 < ends[word]:
                both = np.int64(data[i]) << 8 | data[i + 1]
                pair = square[both]
                if pair < 0:
                    pair = square[both] = found
                    pairs[pair].left, pairs[pair].right = id_of_byte[data[i]], id_of_byte[data[i + 1]]
                    pairs[pair].count = pairs[pair].size = 0
                    found += 1
                row[place].pair = pair
                pairs[pair].count += counts[word]
                pairs[pair].size += 1
            place += 1
        begin = ends[word]
        row[place].symbol, row[place].pair = BORDER, NONE
        place += 1
    used[N_PAIRS] = found


@compiled
def list_places(row, pairs, places, used):
    """Make the list of places of each pair."""
    entry = 0
    for pair in range(used[N_PAIRS]):
        pairs[pair].first = pairs[pair].last = entry
        entry += pairs[pair].size
    used[N_PLACES] = entry
    for place in range(len(row)):
        pair = row[place].pair
        if pair != NONE:
            entry = pairs[pair].last
            places[entry].place, places[entry].next = place, entry + 1
            pairs[pair].last = entry + 1
    for pair in range(used[N_PAIRS]):
        pairs[pair].last -= 1


@compiled
def push(pair, pairs, heap, used):
    """Put a pair into the heap, with its count."""
    count, parts, at = pairs[pair].count, np.int64(pairs[pair].left) << 32 | pairs[pair].right, used[N_HEAP]
    used[N_HEAP] += 1
    while at > 0:
        above = heap[(at - 1) >> 1]
        if above.count > count or (above.count == count and above.parts < parts):
            break
        heap[at] = above
        at = (at - 1) >> 1
    heap[at].count, heap[at].parts, heap[at].pair = count, parts, pair


@compiled
def replace_top(count, parts, pair, heap, size):
    """Put a pair with its count in the place of the first of a heap of this size."""
    at, child = 0, 1
    while child < size:
        below = heap[child]
        if child + 1 < size:
            other = heap[child + 1]
            if other.count > below.count or (other.count == below.count and other.parts < below.parts):
                child, below = child + 1, other
        if count > below.count or (count == below.count and parts < below.parts):
            break
        heap[at] = below
        at, child = child, 2 * child + 1
    heap[at].count, heap[at].parts, heap[at].pair = count, parts, pair


@compiled
def refill(least, pairs, heap, used):
    """Halve the floor, but to `least`, and put all pairs that are not below it into the heap, which is empty."""
    used[FLOOR] = max(least, used[FLOOR] >> 1)
    for pair in range(used[N_PAIRS]):
        if pairs[pair].count >= used[FLOOR]:
            push(pair, pairs, heap, used)


@compiled
def put(pair, first, left, right, place, weight, row, pairs, places, used):
    """A pair stands at a place: the one of this number, or, if that is older than `first`, a new one of these parts.

    Returns its number.
    """
    entry = used[N_PLACES]
    used[N_PLACES] += 1
    if pair < first:
        pair = used[N_PAIRS]
        used[N_PAIRS] += 1
        pairs[pair].left, pairs[pair].right = left, right
        pairs[pair].count = pairs[pair].size = 0
        pairs[pair].first = entry
    else:
        places[pairs[pair].last].next = entry
    places[entry].place = place
    pairs[pair].last = entry
    pairs[pair].size += 1
    pairs[pair].count += weight
    row[place].pair = pair
    return pair


@compiled
def merge(merged, new, row, pairs, places, symbols, used):
    """Replace a pair everywhere, from the left, by a new symbol; returns the number of symbols saved.

    ``symbols[x].before`` is the pair of x and the new symbol, if x was found before it already in this merge, and else
    an older pair.
    """
    first = used[N_PAIRS]
    left, right = pairs[merged].left, pairs[merged].right
    left_length, length = symbols[left].length, symbols[left].length + symbols[right].length
    symbols[new].length = length
    saved = 0
    rows = np.uint64(row.ctypes.data)
    size, entry = pairs[merged].size, pairs[merged].first
    coming = entry
    for _ in range(min(AHEAD, size - 1)):
        coming = places[coming].next
    for number in range(size):
        soon = np.uint64(places[coming].place)
        prefetch(rows + PLACE_SIZE * (soon - np.uint64(1)))
        prefetch(rows + PLACE_SIZE * (soon + np.uint64(length)))
        if number + AHEAD < size - 1:
            coming = places[coming].next
        place = places[entry].place
        entry = places[entry].next
        if row[place].pair != merged:  # merged away since
            continue
        weight = row[place].weight
        saved += weight
        row[place].pair = NONE
        inner, end = place + left_length, place + length
        x, y = row[place - 1].symbol, row[end].symbol
        row[place].symbol = row[end - 1].symbol = new
        if x != BORDER:  # x left right -> x new
            at = place - symbols[x].length
            pairs[row[at].pair].count -= weight
            symbols[x].before = put(symbols[x].before, first, x, new, at, weight, row, pairs, places, used)
        if y != BORDER:  # left right y -> new y
            pairs[row[inner].pair].count -= weight
            symbols[y].after = put(symbols[y].after, first, new, y, place, weight, row, pairs, places, used)
        row[inner].pair = NONE
    pairs[merged].count = 0
    return saved


@compiled
def learn(target, min_count, first_id, row, pairs, places, heap, symbols, merges, used):
    """Learn merges until there are `target`, or no pair is left. Returns for how many more places there must be room,
    to go on; 0 if it is done."""
    while used[N_MERGES] < target:
        if used[N_HEAP] == 0:
            if used[FLOOR] == min_count:
                break
            refill(min_count, pairs, heap, used)
            continue
        pair, known = heap[0].pair, heap[0].count
        count, more = pairs[pair].count, 2 * pairs[pair].size
        if used[FLOOR] <= count < known:  # the heap did not know yet that it has become rarer
            replace_top(count, heap[0].parts, pair, heap, used[N_HEAP])
            continue
        if count == known and (used[N_PLACES] + more > len(places) or used[N_PAIRS] + more > len(pairs)):
            return more
        used[N_HEAP] -= 1
        last = heap[used[N_HEAP]]
        replace_top(last.count, last.parts, last.pair, heap, used[N_HEAP])
        if count < known:
            continue
        number, first = used[N_MERGES], used[N_PAIRS]
        used[N_MERGES] += 1
        merges[number].pair, merges[number].count = pair, count
        merges[number].saved = merge(pair, first_id + number, row, pairs, places, symbols, used)
        for born in range(first, used[N_PAIRS]):
            if pairs[born].count >= used[FLOOR]:
                push(born, pairs, heap, used)
    return 0


class Learner:
    """The arrays that learning works on."""

    def __init__(self, words: Words, id_of_byte: list[int], first_id: int, merges: int, min_count: int) -> None:
        size = len(words.data) + len(words.ends) + 1
        if size > LARGEST:
            raise ValueError(f"{size:,} bytes of different words and borders: at most {LARGEST:,} can be merged")
        self.used = np.zeros(5, np.int64)
        self.row, self.pairs, self.heap = np.empty(size, ROW), np.empty(1 << 16, PAIRS), np.empty(1 << 16, HEAP)
        ids = np.array(id_of_byte, np.int32)
        lay_out(words.data, words.ends, words.counts, ids, self.row, self.pairs, self.used)
        self.places = np.empty(2 * size, PLACES)
        list_places(self.row, self.pairs, self.places, self.used)
        self.used[FLOOR] = self.pairs["count"][: self.used[N_PAIRS]].max(initial=0) + min_count
        self.symbols = np.zeros(first_id + merges, SYMBOLS)
        self.symbols["length"] = 1
        self.symbols["before"] = self.symbols["after"] = NONE
        self.merges = np.empty(merges, MERGES)
        self.first_id, self.min_count = first_id, min_count

    def learn(self, target: int) -> int:
        """Learn until there are `target` merges, or no more; returns their number."""
        while more := learn(
            target, self.min_count, self.first_id,
            self.row, self.pairs, self.places, self.heap, self.symbols, self.merges, self.used,
        ):  # fmt: skip
            self._grow(more)
        return int(self.used[N_MERGES])

    def _grow(self, more: int) -> None:
        places, pairs = int(self.used[N_PLACES]) + more, int(self.used[N_PAIRS]) + more
        if places > len(self.places):
            self.places = _longer(self.places, places * 3 // 2)
        if pairs > len(self.pairs):
            self.pairs, self.heap = _longer(self.pairs, pairs * 3 // 2), _longer(self.heap, pairs * 3 // 2)

    def learned(self, symbols: int) -> Learned:
        """What was learned, from a text of so many symbols."""
        merges = self.merges[: self.used[N_MERGES]]
        pairs = self.pairs[merges["pair"]]
        both = list(zip(pairs["left"].tolist(), pairs["right"].tolist(), strict=True))
        return Learned(both, merges["count"].tolist(), merges["saved"].tolist(), symbols)


def _longer(array: np.ndarray, length: int) -> np.ndarray:
    longer = np.empty(length, array.dtype)
    longer[: len(array)] = array
    return longer


@compiled_learning
def _learn_merges(
    words: Words,
    id_of_byte: list[int],
    first_id: int,
    merges: int,
    progress: Progress | None,
    min_count: int,
    compile: bool,
) -> Learned:
    if not (compile or is_ready(learn)):
        return NotImplemented
    learner = Learner(words, id_of_byte, first_id, min(merges, len(words.data)), min_count)
    most = len(learner.merges)
    for target in [*range(AT_ONCE, most, AT_ONCE), most]:
        done = learner.learn(target)
        if progress:
            progress(done, merges)
        if done < target:
            break
    return learner.learned(int(np.diff(words.ends, prepend=0) @ words.counts))
