"""Sizes of models that are planned: parameters and operations equal those of papers, and of our own models."""

import json

import pytest

from tinygrad_llm.models import GPT, GPTConfig, Llama, LlamaConfig
from tinygrad_llm.parallel.plan_models import NAMED, ModelSizes, find_model

SMALL_GPT = GPTConfig(vocab_size=99, context=20, channels=24, layers=3, heads=4, feed_forward=40)
SMALL_LLAMA = {"vocab_size": 99, "channels": 24, "layers": 3, "heads": 4, "kv_heads": 2, "feed_forward": 50}
LLAMAS = [
    LlamaConfig(**SMALL_LLAMA),
    LlamaConfig(**SMALL_LLAMA, tied=False),
    LlamaConfig(**SMALL_LLAMA, qkv_bias=True, head_channels=10),
    LlamaConfig(**SMALL_LLAMA, qk_norm=True),
]
TABLE_1 = {  # Narayanan et al. 2021: billions of parameters
    "1.7b": "1.7",
    "3.6b": "3.6",
    "7.5b": "7.5",
    "18b": "18.4",
    "39b": "39.1",
    "76b": "76.1",
    "146b": "145.6",
    "310b": "310.1",
    "530b": "529.6",
    "1t": "1008.0",
}


def test_parameters_are_counted_as_our_models_have_them():
    assert ModelSizes.of(SMALL_GPT).parameters == sum(p.size for p in GPT(SMALL_GPT).parameters())
    for config in LLAMAS:
        assert ModelSizes.of(config).parameters == sum(p.size for p in Llama(config).parameters())


def test_the_published_sizes():
    published = {
        "gpt2": 124_439_808,
        "gpt2-medium": 354_823_168,
        "gpt2-large": 774_030_080,
        "gpt2-xl": 1_557_611_200,
        "llama-7b": 6_738_415_616,
        "llama-13b": 13_015_864_320,
        "llama-65b": 65_285_660_672,
        "llama2-70b": 68_976_648_192,
        "llama3-8b": 8_030_261_248,
        "llama3-70b": 70_553_706_496,
    }
    assert {name: NAMED[name].parameters for name in published} == published
    assert f"{NAMED['gpt3-175b'].parameters / 1e9:.1f}" == "174.6"


@pytest.mark.parametrize("name", TABLE_1)
def test_the_ten_sizes_of_megatron(name):
    model = NAMED[f"megatron-{name}"]
    assert f"{model.parameters / 1e9:.1f}" == TABLE_1[name]
    h, layers, v, s = model.channels, model.layers, model.vocab_size, model.context
    formula = 12 * layers * h**2 * (1 + 13 / (12 * h) + (v + s) / (12 * layers * h))
    assert model.parameters - 2 * h == pytest.approx(formula, rel=1e-12)  # the paper leaves the last norm out


@pytest.mark.parametrize("name", ["megatron-1.7b", "gpt3-175b", "megatron-1t"])
def test_operations_of_a_step_are_the_papers_formula(name):
    model, batch = NAMED[name], 7
    s, h, layers, v = 2048, model.channels, model.layers, model.vocab_size
    full = 96 * batch * s * layers * h**2 * (1 + s / (6 * h) + v / (16 * layers * h))
    none = 72 * batch * s * layers * h**2 * (1 + s / (6 * h) + v / (12 * layers * h))
    assert model.step_operations(batch, s, "full") == pytest.approx(full, rel=1e-12)
    assert model.step_operations(batch, s) == pytest.approx(none, rel=1e-12)


@pytest.mark.parametrize(("name", "ours", "paper"), [("gpt3-175b", 0.9, 2.7), ("megatron-530b", 0.55, 1.6)])
def test_selective_recomputation_costs_less_than_the_paper_prints(name, ours, paper):
    model, s = NAMED[name], 2048
    h = model.channels
    layers = model.step_operations(1, s) - 3 * model.head_operations(s)
    extra = 100 * (model.step_operations(1, s, "selective") - model.step_operations(1, s)) / layers
    assert extra == pytest.approx(100 * s / (18 * h) / (1 + s / (6 * h)), rel=1e-12)
    assert extra == pytest.approx(ours, abs=0.01)
    assert 100 * s / (6 * h) == pytest.approx(paper, abs=0.1)


def test_operations_of_a_llama_are_two_for_each_number_of_its_matrices():
    model = NAMED["llama2-70b"]
    matrices = 8192 * (8192 + 2 * 1024) + 8192 * 8192 + 3 * 8192 * 28672
    assert model.layer_operations(10, 4) == (2 * 10 * matrices, 4 * 10 * 4 * 8192)
    assert model.head_operations(10) == 2 * 10 * 32000 * 8192


def test_a_folder_with_a_config_json(tmp_path):
    GPT(SMALL_GPT).save_pretrained(tmp_path / "gpt")
    Llama(LLAMAS[1]).save_pretrained(tmp_path / "llama")
    assert find_model(str(tmp_path / "gpt")).parameters == ModelSizes.of(SMALL_GPT).parameters
    for path in (tmp_path / "llama", tmp_path / "llama" / "config.json"):
        assert find_model(str(path)).parameters == ModelSizes.of(LLAMAS[1]).parameters
    assert find_model("GPT2-XL") is NAMED["gpt2-xl"]


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"gpt5: neither a folder with a config\.json nor a model by name: gpt2, gpt2-m"
    ):
        find_model("gpt5")
    file = tmp_path / "config.json"
    for content, message in (
        ("{", "not valid JSON"),
        ("[]", "model_type None cannot be planned; known are gpt2, llama"),
        (json.dumps({"model_type": "bert"}), "model_type 'bert' cannot be planned"),
        (json.dumps({"model_type": "gpt2"}), "config.json lacks vocab_size"),
        (
            json.dumps(
                {"model_type": "gpt2", "vocab_size": 9, "n_positions": 9, "n_embd": 9, "n_layer": 1, "n_head": 2}
            ),
            "channels=9 is not a multiple of heads=2",
        ),
    ):
        file.write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=message) as error:
            find_model(str(tmp_path))
        assert str(file) in str(error.value)
