"""`tinygrad-llm eval` on questions and on pairs of sentences."""

import json

import numpy as np
import pytest

from tinygrad_llm.cli.main import main
from tinygrad_llm.models import GPT, Bert, BertConfig, GPTConfig
from tinygrad_llm.tokenizer import Tokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", "sat", "##s"]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    tokenizer = Tokenizer.train(["the cat sat on the mat. " * 9], vocab_size=270)
    tokenizer.save(folder / "tokenizer.json")
    GPT(GPTConfig(tokenizer.vocab_size, context=16, channels=16, layers=1, heads=2)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    Bert(BertConfig(len(WORDS), 16, 16, 1, 2, 32, head="none")).save_pretrained(folder)
    return folder


@pytest.fixture
def files(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"question": "the", "choices": ["cat", "mat"], "answer": 0}\n', encoding="utf-8")
    (tmp_path / "p.tsv").write_text("a cat\ta dog\t1\na cat\ta cat sat\t2\nsat\ta\t3\n", encoding="utf-8")
    (tmp_path / "t.txt").write_text("the cat sat on the mat. " * 20, encoding="utf-8")
    return tmp_path


def call(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return status, output.out, output.err


def test_questions_and_a_text_together(decoder, files, capsys):
    status, output, _ = call(
        capsys, "eval", decoder, "--choices", files / "q.jsonl", "--data", files / "t.txt", "--json", files / "o.json"
    )
    assert status == 0
    shown = dict(line.split() for line in output.splitlines())
    assert shown["questions"] == "1"
    assert shown["accuracy"] in ("0.0000", "1.0000")
    saved = json.loads((files / "o.json").read_text(encoding="utf-8"))
    assert saved["model"] == str(decoder)
    assert f"{saved['loss']:.4f}" == shown["loss"]
    assert saved["bytes"] == 480


def test_a_smaller_stride_gives_each_token_more_before_it(decoder, files, capsys):
    apart = dict(line.split() for line in call(capsys, "eval", decoder, "--data", files / "t.txt")[1].splitlines())
    arguments = "eval", decoder, "--data", files / "t.txt", "--stride", 4, "--context", 8
    near = dict(line.split() for line in call(capsys, *arguments)[1].splitlines())
    assert near["tokens"] == apart["tokens"]
    assert near["loss"] != apart["loss"]


def test_pairs_of_sentences(encoder, files, capsys):
    status, output, _ = call(capsys, "eval", encoder, "--similarity", files / "p.tsv")
    assert status == 0
    shown = dict(line.split() for line in output.splitlines())
    assert shown["pairs"] == "3"
    assert -1 <= float(shown["spearman"]) <= 1
    assert np.isfinite(float(shown["pearson"]))


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("decoder", ["--similarity", "p.tsv"], "holds a GPT; --similarity is for an encoder"),
        ("encoder", ["--choices", "q.jsonl"], "an encoder is measured with --similarity FILE"),
        ("encoder", [], "an encoder is measured with --similarity FILE"),
        ("decoder", ["--choices", "q.jsonl", "--stride", "3"], "--stride and --context are for a text"),
        ("decoder", ["--data", "t.txt", "--context", "17"], "more than the model's, 16"),
        ("decoder", ["--data", "t.txt", "--stride", "17"], "stride 17"),
        ("decoder", ["--choices", "none.jsonl"], "none.jsonl"),
        ("decoder", ["--choices", "p.tsv"], "3 faulty lines"),
        ("decoder", [], "holds no text to measure with"),
    ],
)
def test_what_cannot_be_measured(request, model, options, message, files, capsys, monkeypatch):
    monkeypatch.chdir(files)
    status, output, error = call(capsys, "eval", request.getfixturevalue(model), *options)
    assert status == 1
    assert message in error
    assert output == ""


def test_a_file_is_not_overwritten_unless_it_is_asked_for(decoder, files, capsys):
    arguments = "eval", decoder, "--choices", files / "q.jsonl", "--json", files / "t.txt"
    status, _, error = call(capsys, *arguments)
    assert status == 1
    assert "t.txt" in error
    assert call(capsys, *arguments, "--force")[0] == 0
