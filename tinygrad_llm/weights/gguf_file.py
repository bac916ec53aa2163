"""Models in GGUF files (llama.cpp's), with the names and settings that Hugging Face gives them.

A file holds settings, the tokenizer (see `tokenizer.formats.gguf_tokens`) and tensors, most of them in few bits for
each weight: blocks of 32 or 256 that share a scale. The package `gguf` knows how to make numbers of these; where a
tensor lies is checked here before it is read. Reading gives float32.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_llm.gguf_metadata import Place, read_header
from tinygrad_llm.tape import Array
from tinygrad_llm.weights.gguf_names import FAMILIES, FREQUENCIES, KINDS, LLAMA3, SCALING, Family
from tinygrad_llm.weights.stored import Checkpoint, Stored


def read_gguf(path: Path) -> Checkpoint:
    """Settings and tensors, which are read when they are asked for. ValueError that names the file and the fault."""
    try:
        values, places = read_header(path)
        kind = values.get("general.architecture")
        if kind not in FAMILIES:
            raise ValueError(f"its architecture is {str(kind)[:40]!r}; known are {', '.join(FAMILIES)}")
        tensors = _tensors(path, places, FAMILIES[kind])
        config = _config(values, kind, tensors)
        if kind == "llama":
            tensors = {name: _unpermuted(name, tensor, config) for name, tensor in tensors.items()}
        return Checkpoint(path, config, tensors)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _config(values: Mapping[str, Any], kind: str, tensors: dict[str, Stored]) -> dict[str, Any]:
    """What config.json would say. The tensor of frequencies is taken out: what it holds becomes a setting."""
    family = FAMILIES[kind]
    config: dict[str, Any] = {"model_type": kind}
    for ours, theirs in family.settings.items():
        if f"{kind}.{theirs}" in values:
            config[ours] = _shortest(values[f"{kind}.{theirs}"])
    if (table := family.names["token_embd.weight"]) in tensors:
        config["vocab_size"] = tensors[table].shape[0]
    if kind == "gpt2":
        return config | {"resid_pdrop": 0.0}  # the file says nothing of dropout
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    if kind == "llama" and config.get("sliding_window"):
        config["model_type"] = "mistral"
    config.setdefault("num_key_value_heads", config.get("num_attention_heads"))  # a file may leave it out where equal
    heads: tuple[Any, Any] = config.get("num_attention_heads"), config["num_key_value_heads"]
    if not all(type(count) is int and count > 0 for count in heads):
        raise ValueError(f"its numbers of heads are {heads[0]!r} and {heads[1]!r}")
    channels = config.get("hidden_size")
    width = config.get("head_dim", channels // heads[0] if type(channels) is int else 0)
    if (turned := values.get(f"{kind}.rope.dimension_count", width)) != width:
        raise ValueError(f"it rotates {turned} of the {width} channels of a head; this model rotates all or none")
    if scaling := _scaling(values, kind, config, width, tensors.pop(FREQUENCIES, None)):
        config["rope_scaling"] = scaling
    return config


def _shortest(value: Any) -> Any:
    """0.00001 and not 0.0000099999997, which is what float32 has for it."""
    if type(value) is float and float(np.float32(value)) == value:
        return float(str(np.float32(value)))
    return value


def _scaling(
    values: Mapping[str, Any], kind: str, config: Mapping[str, Any], width: Any, divisors: Stored | None
) -> dict[str, Any]:
    """How rotary positions are scaled, empty if they are not. ValueError for a way that this model has not."""
    start = f"{kind}.rope.scaling."
    given = {name: value for name, value in values.items() if name.startswith(start)}
    scaling = given.pop(f"{start}type", "linear" if f"{start}factor" in given else "none")  # as llama.cpp has it
    given.pop(f"{start}finetuned", None)
    found = {ours: given.pop(f"{kind}.{theirs}", None) for ours, theirs in SCALING.items()}
    found = {ours: _shortest(value) for ours, value in found.items() if value is not None}
    if scaling not in ("none", "linear", "yarn"):
        raise ValueError(f"its rotary positions are scaled by {scaling!r}")
    if given and scaling != "none":
        raise ValueError(f"the scaling of its rotary positions has {', '.join(given)}, which is unknown here")
    if divisors is not None and scaling != "none":
        raise ValueError(f"its rotary positions are scaled twice, by {scaling!r} and by {FREQUENCIES}")
    if divisors is not None:
        return _llama3(divisors, config.get("rope_theta", 10000.0), width)
    return {"rope_type": scaling, **found} if scaling != "none" else {}


def _llama3(divisors: Stored, base: Any, width: Any) -> dict[str, Any]:
    """The scaling of Llama 3.1, if it is what makes these divisors of the frequencies."""
    found = divisors.read().astype(np.float64)
    numbers = type(width) is int and type(base) is float and 1 < base < math.inf
    if numbers and found.shape == (width // 2,) and np.isfinite(found).all() and (found > 0).all():
        factor = _shortest(float(found.max()))
        if np.allclose(found, llama3_divisors(base, width, factor), rtol=1e-4, atol=0):
            return {"rope_type": "llama3", "factor": factor, **LLAMA3} if factor != 1 else {}
    raise ValueError(f"its rotary positions are scaled by {FREQUENCIES}, and not as those of Llama 3.1 are")


def llama3_divisors(base: float, width: int, factor: float) -> Array:
    """By what the frequencies of the pairs of a head of `width` channels are divided: by 1 if they turn often in the
    original context, by `factor` if rarely; see `models.rotary_scaling`."""
    plain = base ** (-np.arange(0, width, 2) / width)
    low, high, context = LLAMA3.values()
    kept = np.clip((context * plain / (2 * math.pi) - low) / (high - low), 0, 1)
    return 1 / (kept + (1 - kept) / factor)


def _tensors(path: Path, places: Mapping[str, Place], family: Family) -> dict[str, Stored]:
    """By Hugging Face's names. ValueError for a tensor of an unknown type, outside of the file, or over another."""
    data = np.memmap(path, np.uint8, "r")
    end, last = 0, "the header"
    tensors: dict[str, Stored] = {}
    for name, place in sorted(places.items(), key=lambda item: item[1].begin):
        if place.kind not in KINDS:
            known = ", ".join(dtype for dtype, _, _ in KINDS.values())
            raise ValueError(f"the tensor {name!r} has the type {place.kind}; known are {known}")
        dtype, weights, size = KINDS[place.kind]
        if place.shape[-1] % weights:
            raise ValueError(
                f"the tensor {name!r} has rows of {place.shape[-1]}, no multiple of the {weights} of {dtype}"
            )
        if place.begin < end:
            raise ValueError(f"the tensor {name!r} begins at byte {place.begin:,}, inside of {last!r}")
        end, last = place.begin + math.prod(place.shape) // weights * size, name
        if end > len(data):
            raise ValueError(
                f"the tensor {name!r} ends at byte {end:,}, but the file has {len(data):,}: is it cut short?"
            )
        if (theirs := family.hugging_face(name)) in tensors:
            raise ValueError(f"the tensor {theirs!r} stands there by two names")
        read = functools.partial(numbers_of, data[place.begin : end], place.kind, place.shape)
        stored = Stored(dtype, place.shape, read)
        tensors[theirs] = _turned(stored) if family.is_turned(name) else stored
    return tensors


def _turned(tensor: Stored) -> Stored:
    return tensor._replace(shape=tensor.shape[::-1], read=lambda: tensor.read().T)


def numbers_of(data: Array, kind: int, shape: tuple[int, ...]) -> Array:
    """What the bytes of a tensor of that type stand for."""
    dtype, weights, size = KINDS[kind]
    if dtype == "F32":
        return data.view("<f4").reshape(shape)
    if dtype == "F16":
        return data.view("<f2").reshape(shape)
    if dtype == "BF16":
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    try:
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize
    except ImportError as error:
        raise ValueError(f"to read weights of type {dtype}: pip install 'gguf>=0.10,<1'") from error
    blocks = data.reshape(*shape[:-1], shape[-1] // weights * size)
    with np.errstate(all="ignore"):  # scales that are not finite are refused with the numbers that they make
        return dequantize(blocks, GGMLQuantizationType(kind)).reshape(shape)


def _unpermuted(name: str, tensor: Stored, config: Mapping[str, Any]) -> Stored:
    """Rows of queries and keys in Hugging Face's order. llama.cpp rotates neighbours (2 i, 2 i + 1) where Hugging Face
    rotates (i, i + D/2), and has moved the rows of Llama's for that."""
    if not (heads := permuted_heads(name, config)):
        return tensor
    rows = tensor.shape[0]
    if rows % (2 * heads):
        raise ValueError(f"{name} has {rows} rows, no multiple of twice its {heads} heads")

    def read() -> Array:
        pairs = tensor.read().reshape(heads, rows // heads // 2, 2, *tensor.shape[1:])
        return pairs.swapaxes(1, 2).reshape(tensor.shape)

    return tensor._replace(read=read)


def permuted_heads(name: str, config: Mapping[str, Any]) -> int:
    """How many heads the rows of this tensor are of, if they are moved in llama.cpp's files of Llama; else 0."""
    found = re.search(r"self_attn\.([qk])_proj\.(?:weight|bias)$", name)
    if not found:
        return 0
    heads: int = config["num_attention_heads"]
    return heads if found[1] == "q" else config.get("num_key_value_heads", heads)
