"""The user's files, good and bad."""

import codecs
import os
import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.data import DataError, Document, TextFiles, read_documents

texts = st.text(
    st.sampled_from("aé\U0001f600 \n\r") | st.characters(exclude_categories=("Cs",), exclude_characters="\0")
)


def normal(text):
    return text.replace("\r\n", "\n").replace("\r", "\n")


@given(text=texts, piece=st.integers(2, 12), mark=st.booleans())
def test_pieces_joined_are_the_text_whatever_their_size(tmp_path_factory, text, piece, mark):
    path = tmp_path_factory.mktemp("files") / "text.txt"
    path.write_bytes((codecs.BOM_UTF8 if mark else b"") + text.encode())
    expected = normal(text)
    if not mark and text.startswith("\ufeff"):
        expected = expected[1:]
    if not expected:
        with pytest.raises(DataError, match="is empty"):
            list(read_documents(path, piece=piece))
        return
    documents = list(read_documents(path, piece=piece))
    assert "".join(document.text for document in documents) == expected
    assert [document.part for document in documents] == list(range(len(documents)))
    assert {document.name for document in documents} == {"text.txt"}
    assert all(len(document.text) <= piece for document in documents)


def test_byte_order_mark_and_line_ends(tmp_path):
    path = tmp_path / "windows.txt"
    path.write_bytes(codecs.BOM_UTF8 + "eins\r\nzwei\rdrei\n\r\nfünf".encode())
    assert list(read_documents(path)) == [Document("windows.txt", "eins\nzwei\ndrei\n\nfünf")]


def test_pieces_end_after_an_empty_line_else_a_line_else_anywhere(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("12345\n\n89\nabcdefghijklmnopqrstuvwxyz", encoding="utf-8")
    assert [document.text for document in read_documents(path, piece=10)] == [
        "12345\n\n",
        "89\nabcdefg",
        "hijklmnopq",
        "rstuvwxyz",
    ]
    path.write_text("123456\n89abc", encoding="utf-8")
    assert [document.text for document in read_documents(path, piece=10)] == ["123456\n", "89abc"]


@pytest.mark.parametrize("line", [b"one line without an end ", b"lines\n", "zwölf ".encode()])
def test_a_long_file_is_never_held_whole(tmp_path, line):
    path = tmp_path / "long.txt"
    path.write_bytes(line * (8_000_000 // len(line)))
    tracemalloc.start()
    size = sum(len(document.text.encode()) for document in read_documents(path, piece=100_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == path.stat().st_size
    assert peak < 2_000_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "this file is empty"),
        (codecs.BOM_UTF8, "this file is empty"),
        (b"text\0more", "a zero byte at byte 4"),
        (codecs.BOM_UTF8 + b"ab\0", "a zero byte at byte 5"),
        ("text".encode("utf-16"), "seems to be UTF-16"),
        (b"caf\xe9 au lait", "not UTF-8 text: .* at byte 3"),
        (codecs.BOM_UTF8 + b"caf\xe9 au lait", "not UTF-8 text: .* at byte 6"),
        (b"1234567\xc3\xa9890123456\xc3", "not UTF-8 text: unexpected end of data at byte 18"),
        (b"1234567\xc3x", "not UTF-8 text: .* at byte 7"),
        (b"123456789012345\0", "a zero byte at byte 15"),
    ],
)
def test_a_file_that_is_no_text_says_where(tmp_path, content, message):
    path = tmp_path / "file.txt"
    path.write_bytes(content)
    for piece in (8, 1_000_000):
        with pytest.raises(DataError, match=rf"file\.txt: .*{message}") as caught:
            list(read_documents(path, piece=piece))
        assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.txt: no such file or folder"):
        list(read_documents(tmp_path / "absent.txt"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe: neither a file nor a folder"):
        list(read_documents(tmp_path / "pipe"))
    reading, writing = os.pipe()
    try:
        with pytest.raises(DataError, match="neither a file nor a folder"):
            list(read_documents(f"/dev/fd/{reading}"))
    finally:
        os.close(reading)
        os.close(writing)


def test_a_file_name_that_is_not_utf8_can_be_printed(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.txt")
    try:
        path.write_text("text", encoding="utf-8")
    except (OSError, UnicodeError):
        pytest.skip("this file system takes only UTF-8 names")
    for source in (path, tmp_path):
        assert list(read_documents(source)) == [Document(r"caf\udce9.txt", "text")]
    path.write_bytes(b"\0")
    with pytest.raises(DataError) as caught:
        list(read_documents(path))
    assert r"caf\udce9.txt: not a text file" in str(caught.value).encode("utf-8").decode("utf-8")


def unreadable(path):
    path.chmod(0)
    if sys.platform == "win32" or os.access(path, os.R_OK):
        pytest.skip("this user may read every file")


def test_a_file_without_permission_is_named(tmp_path):
    path = tmp_path / "secret.txt"
    path.write_text("text", encoding="utf-8")
    unreadable(path)
    with pytest.raises(DataError, match=r"secret\.txt: cannot read this file: .*ermission"):
        list(read_documents(path))


def test_an_error_while_reading_is_named(tmp_path, monkeypatch):
    path = tmp_path / "secret.txt"
    path.write_text("text", encoding="utf-8")

    def fail(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", fail)
    with pytest.raises(DataError, match=r"secret\.txt: cannot read this file: Permission denied"):
        list(read_documents(path))


def test_a_folder_is_read_in_order_and_what_is_skipped_is_counted(tmp_path):
    for name, content in {
        "b.txt": b"two",
        "a/z.md": b"one, deep",
        "c": b"three",
        "picture.png": b"\x89PNG\0\0",
        "latin.txt": b"caf\xe9",
        "empty.txt": b"",
        ".hidden": b"no",
        ".git/config": b"no",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    files = TextFiles(tmp_path)
    for _ in range(2):  # it can be read again, and counts anew
        assert [(document.name, document.text) for document in files] == [
            ("b.txt", "two"),
            ("c", "three"),
            ("a/z.md", "one, deep"),
        ]
        assert files.skipped == {"binary": 2, "empty": 1, "hidden": 1}


def test_the_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    for name in ("b", "a", "y/d", "y/c", "x/e"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    walk = os.walk

    def backwards(*args, **options):
        for root, folders, files in walk(*args, **options):
            folders.sort(reverse=True)
            files.sort(reverse=True)
            yield root, folders, files

    monkeypatch.setattr("os.walk", backwards)
    assert [document.name for document in read_documents(tmp_path)] == ["a", "b", "x/e", "y/c", "y/d"]


def test_a_folder_without_text_says_what_is_in_it(tmp_path):
    with pytest.raises(DataError, match="no text file in this folder \\(no files at all\\)"):
        list(read_documents(tmp_path))
    (tmp_path / "picture.png").write_bytes(b"\0")
    (tmp_path / ".hidden").write_bytes(b"text")
    with pytest.raises(DataError, match="no text file in this folder \\(1 binary, 1 hidden\\)"):
        list(read_documents(tmp_path))


def test_bytes_that_are_not_utf8_may_be_replaced(tmp_path):
    content = "é".encode() * 3 + b"\xff" + "é\r\nx".encode() + b"\xc3"
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "b.txt").write_bytes(b"a\0")
    for piece in (1, 2, 3, 100):
        texts = [document.text for document in read_documents(tmp_path / "a.txt", None, piece, "replace")]
        assert "".join(texts) == "ééé\ufffdé\nx\ufffd"
    with pytest.raises(DataError, match="invalid start byte at byte 6"):
        list(TextFiles(tmp_path / "a.txt"))
    files = TextFiles(tmp_path, errors="replace")
    assert [document.name for document in files] == ["a.txt"]
    assert files.skipped == {"binary": 1}  # a zero byte is no text


def test_the_size_is_that_of_all_files_that_are_not_hidden(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.txt").write_text("123", encoding="utf-8")
    (tmp_path / "b.txt").write_text("é", encoding="utf-8")
    (tmp_path / ".c").write_text("hidden", encoding="utf-8")
    assert TextFiles(tmp_path).size() == 5
    assert TextFiles(tmp_path / "b.txt").size() == 2
