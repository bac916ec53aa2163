"""Compiled counting of words and learning of merges against the plain ones."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

pytest.importorskip("tinygrad_llm.kernels.compiled", reason="no kernels here", exc_type=ImportError)

from tinygrad_llm import use_backend
from tinygrad_llm.kernels import trainer as kernel
from tinygrad_llm.kernels import word_counts as counting
from tinygrad_llm.kernels.pretokenize import rule_of
from tinygrad_llm.kernels.words import FIRST, SECOND
from tinygrad_llm.random import stream
from tinygrad_llm.threads import set_threads, thread_count
from tinygrad_llm.tokenizer import PATTERNS, Tokenizer, word_counts
from tinygrad_llm.tokenizer.alphabet import BYTE_ORDER
from tinygrad_llm.tokenizer.trainer import compiled_learning, learn_plainly
from tinygrad_llm.tokenizer.word_counts import Words, compiled_counting, count_plainly

MACHINES = sorted(name for name in PATTERNS if rule_of(name) >= 0)
ID_OF_BYTE = [BYTE_ORDER.index(byte) for byte in range(256)]
FRAGMENTS = [
    "the", " the", "'s", "'ll", "  \n", "\r\n", "12345", "_", "é", " éé", "😀", "incomprehensibilities",
    " incomprehensibilitieS", "x" * 200, "\u3000 ", "!?", "ab" * 40, "漢字" * 30,
]  # fmt: skip
pieces = st.sampled_from(FRAGMENTS) | st.text(max_size=8) | st.text("ab ", max_size=90)
texts = st.lists(st.lists(pieces, max_size=12).map("".join), max_size=6)


def random_texts(seed, count, length):
    """Texts of fragments, many of them long enough to be read in blocks."""
    generator = stream(seed, "texts")
    fragments = [*FRAGMENTS, *(f" w{n}" for n in range(40))]
    return ["".join(fragments[i] for i in generator.integers(0, len(fragments), length)) for _ in range(count)]


def same(one, other):
    """Whether two `Words` hold the same, in the same order and the same types."""
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture
def threads():
    before = thread_count()
    yield
    set_threads(before)


# ---- counting


@pytest.mark.parametrize("pattern", MACHINES)
@given(texts=texts)
def test_counts_are_those_of_the_plain_one(pattern, texts):
    assert same(compiled_counting([texts], pattern, True), count_plainly([texts], pattern))


@pytest.mark.parametrize("pattern", MACHINES)
def test_counts_of_longer_texts(pattern):
    batches = [random_texts(seed, 5, 800) for seed in range(3)]
    assert same(compiled_counting(batches, pattern, True), count_plainly(batches, pattern))


def test_the_table_grows():
    texts = [f" {n} {'a' * (n % 40)}{n} " for n in range(40_000)] + [f" {n}" for n in range(0, 40_000, 7)] + ["q" * 99]
    words = compiled_counting([texts, ["", "y" * 300_000], texts[::-1]], "gpt2", True)
    assert len(words.ends) > counting.FEWEST_SLOTS
    assert same(words, count_plainly([texts, ["", "y" * 300_000], texts[::-1]], "gpt2"))


def test_words_with_the_same_hash_are_told_apart():
    whole = (1 << 64) - 1

    def mixed(number):
        number = number * int(FIRST) & whole
        return number ^ (number >> 32)

    short = [(15 << 56) | (n * 0x0101010101) for n in range(300)]  # low is such that low ^ high * SECOND is always 7
    counts = {
        (high * int(SECOND) & whole ^ 7).to_bytes(8, "little") + high.to_bytes(8, "little")[:7]: n + 1
        for n, high in enumerate(short)
    }
    for n in range(300):  # the second half takes back what the first one did
        first = mixed(16 * int(SECOND) & whole ^ n)
        counts[n.to_bytes(8, "little") + (first ^ 7).to_bytes(8, "little")] = n + 1
    words = Words.of(counts)
    table = counting.Table(rule_of("gpt2"))
    table.add(words)
    assert same(table.content(), words)
    table.add(words)
    assert same(table.content(), words._replace(counts=2 * words.counts))


def test_words_made_to_belong_in_one_place_are_spread():
    whole = (1 << 64) - 1
    counts = {}
    for n in range(600):
        high = (15 << 56) | (n * 0x0101010101)
        counts[(high * int(SECOND) & whole ^ 7).to_bytes(8, "little") + high.to_bytes(8, "little")[:7]] = 1
    table = counting.Table(rule_of("gpt2"))
    table.add(Words.of(counts))
    free = np.flatnonzero(table._arrays["slots"].reshape(-1, 4)[:, 1] == 0)
    assert np.diff(free).max() < 200  # without that, all of them would stand side by side


@given(
    counts=st.dictionaries(
        st.text("ab漢", min_size=1, max_size=30), st.integers(1, 1 << 40) | st.integers(1, 4), max_size=30
    ),
    again=st.lists(st.text("ab漢", min_size=1, max_size=30), max_size=20),
    piece=st.integers(0, 9),
)
@example({"abababab": 2, "babababab": 2}, [], 4)  # only the second has more than 4 for each time
def test_words_are_added_whole_or_in_pieces(counts, again, piece):
    table = counting.Table(rule_of("gpt2"))
    expected = Counter()
    for given_words in (counts, Counter(again)):
        table.add(Words.of({word.encode(): count for word, count in given_words.items()}), piece)
        for word, count in given_words.items():
            step = piece if piece and len(word) > piece * count else len(word)
            for begin in range(0, len(word), step):
                expected[word[begin : begin + step].encode()] += count
    assert same(table.content(), Words.of(expected))


@pytest.mark.parametrize("pattern", ["own", "gpt2"])
@given(texts=texts, most=st.integers(2, 30), size=st.integers(4, 300), batch=st.integers(1, 200))
@example(["abcdefghij" * 3, "klm nop" * 3], 4, 40, 1)
def test_the_bound_on_memory_keeps_the_same_words(pattern, texts, most, size, batch):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(word_counts, "MOST_WORDS", most)
        patch.setattr(word_counts, "MOST_BYTES", size)
        patch.setattr(word_counts, "BATCH", batch)
        with use_backend("numba"):
            one = word_counts.count_words(iter(texts), pattern)
        with use_backend("numpy"):
            other = word_counts.count_words(iter(texts), pattern)
    assert same(one, other)
    assert len(one.ends) <= most
    assert len(one.data) <= size


@pytest.mark.parametrize("count", [2, 3, 5])
def test_any_number_of_threads_gives_the_same(count, threads, monkeypatch):
    monkeypatch.setattr(counting, "SHARE", 1000)
    batches = [random_texts(seed, size, 300) for seed, size in enumerate((7, 1, 12))]
    used = []
    count_one = counting.Table.count
    monkeypatch.setattr(counting.Table, "count", lambda table, texts: used.append(table) or count_one(table, texts))
    set_threads(1)
    alone = compiled_counting(batches, "gpt2", True)
    assert len(used) == 3
    set_threads(count)
    assert same(compiled_counting(batches, "gpt2", True), alone)
    assert len(used) == 3 + count + 1 + count
    assert len(set(used)) == 1 + count
    assert same(alone, count_plainly(batches, "gpt2"))


def test_a_lone_surrogate_is_named():
    with pytest.raises(ValueError, match=r"lone surrogate U\+D800 at position 2"):
        compiled_counting([["good", "ab\ud800"]], "own", True)


def test_what_is_not_compiled_is_declined(monkeypatch):
    assert compiled_counting([["text"]], r"\w+|\W+", True) is NotImplemented
    monkeypatch.setattr(counting, "is_ready", lambda function: False)
    assert compiled_counting([["text"]], "own", False) is NotImplemented
    assert same(compiled_counting([["text"]], "own", True), count_plainly([["text"]], "own"))
    monkeypatch.setattr(kernel, "is_ready", lambda function: False)
    words = Words.of({b"ab": 2})
    assert compiled_learning(words, ID_OF_BYTE, 256, 1, None, 1, False) is NotImplemented
    assert compiled_learning(words, ID_OF_BYTE, 256, 1, None, 1, True).counts == [2]


# ---- learning


def both(counts, merges, min_count=1, id_of_byte=ID_OF_BYTE, first_id=256):
    words = Words.of(counts)
    return (
        compiled_learning(words, id_of_byte, first_id, merges, None, min_count, True),
        learn_plainly(words, id_of_byte, first_id, merges, None, min_count),
    )


few_letters = st.sampled_from(["a", "ab", "abc", "abcd"]).flatmap(lambda letters: st.text(letters, min_size=1))
tied_words = st.dictionaries(few_letters.map(str.encode), st.sampled_from([1, 1, 2, 3]), max_size=12)
heavy = st.integers(1, 5) | st.integers(2**31 - 2, 2**55)
heavy_words = st.dictionaries(few_letters.map(str.encode), heavy, max_size=12)
any_words = st.dictionaries(st.binary(min_size=1, max_size=12), st.integers(1, 3), max_size=12)


@given(counts=tied_words | heavy_words | any_words, merges=st.integers(0, 80), min_count=st.integers(1, 4))
@example({b"aaaa": 1, b"aaaaa": 1, b"a": 9}, 9, 1)
@example({b"abab" * 9: 1, b"ba": 2}, 9, 1)
@example({b"ab": 2**40, b"bc": 2**40, b"abc": 1}, 9, 2**40)
def test_merges_are_those_of_the_plain_one(counts, merges, min_count):
    one, other = both(counts, merges, min_count)
    assert one == other


@given(counts=tied_words | any_words, merges=st.integers(0, 30), specials=st.integers(0, 3))
def test_bytes_may_have_any_ids(counts, merges, specials):
    ids = [specials + byte for byte in range(256)]
    one, other = both(counts, merges, 1, ids, specials + 256)
    assert one == other


def test_the_arrays_of_learning_grow(monkeypatch):
    generator = stream(0, "soup")
    counts = {bytes(generator.integers(0, 250, 60).astype(np.uint8)): 1 for _ in range(2500)}
    grown = []
    grow = kernel.Learner._grow
    monkeypatch.setattr(kernel.Learner, "_grow", lambda self, more: grown.append(more) or grow(self, more))
    one, other = both(counts, 3000)
    assert one == other
    counts = {bytes(generator.integers(97, 99, 300).astype(np.uint8)): 1 for _ in range(30)}
    one, other = both(counts, 3000)
    assert one == other
    assert grown


def test_progress_is_told_in_between_and_at_the_end():
    counts = {bytes([97 + n // 26, 97 + n % 26]): 1 + n for n in range(300)}
    seen = []
    compiled_learning(Words.of(counts), ID_OF_BYTE, 256, 500, lambda done, total: seen.append((done, total)), 1, True)
    assert seen == [*((done, 500) for done in range(64, 300, 64)), (300, 500)]
    seen.clear()
    compiled_learning(Words.of({}), ID_OF_BYTE, 256, 5, lambda done, total: seen.append((done, total)), 1, True)
    assert seen == [(0, 5)]


def test_what_fills_32_bits_is_refused(monkeypatch):
    monkeypatch.setattr(kernel, "LARGEST", 5)
    assert both({b"ab": 1}, 1)[0].pairs
    with pytest.raises(ValueError, match="6 bytes of different words and borders: at most 5"):
        both({b"abcd": 1}, 1)


@pytest.mark.parametrize("pattern", MACHINES)
def test_a_tokenizer_trained_by_kernels_is_the_same(pattern):
    texts = random_texts(4, 4, 400)
    with use_backend("numba"):
        one = Tokenizer.train(iter(texts), 600, pattern)
    with use_backend("numpy"):
        other = Tokenizer.train(iter(texts), 600, pattern)
    assert one.digest == other.digest
