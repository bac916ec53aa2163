"""GPT against transformers' GPT-2: logits and the gradient of every parameter."""

import numpy as np
import pytest

from tinygrad_llm import ops
from tinygrad_llm.models import GPT, GPTConfig

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[peers]'")
pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[peers]'")

# Our names to those of transformers; both store linear weights as (in, out), so nothing is transposed.
OUTER = {
    "token_embedding.weight": "transformer.wte.weight",
    "position_embedding.weight": "transformer.wpe.weight",
    "final_norm.gain": "transformer.ln_f.weight",
    "final_norm.bias": "transformer.ln_f.bias",
}
INNER = {
    "attention_norm.gain": "ln_1.weight",
    "attention_norm.bias": "ln_1.bias",
    "attention.qkv.weight": "attn.c_attn.weight",
    "attention.qkv.bias": "attn.c_attn.bias",
    "attention.out.weight": "attn.c_proj.weight",
    "attention.out.bias": "attn.c_proj.bias",
    "mlp_norm.gain": "ln_2.weight",
    "mlp_norm.bias": "ln_2.bias",
    "mlp.up.weight": "mlp.c_fc.weight",
    "mlp.up.bias": "mlp.c_fc.bias",
    "mlp.down.weight": "mlp.c_proj.weight",
    "mlp.down.bias": "mlp.c_proj.bias",
}


def peer_name(name):
    if name in OUTER:
        return OUTER[name]
    _, layer, inner = name.split(".", 2)
    return f"transformer.h.{layer}.{INNER[inner]}"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-4)])
def test_logits_and_gradients_are_those_of_gpt2(dtype, tolerance):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPTConfig(vocab_size=97, context=24, channels=48, layers=3, heads=4)
    theirs = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=97, n_positions=24, n_embd=48, n_layer=3, n_head=4, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
        )
    ).to(getattr(torch, dtype))
    rng = np.random.default_rng(0)
    ours = GPT(config).astype(dtype)
    peers = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        parameter.data = (0.2 * rng.standard_normal(parameter.shape)).astype(dtype)
        with torch.no_grad():
            peers[peer_name(name)].copy_(torch.from_numpy(parameter.data))
    ids = rng.integers(0, 97, (3, 20))
    logits, expected = ours(ids), theirs(torch.from_numpy(ids)).logits
    close(logits.data, expected, tolerance)
    targets = rng.integers(0, 97, (3, 20))
    ops.cross_entropy(logits, targets).backward()
    torch.nn.functional.cross_entropy(expected.flatten(0, 1), torch.from_numpy(targets).flatten()).backward()
    for name, parameter in ours.named_parameters():
        close(parameter.grad, peers[peer_name(name)].grad, tolerance)


def close(ours, theirs, tolerance):
    """Relative to the largest value."""
    theirs = theirs.detach().numpy()
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()
