"""``tinygrad-llm exercise`` as a user gives it."""

import os
import re

import pytest

from tinygrad_llm.cli.main import main
from tinygrad_llm.study.exercises import course as exercises
from tinygrad_llm.study.exercises.trial import outcome_of


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """Run a command in an empty folder: (status, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = main(["exercise", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def here(monkeypatch):
    """Attempts are tried in this process, which is faster."""
    monkeypatch.setattr(exercises, "try_out", lambda o, path, hint=False, limit=0.0: outcome_of(o, path, hint))


def test_from_the_blank_to_the_next_exercise(call, tmp_path):
    status, output, _ = call("mul")
    assert status == 0
    assert "tinygrad-llm exercise check exercises/mul.py" in output.replace("\\", "/")
    file = tmp_path / "exercises" / "mul.py"
    status, output, _ = call("check", file)
    assert status == 1
    assert re.fullmatch(r"mul: not written yet: mul\.py, line \d+, in vjp; start with --hint\n", output)
    file.write_text(
        file.read_text(encoding="utf-8").replace('raise NotImplementedError("write the vjp")', "return dy * y, dy * x"),
        encoding="utf-8",
    )
    status, output, _ = call("check", file)
    assert (status, output) == (
        0,
        "mul: passed. gx and gy are right in 2 random draws.\nNext on the path: tinygrad-llm exercise div\n",
    )
    assert re.search(r"mul +done ", call()[1])


def test_hints_and_the_answer(call, here):
    call("sqrt")
    status, output, _ = call("check", "exercises/sqrt.py", "--hint")
    assert status == 0
    assert output.startswith("dx of sqrt, step 1 of 3:\n")
    status, output, _ = call("check", "exercises/sqrt.py", "--reveal")
    assert (status, output) == (0, "def vjp(dy):\n    return 0.5 * dy / y\n")
    assert re.search(r"sqrt +revealed ", call("--list")[1])


def test_an_operation_s_name_stands_for_its_exercise(call, here, tmp_path):
    assert call("check", "mul")[2].endswith(
        "mul.py does not exist; write an exercise first, as with: tinygrad-llm exercise mul\n"
    )
    call("mul")
    assert call("check", "mul")[1].startswith("mul: not written yet: mul.py, line ")
    assert call("check", "mul", "--reveal")[1].startswith("def vjp(dy)")
    (tmp_path / "mul").write_text("a file of that name", encoding="utf-8")
    assert "mul is not an exercise" in call("check", "mul")[2]


def test_a_folder_of_one_s_own(call, tmp_path):
    call("add", "--dir", "a b")
    assert (tmp_path / "a b" / "add.py").is_file()
    assert call("sub", "--dir", "a b")[1].endswith('exercise check "a b/sub.py"\n'.replace("/", os.sep))
    last = call("--list", "--dir", "a b")[1].splitlines()[-1]
    assert re.fullmatch(r'0 of \d+ done. Next: tinygrad-llm exercise add --dir "a b"', last)


def test_work_is_kept_unless_forced(call, tmp_path):
    call("add")
    file = tmp_path / "exercises" / "add.py"
    file.write_text("mine", encoding="utf-8")
    status, _, error = call("add")
    assert status == 1
    assert "add.py exists already" in error
    assert file.read_text(encoding="utf-8") == "mine"
    assert call("add", "--force")[0] == 0
    assert file.read_text(encoding="utf-8") != "mine"


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["sofmax"], 2, "did you mean softmax"),
        (["add", "--fast"], 2, "--fast"),
        (["check"], 2, "--file requires an argument"),
        (["check", "nothing.py"], 1, "nothing.py does not exist; write an exercise first"),
        (["check", "."], 1, "is a folder; give the file of one exercise"),
        (["check", "a.py"], 1, "a.py is not an exercise"),
        (["check", "a.py", "--reveal"], 1, "a.py is not an exercise"),
        (["add", "--dir", "a.py"], 1, "a.py is a file; --dir needs a folder"),
        (["--list", "--dir", "bad"], 1, "does not hold the progress of exercises"),
    ],
)
def test_mistakes_are_one_line(arguments, status, told, call, tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n", encoding="utf-8")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "progress.json").write_text("{", encoding="utf-8")
    found, output, error = call(*arguments)
    assert (found, output) == (status, "")
    assert told in error
    assert error.count("\n") == 1


def test_help_ends_with_an_example(call):
    for arguments, example in ((["--help"], "exercise softmax"), (["check", "--help"], "exercises/softmax.py --hint")):
        assert call(*arguments)[1].rstrip().endswith(example)
