"""What a model says before it is tuned, as examples, and how these are mixed with others."""

import io
import json

import pytest
from rich.console import Console

from tinygrad_llm.cli.main import main
from tinygrad_llm.data import IGNORE, DataError
from tinygrad_llm.data.general_questions import ASKED, REHEARSED
from tinygrad_llm.finetuning import rehearsal
from tinygrad_llm.finetuning.instruct_config import InstructConfig
from tinygrad_llm.finetuning.instruction import prepare_instruction
from tinygrad_llm.finetuning.other_questions import read_questions
from tinygrad_llm.finetuning.rehearsal import rehearsal_examples, whole_sentences
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
    examples = rehearsal_examples(loaded)
    answered = [question for number, question in enumerate(REHEARSED) if number % 2 == 0]
    assert [example["instruction"] for example in examples] == answered
    assert {example["output"] for example in examples[::2]} == {"It is bread"}
    (cut,) = {example["output"] for example in examples[1::2]}
    assert long.startswith(cut)
    assert cut.endswith("bread.")


def test_a_model_that_says_nothing(monkeypatch, loaded):
    says(monkeypatch, loaded.tokenizer, [""])
    with pytest.raises(DataError, match="the model ended no sentence in 64 tokens, asked 64 times"):
        rehearsal_examples(loaded)


def test_nothing_is_rehearsed_that_is_asked():
    assert len(set(REHEARSED)) == len(REHEARSED) == 64
    assert len(set(ASKED)) == len(ASKED) == 10
    assert not {question.lower() for question in REHEARSED} & {question.lower() for question in ASKED}


def test_the_command(monkeypatch, loaded, tmp_path, capsys):
    base, out, questions = tmp_path / "base", tmp_path / "keep.jsonl", tmp_path / "keep-questions.txt"
    loaded.model.save_pretrained(base)
    loaded.tokenizer.save(base / "tokenizer.json")
    says(monkeypatch, loaded.tokenizer, ["It is bread."])
    command = ["dataset", "rehearsal", "--model", str(base), "--out", str(out)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert f"wrote {out}: 64 answers of the model; {questions}: 10 questions more" in printed
    assert f"--rehearsal {out} --questions {questions}" in printed
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert lines == [{"instruction": question, "output": "It is bread."} for question in REHEARSED]
    assert printed.count('{"instruction"') == 3
    assert read_questions(str(questions)) == list(ASKED)
    assert main(command) == 1
    assert "exists" in capsys.readouterr().err
    for arguments in (["rehearsal"], ["questions", "--model", str(base)]):
        assert main(["dataset", *arguments, "--out", str(tmp_path / "other.jsonl")]) == 1
        assert "--model is for rehearsal, which needs it" in capsys.readouterr().err


# ---- what is rehearsed while other things are learned


def pairs(count, words):
    return [{"instruction": f"{words} {number}", "output": "bread " * (1 + number % 3)} for number in range(count)]


def task_of(loaded, folder, rehearsal_count=7, **settings):
    files = {"data": pairs(10, "Say"), "validation_data": pairs(3, "Tell"), "rehearsal": pairs(rehearsal_count, "What")}
    files["rehearsal"] += [{"instruction": "Tell 1", "output": "held out"}, {"instruction": "It " * 300, "output": "x"}]
    paths = {}
    for name, records in files.items():
        (folder / f"{name}.json").write_text(json.dumps(records), encoding="utf-8")
        paths[name] = str(folder / f"{name}.json")
    console = Console(file=io.StringIO(), soft_wrap=True, width=200)
    config = InstructConfig(model="m", batch_size=4, **(paths | settings))
    return prepare_instruction(config, loaded, console), console.file.getvalue()


@pytest.mark.parametrize("packing", [True, False])
def test_each_batch_has_its_share_of_what_is_rehearsed(loaded, tmp_path, packing):
    task, printed = task_of(loaded, tmp_path, packing=packing)
    assert (task.training_examples, len(task.sequences), len(task.held_out)) == (10, 17, 3)
    assert "rehearsal   7 examples more" in printed
    orders = []
    for epoch in range(2):
        batches = task.batches(epoch)
        assert [sorted(place >= 10 for place in some).count(True) for some in batches] == [3, 2, 2]
        assert sorted(int((some < 10).sum()) for some in batches) == [2, 4, 4]
        assert sorted(place for some in batches for place in some.tolist()) == list(range(17))
        orders.append([some.tolist() for some in batches])
    assert orders[0] != orders[1]
    told = task.batch(0, 0)
    assert told.targets == sum(int((task.sequences[place][1] != IGNORE).sum()) for place in orders[0][0])


def test_without_rehearsal_nothing_is_on_top(loaded, tmp_path):
    task, printed = task_of(loaded, tmp_path, rehearsal="")
    assert len(task.sequences) == 10
    assert "rehearsal   " not in printed
    assert {len(some) for some in task.batches(0)} == {4, 2}


def test_the_digest_knows_what_is_rehearsed(loaded, tmp_path):
    digests = {task_of(loaded, tmp_path, **given)[0].data_digest for given in ({}, {"rehearsal": ""})}
    digests.add(task_of(loaded, tmp_path, rehearsal_count=6)[0].data_digest)
    assert len(digests) == 3


def test_rehearsal_of_what_is_held_out_alone_is_refused(loaded, tmp_path):
    with pytest.raises(DataError, match="no example is left to rehearse"):
        task_of(loaded, tmp_path, rehearsal_count=0)
