"""LoRA on a whole model: settings, targets, what is frozen, training, merging."""

import re
import tracemalloc

import numpy as np
import pytest

from tinygrad_llm import no_grad, use_backend
from tinygrad_llm.models import (
    BertConfig,
    DistilBertConfig,
    GPTConfig,
    LlamaConfig,
    RecurrentConfig,
    T5Config,
    new_model,
)
from tinygrad_llm.models.adapters import LoRASettings, adapters, attach, merge, places, sizes, trainable
from tinygrad_llm.models.classifier import make_classifier
from tinygrad_llm.nn import Linear, LoRALinear, QuantizedLinear, quantize
from tinygrad_llm.optim import AdamW

V = 61
CONFIGS = {
    "llama": LlamaConfig(V, 24, 48, 2, 4, 2, 96),
    "qwen2": LlamaConfig(V, 24, 48, 2, 4, 2, 96, qkv_bias=True, tied=False),
    "gpt": GPTConfig(V, 24, 48, 2, 4),
    "bert": BertConfig(V, 24, 48, 2, 6, 80),
    "distilbert": DistilBertConfig(V, 24, 48, 2, 6, 80),
}
every = pytest.mark.parametrize("name", CONFIGS)
IDS = np.random.default_rng(0).integers(0, V, (3, 12))
TARGETS = np.random.default_rng(1).integers(0, V, (3, 12))


def build(name, seed=3):
    return new_model(CONFIGS[name], seed)


def train(model, steps=3):
    optimizer = AdamW(trainable(model), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(IDS, TARGETS).backward()
        optimizer.step()
    return model


def logits(model):
    with no_grad():
        return model.eval()(IDS).data


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("r=8,alpha=16,targets=q+v,dropout=0", LoRASettings(8, 16.0, ("q", "v"), 0.0)),
        ("r=8,alpha=16,targets=q,v", LoRASettings(8, 16.0, ("q", "v"))),
        ("targets=q,v , dropout=0.25,r=2", LoRASettings(2, 4.0, ("q", "v"), 0.25)),
        (" r = 4 ", LoRASettings(4, 8.0, ("all",))),
        ("r=3,alpha=1.5,targets=q+q+v", LoRASettings(3, 1.5, ("q", "v"))),
        ("r=0", LoRASettings(0, 2.0, ("all",))),
    ],
)
def test_settings_from_text(text, expected):
    assert LoRASettings.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' in '': give r, alpha, targets and dropout"),
        ("r=8,rank=3", "'rank=3' in 'r=8,rank=3'"),
        ("r=8,r=9", "'r=9'"),
        ("r=8,v", "'v' in 'r=8,v'"),
        ("r=8,targets=", "'targets='"),
        ("r=8,targets=+", "must name at least one linear map"),
        ("alpha=8", "'alpha=8' has no r, the rank"),
        ("r=eight", "r='eight' must be a whole number"),
        ("r=1.5", "r='1.5' must be a whole number"),
        ("r=8,alpha=x", "alpha='x' must be a number"),
        ("r=-1", "r=-1 must be at least 0"),
        ("r=8,alpha=0", "alpha=0.0 must be positive"),
        ("r=8,alpha=nan", "alpha=nan must be positive"),
        ("r=8,dropout=1", "dropout=1.0 must be at least 0 and less than 1"),
        ("r=8,dropout=nan", "dropout=nan must be"),
    ],
)
def test_settings_that_are_refused(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        LoRASettings.parse(text)


# -- targets -----------------------------------------------------------------------------------------------------------


def test_places_know_parts_and_names():
    first, second, *_ = places(build("llama"))
    assert first.name == "blocks.0.attention.qkv"
    assert [tuple(part) for part in first.parts] == [
        ("q", "layers.0.self_attn.q_proj", (0, 48)),
        ("k", "layers.0.self_attn.k_proj", (48, 72)),
        ("v", "layers.0.self_attn.v_proj", (72, 96)),
    ]
    assert [tuple(part) for part in second.parts] == [("out", "layers.0.self_attn.o_proj", (0, 48))]
    assert [p.name for p in places(build("gpt"))] == [
        f"blocks.{layer}.{name}"
        for layer in (0, 1)
        for name in ("attention.qkv", "attention.out", "mlp.up", "mlp.down")
    ]
    assert [part.label for part in places(new_model(T5Config(V, 16, 8, 1, 2, 4, 8)))[1].parts] == ["k", "v"]


@pytest.mark.parametrize(
    ("name", "targets", "expected"),
    [
        ("llama", "q+v", {f"blocks.{n}.attention.qkv": ((0, 48), (72, 96)) for n in (0, 1)}),
        ("llama", "k_proj", {f"blocks.{n}.attention.qkv": ((48, 72),) for n in (0, 1)}),
        ("llama", "blocks.1.*.down", {"blocks.1.mlp.down": ((0, 48),)}),
        ("llama", "blocks.[1-9].attention.?+blocks.0.mlp.up", {
            "blocks.1.attention.qkv": ((0, 48), (48, 72), (72, 96)), "blocks.0.mlp.up": ((0, 96),)}),
        ("gpt", "c_attn", {f"blocks.{n}.attention.qkv": ((0, 144),) for n in (0, 1)}),
        ("gpt", "c_proj", {f"blocks.{n}.{x}": ((0, 48),) for n in (0, 1) for x in ("attention.out", "mlp.down")}),
        ("bert", "value", {f"blocks.{n}.attention.qkv": ((96, 144),) for n in (0, 1)}),
    ],
)  # fmt: skip
def test_targets(name, targets, expected):
    model = build(name)
    attach(model, LoRASettings.parse(f"r=2,targets={targets}"))
    assert {place: module.parts for place, module in adapters(model).items()} == expected


@every
def test_all_are_the_linear_maps_of_the_blocks(name):
    model = build(name)
    maps = [m for block in model.blocks for m in block.modules() if isinstance(m, Linear)]
    attach(model, LoRASettings(rank=2))
    assert [module.base for module in adapters(model).values()] == maps
    left = [m for m in model.modules() if isinstance(m, Linear) and m not in maps]
    assert len(left) == {"qwen2": 1, "bert": 1, "distilbert": 1}.get(name, 0)  # heads


def test_a_target_that_is_not_there_names_those_that_are_and_changes_nothing():
    model = build("llama")
    for text in ("q+quux", "blocks.7.*", "qkv"):
        with pytest.raises(
            ValueError, match=r"known are q, k, v, out, gate, up, down, all, and patterns .* blocks\.0\."
        ):
            attach(model, LoRASettings.parse(f"r=2,targets={text}"))
    assert not adapters(model)
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="the model has no 'q'; known are qkv, out, up, down, all"):
        attach(build("gpt"), LoRASettings.parse("r=2,targets=q+v"))
    with pytest.raises(ValueError, match="a Recurrent has no blocks with linear maps"):
        attach(new_model(RecurrentConfig(vocab_size=V, channels=8, units=8, layers=1)), LoRASettings())
    attach(model, LoRASettings())
    with pytest.raises(ValueError, match="has an adapter already"):
        attach(model, LoRASettings())


def test_the_same_seed_gives_the_same_adapter_whatever_else_has_one():
    def a_of(seed, targets):
        model = build("llama")
        attach(model, LoRASettings.parse(f"r=2,targets={targets}"), seed)
        return model.blocks[1].mlp.up.lora_a.data

    np.testing.assert_array_equal(a_of(5, "all"), a_of(5, "up"))
    assert not np.array_equal(a_of(5, "up"), a_of(6, "up"))
    model = build("llama")
    attach(model, LoRASettings())
    assert not np.array_equal(model.blocks[0].mlp.up.lora_a.data, model.blocks[1].mlp.up.lora_a.data)


@pytest.mark.parametrize("training", [True, False])
def test_dropout_of_a_new_adapter_is_on_if_the_model_is_in_training(training):
    model = build("llama").train(training)
    attach(model, LoRASettings(dropout=0.5))
    assert all(m.training == m.dropout.training == training for m in adapters(model).values())


# -- training ----------------------------------------------------------------------------------------------------------


@every
def test_only_the_adapter_is_trained(name):
    model = build(name)
    before = {parameter: parameter.data.copy() for parameter in model.parameters()}
    first = logits(model)
    attach(model, LoRASettings.parse("r=2,alpha=8,targets=all"))
    np.testing.assert_array_equal(logits(model), first)
    assert [n for n, _ in trainable(model)] == [f"{p}.lora_{x}" for p in adapters(model) for x in "ab"]
    losses = [model.loss(IDS, TARGETS).item()]
    train(model.train(), 8)
    losses.append(model.loss(IDS, TARGETS).item())
    assert losses[1] < losses[0] - 0.05
    for parameter, old in before.items():
        assert parameter.grad is None
        np.testing.assert_array_equal(parameter.data, old)
    for _, parameter in trainable(model):
        assert np.abs(parameter.grad).max() > 0


def test_what_is_trained_besides():
    model = make_classifier(build("llama"), ("no", "yes"))
    attach(model, LoRASettings.parse("r=2,targets=v"), besides=("score",))
    assert [n for n, _ in trainable(model)] == [
        *(f"body.blocks.{n}.attention.qkv.lora_{x}" for n in (0, 1) for x in "ab"),
        "score.weight",
    ]


def test_rank_zero_attaches_nothing_and_changes_nothing():
    model = make_classifier(build("llama"), ("no", "yes"))
    before = {name: p.data.copy() for name, p in model.named_parameters()}
    attach(model, LoRASettings.parse("r=0,targets=q"), besides=("score",))
    assert not adapters(model)
    assert [n for n, _ in trainable(model)] == ["score.weight"]
    optimizer = AdamW(trainable(model), lr=1e-2)
    model.loss(IDS, TARGETS[:, 0] % 2).backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert np.array_equal(parameter.data, before[name]) == (name != "score.weight")
    model = build("llama")
    attach(model, LoRASettings(rank=0))
    assert not trainable(model)
    with pytest.raises(ValueError, match="no parameters to train"):
        AdamW(trainable(model))


def test_gradients_are_those_of_the_weights_projected():
    """dA = s dW B^T and dB = s A^T dW, of the gradient that the merged weights have in the same model."""
    model = build("llama").astype(np.float64)
    attach(model, LoRASettings.parse("r=3,alpha=6,targets=q+v+down"))
    rng = np.random.default_rng(0)
    for module in adapters(model).values():
        module.lora_b.data = 0.1 * rng.standard_normal(module.lora_b.shape)
    model.loss(IDS, TARGETS).backward()
    found = {n: (m.lora_a.grad, m.lora_b.grad, m) for n, m in adapters(model).items()}
    merge(model)
    model.loss(IDS, TARGETS).backward()
    whole = dict(model.named_parameters())
    for name, (da, db, module) in found.items():
        dw, at = whole[f"{name}.weight"].grad, 0
        for number, (start, stop) in enumerate(module.parts):
            ranks, columns = slice(3 * number, 3 * number + 3), slice(at, at + stop - start)
            a, b = module.lora_a.data[:, ranks], module.lora_b.data[:, columns]
            np.testing.assert_allclose(da[:, ranks], 2 * dw[:, start:stop] @ b.T, rtol=0, atol=1e-14)
            np.testing.assert_allclose(db[:, columns], 2 * a.T @ dw[:, start:stop], rtol=0, atol=1e-14)
            at += stop - start


@pytest.mark.parametrize("backend", ["numpy", "auto"])
def test_no_gradient_is_made_for_what_is_frozen(backend):
    """Of a model most of whose memory is its weights, the token embedding that is the head too among them."""
    model = new_model(LlamaConfig(2000, 16, 256, 2, 4, 4, 512))
    weights = sum(p.data.nbytes for p in model.parameters())
    ids = IDS[:1, :3]

    def most():
        model.zero_grad()
        tracemalloc.start()
        try:
            model.loss(ids, ids).backward()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    with use_backend(backend):
        most()
        assert most() > weights
        attach(model, LoRASettings.parse("r=2"))
        most()
        assert most() < weights / 10


def test_sizes():
    model = build("llama")
    total = model.parameter_count()
    attach(model, LoRASettings.parse("r=2,targets=q+v+up"))
    added = 2 * (48 * 2 * 2 + 2 * (48 + 24) + 48 * 2 + 2 * 96)
    assert sizes(model) == (added, 4 * added, total, 4 * total)
    model = build("llama")
    for block in model.blocks:
        quantize(block, "int8")
    attach(model, LoRASettings.parse("r=2,targets=q+v+up"))
    small = [m for m in model.modules() if isinstance(m, QuantizedLinear)]
    assert len(small) == 10
    assert sizes(model)[:3] == (added, 4 * added, total)
    rest = total - sum(m.inputs * len(m.weight.values) for m in small)
    assert sizes(model).frozen_bytes == 4 * rest + sum(m.weight.nbytes for m in small)


# -- merging -----------------------------------------------------------------------------------------------------------


@every
def test_merged_it_gives_the_same_logits_and_unmerged_the_same_weights_to_the_bit(name):
    model = build(name)
    attach(model, LoRASettings.parse("r=2,alpha=8,targets=all"))
    train(model)
    before = {n: p.data.copy() for n, p in model.named_parameters()}
    expected, there = logits(model), adapters(model)
    unmerge = merge(model)
    assert not adapters(model)
    assert model.state_dict().keys() == build(name).state_dict().keys()
    merged = logits(model)
    assert 0 < np.abs(merged - expected).max() < 1e-5
    assert np.abs(merged - logits(build(name))).max() > 0.01
    unmerge()
    assert adapters(model) == there
    after = {n: p.data for n, p in model.named_parameters()}
    assert after.keys() == before.keys()
    for n, old in before.items():
        np.testing.assert_array_equal(after[n], old)
    np.testing.assert_array_equal(logits(model), expected)


def test_a_merged_model_can_be_saved_and_read(tmp_path):
    model = build("llama")
    attach(model, LoRASettings.parse("r=2,targets=q+v"))
    train(model)
    expected = logits(model)
    merge(model)
    model.save_pretrained(tmp_path)
    np.testing.assert_allclose(logits(type(model).from_pretrained(tmp_path)), expected, rtol=0, atol=1e-5)


def test_merging_nothing_is_nothing():
    model = build("gpt")
    before = list(model.modules())
    merge(model)()
    assert list(model.modules()) == before


# -- weights in fewer bits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt", "bert"])
def test_beside_int8_gradients_are_those_of_the_floats_they_stand_for(name):
    from tinygrad_llm.nn.lora import linear_of
    from tinygrad_llm.ops.quantized import dequantized

    small, floats = build(name), build(name)
    for block, other in zip(small.blocks, floats.blocks, strict=True):
        quantize(block, "int8")
        for module, twin in zip(block.modules(), other.modules(), strict=True):
            for part, value in vars(module).items():
                if isinstance(value, QuantizedLinear):
                    weight = np.ascontiguousarray(dequantized(*value.weight)[:, : value.inputs].T)
                    setattr(twin, part, linear_of(weight, value.bias))
    for model in (small, floats):
        attach(model, LoRASettings.parse("r=2,alpha=8"), seed=1)
        rng = np.random.default_rng(0)
        for module in adapters(model).values():
            module.lora_b.data = 0.1 * rng.standard_normal(module.lora_b.shape)  # in float64: all that is computed is
            module.lora_a.data = module.lora_a.data.astype(np.float64)
        for parameter in model.parameters():
            parameter.data = parameter.data.astype(np.float64)
        model.loss(IDS, TARGETS).backward()
    expected = dict(trainable(floats))
    assert {n for n, _ in trainable(small)} == expected.keys()
    for n, parameter in trainable(small):
        np.testing.assert_allclose(parameter.grad, expected[n].grad, rtol=0, atol=1e-6 * np.abs(expected[n].grad).max())
    first = logits(small)
    unmerge = merge(small)
    assert all(type(m) is Linear for block in small.blocks for m in block.modules() if hasattr(m, "weight"))
    np.testing.assert_allclose(logits(small), first, rtol=0, atol=1e-6)
    unmerge()
    assert all(isinstance(module.base, QuantizedLinear) for module in adapters(small).values())
    np.testing.assert_array_equal(logits(small), first)


def test_adapters_generate_beside_the_cache():
    from tinygrad_llm.generation import Sampling, generate_tokens

    model = build("llama")
    attach(model, LoRASettings.parse("r=4,alpha=32"))
    train(model, 5)
    assert isinstance(model.blocks[0].attention.qkv, LoRALinear)
    plain = [t for t, _ in zip(generate_tokens(model, [[1, 2, 3]], Sampling(temperature=0)), range(8), strict=False)]
    merge(model)
    again = [t for t, _ in zip(generate_tokens(model, [[1, 2, 3]], Sampling(temperature=0)), range(8), strict=False)]
    assert np.array_equal(plain, again)
