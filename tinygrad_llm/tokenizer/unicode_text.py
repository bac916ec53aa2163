"""The one thing a Python string may hold that text may not: half of a surrogate pair."""

from __future__ import annotations


def check_text(text: str) -> int:
    """The text's size in UTF-8 bytes. Raises ValueError, with the position, for a lone surrogate: it has no bytes."""
    try:
        return len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise ValueError(
            f"text has a lone surrogate U+{code:04X} at position {error.start}, which is no character; "
            'replace it first: text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")'
        ) from None
