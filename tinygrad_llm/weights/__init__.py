"""Weights in and out of files."""

from tinygrad_llm.weights.arrays import load_arrays, save_arrays
from tinygrad_llm.weights.entries import Entry, Layout, gather, scatter
from tinygrad_llm.weights.folders import read_folder, write_folder
from tinygrad_llm.weights.stored import Checkpoint, Stored

__all__ = [
    "Checkpoint",
    "Entry",
    "Layout",
    "Stored",
    "gather",
    "load_arrays",
    "open_checkpoint",
    "read_folder",
    "save_arrays",
    "scatter",
    "write_folder",
]

open_checkpoint = read_folder
