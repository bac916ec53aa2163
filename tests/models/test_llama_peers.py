"""Llama against transformers' LlamaForCausalLM: logits and the gradient of every parameter."""

import numpy as np
import pytest

from tinygrad_llm import ops
from tinygrad_llm.models import Llama, LlamaConfig

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[peers]'")
pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[peers]'")

# Our names to those of transformers, which stores linear weights as (out, in): they are joined and transposed.
OUTER = {
    "token_embedding.weight": ["model.embed_tokens.weight"],
    "final_norm.gain": ["model.norm.weight"],
    "lm_head.weight": ["lm_head.weight"],
}
INNER = {
    "attention_norm.gain": ["input_layernorm.weight"],
    "attention.qkv.weight": [f"self_attn.{part}_proj.weight" for part in "qkv"],
    "attention.out.weight": ["self_attn.o_proj.weight"],
    "mlp_norm.gain": ["post_attention_layernorm.weight"],
    "mlp.gate.weight": ["mlp.gate_proj.weight"],
    "mlp.up.weight": ["mlp.up_proj.weight"],
    "mlp.down.weight": ["mlp.down_proj.weight"],
}


def as_ours(name, theirs):
    """The array of our parameter `name` from a mapping of their names to arrays."""
    if name in OUTER:
        found = [theirs[peer] for peer in OUTER[name]]
    else:
        _, layer, inner = name.split(".", 2)
        found = [theirs[f"model.layers.{layer}.{peer}"] for peer in INNER[inner]]
    joined = np.concatenate(found)
    return joined.T if joined.ndim == 2 and name != "token_embedding.weight" else joined


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    ("dtype", "tolerance", "tied", "heads", "kv_heads"),
    [("float64", 2e-6, True, 6, 2), ("float64", 2e-6, False, 4, 4), ("float32", 1e-4, True, 4, 1)],
)
def test_logits_and_gradients_are_those_of_transformers(dtype, tolerance, tied, heads, kv_heads):
    """Also in a float64 model transformers computes norms and angles in float32: so 2e-6, a few of float32's steps."""
    from transformers import LlamaConfig as TheirConfig
    from transformers import LlamaForCausalLM

    config = LlamaConfig(97, 24, 48, 3, heads, kv_heads, 80, rotary_base=500.0, norm_eps=1e-3, tied=tied)
    theirs = LlamaForCausalLM(
        TheirConfig(
            vocab_size=97,
            max_position_embeddings=24,
            hidden_size=48,
            num_hidden_layers=3,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            intermediate_size=80,
            rope_theta=500.0,
            rms_norm_eps=1e-3,
            tie_word_embeddings=tied,
        )
    ).to(getattr(torch, dtype))
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.from_numpy(0.2 * rng.standard_normal(parameter.shape)))
    ours = Llama(config).astype(dtype)
    values = {name: p.detach().numpy() for name, p in theirs.named_parameters()}
    ours.load_state_dict({name: as_ours(name, values) for name, _ in ours.named_parameters()})
    ids, targets = rng.integers(0, 97, (2, 3, 20))
    logits, expected = ours(ids), theirs(torch.from_numpy(ids)).logits
    close(logits.data, expected.detach().numpy(), tolerance)
    ops.cross_entropy(logits, targets).backward()
    torch.nn.functional.cross_entropy(expected.flatten(0, 1), torch.from_numpy(targets).flatten()).backward()
    gradients = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        close(parameter.grad, as_ours(name, gradients), tolerance)


def close(ours, theirs, tolerance):
    """Relative to the largest value."""
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()
