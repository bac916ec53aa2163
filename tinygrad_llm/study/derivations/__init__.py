"""Derivations that are run: on paper-sized numbers, checked on many, and printed as a book."""
