"""`tinygrad-llm dataset`: files, what is said of them, and what is refused."""

import json
from importlib.metadata import PackageNotFoundError

import pytest

import tinygrad_llm.cli.dataset as module
from tinygrad_llm.cli.main import main
from tinygrad_llm.data.corpus import Docstring
from tinygrad_llm.data.dialogues import read_dialogues
from tinygrad_llm.data.example_sets import ExampleSet
from tinygrad_llm.data.preferences import read_preferences
from tinygrad_llm.data.tables import read_table


def call(capsys, *arguments):
    status = main(["dataset", *map(str, arguments)])
    output = capsys.readouterr()
    return status, output.out, output.err


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


WORDS = ["cat", "dog", "cow", "pig", "hen", "duck", "bird", "fox", "wolf", "horse"]


@pytest.fixture
def library(monkeypatch):
    """A standard library that is read in no time."""
    texts = [
        Docstring(
            name, f"{name}.f_{word}_{what}", f"def {name}.f_{word}_{what}():", f"Return the {what} of the {word}."
        )
        for name, what in (("alpha", "sound"), ("beta", "food"), ("gamma", "house"))
        for word in WORDS
    ]
    monkeypatch.setattr("tinygrad_llm.data.standard_library.library_docstrings", lambda: texts)


def test_questions_can_be_learned(library, tmp_path, capsys):
    out = tmp_path / "questions.jsonl"
    status, output, error = call(capsys, "questions", "--out", out)
    assert status == 0, error
    held_out = tmp_path / "questions-held-out.jsonl"
    assert len(lines(out)) > len(lines(held_out)) > 0
    assert f"wrote {out}: {len(lines(out)):,} examples to train on; {held_out}: {len(lines(held_out)):,} more" in output
    for example in lines(out)[:3]:
        assert json.dumps(example, ensure_ascii=False) in output
    assert f"tinygrad-llm finetune instruct MODEL --data {out} --validation-data {held_out}" in output
    assert "making questions" in error
    assert len(read_dialogues(out).dialogues) == len(lines(out))
    again = tmp_path / "again.jsonl"
    assert call(capsys, "questions", "--out", again, "--held-out", tmp_path / "other.jsonl")[0] == 0
    assert again.read_bytes() == out.read_bytes()
    assert (tmp_path / "other.jsonl").read_bytes() == held_out.read_bytes()


def test_docstrings_can_be_sorted(library, tmp_path, capsys):
    out = tmp_path / "docstrings.jsonl"
    status, output, error = call(capsys, "docstrings", "--out", out, "--classes", "3", "--seed", "5")
    assert status == 0, error
    assert "finetune classify MODEL" in output
    table = read_table(str(out), "", "")
    assert len(table.labels) == 3
    assert len(table.examples) == len(lines(out))


def test_preferences_can_be_learned(library, tmp_path, capsys):
    out = tmp_path / "pairs.jsonl"
    status, output, error = call(capsys, "preferences", "--out", out)
    assert status == 0, error
    assert "finetune dpo MODEL" in output
    found = read_preferences(out)
    assert (found.empty, found.equal) == ([], [])
    assert len(found.pairs) == len(lines(out)) > 20


@pytest.mark.parametrize(
    ("arguments", "function", "given"),
    [
        (["docstrings"], "module_examples", (10, 0)),
        (["docstrings", "--classes", "4", "--seed", "2"], "module_examples", (4, 2)),
        (["questions", "--seed", "3"], "question_examples", (3,)),
        (["inflections", "--seed", "4"], "inflection_examples", (4,)),
        (["conversations", "--seed", "5"], "conversation_examples", (5,)),
        (["preferences"], "contrast_examples", (0,)),
        (["preferences", "--of", "questions"], "contrast_examples", (0,)),
        (["preferences", "--of", "inflections", "--seed", "6"], "wrong_inflection_examples", (6,)),
    ],
)
def test_each_name_has_its_set(arguments, function, given, tmp_path, capsys, monkeypatch):
    seen = []
    made = ExampleSet([{"a": "b"}], [{"c": "d"}], ["a note"])
    monkeypatch.setattr(module, function, lambda *some: seen.append(some) or made)
    status, output, error = call(capsys, *arguments, "--out", tmp_path / "x.jsonl")
    assert status == 0, error
    assert seen == [given]
    assert "a note" in output
    assert lines(tmp_path / "x.jsonl") == made.training
    assert lines(tmp_path / "x-held-out.jsonl") == made.held_out


def test_files_that_exist_are_refused_before_any_work(tmp_path, capsys, monkeypatch):
    made = ExampleSet([{"a": "b"}], [{"c": "d"}], [])
    seen = []
    monkeypatch.setattr(module, "question_examples", lambda seed: seen.append(seed) or made)
    for name in ("x.jsonl", "x-held-out.jsonl"):
        (tmp_path / name).write_text("old", encoding="utf-8")
        status, _, error = call(capsys, "questions", "--out", tmp_path / "x.jsonl")
        assert status == 1
        assert f"{name} exists already" in error
        assert (tmp_path / name).read_text(encoding="utf-8") == "old"
        (tmp_path / name).unlink()
    assert not seen
    (tmp_path / "x.jsonl").write_text("old", encoding="utf-8")
    assert call(capsys, "questions", "--out", tmp_path / "x.jsonl", "--force")[0] == 0
    assert lines(tmp_path / "x.jsonl") == made.training


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["questions", "--classes", "3"], 1, "--classes is for docstrings, not for questions"),
        (["docstrings", "--of", "inflections"], 1, "--of is for preferences, not for docstrings"),
        (["docstrings", "--classes", "1"], 2, "classes"),
        (["poems"], 2, "poems"),
        (["questions", "--held-out", "x.jsonl"], 1, "need a file of their own"),
        (["questions", "--out", "missing/x.jsonl"], 1, "the folder missing does not exist"),
    ],
)
def test_what_cannot_be_is_told(arguments, status, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = [] if "--out" in arguments else ["--out", "x.jsonl"]
    found, _, error = call(capsys, *arguments, *out)
    assert found == status
    assert message in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["inflections"], "pip install --no-deps lemminflect==0.2.3"),
        (["preferences", "--of", "inflections"], "pip install --no-deps lemminflect==0.2.3"),
        (["conversations"], "pip install --no-deps chatterbot-corpus==1.3.3 && pip install pyyaml"),
    ],
)
def test_a_missing_package_is_named_with_what_installs_it(arguments, remedy, tmp_path, capsys, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("tinygrad_llm.data.packages.distribution", missing)
    status, _, error = call(capsys, *arguments, "--out", tmp_path / "x.jsonl")
    assert status == 1
    assert remedy in error
    assert not list(tmp_path.iterdir())
