"""Byte-level BPE: learn a vocabulary from text, turn text into ids and back, read and write `tokenizer.json`."""

from .bpe import DOCUMENT_SEPARATOR, Tokenizer
from .pretokenize import PATTERNS
from .streaming import StreamDecoder

__all__ = ["DOCUMENT_SEPARATOR", "PATTERNS", "StreamDecoder", "Tokenizer"]
