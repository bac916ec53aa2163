"""The files that tokenizers are kept in."""
