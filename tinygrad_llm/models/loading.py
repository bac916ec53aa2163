"""A model of any architecture from its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinygrad_llm.models.bert import Bert, DistilBert
from tinygrad_llm.models.classifier import Classifier
from tinygrad_llm.models.gpt import GPT
from tinygrad_llm.models.llama import Llama
from tinygrad_llm.models.pretrained import Pretrained
from tinygrad_llm.models.recurrent import Recurrent
from tinygrad_llm.models.recurrent_encoder_decoder import RecurrentEncoderDecoder
from tinygrad_llm.models.t5 import T5
from tinygrad_llm.weights import open_checkpoint

MODELS: tuple[type[Pretrained], ...] = (GPT, Llama, Recurrent, RecurrentEncoderDecoder, DistilBert, Bert, T5)


def new_model(config: Any, seed: int = 0) -> Pretrained:
    """A model of the class that the configuration is of, with initial weights."""
    known: tuple[type[Pretrained], ...] = (*MODELS, Classifier)
    model = next(model for model in known if isinstance(config, model.config_type))
    return model(config, seed)  # type: ignore[call-arg]


def load_model(path: str | Path, packed: bool = False) -> Pretrained:
    """The model in a Hugging Face folder, a run folder or a GGUF file, of the class that its configuration names;
    `packed` for `Pretrained.from_checkpoint`."""
    stored = open_checkpoint(Path(path))
    for model in MODELS:
        if stored.model_type in model.layout.MODEL_TYPES:
            found = Classifier if Classifier.knows(stored) else model
            return found.from_checkpoint(stored, packed)
    known = ", ".join(kind for model in MODELS for kind in model.layout.MODEL_TYPES)
    raise ValueError(f"{path}: holds a {stored.model_type!r} model; known are {known}")
