"""A classifier: any decoder or encoder without its head, one vector of what it makes of a text, scores of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tinygrad_llm import ops, random
from tinygrad_llm.models.bert import Bert, BertConfig, DistilBert
from tinygrad_llm.models.decoder import Decoder
from tinygrad_llm.models.gpt import GPT
from tinygrad_llm.models.llama import Llama
from tinygrad_llm.models.pretrained import Pretrained
from tinygrad_llm.models.recurrent import Recurrent, RecurrentConfig
from tinygrad_llm.models.sentences import mean_pooled
from tinygrad_llm.nn import Linear
from tinygrad_llm.tape import Array
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.weights import Checkpoint
from tinygrad_llm.weights.classifier import ClassifierLayout, pooling_of

BODIES: tuple[type[Decoder] | type[Bert], ...] = (GPT, Llama, Recurrent, DistilBert, Bert)

STD = 0.02
"""Spread of the scores' matrix at the start."""


@dataclass(frozen=True)
class ClassifierConfig:
    """The configuration of the model below, `labels` of the classes, and how a text becomes one vector: `pooling`
    "last" takes that of its last token (decoders, in which it has seen all others), "mean" the mean of all.
    `padding` is the id that fills up shorter texts, by which other programs know the last token; -1 if there is none.
    """

    body: Any
    labels: tuple[str, ...]
    pooling: str = "last"
    padding: int = -1

    def __post_init__(self) -> None:
        if not self.labels or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"ClassifierConfig: labels={self.labels} must name at least one class, and each once")
        if self.pooling not in ("last", "mean"):
            raise ValueError(f"ClassifierConfig: pooling={self.pooling!r} must be last or mean")
        if self.pooling == "last" and isinstance(self.body, BertConfig):
            raise ValueError("ClassifierConfig: in an encoder the last token is like any other; take pooling='mean'")

    @property
    def vocab_size(self) -> int:
        """V of the model below."""
        return self.body.vocab_size

    @property
    def context(self) -> int:
        """The most tokens that the model below takes."""
        return self.body.context

    @property
    def channels(self) -> int:
        """C, the length of the vector."""
        return self.body.units if isinstance(self.body, RecurrentConfig) else self.body.channels


class Classifier(Pretrained):
    """``model(ids, mask)`` maps (B, T) token ids to (B, classes) logits ``pool(hidden(ids)) W``, as Hugging Face's
    models ``ForSequenceClassification`` do. A BERT whose pooler looks at [CLS] is a `Bert` with head="classification".
    """

    config_type = ClassifierConfig
    config: ClassifierConfig

    def __init__(self, config: ClassifierConfig, seed: int = 0, body: Decoder | Bert | None = None) -> None:
        """On `body`, if it is given: it loses its head, and is trained further here."""
        kind = next(kind for kind in BODIES if isinstance(config.body, kind.config_type))
        self.layout = ClassifierLayout(kind.layout)  # type: ignore[misc]  # not all classifiers have the same
        self.body = without_head(kind(config.body, seed) if body is None else body)  # type: ignore[call-arg]
        self.config = replace(config, body=self.body.config)
        with random.scope(seed, "score"):
            self.score = Linear(config.channels, len(config.labels), bias=False, std=STD).astype(self.body.dtype)

    @property
    def blocks(self) -> Sequence[Any]:
        """Those of the model below."""
        return self.body.recurrent if isinstance(self.body, Recurrent) else self.body.blocks  # type: ignore[union-attr]

    def forward(self, ids: npt.ArrayLike, mask: Array | None = None) -> Tensor:
        """Logits (B, classes) of ids (B, T). `mask` (B, 1, 1, T) is False on padding, which stands on the right."""
        return self.score(self.pooled(ids, mask))

    def pooled(self, ids: npt.ArrayLike, mask: Array | None = None) -> Tensor:
        """The vector (B, C) of each text."""
        ids = np.asarray(ids)
        real = np.ones(ids.shape, bool) if mask is None else mask[:, 0, 0]
        if real.shape != ids.shape or not real[:, :1].all() or (real[:, 1:] > real[:, :-1]).any():
            raise ValueError("Classifier: mask must be (B, 1, 1, T), True where a text is, False after its end")
        # no token of a decoder sees padding that comes after it
        x = self.body.hidden(ids, mask) if isinstance(self.body, Bert) else self.body.hidden(ids)
        if self.config.pooling == "mean":
            return mean_pooled(x, real[:, None, None])
        return x[np.arange(len(ids)), real.sum(axis=1) - 1]

    def loss(
        self, ids: npt.ArrayLike, targets: npt.ArrayLike, mask: Array | None = None, reduction: str = "mean"
    ) -> Tensor:
        """`ops.cross_entropy` of the logits at targets (B,), numbers of classes."""
        return ops.cross_entropy(self(ids, mask), np.asarray(targets), reduction=reduction)

    def save_gguf(self, *args: Any, **options: Any) -> None:
        """ValueError: the head has no place in GGUF."""
        raise ValueError("GGUF has no place for a classifier's head; save_pretrained writes a folder")

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of what flows through the model."""
        return self.body.dtype

    @classmethod
    def knows(cls, stored: Checkpoint) -> bool:
        """Whether files hold a classifier of this class. That of a BERT which looks at [CLS] is a `Bert`."""
        pooling = pooling_of(stored.config)
        kind = next((kind for kind in BODIES if stored.model_type in kind.layout.MODEL_TYPES), None)
        return kind is not None and pooling != "" and not (issubclass(kind, Bert) and pooling == "last")

    @classmethod
    def read_config(cls, stored: Checkpoint) -> ClassifierConfig:
        if not cls.knows(stored):
            raise ValueError(f"holds a {stored.model_type!r} model that is no {cls.__name__}")
        kind = next(kind for kind in BODIES if stored.model_type in kind.layout.MODEL_TYPES)
        own = ClassifierLayout(kind.layout).read_config(stored.config)
        json = {name: value for name, value in stored.config.items() if name not in ("architectures", "id2label")}
        return ClassifierConfig(kind.read_config(stored._replace(config=json)), **own)


def without_head(model: Decoder | Bert) -> Decoder | Bert:
    """The model itself, which has lost what stands on its last block's norm, and can do nothing but `hidden`."""
    if isinstance(model, Bert):
        model.pooler = model.masked_lm_head = model.classifier = None
        model.config = replace(model.config, head="none")
    else:
        model.lm_head = None
    return model


def classes_of(model: Pretrained) -> tuple[str, ...]:
    """The labels, if the model is a classifier; else none."""
    if isinstance(model, Classifier) or (isinstance(model, Bert) and model.config.head == "classification"):
        labels: tuple[str, ...] = model.config.labels
        return labels
    return ()


def check_classifiable(model: Pretrained) -> None:
    """ValueError for an encoder-decoder."""
    if not isinstance(model, (Classifier, Decoder, Bert)):
        raise ValueError(f"a {type(model).__name__} reads and writes; a classifier stands on a decoder or an encoder")


def make_classifier(
    model: Pretrained, labels: Sequence[str], pooling: str = "", padding: int = -1, seed: int = 0
) -> Classifier | Bert:
    """A classifier into `labels` on a model, which becomes part of it.

    `pooling` is "last", "mean", or, of a BERT, "first": its pooler on [CLS]; without one it is "last" for decoders, and
    for encoders "first" if there is a pooler, else "mean". A model that classifies into the same labels already keeps
    its head. ValueError for a pooling that the model cannot have, and for an encoder-decoder.
    """
    if isinstance(model, Classifier):
        known, model = model, model.body
        if known.config.labels == tuple(labels) and pooling in ("", known.config.pooling):
            return known
    check_classifiable(model)
    assert isinstance(model, (Decoder, Bert))
    if not pooling:
        pooling = "last" if isinstance(model, Decoder) else "first" if model.pooler is not None else "mean"
    if pooling == "first":
        if isinstance(model, Decoder):
            raise ValueError("--pooling first: the first token of a decoder has seen no other; take last or mean")
        return _with_pooler(model, tuple(labels), seed)
    return Classifier(ClassifierConfig(model.config, tuple(labels), pooling, padding), seed, model)


def _with_pooler(model: Bert, labels: tuple[str, ...], seed: int) -> Bert:
    """A BERT that classifies, with all that `model` has of it."""
    if model.config.head == "classification" and model.config.labels == labels:
        return model
    made = type(model)(replace(model.config, head="classification", labels=labels), seed).astype(model.dtype)
    known = model.state_dict()
    for name, parameter in made.named_parameters():
        if name in known and not name.startswith("classifier."):
            parameter.data = known[name]
    return made
