"""Adapters against peft: files both ways with equal logits, and the gradients of A and B in float64."""

import json
import types

import numpy as np
import pytest

from tinygrad_llm import no_grad
from tinygrad_llm.models import BertConfig, GPTConfig, LlamaConfig, new_model
from tinygrad_llm.models.adapter_files import load_adapter, save_adapter
from tinygrad_llm.models.adapters import LoRASettings, adapters, attach, trainable

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[peers]'")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[peers]'")
peft = pytest.importorskip("peft", reason="peft is not installed: pip install '.[peers]'")

pytestmark = pytest.mark.filterwarnings("ignore")

V = 61
CASES = {
    "Llama": (LlamaConfig(V, 24, 48, 2, 4, 2, 96), "q+v", ["q_proj", "v_proj"]),
    "Mistral": (LlamaConfig(V, 24, 48, 2, 4, 2, 96, window=5, tied=False), "k+up", ["k_proj", "up_proj"]),
    "Qwen2": (LlamaConfig(V, 24, 48, 2, 4, 2, 96, qkv_bias=True), "all", "all-linear"),
    "GPT2": (GPTConfig(V, 24, 48, 2, 4), "qkv+out+up+down", ["c_attn", "c_proj", "c_fc"]),
    "GPT2, a pattern": (GPTConfig(V, 24, 48, 2, 4), "blocks.1.mlp.*", ["h.1.mlp.c_fc", "h.1.mlp.c_proj"]),
    "Bert": (BertConfig(V, 24, 48, 2, 6, 80, norm_eps=1e-3), "q+out+down", ["query", "output.dense"]),
    "Bert, without a head": (BertConfig(V, 24, 48, 2, 6, 80, head="pooler"), "v+up", ["value", "intermediate.dense"]),
}
IDS = np.random.default_rng(0).integers(0, V, (3, 12))
TARGETS = np.random.default_rng(1).integers(0, V, (3, 12))


def auto_class(name):
    if name == "Bert":
        return transformers.BertForMaskedLM
    return transformers.BertModel if name.startswith("Bert") else transformers.AutoModelForCausalLM


def build(name, folder, dtype):
    """A model whose parameters are all random, and the folder that transformers reads it from."""
    model = new_model(CASES[name][0], 1).astype(dtype).eval()
    rng = np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.data = (parameter.data + 0.2 * rng.standard_normal(parameter.shape)).astype(dtype)
    model.save_pretrained(folder)
    return model


def base_there(name, folder, dtype):
    theirs = auto_class(name).from_pretrained(folder, dtype=getattr(torch, dtype))
    if dtype == "float64":
        in_double(theirs)
    return theirs.eval()


def in_double(theirs):
    """transformers computes RMSNorm in float32 even in a float64 model."""

    def norm(self, x):
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)

    for module in theirs.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = types.MethodType(norm, module)


def logits_there(theirs):
    output = theirs(torch.from_numpy(IDS))
    return getattr(output, "logits", None) if hasattr(output, "logits") else output.last_hidden_state


def logits(model):
    with no_grad():
        return model(IDS).data


def with_adapter(model, targets, dtype):
    attach(model, LoRASettings.parse(f"r=3,alpha=7.5,targets={targets}"))
    rng = np.random.default_rng(5)
    for module in adapters(model).values():
        module.lora_b.data = (0.3 * rng.standard_normal(module.lora_b.shape)).astype(dtype)
    return model.eval()


@pytest.mark.parametrize("name", CASES)
def test_peft_reads_ours(name, tmp_path):
    model = build(name, tmp_path / "base", "float32")
    before = logits(model)
    with_adapter(model, CASES[name][1], "float32")
    save_adapter(model, tmp_path / "adapter", str(tmp_path / "base"))
    base = base_there(name, tmp_path / "base", "float32")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    count = sum(p.numel() for n, p in theirs.named_parameters() if "lora_" in n)
    assert count == sum(p.size for _, p in trainable(model))  # so no map there has an adapter that is not in the file
    status = theirs.get_model_status()
    assert status.enabled
    expected = logits_there(theirs).detach().numpy()
    ours = logits(model)
    assert np.abs(ours - before).max() > 0.1
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("name", CASES)
def test_ours_reads_pefts(name, tmp_path):
    model = build(name, tmp_path / "base", "float32")
    config = peft.LoraConfig(r=3, lora_alpha=7, target_modules=CASES[name][2], lora_dropout=0.1)
    theirs = peft.get_peft_model(base_there(name, tmp_path / "base", "float32"), config)
    torch.manual_seed(0)
    for parameter_name, parameter in theirs.named_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(tmp_path / "adapter")
    theirs.eval()
    expected = logits_there(theirs).detach().numpy()
    before = logits(model)
    load_adapter(model, tmp_path / "adapter")
    ours = logits(model.eval())
    assert np.abs(ours - before).max() > 0.1
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))
    assert sum(p.size for _, p in trainable(model)) == sum(p.numel() for p in theirs.parameters() if p.requires_grad)
    assert all(module.dropout.p == 0.1 for module in adapters(model).values())


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_torch(name, tmp_path):
    """All in float64, which transformers leaves for norms and rotary angles unless it is made to stay."""
    model = build(name, tmp_path / "base", "float64")
    with_adapter(model, CASES[name][1], np.float64)
    save_adapter(model, tmp_path / "adapter", str(tmp_path / "base"))
    base = base_there(name, tmp_path / "base", "float64")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter", is_trainable=True)
    theirs.double().eval()
    rotary = [m for m in theirs.modules() if hasattr(m, "inv_freq")]
    for module in rotary:
        module.forward = types.MethodType(exact_rotary, module)
    dy = np.random.default_rng(2).standard_normal(logits(model).shape)
    model(IDS).backward(dy)
    logits_there(theirs).backward(torch.from_numpy(dy))
    found = {n: p.grad for n, p in theirs.named_parameters() if "lora_" in n}
    save_gradients_as_values(model)
    save_adapter(model, tmp_path / "gradients", str(tmp_path / "base"))
    from safetensors.numpy import load_file

    ours = load_file(tmp_path / "gradients" / "adapter_model.safetensors")
    assert len(ours) == len(found)
    for n, gradient in found.items():
        mine = ours[n.replace(".default.", ".")]
        scale = np.abs(gradient.numpy()).max()
        assert scale > 0
        np.testing.assert_allclose(mine, gradient.numpy(), rtol=0, atol=1e-9 * scale)


def save_gradients_as_values(model):
    for _, parameter in trainable(model):
        parameter.data, parameter.grad = parameter.grad, None


def exact_rotary(self, x, position_ids, *args, **kwargs):
    """cos and sin in float64, with frequencies in float64 too."""
    size = 2 * len(self.inv_freq)
    frequencies = 10000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = position_ids[..., None].double() * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def test_the_files_say_what_pefts_say(tmp_path):
    model = with_adapter(build("Llama", tmp_path / "base", "float32"), "q+v", "float32")
    save_adapter(model, tmp_path / "adapter", "base")
    config = peft.LoraConfig.from_pretrained(tmp_path / "adapter")
    assert config.r == 3
    assert config.lora_alpha == 7.5
    assert sorted(config.target_modules) == ["q_proj", "v_proj"]
    assert config.base_model_name_or_path == "base"
    assert config.task_type == "CAUSAL_LM"
    ours = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert ours.keys() <= config.to_dict().keys()
