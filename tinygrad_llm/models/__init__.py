"""Language models: a configuration and a Module each."""

from tinygrad_llm.models.bert import Bert, BertConfig, DistilBert, DistilBertConfig
from tinygrad_llm.models.decoder import Decoder
from tinygrad_llm.models.gpt import GPT, GPTConfig
from tinygrad_llm.models.llama import Llama, LlamaConfig
from tinygrad_llm.models.loading import load_model, new_model
from tinygrad_llm.models.recurrent import Recurrent, RecurrentConfig
from tinygrad_llm.models.recurrent_encoder_decoder import RecurrentEncoderDecoder, RecurrentEncoderDecoderConfig
from tinygrad_llm.models.rotary_scaling import RotaryScaling
from tinygrad_llm.models.sentences import embed
from tinygrad_llm.models.t5 import T5, T5Config

__all__ = [
    "GPT",
    "T5",
    "Bert",
    "BertConfig",
    "Decoder",
    "DistilBert",
    "DistilBertConfig",
    "GPTConfig",
    "Llama",
    "LlamaConfig",
    "Recurrent",
    "RecurrentConfig",
    "RecurrentEncoderDecoder",
    "RecurrentEncoderDecoderConfig",
    "RotaryScaling",
    "T5Config",
    "embed",
    "load_model",
    "new_model",
]
