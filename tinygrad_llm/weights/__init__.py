"""Weights in and out of files."""

from pathlib import Path

from tinygrad_llm.weights.arrays import load_arrays, save_arrays
from tinygrad_llm.weights.entries import Entry, Layout, gather, scatter
from tinygrad_llm.weights.folders import SHARD, read_folder, write_folder
from tinygrad_llm.weights.gguf_file import read_gguf
from tinygrad_llm.weights.safetensors_file import Dtype
from tinygrad_llm.weights.stored import Checkpoint, Stored

__all__ = [
    "SHARD",
    "Checkpoint",
    "Dtype",
    "Entry",
    "Layout",
    "Stored",
    "gather",
    "load_arrays",
    "open_checkpoint",
    "read_folder",
    "read_gguf",
    "save_arrays",
    "scatter",
    "write_folder",
]


def open_checkpoint(path: Path) -> Checkpoint:
    """A model in a GGUF file, or in a Hugging Face folder."""
    return read_gguf(path) if path.is_file() and path.suffix == ".gguf" else read_folder(path)
