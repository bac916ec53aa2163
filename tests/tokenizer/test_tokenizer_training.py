"""The trainer against the obvious one, which counts everything anew for each merge."""

import tracemalloc
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.random import stream
from tinygrad_llm.tokenizer import PATTERNS, Tokenizer, trainer, word_counts
from tinygrad_llm.tokenizer.alphabet import BYTE_ORDER
from tinygrad_llm.tokenizer.pretokenize import compile_pattern, split_words
from tinygrad_llm.tokenizer.trainer import learn_merges
from tinygrad_llm.tokenizer.word_counts import Words, most_frequent

# few letters make many ties, overlaps ("aaaa") and pairs that run out
tied_texts = st.lists(st.text("ab \n", max_size=30), max_size=5)


def merge_everywhere(symbols, pair, new):
    result, i = [], 0
    while i < len(symbols):
        if tuple(symbols[i : i + 2]) == pair:
            result.append(new)
            i += 2
        else:
            result.append(symbols[i])
            i += 1
    return result


def obvious_merges(texts, pattern, vocab_size, specials=1, min_count=1):
    """Merges by the definition, each with its count and the symbols it saved: count all pairs, take the best, merge it
    everywhere, begin again."""
    id_of_byte = {byte: specials + place for place, byte in enumerate(BYTE_ORDER)}
    words = [
        [id_of_byte[b] for b in word.encode()] for text in texts for word in split_words(compile_pattern(pattern), text)
    ]
    merges = []
    while specials + 256 + len(merges) < vocab_size:
        counts = Counter(pair for word in words for pair in pairwise(word))
        if not counts or max(counts.values()) < min_count:
            break
        pair = min(counts, key=lambda pair: (-counts[pair], pair))
        before = sum(map(len, words))
        words = [merge_everywhere(word, pair, specials + 256 + len(merges)) for word in words]
        merges.append((pair, counts[pair], before - sum(map(len, words))))
    return merges


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
@given(
    texts=tied_texts | st.lists(st.text(max_size=30), max_size=5),
    merges=st.integers(0, 40),
    min_count=st.integers(1, 3),
)
def test_merges_are_those_of_the_definition(pattern, texts, merges, min_count):
    explained = []
    tokenizer = Tokenizer.train(
        texts, 257 + merges, pattern=pattern, min_count=min_count, explain=lambda learned: explained.append(learned)
    )
    obvious = obvious_merges(texts, pattern, 257 + merges, min_count=min_count)
    assert tokenizer.merges == [pair for pair, _, _ in obvious]
    learned = explained[0]
    assert list(zip(learned.pairs, learned.counts, learned.saved, strict=True)) == obvious
    assert learned.symbols == sum(len(text.encode()) for text in texts)


def test_ties_go_to_the_smaller_left_id_then_the_smaller_right_id():
    # all pairs occur once; "!" (0x21) has the smallest id of all bytes, a space the largest but for control characters
    tokenizer = Tokenizer.train(["zb", "ac", "ab"], 258, pattern="gpt2")
    assert [tokenizer.token_bytes(i) for i in tokenizer.merges[0]] == [b"a", b"b"]
    assert tokenizer.token_bytes(1) == b"!"
    first = Tokenizer.train([" !", "!!"], 258, pattern="gpt2").merges[0]
    assert first == (1, 1)


def test_an_overlapping_pair_is_counted_with_overlap_and_merged_from_the_left():
    tokenizer = Tokenizer.train(["aaa bb bb bb"], 258, pattern=r"\w+|\s")  # bb three times, aa twice
    assert tokenizer.token_bytes(257) == b"bb"
    tokenizer = Tokenizer.train(["aaaaa bb bb bb"], 258, pattern=r"\w+|\s")  # aa four times
    assert tokenizer.token_bytes(257) == b"aa"
    assert [tokenizer.token_bytes(i) for i in tokenizer.encode("aaaaa")] == [b"aa", b"aa", b"a"]


def test_texts_are_read_once_and_one_by_one():
    alive = []

    def texts():
        for i in range(5):
            alive.append(i)
            yield f"text {i}"

    source = texts()
    Tokenizer.train(source, 260)
    assert alive == list(range(5))
    assert next(source, None) is None


# ---- more different words than are kept


def count_words(texts, pattern):
    return dict(word_counts.count_words(texts, pattern).items())


@pytest.fixture
def small_table(monkeypatch):
    monkeypatch.setattr(word_counts, "MOST_WORDS", 20)
    monkeypatch.setattr(word_counts, "MOST_BYTES", 200)
    monkeypatch.setattr(word_counts, "BATCH", 100)


def obvious_counts(texts):
    return Counter(word.encode() for text in texts for word in split_words(compile_pattern("own"), text))


def test_counts_are_exact_up_to_the_limits(small_table):
    texts = [f"a{chr(ord('a') + i)}" for i in range(20)] * 50
    assert count_words(texts, "own") == obvious_counts(texts)
    texts = ["x" * 200] * 3
    assert count_words(texts, "own") == obvious_counts(texts)
    texts = [*"abcdefghijklmnopqrstu"]  # 21 words
    assert count_words(texts, "own") == {letter.encode(): 1 for letter in texts[:10]}
    assert len(count_words(["x" * 200, "y"], "own")) < 5  # 201 bytes


def test_frequent_words_survive_many_rare_ones(small_table):
    texts = [f"\nthe cat{''.join(chr(ord('a') + int(d)) for d in str(1000 + i))}" for i in range(1000)]
    counts = count_words(texts, "own")
    assert counts[b"\nthe"] == 1000
    assert len(counts) <= 20
    assert sum(map(len, counts)) <= 200
    assert all(count <= obvious_counts(texts)[word] for word, count in counts.items())
    assert list(counts.items()) == list(count_words(texts, "own").items())


def test_of_long_words_without_spaces_the_pieces_are_kept(small_table):
    generator = stream(0, "phrases")
    texts = ["".join("天地玄黃"[i] for i in generator.integers(0, 4, 40)) for _ in range(50)]
    counts = count_words(texts, "own")
    assert 0 < sum(map(len, counts)) <= 200
    assert all(len(word.decode()) <= word_counts.PIECE for word in counts)
    tokenizer = Tokenizer.train(texts, 280)
    assert {"天", "地", "玄", "黃"} <= {tokenizer.decode([i]) for i in range(tokenizer.vocab_size)}
    assert max(map(len, count_words(["z" * 10_000] * 2, "own"))) == word_counts.PIECE  # longer than the whole table


def test_the_most_frequent_words_stay_in_their_order_and_of_equal_ones_the_first(small_table):
    counted = {b"a": 1, b"bb": 3, b"c" * 90: 2, b"d": 1, b"e": 1, b"f" * 10: 1, b"g": 5}
    kept = [(b"a", 1), (b"bb", 3), (b"c" * 90, 2), (b"d", 1), (b"e", 1), (b"g", 5)]
    assert list(most_frequent(Words.of(counted)).items()) == kept
    full = {b"c" * 98: 2, b"a": 1, b"d": 1, b"e": 1}  # 200 bytes are allowed: 100 stay
    assert [word for word, _ in most_frequent(Words.of(full)).items()] == [b"c" * 98, b"a", b"d"]
    many = {str(i).encode(): 1 + i % 2 for i in range(30)}  # twenty are allowed: ten stay
    assert [word for word, _ in most_frequent(Words.of(many)).items()] == [str(i).encode() for i in range(1, 21, 2)]
    assert list(most_frequent(Words.of({})).items()) == []


def test_the_table_is_measured_after_texts_of_so_many_characters(small_table):
    words = [f" {a}{b}" for a in "abcd" for b in "abcdefgh"]  # 32 words of 3 characters: less than a batch of 100
    assert len(count_words(words, "own")) == 10
    assert count_words([*words, " ab" * 2, " cd"], "own")[b" cd"] == 1  # 102: seen again after the choice
    assert count_words([*words, " ab", "z", " cd"], "own")[b" cd"] == 1  # 100
    assert count_words([*words, " cd"], "own")[b" cd"] == 2  # 99


def test_a_word_is_cut_if_it_has_more_than_eight_characters_for_each_time(small_table):
    counts = count_words(["é" * 16, "y" * 17] * 2 + [f" {a}{b}" for a in "abcd" for b in "abcdef"], "own")
    assert counts["é".encode() * 16] == 2
    assert counts[b"y" * 8] == 4
    assert counts[b"y"] == 2
    assert b"y" * 17 not in counts


def test_the_memory_for_words_without_end_is_bounded(small_table):
    def texts():
        generator = stream(0, "letters")
        for _ in range(1200):
            yield "".join(map(chr, generator.integers(0x4E00, 0x9000, 40)))

    count_words(texts(), "own")  # what this loads is not measured
    tracemalloc.start()
    count_words(texts(), "own")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000  # all of them: 200,000


def test_the_vocabulary_stays_smaller_when_no_pair_is_left():
    tokenizer = Tokenizer.train(["ab"], 1000)
    assert tokenizer.vocab_size == 258
    assert Tokenizer.train([], 1000).vocab_size == 257


def test_ids_are_special_tokens_then_bytes_then_merges():
    tokenizer = Tokenizer.train(["abab"], 259, special_tokens=["<|a|>", "<|endoftext|>"])
    assert tokenizer.special_tokens == {"<|a|>": 0, "<|endoftext|>": 1}
    assert tokenizer.separator_id == 1
    assert [tokenizer.token_bytes(i) for i in range(2, 258)] == [bytes([byte]) for byte in BYTE_ORDER]
    assert tokenizer.token_bytes(258) == b"ab"


def test_progress_is_reported_to_its_end():
    seen = []
    text = "some text to learn from, some more of it"
    Tokenizer.train([text], 270, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (13, 13)


def test_of_much_text_the_compiled_twins_give_the_same(monkeypatch):
    """Whether a twin is asked for is decided by the size of the text, and by whether it was compiled before."""
    calls, backend = [], "auto"

    def twin(name, declines):
        def called(*arguments):
            calls.append((name, arguments[-1]))
            return NotImplemented if declines else arguments[0]

        return called

    monkeypatch.setattr(word_counts, "chosen_backend", lambda: backend)
    monkeypatch.setattr(trainer, "chosen_backend", lambda: backend)
    monkeypatch.setattr(word_counts, "compiled_counting", twin("count", True))
    monkeypatch.setattr(trainer, "compiled_learning", twin("learn", True))
    monkeypatch.setattr(word_counts, "WORTH_LOADING", 50)
    monkeypatch.setattr(word_counts, "WORTH_COMPILING", 60)
    monkeypatch.setattr(trainer, "WORTH_LOADING", 10)
    monkeypatch.setattr(trainer, "WORTH_COMPILING", 20)
    for text, expected in [
        ("abc " * 12 + "a", []),
        ("abcdefghi", []),
        ("abcdefghij", [("learn", False)]),
        ("ab " * 16 + "ab", [("count", False)]),
        ("ab " * 20, [("count", True)]),
        ("abcdefghijklmnopqrst", [("learn", True)]),
    ]:
        assert Tokenizer.train([text], 260).merges
        assert calls == expected
        calls.clear()
    backend = "numpy"
    assert Tokenizer.train(["abcdefghijklmnopqrst" * 9], 260).merges
    assert calls == []
    backend = "numba"
    assert Tokenizer.train(["ab"], 260).merges
    assert calls == [("count", True), ("learn", True)]
    monkeypatch.setattr(word_counts, "compiled_counting", twin("count", False))
    monkeypatch.setattr(trainer, "compiled_learning", twin("learn", False))
    assert list(word_counts.count_words(iter(["ab", "cd"]), "own")) == [["ab", "cd"]]
    words = Words.of({b"ab": 1})
    assert learn_merges(words, [0] * 256, 1, 1) is words


def test_wrong_arguments_are_named():
    with pytest.raises(
        ValueError, match="vocab_size 256 is too small: 256 bytes and 1 special tokens need at least 257"
    ):
        Tokenizer.train(["text"], 256)
    with pytest.raises(TypeError, match=r"write \[text\] for a single text"):
        Tokenizer.train("text", 300)
    with pytest.raises(TypeError, match="texts holds bytes, but must be strings"):
        Tokenizer.train(["text", b"text"], 300)
    with pytest.raises(ValueError, match="min_count 0: must be at least 1"):
        Tokenizer.train(["text"], 300, min_count=0)
    with pytest.raises(ValueError, match="holds a name twice"):
        Tokenizer.train(["text"], 300, special_tokens=["<|a|>", "<|a|>"])
    with pytest.raises(ValueError, match=r"lone surrogate U\+D800 at position 2"):
        Tokenizer.train(["ab\ud800"], 300)
    with pytest.raises(ValueError, match="neither a name"):
        Tokenizer.train(["ab"], 300, pattern="(")
    with pytest.raises(ValueError, match="capturing group"):
        Tokenizer.train(["ab"], 300, pattern="(a)|b")
    for name in ["", "a", "ab", "Ċ"]:
        with pytest.raises(ValueError, match="choose a rarer name"):
            Tokenizer.train(["ab ab"], 300, special_tokens=[name])
