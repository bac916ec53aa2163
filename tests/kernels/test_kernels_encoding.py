"""The compiled encoder against the plain one."""

import itertools
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tinygrad_llm.kernels.compiled", reason="no kernels here", exc_type=ImportError)

from tinygrad_llm import use_backend
from tinygrad_llm.kernels import encoding as kernel
from tinygrad_llm.kernels.byte_pairs import FIELDS, MARGIN, SPAN, SPANS_SIZE, cut
from tinygrad_llm.kernels.pretokenize import rule_of
from tinygrad_llm.kernels.words import FIRST, SECOND
from tinygrad_llm.threads import set_threads, thread_count
from tinygrad_llm.tokenizer import PATTERNS, Tokenizer
from tinygrad_llm.tokenizer.encoding import EitherEncoder, PlainEncoder, compiled_encoder
from tinygrad_llm.tokenizer.pretokenize import compile_pattern, split_words
from tinygrad_llm.tokenizer.vocabulary import Vocabulary

LEARNED_FROM = [
    "The model's gradient of a sum is the sum of gradients; we'll derive it.\n\n  def f(x, y=12345):\n        return x",
    "Größe, naïve, 数字 и буквы \U0001f600\U0001f600 don't DON'T\r\n\t  tabs   and spaces    ",
    "aaaa aaaa aaaaaaaa abababab the the the there then _name __init__ self.name incomprehensibilities",
] * 2
MACHINES = sorted(name for name in PATTERNS if rule_of(name) >= 0)

fragments = st.sampled_from(
    [
        "the",
        " the",
        "'s",
        "'S",
        " 's",
        "'ll",
        "'re x",
        "''s",
        "  \n",
        "\r\n",
        "12345",
        "_",
        "é",
        "😀",
        "incomprehensibilities",
        "\xa0",
        "\u3000 ",
        "!?",
        "(a",
        "1 ",
        "a" * 70,
        "ab" * 60,
        " " * 61,
        "\n" * 3,
        "x" * 15,
        "x" * 16,
    ]
)
texts = st.lists(fragments | st.text(max_size=8) | st.text("ab 1!\n'", max_size=80), max_size=20).map("".join)


@pytest.fixture(scope="module", params=MACHINES)
def both(request):
    vocabulary = Tokenizer.train(LEARNED_FROM, 420, pattern=request.param).vocabulary
    return PlainEncoder(vocabulary), compiled_encoder(vocabulary, True)


def same(plain, compiled, text):
    ids = compiled.encode(text)
    assert ids.dtype == np.int32
    assert ids.tolist() == plain.encode(text).tolist()


@given(text=texts, times=st.sampled_from([1, 1, 30]))
def test_the_ids_are_the_same(both, text, times):
    same(*both, text * times)
    same(*both, text * times)  # now its words are known


@given(texts=st.lists(texts, max_size=12))
def test_a_batch_gives_the_ids_of_each_text(both, texts):
    plain, compiled = both
    assert [ids.tolist() for ids in compiled.encode_batch(texts)] == [plain.encode(text).tolist() for text in texts]


def words(text, rule):
    """The words that `cut` finds in a text with room behind it."""
    memory = np.frombuffer(text + b" " * (2 * int(MARGIN)), np.uint8)
    spans = np.zeros(SPANS_SIZE, np.uint8)
    begin, found = np.uint64(memory.ctypes.data), []
    word, end = begin, begin + np.uint64(len(text))
    while word < end:
        last, word = map(np.uint64, cut(word, end, end, np.uint64(rule), np.uint64(spans.ctypes.data)))
        for span in range(int(last - spans.ctypes.data) // int(SPAN)):
            at, size = spans.view(np.uint64)[span * 5 : span * 5 + 2].tolist()
            found.append(text[at - int(begin) : at - int(begin) + size])
    return found


@given(
    text=st.text("abcdelmrstv XY019'_!\t\n\r\x0b\x1c", max_size=200)
    | st.text("ab  1'\n\u00e9\u00a0\u3000\u0301", max_size=200)
    | texts,
)
def test_blocks_cut_the_words_of_the_pattern(text):
    for pattern in MACHINES:
        expected = [word.encode() for word in split_words(compile_pattern(pattern), text)]
        assert words(text.encode(), rule_of(pattern)) == expected


@pytest.mark.parametrize("pattern", MACHINES)
@pytest.mark.parametrize("after", ["", "ab", "1", "!", "é"])
def test_white_space_at_every_place_of_a_block(pattern, after):
    compiled = compile_pattern(pattern)
    for length in range(57, 66):
        for count in range(1, 4):
            for middle in itertools.product(" \n\t!", repeat=count):
                text = "x" * length + "".join(middle) + after
                expected = [word.encode() for word in split_words(compiled, text)]
                assert words(text.encode(), rule_of(pattern)) == expected


@pytest.mark.parametrize("end", ["", "  ", "é", "'s", "1"])
def test_texts_of_every_length_around_a_block(both, end):
    for length in (*range(55, 70), *range(120, 145), 1023, 1024, 1025):
        for unit in ("ab cd ", "x", " ", "it's ", "12 "):
            same(*both, (unit * length)[: length - len(end)] + end)


@pytest.mark.parametrize("unit", ["a", "ab", " ", "\n", "'", "7", "é", "the", "\U0001f600"])
def test_a_long_word_takes_no_quadratic_time(both, unit):
    same(*both, unit * 20_000)


# ---- the memory of words


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(kernel, "FEWEST_SLOTS", 1 << 8)
    monkeypatch.setattr(kernel, "MOST_SLOTS", 1 << 12)


def many_words(count, size=6):
    rng = np.random.default_rng(count)
    letters = rng.integers(97, 123, (count, size)).astype(np.uint8)
    return " ".join(bytes(row).decode() for row in letters)


def test_a_memory_that_is_full_grows_and_at_last_forgets(small):
    vocabulary = Tokenizer.train(LEARNED_FROM, 300, pattern="gpt2").vocabulary
    plain, compiled = PlainEncoder(vocabulary), compiled_encoder(vocabulary, True)
    slots = []
    for count in (100, 1000, 3000, 9000):
        for text in (many_words(count), many_words(count, 20)):
            same(plain, compiled, text)
            (memory,) = compiled._shelf
            slots.append(int(memory.state[FIELDS.index("n_slots")]))
            assert memory.state[FIELDS.index("used")] <= slots[-1] * 5 // 8 + 1
    assert slots[0] < slots[-1] == 1 << 12
    batch = [many_words(500), many_words(9000), "the end"]
    assert [ids.tolist() for ids in compiled.encode_batch(batch)] == [plain.encode(text).tolist() for text in batch]
    for word in many_words(3000, 5).split():  # short texts find it full too
        same(plain, compiled, word)


def test_words_that_all_belong_in_one_slot_cost_no_more_than_others(small):
    vocabulary = Tokenizer.train(LEARNED_FROM, 300, pattern="gpt2").vocabulary
    plain, compiled = PlainEncoder(vocabulary), compiled_encoder(vocabulary, True)
    letters = np.random.default_rng(0).integers(97, 123, (200_000, 8)).astype(np.uint8)
    low, high = letters.view(np.uint64)[:, 0], np.full(1, 8 << 56, np.uint64)
    mixed = (low ^ (high * SECOND)) * FIRST
    one_slot = letters[(mixed ^ (mixed >> np.uint64(32))) & np.uint64(1023) == 7]
    assert len(one_slot) > 150
    text = "\n".join(bytes(row).decode() for row in one_slot)
    same(plain, compiled, text)
    same(plain, compiled, text)
    assert compiled._shelf[0].state[FIELDS.index("used")] < 500  # most of them were not kept


def test_whole_words_that_the_table_cannot_hold_are_left_to_the_plain_encoder(small):
    letters = np.random.default_rng(0).integers(97, 123, (400_000, 8)).astype(np.uint8)
    low, high = letters.view(np.uint64)[:, 0], np.full(1, 8 << 56, np.uint64)
    mixed = (low ^ (high * SECOND)) * FIRST
    one_slot = letters[(mixed ^ (mixed >> np.uint64(32))) & np.uint64(2047) == 7][:100]
    tokens = {bytes([byte]): byte for byte in range(256)} | {bytes(row): 256 + n for n, row in enumerate(one_slot)}
    assert compiled_encoder(Vocabulary(tokens, [], "gpt2", whole_words=True), True) is NotImplemented
    with use_backend("numba"):
        tokenizer = Tokenizer(tokens, [], {}, "gpt2", whole_words=True)
        for number in (0, 63, 64, 99):
            assert tokenizer.encode(bytes(one_slot[number]).decode()).tolist() == [256 + number]


def test_a_word_stays_known_while_the_memory_grows(small):
    vocabulary = Tokenizer.train(LEARNED_FROM, 300, pattern="gpt2").vocabulary
    plain, compiled = PlainEncoder(vocabulary), compiled_encoder(vocabulary, True)
    same(plain, compiled, many_words(600))
    (memory,) = compiled._shelf
    used = int(memory.state[FIELDS.index("used")])
    memory.grow()
    same(plain, compiled, many_words(600))
    assert int(memory.state[FIELDS.index("used")]) == used  # none was entered once more


def test_no_texts_at_all(both):
    _, compiled = both
    assert compiled.encode_batch([]) == []


def test_threads_at_once_have_memories_of_their_own(both):
    plain, compiled = both
    given_texts = [many_words(2000 + i) for i in range(4)]
    expected = [plain.encode(text).tolist() for text in given_texts]
    results = {}

    def work(i):
        results[i] = [compiled.encode(given_texts[i]).tolist() for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {i: [expected[i]] * 5 for i in range(4)}


def test_a_batch_is_the_same_with_any_number_of_threads(both, monkeypatch):
    monkeypatch.setattr(kernel, "SHARE", 1000)
    plain, compiled = both
    batch = [many_words(1 + 37 * i) for i in range(30)] + ["", "x"] * 20
    before, results = thread_count(), []
    try:
        for threads in (1, 3):
            set_threads(threads)
            results.append([ids.tolist() for ids in compiled.encode_batch(batch)])
    finally:
        set_threads(before)
    assert results[0] == results[1] == [plain.encode(text).tolist() for text in batch]


def test_what_is_broken_off_leaves_no_trace(small, monkeypatch):
    vocabulary = Tokenizer.train(LEARNED_FROM, 300, pattern="gpt2").vocabulary
    plain, compiled = PlainEncoder(vocabulary), compiled_encoder(vocabulary, True)

    def interrupted(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kernel.Memory, "grow", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compiled.encode(many_words(3000))
    same(plain, compiled, "the end of it")
    same(plain, compiled, many_words(3000))


# ---- vocabularies of every kind


def bytes_and(*more):
    return {bytes([byte]): byte for byte in range(256)} | {token: 256 + i for i, token in enumerate(more)}


def test_whole_words_go_before_merges():
    tokens = bytes_and(b"ab", b"abc", b"bc", b"abcd" * 10)
    merges = [(97, 98), (98, 99)]  # nothing merges into "abc", nor into the long one
    for whole in (False, True):
        vocabulary = Vocabulary(tokens, merges, "gpt2", whole)
        plain, compiled = PlainEncoder(vocabulary), compiled_encoder(vocabulary, True)
        for text in ("abc", "abcd" * 10, "xabc", "ab abc bc abc", "abcabc", "abcd" * 11):
            same(plain, compiled, text)
        assert compiled.encode("abc").tolist() == ([257] if whole else [256, 99])


@pytest.mark.parametrize(
    ("tokens", "merges"),
    [
        (bytes_and(b"ab", b"bc", b"abc"), [(97, 98), (98, 99), (256, 99), (97, 257)]),  # two make "abc"
        (bytes_and(b"ab", b"abc"), [(256, 99), (97, 98)]),  # the part is made later
    ],
)
def test_merges_that_the_tables_cannot_hold_are_left_to_the_plain_encoder(tokens, merges):
    vocabulary = Vocabulary(tokens, merges, "gpt2")
    assert compiled_encoder(vocabulary, True) is NotImplemented
    with use_backend("numba"):
        assert EitherEncoder(vocabulary).encode("abcab").tolist() == PlainEncoder(vocabulary).encode("abcab").tolist()


def test_a_merge_of_a_token_that_nothing_makes_never_happens():
    vocabulary = Vocabulary(bytes_and(b"ab", b"abc", b"bcd"), [(97, 98)], "gpt2")
    same(PlainEncoder(vocabulary), compiled_encoder(vocabulary, True), "abcd")
    vocabulary = Vocabulary(bytes_and(b"bc", b"abc"), [(97, 256)], "gpt2")
    same(PlainEncoder(vocabulary), compiled_encoder(vocabulary, True), "abc bc")


def test_ids_may_have_gaps_and_any_order():
    rng = np.random.default_rng(0)
    numbers = rng.permutation(5000)[:258].tolist()
    tokens = {bytes([byte]): numbers[byte] for byte in range(256)} | {b"th": numbers[256], b"the": numbers[257]}
    merges = [(numbers[ord("t")], numbers[ord("h")]), (numbers[256], numbers[ord("e")])]
    vocabulary = Vocabulary(tokens, merges, "own")
    same(PlainEncoder(vocabulary), compiled_encoder(vocabulary, True), "the theth hthe é")


def test_a_pattern_of_ones_own_and_a_lone_surrogate(both):
    vocabulary = Vocabulary(bytes_and(), [], r"\w+|\W")
    assert compiled_encoder(vocabulary, True) is NotImplemented
    for encoder in both:
        with pytest.raises(ValueError, match=r"lone surrogate U\+D800 at position 2"):
            encoder.encode("ab\ud800")
        with pytest.raises(ValueError, match=r"lone surrogate U\+D800 at position 0"):
            encoder.encode_batch(["ab", "\ud800"])


def test_the_choice_goes_by_the_backend_and_by_how_much_there_was(monkeypatch):
    vocabulary = Tokenizer.train(LEARNED_FROM, 300).vocabulary
    with use_backend("numpy"):
        encoder = EitherEncoder(vocabulary)
        encoder.encode("a" * 300_000)
        assert encoder._compiled is None
    with use_backend("auto"):
        encoder = EitherEncoder(vocabulary)
        encoder.encode("a" * 10)
        assert encoder._compiled is None
        monkeypatch.setattr(kernel, "is_ready", lambda function: False)
        encoder.encode("a b" * 100_000)
        assert encoder._compiled is None  # too little text to compile for
        monkeypatch.undo()
        encoder.encode_batch(["a b" * 3_000_000])
        assert encoder._compiled is not None
    with use_backend("numba"):
        encoder = EitherEncoder(vocabulary)
        encoder.encode("a")
        assert encoder._compiled is not None
    with use_backend("numpy"):
        monkeypatch.setattr(type(encoder._compiled), "encode", None)
        assert encoder.encode("a").tolist() == PlainEncoder(vocabulary).encode("a").tolist()
