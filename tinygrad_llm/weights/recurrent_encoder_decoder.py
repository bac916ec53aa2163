"""Recurrent encoder-decoders in a folder like Hugging Face's. `transformers` has none: names and settings are ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinygrad_llm.weights.entries import Entry
from tinygrad_llm.weights.settings import translated

MODEL_TYPES: tuple[str, ...] = ("tinygrad_llm_recurrent_encoder_decoder",)
PREFIX = ""
OUTSIDE: tuple[str, ...] = ()
IGNORED = ""

SETTINGS = (
    "kind",
    "vocab_size",
    "decoder_vocab_size",
    "channels",
    "units",
    "layers",
    "bidirectional",
    "attention",
    "dropout",
    "init_std",
    "pad_id",
    "start_id",
    "end_id",
)


def read_config(json: Mapping[str, Any]) -> dict[str, Any]:
    return translated(json, {name: name for name in SETTINGS}, {})


def write_config(config: Any) -> dict[str, Any]:
    return {"model_type": MODEL_TYPES[0], **{name: getattr(config, name) for name in SETTINGS}}


def copies(config: Any) -> dict[str, str]:
    return {}


def entries(config: Any) -> list[Entry]:
    parts = ["weight_x", "weight_h", "bias", *(["state_bias"] if config.kind == "gru" else [])]
    stacks = ["encoder.layers", *(["encoder.backward_layers"] if config.bidirectional else []), "decoder.layers"]
    names = [f"{stack}.token_embedding.weight" for stack in ("encoder", "decoder")]
    names += [f"{stack}.{layer}.{part}" for stack in stacks for layer in range(config.layers) for part in parts]
    if config.attention:
        names += ["decoder.attention.query.weight", "decoder.attention.out.weight"]
    return [Entry(name, (name,)) for name in (*names, "lm_head.weight", "lm_head.bias")]
