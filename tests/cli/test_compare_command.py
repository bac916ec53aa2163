"""``tinygrad-llm compare`` as a user gives it."""

import pytest

from tinygrad_llm.cli import compare as command
from tinygrad_llm.cli.main import main
from tinygrad_llm.study.architectures.results import Comparison
from tinygrad_llm.study.architectures.settings import Settings
from tinygrad_llm.training import loop


@pytest.fixture(scope="module", autouse=True)
def no_plots_of_each_training():
    """They are tested elsewhere, and take most of the time of a training as short as these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "plot_loss", lambda *arguments: None)
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"Line {i} says that {i} times {i} is {i * i}.\n" for i in range(400)), encoding="utf-8")
    return path


def call(capsys, *arguments):
    status = main(["compare", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_table_a_picture_and_a_file(capsys, text, tmp_path):
    out, json, picture = tmp_path / "out", tmp_path / "x.json", tmp_path / "x.png"
    chosen = ["gru", "gpt", "--quick", "--data", text, "--out", out]
    status, output, error = call(capsys, *chosen, "--json", json, "--plot", picture)
    assert status == 0
    for part in ("loss at equal parameters", "microseconds a token", f"wrote {json}", f"wrote {picture}"):
        assert part in output
    assert "1 of 2: training gru" in error
    assert picture.read_bytes().startswith(b"\x89PNG")
    found = Comparison.load(json)
    assert found.models == ("gru", "gpt")
    assert found.settings == Settings.of(True, models=("gru", "gpt"), data=str(text))
    assert not (out / "comparison.json").exists()

    status, output, error = call(capsys, *chosen)  # all is trained: only the two files are new
    assert status == 0
    assert "training gru" not in error
    assert Comparison.load(out / "comparison.json").curves == found.curves
    assert (out / "comparison.png").exists()
    status, output, error = call(capsys, *chosen)
    assert (status, output) == (1, "")
    assert error.endswith("comparison.json exists already; choose another name, or replace it with --force\n")
    status, output, error = call(capsys, *chosen, "--steps", 12, "--force")
    assert (status, output) == (1, "")
    assert "a run with other settings; choose another --out, or remove it" in error


def test_the_options_are_used(capsys, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(command, "run_comparison", lambda settings, out, console: seen.append((settings, out)) or 130)
    options = ["--steps", 20, "--context", 24, "--channels", 48, "--layers", 3, "--seed", 5]
    assert call(capsys, "rnn", "gpt", "rnn", *options, "--out", tmp_path / "x")[0] == 130
    assert call(capsys, "--out", tmp_path / "x")[0] == 130
    sizes = {"steps": 20, "context": 24, "channels": 48, "layers": 3, "seed": 5}
    assert seen == [(Settings(models=("rnn", "gpt"), **sizes), tmp_path / "x"), (Settings(), tmp_path / "x")]
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mamba"], "mamba"),
        (["--steps", "0"], "Must be >= 1"),
        (["--context", "1"], "Must be >= 2"),
        (["--stepps", "3"], "--stepps"),
    ],
)
def test_wrong_usage_is_status_2(capsys, arguments, message):
    status, output, error = call(capsys, *arguments)
    assert (status, output) == (2, "")
    assert message in error
    assert error.count("\n") == 1


def test_what_cannot_be_done_is_status_1_and_leaves_nothing(capsys, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"old")
    cases = [
        (["--out", file], "is a file; --out needs a folder"),
        (["--out", tmp_path / "x", "--json", file], "exists already"),
        (["--out", tmp_path / "x", "--plot", tmp_path / "x.jpg"], "give a name that ends in .png"),
        (["--out", tmp_path / "x", "--data", tmp_path / "none.txt"], "none.txt"),
        (["--out", tmp_path / "x", "--steps", 3], "--steps 3: must be at least 16"),
    ]
    for arguments, message in cases:
        status, output, error = call(capsys, *arguments)
        assert (status, output) == (1, "")
        assert message in error
        assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert file.read_bytes() == b"old"


def test_help_ends_with_an_example(capsys):
    assert main(["compare", "--help"]) == 0
    assert "tinygrad-llm compare gpt lstm --quick --out small" in capsys.readouterr().out
