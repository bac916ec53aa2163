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
from tinygrad_llm.weights.stored import Checkpoint, Stored

KINDS = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    8: ("Q8_0", 32, 34),
    12: ("Q4_K", 256, 144),
    14: ("Q6_K", 256, 210),
    30: ("BF16", 1, 2),
}
"""Number of a type to its name, and the weights and bytes of a block."""

ARCHITECTURES = {"llama": "llama", "mistral": "mistral", "qwen2": "qwen2", "qwen3": "qwen3"}
"""general.architecture to Hugging Face's model_type."""

SETTINGS = {
    "num_hidden_layers": "block_count",
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "sliding_window": "attention.sliding_window",
}
"""Hugging Face's names of settings to GGUF's, which stand behind the architecture's name."""

NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""GGUF's names to Hugging Face's; those of a block without its number and what follows."""


def read_gguf(path: Path) -> Checkpoint:
    """Settings and tensors, which are read when they are asked for. ValueError that names the file and the fault."""
    try:
        values, places = read_header(path)
        kind = values.get("general.architecture")
        if kind not in ARCHITECTURES:
            raise ValueError(f"its architecture is {str(kind)[:40]!r}; known are {', '.join(ARCHITECTURES)}")
        config = _config(values, kind, places)
        tensors = _tensors(path, places)
        if kind in ("llama", "mistral"):
            tensors = {name: _unpermuted(name, tensor, config) for name, tensor in tensors.items()}
        return Checkpoint(path, config, tensors)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _config(values: Mapping[str, Any], kind: str, places: Mapping[str, Place]) -> dict[str, Any]:
    """What config.json would say."""
    config = {"model_type": ARCHITECTURES[kind], "tie_word_embeddings": "output.weight" not in places}
    config |= {ours: values[f"{kind}.{theirs}"] for ours, theirs in SETTINGS.items() if f"{kind}.{theirs}" in values}
    if "token_embd.weight" in places:
        config["vocab_size"] = places["token_embd.weight"].shape[0]
    heads = config.get("num_attention_heads"), config.get("num_key_value_heads", 1)
    if not all(type(count) is int and count > 0 for count in heads):
        raise ValueError(f"its numbers of heads are {heads[0]!r} and {heads[1]!r}")
    scaling = values.get(f"{kind}.rope.scaling.type", "none")
    factors = "rope_freqs.weight" in places
    if scaling not in ("none", "linear", "yarn") or factors:
        raise ValueError("its rotary positions are scaled by " + ("rope_freqs" if factors else f"{scaling!r}"))
    if scaling != "none":
        config["rope_scaling"] = {
            "rope_type": scaling,
            "factor": values.get(f"{kind}.rope.scaling.factor"),
            "original_max_position_embeddings": values.get(f"{kind}.rope.scaling.original_context_length"),
        }
    return config


def _tensors(path: Path, places: Mapping[str, Place]) -> dict[str, Stored]:
    """By Hugging Face's names. ValueError for a tensor of an unknown type, outside of the file, or over another."""
    data = np.memmap(path, np.uint8, "r")
    end, last = 0, "the header"
    tensors = {}
    for name, place in sorted(places.items(), key=lambda item: item[1].begin):
        if place.kind not in KINDS:
            raise ValueError(f"the tensor {name!r} has the type {place.kind}; known are {', '.join(_known())}")
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
        read = functools.partial(numbers_of, data[place.begin : end], place.kind, place.shape)
        tensors[_hugging_face(name)] = Stored(dtype, place.shape, read)
    return tensors


def _known() -> list[str]:
    return [name for name, _, _ in KINDS.values()]


def _hugging_face(name: str) -> str:
    """The name there; one that is not known stays, and will be told as one too many."""
    if found := re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name):
        layer, part, kind = found.groups()
        return f"model.layers.{layer}.{NAMES[part]}.{kind}" if part in NAMES else name
    return NAMES.get(name, name)


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
    if not (found := re.search(r"self_attn\.([qk])_proj\.(?:weight|bias)", name)):
        return tensor
    heads = config["num_attention_heads"] if found[1] == "q" else config.get("num_key_value_heads", 1)
    rows = tensor.shape[0]
    if rows % (2 * heads):
        raise ValueError(f"{name} has {rows} rows, no multiple of twice its {heads} heads")

    def read() -> Array:
        pairs = tensor.read().reshape(heads, rows // heads // 2, 2, *tensor.shape[1:])
        return pairs.swapaxes(1, 2).reshape(tensor.shape)

    return tensor._replace(read=read)
