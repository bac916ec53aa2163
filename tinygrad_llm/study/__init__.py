"""Studying gradients: from a number back to the algebra behind it."""

from tinygrad_llm.study.reasons import why

__all__ = ["why"]
