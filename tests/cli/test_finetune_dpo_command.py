"""`tinygrad-llm finetune dpo`: whole runs of a tiny model."""

import hashlib
import io
import json

import pytest

from tinygrad_llm.cli.main import main
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.tokenizer import Tokenizer

WORDS = ["cat", "dog", "cow", "pig", "hen", "duck", "bird", "fox", "wolf", "horse"]
ASKED = "The plural of {}", "Many of {}", "{}, but two", "More than one {}"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model to begin with."""
    folder = tmp_path_factory.mktemp("base")
    text = " ".join(f"{ask.format(word)} {word}s {word}en" for word in WORDS for ask in ASKED)
    tokenizer = Tokenizer.train([text] * 3 + ["Below is an instruction ### Response: "] * 3, 330)
    tokenizer.save(folder / "tokenizer.json")
    config = GPTConfig(tokenizer.vocab_size, context=192, channels=32, layers=2, heads=2, init_std=0.1)
    GPT(config, seed=1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    records = [{"prompt": a.format(w), "chosen": f"{w}s", "rejected": f"{w}en"} for w in WORDS for a in ASKED]
    file.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return file


def call(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return status, output.out, output.err


def digest(run):
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


SMALL = "--template", "chatml", "--answered", "4", "--threads", "1"


def test_from_pairs_to_a_model_that_prefers(base, pairs, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    more = "--steps", "40", "--learning-rate", "0.003", "--validate-every", "10", "--sample-every", "40"
    status, output, error = call(capsys, "finetune", "dpo", base, "--data", pairs, "--out", run, *SMALL, *more)
    assert status == 0, error
    assert "40 pairs" in output
    assert f"next        tinygrad-llm chat {run}" in output
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert report["before"]["accuracy"] == 0.5
    assert report["after"]["accuracy"] == 1
    assert report["after"]["loss"] < report["before"]["loss"] / 2
    assert report["after"]["margin"] > 1
    for name in ("margins.png", "loss.png", "sample.txt", "before.json", "tokenizer.json", "config.toml"):
        assert (run / name).stat().st_size > 0, name
    assert "log-probability" in (run / "sample.txt").read_text(encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO("Many of cat\n"))
    assert call(capsys, "chat", run, "--temperature", "0", "--max-tokens", "4", "--threads", "1")[0] == 0


def test_an_adapter_learns_preferences_too(base, pairs, tmp_path, capsys):
    run = tmp_path / "run"
    more = "--steps", "30", "--learning-rate", "0.02", "--lora", "r=4,alpha=8", "--template", "alpaca"
    arguments = "finetune", "dpo", base, "--data", pairs, "--out", run, *SMALL[2:], *more
    status, _, error = call(capsys, *arguments)
    assert status == 0, error
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert report["before"]["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert report["after"]["loss"] < 0.5
    assert (run / "adapter_model.safetensors").exists()


def test_a_run_that_was_stopped_ends_with_the_same_bytes(base, pairs, tmp_path, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    same = "--schedule", "constant", "--warmup", "0", "--no-best", "--learning-rate", "0.003"
    arguments = "finetune", "dpo", base, "--data", pairs, *SMALL, *same
    assert call(capsys, *arguments, "--steps", "8", "--out", whole)[0] == 0
    assert call(capsys, *arguments, "--steps", "3", "--out", parts)[0] == 0
    kept = (parts / "before.json").read_bytes()
    status, output, _ = call(capsys, "finetune", "dpo", "--resume", "--steps", "8", "--out", parts)
    assert status == 0
    assert "continued after step 3" in output
    assert digest(parts) == digest(whole)
    assert (parts / "before.json").read_bytes() == kept == (whole / "before.json").read_bytes()


def test_another_model_is_refused_when_a_run_is_resumed(base, pairs, tmp_path, capsys):
    model, run = tmp_path / "model", tmp_path / "run"
    model.mkdir()
    for file in base.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    assert call(capsys, "finetune", "dpo", model, "--data", pairs, "--out", run, *SMALL, "--steps", "2")[0] == 0
    before = digest(run)
    changed = GPT.from_pretrained(model)
    changed.parameters()[0].data[0, 0] += 1e-3
    changed.save_pretrained(model)
    status, _, error = call(capsys, "finetune", "dpo", "--resume", "--steps", "4", "--out", run)
    assert status == 1
    assert "the model or the pairs are not those any more" in error
    assert digest(run) == before


GOOD = '{"prompt": "a", "chosen": "b", "rejected": "c"}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + '{"prompt": "a", "chosen": "b"}', "1 faulty line\n  line 2: rejected is missing, not text"),
        (GOOD + '{"instruction": "a", "output": "b"}', "line 2: prompt is missing, not text"),
        (GOOD + '{"prompt": "a" "chosen"', "line 2: not JSON: "),
        ('{"prompt": "a", "chosen": "b", "rejected": "b"}', "no pairs but 0 with an empty answer and 1 with equal"),
        (GOOD + GOOD, "only one prompt"),
        (GOOD + json.dumps({"prompt": "d", "chosen": "b " * 200, "rejected": "c"}), "is left: all are longer than 192"),
        ("", "this file is empty"),
    ],
)
def test_bad_data_is_told_and_leaves_nothing(base, text, message, tmp_path, capsys):
    data = tmp_path / "data.jsonl"
    data.write_text(text, encoding="utf-8")
    arguments = "finetune", "dpo", base, "--data", data, "--out", tmp_path / "run", "--template", "chatml"
    status, _, error = call(capsys, *arguments)
    assert status == 1
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_settings_that_cannot_be_are_wrong_usage(base, pairs, capsys):
    status, _, error = call(capsys, "finetune", "dpo", base, "--data", pairs, "--beta", "0")
    assert status == 2
    assert "--beta 0.0: must be positive" in error
