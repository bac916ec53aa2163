"""What a corpus is made of, and the error for one that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass


class DataError(ValueError):
    """The user's text cannot be used; one line that names the file, the value and the remedy."""

    def __init__(self, message: str, kind: str = "unusable") -> None:
        super().__init__(printable(message))
        self.kind = kind  # one word, by which skipped files are counted


def printable(name: str) -> str:
    """The text with `\\udcff` spelled out for each byte of a file name that is not UTF-8: printing those would fail."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


@dataclass(frozen=True)
class Document:
    """A text with its name. A long one comes in several parts, numbered from 0, so that it need never be held whole.

    The name is the document's identity: parts of one name are one document, and documents of two names are two.
    """

    name: str
    text: str
    part: int = 0
