"""`tokenizer.json`: what is written is read back as it was; what cannot be followed is refused by name."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.tokenizer import PATTERNS, Tokenizer
from tinygrad_llm.tokenizer.formats.parts import Conventions

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


@given(text=texts)
def test_a_saved_tokenizer_is_the_same_one(tokenizer, tmp_path_factory, text):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(path)
    again = Tokenizer.load(str(path))
    assert again.pattern == tokenizer.pattern
    assert again.digest == tokenizer.digest
    assert again.vocab_size == tokenizer.vocab_size
    assert again.special_tokens == tokenizer.special_tokens
    assert np.array_equal(again.encode(text, allowed_special="all"), tokenizer.encode(text, allowed_special="all"))
    assert [entry.name for entry in path.parent.iterdir()] == ["tokenizer.json"]  # nothing left beside it


@pytest.fixture
def content(tmp_path):
    path = tmp_path / "good.json"
    Tokenizer.train(["the the then"], 262, pattern="gpt2").save(path)
    return json.loads(path.read_text(encoding="utf-8"))


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
REST = BYTE_LEVEL | {"use_regex": False}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}
NAME = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
BEFORE = {"type": "TemplateProcessing", "single": [NAME, TEXT]}


def split(pattern, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}


def damage(content, *keys, value):
    for key in keys[:-1]:
        content = content[key]
    content[keys[-1]] = value


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["model", "type"], "WordPiece", "model type 'WordPiece'.*WordPieceTokenizer.load reads it"),
        (["post_processor"], "x", "field 'post_processor' is a str, but must be a dict"),
        (["added_tokens"], 5, "field 'added_tokens' is a int, but must be a list"),
        (["added_tokens"], [5], "field 'content' is missing"),
        (["pre_tokenizer", "pretokenizers"], 5, "field 'pretokenizers' is a int, but must be a list"),
        (["model", "dropout"], 0.1, "dropout 0.1"),
        (["model", "merges", 0], ["q", "nothing"], "merge 0 .* refers to 'nothing'"),
        (["model", "merges", 0], ["q", "z"], "makes b'qz', which is not in the vocabulary"),
        (["model", "merges", 0], "one", "not a pair"),
        (["model", "merges", 0], ["<|endoftext|>", "t"], "not both ordinary tokens"),
        (["model", "vocab", "t"], 5, "one id to two tokens"),
        (["model", "vocab", "t"], "5", "not a whole number"),
        (["model", "vocab", "t"], -3, "negative id -3"),
        (["model", "vocab", "€"], 300, "stands for no byte"),
        (["model", "vocab"], {}, "refers to"),
        (["added_tokens", 0, "id"], 7, "has the ids 7 and 0"),
        (["added_tokens", 0, "lstrip"], True, "lstrip True"),
        (["normalizer"], {"type": "NFKC"}, "normalizer"),
        (["normalizer"], {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFC"}]}, "normalizer"),
        (
            ["post_processor"],
            {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "t"}}]},
            "no special token",
        ),
        (["post_processor"], {"type": "TemplateProcessing", "single": []}, "without its text"),
        (["post_processor"], {"type": "TemplateProcessing", "single": [TEXT, TEXT]}, "with two"),
        (["post_processor"], {"type": "Sequence", "processors": [BEFORE, BEFORE]}, "TemplateProcessing"),
        (["pre_tokenizer"], {"type": "Sequence", "pretokenizers": [{"type": "Digits"}, BYTE_LEVEL]}, "pre_tokenizer"),
        (
            ["pre_tokenizer"],
            {"type": "Sequence", "pretokenizers": [split("[a-z]+", "Removed", True), REST]},
            "pre_tokenizer",
        ),
        (
            ["pre_tokenizer"],
            {"type": "Sequence", "pretokenizers": [split("[a-z]+", "Isolated", True), REST]},
            "pre_tokenizer",
        ),
        (["added_tokens", 0, "single_word"], True, "single_word True"),
        (["added_tokens", 0, "rstrip"], True, "rstrip True"),
        (["model", "merges", 1], ["h", "e"], r"merge 1 \['h', 'e'\] stands already as merge 0; remove one"),
        (["model", "vocab", "t"], 1 << 24, "'t' has the id 16777216; ids are 0 to 16777215"),
        (["model", "vocab", "t"], True, "the id of 't' is True"),
        (["model", "vocab", "t"], float("nan"), "the id of 't' is nan"),
        (["added_tokens", 0, "content"], "\ud800", "lone surrogate"),
        (["model", "byte_fallback"], True, "byte_fallback True"),
        (["model", "continuing_subword_prefix"], "##", "continuing_subword_prefix '##'"),
        (["model", "end_of_word_suffix"], "</w>", "end_of_word_suffix '</w>'"),
        (["post_processor"], {"type": "TemplateProcessing"}, "TemplateProcessing"),
        (["pre_tokenizer"], {"type": "Whitespace"}, "pre_tokenizer"),
        (["pre_tokenizer", "add_prefix_space"], True, "pre_tokenizer"),
        (["pre_tokenizer"], None, "field 'pre_tokenizer'"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, content, keys, value, message):
    damage(content, *keys, value=value)
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"damaged\.json: .*{message}"):
        Tokenizer.load(path)


@pytest.mark.parametrize("field", ["model", "pre_tokenizer"])
def test_a_missing_field_is_named(tmp_path, content, field):
    del content[field]
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"damaged\.json: field '{field}' is missing"):
        Tokenizer.load(path)


def test_a_truncated_foreign_or_absent_file_is_named(tmp_path, content):
    path = tmp_path / "damaged.json"
    text = json.dumps(content)
    path.write_text(text[: len(text) // 2], encoding="utf-8")
    with pytest.raises(ValueError, match=r"damaged\.json: .*cut short"):
        Tokenizer.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"damaged\.json: .*no UTF-8 at byte 0"):
        Tokenizer.load(path)
    path.write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(ValueError, match=r"damaged\.json: not a tokenizer: brackets nested too deep"):
        Tokenizer.load(path)
    path.write_text("[1, 2]", encoding="utf-8")
    with pytest.raises(ValueError, match=r"damaged\.json: field 'model' is missing"):
        Tokenizer.load(path)
    path.write_text(text.replace('"t": ', '"t": 1, "t": ', 1), encoding="utf-8")
    with pytest.raises(ValueError, match=r"damaged\.json: 't' stands twice"):
        Tokenizer.load(path)
    with pytest.raises(FileNotFoundError, match="absent"):
        Tokenizer.load(tmp_path / "absent.json")


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "tokenizer.json"
    Tokenizer.train(["ab"], 258).save(path)
    before = path.read_bytes()

    def fail(*args):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space left"):
        Tokenizer.train(["cd"], 258).save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["tokenizer.json"]


def test_merges_written_as_one_text_are_read_too(tmp_path, content):
    path = tmp_path / "old.json"
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    path.write_text(json.dumps(content), encoding="utf-8")
    assert Tokenizer.load(path).encode("the").tolist() == Tokenizer.train(["the the then"], 262).encode("the").tolist()


# ---- what files of others hold


def read(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return Tokenizer.load(path)


@pytest.mark.parametrize(
    ("steps", "pattern"),
    [
        ([{"type": "Digits", "individual_digits": True}, BYTE_LEVEL], "smollm"),
        ([split(PATTERNS["llama3"]), REST], "llama3"),
        ([split(PATTERNS["qwen2"]), REST | {"trim_offsets": False}], "qwen2"),
        ([split(PATTERNS["o200k"], "Removed", True), REST], "o200k"),
        ([split("[a-z]+"), REST], "[a-z]+"),
    ],
)
def test_patterns_are_known_in_the_forms_they_are_found_in(tmp_path, content, steps, pattern):
    loaded = read(tmp_path, content | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}})
    assert loaded.pattern == pattern
    loaded.save(tmp_path / "again.json")
    assert Tokenizer.load(tmp_path / "again.json").pattern == pattern


@pytest.mark.parametrize(
    ("post_processor", "before", "after"),
    [
        (None, (), ()),
        ({"type": "ByteLevel"}, (), ()),
        (BEFORE, (0,), ()),
        ({"type": "TemplateProcessing", "single": [NAME, NAME, TEXT, NAME]}, (0, 0), (0,)),
        ({"type": "Sequence", "processors": [{"type": "ByteLevel"}, BEFORE]}, (0,), ()),
    ],
)
def test_what_stands_around_each_text_is_kept_and_not_encoded(tmp_path, content, post_processor, before, after):
    loaded = read(tmp_path, content | {"post_processor": post_processor})
    assert loaded.conventions == Conventions(before, after)
    assert loaded.encode("t").tolist() == [content["model"]["vocab"]["t"]]
    loaded.save(tmp_path / "tokenizer.json")
    assert Tokenizer.load(tmp_path).conventions == loaded.conventions


@pytest.mark.parametrize("normalizer", [{"type": "NFC"}, {"type": "Sequence", "normalizers": [{"type": "NFC"}]}])
def test_normal_form_c_is_kept(tmp_path, content, normalizer):
    loaded = read(tmp_path, content | {"normalizer": normalizer})
    assert loaded.decode(loaded.encode("e\u0301")) == "\u00e9"
    loaded.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert (again.digest, again.vocabulary.normal_form) == (loaded.digest, "NFC")
    assert (
        read(tmp_path, content | {"normalizer": {"type": "Sequence", "normalizers": []}}).vocabulary.normal_form == ""
    )


def test_added_tokens_count_as_special_whatever_they_are_called(tmp_path, content):
    content["added_tokens"].append({"id": 300, "content": "<tool>", "special": False, "normalized": True})
    loaded = read(tmp_path, content)
    assert loaded.special_tokens == {"<|endoftext|>": 0, "<tool>": 300}
    assert loaded.encode("<tool>", allowed_special="all").tolist() == [300]
    content["added_tokens"].append({"id": 301, "content": "<tool>"})
    with pytest.raises(ValueError, match="added token '<tool>' stands twice"):
        read(tmp_path, content)


# ---- tokenizer_config.json, which stands beside


@pytest.fixture
def full():
    learned = Tokenizer.train(["the the then"], 262, pattern="gpt2", special_tokens=["<s>", "</s>"])
    conventions = Conventions((0,), (1,), 0, 1, "{{ messages }}é")
    return Tokenizer(learned.vocabulary.tokens, learned.merges, learned.special_tokens, "gpt2", conventions=conventions)


def test_how_a_sequence_begins_and_ends_is_kept_beside_a_file_of_that_name(tmp_path, full):
    full.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    assert Tokenizer.load(tmp_path).conventions == full.conventions
    full.save(tmp_path / "other.json")
    assert Tokenizer.load(tmp_path / "other.json").conventions == full.conventions._replace(
        bos_id=None, eos_id=None, chat_template=None
    )


def test_a_file_of_another_tokenizer_beside_is_overwritten(tmp_path, full):
    full.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("old", encoding="utf-8")
    other = Tokenizer.train(["ab"], 258)
    other.save(tmp_path)
    assert Tokenizer.load(tmp_path).conventions == Conventions()
    full.save(tmp_path)
    assert Tokenizer.load(tmp_path).conventions == full.conventions


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, (None, None, None)),
        ({"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": None}, (0, None, None)),
        ({"chat_template": [{"name": "x", "template": "X"}, {"name": "default", "template": "D"}]}, (None, None, "D")),
        ({"chat_template": [5, {"name": "x", "template": "X"}]}, (None, None, None)),
    ],
)
def test_configurations_of_others_are_read(tmp_path, full, config, expected):
    full.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert Tokenizer.load(tmp_path).conventions[2:] == expected
    (tmp_path / "chat_template.jinja").write_text("own file", encoding="utf-8")
    assert Tokenizer.load(tmp_path).conventions.chat_template == "own file"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tokenizer_config.json", '{"bos_token": "<x>"}', "bos_token '<x>' is not in the vocabulary"),
        ("tokenizer_config.json", '{"eos_token": 5}', "eos_token 5 is not in the vocabulary"),
        ("tokenizer_config.json", '{"chat_template": 5}', "chat_template is a int"),
        (
            "tokenizer_config.json",
            '{"chat_template": [5, {"name": "default", "template": 5}]}',
            "chat_template is a int",
        ),
        ("tokenizer_config.json", "[]", "a list, but must be a table"),
        ("tokenizer_config.json", '{"a', "cut short"),
        ("chat_template.jinja", "\udcff", "no UTF-8 at byte 0"),
    ],
)
def test_damage_beside_is_named(tmp_path, full, name, text, message):
    full.save(tmp_path)
    (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=rf"tokenizer\.json: {name} beside it: .*{message}"):
        Tokenizer.load(tmp_path)


def test_what_is_written_is_what_hugging_face_writes(tmp_path, full):
    tokens, merges = full.vocabulary.tokens, full.merges
    digits = Tokenizer(tokens, merges, full.special_tokens, "smollm", True, conventions=full.conventions)
    digits.save(tmp_path)
    assert Tokenizer.load(tmp_path).digest == digits.digest
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert content["model"]["ignore_merges"] is True
    assert [step["type"] for step in content["pre_tokenizer"]["pretokenizers"]] == ["Digits", "ByteLevel"]
    names = [next(iter(piece.values())) for piece in content["post_processor"]["pair"]]
    assert [(name["id"], name["type_id"]) for name in names] == [
        ("<s>", 0), ("A", 0), ("</s>", 0), ("<s>", 1), ("B", 1), ("</s>", 1),
    ]  # fmt: skip


def test_pairs_that_no_text_meets_are_left_out(tmp_path):
    """Files converted from ranks hold all pairs that would make a token."""
    tokenizer = Tokenizer.train(LEARNED_FROM, 400, pattern="gpt2")
    tokenizer.save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    vocab, every = content["model"]["vocab"], []
    for token in map("".join, content["model"]["merges"]):
        every += [[token[:i], token[i:]] for i in range(1, len(token)) if {token[:i], token[i:]} <= vocab.keys()]
    assert len(every) > len(tokenizer.merges)
    content["model"]["merges"] = every
    assert read(tmp_path, content).digest == tokenizer.digest
