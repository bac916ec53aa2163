"""The user's own text: a file or a folder, read in pieces of about a million characters."""

from __future__ import annotations

import codecs
import io
import os
from collections import Counter
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Literal

from tinygrad_llm.data.document import DataError, Document, printable

Errors = Literal["strict", "replace"]
"""What is done with bytes that are not UTF-8."""

PIECE = 1_000_000  # characters; a text is never held in more than about twice this


class TextFiles:
    """The documents of a file or folder, read anew from the disk each time they are iterated.

    After a whole iteration `skipped` says how many files of the folder were left out, and why: "hidden", "binary" (not
    UTF-8 text), "empty", "unreadable".
    """

    def __init__(self, path: str | PathLike[str], piece: int = PIECE, errors: Errors = "strict") -> None:
        self.path = _found(Path(path))
        self.piece = piece
        self.errors: Errors = errors
        self.skipped: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Document]:
        skipped: Counter[str] = Counter()
        yield from read_documents(self.path, skipped, self.piece, self.errors)
        self.skipped = skipped  # of a whole iteration; one that is broken off has not seen all files

    def size(self) -> int:
        """The bytes of all files together, those that will be skipped among them: to show progress by."""
        files = _files_below(self.path, Counter()) if self.path.is_dir() else [self.path]
        return sum(file.stat().st_size for file in files if file.is_file())


def _found(path: Path) -> Path:
    """`path`; DataError if nothing is there."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    return path


def read_documents(
    path: str | PathLike[str],
    skipped: Counter[str] | None = None,
    piece: int = PIECE,
    errors: Errors = "strict",
) -> Iterator[Document]:
    """The text of a file, or of all text files below a folder in the order of their names.

    UTF-8, with or without byte-order mark; line ends become "\\n". A file longer than `piece` characters comes in
    parts, cut after an empty line where there is one, else after a line, else between two characters.
    In a folder, files that are hidden, empty, unreadable or binary (by their first piece) are skipped and counted in
    `skipped`. Raises DataError if nothing is left, and for a single file that is missing, empty, unreadable or binary.
    With `errors` "replace", bytes that are not UTF-8 become U+FFFD and are no reason to refuse a file; a zero byte is.
    """
    path = _found(Path(path))
    skipped = Counter() if skipped is None else skipped
    if not path.is_dir():
        if not path.is_file():  # a pipe can be read only once, and may block for ever
            raise DataError(
                f"{path}: neither a file nor a folder, but a pipe or a device; write its text into a file first"
            )
        yield from _read_file(path, printable(path.name), piece, errors)
        return
    found = False
    for file in _files_below(path, skipped):
        pieces = _read_file(file, printable(file.relative_to(path).as_posix()), piece, errors)
        try:
            first = next(pieces)
        except DataError as error:
            skipped[error.kind] += 1
            continue
        found = True
        yield first
        yield from pieces
    if not found:
        why = ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items())) or "no files at all"
        raise DataError(f"{path}: no text file in this folder ({why}); it takes UTF-8 text files of any name")


def _files_below(folder: Path, skipped: Counter[str]) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot list this folder: {error.strerror or error}")

    for root, folders, files in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.startswith("."):
                skipped["hidden"] += 1
            elif (Path(root) / name).is_file():  # not a pipe or a device, which would block
                yield Path(root) / name


def _read_file(path: Path, name: str, piece: int, errors: Errors) -> Iterator[Document]:
    text, part = "", 0
    for decoded in _decoded(path, piece, errors):
        text += decoded
        while len(text) >= piece:
            cut = _cut(text, piece)
            yield Document(name, text[:cut], part)
            text, part = text[cut:], part + 1
    if text:
        yield Document(name, text, part)
    elif part == 0:
        raise DataError(f"{path}: this file is empty", "empty")


def _cut(text: str, piece: int) -> int:
    """Where to cut: a paragraph's end in the second half of the piece, else a line's end, else anywhere."""
    for border in ("\n\n", "\n"):
        at = text.rfind(border, piece // 2, piece)
        if at >= 0:
            return at + len(border)
    return piece


def _decoded(path: Path, size: int, errors: Errors) -> Iterator[str]:
    """The file's text in short pieces, with line ends "\\n". Raises DataError that says where it is no text."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    line_ends = io.IncrementalNewlineDecoder(
        None, translate=True
    )  # keeps a "\r" back until the next character is known
    done = 0  # bytes decoded so far
    try:
        with open(path, "rb") as file:
            if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8:
                done = len(codecs.BOM_UTF8)
            file.seek(done)
            while True:
                data = file.read(size)
                if (zero := data.find(0)) >= 0:
                    raise DataError(
                        f"{path}: not a text file: a zero byte at byte {done + zero}{_hint(data)}", "binary"
                    )
                kept = len(decoder.getstate()[0])  # of a character begun in the piece before
                try:
                    yield line_ends.decode(decoder.decode(data, final=not data), final=not data)
                except UnicodeDecodeError as error:
                    at = done - kept + error.start
                    message = f"{path}: not UTF-8 text: {error.reason} at byte {at}; convert it to UTF-8 first"
                    raise DataError(message, "binary") from None
                if not data:
                    return
                done += len(data)
    except OSError as error:
        raise DataError(f"{path}: cannot read this file: {error.strerror or error}", "unreadable") from None


def _hint(data: bytes) -> str:
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return "; it seems to be UTF-16: convert it to UTF-8 first" if utf16 else ""
