"""GPT-2's two files and .tiktoken ranks: what is written is read back; what is damaged is refused by name."""

import base64
import gzip
import json
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tinygrad_llm.tokenizer import Tokenizer
from tinygrad_llm.tokenizer.formats import pairs, tiktoken_ranks

TEXT = ["the then than a hat\n  and 123 that's thou Größe 数字 aaaa bbbb"] * 3
END = "<|endoftext|>"


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXT, 290, pattern="gpt2")


def same(one, other):
    assert (one.digest, one.conventions) == (other.digest, other.conventions)


# ---- encoder.json and vocab.bpe, vocab.json and merges.txt


@pytest.mark.parametrize("names", [("encoder.json", "vocab.bpe"), ("x-vocab.json", "x-merges.txt")])
def test_two_files_are_read_by_either_name_and_as_a_folder(tmp_path, tokenizer, names):
    tokenizer.save(tmp_path / names[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    for name in names:
        same(Tokenizer.load(tmp_path / name), tokenizer)
    assert (tmp_path / names[1]).read_text(encoding="utf-8").startswith("#version: 0.2\nt h\n")
    if names[0] == "encoder.json":
        same(Tokenizer.load(tmp_path), tokenizer)


def test_entries_that_nothing_makes_are_special_if_they_look_so(tmp_path, tokenizer):
    tokenizer.save(tmp_path / "vocab.json")
    vocab = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    vocab |= {"<s>": 400, "[X]": 401}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    assert Tokenizer.load(tmp_path).special_tokens == {END: 0, "<s>": 400, "[X]": 401}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab | {"STOP": 402}), encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"no merge makes the token 'STOP'.*merges.txt.*special_tokens=\{'STOP': 402\}"
    ):
        Tokenizer.load(tmp_path)
    loaded = Tokenizer.load(tmp_path, special_tokens={"STOP": 402, "<new>": 403}, pattern="cl100k")
    assert loaded.special_tokens["STOP"] == 402
    assert loaded.special_tokens["<new>"] == 403
    assert loaded.pattern == "cl100k"
    with pytest.raises(ValueError, match="special token 'STOP' has the ids 5 and 402"):
        Tokenizer.load(tmp_path, special_tokens={"STOP": 5})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: lines[: len(lines) // 2], "no merge makes the token .* merges.txt is cut short"),
        (lambda lines: [*lines, "t"], r"merges.txt: merge \d+ is \['t'\], not a pair"),
        (lambda lines: [*lines, "t q x"], "not a pair"),
        (lambda lines: [*lines, "t nothing"], "refers to 'nothing'"),
        (lambda lines: [*lines, lines[3]], r"merge \d+ .* stands already as merge 2; remove one"),
        (lambda lines: [*lines, "q z"], "makes b'qz', which is not in the vocabulary"),
    ],
)
def test_damaged_merges_are_named(tmp_path, tokenizer, damage, message):
    tokenizer.save(tmp_path / "merges.txt")
    lines = (tmp_path / "merges.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
    (tmp_path / "merges.txt").write_text("\n".join(damage(lines)) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"vocab\.json: .*{message}"):
        Tokenizer.load(tmp_path / "vocab.json")


def test_other_damage_to_the_two_files_is_named(tmp_path, tokenizer):
    tokenizer.save(tmp_path / "vocab.json")
    (tmp_path / "merges.txt").write_bytes(b"#version: 0.2\n\xff")
    with pytest.raises(ValueError, match=r"merges.txt: no UTF-8 at byte 14"):
        Tokenizer.load(tmp_path / "merges.txt")
    (tmp_path / "vocab.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match=r"vocab.json is no table"):
        Tokenizer.load(tmp_path / "merges.txt")
    (tmp_path / "vocab.json").write_text("{}", encoding="utf-8")
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"merges.txt"):
        Tokenizer.load(tmp_path / "vocab.json")
    (tmp_path / "vocab.json").rename(tmp_path / "other.json")
    (tmp_path / "other.json").write_text('{"a": 1}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"other.json: holds tokens only.*merges.txt beside"):
        Tokenizer.load(tmp_path / "other.json")


def test_what_the_two_files_cannot_hold_is_not_written(tmp_path, tokenizer):
    for other in (
        Tokenizer.train(TEXT, 290, pattern="cl100k"),
        Tokenizer(tokenizer.vocabulary.tokens, tokenizer.merges, {}, "gpt2", whole_words=True),
        Tokenizer(tokenizer.vocabulary.tokens, tokenizer.merges, {}, "gpt2", normal_form="NFC"),
    ):
        with pytest.raises(ValueError, match=r"GPT-2's pattern alone; write a tokenizer.json"):
            other.save(tmp_path / "vocab.bpe")
    assert not list(tmp_path.iterdir())


# ---- .tiktoken


def test_ranks_are_read_and_written(tmp_path, tokenizer):
    given = {"pattern": "gpt2", "special_tokens": {END: 0}}
    for name in ("x.tiktoken", "x.tiktoken.gz"):
        tokenizer.save(tmp_path / name)
        same(Tokenizer.load(tmp_path / name, **given), tokenizer)
    lines = (tmp_path / "x.tiktoken").read_bytes().split(b"\n")
    assert lines[0] == b"IQ== 1"  # "!", the first byte; id 0 is the special token
    assert gzip.decompress((tmp_path / "x.tiktoken.gz").read_bytes()) == b"\n".join(lines)
    (tmp_path / "x.tiktoken").rename(tmp_path / "tokenizer.model")  # as Llama 3 calls it: known by its content
    same(Tokenizer.load(tmp_path / "tokenizer.model", **given), tokenizer)
    with pytest.raises(ValueError, match=r"model: ranks do not say how .* pass pattern=.*own, gpt2.*special_tokens="):
        Tokenizer.load(tmp_path / "tokenizer.model")


def ranks_file(path, tokens):
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in tokens.items()))


BYTES = {bytes([byte]): byte for byte in range(256)}


def merge_by_ranks(tokens, data):
    """Of all neighbours whose bytes are a token, always the one of lowest rank."""
    parts = [data[i : i + 1] for i in range(len(data))]
    while True:
        ranks = [tokens.get(a + b, 1 << 60) for a, b in pairwise(parts)]
        if not ranks or min(ranks) == 1 << 60:
            return [tokens[part] for part in parts]
        at = ranks.index(min(ranks))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def encode_by_ranks(tokens, data):
    """tiktoken's rule: a whole word first."""
    return [tokens[data]] if data in tokens else merge_by_ranks(tokens, data)


def made_late(tokens, token):
    """Whether all ranks make a token that the lower ones alone do not."""
    rank = tokens[token]
    lower = {other: number for other, number in tokens.items() if number < rank}
    return merge_by_ranks(tokens, token) == [rank] and len(merge_by_ranks(lower, token)) != 2


@given(
    tokens=st.lists(
        st.binary(min_size=2, max_size=5).map(lambda b: bytes(97 + x % 3 for x in b)), max_size=30, unique=True
    ),
    words=st.lists(st.text("abc", min_size=1, max_size=12), max_size=10),
)
def test_pairs_say_what_ranks_say(tmp_path_factory, tokens, words):
    """On vocabularies of any kind: with tokens that nothing makes, gaps, and pairs that would do but come too late."""
    path = tmp_path_factory.mktemp("ranks") / "x.tiktoken"
    ranks = BYTES | {token: 256 + 2 * number for number, token in enumerate(tokens)}
    ranks_file(path, ranks)
    if any(made_late(ranks, token) for token in tokens):
        with pytest.raises(ValueError, match="is made only of tokens with higher ranks"):
            Tokenizer.load(path, pattern="[a-c]+")
        return
    loaded = Tokenizer.load(path, pattern="[a-c]+")
    for word in words:
        assert loaded.encode(word).tolist() == encode_by_ranks(ranks, word.encode())


def test_tokens_that_nothing_makes_are_whole_words_and_late_parts_are_refused(tmp_path):
    path = tmp_path / "x.tiktoken"
    ranks_file(path, BYTES | {b"abc": 300})
    loaded = Tokenizer.load(path, pattern="[a-c]+")
    assert loaded.merges == []
    assert loaded.vocabulary.whole_words
    assert loaded.encode("abc").tolist() == [300]
    assert loaded.encode("aabc").tolist() == [97, 97, 98, 99]
    loaded.save(tmp_path / "y.tiktoken")
    same(Tokenizer.load(tmp_path / "y.tiktoken", pattern="[a-c]+"), loaded)
    ranks_file(path, BYTES | {b"abc": 300, b"ab": 400})
    with pytest.raises(ValueError, match=r"x.tiktoken: rank 300: b'abc' is made only of tokens with higher ranks"):
        Tokenizer.load(path, pattern="[a-c]+")


def test_pairs_of_a_few_ranks_by_hand(tmp_path):
    path = tmp_path / "x.tiktoken"
    tokens = BYTES | {b"bc": 300, b"ab": 301, b"abc": 302, b"aaaa": 304, b"aa": 303, b"bcbc": 305}
    ranks_file(path, tokens | {b"aaaaa": 306})
    loaded = Tokenizer.load(path, pattern="[a-c]+")
    assert loaded.merges == [(98, 99), (97, 98), (97, 300), (97, 97), (303, 303), (300, 300), (304, 97)]
    del tokens[b"a"]  # a byte without token: what needs it is found only as a whole word
    ranks_file(path, {token: rank for token, rank in tokens.items() if token != b"aaaa"})
    loaded = Tokenizer.load(path, pattern="[a-c]+")
    assert loaded.merges == [(98, 99), (300, 300)]
    assert loaded.encode("bcbcb").tolist() == [305, 98]


def test_what_ranks_cannot_say_is_not_written(tmp_path, tokenizer):
    tokens = BYTES | {b"ab": 256, b"bc": 257}
    wrong = [
        Tokenizer(tokens, [(98, 99), (97, 98)], {}, "own"),  # another order
        Tokenizer(tokens, [(97, 98)], {}, "own"),  # a token that no merge makes
        Tokenizer(tokens | {b"abc": 258, b"abd": 259}, [(97, 98), (98, 99)], {}, "own"),
        Tokenizer(tokens | {b"xyz": 258}, [(97, 98), (98, 99)], {}, "own"),  # found only as a whole word
        Tokenizer(tokens, [(97, 98), (98, 99)], {}, "own", normal_form="NFC"),
    ]
    for one in wrong:
        with pytest.raises(ValueError, match=r"do not follow from the ranks"):
            one.save(tmp_path / "x.tiktoken")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"YQ== 1\nYQ= 2\n", r"line 2 is b'YQ= 2', not a token in base64"),
        (b"YQ== 1\nYg== 2\nYw=", "line 3 .*cut short"),
        (b"YQ== 1\nY*== 2\n", "line 2"),
        (b"YQ== 1 5\n", "line 1"),
        (b"YQ== x\n", "line 1"),
        (b"YQ== 1\nYQ== 2\n", "line 2: the token b'a' stands twice"),
        (b"YQ== 1\nYg== 1\n", "b'a' and b'b' have the same id 1"),
        (b"YQ== -1\n", "negative id -1"),
        (b"YQ== 2000000000\n", "id 2000000000; ids are 0 to"),
        (b"YQ== " + b"9" * 5000 + b"\n", "line 1"),
        (b" 1\n", "line 1"),
        (b"= 1\n", "line 1|belongs to no bytes"),
        (b"\x1f\x8b\x08\x00rubbish", "damaged, or cut short"),
        (gzip.compress(b"YQ== 1\n" * 1000, mtime=0)[:-12], "damaged, or cut short"),
        (b"\xff\xfe\x00", "line 1"),
    ],
)
def test_damaged_ranks_are_named(tmp_path, content, message):
    path = tmp_path / "damaged.tiktoken"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"damaged\.tiktoken: .*({message})"):
        Tokenizer.load(path, pattern="own")


def test_a_file_that_unpacks_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tinygrad_llm.tokenizer.formats.tiktoken_ranks._MOST_BYTES", 1000)
    path = tmp_path / "x.tiktoken.gz"
    path.write_bytes(gzip.compress(bytes(1001)))
    with pytest.raises(ValueError, match="larger than 1000 bytes"):
        Tokenizer.load(path, pattern="own")


def test_what_a_known_name_says_can_be_said_otherwise(tmp_path, monkeypatch):
    known = tiktoken_ranks._Known(256, "gpt2", {END: 300})
    monkeypatch.setitem(tiktoken_ranks._FILES, "r50k_base", known)
    path = tmp_path / "r50k_base.tiktoken"
    ranks_file(path, BYTES)
    loaded = Tokenizer.load(path)
    assert (loaded.pattern, loaded.special_tokens) == ("gpt2", {END: 300})
    loaded = Tokenizer.load(path, pattern="own", special_tokens={})
    assert (loaded.pattern, loaded.special_tokens) == ("own", {})


def test_a_cut_file_of_a_known_name_is_refused(tmp_path):
    ranks_file(tmp_path / "cl100k_base.tiktoken", BYTES)
    with pytest.raises(ValueError, match="has 256 ranks, but that file of OpenAI's has 100256"):
        Tokenizer.load(tmp_path / "cl100k_base.tiktoken")


# ---- pairs


@example(extra=[(0, 1), (1, 0), (3, 0), (0, 4)], words=["aba", "abab"])  # "aba" from "ab" + "a", not "a" + "ba"
@example(extra=[(1, 2), (0, 1), (4, 2), (0, 3)], words=["abc", "aabcc"])  # from the last, for "bc" is merged first
@given(
    extra=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=12),
    words=st.lists(st.text("abc", min_size=1, max_size=14), max_size=10),
)
def test_superfluous_pairs_change_nothing(extra, words):
    """Merges at random, of which several make the same token."""
    bytes_of, merges = {0: b"a", 1: b"b", 2: b"c"}, []
    for left, right in extra:
        if left in bytes_of and right in bytes_of and (left, right) not in merges:
            joined = bytes_of[left] + bytes_of[right]
            if joined not in bytes_of.values():
                bytes_of[len(bytes_of)] = joined
            merges.append((left, right))
    tokens = {token: number for number, token in bytes_of.items()}
    fewer = pairs.without_superfluous(tokens, merges)
    made = [bytes_of[a] + bytes_of[b] for a, b in fewer]
    assert len(set(made)) == len(made)
    assert [merge for merge in merges if merge in fewer] == fewer
    before, after = (Tokenizer(tokens, some, {}, "[a-c]+") for some in (merges, fewer))
    for word in words:
        assert before.encode(word).tolist() == after.encode(word).tolist()


# ---- which file


def test_a_folder_without_tokenizer_says_what_it_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"this folder has no tokenizer \(tokenizer.json, vocab.json"):
        Tokenizer.load(tmp_path)
    (tmp_path / "vocab.txt").write_text("[UNK]\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"vocab.txt: .*WordPieceTokenizer.load"):
        Tokenizer.load(tmp_path / "vocab.txt")
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15")
    with pytest.raises(ValueError, match=r"tokenizer.model: .*SentencePiece"):
        Tokenizer.load(tmp_path / "tokenizer.model")
    with pytest.raises(FileNotFoundError, match=r"WordPieceTokenizer.load"):
        Tokenizer.load(tmp_path)


def test_a_folder_is_written_as_tokenizer_json(tmp_path, tokenizer):
    tokenizer.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
    same(Tokenizer.load(tmp_path), tokenizer)
    with pytest.raises(ValueError, match="says by itself what pattern and special_tokens are"):
        Tokenizer.load(tmp_path, pattern="gpt2")


# ---- vocabularies that lack bytes, or want a normal form


def test_a_text_with_a_byte_that_has_no_token_is_refused():
    tokens = {token: number for token, number in BYTES.items() if token not in (b"\x04", b"\xf1")}
    tokenizer = Tokenizer(tokens | {b"ab": 256}, [(97, 98)], {END: 257}, "gpt2")
    assert tokenizer.encode("ab é 数").tolist() == [256, *" é 数".encode()]
    assert [ids.tolist() for ids in tokenizer.encode_batch(["ab", "b"])] == [[256], [98]]
    for text, message in (
        ("a\x04", r"U\+0004 at position 1.*byte 0x04"),
        ("ab\U00040000", r"U\+40000 at position 2.*0xF1"),
    ):
        with pytest.raises(ValueError, match=message):
            tokenizer.encode(text)
        with pytest.raises(ValueError, match=message):
            tokenizer.encode_batch(["x", text])
    with pytest.raises(ValueError, match="lone surrogate"):
        tokenizer.encode("\udc80")
    with pytest.raises(ValueError, match="id 4 is not"):
        tokenizer.decode([4])
    assert tokenizer.vocab_size == 258


def test_text_is_brought_into_the_normal_form():
    tokenizer = Tokenizer(BYTES, [], {END: 256}, "gpt2", normal_form="NFC")
    plain = Tokenizer(BYTES, [], {END: 256}, "gpt2")
    assert tokenizer.decode(tokenizer.encode("e\u0301")) == "\u00e9"
    assert tokenizer.encode_batch(["e\u0301"])[0].tolist() == list("\u00e9".encode())
    assert tokenizer.digest != plain.digest
    with pytest.raises(ValueError, match="normal_form 'NFD'"):
        Tokenizer(BYTES, [], {}, "gpt2", normal_form="NFD")
