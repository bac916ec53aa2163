"""Encoding for vocabularies that want their text in a normal form, or that lack some bytes.

Normal form C (NFC) writes "e" and an accent as one character "é" where there is one; Qwen's models are trained so. A
text that is not in it comes back from its ids in it. The tables are those of this Python's `unicodedata`.

A vocabulary of ordinary text may lack bytes that such text never has: SmolLM's lacks 21, among them 0xFF, which UTF-8
does not use, and the control character 0x04. A text that has one is refused; nothing is dropped in silence.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np

from tinygrad_llm.tokenizer.encoding import EitherEncoder, Encoder
from tinygrad_llm.tokenizer.unicode_text import check_text
from tinygrad_llm.tokenizer.vocabulary import Vocabulary


def encoder_for(vocabulary: Vocabulary) -> Encoder:
    """The encoder of ordinary text that a vocabulary needs."""
    if vocabulary.absent or vocabulary.normal_form:
        return _PreparingEncoder(vocabulary)
    return EitherEncoder(vocabulary)


class _PreparingEncoder:
    def __init__(self, vocabulary: Vocabulary) -> None:
        self._absent, self._normal_form = vocabulary.absent, vocabulary.normal_form
        # Encoders need an id for each byte. These ids are never given out.
        beyond = max(vocabulary.bytes_of, default=-1) + 1
        unused = {bytes([byte]): number for number, byte in enumerate(self._absent, beyond)}
        complete = Vocabulary(vocabulary.tokens | unused, vocabulary.merges, vocabulary.pattern, vocabulary.whole_words)
        self._encoder = EitherEncoder(complete)

    def encode(self, text: str) -> np.ndarray:
        return self._encoder.encode(self._prepared(text))

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return self._encoder.encode_batch([self._prepared(text) for text in texts])

    def _prepared(self, text: str) -> str:
        check_text(text)
        if self._normal_form:
            text = unicodedata.normalize("NFC", text)
        if self._absent:
            data = text.encode()
            if len(data.translate(None, self._absent)) < len(data):
                self._refuse(text)
        return text

    def _refuse(self, text: str) -> None:
        for place, character in enumerate(text):
            for byte in character.encode():
                if byte in self._absent:
                    raise ValueError(
                        f"text has U+{ord(character):04X} at position {place}, but the vocabulary has no token for its "
                        f"byte 0x{byte:02X}; remove the character first"
                    )
