"""What GGUF files call settings and tensors, and what Hugging Face calls the same: tables that are read both ways."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

KINDS = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    8: ("Q8_0", 32, 34),
    12: ("Q4_K", 256, 144),
    14: ("Q6_K", 256, 210),
    30: ("BF16", 1, 2),
}
"""Number of a tensor's type to its name, and the weights and bytes of a block."""


class Family(NamedTuple):
    """Architectures whose names are the same."""

    settings: Mapping[str, str]
    """Hugging Face's names to GGUF's, which stand behind the architecture's name."""
    names: Mapping[str, str]
    """GGUF's names of tensors outside of the blocks to Hugging Face's."""
    block: str
    """What Hugging Face has before the number of a block; GGUF has blk."""
    parts: Mapping[str, str]
    """Of a block, the same, without what follows: weight or bias."""
    turned: tuple[str, ...] = ()
    """GGUF's names of the parts that Hugging Face stores as (in, out); GGUF stores all as (out, in)."""

    def hugging_face(self, name: str) -> str:
        """Hugging Face's name. One that is not known stays, and will be told as one too many."""
        if (found := re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)) and found[2] in self.parts:
            return f"{self.block}.{found[1]}.{self.parts[found[2]]}.{found[3]}"
        return self.names.get(name, name)

    def gguf(self, name: str) -> str:
        """GGUF's name. KeyError for one that is not known."""
        if found := re.fullmatch(re.escape(self.block) + r"\.(\d+)\.([\w.]+)\.(weight|bias)", name):
            parts = {there: here for here, there in self.parts.items()}
            return f"blk.{found[1]}.{parts[found[2]]}.{found[3]}"
        return {there: here for here, there in self.names.items()}[name]

    def is_turned(self, name: str) -> bool:
        """Whether the tensor of this GGUF name stands the other way round there."""
        return name.endswith(".weight") and name.split(".")[-2] in self.turned


LLAMA = Family(
    settings={
        "num_hidden_layers": "block_count",
        "max_position_embeddings": "context_length",
        "hidden_size": "embedding_length",
        "intermediate_size": "feed_forward_length",
        "num_attention_heads": "attention.head_count",
        "num_key_value_heads": "attention.head_count_kv",
        "head_dim": "attention.key_length",
        "rms_norm_eps": "attention.layer_norm_rms_epsilon",
        "rope_theta": "rope.freq_base",
        "sliding_window": "attention.sliding_window",
    },
    names={
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    },
    block="model.layers",
    parts={
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    },
)

GPT2 = Family(
    settings={
        "n_layer": "block_count",
        "n_positions": "context_length",
        "n_embd": "embedding_length",
        "n_inner": "feed_forward_length",
        "n_head": "attention.head_count",
        "layer_norm_epsilon": "attention.layer_norm_epsilon",
    },
    names={
        "token_embd.weight": "transformer.wte.weight",
        "position_embd.weight": "transformer.wpe.weight",
        "output_norm.weight": "transformer.ln_f.weight",
        "output_norm.bias": "transformer.ln_f.bias",
        "output.weight": "lm_head.weight",
    },
    block="transformer.h",
    parts={
        "attn_norm": "ln_1",
        "attn_qkv": "attn.c_attn",
        "attn_output": "attn.c_proj",
        "ffn_norm": "ln_2",
        "ffn_up": "mlp.c_fc",
        "ffn_down": "mlp.c_proj",
    },
    turned=("attn_qkv", "attn_output", "ffn_up", "ffn_down"),
)

FAMILIES = {"llama": LLAMA, "qwen2": LLAMA, "qwen3": LLAMA, "gpt2": GPT2}
"""By general.architecture. Mistral is a llama there."""

SCALING = {
    "factor": "rope.scaling.factor",
    "original_max_position_embeddings": "rope.scaling.original_context_length",
    "beta_fast": "rope.scaling.yarn_beta_fast",
    "beta_slow": "rope.scaling.yarn_beta_slow",
}
"""Of scaled rotary positions; Hugging Face's names to GGUF's, behind the architecture's."""

LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Of Llama 3.1 and 3.2: a GGUF file holds only what follows from these, by what each frequency is divided."""

FREQUENCIES = "rope_freqs.weight"
"""The tensor that holds that."""
