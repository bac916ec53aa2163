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
`alphabet.BYTE_ORDER`, this is exactly the rule of Hugging Face's BpeTrainer. A pair may overlap itself: "aaa" counts
the pair "aa" twice, and is merged from the left, into "aa" + "a".
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from heapq import heapify, heappop, heappush, heapreplace
from itertools import pairwise

from tinygrad_llm.tokenizer.pretokenize import compile_pattern, split_words
from tinygrad_llm.tokenizer.unicode_text import check_text

Pair = tuple[int, int]
Progress = Callable[[int, int], None]

_BORDER = -1  # between two words
_GONE = -2  # a symbol that was merged into its left neighbour

# Above either of these the table of different words is made smaller. English reaches half a million different words
# after about a gigabyte; a text without spaces, whose words are whole phrases, after a few megabytes.
_MOST_WORDS = 500_000
_MOST_BYTES = 8_000_000
_MEASURED_EVERY = 2_000_000  # bytes of text: by so much the table may grow over the limit
_PIECE = 8  # characters


def count_words(texts: Iterable[str], pattern: str) -> dict[bytes, int]:
    """How often each word occurs. `texts` is read once; only the different words are kept.

    Exact up to 500,000 different words of together 8 MB. Above, the rarest are cut or forgotten (see `_shrunk`): the
    counts are then too small by little, and always the same for the same texts in the same order.
    Raises TypeError if `texts` is a single string (which would be read character by character).
    """
    if isinstance(texts, str):
        raise TypeError("texts is one string, but must be an iterable of strings; write [text] for a single text")
    compiled = compile_pattern(pattern)
    counts: Counter[str] = Counter()
    unmeasured = 0
    for text in texts:
        unmeasured += check_text(text)
        counts.update(split_words(compiled, text))
        if unmeasured > _MEASURED_EVERY:  # not after each text: measuring walks through all words
            counts, unmeasured = _shrunk(counts), 0
    return {word.encode("utf-8"): count for word, count in _shrunk(counts).items()}


def _shrunk(counts: Counter[str]) -> Counter[str]:
    """The table itself if it is within the limits; else its most frequent words, half of the limits.

    Before the choice, a word with more than 8 characters for each time it was seen is cut into pieces of 8. Where
    phrases are words, hardly one is seen twice, but its pieces are, and the pairs in them still count. Half and not
    all, so that new words have room to become frequent before the next choice.
    """
    if len(counts) <= _MOST_WORDS and sum(map(_size, counts)) <= _MOST_BYTES:
        return counts
    pieces: Counter[str] = Counter()
    for word, count in counts.items():
        step = len(word) if len(word) <= _PIECE * count else _PIECE
        for begin in range(0, len(word), step):
            pieces[word[begin : begin + step]] += count
    kept: Counter[str] = Counter()
    room = _MOST_BYTES // 2
    for word, count in pieces.most_common(_MOST_WORDS // 2):  # of equal counts, the first seen stays
        if (size := _size(word)) <= room:
            kept[word] = count
            room -= size
    return kept


def _size(word: str) -> int:
    return len(word) if word.isascii() else len(word.encode("utf-8"))


def learn_merges(
    words: Mapping[bytes, int], id_of_byte: list[int], first_id: int, merges: int, progress: Progress | None = None
) -> list[Pair]:
    """The pairs that become tokens first_id, first_id + 1, ... in this order; fewer than `merges` if none is left.

    `words` holds each word with its count, `id_of_byte[b]` the id of the single byte b. `progress(done, merges)` is
    called now and then. Cost: about one step per symbol changed, plus a heap step per pair.
    """
    row = _Row(words, id_of_byte)
    heap = [(-count, *pair) for pair, count in row.count.items()]
    heapify(heap)
    learned: list[Pair] = []
    while heap and len(learned) < merges:
        negative, left, right = heap[0]
        count = row.count[left, right]
        if count != -negative:  # stale: the true count is smaller
            if count > 0:
                heapreplace(heap, (-count, left, right))
            else:
                heappop(heap)
            continue
        heappop(heap)
        new = first_id + len(learned)
        learned.append((left, right))
        for pair in row.merge((left, right), new):
            if (born := row.count[pair]) > 0:  # 0: in "aaaa" -> "A a a" -> "A A", the pair "A a" came and went
                heappush(heap, (-born, *pair))
        if progress and len(learned) % 64 == 0:
            progress(len(learned), merges)
    if progress:
        progress(len(learned), merges)
    return learned


class _Row:
    """All words in one row of symbols: `symbols[i]` with its neighbours `left[i]`, `right[i]` and its word's count.

    In arrays, as lists of Python's numbers take five times the memory: about 35 bytes per symbol.
    """

    def __init__(self, words: Mapping[bytes, int], id_of_byte: list[int]) -> None:
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

    def merge(self, pair: Pair, new: int) -> set[Pair]:
        """Replace every `pair` by `new`, from the left; returns the pairs born by it."""
        a, b = pair
        symbols, left, right, count, where = self.symbols, self.left, self.right, self.count, self.where
        born: set[Pair] = set()
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
        del count[pair]
        return born
