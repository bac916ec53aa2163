"""Byte-level BPE: learn a vocabulary from text, turn text into ids and back, read and write `tokenizer.json`."""

from tinygrad_llm.tokenizer.bpe import DOCUMENT_SEPARATOR, Tokenizer
from tinygrad_llm.tokenizer.pretokenize import PATTERNS
from tinygrad_llm.tokenizer.streaming import StreamDecoder

__all__ = ["DOCUMENT_SEPARATOR", "PATTERNS", "StreamDecoder", "Tokenizer"]
