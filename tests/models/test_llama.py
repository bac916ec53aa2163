"""Llama: shapes, causality, rotary distances, gradients, the cache, weights in a folder, sizes that are refused."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import Tensor, ops
from tinygrad_llm.generation import KVCache, Sampling, generate_tokens
from tinygrad_llm.models import GPT, Llama, LlamaConfig
from tinygrad_llm.nn import RMSNorm
from tinygrad_llm.tape import no_grad

SMALL = LlamaConfig(vocab_size=29, context=12, channels=24, layers=2, heads=6, kv_heads=2, feed_forward=20)
SPARSE = replace(SMALL, heads=3, kv_heads=1, tied=False, rotary_base=50.0)


def build(config, seed=0):
    """A model in float64 whose parameters are all far from their initial values."""
    model = Llama(config, seed).astype(np.float64)
    rng = np.random.default_rng(seed)
    for parameter in model.parameters():
        parameter.data += 0.3 * rng.standard_normal(parameter.shape)
    return model


@pytest.mark.parametrize("config", [SMALL, SPARSE])
def test_shapes_names_and_count(config):
    model = Llama(config)
    assert model(np.zeros((2, 5), int)).shape == (2, 5, 29)
    heads = config.heads + 2 * config.kv_heads
    layer = 24 * heads * config.head_size + 24 * 24 + 3 * 24 * 20 + 2 * 24
    assert model.parameter_count() == 29 * 24 * (1 if config.tied else 2) + 2 * layer + 24
    assert ("lm_head.weight" in dict(model.named_parameters())) == (not config.tied)
    assert "blocks.1.attention.qkv.weight" in dict(model.named_parameters())


def test_the_default_is_the_small_model_of_135_million():
    config = LlamaConfig()
    layer = 576 * 960 + 576 * 576 + 3 * 576 * 1536 + 2 * 576
    assert 49152 * 576 + 30 * layer + 576 == 134_515_008
    assert (config.layers, config.channels, config.head_size) == (30, 576, 64)


def test_what_writes_into_the_residual_stream_starts_smaller():
    model = Llama(replace(SMALL, channels=120, feed_forward=200, layers=8))
    block = model.blocks[0]
    for linear, std in [(block.attention.qkv, 0.02), (block.mlp.gate, 0.02), (block.mlp.up, 0.02)]:
        assert linear.weight.data.std() == pytest.approx(std, rel=0.1)
    for linear in (block.attention.out, block.mlp.down):
        assert linear.weight.data.std() == pytest.approx(0.02 / 4, rel=0.1)
    assert not np.array_equal(block.mlp.gate.weight.data, block.mlp.up.weight.data)
    assert not np.array_equal(block.mlp.gate.weight.data, model.blocks[1].mlp.gate.weight.data)


@pytest.mark.parametrize("config", [SMALL, SPARSE])
def test_a_token_changes_no_logits_before_it(config):
    model, rng = build(config), np.random.default_rng(1)
    ids = rng.integers(0, 29, (1, 10))
    changed = ids.copy()
    changed[0, 6] = (ids[0, 6] + 1) % 29
    first, second = model(ids).data, model(changed).data
    np.testing.assert_array_equal(first[:, :6], second[:, :6])
    assert (first[:, 6:] != second[:, 6:]).any(-1).all()


@given(st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_only_distances_between_positions_count(shift, seed):
    model = build(SMALL)
    ids = np.random.default_rng(seed).integers(0, 29, (1, 8))
    here, there = model(ids).data, model(ids, positions=np.arange(8)[None] + shift).data
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-9 * np.abs(here).max())
    stretched = model(ids[:, :4], positions=3 * np.arange(4)).data
    assert np.abs(stretched - here[:, :4])[:, 1:].max() > 1e-6


def test_the_feed_forward_network_and_the_norms_are_those_of_the_config():
    model = build(replace(SMALL, norm_eps=0.25))
    assert {part.eps for part in model.modules() if isinstance(part, RMSNorm)} == {0.25}
    mlp, x = model.blocks[0].mlp, np.random.default_rng(0).standard_normal((1, 2, 24))
    gate, up = x @ mlp.gate.weight.data, x @ mlp.up.weight.data
    expected = (gate / (1 + np.exp(-gate)) * up) @ mlp.down.weight.data
    np.testing.assert_allclose(mlp(Tensor(x)).data, expected, rtol=1e-12, atol=1e-12)


def test_gradients_of_all_parameters():
    model = build(replace(SPARSE, vocab_size=7, channels=12, layers=1, feed_forward=5))
    rng = np.random.default_rng(2)
    ids, targets = rng.integers(0, 7, (2, 2, 4))
    parameters = model.parameters()

    for parameter in parameters:
        parameter.grad = None
    ops.cross_entropy(model(ids), targets).backward()
    with no_grad():
        for parameter in parameters:  # central differences in a random direction
            direction = rng.standard_normal(parameter.shape)
            there, step = parameter.data, 1e-5
            ends = []
            for sign in (1, -1):
                parameter.data = there + sign * step * direction
                ends.append(ops.cross_entropy(model(ids), targets).item())
            parameter.data = there
            assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(
                (parameter.grad * direction).sum(), rel=1e-5, abs=1e-9
            )


@pytest.mark.parametrize("config", [SMALL, SPARSE])
def test_the_cache_gives_the_same_logits(config):
    model = build(config)
    ids = np.random.default_rng(0).integers(0, 29, (2, 9))
    with no_grad():
        whole = model(ids).data
        cache = KVCache(config, 2, np.float64)
        parts = [model(ids[:, a:b], cache=cache).data for a, b in [(0, 4), (4, 5), (5, 8), (8, 9)]]
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, rtol=0, atol=1e-10 * np.abs(whole).max())
    assert cache.layers[0].keys.shape == (2, config.kv_heads, 12, config.head_size)


def test_generation_with_the_cache_and_with_padding_is_that_without():
    model = build(SMALL)
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10]]
    cached = list(islice(generate_tokens(model, prompts, seed=3), 30))
    plain = list(islice(generate_tokens(model, prompts, seed=3, use_cache=False), 30))
    np.testing.assert_array_equal(cached, plain)
    greedy = Sampling(temperature=0)
    together = np.array(list(islice(generate_tokens(model, prompts, greedy), 6)))
    for row, prompt in enumerate(prompts):
        alone = np.array(list(islice(generate_tokens(model, [prompt], greedy), 6)))
        np.testing.assert_array_equal(together[:, row], alone[:, 0])


@pytest.mark.parametrize("config", [SMALL, SPARSE])
def test_saved_and_loaded_it_is_the_same(tmp_path, config):
    model = Llama(config, seed=4)
    model.save_pretrained(tmp_path)
    loaded = Llama.from_pretrained(tmp_path)
    assert loaded.config == config
    ids = np.arange(10)[None]
    np.testing.assert_array_equal(loaded(ids).data, model(ids).data)
    with pytest.raises(ValueError, match="holds a 'llama' model, but GPT is gpt2"):
        GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kv_heads": 0}, "kv_heads=0 must be at least 1"),
        ({"feed_forward": 0}, "feed_forward=0 must be at least 1"),
        ({"heads": 8}, "heads of 3 channels are odd"),
        ({"kv_heads": 4}, "heads=6 is not a multiple of kv_heads=4"),
        ({"norm_eps": 0.0}, "norm_eps=0.0 must be positive"),
        ({"rotary_base": -1.0}, "rotary_base=-1.0 must be positive"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_ids_and_positions_that_do_not_fit_are_refused():
    model = Llama(SMALL)
    with pytest.raises(ValueError, match=r"Llama: ids must be \(B, T\), not of shape \(3,\)"):
        model([1, 2, 3])
    with pytest.raises(ValueError, match="Llama: 13 positions, but the model's context is 12"):
        model(np.zeros((1, 13), int))
    with pytest.raises(ValueError, match="Llama: position 12, but the model's context is 12"):
        model(np.zeros((1, 1), int), positions=[12])
    model(np.zeros((1, 1), int), positions=[11])
