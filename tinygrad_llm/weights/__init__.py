"""Weights in and out of files."""

from pathlib import Path

from tinygrad_llm.gguf_metadata import MAGIC
from tinygrad_llm.weights.arrays import load_arrays, save_arrays
from tinygrad_llm.weights.entries import Entry, Layout, gather, scatter
from tinygrad_llm.weights.folders import PICKLE, SHARD, read_file, read_folder, write_folder
from tinygrad_llm.weights.g2p import read_g2p
from tinygrad_llm.weights.gguf_file import read_gguf
from tinygrad_llm.weights.gguf_writer import Kind, write_gguf
from tinygrad_llm.weights.safetensors_file import Dtype
from tinygrad_llm.weights.stored import Checkpoint, Stored

__all__ = [
    "SHARD",
    "Checkpoint",
    "Dtype",
    "Entry",
    "Kind",
    "Layout",
    "Stored",
    "gather",
    "load_arrays",
    "open_checkpoint",
    "read_folder",
    "read_g2p",
    "read_gguf",
    "save_arrays",
    "scatter",
    "write_folder",
    "write_gguf",
]


def open_checkpoint(path: Path) -> Checkpoint:
    """A model in a Hugging Face folder, in a safetensors file with its config.json beside it, in a GGUF file, which is
    known by its first bytes, or in g2p-en's .npz. FileNotFoundError or ValueError that names the path and the fault."""
    if path.is_dir():
        return read_folder(path)
    if not path.is_file():  # nor a pipe or a device, which would keep us waiting
        raise FileNotFoundError(f"{path}: no such folder or file")
    with path.open("rb") as file:
        begins_as_gguf = file.read(len(MAGIC)) == MAGIC
    if begins_as_gguf or path.suffix == ".gguf":
        return read_gguf(path)
    if path.suffix == ".safetensors":
        return read_file(path)
    if path.suffix == ".npz":
        return read_g2p(path)
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt"):
        raise ValueError(f"{path}: {PICKLE}")
    raise ValueError(f"{path}: holds no model; give a Hugging Face folder, a .safetensors file or a .gguf file")
