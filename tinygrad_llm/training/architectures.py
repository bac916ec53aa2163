"""The sizes of the model that a run trains, by the architecture that its settings name."""

from __future__ import annotations

from typing import Any

from tinygrad_llm.models import GPTConfig, LlamaConfig, RecurrentConfig
from tinygrad_llm.training.config import TrainConfig
from tinygrad_llm.training.masked import bert_config
from tinygrad_llm.training.spans import t5_config


def model_config(config: TrainConfig, vocab_size: int) -> Any:
    """The configuration of the model, for a tokenizer of `vocab_size` tokens. ValueError if the sizes do not fit."""
    made_by = {"gpt": gpt_config, "llama": llama_config, "bert": bert_config, "t5": t5_config}
    return made_by.get(config.model, recurrent_config)(config, vocab_size)


def gpt_config(config: TrainConfig, vocab_size: int) -> GPTConfig:
    return GPTConfig(
        vocab_size=vocab_size,
        context=config.context,
        channels=config.channels,
        layers=config.layers,
        heads=config.head_count,
        dropout=config.dropout,
        init_std=config.init_std,
    )


def llama_config(config: TrainConfig, vocab_size: int) -> LlamaConfig:
    """Its feed-forward network has three matrices, with about as many numbers as the two of a GPT."""
    if config.dropout:
        raise ValueError(f"--dropout {config.dropout}: a llama has none")
    return LlamaConfig(
        vocab_size=vocab_size,
        context=config.context,
        channels=config.channels,
        layers=config.layers,
        heads=config.head_count,
        kv_heads=config.head_count,
        feed_forward=max(32, round(config.channels * 8 / 3 / 32) * 32),
        init_std=config.init_std,
    )


def recurrent_config(config: TrainConfig, vocab_size: int) -> RecurrentConfig:
    """An rnn, lstm or gru with as many units as channels."""
    if config.heads:
        raise ValueError(f"--heads {config.heads}: a {config.model} has none")
    return RecurrentConfig(
        kind=config.model,
        vocab_size=vocab_size,
        context=config.context,
        channels=config.channels,
        units=config.channels,
        layers=config.layers,
        dropout=config.dropout,
        init_std=config.init_std,
    )
