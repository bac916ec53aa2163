"""Encoding and decoding, on arbitrary text."""

import copy
import pickle
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.tokenizer import PATTERNS, Tokenizer
from tinygrad_llm.tokenizer.encoding import PlainEncoder
from tinygrad_llm.tokenizer.merging import merge_long, merge_short
from tinygrad_llm.tokenizer.vocabulary import Vocabulary

LEARNED_FROM = [
    "The model's gradient of a sum is the sum of gradients; we'll derive it.\n\n  def f(x, y=12345):\n        return x",
    "Größe, naïve, 数字 и буквы \U0001f600\U0001f600 don't DON'T\r\n\t  tabs   and spaces    ",
    "aaaa aaaa aaaaaaaa abababab the the the there then _name __init__ self.name",
] * 2

fragments = st.sampled_from(
    ["the", " the", "'s", "'S", "  \n", "\r\n", "12345", "_", "a" * 70, "\U0001f600", "é", "<|endoftext|>"]
)
texts = st.lists(fragments | st.text(max_size=8), max_size=12).map("".join)


@pytest.fixture(scope="module", params=sorted(PATTERNS))
def tokenizer(request):
    return Tokenizer.train(LEARNED_FROM, 400, pattern=request.param)


def obvious_encode(tokenizer, text):
    """By the definition: in each word, merge the pair of lowest rank, leftmost first, until none is left."""
    from tinygrad_llm.tokenizer.pretokenize import compile_pattern, split_words

    rank = {pair: number for number, pair in enumerate(tokenizer.merges)}
    id_of = {tokenizer.token_bytes(i): i for i in range(tokenizer.vocab_size)}
    ids = []
    for word in split_words(compile_pattern(tokenizer.pattern), text):
        parts = [bytes([byte]) for byte in word.encode()]
        while True:
            ranks = [rank.get((id_of[a], id_of[b]), np.inf) for a, b in pairwise(parts)]
            if not ranks or min(ranks) == np.inf:
                break
            i = ranks.index(min(ranks))
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        ids += [id_of[part] for part in parts]
    return ids


@given(text=texts)
def test_ids_are_those_of_the_definition_and_decode_gives_the_text_back(tokenizer, text):
    ids = tokenizer.encode(text, disallowed_special=())
    assert ids.dtype == np.int32
    assert ids.ndim == 1
    assert ids.tolist() == obvious_encode(tokenizer, text)
    assert ids.tolist() == tokenizer.encode(text, disallowed_special=()).tolist()  # now from the cache
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.count_bytes(ids) == len(text.encode())


@given(data=st.binary(max_size=30))
def test_any_bytes_can_be_written_with_ids(tokenizer, data):
    id_of = {tokenizer.token_bytes(i): i for i in range(tokenizer.vocab_size)}
    ids = [id_of[bytes([byte])] for byte in data]
    assert tokenizer.decode_bytes(ids) == data
    assert tokenizer.decode(np.array(ids, dtype=np.int64)) == data.decode("utf-8", errors="replace")


@given(ids=st.lists(st.integers(0, 399), max_size=30), cuts=st.lists(st.integers(0, 30), max_size=3))
def test_streamed_text_joined_is_the_whole_text_and_never_half_a_character(tokenizer, ids, cuts):
    ids = [i for i in ids if i < tokenizer.vocab_size]
    borders = [0, *sorted(cuts), len(ids)]
    decoder = tokenizer.stream_decoder()
    pieces = [decoder.feed(ids[a:b]) for a, b in pairwise(borders)]
    assert "".join(pieces) + decoder.flush() == tokenizer.decode(ids)
    assert decoder.flush() == ""


def test_the_stream_decoder_keeps_half_a_character_back():
    tokenizer = Tokenizer.train([], 257)
    decoder = tokenizer.stream_decoder()
    assert [decoder.feed(int(i)) for i in tokenizer.encode("a\U0001f600")] == ["a", "", "", "", "\U0001f600"]
    decoder.feed(tokenizer.encode("é")[:1])
    assert decoder.flush() == "\ufffd"
    assert decoder.feed(tokenizer.encode("b")) == "b"  # nothing left over from before


@given(word=st.text("ab", max_size=120) | st.text(max_size=60))
def test_both_ways_to_merge_agree(tokenizer, word):
    plain = PlainEncoder(tokenizer.vocabulary)
    symbols = [plain.id_of_byte[byte] for byte in word.encode()]
    assert merge_short(list(symbols), plain.merges) == merge_long(list(symbols), plain.merges)


@pytest.mark.parametrize(
    "text", ["a" * 100_000, "ab" * 50_000, " " * 100_000 + "x", "\n" * 100_000, "'" * 100_000, "1" * 100_000]
)
def test_long_runs_take_no_quadratic_time(tokenizer, text):
    begin = time.perf_counter()
    ids = tokenizer.encode(text)
    assert time.perf_counter() - begin < 10  # about 0.5 s; n^2 steps would take hours
    assert tokenizer.decode(ids) == text


def test_the_cache_is_bounded(monkeypatch):
    monkeypatch.setattr("tinygrad_llm.tokenizer.encoding._CACHED_WORDS", 10)
    encoder = PlainEncoder(Tokenizer.train(LEARNED_FROM, 300).vocabulary)
    for word in range(50):
        encoder.encode(f"word{word}x" + "y" * 70)
        assert len(encoder._cache) <= 10
    assert max(map(len, encoder._cache)) <= 64


def test_special_tokens_follow_tiktokens_rules():
    tokenizer = Tokenizer.train([], 300, special_tokens=["<|endoftext|>", "<|end|>", "<|end|>x"])
    text = "a<|endoftext|>b"
    with pytest.raises(
        ValueError, match=r"'<\|endoftext\|>' at position 1; .*allowed_special=.*disallowed_special=\(\)"
    ):
        tokenizer.encode(text)
    plain = tokenizer.encode(text, disallowed_special=())
    assert len(plain) == len(text)
    assert tokenizer.decode(plain) == text
    a, b = tokenizer.encode("a")[0], tokenizer.encode("b")[0]
    for allowed in ("all", {"<|endoftext|>"}):
        ids = tokenizer.encode(text, allowed_special=allowed)
        assert ids.tolist() == [a, 0, b]
        assert tokenizer.decode(ids) == text
        assert tokenizer.count_bytes(ids) == 2  # the name of a special token is no text
    with pytest.raises(ValueError, match="end"):
        tokenizer.encode("<|end|>", allowed_special={"<|endoftext|>"})
    assert tokenizer.encode("<|end|>x<|end|>", allowed_special="all").tolist() == [2, 1]  # the longest name wins
    assert len(tokenizer.encode("<|end|>", allowed_special={"<|endoftext|>"}, disallowed_special={"b"})) == 7
    with pytest.raises(ValueError, match="are not among"):
        tokenizer.encode("a", allowed_special={"<|no|>"})
    with pytest.raises(ValueError, match="pass a set"):
        tokenizer.encode("a", allowed_special="<|endoftext|>")


def test_a_users_own_pattern_loses_nothing_it_does_not_match():
    tokenizer = Tokenizer.train(["ab ab, ab"], 300, pattern="[a-z]+")
    assert tokenizer.decode(tokenizer.encode("-ab  é ab!")) == "-ab  é ab!"


def test_wrong_text_and_ids_are_named():
    tokenizer = Tokenizer.train([], 257)
    with pytest.raises(ValueError, match=r"lone surrogate U\+DC80 at position 3"):
        tokenizer.encode("abc\udc80d")
    for number in (257, -1):
        with pytest.raises(ValueError, match=rf"id {number} is not in this vocabulary \(ids 0 to 256\)"):
            tokenizer.decode([number])
    with pytest.raises(ValueError, match=r"no <\|endoftext\|>"):
        _ = Tokenizer.train([], 256, special_tokens=()).separator_id


def test_the_digest_sees_every_part_that_decides_the_ids():
    def digest(texts=("ab ab cd",), size=259, **options):
        return Tokenizer.train(texts, size, **options).digest

    different = [
        digest(),
        digest(size=258),
        digest(["cd cd ab"]),
        digest(pattern="gpt2"),
        digest(special_tokens=["<|x|>"]),
        digest(special_tokens=["<|endoftext|>", "<|x|>"], size=260),
    ]
    assert len(set(different)) == len(different)
    assert digest() == digest()
    # the same tokens, merged in another order
    tokens = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256, b"bc": 257}
    orders = [(97, 98), (98, 99)], [(98, 99), (97, 98)]
    first, second = (Tokenizer(tokens, merges, {}, "own") for merges in orders)
    assert first.encode("abc").tolist() != second.encode("abc").tolist()
    assert first.digest != second.digest


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, lambda tokenizer: pickle.loads(pickle.dumps(tokenizer))])
def test_copies_and_pickles_share_no_memory_with_the_original(make):
    text = "the cat sat on the mat, the cat sat " * 40
    original = Tokenizer.train([text], 300)
    expected = original.encode(text)
    made = make(original)
    assert made.digest == original.digest
    assert made.conventions == original.conventions
    assert made._encoder is not original._encoder
    del original
    np.testing.assert_array_equal(made.encode(text), expected)


def test_ids_are_int32():
    tokens = {bytes([byte]): byte for byte in range(256)}
    with pytest.raises(ValueError, match="the id 2147483648; the highest that is possible is 2147483647"):
        Vocabulary(tokens | {b"ab": 1 << 31}, [], "gpt2")
    with pytest.raises(ValueError, match="the id 2147483648"):
        Tokenizer(tokens, [], {"<|end|>": 1 << 31}, "gpt2")


def test_a_batch_is_of_texts():
    tokenizer = Tokenizer.train(["ab ab"], 257)
    assert tokenizer.encode_batch([]) == []
    with pytest.raises(TypeError, match=r"one string; write \[text\], or encode\(text\)"):
        tokenizer.encode_batch("ab")
    with pytest.raises(TypeError, match="bytes is no text; decode bytes before, as UTF-8"):
        tokenizer.encode_batch(["ab", b"ab"])
