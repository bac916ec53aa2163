"""Classifiers against transformers' ForSequenceClassification: logits, loss, every gradient, folders both ways."""

import types

import numpy as np
import pytest

from tinygrad_llm.models import BertConfig, GPTConfig, LlamaConfig, load_model, new_model
from tinygrad_llm.models.classifier import make_classifier
from tinygrad_llm.weights import scatter

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[peers]'")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[peers]'")

pytestmark = pytest.mark.filterwarnings("ignore")

V = 61
LABELS = ("no", "yes", "perhaps")
CASES = {
    "GPT2": GPTConfig(V, 24, 48, 2, 4),
    "Llama": LlamaConfig(V, 24, 48, 2, 4, 2, 96),
    "Mistral": LlamaConfig(V, 24, 48, 2, 4, 2, 96, window=5),
    "Qwen2": LlamaConfig(V, 24, 48, 2, 4, 2, 96, qkv_bias=True),
    "Qwen3": LlamaConfig(V, 24, 48, 2, 4, 2, 96, qk_norm=True, head_channels=16, tied=False),
    "Bert": BertConfig(V, 24, 48, 2, 6, 80, norm_eps=1e-3),
}


def build(name, dtype):
    """A classifier whose parameters are all random."""
    pooling = "first" if name == "Bert" else "last"
    model = make_classifier(new_model(CASES[name], 1), LABELS, pooling, padding=0).astype(dtype).eval()
    rng = np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.data = (parameter.data + 0.2 * rng.standard_normal(parameter.shape)).astype(dtype)
    return model


def opened_there(name, folder, dtype):
    """The model that transformers makes of the folder, all of whose tensors it must know and find."""
    theirs, info = getattr(transformers, f"{name}ForSequenceClassification").from_pretrained(
        folder, dtype=getattr(torch, dtype), output_loading_info=True
    )
    assert not any(info.values()), info
    assert theirs.config.architectures == [f"{name}ForSequenceClassification"]
    assert theirs.config.id2label == dict(enumerate(LABELS))
    return theirs.eval()


def in_double(theirs, ours):
    """transformers computes RMSNorm and angles in float32 even in a float64 model: do it in float64, with its own
    frequencies, which it has in float32 too."""

    def norm(self, x):
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)

    for module in theirs.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = types.MethodType(norm, module)
    rotary = getattr(getattr(theirs, "model", None), "rotary_emb", None)
    if rotary is None:
        return
    frequencies = rotary.inv_freq.double()

    def angles(self, x, position_ids, **_):
        turns = position_ids[..., None].double() * frequencies
        turns = torch.cat((turns, turns), dim=-1)
        return turns.cos(), turns.sin()

    rotary.forward = types.MethodType(angles, rotary)
    for block in ours.blocks:
        block.attention.frequencies = frequencies.numpy()


def close(ours, theirs, tolerance):
    """Relative to the largest value."""
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-4)])
@pytest.mark.parametrize("name", CASES)
def test_logits_loss_and_all_gradients_are_those_of_transformers(name, dtype, tolerance, tmp_path):
    ours = build(name, dtype)
    ours.save_pretrained(tmp_path)
    theirs = opened_there(name, tmp_path, dtype)
    if dtype == "float64":
        in_double(theirs, ours)
    rng = np.random.default_rng(1)
    ids, targets = rng.integers(1, V, (4, 20)), np.array([2, 0, 0, 1])
    real = np.arange(20) < np.array([20, 13, 1, 19])[:, None]
    ids[~real] = 0
    found = theirs(torch.tensor(ids), attention_mask=torch.tensor(real).long(), labels=torch.tensor(targets))
    close(ours(ids, real[:, None, None]).data, found.logits, tolerance)
    loss = ours.loss(ids, targets, real[:, None, None])
    close(loss.data, found.loss, tolerance)
    loss.backward()
    found.loss.backward()
    gradients = scatter(ours.layout, ours.config, {n: p.grad for n, p in ours.named_parameters()})
    peers = dict(theirs.named_parameters())
    assert peers.keys() == gradients.keys()
    for parameter, gradient in gradients.items():
        if parameter.endswith("key.bias"):  # softmax does not feel it: all that there is, is rounding
            scale = np.abs(gradients[parameter.replace("key.bias", "query.bias")]).max()
            assert np.abs(gradient).max() <= tolerance * scale
        else:
            close(gradient, peers[parameter].grad, tolerance)


@pytest.mark.parametrize("name", CASES)
def test_what_transformers_writes_is_read_bit_for_bit(name, tmp_path):
    ours = build(name, "float32")
    ours.save_pretrained(tmp_path / "a")
    opened_there(name, tmp_path / "a", "float32").save_pretrained(tmp_path / "b")
    again = load_model(tmp_path / "b")
    assert type(again) is type(ours)
    assert again.config == ours.config
    for parameter, array in again.state_dict().items():
        np.testing.assert_array_equal(array, ours.state_dict()[parameter])
