"""``tinygrad-llm tokenizer``, as a user gives it: results, limits, streams, and one clear line for each mistake."""

import io
import re
import sys

import pytest

from tinygrad_llm.cli.main import main
from tinygrad_llm.data.files import read_documents
from tinygrad_llm.tokenizer import Tokenizer

TEXT = "".join(f"def f{i}(x):\n    return x * {i}\n\n" for i in range(200))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def file(text):
    path = text.parent / "t.json"
    assert main(["tokenizer", "train", "--data", str(text), "--vocab-size", "280", "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def own(file):
    return Tokenizer.load(file)


def call(capsys, *arguments):
    """(status, standard output, standard error)"""
    capsys.readouterr()
    status = main(["tokenizer", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def give(monkeypatch, data):
    """Put bytes on standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def refused(result, *messages):
    status, _, error = result
    assert status == 1
    assert error.count("\n") == 1
    for message in messages:
        assert message in error


# ---- where the tokenizer is


def test_it_is_that_of_the_folder_run_unless_another_is_named(file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments in (["encode", "a"], ["decode", "1"], ["show", "a"], ["compression", file]):
        refused(call(capsys, *arguments), "run: ", "tinygrad-llm train", "tokenizer train", "--tokenizer PATH")
    (tmp_path / "run").mkdir()
    refused(call(capsys, "encode", "a"), "run: this folder has no tokenizer", "--tokenizer PATH")
    (tmp_path / "run" / "tokenizer.json").write_bytes(file.read_bytes())
    by_default = call(capsys, "encode", "def f(x)")
    assert by_default[0] == 0
    for path in (file, tmp_path / "run", tmp_path / "run" / "tokenizer.json"):
        assert call(capsys, "encode", "def f(x)", "--tokenizer", path) == by_default


def test_a_file_that_is_none_is_told_with_its_name(text, capsys):
    refused(call(capsys, "show", "a", "--tokenizer", text), "text.txt: ")


@pytest.mark.parametrize("command", ["train", "encode", "decode", "show", "compression"])
def test_help_ends_with_an_example(command, capsys):
    end = call(capsys, command, "--help")[1].rpartition("╯")[2]
    assert " ".join(end.split()).startswith(f"Example: tinygrad-llm tokenizer {command}")


# ---- encode and decode


def test_there_and_back(file, own, capsys, monkeypatch):
    written = "def f(x): é 😀\n"
    status, ids, error = call(capsys, "encode", written, "--tokenizer", file)
    assert (status, error) == (0, "")
    assert [int(word) for word in ids.split()] == own.encode(written).tolist()
    assert call(capsys, "decode", *ids.split(), "--tokenizer", file)[1] == written + "\n"
    give(monkeypatch, ids.encode())
    assert call(capsys, "decode", "--tokenizer", file)[1] == written + "\n"
    give(monkeypatch, written.encode())
    assert call(capsys, "encode", "--tokenizer", file)[1] == ids
    assert call(capsys, "encode", "", "--tokenizer", file)[:2] == (0, "\n")


def test_names_of_special_tokens_are_text_unless_asked(file, own, capsys):
    name = "<|endoftext|>"
    assert call(capsys, "encode", name, "--tokenizer", file)[1].split() == [str(i) for i in own.encode(name, (), ())]
    assert call(capsys, "encode", name, "--tokenizer", file, "--special")[1] == f"{own.separator_id}\n"


@pytest.mark.parametrize("command", ["encode", "show"])
def test_what_is_not_utf8_is_an_error_with_its_place_or_replaced(command, file, capsys, monkeypatch):
    data = "é".encode() + b"ab\xff\xfecd"
    give(monkeypatch, data)
    refused(call(capsys, command, "--tokenizer", file), "standard input: not UTF-8", "at byte 4", "--errors replace")
    for given in ("éab\udcff\udcfecd", "éab\ud800cd"):  # bytes of the command line; half a pair on Windows
        refused(call(capsys, command, given, "--tokenizer", file), "the text: not UTF-8", "at byte 4")
    expected = call(capsys, command, "éab\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}cd", "--tokenizer", file)
    give(monkeypatch, data)
    assert call(capsys, command, "--tokenizer", file, "--errors", "replace") == expected
    assert call(capsys, command, "a", "--errors", "ignore")[0] == 2


def test_ids_that_cannot_be_are_refused(file, own, capsys, monkeypatch):
    for number in (own.vocab_size, -1, 10**30):
        refused(call(capsys, "decode", "--tokenizer", file, "--", number), f"id {number} is not in this vocabulary")
    assert call(capsys, "decode", "--tokenizer", file, "one")[0] == 2
    for data, named in ((b"65 sixty\n", "'sixty'"), (b"\xff", r"'\\xff'"), (b"7" * 5000, "'7777"), (b"1.5", "'1.5'")):
        give(monkeypatch, data)
        refused(call(capsys, "decode", "--tokenizer", file), named, "is not a token id")
    give(monkeypatch, b"65 280000")
    refused(call(capsys, "decode", "--tokenizer", file), "id 280000 is not in this vocabulary")


class Drops:
    """A stream that gives its bytes a few at a time, and never all."""

    def __init__(self, data, size):
        self.pieces = [data[i : i + size] for i in range(0, len(data), size)]
        self.buffer = self

    def read1(self, size):
        return self.pieces.pop(0) if self.pieces else b""


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_decoding_takes_the_ids_as_they_come(size, file, own, capsys, monkeypatch):
    """No number is cut in two where a piece ends, and no character: it is printed when its last byte has come."""
    written = "naïve 😀 def f1(x)"
    ids = own.encode(written).tolist()
    for between in (" ", "\n", " \t\r\n "):
        monkeypatch.setattr(sys, "stdin", Drops(between.join(map(str, ids)).encode(), size))
        assert call(capsys, "decode", "--tokenizer", file)[1] == written + "\n"
    monkeypatch.setattr(sys, "stdin", Drops(b"9" * 100, size))
    refused(call(capsys, "decode", "--tokenizer", file), "is not a token id")


def test_half_a_character_at_the_end_is_replaced(file, own, capsys):
    first, _ = own.encode("é")
    assert call(capsys, "decode", first, "--tokenizer", file)[1] == "\N{REPLACEMENT CHARACTER}\n"


def test_nothing_decodes_to_nothing(file, capsys, monkeypatch):
    give(monkeypatch, b" \n")
    assert call(capsys, "decode", "--tokenizer", file)[:2] == (0, "\n")


# ---- show


def table(output):
    """id, bytes and text of the lines of the table."""
    begin = output.index("bytes  ")
    lines = output[begin:].split("\n\n")[0].splitlines()[1:]
    return [re.fullmatch(r" *(\d+)  ((?:[0-9a-f]{2} )*[0-9a-f]{2}) +(\S.*)", line).groups() for line in lines]


def test_show_lists_every_token_and_every_merge_in_order(capsys, tmp_path):
    path = tmp_path / "small.json"
    Tokenizer.train(["ab ab ab abc abc abcd"], 260, "gpt2", ()).save(path)
    small = Tokenizer.load(path)
    status, output, error = call(capsys, "show", "abcd abd\n", "--tokenizer", path)
    assert (status, error) == (0, "")
    lines = output.splitlines()
    assert lines[0].replace("│", "") == "abcd·abd⏎"
    assert lines[0].count("│") == len(small.encode("abcd abd\n")) - 1
    rows = table(output)
    assert [int(row[0]) for row in rows] == small.encode("abcd abd\n").tolist()
    assert b"".join(bytes.fromhex(row[1]) for row in rows) == b"abcd abd\n"
    assert "".join(row[2] for row in rows) == "abcd·abd⏎"
    first, second = (block.splitlines() for block in output.split("\n\n")[2:-1])
    assert first == ["abcd  3 tokens, 1 merge", "rank  merge  word", " " * 13 + "a b c d", "   0  a + b  ab c d"]
    assert second[:3] == ["·abd  2 tokens, 2 merges", "rank  merge   word", " " * 14 + "· a b d"]
    assert second[3:] == ["   0  a + b   · ab d", "   1  · + ab  ·ab d"]
    assert lines[-1] == f"{len(rows)} tokens, 9 bytes, {9 / len(rows):.2f} bytes per token"


def test_a_word_that_is_looked_up_says_so(own, file, tmp_path, capsys):
    path = tmp_path / "whole.json"
    vocabulary = own.vocabulary
    Tokenizer(vocabulary.tokens, own.merges, own.special_tokens, own.pattern, whole_words=True).save(path)
    _, output, _ = call(capsys, "show", "def  zz", "--tokenizer", path)
    assert "def  1 token: a word of the vocabulary is looked up, not merged\n" in output
    assert "rank" not in output
    assert "looked up" not in call(capsys, "show", "def", "--tokenizer", file)[1]


def test_special_tokens_are_shown_as_such_if_asked(file, own, capsys):
    _, output, _ = call(capsys, "show", "x<|endoftext|>def", "--tokenizer", file, "--special")
    assert re.search(rf"^ *{own.separator_id}  .*<\|endoftext\|>  special token$", output, re.MULTILINE)
    assert output.startswith("x│<|endoftext|>│def\n")
    assert "\n<|" not in output
    assert "special" not in call(capsys, "show", "x<|endoftext|>def", "--tokenizer", file)[1]


def test_nothing_on_the_terminal_is_changed_by_the_text(file, capsys):
    hostile = "\x1b[31m\x07\r\u202e\u200d\ufeff\u0301\u2028 a\tb\x00[bold]\ue000"
    _, output, _ = call(capsys, "show", hostile, "--tokenizer", file)
    assert all(char.isprintable() or char == "\n" for char in output)
    for visible in (r"\x1b", r"\x07", r"\r", r"\x00", "·", "⇥"):
        assert visible in output
    assert "[bold]" in output.replace("│", "")


def test_colour_takes_the_place_of_marks(file, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = call(capsys, "show", "def f(x) zz", "--tokenizer", file)[1]
    assert "│" not in coloured
    first = coloured.splitlines()[0]
    assert len(set(re.findall(r"\x1b\[30;(\d+)m", first))) == 4
    monkeypatch.setenv("NO_COLOR", "1")
    plain = call(capsys, "show", "def f(x) zz", "--tokenizer", file)[1]
    assert plain.splitlines()[0].count("│") == len(Tokenizer.load(file).encode("def f(x) zz")) - 1


def test_long_texts_and_words_are_cut_and_say_so(file, capsys, monkeypatch):
    words = " ".join(f"w{chr(97 + i)}" * 2 for i in range(20))
    give(monkeypatch, (words + " q" * 2500 + "z" * 300 + " " * 30 + "y" * 60).encode())
    _, output, _ = call(capsys, "show", "--tokenizer", file)
    for what in (r"[\d,]+ more tokens", r"\d+ more words"):
        assert re.search(rf"^\.\.\. {what}; --all shows them$", output, re.MULTILINE), what
    assert len(table(output.replace("\n... ", "\n\n... "))) == 40
    give(monkeypatch, (words + " q" * 2500).encode())
    _, every, _ = call(capsys, "show", "--tokenizer", file, "--all")
    assert "--all" not in every
    assert len(table(every)) == int(every.splitlines()[-1].split()[0].replace(",", "")) > 2500


def test_long_words_are_cut_and_say_so(text, tmp_path, capsys):
    path = tmp_path / "t.json"
    Tokenizer.train(["x" * 4], 259, "gpt2", ()).save(path)
    _, output, _ = call(capsys, "show", "x" * 200, "--tokenizer", path)
    assert "\nx" + "x" * 199 + "  50 tokens, 150 merges\n" in output
    assert "... 126 more merges; --all shows them\n" in output
    assert output.count(" + ") == 24
    assert call(capsys, "show", "x" * 200, "--tokenizer", path, "--all")[1].count(" + ") == 150
    _, output, _ = call(capsys, "show", "x" * 300, "--tokenizer", path)
    assert "... its merges: the word has 300 bytes; --all shows them\n" in output
    assert call(capsys, "show", "x" * 300, "--tokenizer", path, "--all")[1].count(" + ") == 225
    _, output, _ = call(capsys, "show", "x" * 20_000, "--tokenizer", path, "--all")
    assert "... its merges: the word has 20,000 bytes\n" in output


def test_long_tokens_are_cut_in_the_table(tmp_path, capsys):
    path = tmp_path / "t.json"
    Tokenizer.train(["x" * 64], 256 + 6, "gpt2", ()).save(path)
    _, output, _ = call(capsys, "show", "x" * 64, "--tokenizer", path)
    assert "78 " * 24 + "... 64 bytes  " + "x" * 24 + " ...\n" in output
    assert "78 " * 64 + " " + "x" * 64 + "\n" in call(capsys, "show", "x" * 64, "--tokenizer", path, "--all")[1]


def test_one_and_none(file, capsys):
    assert call(capsys, "show", "", "--tokenizer", file)[1] == "0 tokens, 0 bytes, 0.00 bytes per token\n"
    assert call(capsys, "show", "z", "--tokenizer", file)[1].endswith("\n\n1 token, 1 byte, 1.00 bytes per token\n")


def test_the_page_is_written_and_not_replaced_unasked(file, tmp_path, capsys):
    page = tmp_path / "page.html"
    arguments = ("show", "def f(x)", "--tokenizer", file, "--html", page)
    status, output, error = call(capsys, *arguments)
    assert (status, error) == (0, "")
    assert output == f"wrote {page}\nopen it in a browser: {page.as_uri()}\n"
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    page.write_text("mine", encoding="utf-8")
    refused(call(capsys, *arguments), "page.html exists already", "--force")
    assert page.read_text(encoding="utf-8") == "mine"
    assert call(capsys, *arguments, "--force")[0] == 0
    assert page.stat().st_size > 10_000
    refused(call(capsys, "show", "a", "--html", tmp_path / "no" / "page.html"), "does not exist")
    refused(call(capsys, "show", "", "--tokenizer", file, "--html", tmp_path / "empty.html"), "the text is empty")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


# ---- compression


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    (folder / "inner").mkdir(parents=True)
    (folder / "small.txt").write_text("def", encoding="utf-8")
    (folder / "inner" / "large.txt").write_text(TEXT[:1000] + "é\r\n", encoding="utf-8", newline="")
    (folder / "binary").write_bytes(b"\x89PNG\x00")
    (folder / "empty").write_bytes(b"")
    return folder


def rows_of(output):
    return [re.split(r" {2,}", line) for line in output.splitlines()]


def test_compression_counts_bytes_and_tokens_of_each_file(texts, file, own, capsys):
    status, output, error = call(capsys, "compression", texts, "--tokenizer", file)
    assert (status, error.count("\n")) == (0, 1)
    large, small = TEXT[:1000] + "é\n", "def"
    sizes = [(len(t.encode()), len(own.encode(t))) for t in (large, small)]
    sizes.append(tuple(map(sum, zip(*sizes, strict=True))))
    assert rows_of(output) == [
        ["file", "bytes", "tokens", "bytes/token"],
        *(
            [name, f"{size:,}", f"{tokens:,}", f"{size / tokens:.3f}"]
            for name, (size, tokens) in zip(("inner/large.txt", "small.txt", "all files"), sizes, strict=True)
        ),
        ["skipped: 1 binary, 1 empty"],
    ]


def test_compression_takes_several_files_folders_and_tokenizers(texts, file, own, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Tokenizer.train(["zzzz"], 258, "gpt2", ()).save("other.json")
    one = texts / "small.txt"
    status, output, _ = call(capsys, "compression", one, one, texts, "--tokenizer", file, "--tokenizer", "other.json")
    rows = rows_of(output)
    assert status == 0
    assert rows[0] == ["", str(file), "other.json"]
    assert rows[1] == ["file", "bytes", "tokens", "bytes/token", "tokens", "bytes/token"]
    names = [f"{texts}/inner/large.txt", str(one), f"{texts}/small.txt", "all files"]  # what is given twice, once
    assert [row[0] for row in rows[2:6]] == names
    assert rows[3][1:] == ["3", "1", "3.000", "3", "1.000"]


def test_compression_shows_the_largest_files_and_sums_the_rest(file, tmp_path, capsys):
    for size in range(1, 26):
        (tmp_path / f"{size}.txt").write_text("q" * size, encoding="utf-8")
    rows = rows_of(call(capsys, "compression", tmp_path, "--tokenizer", file)[1])
    assert [row[0] for row in rows] == [
        "file", *(f"{size}.txt" for size in range(25, 5, -1)), "... 5 smaller (--all shows them)", "all files"
    ]  # fmt: skip
    assert [row[1] for row in rows[-2:]] == ["15", "325"]
    every = rows_of(call(capsys, "compression", tmp_path, "--tokenizer", file, "--all")[1])
    assert [row[0] for row in every[1:]] == [*(f"{size}.txt" for size in range(25, 0, -1)), "all files"]


def test_compression_of_a_file_in_several_pieces(file, own, tmp_path, capsys):
    path = tmp_path / "long.txt"
    path.write_text("def f(x)\n\n" * 120_000, encoding="utf-8")  # more than data.files.PIECE
    pieces = [own.encode(document.text) for document in read_documents(path)]
    assert len(pieces) > 1
    rows = rows_of(call(capsys, "compression", path, "--tokenizer", file)[1])
    assert len(rows) == 2
    assert rows[1][:3] == [str(path), "1,200,000", f"{sum(map(len, pieces)):,}"]


def test_compression_is_drawn(texts, file, tmp_path, capsys):
    (texts / "名前$^$.txt").write_text("def", encoding="utf-8")
    picture = tmp_path / "rates.png"
    arguments = ("compression", texts, "--tokenizer", file, "--tokenizer", file, "--plot", picture)
    status, output, _ = call(capsys, *arguments)
    assert status == 0
    assert output.endswith(f"wrote {picture}\n")
    assert picture.read_bytes().startswith(b"\x89PNG")
    refused(call(capsys, *arguments), "rates.png exists already")
    assert call(capsys, *arguments, "--force")[0] == 0
    refused(call(capsys, *arguments[:-1], tmp_path / "rates.svg"), "ends in .png")


def test_texts_that_cannot_be_used_are_told(texts, file, tmp_path, capsys):
    (tmp_path / "latin").write_bytes("é".encode() + "caf\xe9".encode("latin-1"))
    for path, message in (
        (texts / "binary", "a zero byte at byte 4"),
        (texts / "empty", "empty"),
        (tmp_path / "latin", "at byte 5"),
        (tmp_path / "missing", "no such file or folder"),
    ):
        status, output, error = call(capsys, "compression", path, "--tokenizer", file)
        refused((status, output, error.removeprefix("encoding ...\n")), path.name, message)
        assert output == ""
    status, output, _ = call(capsys, "compression", tmp_path / "latin", "--tokenizer", file, "--errors", "replace")
    assert (status, rows_of(output)[1][1]) == (0, "8")  # é, caf and the replacement character
    assert call(capsys, "compression", "--tokenizer", file)[0] == 2
