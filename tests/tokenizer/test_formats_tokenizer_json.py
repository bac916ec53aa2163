"""`tokenizer.json`: what is written is read back as it was; what cannot be followed is refused by name."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.tokenizer import PATTERNS, Tokenizer

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


def damage(content, *keys, value):
    for key in keys[:-1]:
        content = content[key]
    content[keys[-1]] = value


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["model", "type"], "WordPiece", "model type 'WordPiece'"),
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
