"""``tinygrad-llm ladder`` as a user gives it."""

import pytest

from tinygrad_llm.cli.arguments import parse_shape
from tinygrad_llm.cli.main import main
from tinygrad_llm.study.machine import Machine
from tinygrad_llm.study.rungs import measuring as rungs


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    monkeypatch.setattr(rungs, "measure_machine", lambda seconds: Machine(1e9, 1e9, 1, "test"))


def call(capsys, *arguments):
    status = main(["ladder", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_table_and_a_picture(capsys, tmp_path):
    path = tmp_path / "ladder.png"
    status, output, error = call(capsys, "softmax", "--shape", "3,4", "--repeats", 2, "--plot", path)
    assert status == 0
    assert output.startswith("softmax(x (3, 4), axis=-1)")
    for part in ("composed", "dense Jacobian", "closed form", "medians of 2 alternating", f"wrote {path}"):
        assert part in output
    assert error == "measuring softmax ...\n"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_seed_is_used(capsys):
    def errors(seed):
        _, output, _ = call(capsys, "softmax", "--shape", "30,40", "--repeats", 1, "--seed", seed)
        return [line.split() for line in output.splitlines() if line.strip().startswith("error")]

    assert errors(1) == errors(1) != errors(2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["softmx"], "unknown operation 'softmx'; did you mean softmax"),
        (["softmax", "--shape", "3,x"], "a shape is whole numbers with commas between, as in 2,3; not '3,x'"),
        (["softmax", "--shape=-3,2"], "a shape is whole numbers"),
        (["softmax", "--repeats", "0"], "Must be >= 1"),
        (["softmax", "--steps", "3"], "--steps"),
        ([], "requires an argument"),
    ],
)
def test_wrong_usage_is_status_2(capsys, arguments, message):
    status, output, error = call(capsys, *arguments)
    assert (status, output) == (2, "")
    assert message in error
    assert error.count("\n") == 1


def test_what_cannot_be_done_is_status_1(capsys, tmp_path):
    path = tmp_path / "old.png"
    path.write_bytes(b"old")
    cases = [
        (["softmax", "--plot", path], "exists already; choose another name, or replace it with --force"),
        (["softmax", "--plot", tmp_path / "no" / "x.png"], "does not exist"),
        (["softmax", "--plot", tmp_path / "x.jpg"], "give a name that ends in .png"),
        (["attention", "--shape", "3,4"], "attention: the shape (3, 4) does not fit"),
        (["softmax", "--shape", "100000000,100000000"], "choose a smaller --shape"),
    ]
    for arguments, message in cases:
        status, output, error = call(capsys, *arguments)
        assert (status, output) == (1, "")
        assert message in error
        assert error.count("\n") == 1
    assert path.read_bytes() == b"old"
    assert call(capsys, "exp", "--shape", "2", "--repeats", 1, "--plot", path, "--force")[0] == 0
    assert path.read_bytes() != b"old"


def test_help_ends_with_an_example(capsys):
    assert main(["ladder", "--help"]) == 0
    assert "tinygrad-llm ladder softmax --plot softmax.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "shape"), [("", None), ("5", (5,)), ("2,3", (2, 3)), (" 2, 3 ", (2, 3)), ("(4,)", (4,)), ("0,1", (0, 1))]
)
def test_shapes_are_read(text, shape):
    assert parse_shape(text) == shape


@pytest.mark.parametrize("text", [",", "2,,3", "2x3", "1.5", "-1", "()"])
def test_other_text_is_no_shape(text):
    with pytest.raises(ValueError, match="a shape is whole numbers"):
        parse_shape(text)
