"""Words and classes of characters as tiktoken and Hugging Face's `tokenizers` find them.

Both hold Unicode 16.0 in the versions that were compared (0.14 and 0.23). With another version of Unicode these tests
fail on the characters that came with it, and say which.
"""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.tokenizer.pretokenize import PATTERNS, compile_pattern, hugging_face_text, pattern_text, split_words
from tinygrad_llm.tokenizer.unicode_classes import CLASSES, NUMBER, OTHER, class_of

SCALARS = np.array([code for code in range(0x110000) if not 0xD800 <= code < 0xE000], np.uint32)
ALL = "".join(map(chr, SCALARS.tolist()))
SINGLE_BYTES = {bytes([byte]): byte for byte in range(256)}
EXPRESSIONS = [r"\s" if name == "White_Space" else rf"\p{{{name}}}" for name in CLASSES[:OTHER]]
GPT2_OF_TIKTOKEN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
NEWER_NUMBERS = "".join(map(chr, [*range(0x11DE0, 0x11DEA), *range(0x16FF4, 0x16FF7)]))
"""Numbers since Unicode 17.0, which Hugging Face's `Digits` knows, though its patterns do not."""

LETTERS = [
    "aB",
    "AB",
    "Ab",
    "ABc",
    "ǅ",
    "ʰ",
    "ª",
    "é",
    "É",
    "字",
    "あア",
    "가",
    "l",
    "s",
    "S",
    "ſ",
    "İ",
    "ı",
    "K",
    "ﬀ",
    "ß",
]
MARKS = ["\u0301", "e\u0301", "\u20dd", "\u200d", "\ufe0f"]
NUMBERS = ["1", "12", "123", "1234", "²", "½", "٣", "\U0001d7d8"]
WHITES = ["  \n", "\r\n", "\n\n", " \n ", "\t", " ", "  ", "\x0b", "\x85", "\u00a0", "\u2028", "\u3000"]
SIGNS = [
    "'s",
    "'S",
    "'ll",
    "'LL",
    "'rE",
    "'ſ",
    "'",
    "''",
    "/",
    "!",
    "...",
    "_",
    "\x1c",
    "\u200b",
    "\U0001f600",
    "\ue000",
]
fragments = st.sampled_from([*LETTERS, *MARKS, *NUMBERS, *WHITES, *SIGNS])
soup = st.lists(fragments, max_size=16).map("".join)
texts = soup | st.text(max_size=12) | st.lists(fragments | st.text(max_size=3), max_size=10).map("".join)
batches = st.lists(texts, min_size=1, max_size=30)


def our_words(pattern, text):
    return split_words(compile_pattern(pattern), text)


# ---- classes


def test_tiktoken_finds_every_character_in_its_class():
    tiktoken = pytest.importorskip("tiktoken", reason="install .[peers] to compare with tiktoken")
    theirs = np.full(0x110000, OTHER, np.uint8)
    for number, expression in enumerate(EXPRESSIONS):
        peer = tiktoken.Encoding("peer", pat_str=expression, mergeable_ranks=SINGLE_BYTES, special_tokens={})
        found = bytes(peer.encode_ordinary(ALL)).decode()
        theirs[[ord(char) for char in found]] = number
    assert np.flatnonzero(theirs[SCALARS] != class_of(SCALARS)).tolist() == []


def test_hugging_face_finds_every_character_in_its_class():
    tokenizers = pytest.importorskip("tokenizers", reason="install .[peers] to compare with Hugging Face")
    for number, expression in enumerate(EXPRESSIONS):
        replace = tokenizers.normalizers.Replace(tokenizers.Regex(expression), "!")
        left = np.frombuffer(replace.normalize_str(ALL).encode("utf-32-le"), "<u4")
        found = left != SCALARS
        assert np.flatnonzero(found != (class_of(SCALARS) == number)).tolist() == []


def test_hugging_faces_digits_are_our_numbers_but_for_those_of_unicode_17():
    tokenizers = pytest.importorskip("tokenizers", reason="install .[peers] to compare with Hugging Face")
    digits = tokenizers.pre_tokenizers.Digits(individual_digits=True)
    text = "".join(char for char in ALL if char not in NEWER_NUMBERS)
    number = class_of(np.array([ord(char) for char in text])) == NUMBER
    begins = number | np.roll(number, 1)  # a number begins a piece, and so does what follows it
    assert [begin for _, (begin, _) in digits.pre_tokenize_str(text)] == [0, *np.flatnonzero(begins).tolist()]


# ---- words


def same_as_tiktoken(expression, texts, words):
    """Hold tiktoken's words against ours, those of each text in a list.

    tiktoken shows only ids. It looks a word up before it merges, so each of our words is made a token. Two of our words
    that are one of its own would be merged from the two: so what they make is a token, too.
    """
    tiktoken = pytest.importorskip("tiktoken", reason="install .[peers] to compare with tiktoken")
    ranks = dict(SINGLE_BYTES)
    for some in words:
        for token in [*some, *map("".join, pairwise(some))]:
            ranks.setdefault(token.encode(), len(ranks))
    peer = tiktoken.Encoding("peer", pat_str=expression, mergeable_ranks=ranks, special_tokens={})
    for text, some in zip(texts, words, strict=True):
        found = [
            peer.decode_single_token_bytes(token).decode("utf-8", "replace") for token in peer.encode_ordinary(text)
        ]
        assert found == some


def hugging_face(pattern):
    """Their pre-tokenizer: what their files of GPT-2 and SmolLM name, for the others a `Split` by our text."""
    tokenizers = pytest.importorskip("tokenizers", reason="install .[peers] to compare with Hugging Face")
    pre_tokenizers = tokenizers.pre_tokenizers
    if pattern not in ("gpt2", "smollm"):
        return pre_tokenizers.Split(tokenizers.Regex(hugging_face_text(pattern)), "isolated")
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return gpt2 if pattern == "gpt2" else pre_tokenizers.Sequence([pre_tokenizers.Digits(True), gpt2])


def same_as_hugging_face(peer, texts, words):
    for text, some in zip(texts, words, strict=True):
        assert [text[begin:end] for _, (begin, end) in peer.pre_tokenize_str(text)] == some


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
@given(texts=batches)
def test_tiktoken_finds_the_same_words(pattern, texts):
    words = [our_words(pattern, text) for text in texts]
    same_as_tiktoken(pattern_text(pattern), texts, words)
    if pattern == "gpt2":
        same_as_tiktoken(GPT2_OF_TIKTOKEN, texts, words)


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
@given(texts=batches)
def test_hugging_face_finds_the_same_words(pattern, texts):
    texts = ["".join(char for char in text if char not in NEWER_NUMBERS) for text in texts]
    same_as_hugging_face(hugging_face(pattern), texts, [our_words(pattern, text) for text in texts])


def test_a_word_that_is_cut_elsewhere_is_seen():
    for text in ("a \n b", "it'S", "1234", "a\n "):
        same_as_tiktoken(PATTERNS["cl100k"], [text], [our_words("cl100k", text)])
    for text in ("it'S", "1234", "!\n"):
        with pytest.raises(AssertionError):
            same_as_tiktoken(PATTERNS["gpt2"], [text], [our_words("cl100k", text)])
        with pytest.raises(AssertionError):
            same_as_tiktoken(PATTERNS["cl100k"], [text], [our_words("gpt2", text)])


def telling_characters():
    """All below U+0400, the first and the last of each run of one class, and some of the rest, but NEWER_NUMBERS."""
    classes = class_of(np.arange(0x110000, dtype=np.uint32))
    edges = np.flatnonzero(np.diff(classes))
    chosen = np.unique(np.concatenate([np.arange(0x400), edges, edges + 1, np.arange(0x400, 0x110000, 4999)]))
    chars = [chr(code) for code in chosen.tolist() if not 0xD800 <= code < 0xE000]
    return [char for char in chars if char not in NEWER_NUMBERS]


CONTEXTS = [
    "{0}",
    " {0}a",
    "{0}{0}",
    "'{0}",
    "'l{0} ",
    "{0} {0}",
    "\n{0}",
    "{0}\n",
    "A{0}B",
    "a{0}'s",
    "1{0}1",
    ".{0}.",
    "字{0}",
]


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
def test_characters_of_every_class_in_every_context(pattern):
    chars = telling_characters()
    texts = ["".join(map(context.format, chars[i::20])) for context in CONTEXTS for i in range(20)]
    words = [our_words(pattern, text) for text in texts]
    if pattern in ("gpt2", "cl100k", "o200k"):
        same_as_tiktoken(pattern_text(pattern), texts, words)
    else:
        same_as_hugging_face(hugging_face(pattern), texts, words)
