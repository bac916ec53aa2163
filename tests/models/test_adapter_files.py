"""Adapters in and out of files: what is written, what is refused, and that a checkpoint's saver has what it needs."""

import json
import tracemalloc

import numpy as np
import pytest

from tinygrad_llm import no_grad
from tinygrad_llm.models import BertConfig, GPTConfig, LlamaConfig, load_model, new_model
from tinygrad_llm.models.adapter_files import AdapterAlone, MergedModel, load_adapter, merge_adapter, save_adapter
from tinygrad_llm.models.adapters import LoRASettings, adapters, attach, trainable
from tinygrad_llm.models.classifier import make_classifier
from tinygrad_llm.weights.adapters import read_adapter, short_names
from tinygrad_llm.weights.safetensors_file import open_safetensors, write_safetensors

V = 61
CONFIGS = {
    "llama": (LlamaConfig(V, 24, 48, 2, 4, 2, 96), "q+v"),
    "llama, all": (LlamaConfig(V, 24, 48, 2, 4, 2, 96), "all"),
    "gpt": (GPTConfig(V, 24, 48, 2, 4), "out+down"),
    "bert": (BertConfig(V, 24, 48, 2, 6, 80), "k+down"),
    "bert, encoder": (BertConfig(V, 24, 48, 2, 6, 80, head="none"), "all"),
}
every = pytest.mark.parametrize("name", CONFIGS)
IDS = np.random.default_rng(0).integers(0, V, (2, 9))


def logits(model):
    with no_grad():
        return model.eval()(IDS).data


def adapted(name="llama", seed=0, rank=2):
    config, targets = CONFIGS[name]
    model = new_model(config, 3)
    attach(model, LoRASettings.parse(f"r={rank},alpha=3,targets={targets},dropout=0.25"), seed)
    rng = np.random.default_rng(seed)
    for module in adapters(model).values():
        module.lora_b.data[:] = 0.3 * rng.standard_normal(module.lora_b.shape)
    return model


@pytest.fixture
def folder(tmp_path):
    save_adapter(adapted(), tmp_path, "base")
    return tmp_path


@every
def test_what_was_saved_is_read_to_the_bit(name, tmp_path):
    model = adapted(name)
    save_adapter(model, tmp_path, "somewhere/base")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    other = new_model(CONFIGS[name][0], 3)
    load_adapter(other, tmp_path)
    np.testing.assert_array_equal(logits(other), logits(model))
    assert [n for n, _ in trainable(other)] == [n for n, _ in trainable(model)]
    for (_, a), (_, b) in zip(trainable(other), trainable(model), strict=True):
        np.testing.assert_array_equal(a.data, b.data)
        assert a.data.flags.c_contiguous
    for a, b in zip(adapters(other).values(), adapters(model).values(), strict=True):
        assert (a.rank, a.alpha, a.parts, a.dropout.p) == (b.rank, b.alpha, b.parts, b.dropout.p)
    merged = new_model(CONFIGS[name][0], 3)
    merge_adapter(merged, tmp_path)
    assert not adapters(merged)
    assert all(p.requires_grad for p in merged.parameters())
    np.testing.assert_allclose(logits(merged), logits(model), rtol=0, atol=1e-5)


def test_the_names_and_shapes_of_a_file(tmp_path):
    save_adapter(adapted(rank=3), tmp_path, "base")
    tensors = open_safetensors(tmp_path / "adapter_model.safetensors")
    attention = "base_model.model.model.layers.{}.self_attn.{}_proj.lora_{}.weight"
    shapes = {"q": (48, 3), "v": (24, 3)}
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        attention.format(layer, part, end): (3, 48) if end == "A" else shapes[part]
        for layer in (0, 1) for part in "qv" for end in "AB"
    }  # fmt: skip
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "base"
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (3, 3, 0.25)
    assert config["target_modules"] == ["q_proj", "v_proj"]
    assert config["fan_in_fan_out"] is False
    save_adapter(adapted("gpt"), tmp_path, "base")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["fan_in_fan_out"] is True
    assert config["target_modules"] == ["c_proj"]
    save_adapter(adapted("bert, encoder"), tmp_path, "base")
    names = open_safetensors(tmp_path / "adapter_model.safetensors")
    assert "base_model.model.encoder.layer.0.attention.self.query.lora_A.weight" in names
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert "dense" not in config["target_modules"]  # it would be that of the pooler too, which transformers has
    save_adapter(adapted("bert"), tmp_path, "base")
    names = open_safetensors(tmp_path / "adapter_model.safetensors")
    assert "base_model.model.bert.encoder.layer.1.output.dense.lora_B.weight" in names


def test_names_are_as_short_as_they_are_clear():
    layers = [f"layers.{n}.{end}" for n in (0, 1, 11) for end in ("mlp.up", "attention.output.dense", "output.dense")]
    known = [*layers, "pooler.dense"]

    def short(*ends):
        return short_names([n for n in layers if any(n.endswith(end) for end in ends)], known)

    assert short("up") == ("up",)
    assert short("attention.output.dense") == ("attention.output.dense",)
    assert short("output.dense") == ("attention.output.dense", "output.dense")
    assert short(".0.output.dense", ".1.output.dense", "11.output.dense") == tuple(
        f"layers.{n}.output.dense" for n in (0, 1, 11)
    )
    assert short("1.mlp.up") == ("layers.1.mlp.up", "layers.11.mlp.up")
    assert short("layers.1.mlp.up") == ("layers.1.mlp.up",)


def test_a_file_of_the_bare_model_is_read_too(folder):
    tensors = {n: np.array(t.read()) for n, t in open_safetensors(folder / "adapter_model.safetensors").items()}
    bare = {n.replace("base_model.model.model.", "base_model.model."): a for n, a in tensors.items()}
    write_safetensors(folder / "adapter_model.safetensors", bare, {})
    model = new_model(CONFIGS["llama"][0], 3)
    load_adapter(model, folder)
    np.testing.assert_array_equal(logits(model), logits(adapted()))
    some = next(iter(bare))
    write_safetensors(folder / "adapter_model.safetensors", {**tensors, some: bare[some]}, {})
    refused(folder, "tensors stand twice")


def test_bfloat16_and_float16_are_read(folder):
    tensors = {n: np.array(t.read()) for n, t in open_safetensors(folder / "adapter_model.safetensors").items()}
    for kind in ("bfloat16", "float16"):
        write_safetensors(folder / "adapter_model.safetensors", tensors, {}, kind)
        model = new_model(CONFIGS["llama"][0], 3)
        load_adapter(model, folder)
        assert all(p.dtype == np.float32 for _, p in trainable(model))
        np.testing.assert_allclose(logits(model), logits(adapted()), rtol=0, atol=0.02)


def test_a_saver_restores_what_it_saved(tmp_path):
    model = adapted()
    saver = AdapterAlone(model, "base")
    assert saver.files == ("adapter_config.json", "adapter_model.safetensors")
    saver.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(saver.files)
    before = {n: p.data.copy() for n, p in trainable(model)}
    parameters = dict(trainable(model))
    for p in parameters.values():
        p.data = p.data + 1
        p.grad = p.data
    saver.load(tmp_path)
    for n, p in trainable(model):
        assert p is parameters[n]  # which the optimiser holds
        assert p.grad is None
        assert p.data.flags.writeable
        np.testing.assert_array_equal(p.data, before[n])


@pytest.mark.parametrize("other", ["rank", "targets", "alpha"])
def test_a_saver_refuses_another_adapter(other, folder):
    model = new_model(CONFIGS["llama"][0], 3)
    settings = {"rank": "r=3,alpha=3,targets=q+v", "targets": "r=2,alpha=3,targets=q+k", "alpha": "r=2,targets=q+v"}
    attach(model, LoRASettings.parse(settings[other]))
    before = {n: p.data.copy() for n, p in trainable(model)}
    with pytest.raises(ValueError, match="another rank, alpha or other linear maps"):
        AdapterAlone(model, "base").load(folder)
    for n, p in trainable(model):
        np.testing.assert_array_equal(p.data, before[n])


def with_a_head():
    model = make_classifier(new_model(CONFIGS["llama"][0], 3), ("no", "yes"), seed=1)
    attach(model, LoRASettings.parse("r=2,targets=q+v"), besides=("score",))
    rng = np.random.default_rng(2)
    for _, parameter in trainable(model):
        parameter.data[:] = 0.3 * rng.standard_normal(parameter.shape)
    return model


def test_a_saver_of_a_model_with_a_head_that_is_trained_too(tmp_path):
    model = with_a_head()
    with pytest.raises(ValueError, match=r"score\.weight is trained besides"):
        AdapterAlone(model, "base").save(tmp_path)
    assert not list(tmp_path.iterdir())
    saver, expected, there = MergedModel(model), logits(model), adapters(model)
    saver.save(tmp_path)
    assert adapters(model) == there
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(saver.files)
    np.testing.assert_allclose(logits(load_model(tmp_path)), expected, rtol=0, atol=1e-5)
    parameters, before = dict(trainable(model)), {n: p.data.copy() for n, p in model.named_parameters()}
    for p in parameters.values():
        p.data = p.data + 1
        p.grad = p.data
    saver.load(tmp_path)
    for n, p in model.named_parameters():
        np.testing.assert_array_equal(p.data, before[n])
    assert all(p is parameters[n] and p.grad is None and p.data.flags.writeable for n, p in trainable(model))
    other = make_classifier(new_model(CONFIGS["llama"][0], 3), ("no", "yes"))
    attach(other, LoRASettings.parse("r=3,targets=q+v"), besides=("score",))
    with pytest.raises(ValueError, match="was trained with other settings"):
        MergedModel(other).load(tmp_path)


def test_a_model_without_an_adapter_is_not_saved_and_with_one_not_loaded(folder, tmp_path):
    with pytest.raises(ValueError, match="no adapter to save"):
        save_adapter(new_model(CONFIGS["llama"][0]), tmp_path / "new", "base")
    assert not (tmp_path / "new").exists()
    for load in (load_adapter, merge_adapter):
        with pytest.raises(ValueError, match="has an adapter already"):
            load(adapted(), folder)


# -- damaged, lying and foreign files ----------------------------------------------------------------------------------


def refused(folder, message, name="llama"):
    """Nothing was changed, and not much memory asked for."""
    model = new_model(CONFIGS[name][0], 3)
    before = list(model.modules())
    tracemalloc.start()
    try:
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            load_adapter(model, folder)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert list(model.modules()) == before
    assert all(p.requires_grad for p in model.parameters())


def put(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("use_dora", True),
        ("use_rslora", True),
        ("rank_pattern", {"q_proj": 4}),
        ("alpha_pattern", {"q_proj": 4}),
        ("bias", "all"),
        ("bias", "lora_only"),
        ("lora_bias", True),
        ("modules_to_save", ["score"]),
        ("layers_to_transform", [0]),
        ("exclude_modules", ["v_proj"]),
        ("layer_replication", [[0, 1]]),
        ("trainable_token_indices", [1]),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", 1),
        ("loftq_config", {"bits": 4}),
        ("target_parameters", ["x"]),
        ("use_qalora", True),
        ("something_of_tomorrow", 1),
        ("something_of_tomorrow", 0.5),
    ],
)
def test_settings_without_a_counterpart_are_refused_by_name(name, value, folder):
    put(folder, **{name: value})
    refused(folder, rf"adapter_config\.json: {name} = .* is unknown here")


@pytest.mark.parametrize("value", [None, False, [], {}, ""])
def test_what_is_neutral_passes(value, folder):
    put(folder, use_dora=value, modules_to_save=value, something_of_tomorrow=value, init_lora_weights="gaussian")
    load_adapter(new_model(CONFIGS["llama"][0], 3), folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; only LORA"),
        ({"peft_type": None}, "peft_type is None"),
        ({"r": 0}, "r is 0, which is no rank"),
        ({"r": True}, "r is True"),
        ({"r": "8"}, "r is '8'"),
        ({"r": 2.0}, "r is 2.0"),
        ({"r": 10**30}, "r is 1000"),
        ({"r": 500_000}, "mismatched"),
        ({"r": 3}, r"mismatched: .*lora_A.weight should be \(3, 48\), and is \(2, 48\)"),
        ({"lora_alpha": 0}, "lora_alpha = 0.0 must not be 0"),
        ({"lora_alpha": "16"}, "lora_alpha is '16'"),
        ({"lora_alpha": None}, "lora_alpha is None"),
        ({"lora_alpha": 1e300}, "lora_alpha is 1e"),
        ({"lora_dropout": 1.0}, "lora_dropout = 1.0 must be in"),
        ({"lora_dropout": -0.1}, "lora_dropout = -0.1 must be in"),
        ({"target_modules": 3}, "target_modules is 3"),
        ({"target_modules": []}, r"target_modules is \[\]"),
        ({"target_modules": ["q_proj", 1]}, "target_modules is"),
        ({"target_modules": ["q_proj", "v_proj", "k_proj"]}, r"missing: layers.0.self_attn.k_proj.lora_A.w"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path is None"),
        ({"base_model_name_or_path": ["x"]}, "base_model_name_or_path is"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(changes, message, folder):
    put(folder, **changes)
    refused(folder, message)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"r"', "[" * 100_000, "\xff"])
def test_what_is_no_configuration_is_refused(text, folder):
    (folder / "adapter_config.json").write_bytes(text.encode("latin-1"))
    refused(folder, r"adapter_config\.json")


def change(folder, function):
    path = folder / "adapter_model.safetensors"
    tensors = {name: np.array(tensor.read()) for name, tensor in open_safetensors(path).items()}
    write_safetensors(path, function(tensors), {})


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda t: {n: a for n, a in t.items() if n != FIRST}, "missing: layers.0.self_attn.q_proj.lora_A.weight"),
        (lambda t: {**t, FIRST: t[FIRST][:, :-1]}, r"mismatched: .*q_proj.lora_A.weight should be \(2, 48\)"),
        (lambda t: {**t, FIRST: t[FIRST].T}, "mismatched: .*q_proj.lora_A.weight"),
        (lambda t: {**t, FIRST: t[FIRST].astype(np.int64)}, "which is not floating-point"),
        (lambda t: {**t, FIRST: t[FIRST] * np.nan}, "not finite"),
        (lambda t: {**t, "base_model.model.lm_head.lora_A.weight": t[FIRST]}, "unexpected: lm_head.lora_A.weight"),
        (lambda t: {**t, "base_model.model.model.embed_tokens.weight": t[FIRST]}, "unexpected: embed_tokens.weight"),
        (lambda t: {**t, FIRST.replace("lora_A.weight", "lora_magnitude_vector"): t[FIRST]}, "unexpected: .*magnitude"),
        (lambda t: {n.replace("layers.0", "layers.7"): a for n, a in t.items()}, "unexpected: layers.7"),
        (lambda t: {n.replace("base_model.model.", ""): a for n, a in t.items()}, "does not begin with base_model."),
        (lambda t: {}, "missing"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused(function, message, folder):
    change(folder, function)
    refused(folder, message)


def test_damaged_and_missing_files(folder):
    put(folder, target_modules=["q_proj"])
    refused(folder, "holds no adapter of a GPT", "gpt")
    path = folder / "adapter_model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-7])
    refused(folder, "not a readable safetensors file")
    path.unlink()
    refused(folder, r"adapter_model\.safetensors: no such file")
    (folder / "adapter_model.bin").write_bytes(b"pickle")
    refused(folder, r"adapter_model\.bin: a pickle")
    (folder / "adapter_config.json").unlink()
    refused(folder, r"adapter_config\.json: no such file")


def test_a_regular_expression_of_targets_is_not_run(folder):
    put(folder, target_modules="(a+)+$")
    assert read_adapter(folder)[0].targets is None
    load_adapter(new_model(CONFIGS["llama"][0], 3), folder)
