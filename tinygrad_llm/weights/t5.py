"""T5, versions 1.0 and 1.1, as Hugging Face writes it.

Linear maps are stored as (out, in); keys and values are two of them, where ours is one. Only block 0 of each stack has
a table of relative positions, which all of its blocks share. Its dropout inside attention has no counterpart here.

A head that is the token embedding again has its logits scaled, one of its own has not. So far config.json said which,
by `tie_word_embeddings`; transformers 5 always writes True there, and says it by `scale_decoder_outputs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinygrad_llm.weights.entries import Entry
from tinygrad_llm.weights.settings import require, translated

MODEL_TYPES: tuple[str, ...] = ("t5",)
PREFIX = ""
OUTSIDE: tuple[str, ...] = ("lm_head.",)
IGNORED = r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"  # in old files, never used

SETTINGS = {
    "vocab_size": "vocab_size",
    "channels": "d_model",
    "layers": "num_layers",
    "heads": "num_heads",
    "head_channels": "d_kv",
    "feed_forward": "d_ff",
    "decoder_layers": "num_decoder_layers",
    "buckets": "relative_attention_num_buckets",
    "max_distance": "relative_attention_max_distance",
    "dropout": "dropout_rate",
    "norm_eps": "layer_norm_epsilon",
    "init_factor": "initializer_factor",
    "pad_id": "pad_token_id",
    "start_id": "decoder_start_token_id",
    "end_id": "eos_token_id",
}
DEFAULTS = {
    "num_decoder_layers": 0,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "dropout_rate": 0.1,
    "layer_norm_epsilon": 1e-6,
    "initializer_factor": 1.0,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
}


def read_config(json: Mapping[str, Any]) -> dict[str, Any]:
    require(
        json,
        feed_forward_proj=("relu", "gated-gelu"),
        is_encoder_decoder=(True,),
        tie_word_embeddings=(True, False),
        scale_decoder_outputs=(True, False),
    )
    fields = translated(json, SETTINGS, DEFAULTS)
    if fields["decoder_layers"] == fields["layers"]:
        fields["decoder_layers"] = 0  # ours for what is usual
    return {
        **fields,
        "gated": json.get("feed_forward_proj", "relu") == "gated-gelu",
        "tied": json.get("tie_word_embeddings", True) and json.get("scale_decoder_outputs", True),
    }


def write_config(config: Any) -> dict[str, Any]:
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        **{theirs: getattr(config, ours) for ours, theirs in SETTINGS.items()},
        "num_decoder_layers": config.decoder_layers or config.layers,
        "feed_forward_proj": "gated-gelu" if config.gated else "relu",
        "is_encoder_decoder": True,
        "tie_word_embeddings": config.tied,
        "scale_decoder_outputs": config.tied,
    }


def copies(config: Any) -> dict[str, str]:
    names = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
    return dict.fromkeys([*names, "lm_head.weight"] if config.tied else names, "shared.weight")


def entries(config: Any) -> list[Entry]:
    found = [Entry("token_embedding.weight", ("shared.weight",))]
    for stack, layers in (("encoder", config.layers), ("decoder", config.decoder_layers or config.layers)):
        table = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        found.append(Entry(f"{stack}.position_bias.weight", (table,)))
        for layer in range(layers):
            found += _block(config, stack, layer)
        found.append(Entry(f"{stack}.final_norm.gain", (f"{stack}.final_layer_norm.weight",)))
    if not config.tied:
        found.append(Entry("lm_head.weight", ("lm_head.weight",), transposed=True))
    return found


def _block(config: Any, stack: str, layer: int) -> list[Entry]:
    ours, theirs = f"{stack}.blocks.{layer}", f"{stack}.block.{layer}.layer"
    found = _attention(config, f"{ours}.attention", f"{theirs}.0", "SelfAttention")
    if stack == "decoder":
        found += _attention(config, f"{ours}.cross_attention", f"{theirs}.1", "EncDecAttention")
    last = f"{theirs}.{2 if stack == 'decoder' else 1}"
    maps = {"gate": "wi_0", "up": "wi_1", "down": "wo"} if config.gated else {"up": "wi", "down": "wo"}
    found.append(Entry(f"{ours}.mlp_norm.gain", (f"{last}.layer_norm.weight",)))
    found += [Entry(f"{ours}.mlp.{a}.weight", (f"{last}.DenseReluDense.{b}.weight",), True) for a, b in maps.items()]
    return found


def _attention(config: Any, ours: str, theirs: str, name: str) -> list[Entry]:
    q, k, v, out = (f"{theirs}.{name}.{x}.weight" for x in "qkvo")
    inner = config.heads * config.head_channels
    return [
        Entry(f"{ours}_norm.gain", (f"{theirs}.layer_norm.weight",)),
        Entry(f"{ours}.q.weight", (q,), True),
        Entry(f"{ours}.kv.weight", (k, v), True, (inner, inner)),
        Entry(f"{ours}.out.weight", (out,), True),
    ]
