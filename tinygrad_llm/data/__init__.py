"""Texts: those found on the machine, the user's files, the split without leaks, token files and batches."""

from .baselines import bigram_bits_per_byte, gzip_bits_per_byte
from .corpus import default_corpus
from .document import DataError, Document
from .files import TextFiles, read_documents
from .splitting import Documents, Split, split
from .tokens import IGNORE, TokenFile, write_tokens

__all__ = [
    "IGNORE",
    "DataError",
    "Document",
    "Documents",
    "Split",
    "TextFiles",
    "TokenFile",
    "bigram_bits_per_byte",
    "default_corpus",
    "gzip_bits_per_byte",
    "read_documents",
    "split",
    "write_tokens",
]
