"""Byte-level BPE: learn a vocabulary from text, turn text into ids and back, in the file formats in use;
WordPiece, chat templates."""

from tinygrad_llm.tokenizer.bpe import DOCUMENT_SEPARATOR, Tokenizer
from tinygrad_llm.tokenizer.chat_templates import ChatTemplate
from tinygrad_llm.tokenizer.pretokenize import PATTERNS
from tinygrad_llm.tokenizer.streaming import StreamDecoder
from tinygrad_llm.tokenizer.word_piece import WordPieceTokenizer

__all__ = ["DOCUMENT_SEPARATOR", "PATTERNS", "ChatTemplate", "StreamDecoder", "Tokenizer", "WordPieceTokenizer"]
