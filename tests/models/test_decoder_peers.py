"""Decoders against transformers: files both ways, logits, and the gradient of every parameter."""

import types

import numpy as np
import pytest

from tinygrad_llm import no_grad, ops
from tinygrad_llm.models import GPT, GPTConfig, Llama, LlamaConfig, RotaryScaling, load_model
from tinygrad_llm.weights import scatter

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[peers]'")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[peers]'")

pytestmark = pytest.mark.filterwarnings("ignore")

V = 97
SIZES = {"vocab_size": V, "context": 24, "channels": 48, "layers": 2, "heads": 6, "kv_heads": 2, "feed_forward": 80}


def llama(**options):
    return LlamaConfig(**{**SIZES, "rotary_base": 500.0, "norm_eps": 1e-3, **options})


YARN = RotaryScaling("yarn", 4.0, 12, fast=4.0, slow=1.0)
CASES = {
    "GPT2": GPTConfig(V, 24, 48, 2, 4),
    "GPT2, odd heads and a width of its own": GPTConfig(V, 24, 45, 3, 5, feed_forward=70),
    "Llama": llama(),
    "Llama, one key head, untied": llama(heads=4, kv_heads=1, tied=False),
    "Llama, ungrouped": llama(heads=3, kv_heads=3),
    "Llama, linear scaling": llama(rotary_scaling=RotaryScaling("linear", 2.0)),
    "Llama, llama3 scaling": llama(rotary_base=50.0, rotary_scaling=RotaryScaling("llama3", 8.0, 12, 1.0, 4.0)),
    "Llama, yarn": llama(rotary_base=50.0, rotary_scaling=YARN),
    "Mistral": llama(window=5, tied=False),
    "Mistral, heads of a width of their own": llama(window=2, head_channels=10),
    "Qwen2": llama(qkv_bias=True),
    "Qwen2, window": llama(qkv_bias=True, window=7, tied=False),
    "Qwen3": llama(qk_norm=True, head_channels=12),
    "Qwen3, window": llama(qk_norm=True, window=6, heads=4, kv_heads=4, tied=False),
}


def build(config, dtype):
    """A model of ours whose parameters are all random, gains and biases too."""
    rng = np.random.default_rng(0)
    model = (GPT if isinstance(config, GPTConfig) else Llama)(config).astype(dtype)
    for parameter in model.parameters():
        parameter.data = (0.2 * rng.standard_normal(parameter.shape)).astype(dtype)
    return model


def opened_there(folder, dtype):
    """The model that transformers makes of the folder, all of whose tensors it must know and find."""
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), output_loading_info=True, attn_implementation="sdpa"
    )
    assert not any(info.values()), info
    return theirs.eval()


def in_double(theirs, ours):
    """transformers computes norms and angles in float32 even in a float64 model: do it in float64, with its own
    frequencies, which it has in float32 too."""

    def norm(self, x):
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)

    for module in theirs.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = types.MethodType(norm, module)
    rotary = getattr(theirs.model, "rotary_emb", None) if hasattr(theirs, "model") else None
    if rotary is None:
        return
    frequencies = rotary.inv_freq.double()

    def angles(self, x, position_ids, **_):
        turns = position_ids[..., None].double() * frequencies
        turns = torch.cat((turns, turns), dim=-1)
        return turns.cos() * self.attention_scaling, turns.sin() * self.attention_scaling

    rotary.forward = types.MethodType(angles, rotary)
    for block in ours.blocks:
        attention = block.attention
        own = attention.frequencies
        if own is None:
            own = attention.base ** (-np.arange(len(frequencies)) / len(frequencies))
        np.testing.assert_allclose(own, frequencies.numpy(), rtol=3e-6)
        attention.frequencies = frequencies.numpy()


def close(ours, theirs, tolerance):
    """Relative to the largest value."""
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-4)])
@pytest.mark.parametrize("name", CASES)
def test_logits_and_all_gradients_are_those_of_transformers(name, dtype, tolerance, tmp_path):
    """With padding on the left of one sequence, whose logits do not count."""
    ours = build(CASES[name], dtype)
    ours.save_pretrained(tmp_path)
    theirs = opened_there(tmp_path, dtype)
    assert type(theirs).__name__ == name.split(",")[0] + ("LMHeadModel" if name.startswith("GPT2") else "ForCausalLM")
    if dtype == "float64":
        in_double(theirs, ours)
    rng = np.random.default_rng(1)
    ids, targets = rng.integers(0, V, (2, 3, 20))
    real = np.arange(20) >= np.array([0, 6, 1])[:, None]
    positions = np.maximum(real.cumsum(1) - 1, 0)
    targets = np.where(real, targets, -100)
    logits = ours(ids, positions, real[:, None, None])
    expected = theirs(
        input_ids=torch.tensor(ids), attention_mask=torch.tensor(real).long(), position_ids=torch.tensor(positions)
    ).logits
    close(logits.data[real], expected[torch.tensor(real)], tolerance)
    ops.cross_entropy(logits, targets).backward()
    torch.nn.functional.cross_entropy(expected.flatten(0, 1), torch.tensor(targets).flatten()).backward()
    gradients = scatter(ours.layout, ours.config, {n: p.grad for n, p in ours.named_parameters()})
    peers = dict(theirs.named_parameters())
    assert peers.keys() == gradients.keys()
    for parameter, gradient in gradients.items():
        close(gradient, peers[parameter].grad, tolerance)


@pytest.mark.parametrize("name", CASES)
def test_what_transformers_writes_is_read_bit_for_bit(name, tmp_path):
    ours = build(CASES[name], "float32")
    ours.save_pretrained(tmp_path / "a")
    opened_there(tmp_path / "a", "float32").save_pretrained(tmp_path / "b")
    again = load_model(tmp_path / "b")
    assert type(again) is type(ours)
    assert again.config == ours.config
    for parameter, array in again.state_dict().items():
        np.testing.assert_array_equal(array, ours.state_dict()[parameter])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_read_as_float32(dtype, tmp_path):
    ours = build(CASES["Llama"], "float32")
    ours.save_pretrained(tmp_path / "a")
    theirs = opened_there(tmp_path / "a", dtype)
    theirs.save_pretrained(tmp_path / "b")
    again = Llama.from_pretrained(tmp_path / "b")
    peers = dict(theirs.named_parameters())
    for name, array in scatter(again.layout, again.config, again.state_dict()).items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, peers[name].detach().float().numpy())


def test_many_files_are_read_as_one(tmp_path):
    ours = build(CASES["Qwen2"], "float32")
    ours.save_pretrained(tmp_path / "a")
    opened_there(tmp_path / "a", "float32").save_pretrained(tmp_path / "b", max_shard_size="20KB")
    assert len(list((tmp_path / "b").glob("*.safetensors"))) > 2
    ids = np.arange(10)[None]
    with no_grad():
        np.testing.assert_array_equal(load_model(tmp_path / "b")(ids).data, ours(ids).data)
