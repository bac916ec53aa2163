"""The 256 bytes as 256 printable characters, as GPT-2's vocabulary files write them.

A vocabulary file is JSON text, and most byte sequences are not valid text. So each byte gets a visible character:
printable Latin-1 characters stand for themselves, the other 68 bytes get the characters from U+0100 upwards, in order.
A space becomes "Ġ" (U+0120), a line feed "Ċ" (U+010A).
"""

from __future__ import annotations


def _byte_characters() -> list[str]:
    shown = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    characters, spare = [], 0x100
    for byte in range(256):
        if byte in shown:
            characters.append(chr(byte))
        else:
            characters.append(chr(spare))
            spare += 1
    return characters


CHARACTER_OF_BYTE: list[str] = _byte_characters()
BYTE_OF_CHARACTER: dict[str, int] = {character: byte for byte, character in enumerate(CHARACTER_OF_BYTE)}

# The order in which single bytes get their ids: by their character's code point, so "!" (0x21) comes first.
# This is the order of GPT-2's vocabulary and of Hugging Face's trainer; ties between merges depend on it.
BYTE_ORDER: list[int] = [BYTE_OF_CHARACTER[character] for character in sorted(CHARACTER_OF_BYTE)]


def to_characters(token: bytes) -> str:
    """The token as it stands in a vocabulary file, e.g. b" the" as "Ġthe"."""
    return "".join(CHARACTER_OF_BYTE[byte] for byte in token)


def from_characters(characters: str) -> bytes:
    """The inverse of `to_characters`. Raises ValueError for a character that stands for no byte."""
    try:
        return bytes(BYTE_OF_CHARACTER[character] for character in characters)
    except KeyError as error:
        raise ValueError(f"{characters!r} holds {error.args[0]!r}, which stands for no byte") from None
