"""DistilBERT as Hugging Face writes it: BERT with names of its own, without token types and pooler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinygrad_llm.weights.bert import head_of, labels_of, linear, norm, write_labels
from tinygrad_llm.weights.entries import Entry
from tinygrad_llm.weights.settings import require, translated

MODEL_TYPES: tuple[str, ...] = ("distilbert",)
PREFIX = "distilbert."
OUTSIDE: tuple[str, ...] = ("vocab_", "pre_classifier.", "classifier.")
IGNORED = r"embeddings\.position_ids"

SETTINGS = {
    "vocab_size": "vocab_size",
    "context": "max_position_embeddings",
    "channels": "dim",
    "layers": "n_layers",
    "heads": "n_heads",
    "feed_forward": "hidden_dim",
    "dropout": "dropout",
    "init_std": "initializer_range",
}
DEFAULTS = {"dropout": 0.1, "initializer_range": 0.02}

HEADS = {
    "DistilBertModel": "none",
    "DistilBertForMaskedLM": "masked_lm",
    "DistilBertForSequenceClassification": "classification",
}


def read_config(json: Mapping[str, Any]) -> dict[str, Any]:
    require(
        json,
        activation=("gelu",),
        tie_word_embeddings=(True,),
        problem_type=("single_label_classification", None),
    )
    return {**translated(json, SETTINGS, DEFAULTS), "head": head_of(json, HEADS), "labels": labels_of(json)}


def write_config(config: Any) -> dict[str, Any]:
    architecture = {head: name for name, head in HEADS.items()}
    return {
        "architectures": [architecture[config.head]],
        "model_type": "distilbert",
        **{theirs: getattr(config, ours) for ours, theirs in SETTINGS.items()},
        "attention_dropout": 0.0,
        "seq_classif_dropout": config.dropout,
        "activation": "gelu",
        "sinusoidal_pos_embds": False,  # the table is stored in any case
        "tie_word_embeddings": True,
        **write_labels(config.labels),
    }


def copies(config: Any) -> dict[str, str]:
    return {"vocab_projector.weight": "embeddings.word_embeddings.weight"} if config.head == "masked_lm" else {}


def entries(config: Any) -> list[Entry]:
    found = [
        Entry("token_embedding.weight", ("embeddings.word_embeddings.weight",)),
        Entry("position_embedding.weight", ("embeddings.position_embeddings.weight",)),
        *norm("embedding_norm", "embeddings.LayerNorm"),
    ]
    for layer in range(config.layers):
        found += _block(config, f"blocks.{layer}", f"transformer.layer.{layer}")
    if config.head == "classification":
        found += linear("pooler", "pre_classifier")
        found += linear("classifier", "classifier")
    if config.head == "masked_lm":
        found += linear("masked_lm_head.transform", "vocab_transform")
        found += norm("masked_lm_head.norm", "vocab_layer_norm")
        found.append(Entry("masked_lm_head.bias", ("vocab_projector.bias",)))
    return found


def _block(config: Any, ours: str, theirs: str) -> list[Entry]:
    projections = [f"{theirs}.attention.{x}_lin" for x in "qkv"]
    return [
        *linear(f"{ours}.attention.qkv", *projections, width=config.channels),
        *linear(f"{ours}.attention.out", f"{theirs}.attention.out_lin"),
        *norm(f"{ours}.attention_norm", f"{theirs}.sa_layer_norm"),
        *linear(f"{ours}.mlp.up", f"{theirs}.ffn.lin1"),
        *linear(f"{ours}.mlp.down", f"{theirs}.ffn.lin2"),
        *norm(f"{ours}.mlp_norm", f"{theirs}.output_layer_norm"),
    ]
