"""BERT as Hugging Face writes it.

Linear maps are stored as (out, in); queries, keys and values are three of them, where ours is one. The matrix of the
masked-LM head is the token embedding again. Its dropout inside attention has no counterpart here, nor has the head that
says whether two sentences follow each other: BertForPreTraining is read as a masked language model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tinygrad_llm.weights.entries import Entry
from tinygrad_llm.weights.settings import require, translated

MODEL_TYPES: tuple[str, ...] = ("bert",)
PREFIX = "bert."
OUTSIDE: tuple[str, ...] = ("cls.", "classifier.")
IGNORED = r"embeddings\.position_ids|cls\.seq_relationship\.(weight|bias)"

SETTINGS = {
    "vocab_size": "vocab_size",
    "context": "max_position_embeddings",
    "channels": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "feed_forward": "intermediate_size",
    "token_types": "type_vocab_size",
    "dropout": "hidden_dropout_prob",
    "norm_eps": "layer_norm_eps",
    "init_std": "initializer_range",
}
DEFAULTS = {"type_vocab_size": 2, "hidden_dropout_prob": 0.1, "layer_norm_eps": 1e-12, "initializer_range": 0.02}

HEADS = {
    "BertModel": "pooler",
    "BertForMaskedLM": "masked_lm",
    "BertForSequenceClassification": "classification",
    "BertForPreTraining": "masked_lm",
}


def read_config(json: Mapping[str, Any]) -> dict[str, Any]:
    require(
        json,
        hidden_act=("gelu",),
        position_embedding_type=("absolute", None),
        is_decoder=(False,),
        add_cross_attention=(False,),
        tie_word_embeddings=(True,),
        problem_type=("single_label_classification", None),
    )
    return {**translated(json, SETTINGS, DEFAULTS), "head": head_of(json, HEADS), "labels": labels_of(json)}


def head_of(json: Mapping[str, Any], heads: Mapping[str, str]) -> str:
    """What stands on the encoder, by the architecture that config.json names, or the first of `heads` without one."""
    named = json.get("architectures") or list(heads)[:1]
    if not isinstance(named, list) or len(named) != 1 or named[0] not in list(heads):
        raise ValueError(f"config.json has architectures = {named!r}; known are {', '.join(heads)}")
    return heads[named[0]]


def labels_of(json: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the classes, in order."""
    given = json.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    if not isinstance(given, Mapping) or set(given) != {str(number) for number in range(len(given))}:
        raise ValueError(f"config.json has id2label = {given!r}, which are not the names of classes 0, 1, 2 ...")
    return tuple(str(given[str(number)]) for number in range(len(given)))


def write_labels(labels: Sequence[str]) -> dict[str, Any]:
    """What config.json says of the classes."""
    return {
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
    }


def write_config(config: Any) -> dict[str, Any]:
    architecture = {head: name for name, head in reversed(HEADS.items())} | {"none": "BertModel"}
    return {
        "architectures": [architecture[config.head]],
        "model_type": "bert",
        **{theirs: getattr(config, ours) for ours, theirs in SETTINGS.items()},
        "attention_probs_dropout_prob": 0.0,
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "tie_word_embeddings": True,
        **write_labels(config.labels),
    }


def newer_name(name: str) -> str:
    """A tensor's name today; the oldest files call the gain and bias of norms gamma and beta."""
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name))


def copies(config: Any) -> dict[str, str]:
    if config.head != "masked_lm":
        return {}
    return {
        "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }


def entries(config: Any) -> list[Entry]:
    found = [
        Entry("token_embedding.weight", ("embeddings.word_embeddings.weight",)),
        Entry("position_embedding.weight", ("embeddings.position_embeddings.weight",)),
        *norm("embedding_norm", "embeddings.LayerNorm"),
    ]
    if config.token_types:
        found.append(Entry("token_type_embedding.weight", ("embeddings.token_type_embeddings.weight",)))
    for layer in range(config.layers):
        found += _block(config, f"blocks.{layer}", f"encoder.layer.{layer}")
    if config.head in ("pooler", "classification"):
        found += linear("pooler", "pooler.dense")
    if config.head == "classification":
        found += linear("classifier", "classifier")
    if config.head == "masked_lm":
        found += linear("masked_lm_head.transform", "cls.predictions.transform.dense")
        found += norm("masked_lm_head.norm", "cls.predictions.transform.LayerNorm")
        found.append(Entry("masked_lm_head.bias", ("cls.predictions.bias",)))
    return found


def _block(config: Any, ours: str, theirs: str) -> list[Entry]:
    projections = [f"{theirs}.attention.self.{x}" for x in ("query", "key", "value")]
    return [
        *linear(f"{ours}.attention.qkv", *projections, width=config.channels),
        *linear(f"{ours}.attention.out", f"{theirs}.attention.output.dense"),
        *norm(f"{ours}.attention_norm", f"{theirs}.attention.output.LayerNorm"),
        *linear(f"{ours}.mlp.up", f"{theirs}.intermediate.dense"),
        *linear(f"{ours}.mlp.down", f"{theirs}.output.dense"),
        *norm(f"{ours}.mlp_norm", f"{theirs}.output.LayerNorm"),
    ]


def linear(ours: str, *theirs: str, width: int = 0) -> list[Entry]:
    """Weight and bias of a linear map, which may be several of theirs, each `width` wide."""
    widths = (width,) * len(theirs) if width else ()
    return [
        Entry(f"{ours}.weight", tuple(f"{name}.weight" for name in theirs), True, widths),
        Entry(f"{ours}.bias", tuple(f"{name}.bias" for name in theirs), False, widths),
    ]


def norm(ours: str, theirs: str) -> list[Entry]:
    """Gain and bias of a norm."""
    return [Entry(f"{ours}.gain", (f"{theirs}.weight",)), Entry(f"{ours}.bias", (f"{theirs}.bias",))]
