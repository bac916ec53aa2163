"""`tinygrad-llm finetune instruct`: whole runs of a tiny model, and conversations with the result."""

import hashlib
import io
import json

import pytest

from tinygrad_llm.cli.main import main
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.tokenizer import Tokenizer

SOUNDS = {"cat": "meow", "dog": "woof", "cow": "moo", "pig": "oink", "hen": "cluck", "owl": "hoot"}
ASKED = "What does the {} say?", "Tell me what the {} says", "Sound of the {}", "The {} goes"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model to begin with."""
    folder = tmp_path_factory.mktemp("base")
    text = " ".join(ask.format(animal) + " " + sound for animal, sound in SOUNDS.items() for ask in ASKED)
    tokenizer = Tokenizer.train([text] * 3 + ["user assistant Below is an instruction ### Response: "] * 3, 330)
    tokenizer.save(folder / "tokenizer.json")
    config = GPTConfig(tokenizer.vocab_size, context=192, channels=32, layers=2, heads=2, init_std=0.1)
    GPT(config, seed=1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "sounds.json"
    records = [{"instruction": ask.format(a), "input": "", "output": s} for a, s in SOUNDS.items() for ask in ASKED]
    file.write_text(json.dumps(records, indent=1), encoding="utf-8")
    return file


def call(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return status, output.out, output.err


def digest(run):
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


SMALL = "--epochs", "2", "--learning-rate", "0.01", "--threads", "1"


@pytest.mark.parametrize("template", ["chatml", "alpaca"])
def test_from_examples_to_a_conversation(base, sounds, template, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text('{"prompt": "What does the cat say, please?", "completion": "meow"}\n', encoding="utf-8")
    data = "--data", sounds, "--validation-data", held_out
    more = "--steps", "60", "--learning-rate", "0.02", "--threads", "1", "--template", template, "--no-best"
    rarely = "--validate-every", "30", "--sample-every", "30", "--checkpoint-every", "60"
    status, output, error = call(capsys, "finetune", "instruct", base, *data, "--out", run, *more, *rarely)
    assert (status, "error:" in error) == (0, False)  # kernels may tell that they are compiled
    assert f"next        tinygrad-llm chat {run}" in output
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert "note" not in report  # as the last weights are kept
    assert report["after"]["loss"] < report["before"]["loss"] / 2
    assert json.loads((run / "before.json").read_text(encoding="utf-8"))["measured"]["loss"] == report["before"]["loss"]
    for name in ("answers.txt", "sample.txt", "lengths.png", "loss.png", "tokenizer_config.json"):
        assert (run / name).stat().st_size > 0, name
    monkeypatch.setattr("sys.stdin", io.StringIO("What does the dog say?\nSound of the hen\n"))
    status, output, error = call(capsys, "chat", run, "--temperature", "0", "--threads", "1")
    assert (status, "error:" in error) == (0, False)  # kernels may tell that they are compiled
    answers = output.split("\n")
    assert set(answers[:2]) < set(SOUNDS.values())
    assert template == "alpaca" or answers[0] == "woof"  # in the longer prompt, it is harder to find the animal
    status, output, _ = call(capsys, "generate", run, "--prompt", "What", "--max-tokens", "3", "--threads", "1")
    assert status == 0
    assert output.startswith("What")


def test_a_run_that_was_stopped_ends_with_the_same_bytes(base, sounds, tmp_path, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    same = "--schedule", "constant", "--warmup", "0", "--no-best"  # whatever the number of steps
    arguments = "finetune", "instruct", base, "--data", sounds, *SMALL, *same
    assert call(capsys, *arguments, "--steps", "8", "--out", whole)[0] == 0
    assert call(capsys, *arguments, "--steps", "3", "--out", parts)[0] == 0
    before = (parts / "before.json").read_bytes()
    status, output, _ = call(capsys, "finetune", "instruct", "--resume", "--steps", "8", "--out", parts)
    assert status == 0
    assert "continued after step 3" in output
    assert digest(parts) == digest(whole)
    assert (parts / "before.json").read_bytes() == before == (whole / "before.json").read_bytes()
    reports = [json.loads((run / "report.json").read_text(encoding="utf-8")) for run in (whole, parts)]
    for report in reports:
        report.pop("training", None)  # how long it took
    assert reports[0] == reports[1]


def test_what_is_forgotten_is_seen(base, sounds, tmp_path, capsys):
    keep, questions, run = tmp_path / "keep.jsonl", tmp_path / "questions.txt", tmp_path / "run"
    keep.write_text('{"prompt": "What is a cow?", "completion": "An animal."}\n', encoding="utf-8")
    questions.write_text("What is a dog?\nWhat is a hen?\n", encoding="utf-8")
    more = "--rehearsal", keep, "--questions", questions, "--answered", "5", "--out", run
    status, output, error = call(capsys, "finetune", "instruct", base, "--data", sounds, *SMALL, *more)
    assert status == 0, error
    assert "rehearsal   1 examples more" in output
    assert "note        the best weights were chosen by the held-out examples that are measured here" in output
    assert "question    What is a hen?" in output
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert f"note        {report['note']}" in output
    other = report["other_questions"]
    assert [one["question"] for one in other["answers"]] == ["What is a dog?", "What is a hen?"]
    assert 0 < other["loss_before"] != other["loss_after"] > 0
    before = json.loads((run / "before.json").read_text(encoding="utf-8"))["measured"]["other_questions"]
    assert before["loss"] == other["loss_before"]
    assert "other_questions" not in report["before"]


def test_packing_is_a_matter_of_layout(base, sounds, tmp_path, capsys):
    losses = []
    for packing in ("--packing", "--no-packing"):
        run = tmp_path / packing
        assert call(capsys, "finetune", "instruct", base, "--data", sounds, *SMALL, packing, "--out", run)[0] == 0
        losses.append(json.loads((run / "report.json").read_text(encoding="utf-8"))["after"]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_other_examples_or_another_template_are_refused_when_a_run_is_resumed(base, sounds, tmp_path, capsys):
    data, run = tmp_path / "data.json", tmp_path / "run"
    data.write_bytes(sounds.read_bytes())
    assert call(capsys, "finetune", "instruct", base, "--data", data, "--out", run, *SMALL)[0] == 0
    data.write_text(data.read_text(encoding="utf-8").replace("woof", "bark"), encoding="utf-8")
    status, _, error = call(capsys, "finetune", "instruct", "--resume", "--out", run)
    assert status == 1
    assert "was measured on other examples than these; begin another run with --out" in error
    status, _, error = call(capsys, "finetune", "instruct", "--resume", "--out", run, "--template", "chatml")
    assert status == 1
    assert "--template is auto, not chatml" in error


GOOD = '{"instruction": "a", "output": "b"}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + '{"instruction": "a", "answer": "b"}', "1 faulty line\n  line 2: output is missing, not text"),
        (GOOD + '{"question": "a"}', "line 2: has neither messages"),
        (GOOD + '{"instruction": "a" "output"', "line 2: not JSON: "),
        ("[" + GOOD + ',\n{"instruction": }]', "line 3: not JSON: "),
        ('{"instruction": "a", "output": " "}', "all 1 answers are empty"),
        (GOOD + GOOD, "only one prompt"),
        ('{"prompt": "a", "completion": "b"}\n' + '{"prompt": "c", "completion": "' + "b " * 200 + '"}', "no example"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "line 1: the last message is the user's"),
        ("", "this file is empty"),
    ],
)
def test_bad_data_is_told_and_leaves_nothing(base, text, message, tmp_path, capsys):
    data = tmp_path / "data.jsonl"
    data.write_text(text, encoding="utf-8")
    status, _, error = call(capsys, "finetune", "instruct", base, "--data", data, "--out", tmp_path / "run")
    assert status == 1
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_settings_that_are_not_known_are_wrong_usage(base, sounds, capsys):
    status, _, error = call(capsys, "finetune", "instruct", base, "--data", sounds, "--template", "llama")
    assert status == 2
    assert "template" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--lora", "r=0"), "--lora r=0: nothing would be trained; give a rank of at least 1"),
        (("--blocks", "0"), "--blocks 0: only a norm would be trained, as the head is the embedding; train a block"),
    ],
)
def test_what_would_train_nothing_is_refused_and_leaves_nothing(base, sounds, options, message, tmp_path, capsys):
    run = tmp_path / "run"
    status, _, error = call(capsys, "finetune", "instruct", base, "--data", sounds, "--out", run, *options)
    assert status in (1, 2)
    assert message in error
    assert not run.exists()


def test_an_adapter_is_not_trained_on_another(base, sounds, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    adapter = "--lora", "r=2", "--data", sounds, *SMALL
    assert call(capsys, "finetune", "instruct", base, *adapter, "--out", first)[0] == 0
    status, _, error = call(capsys, "finetune", "instruct", first, *adapter, "--out", second)
    assert status == 1
    assert f"merge it first: tinygrad-llm convert {first} merged" in error
    assert not second.exists()
    merged = tmp_path / "merged"
    assert call(capsys, "convert", first, merged)[0] == 0
    assert call(capsys, "finetune", "instruct", merged, *adapter, "--out", second)[0] == 0
