"""What a model says before it is tuned, as examples."""

import json

import pytest

from tinygrad_llm.cli.main import main
from tinygrad_llm.data import DataError
from tinygrad_llm.finetuning import rehearsal
from tinygrad_llm.finetuning.rehearsal import rehearsal_examples, rehearsal_questions, whole_sentences
from tinygrad_llm.finetuning.templates import with_template
from tinygrad_llm.generation.loading import Loaded
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.tokenizer import Tokenizer


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("It rains. It is we", "It rains."),
        ("Why? Nobody knows", "Why?"),
        ("One.\nTwo! Thr", "One.\nTwo!"),
        ("3.14 is no sentence", ""),
        ("nothing ends", ""),
    ],
)
def test_whole_sentences(text, kept):
    assert whole_sentences(text) == kept


@pytest.fixture
def loaded(tmp_path):
    tokenizer = with_template(Tokenizer.train(["What is the moon? It is bread. " * 9], 280), "alpaca")
    return Loaded(tmp_path, GPT(GPTConfig(tokenizer.vocab_size, 256, 16, 1, 2)), tokenizer)


def says(monkeypatch, tokenizer, answers):
    """Let the model answer so, in turns."""

    def answered(model, prompts, ends, most, vocab_size, progress):
        assert ends == {tokenizer.conventions.eos_id}
        return [tokenizer.encode(answers[number % len(answers)]).tolist()[:most] for number in range(len(prompts))]

    monkeypatch.setattr(rehearsal, "answer_prompts", answered)


def test_examples_are_the_models_answers_as_far_as_they_go(monkeypatch, loaded):
    long = "It is bread. " * 40
    says(monkeypatch, loaded.tokenizer, ["It is bread", "", long, "z" * 99])
    training, held_out, notes = rehearsal_examples(loaded)
    questions = rehearsal_questions()
    assert {example["instruction"] for example in training + held_out} == {*questions[::4], *questions[2::4]}
    outputs = {example["output"] for example in training + held_out}
    assert len(outputs) == 2
    assert "It is bread" in outputs
    (cut,) = outputs - {"It is bread"}
    assert long.startswith(cut)
    assert cut.endswith("bread.")
    assert len(held_out) == round(0.1 * len(questions) / 2)
    assert notes == [
        f"the model's own answers; left out are {len(questions) // 2} without a whole sentence in 64 tokens"
    ]


def test_a_model_that_says_nothing(monkeypatch, loaded):
    says(monkeypatch, loaded.tokenizer, [""])
    with pytest.raises(DataError, match="the model ended 0 sentences, asked"):
        rehearsal_examples(loaded)


def test_the_command(monkeypatch, loaded, tmp_path, capsys):
    base, out = tmp_path / "base", tmp_path / "keep.jsonl"
    loaded.model.save_pretrained(base)
    loaded.tokenizer.save(base / "tokenizer.json")
    says(monkeypatch, loaded.tokenizer, ["It is bread."])
    assert main(["dataset", "rehearsal", "--model", str(base), "--out", str(out)]) == 0
    assert f"wrote {out}" in capsys.readouterr().out
    lines = out.read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["output"] for line in lines} == {"It is bread."}
    for arguments in (["rehearsal"], ["questions", "--model", str(base)]):
        assert main(["dataset", *arguments, "--out", str(tmp_path / "other.jsonl")]) == 1
        assert "--model is for rehearsal, which needs it" in capsys.readouterr().err
