"""Models into GGUF files, as llama.cpp reads them: `gguf_file` backwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tinygrad_llm.files import atomic_write
from tinygrad_llm.tape import Array
from tinygrad_llm.weights.gguf_file import llama3_divisors, permuted_heads
from tinygrad_llm.weights.gguf_names import FAMILIES, FREQUENCIES, KINDS, LLAMA3, SCALING
from tinygrad_llm.weights.safetensors_file import encoded

Kind = Literal["F32", "F16", "BF16", "Q8_0"]
"""What the numbers of matrices are written as."""

FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32}
"""Their numbers in general.file_type."""


def write_gguf(
    path: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Array],
    kind: Kind = "F32",
    values: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a model, given in Hugging Face's names, wholly or not at all. Equal content gives equal bytes.

    Matrices are written as `kind`, vectors as F32; with Q8_0 (blocks of 32 numbers with one scale, rounded) a matrix
    whose rows are no multiple of 32 is written as F16, as llama.cpp does. `values` stand beside the settings: the
    tokenizer. `progress(done, total)` counts tensors. A Mistral is a llama there; llama.cpp does not heed its window.
    ValueError for an architecture or a scaling that GGUF has not, a number too large for `kind`, or without the
    package gguf.
    """
    try:
        from gguf import GGMLQuantizationType, GGUFWriter
    except ImportError as error:
        raise ValueError("to write GGUF files: pip install 'gguf>=0.10,<1'") from error
    settings, extra = _settings(config)
    arrays = _arrays(config, tensors) | extra
    numbers = {name: number for number, (name, _, _) in KINDS.items()}

    def write(temporary: Path) -> None:
        writer = GGUFWriter(temporary, settings["general.architecture"])
        try:
            about = settings | {"general.file_type": FILE_TYPES[kind], "general.quantization_version": 2}
            for name, value in (about | dict(values or {})).items():
                if name != "general.architecture":  # the writer has it already
                    _add(writer, name, value)
            kinds = {name: _kind_of(array, kind) for name, array in arrays.items()}
            for name, array in arrays.items():
                own = GGMLQuantizationType(numbers[kinds[name]])
                _, block, size = KINDS[own.value]
                writer.add_tensor_info(name, array.shape, np.dtype(np.float32), array.size // block * size, own)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for done, (name, array) in enumerate(arrays.items(), 1):
                try:
                    writer.write_tensor_data(_bytes_of(array, kinds[name]))
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from error
                if progress:
                    progress(done, len(arrays))
        finally:
            writer.close()

    atomic_write(path, write)


def _add(writer: Any, name: str, value: Any) -> None:
    adders = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    adders.get(type(value), writer.add_array)(name, value)


def _kind_of(array: Array, kind: Kind) -> str:
    if array.ndim < 2:
        return "F32"
    return "F16" if kind == "Q8_0" and array.shape[-1] % 32 else kind


def _bytes_of(array: Array, kind: str) -> Array:
    if kind == "Q8_0":
        from gguf import GGMLQuantizationType
        from gguf.quants import quantize

        if array.size and np.abs(array).max() > 127 * 65504:  # the scale is a float16
            raise ValueError(f"{np.abs(array).max():.4g} is too large for Q8_0; float32 and bfloat16 hold it")
        return quantize(np.ascontiguousarray(array, np.float32), GGMLQuantizationType.Q8_0)
    return encoded(array, {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[kind])


def _settings(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Array]]:
    """Settings by GGUF's names, and the tensor that holds one of them if there is such a one."""
    kind = "llama" if config["model_type"] == "mistral" else config["model_type"]
    if kind not in FAMILIES:
        raise ValueError(f"a {kind!r} model cannot be written as GGUF; known are {', '.join(FAMILIES)}")
    family, given = FAMILIES[kind], dict(config)
    found: dict[str, Any] = {"general.architecture": kind}
    if kind == "gpt2":
        given["n_inner"] = config["n_inner"] or 4 * config["n_embd"]
    else:
        found[f"{kind}.attention.value_length"] = found[f"{kind}.rope.dimension_count"] = config["head_dim"]
        found[f"{kind}.vocab_size"] = config["vocab_size"]
    if kind != "llama" and given.pop("sliding_window", None):
        raise ValueError(f"GGUF has no sliding window for {kind}")
    for ours, theirs in family.settings.items():
        if given.get(ours) is not None:
            found[f"{kind}.{theirs}"] = given[ours]
    extra: dict[str, Array] = {}
    rotary = config.get("rope_parameters", {"rope_type": "default"})
    if rotary["rope_type"] == "llama3":
        if any(rotary[name] != value for name, value in LLAMA3.items()):
            raise ValueError(f"GGUF holds Llama 3.1's scaling of rotary positions with {LLAMA3} alone, not {rotary}")
        divisors = llama3_divisors(config["rope_theta"], config["head_dim"], rotary["factor"])
        extra[FREQUENCIES] = divisors.astype(np.float32)
    elif rotary["rope_type"] != "default":
        if "attention_factor" in rotary:
            raise ValueError("GGUF has no attention_factor of scaled rotary positions")
        found[f"{kind}.rope.scaling.type"] = rotary["rope_type"]
        found |= {f"{kind}.{theirs}": rotary[ours] for ours, theirs in SCALING.items() if ours in rotary}
    return found, extra


def _arrays(config: Mapping[str, Any], tensors: Mapping[str, Array]) -> dict[str, Array]:
    """The tensors by GGUF's names, in llama.cpp's order of rows; views where that is possible."""
    kind = "llama" if config["model_type"] == "mistral" else config["model_type"]
    family, arrays = FAMILIES[kind], {}
    for theirs, array in tensors.items():
        name = family.gguf(theirs)
        if kind == "llama" and (heads := permuted_heads(theirs, config)):
            array = array.reshape(heads, 2, -1, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
        arrays[name] = array.T if family.is_turned(name) else array
    return arrays
