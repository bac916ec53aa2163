"""``tinygrad-llm explore`` as a user gives it."""

import re

from tinygrad_llm.cli.main import main


def call(capsys, *arguments):
    """(status, standard output, standard error); whether kernels had to be compiled first does not count."""
    status = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out, re.sub("compiling kernels .*\n", "", captured.err)


def test_it_writes_a_page_and_says_so(tmp_path, capsys):
    file = tmp_path / "step.html"
    status, output, error = call(capsys, "explore", "--out", file)
    assert (status, error) == (0, "")
    text = file.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "One training step of a tiny GPT" in text
    assert f"wrote {file}: 25 operations, 28 leaves, {file.stat().st_size / 1e6:.1f} MB\n" in output
    assert file.as_uri() in output


def test_it_is_called_explorer_html_by_default_and_is_not_replaced_unasked(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "explorer.html").write_text("mine", encoding="utf-8")
    status, output, error = call(capsys, "explore")
    assert (status, output) == (1, "")
    assert "explorer.html exists already" in error
    assert error.count("\n") == 1
    assert (tmp_path / "explorer.html").read_text(encoding="utf-8") == "mine"
    assert call(capsys, "explore", "--force")[0] == 0
    assert (tmp_path / "explorer.html").stat().st_size > 100_000
    assert [p.name for p in tmp_path.iterdir()] == ["explorer.html"]


def test_a_missing_folder_and_a_folder_are_refused(tmp_path, capsys):
    for path, message in ((tmp_path / "no" / "x.html", "does not exist"), (tmp_path, "is a folder")):
        status, output, error = call(capsys, "explore", "--out", path)
        assert (status, output) == (1, "")
        assert message in error
        assert error.count("\n") == 1


def test_wrong_usage_is_status_2(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(capsys, "explore", "--ouut", "x.html")[0] == 2
    assert not list(tmp_path.iterdir())


def test_help_ends_with_an_example(capsys):
    end = call(capsys, "explore", "--help")[1].rpartition("╯")[2]
    assert " ".join(end.split()).startswith("Example: tinygrad-llm explore")
