"""Language models: a configuration and a Module each."""

from tinygrad_llm.models.decoder import Decoder
from tinygrad_llm.models.gpt import GPT, GPTConfig
from tinygrad_llm.models.llama import Llama, LlamaConfig
from tinygrad_llm.models.loading import load_model, new_model
from tinygrad_llm.models.rotary_scaling import RotaryScaling

__all__ = ["GPT", "Decoder", "GPTConfig", "Llama", "LlamaConfig", "RotaryScaling", "load_model", "new_model"]
