"""`tinygrad-llm finetune`: whole runs of a tiny model."""

import hashlib
import json

import pytest

from tinygrad_llm.cli.main import main
from tinygrad_llm.models import GPT, T5, GPTConfig, T5Config
from tinygrad_llm.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model to begin with."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = Tokenizer.train(["the cat says meow, and the dog says woof. " * 9], vocab_size=280)
    tokenizer.save(folder / "tokenizer.json")
    GPT(GPTConfig(tokenizer.vocab_size, context=64, channels=16, layers=2, heads=2)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "labelled.csv"
    rows = [
        f"the {a} says {b} {n}; not the other,{a}" for n in range(30) for a, b in (("cat", "meow"), ("dog", "woof"))
    ]
    file.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    return file


def call(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return status, output.out, output.err


def digest(run):
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


SMALL = "--epochs", "2", "--learning-rate", "0.02", "--batch-size", "8", "--threads", "1"


def test_a_classifier_from_a_table_to_a_prediction(base, labelled, tmp_path, capsys):
    run = tmp_path / "run"
    status, output, error = call(
        capsys, "finetune", "classify", base, "--data", labelled, "--out", run, *SMALL[2:], "--epochs=8"
    )
    assert (status, error) == (0, "")
    assert f"next        tinygrad-llm predict {run}" in output
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert report["accuracy"] == 1.0
    assert (run / "confusion.png").read_bytes().startswith(b"\x89PNG")
    status, output, _ = call(capsys, "predict", run, "the dog says woof")
    assert status == 0
    assert output.startswith("dog\t")
    status, _, error = call(capsys, "generate", run)
    assert status == 1
    assert "holds a classifier into 2 classes" in error


def test_a_run_that_was_stopped_ends_with_the_same_bytes(base, labelled, tmp_path, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    same = "--schedule", "constant", "--warmup", "0", "--no-best"  # whatever the number of steps
    arguments = "finetune", "classify", base, "--data", labelled, *SMALL, *same
    assert call(capsys, *arguments, "--steps", "12", "--out", whole)[0] == 0
    assert call(capsys, *arguments, "--steps", "5", "--out", parts)[0] == 0
    status, output, _ = call(capsys, "finetune", "classify", "--resume", "--steps", "12", "--out", parts)
    assert status == 0
    assert "continued after step 5" in output
    assert digest(parts) == digest(whole)


def test_other_examples_are_refused_when_a_run_is_resumed(base, labelled, tmp_path, capsys):
    data = tmp_path / "data.csv"
    data.write_bytes(labelled.read_bytes())
    run = tmp_path / "run"
    assert call(capsys, "finetune", "classify", base, "--data", data, "--out", run, *SMALL)[0] == 0
    data.write_text(data.read_text(encoding="utf-8").replace("says", "said"), encoding="utf-8")
    status, _, error = call(capsys, "finetune", "classify", "--resume", "--out", run)
    assert status == 1
    assert "was measured on other examples than these; begin another run with --out" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give the model to begin with"),
        (("{base}",), "give a file of examples with --data"),
        (("{base}", "--data", "none.csv"), "none.csv"),
        (("{base}", "--model", "smollm2", "--data", "{data}"), "two models are given"),
        (("nowhere", "--data", "{data}"), "nowhere: no such folder or file"),
        (("{base}", "--data", "{data}", "--blocks", "7"), "--blocks 7: the model has 2"),
        (("{base}", "--data", "{data}", "--text-column", "body"), "body"),
    ],
)
def test_what_cannot_be_begun_leaves_nothing(base, labelled, arguments, message, tmp_path, capsys):
    given = [a.format(base=base, data=labelled) for a in arguments]
    status, _, error = call(capsys, "finetune", "classify", *given, "--out", tmp_path / "run")
    assert status == 1
    assert message in error
    assert not (tmp_path / "run").exists()


def test_only_the_last_blocks_are_trained(base, labelled, tmp_path, capsys):
    run = tmp_path / "run"
    arguments = "finetune", "classify", base, "--data", labelled, "--out", run, "--blocks", "1", *SMALL
    status, output, _ = call(capsys, *arguments)
    assert status == 0
    assert "are trained" in output
    before, after = GPT.from_pretrained(base).state_dict(), load_body(run)
    for name, array in before.items():
        assert (array == after[name]).all() == (not name.startswith(("blocks.1", "final_norm"))), name


def load_body(run):
    from tinygrad_llm.models import load_model

    return load_model(run).body.state_dict()


def test_an_adapter_and_a_new_head_are_trained_and_merged(base, labelled, tmp_path, capsys):
    run = tmp_path / "run"
    arguments = "finetune", "classify", base, "--data", labelled, "--out", run, "--lora", "r=4"
    status, output, _ = call(capsys, *arguments, *SMALL[2:], "--epochs", "8")
    assert status == 0
    assert "numbers are trained" in output
    assert json.loads((run / "report.json").read_text(encoding="utf-8"))["accuracy"] == 1.0
    status, output, _ = call(capsys, "predict", run, "the dog says woof")
    assert output.startswith("dog\t")
    status, output, _ = call(capsys, "finetune", "classify", "--resume", "--out", run)
    assert status == 0, "what is trained already is measured again"
    status, _, error = call(capsys, *arguments[:-3], tmp_path / "other", "--lora", "r=4", "--weights", "int8")
    assert status == 1
    assert "--weights int8: with a new head" in error


def test_the_cost_of_training_is_told_and_saved(base, labelled, tmp_path, capsys):
    run = tmp_path / "run"
    output = call(capsys, "finetune", "classify", base, "--data", labelled, "--out", run, *SMALL)[1]
    cost = json.loads((run / "report.json").read_text(encoding="utf-8"))["training"]
    assert f"cost        {cost['steps']} steps, half of them within" in output
    assert cost["median_step_seconds"] > 0


def test_a_model_that_cannot_classify_is_one_line(labelled, tmp_path, capsys):
    folder = tmp_path / "t5"
    T5(T5Config(vocab_size=300, channels=8, head_channels=4, heads=2, feed_forward=8, layers=1)).save_pretrained(folder)
    Tokenizer.train(["the cat"], 300).save(folder / "tokenizer.json")
    status, _, error = call(capsys, "finetune", "classify", folder, "--data", labelled, "--out", tmp_path / "run")
    assert status == 1
    assert error.count("\n") == 1
    assert "a T5 reads and writes; a classifier stands on a decoder or an encoder" in error
    assert not (tmp_path / "run").exists()
