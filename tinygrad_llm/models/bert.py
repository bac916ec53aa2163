"""BERT: the encoder-only transformer, in which every position sees all; and DistilBERT, which is a smaller one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tinygrad_llm import ops, random
from tinygrad_llm.models.pretrained import Pretrained
from tinygrad_llm.nn import Dropout, Embedding, LayerNorm, Linear, Module, Parameter
from tinygrad_llm.nn.encoder import PostNormBlock
from tinygrad_llm.tape import Array
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.weights import Checkpoint, Layout, bert, distilbert

HEADS = ("none", "pooler", "masked_lm", "classification")


@dataclass(frozen=True)
class BertConfig:
    """Sizes of a BERT. The defaults are those of the base model, 110 million parameters.

    In brackets the name in Hugging Face's configuration: V `vocab_size`, T at most `context` (max_position_embeddings),
    C `channels` (hidden_size), L `layers` (num_hidden_layers), H `heads` (num_attention_heads), F `feed_forward`
    (intermediate_size), `token_types` (type_vocab_size), `norm_eps` (layer_norm_eps), `init_std`
    (initializer_range). `dropout` (hidden_dropout_prob) acts on the embeddings, on what each part adds to the residual
    stream and before the classifier, not inside attention.

    `head` says what stands on the encoder (architectures): "masked_lm" (BertForMaskedLM), "classification"
    (BertForSequenceClassification) into as many classes as there are `labels` (id2label), "pooler" (BertModel), which
    makes one vector of the sequence, or "none".
    """

    vocab_size: int = 30522
    context: int = 512
    channels: int = 768
    layers: int = 12
    heads: int = 12
    feed_forward: int = 3072
    token_types: int = 2
    dropout: float = 0.0
    norm_eps: float = 1e-12
    init_std: float = 0.02
    head: str = "masked_lm"
    labels: tuple[str, ...] = ("LABEL_0", "LABEL_1")

    def __post_init__(self) -> None:
        kind = type(self).__name__
        for name in ("vocab_size", "context", "channels", "layers", "heads", "feed_forward"):
            if getattr(self, name) < 1:
                raise ValueError(f"{kind}: {name}={getattr(self, name)} must be at least 1")
        if type(self) is BertConfig and self.token_types < 1:
            raise ValueError(f"{kind}: token_types={self.token_types} must be at least 1")
        if self.channels % self.heads:
            raise ValueError(f"{kind}: channels={self.channels} is not a multiple of heads={self.heads}")
        for name in ("norm_eps", "init_std"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{kind}: {name}={getattr(self, name)} must be positive")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"{kind}: dropout={self.dropout} must be at least 0 and less than 1")
        if self.head not in HEADS:
            raise ValueError(f"{kind}: head={self.head!r} must be one of {', '.join(HEADS)}")
        if not self.labels:
            raise ValueError(f"{kind}: labels must name at least one class")


class MaskedLMHead(Module):
    """``norm(gelu(x W + b)) E^T + bias``: logits (..., V) of x (..., C), with E the token embedding."""

    def __init__(self, config: BertConfig) -> None:
        self.transform = Linear(config.channels, config.channels, std=config.init_std)
        self.norm = LayerNorm(config.channels, config.norm_eps)
        self.bias = Parameter(np.zeros(config.vocab_size, np.float32))

    def forward(self, x: Tensor, table: Embedding) -> Tensor:
        x = ops.bias_gelu(self.transform(x, add_bias=False), self.transform.bias, approximate=False)
        return table.head(self.norm(x)) + self.bias


class Bert(Pretrained):
    """Token, position and token-type embeddings, their norm, L post-norm blocks, and a head.

    ``model(ids)`` maps (B, T) token ids to (B, T, V) logits with the head "masked_lm": at each position, scores for the
    token that stands there; to (B, classes) logits with "classification"; else to the (B, T, C) vectors of `hidden`.
    Source: Devlin et al. 2018, arXiv:1810.04805.
    """

    layout: ClassVar[Layout] = bert
    config_type: ClassVar[type[BertConfig]] = BertConfig
    config: BertConfig
    pool_activation: ClassVar[Callable[[Tensor], Tensor]] = staticmethod(ops.tanh)

    def __init__(self, config: BertConfig, seed: int = 0) -> None:
        self.config, std = config, config.init_std
        with random.scope(seed, "embeddings"):
            self.token_embedding = Embedding(config.vocab_size, config.channels, std)
            self.position_embedding = Embedding(config.context, config.channels, std)
            types = config.token_types
            self.token_type_embedding = Embedding(types, config.channels, std) if types else None
        self.embedding_norm = LayerNorm(config.channels, config.norm_eps)
        self.dropout = Dropout(config.dropout)
        self.blocks: list[PostNormBlock] = []
        for layer in range(config.layers):
            with random.scope(seed, "block", layer):
                sizes = config.channels, config.heads, config.feed_forward
                self.blocks.append(PostNormBlock(*sizes, config.dropout, std, config.norm_eps))
        with random.scope(seed, "head"):
            pooling = config.head in ("pooler", "classification")
            self.pooler = Linear(config.channels, config.channels, std=std) if pooling else None
            self.masked_lm_head = MaskedLMHead(config) if config.head == "masked_lm" else None
            classifying = config.head == "classification"
            self.classifier = Linear(config.channels, len(config.labels), std=std) if classifying else None

    def forward(
        self, ids: npt.ArrayLike, mask: Array | None = None, token_types: npt.ArrayLike | None = None
    ) -> Tensor:
        """What the head makes of ids (B, T).

        `mask` (B, 1, 1, T) is False on padding, which no position sees; `token_types` (B, T) are 0 unless given, and 1
        for the second of a pair of texts.
        """
        return self._headed(self.hidden(ids, mask, token_types))

    def _headed(self, x: Tensor) -> Tensor:
        if self.masked_lm_head is not None:
            return self.masked_lm_head(x, self.token_embedding)
        return x if self.classifier is None else self.classifier(self.dropout(self.pooled(x)))

    def hidden(self, ids: npt.ArrayLike, mask: Array | None = None, token_types: npt.ArrayLike | None = None) -> Tensor:
        """The (B, T, C) vectors of the last block; arguments as for `forward`."""
        ids = self._checked(ids, mask)
        x = self.token_embedding(ids)
        positions = self.position_embedding(np.broadcast_to(np.arange(ids.shape[1]), ids.shape))
        if self.token_type_embedding is not None:
            types = np.zeros_like(ids) if token_types is None else token_types
            x = x + self.token_type_embedding(types)
        elif token_types is not None:
            raise ValueError(f"{type(self).__name__}: this model has no token types, but token_types are given")
        x = self.dropout(self.embedding_norm.add(x, positions)[1])
        for block in self.blocks:
            x = block(x, mask)
        return x

    def _checked(self, ids: npt.ArrayLike, mask: Array | None) -> Array:
        name, context, ids = type(self).__name__, self.config.context, np.asarray(ids)
        if ids.ndim != 2:
            raise ValueError(f"{name}: ids must be (B, T), not of shape {ids.shape}; a single sequence is ids[None]")
        if ids.shape[1] > context:
            raise ValueError(f"{name}: {ids.shape[1]} positions, but the model's context is {context}")
        if mask is not None and mask.shape != (expected := (len(ids), 1, 1, ids.shape[1])):
            raise ValueError(f"{name}: mask must be (B, 1, 1, T) {expected}, not {mask.shape}")
        return ids

    def pooled(self, x: Tensor) -> Tensor:
        """One vector (B, C) for each sequence, from the first position of what `hidden` returns, which is [CLS]."""
        if self.pooler is None:
            raise ValueError(f"{type(self).__name__}: head={self.config.head!r} has no pooler")
        return type(self).pool_activation(self.pooler(x[:, 0]))

    def loss(
        self,
        ids: npt.ArrayLike,
        targets: npt.ArrayLike,
        mask: Array | None = None,
        token_types: npt.ArrayLike | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> Tensor:
        """`ops.cross_entropy` of the logits at targets: (B, T) of a masked language model, (B,) of a classifier.

        Of a masked language model, logits are made only where a target is not `ignore_index`.
        """
        if self.masked_lm_head is None and self.classifier is None:
            raise ValueError(f"{type(self).__name__}: head={self.config.head!r} has no loss")
        x, targets = self.hidden(ids, mask, token_types), np.asarray(targets)
        if self.masked_lm_head is not None:
            if targets.shape != x.shape[:2]:
                raise ValueError(f"{type(self).__name__}: targets {targets.shape} must be of the shape of ids")
            kept = np.flatnonzero(targets != ignore_index)
            x, targets = x.reshape(targets.size, -1)[kept], targets.ravel()[kept]
        return ops.cross_entropy(self._headed(x), targets, ignore_index=ignore_index, reduction=reduction)

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of what flows through the model."""
        return self.token_embedding.dtype

    @classmethod
    def read_config(cls, stored: Checkpoint) -> BertConfig:
        """The configuration; a file without a pooler is of a model without one."""
        config: BertConfig = super().read_config(stored)
        has_pooler = any(name.endswith("pooler.dense.weight") for name in stored.tensors)
        return replace(config, head="none") if config.head == "pooler" and not has_pooler else config

    def load(self, stored: Checkpoint) -> None:
        """As of every model; old names are read, and a pooler is left out where the head has no use for it."""
        tensors = {bert.newer_name(name): tensor for name, tensor in stored.tensors.items()}
        if self.pooler is None:
            tensors = {name: tensor for name, tensor in tensors.items() if ".pooler." not in f".{name}"}
        super().load(stored._replace(tensors=tensors))


@dataclass(frozen=True)
class DistilBertConfig(BertConfig):
    """Sizes of a DistilBERT: those of a `BertConfig`, with half as many layers and no token types."""

    layers: int = 6
    token_types: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.token_types or self.head == "pooler" or self.norm_eps != 1e-12:
            raise ValueError("DistilBertConfig: DistilBERT has no token types, no pooler, and norm_eps=1e-12")


class DistilBert(Bert):
    """BERT with half the layers, without token types and pooler, trained to agree with the larger model.

    Source: Sanh et al. 2019, arXiv:1910.01108.
    """

    layout: ClassVar[Layout] = distilbert
    config_type: ClassVar[type[BertConfig]] = DistilBertConfig
    pool_activation: ClassVar[Callable[[Tensor], Tensor]] = staticmethod(ops.relu)
