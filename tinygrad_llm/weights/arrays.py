"""Named arrays in one safetensors file, with a small JSON document beside them in its header."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tinygrad_llm.files import atomic_write
from tinygrad_llm.tape import Array

_KEY = "tinygrad_llm"


def save_arrays(path: Path, arrays: Mapping[str, Array], about: Mapping[str, Any]) -> None:
    """Write `arrays` and the document `about` to `path`, wholly or not at all. Equal content gives equal bytes."""
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    metadata = {_KEY: json.dumps(about, sort_keys=True)}

    def write(temporary: Path) -> None:
        try:
            save_file(contiguous, temporary, metadata=metadata)
        except SafetensorError as error:  # what the library makes of a full disk
            raise OSError(errno.EIO, str(error)) from error

    atomic_write(path, write)


def load_arrays(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """(arrays, about) of a file written by `save_arrays`. A damaged or foreign file is a ValueError that says so."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    path.open("rb").close()  # the library says of a file that may not be read that there is none
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, TypeError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error}); it may be truncated") from error
    if _KEY not in metadata:
        raise ValueError(f"{path}: a safetensors file, but not one written by tinygrad_llm (its header lacks {_KEY!r})")
    return arrays, json.loads(metadata[_KEY])
