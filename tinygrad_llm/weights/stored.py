"""Tensors in files that are not read yet, and where they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tinygrad_llm.tape import Array


class Stored(NamedTuple):
    """A tensor in a file: what the file says of it, and how to read it."""

    dtype: str
    """As the file calls it: F32, BF16, Q4_1 ..."""
    shape: tuple[int, ...]
    read: Callable[[], Array]
    """The numbers; where the file holds them as they are, a read-only view of it. bfloat16 becomes float32."""


class Checkpoint(NamedTuple):
    """A model in files: its configuration and its tensors, by the names that Hugging Face gives them."""

    path: Path
    config: dict[str, Any]
    tensors: Mapping[str, Stored]

    @property
    def model_type(self) -> str:
        """The architecture: gpt2, llama, bert ..."""
        return str(self.config["model_type"])
