"""Texts: those found on the machine, the user's files, the split without leaks, token files and batches."""

from tinygrad_llm.data.baselines import bigram_bits_per_byte, gzip_bits_per_byte
from tinygrad_llm.data.corpus import default_corpus
from tinygrad_llm.data.document import DataError, Document
from tinygrad_llm.data.files import TextFiles, read_documents
from tinygrad_llm.data.records import json_value, number_value, read_records, text_value
from tinygrad_llm.data.splitting import Documents, Split, split
from tinygrad_llm.data.tokens import IGNORE, TokenFile, write_tokens

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
    "json_value",
    "number_value",
    "read_documents",
    "read_records",
    "split",
    "text_value",
    "write_tokens",
]
