"""Named arrays in one safetensors file, with a small JSON document beside them in its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_llm.tape import Array
from tinygrad_llm.weights.safetensors_file import open_with_metadata, write_safetensors

_KEY = "tinygrad_llm"


def save_arrays(path: Path, arrays: Mapping[str, Array], about: Mapping[str, Any]) -> None:
    """Write `arrays` and the document `about` to `path`, wholly or not at all. Equal content gives equal bytes."""
    write_safetensors(path, arrays, {_KEY: json.dumps(about, sort_keys=True)})


def load_arrays(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """(arrays, about) of a file written by `save_arrays`. A damaged or foreign file is a ValueError that says so."""
    tensors, metadata = open_with_metadata(path)
    if _KEY not in metadata:
        raise ValueError(f"{path}: a safetensors file, but not one written by tinygrad_llm (its header lacks {_KEY!r})")
    return {name: np.array(tensor.read()) for name, tensor in tensors.items()}, json.loads(metadata[_KEY])
