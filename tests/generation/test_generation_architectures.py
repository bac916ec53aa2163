"""With the cache, every decoder says what it says without: batches of unequal prompts, float32 and fewer bits."""

from itertools import islice

import numpy as np
import pytest

from tinygrad_llm import no_grad
from tinygrad_llm.generation import KVCache, Sampling, generate_tokens
from tinygrad_llm.models import GPT, GPTConfig, Llama, LlamaConfig, RotaryScaling
from tinygrad_llm.nn.packing import pack_parameters
from tinygrad_llm.nn.quantized import quantize

SIZES = {"vocab_size": 53, "context": 32, "channels": 48, "layers": 2, "heads": 6, "kv_heads": 2, "feed_forward": 40}


def llama(**options):
    return Llama(LlamaConfig(**{**SIZES, "init_std": 0.25, **options}), seed=1)


MODELS = {
    "gpt": lambda: GPT(GPTConfig(53, 32, 36, 2, 3, init_std=0.25), seed=1),
    "llama": llama,
    "llama3": lambda: llama(rotary_scaling=RotaryScaling("llama3", 8.0, 12, 1.0, 4.0), rotary_base=50.0),
    "yarn": lambda: llama(rotary_scaling=RotaryScaling("yarn", 4.0, 12), tied=False),
    "mistral": lambda: llama(window=4),
    "window of one": lambda: llama(window=1),
    "qwen2": lambda: llama(qkv_bias=True),
    "qwen3": lambda: llama(qk_norm=True, head_channels=12, kv_heads=3),
    "all at once": lambda: llama(qkv_bias=True, qk_norm=True, window=5, rotary_scaling=RotaryScaling("linear", 2.0)),
}


def build(name):
    model = MODELS[name]()
    rng = np.random.default_rng(2)
    for key, parameter in model.named_parameters():  # gains and biases, which begin as ones and zeros
        if "norm" in key or key.endswith("bias"):
            parameter.data = parameter.data + rng.normal(0, 0.2, parameter.shape).astype(np.float32)
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_each_step_are_those_of_the_whole(name):
    """Prompts of 5, 9 and 2 tokens; then one token a step."""
    model = build(name)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 53, (3, 20))
    padding = np.array([4, 0, 7])
    positions = np.maximum(np.arange(20) - padding[:, None], 0)
    mask = (np.arange(20) >= padding[:, None])[:, None, None]
    with no_grad():
        whole = model(ids, positions, mask).data
        cache = KVCache(model.config, 3)
        parts = [model(ids[:, :9], positions[:, :9], mask[..., :9], cache).data]
        for t in range(9, 20):
            step = slice(t, t + 1)
            parts.append(model(ids[:, step], positions[:, step], mask[..., : t + 1], cache).data)
    real = mask[:, 0, 0]
    difference = np.abs(np.concatenate(parts, axis=1) - whole)[real]
    assert difference.max() <= 1e-5 * np.abs(whole[real]).max()


@pytest.mark.parametrize("weights", ["float32", "packed", "int8", "int4"])
@pytest.mark.parametrize("name", MODELS)
def test_a_single_sequence_too_in_all_kinds_of_weights(name, weights):
    """One token of one sequence has a kernel of its own."""
    model = build(name)
    if weights == "packed":
        pack_parameters(model)
    elif weights != "float32":
        quantize(model, weights)
    ids = np.random.default_rng(0).integers(0, 53, (1, 24))
    with no_grad():
        whole = model(ids).data
        cache = KVCache(model.config, 1)
        parts = [model(ids[:, :3], cache=cache).data]
        parts += [model(ids[:, t : t + 1], cache=cache).data for t in range(3, 24)]
    bound = 1e-5 if weights in ("float32", "packed") else 1e-3  # a vector is rounded to 15 bits there
    assert np.abs(np.concatenate(parts, axis=1) - whole).max() <= bound * np.abs(whole).max()


@pytest.mark.parametrize("name", MODELS)
def test_greedy_choices_are_the_same_beyond_the_context(name):
    model, prompts = build(name), [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10]]
    greedy = Sampling(temperature=0)
    cached = list(islice(generate_tokens(model, prompts, greedy), 40))
    plain = list(islice(generate_tokens(model, prompts, greedy, use_cache=False), 40))
    np.testing.assert_array_equal(cached, plain)
