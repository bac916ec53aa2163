"""Recurrent language models in a folder like Hugging Face's. `transformers` has none: names and settings are ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinygrad_llm.weights.entries import Entry
from tinygrad_llm.weights.settings import translated

MODEL_TYPES: tuple[str, ...] = ("tinygrad_llm_recurrent",)
PREFIX = ""
OUTSIDE: tuple[str, ...] = ()
IGNORED = ""

SETTINGS = ("kind", "vocab_size", "context", "channels", "units", "layers", "dropout", "tied", "init_std")


def read_config(json: Mapping[str, Any]) -> dict[str, Any]:
    return translated(json, {name: name for name in SETTINGS}, {})


def write_config(config: Any) -> dict[str, Any]:
    return {"model_type": MODEL_TYPES[0], **{name: getattr(config, name) for name in SETTINGS}}


def copies(config: Any) -> dict[str, str]:
    return {}


def entries(config: Any) -> list[Entry]:
    parts = ["weight_x", "weight_h", "bias", *(["state_bias"] if config.kind == "gru" else [])]
    names = [f"recurrent.{layer}.{part}" for layer in range(config.layers) for part in parts]
    head = [] if config.tied else ["lm_head.weight"]
    return [Entry(name, (name,)) for name in ("token_embedding.weight", *names, *head)]
