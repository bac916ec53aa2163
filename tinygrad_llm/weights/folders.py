"""Hugging Face's folders: ``config.json`` and ``model.safetensors``, or several such files and an index of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinygrad_llm.files import atomic_write
from tinygrad_llm.tape import Array
from tinygrad_llm.weights.safetensors_file import Dtype, open_safetensors, write_safetensors
from tinygrad_llm.weights.stored import Checkpoint, Stored

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"

PICKLE = "a pickle, which can run any program when it is opened; save the model as safetensors"

SHARD = 5_000_000_000
"""Bytes of a file of weights at most, unless one tensor is larger."""


def read_folder(folder: Path) -> Checkpoint:
    """Configuration and tensors, memory-mapped. FileNotFoundError or ValueError that names file and fault."""
    config = _config(folder)
    if (folder / INDEX).is_file():
        return Checkpoint(folder, config, _sharded(folder))
    if not (folder / WEIGHTS).is_file() and (pickled := sorted(folder.glob("*.bin"))):
        raise ValueError(f"{pickled[0]}: {PICKLE}")
    return Checkpoint(folder, config, open_safetensors(folder / WEIGHTS))


def read_file(file: Path) -> Checkpoint:
    """The same of one safetensors file, of whatever name, whose config.json stands beside it."""
    return Checkpoint(file, _config(file.parent), open_safetensors(file))


def _config(folder: Path) -> dict[str, Any]:
    config = _json(folder / CONFIG)
    if not isinstance(config.get("model_type"), str):
        raise ValueError(f"{folder / CONFIG}: has no model_type, which names the architecture")
    return config


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: not a JSON object")
    return value


def _sharded(folder: Path) -> dict[str, Stored]:
    """The tensors of all files of the index, each from the file that the index names."""
    index = folder / INDEX
    files = _json(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise ValueError(f"{index}: has no weight_map from tensors to files")
    tensors: dict[str, Stored] = {}
    for file in sorted(set(files.values())):
        if Path(file).name != file or "\\" in file or file in ("", ".", ".."):  # never out of the folder
            raise ValueError(f"{index}: {file!r} is not the name of a file in this folder")
        found, listed = open_safetensors(folder / file), {name for name in files if files[name] == file}
        if found.keys() != listed:
            odd = sorted(found.keys() ^ listed)
            raise ValueError(f"{folder / file}: holds other tensors than {INDEX} says: {', '.join(odd[:5])} ...")
        tensors |= found
    return tensors


def write_folder(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Array],
    shard: int = SHARD,
    dtype: Dtype | None = None,
) -> None:
    """Write all files, each wholly or not at all, with the numbers as `dtype`. Equal content gives equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = _shared_out(tensors, shard, dtype)
    names = [WEIGHTS]
    if len(shards) > 1:
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for part, file in zip(shards, names, strict=True):
        write_safetensors(folder / file, part, {"format": "pt"}, dtype)  # without it transformers refuses the file
    if len(shards) > 1:
        files = {name: file for part, file in zip(shards, names, strict=True) for name in part}
        total = sum(_size(array, dtype) for array in tensors.values())
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": files})
    else:
        (folder / INDEX).unlink(missing_ok=True)  # of an earlier model: it would be believed
    for old in {WEIGHTS, *(path.name for path in folder.glob("model-*-of-*.safetensors"))} - set(names):
        (folder / old).unlink(missing_ok=True)
    _write_json(folder / CONFIG, {**config, "dtype": dtype or str(next(iter(tensors.values())).dtype)})


def _shared_out(tensors: Mapping[str, Array], shard: int, dtype: Dtype | None) -> list[dict[str, Array]]:
    """The tensors in their order, in parts of at most `shard` bytes, or of one tensor."""
    shards: list[dict[str, Array]] = [{}]
    for name, array in tensors.items():
        if shards[-1] and sum(_size(a, dtype) for a in shards[-1].values()) + _size(array, dtype) > shard:
            shards.append({})
        shards[-1][name] = array
    return shards


def _size(array: Array, dtype: Dtype | None) -> int:
    """Bytes in the file."""
    return array.size * {None: array.itemsize, "float32": 4}.get(dtype, 2)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    atomic_write(path, (json.dumps(value, indent=2) + "\n").encode())
