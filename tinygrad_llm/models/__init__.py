"""Language models: a configuration and a Module each."""

from tinygrad_llm.models.gpt import GPT, GPTConfig

__all__ = ["GPT", "GPTConfig"]
