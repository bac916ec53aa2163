"""Weights in and out of files."""

from tinygrad_llm.weights.arrays import load_arrays, save_arrays

__all__ = ["load_arrays", "save_arrays"]
