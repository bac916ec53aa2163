"""``tinygrad-llm tokenizer train``: what it prints, what it refuses, and what an interrupt leaves."""

import pytest

from tinygrad_llm.cli.main import main
from tinygrad_llm.tokenizer import Tokenizer, bpe

TEXT = "aaaa " + "ab ab cab " * 10 + "caf\u00e9 " * 2


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def train(capsys, *arguments):
    """(status, standard output, standard error)"""
    capsys.readouterr()
    status = main(["tokenizer", "train", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_explain_prints_the_merges_as_they_were_learned(text, tmp_path, capsys):
    out = tmp_path / "t.json"
    given = "--data", text, "--vocab-size", "262", "--pattern", "gpt2", "--out", out
    status, shown, _ = train(capsys, *given, "--explain")
    assert status == 0
    table = [line.split("  ") for line in shown.splitlines() if line[:4].strip().isdigit()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in table]
    assert cells == [
        ["0", "a + b", "ab", "30", f"{30 / 117:.2%}", f"{117 / 87:.3f}"],
        ["1", "· + ab", "·ab", "20", f"{20 / 87:.2%}", f"{117 / 67:.3f}"],
        ["2", "· + c", "·c", "12", f"{12 / 67:.2%}", f"{117 / 55:.3f}"],
        ["3", "·c + ab", "·cab", "10", f"{10 / 55:.2%}", f"{117 / 45:.3f}"],
        ["4", "a + a", "aa", "3", f"{2 / 45:.2%}", f"{117 / 43:.3f}"],
    ]
    assert "rank  merge" in shown
    assert "more merges" not in shown
    status, shown, _ = train(capsys, *given, "--explain", "2")
    assert "·ab" in shown
    assert "·cab" not in shown
    assert "... 3 more merges; --explain 5 shows them" in shown
    assert "rank" not in train(capsys, *given)[1]
    assert Tokenizer.load(out).vocab_size == 262


def test_a_pair_must_stand_in_the_text_as_often_as_asked_for(text, tmp_path, capsys):
    out = tmp_path / "t.json"
    status, shown, _ = train(capsys, "--data", text, "--pattern", "gpt2", "--min-count", "10", "--out", out)
    assert status == 0
    assert "no more pairs to merge that stand in it 10 times: 261 tokens, not 4096" in shown
    assert Tokenizer.load(out).vocab_size == 261


def test_bytes_that_are_not_utf8_are_an_error_or_replaced(tmp_path, capsys):
    path, out = tmp_path / "bad.txt", tmp_path / "t.json"
    path.write_bytes(b"abc \xff abc")
    status, _, error = train(capsys, "--data", path, "--out", out)
    assert status == 1
    assert "bad.txt: not UTF-8 text: invalid start byte at byte 4; convert it to UTF-8 first, or" in error
    assert "--errors replace" in error
    assert not out.exists()
    assert train(capsys, "--data", path, "--errors", "replace", "--out", out)[0] == 0
    assert b" \xef\xbf\xbd" in Tokenizer.load(out).vocabulary.tokens


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--data", "{folder}/empty.txt"], 1, "empty.txt: this file is empty"),
        (["--data", "{folder}/absent.txt"], 1, "absent.txt: no such file or folder"),
        (["--vocab-size", "256"], 1, "--vocab-size 256: must be at least 257"),
        (["--min-count", "0"], 1, "--min-count 0: must be at least 1"),
        (["--explain", "0"], 1, "--explain 0: must be at least 1"),
        (["--explain", "-1"], 1, "--explain -1: must be at least 1"),
        (["--explain", "1", "2"], 2, "at most 1 element"),
        (["--explain", "few"], 2, "few"),
        (["--errors", "ignore"], 2, "ignore"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, status, message, tmp_path, capsys):
    (tmp_path / "empty.txt").touch()
    out = tmp_path / "t.json"
    told = train(capsys, *(a.format(folder=tmp_path) for a in arguments), "--out", out)
    assert (told[0], told[2].count("\n")) == (status, 1)
    assert message in told[2]
    assert not out.exists()


@pytest.mark.parametrize("when", ["count_words", "learn_merges"])
def test_an_interrupt_leaves_the_file_as_it_was(when, text, tmp_path, capsys, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(bpe, when, interrupted)
    old = tmp_path / "old.json"
    old.write_text("old", encoding="utf-8")
    for out in (old, tmp_path / "new.json"):
        with pytest.raises(KeyboardInterrupt):
            main(["tokenizer", "train", "--data", str(text), "--out", str(out)])
    assert old.read_text(encoding="utf-8") == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.json", "text.txt"]
