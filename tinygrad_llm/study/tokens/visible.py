"""Bytes so that one can see all of them: white space has signs, what has no picture of its own is spelled out."""

from __future__ import annotations

import unicodedata
from typing import Literal, NamedTuple

SPACE, LINE_FEED, TAB = "·", "⏎", "⇥"
_SIGNS = {" ": SPACE, "\n": LINE_FEED, "\t": TAB}
_CIRCLE = "◌"  # carries an accent that stands without its letter


class Piece(NamedTuple):
    """A part of a token as it is shown: the text itself, a sign for white space, or an escape as in Python."""

    kind: Literal["text", "sign", "escape"]
    shown: str


def pieces(data: bytes) -> list[Piece]:
    """A token's bytes as pieces of one kind each; bytes that are no whole character are ``\\xc3``.

    Control characters, marks of direction, joiners and all that Python calls not printable are escapes, so a text
    cannot change how the rest of a line looks.
    """
    found: list[Piece] = []
    for char in data.decode("utf-8", "surrogateescape"):  # a byte that is no character becomes U+DC80 + byte
        piece = _piece(char, alone=not found or found[-1].kind != "text")
        if found and found[-1].kind == piece.kind:
            piece = Piece(piece.kind, found.pop().shown + piece.shown)
        found.append(piece)
    return found


def _piece(char: str, alone: bool) -> Piece:
    if char in _SIGNS:
        return Piece("sign", _SIGNS[char])
    if 0xDC80 <= ord(char) <= 0xDCFF:
        return Piece("escape", f"\\x{ord(char) - 0xDC00:02x}")
    if not char.isprintable():
        return Piece("escape", repr(char)[1:-1])
    accent = alone and unicodedata.category(char).startswith("M")
    return Piece("text", _CIRCLE + char if accent else char)


def shown(data: bytes) -> str:
    """The pieces as one text."""
    return "".join(piece.shown for piece in pieces(data))


def printed(name: str) -> str:
    """A name, as of a file, on one line: what is not printable is an escape."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in name)
