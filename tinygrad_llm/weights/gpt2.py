"""GPT-2 as Hugging Face writes it.

Linear maps are stored as (in, out), as ours are; the head is the token embedding. Its dropout inside attention
(attn_pdrop) has no counterpart here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinygrad_llm.weights.entries import Entry
from tinygrad_llm.weights.settings import require, translated

MODEL_TYPES: tuple[str, ...] = ("gpt2",)
PREFIX = "transformer."
OUTSIDE: tuple[str, ...] = ("lm_head.",)
IGNORED = r"h\.\d+\.attn\.(bias|masked_bias)"  # the causal mask, in old files

SETTINGS = {
    "vocab_size": "vocab_size",
    "context": "n_positions",
    "channels": "n_embd",
    "layers": "n_layer",
    "heads": "n_head",
    "feed_forward": "n_inner",
    "dropout": "resid_pdrop",
    "init_std": "initializer_range",
}
DEFAULTS = {"n_inner": 0, "resid_pdrop": 0.1, "initializer_range": 0.02}


def read_config(json: Mapping[str, Any]) -> dict[str, Any]:
    require(
        json,
        activation_function=("gelu_new", "gelu_pytorch_tanh"),
        layer_norm_epsilon=(1e-5,),
        scale_attn_weights=(True,),
        scale_attn_by_inverse_layer_idx=(False,),
        add_cross_attention=(False,),
        tie_word_embeddings=(True,),
    )
    return translated(json, SETTINGS, DEFAULTS)


def write_config(config: Any) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        **{theirs: getattr(config, ours) for ours, theirs in SETTINGS.items()},
        "n_inner": config.feed_forward or None,
        "embd_pdrop": config.dropout,
        "attn_pdrop": 0.0,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def copies(config: Any) -> dict[str, str]:
    return {"lm_head.weight": "wte.weight"}


PARTS = {
    "attention_norm.gain": "ln_1.weight",
    "attention_norm.bias": "ln_1.bias",
    "attention.qkv.weight": "attn.c_attn.weight",
    "attention.qkv.bias": "attn.c_attn.bias",
    "attention.out.weight": "attn.c_proj.weight",
    "attention.out.bias": "attn.c_proj.bias",
    "mlp_norm.gain": "ln_2.weight",
    "mlp_norm.bias": "ln_2.bias",
    "mlp.up.weight": "mlp.c_fc.weight",
    "mlp.up.bias": "mlp.c_fc.bias",
    "mlp.down.weight": "mlp.c_proj.weight",
    "mlp.down.bias": "mlp.c_proj.bias",
}
"""Of a block."""


def entries(config: Any) -> list[Entry]:
    blocks = [
        Entry(f"blocks.{layer}.{ours}", (f"h.{layer}.{theirs}",))
        for layer in range(config.layers)
        for ours, theirs in PARTS.items()
    ]
    return [
        Entry("token_embedding.weight", ("wte.weight",)),
        Entry("position_embedding.weight", ("wpe.weight",)),
        *blocks,
        Entry("final_norm.gain", ("ln_f.weight",)),
        Entry("final_norm.bias", ("ln_f.bias",)),
    ]
