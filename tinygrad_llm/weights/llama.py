"""Llama, Mistral, Qwen2 and Qwen3 as Hugging Face writes them.

Linear maps are stored as (out, in); queries, keys and values are three of them, where ours is one. What differs between
the four: Mistral sees a window only, Qwen2 has biases of queries, keys and values, Qwen3 norms of queries and keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinygrad_llm.weights.entries import Entry
from tinygrad_llm.weights.settings import require, translated

MODEL_TYPES: tuple[str, ...] = ("llama", "mistral", "qwen2", "qwen3")
PREFIX = "model."
OUTSIDE: tuple[str, ...] = ("lm_head.",)
IGNORED = r".*rotary_emb\.inv_freq"

SETTINGS = {
    "vocab_size": "vocab_size",
    "context": "max_position_embeddings",
    "channels": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "feed_forward": "intermediate_size",
    "head_channels": "head_dim",
    "norm_eps": "rms_norm_eps",
    "tied": "tie_word_embeddings",
    "init_std": "initializer_range",
}

SCALING = {
    "kind": "rope_type",
    "factor": "factor",
    "original_context": "original_max_position_embeddings",
    "low_frequency": "low_freq_factor",
    "high_frequency": "high_freq_factor",
    "fast": "beta_fast",
    "slow": "beta_slow",
    "attention_factor": "attention_factor",
}
"""Of scaled rotary positions; which of them a kind has, it says itself."""


def read_config(json: Mapping[str, Any]) -> dict[str, Any]:
    require(json, hidden_act=("silu",), attention_bias=(False,), mlp_bias=(False,), pretraining_tp=(1,))
    kind = json["model_type"]
    defaults = {
        "num_key_value_heads": json.get("num_attention_heads"),
        "head_dim": 128 if kind == "qwen3" else 0,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "initializer_range": 0.02,
    }
    fields = translated(json, SETTINGS, defaults)
    if fields["head_channels"] * fields["heads"] == fields["channels"]:
        fields["head_channels"] = 0  # ours for what is usual
    return {
        **fields,
        **_rotary(json),
        "window": _window(json, kind),
        "qkv_bias": kind == "qwen2",
        "qk_norm": kind == "qwen3",
    }


def _window(json: Mapping[str, Any], kind: str) -> int:
    """How many positions each sees, the same in all layers; 0 for all."""
    if kind == "llama" or json.get("sliding_window") is None:
        return 0
    if kind == "mistral":
        return json["sliding_window"]
    if not json.get("use_sliding_window", False):
        return 0
    full, layers = json.get("max_window_layers", 28), json["num_hidden_layers"]
    kinds = set(json.get("layer_types") or ["full_attention"] * (full > 0) + ["sliding_attention"] * (full < layers))
    if kinds not in ({"full_attention"}, {"sliding_attention"}):
        raise ValueError(
            "config.json does not give all layers a sliding window, or none: this model has it in all or none"
        )
    return json["sliding_window"] if kinds == {"sliding_attention"} else 0


def _rotary(json: Mapping[str, Any]) -> dict[str, Any]:
    """The base, and the scaling if there is one; older files have them in two places."""
    given = json.get("rope_parameters") or json.get("rope_scaling") or {}
    if not isinstance(given, Mapping):
        raise ValueError(f"config.json: its rotary scaling is {given!r}")
    given = {**given, "rope_type": given.get("rope_type", given.get("type", "default"))}
    base = _number("rope_theta", given.get("rope_theta", json.get("rope_theta", 10000.0)))
    if given["rope_type"] == "default":
        return {"rotary_base": base, "rotary_scaling": None}
    known = {*SCALING.values(), "type", "rope_theta"}
    if unknown := sorted(given.keys() - known):
        raise ValueError(f"config.json: the rotary scaling has {', '.join(unknown)}, which is unknown here")
    scaling = {ours: given[theirs] for ours, theirs in SCALING.items() if given.get(theirs) is not None}
    if not isinstance(given["rope_type"], str):
        raise ValueError(f"config.json has rope_type = {given['rope_type']!r}, which should be a name")
    if "original_context" not in scaling and scaling["kind"] != "linear":
        scaling["original_context"] = json.get("original_max_position_embeddings", json["max_position_embeddings"])
    for ours in scaling.keys() - {"kind"}:
        _number(SCALING[ours], scaling[ours])
    return {"rotary_base": base, "rotary_scaling": scaling}


def _number(name: str, value: Any) -> float:
    """The value as a float. ValueError if it is none, or beyond all reason."""
    if type(value) not in (int, float) or not -1e30 < value < 1e30:
        raise ValueError(f"config.json has {name} = {str(value)[:40]!r}, which should be a number")
    return float(value)


def write_config(config: Any) -> dict[str, Any]:
    kind = "qwen3" if config.qk_norm else "qwen2" if config.qkv_bias else "mistral" if config.window else "llama"
    if config.qk_norm and config.qkv_bias:
        raise ValueError("no architecture of Hugging Face's has both biases and norms of queries and keys")
    rotary: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rotary_base}
    if config.rotary_scaling is not None:
        rotary |= {theirs: getattr(config.rotary_scaling, ours) for ours, theirs in SCALING.items()}
        rotary = {name: value for name, value in rotary.items() if value is not None}
    json = {
        "architectures": [f"{ {'qwen2': 'Qwen2', 'qwen3': 'Qwen3'}.get(kind, kind.capitalize()) }ForCausalLM"],
        "model_type": kind,
        **{theirs: getattr(config, ours) for ours, theirs in SETTINGS.items()},
        "head_dim": config.head_size,
        "hidden_act": "silu",
        "rope_parameters": rotary,
        "rope_theta": config.rotary_base,  # where older programs look
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if kind == "mistral":
        json["sliding_window"] = config.window
    elif config.window:
        json |= {"sliding_window": config.window, "use_sliding_window": True, "max_window_layers": 0}
    return json


def copies(config: Any) -> dict[str, str]:
    return {"lm_head.weight": "embed_tokens.weight"} if config.tied else {}


def entries(config: Any) -> list[Entry]:
    blocks = [entry for layer in range(config.layers) for entry in _block(config, layer)]
    head = [] if config.tied else [Entry("lm_head.weight", ("lm_head.weight",), transposed=True)]
    return [
        Entry("token_embedding.weight", ("embed_tokens.weight",)),
        *blocks,
        Entry("final_norm.gain", ("norm.weight",)),
        *head,
    ]


def _block(config: Any, layer: int) -> list[Entry]:
    ours, theirs = f"blocks.{layer}", f"layers.{layer}"
    projections = [f"{theirs}.self_attn.{x}_proj" for x in "qkv"]
    widths = tuple(heads * config.head_size for heads in (config.heads, config.kv_heads, config.kv_heads))
    found = [
        Entry(f"{ours}.attention_norm.gain", (f"{theirs}.input_layernorm.weight",)),
        Entry(f"{ours}.attention.qkv.weight", tuple(f"{p}.weight" for p in projections), True, widths),
        Entry(f"{ours}.attention.out.weight", (f"{theirs}.self_attn.o_proj.weight",), True),
        Entry(f"{ours}.mlp_norm.gain", (f"{theirs}.post_attention_layernorm.weight",)),
        *(Entry(f"{ours}.mlp.{x}.weight", (f"{theirs}.mlp.{x}_proj.weight",), True) for x in ("gate", "up", "down")),
    ]
    if config.qkv_bias:
        found.append(Entry(f"{ours}.attention.qkv.bias", tuple(f"{p}.bias" for p in projections), False, widths))
    if config.qk_norm:
        found += [Entry(f"{ours}.attention.{x}_norm.gain", (f"{theirs}.self_attn.{x}_norm.weight",)) for x in "qk"]
    return found
