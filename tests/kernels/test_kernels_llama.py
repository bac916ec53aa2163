"""The compiled twin of `models/llama.py`: a token through all blocks, and what is left to the plain code."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tinygrad_llm import threads, use_backend
from tinygrad_llm.generation import KVCache
from tinygrad_llm.models import Llama, LlamaConfig
from tinygrad_llm.models.llama import through_blocks
from tinygrad_llm.models.rotary_scaling import RotaryScaling
from tinygrad_llm.nn import LayerNorm, Parameter, QuantizedLinear, RMSNorm, quantize
from tinygrad_llm.nn.packing import pack_parameters
from tinygrad_llm.tape import no_grad

pytest.importorskip("tinygrad_llm.kernels.compiled", reason="no kernels here", exc_type=ImportError)

from tinygrad_llm.kernels import llama as kernels

KINDS = ("float32", "int8", "int4")
CONFIG = LlamaConfig(vocab_size=11, context=9, channels=24, layers=2, heads=6, kv_heads=2, feed_forward=20)
SCALING = RotaryScaling("yarn", factor=4.0, original_context=3)
FULL = replace(CONFIG, qkv_bias=True, qk_norm=True, rotary_scaling=SCALING, window=4)
"""With all that newer models have."""
STEPS = 6
"""Tokens of the tests; the first are a prompt."""


@pytest.fixture(autouse=True)
def threads_for_small_models(monkeypatch):
    """Small models are not worth a second thread otherwise."""
    monkeypatch.setattr(kernels, "PIECE", 1)


def built(config, kind, seed=0):
    """A model far from its initial values, as it is used for generating."""
    model = Llama(config, seed).eval()
    rng = np.random.default_rng(seed)
    for parameter in model.parameters():
        spread = 0.3 if parameter.ndim == 1 else 1 / np.sqrt(parameter.shape[0])
        parameter.data += (spread * rng.standard_normal(parameter.shape)).astype(np.float32)
    if kind == "float32":
        pack_parameters(model)
    else:
        quantize(model, kind)
    return model


def prompted(model, dtype=np.float32):
    """A cache that holds a prompt of three tokens."""
    cache = KVCache(model.config, 1, dtype)
    with no_grad(), use_backend("numpy"):
        model.hidden(np.array([[1, 2, 3]]), cache=cache)
    return cache


def step(model, cache, x, function=through_blocks.kernel, mask=None):
    with no_grad(), use_backend("numba"):
        return function(x, model.blocks, np.arange(cache.length, cache.length + x.shape[1]), mask, cache.layers)


def vector(config, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).standard_normal((1, 1, config.channels))).astype(np.float32)


configs = st.builds(
    lambda kv, shared, pairs, layers, width, base, channels, **options: LlamaConfig(
        11,
        9,
        channels or 2 * pairs * kv * shared,
        layers,
        kv * shared,
        kv,
        width,
        base,
        head_channels=2 * pairs if channels else 0,
        **options,
    ),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([1, 3, 8, 16]),
    st.integers(1, 2),
    st.sampled_from([1, 7, 16, 33, 64, 97]),
    st.sampled_from([100.0, 10000.0]),
    st.sampled_from([0, 0, 5, 70]),
    rotary_scaling=st.sampled_from(
        [None, RotaryScaling("linear", 3.0), RotaryScaling("llama3", 8.0, 5, 1.0, 4.0), SCALING]
    ),
    window=st.sampled_from([0, 0, 1, 2, 5, 20]),
    qkv_bias=st.booleans(),
    qk_norm=st.booleans(),
)


@pytest.mark.parametrize("kind", KINDS)
@given(config=configs, seed=st.integers(0, 2**32 - 1), count=st.sampled_from([1, 3]))
@example(config=CONFIG, seed=0, count=3)
@example(config=FULL, seed=0, count=3)
@example(config=replace(CONFIG, qkv_bias=True), seed=1, count=3)
@example(config=replace(CONFIG, qk_norm=True), seed=2, count=1)
@example(config=replace(CONFIG, window=2), seed=3, count=3)
@example(config=replace(CONFIG, rotary_scaling=SCALING), seed=4, count=1)
@example(config=replace(FULL, channels=70, head_channels=2, heads=1, kv_heads=1, feed_forward=1), seed=5, count=1)
def test_it_is_what_the_blocks_compute(kind, config, seed, count):
    model = built(config, kind, seed)
    ours, theirs = prompted(model), prompted(model)
    # an x rounded to 16 bits is off by 2^-16 of the largest of its group, and there are ten products in a row
    bound = 2e-5 if kind == "float32" else 1e-3
    before = threads.thread_count()
    try:
        threads.set_threads(count)
        for number in range(STEPS):
            x = vector(config, number)
            given_x = x.copy()
            y = step(model, ours, x)
            expected = step(model, theirs, x, through_blocks.reference)
            np.testing.assert_array_equal(x, given_x)
            assert y.dtype == np.float32
            assert y.shape == x.shape
            np.testing.assert_allclose(y, expected, rtol=0, atol=bound * (1 + np.abs(expected).max()))
    finally:
        threads.set_threads(before)
    assert ours.length == theirs.length == 3 + STEPS
    for a, b in zip(ours.layers, theirs.layers, strict=True):
        assert a.length == b.length
        for mine, other in ((a.keys, b.keys), (a.values, b.values)):
            np.testing.assert_allclose(mine, other, rtol=0, atol=bound * (1 + np.abs(other).max()))


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_threads_gives_the_same_bits(kind):
    model = built(replace(FULL, feed_forward=97), kind)
    before, found = threads.thread_count(), []
    try:
        for count in (1, 2, 5):
            threads.set_threads(count)
            cache = prompted(model)
            for number in range(STEPS):
                y = step(model, cache, vector(CONFIG, number))
            found.append((y, cache.layers[1].keys.copy(), cache.layers[0].values.copy()))
    finally:
        threads.set_threads(before)
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_model_uses_it(monkeypatch):
    model = built(CONFIG, "float32")
    calls = []
    kernel = through_blocks.kernel.function
    monkeypatch.setattr(through_blocks.kernel, "_function", lambda *given: calls.append(1) or kernel(*given))
    ours, theirs = prompted(model), prompted(model)
    with no_grad(), use_backend("numba"):
        y = model(np.array([[4]]), cache=ours).data
    with no_grad(), use_backend("numpy"):
        expected = model(np.array([[4]]), cache=theirs).data
    assert calls == [1]
    np.testing.assert_allclose(y, expected, atol=1e-4)


def test_what_it_does_not_know_is_declined():
    model = built(CONFIG, "float32")
    x = vector(CONFIG)
    cache = prompted(model)
    assert through_blocks.kernel(x, model.blocks, [3], None, cache.layers) is NotImplemented, "gradients are on"
    assert step(model, cache, x, mask=np.ones((1, 1, 1, 4), bool)) is NotImplemented
    assert step(model, cache, np.repeat(x, 2, axis=1)) is NotImplemented
    assert step(model, cache, np.repeat(x, 2, axis=0)) is NotImplemented
    assert step(model, cache, x.astype(np.float64)) is NotImplemented
    assert step(model, prompted(model, np.float64), x) is NotImplemented
    assert step(model, KVCache(CONFIG, 2), x) is NotImplemented, "a cache of two sequences"
    for layer in cache.layers:
        layer.length = CONFIG.context
    assert step(model, cache, x) is NotImplemented, "the cache is full"
    uneven = prompted(model)
    uneven.layers[1].length -= 1
    assert step(model, uneven, x) is NotImplemented


def of_another_class(module):
    """The same module, though of a class that may compute something else."""
    other = object.__new__(type("Other", (type(module),), {}))
    vars(other).update(vars(module))
    return other


def narrower(model):
    return built(replace(model.config, feed_forward=17), "float32").blocks[1]


CHANGES = {
    "rows first": lambda m, b: setattr(b.mlp.up.weight, "data", np.ascontiguousarray(b.mlp.up.weight.data)),
    "two kinds": lambda m, b: setattr(b.mlp, "up", QuantizedLinear(b.mlp.up, "int8")),
    "a bias": lambda m, b: setattr(b.attention.out, "bias", Parameter(np.ones(CONFIG.channels, np.float32))),
    "another block": lambda m, b: m.blocks.__setitem__(1, of_another_class(b)),
    "another map": lambda m, b: setattr(b.mlp, "up", of_another_class(b.mlp.up)),
    "another attention": lambda m, b: setattr(b, "attention", of_another_class(b.attention)),
    "another mlp": lambda m, b: setattr(b, "mlp", of_another_class(b.mlp)),
    "another norm": lambda m, b: setattr(b, "attention_norm", LayerNorm(CONFIG.channels)),
    "another second norm": lambda m, b: setattr(b, "mlp_norm", of_another_class(b.mlp_norm)),
    "another eps": lambda m, b: setattr(b.attention_norm, "eps", 0.5),
    "another second eps": lambda m, b: [setattr(block.mlp_norm, "eps", 0.5) for block in m.blocks],
    "another base": lambda m, b: setattr(b.attention, "base", 7.0),
    "other heads": lambda m, b: setattr(b.attention, "heads", 2),
    "half the heads": lambda m, b: [setattr(block.attention, "heads", 2) for block in m.blocks],
    "a narrower mlp": lambda m, b: setattr(b, "mlp", narrower(m).mlp),
    "a narrower gate": lambda m, b: setattr(b.mlp, "gate", narrower(m).mlp.gate),
    "a shorter gain": lambda m, b: setattr(b.mlp_norm.gain, "data", np.ones(3, np.float32)),
    "biases in one block": lambda m, b: setattr(b.attention.qkv, "bias", Parameter(np.ones(40, np.float32))),
    "norms in one block": lambda m, b: vars(b.attention).update(q_norm=RMSNorm(4), k_norm=RMSNorm(4)),
    "norms of queries": lambda m, b: [setattr(block.attention, "q_norm", RMSNorm(4, 1e-5)) for block in m.blocks],
    "frequencies in one block": lambda m, b: setattr(b.attention, "frequencies", np.ones(2)),
    "a window in one block": lambda m, b: setattr(b.attention, "window", 2),
    "another scale": lambda m, b: setattr(b.attention, "scale", 2.0),
}

NEWER_CHANGES = {
    "no bias in one block": lambda m, b: setattr(b.attention.qkv, "bias", None),
    "no bias in the first block": lambda m, b: setattr(m.blocks[0].attention.qkv, "bias", None),
    "no norms in one block": lambda m, b: vars(b.attention).update(q_norm=None, k_norm=None),
    "no norms in the first block": lambda m, b: vars(m.blocks[0].attention).update(q_norm=None, k_norm=None),
    "no norms of keys": lambda m, b: [setattr(block.attention, "k_norm", None) for block in m.blocks],
    "other norms": lambda m, b: [setattr(block.attention, "q_norm", LayerNorm(4)) for block in m.blocks],
    "another eps of keys": lambda m, b: [setattr(block.attention.k_norm, "eps", 0.5) for block in m.blocks],
    "a shorter bias": lambda m, b: setattr(b.attention.qkv.bias, "data", np.ones(39, np.float32)),
    "a bias in float64": lambda m, b: setattr(b.attention.qkv.bias, "data", np.ones(40)),
    "a gain for all heads": lambda m, b: setattr(b.attention.q_norm.gain, "data", np.ones(24, np.float32)),
    "other frequencies": lambda m, b: setattr(b.attention, "frequencies", np.ones(2)),
    "no frequencies": lambda m, b: setattr(b.attention, "frequencies", None),
    "no window": lambda m, b: setattr(b.attention, "window", 0),
}


@pytest.mark.parametrize("planned", [False, True], ids=["from the first token on", "from the second token on"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_model_of_other_parts_is_declined(change, planned):
    model = built(CONFIG, "float32")
    cache = prompted(model)
    if planned:
        assert step(model, cache, vector(CONFIG)) is not NotImplemented
    CHANGES[change](model, model.blocks[1])
    assert step(model, cache, vector(CONFIG)) is NotImplemented


@pytest.mark.parametrize("planned", [False, True], ids=["from the first token on", "from the second token on"])
@pytest.mark.parametrize("change", NEWER_CHANGES)
def test_a_newer_model_of_other_parts_is_declined(change, planned):
    model = built(FULL, "float32")
    cache = prompted(model)
    if planned:
        assert step(model, cache, vector(FULL)) is not NotImplemented
    NEWER_CHANGES[change](model, model.blocks[1])
    assert step(model, cache, vector(FULL)) is NotImplemented


def test_a_model_with_fewer_blocks_than_before():
    model = built(CONFIG, "float32")
    ours, theirs = prompted(model), prompted(model)
    step(model, ours, vector(CONFIG))
    step(model, theirs, vector(CONFIG))
    del model.blocks[1], ours.layers[1], theirs.layers[1]
    y, expected = step(model, ours, vector(CONFIG)), step(model, theirs, vector(CONFIG), through_blocks.reference)
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-5 * (1 + np.abs(expected).max()))


@pytest.mark.parametrize("name", ["bias", "frequencies"])
def test_replaced_parts_of_newer_models_are_noticed(name):
    model = built(FULL, "float32")
    ours, theirs = prompted(model), prompted(model)
    for cache, function in ((ours, through_blocks.kernel), (theirs, through_blocks.reference)):
        step(model, cache, vector(FULL), function)
    for block in model.blocks:
        if name == "bias":
            block.attention.qkv.bias.data = block.attention.qkv.bias.data[::-1].copy()
        else:
            block.attention.frequencies = block.attention.frequencies * 3
    y, expected = step(model, ours, vector(FULL)), step(model, theirs, vector(FULL), through_blocks.reference)
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-5 * (1 + np.abs(expected).max()))


@pytest.mark.parametrize("kind", KINDS)
def test_caches_that_do_not_fit_are_left_to_the_plain_code_which_says_so(kind):
    model = built(CONFIG, kind)
    x = vector(CONFIG)
    others = {"kv_heads": 3, "channels": 48, "layers": 1}
    for name, value in others.items():
        cache = KVCache(replace(CONFIG, **{name: value}), 1)
        assert step(model, cache, x) is NotImplemented, name
        with pytest.raises(ValueError):  # noqa: PT011, NumPy's words, or those of zip
            step(model, cache, x, through_blocks)
    uneven = KVCache(CONFIG, 1)
    uneven.layers[1] = KVCache(replace(CONFIG, context=4), 1).layers[0]
    assert step(model, uneven, x) is NotImplemented
    assert step(model, prompted(model), vector(replace(CONFIG, channels=48))) is NotImplemented
    assert step(model, prompted(model), x) is not NotImplemented


def test_replaced_caches_are_noticed():
    model = built(CONFIG, "float32")
    ours, theirs = prompted(model), prompted(model)
    step(model, ours, vector(CONFIG))
    step(model, theirs, vector(CONFIG), through_blocks.reference)
    left = ours.layers[1].values
    for layer in (*ours.layers, *theirs.layers):
        layer.keys, layer.values = layer.keys[:, ::-1].copy(), -layer.values
    before = left.copy()
    y, expected = step(model, ours, vector(CONFIG)), step(model, theirs, vector(CONFIG), through_blocks.reference)
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-5 * (1 + np.abs(expected).max()))
    np.testing.assert_array_equal(left, before)


@pytest.mark.parametrize("config", [CONFIG, FULL], ids=["plain", "newer"])
def test_replaced_weights_are_noticed(config):
    model, cache = built(config, "float32"), None
    cache = prompted(model)
    step(model, cache, vector(config))
    other = built(config, "float32", seed=1)
    for mine, new in zip(model.parameters(), other.parameters(), strict=True):
        mine.data = new.data
    theirs = KVCache(config, 1)
    for mine, copy in zip(cache.layers, theirs.layers, strict=True):
        copy.keys[...], copy.values[...], copy.length = mine.keys, mine.values, mine.length
    y, expected = (step(m, c, vector(config, 1)) for m, c in ((model, cache), (other, theirs)))
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_infinity_and_nan_spread_as_in_the_plain_code(kind, bad):
    model = built(CONFIG, kind)
    ours, theirs = prompted(model), prompted(model)
    x = vector(CONFIG)
    x[0, 0, 5] = bad
    with np.errstate(invalid="ignore"):
        y = step(model, ours, x)
        expected = step(model, theirs, x, through_blocks.reference)
    if kind == "float32":
        np.testing.assert_array_equal(np.isfinite(y), np.isfinite(expected))
        assert not np.isfinite(y).all()
    else:
        assert y is NotImplemented
        assert ours.length == 3, "the plain code begins where this one did"


def test_huge_scores_do_not_overflow():
    model = built(CONFIG, "float32")
    for block in model.blocks:
        block.attention_norm.gain.data *= np.float32(1e4)
    ours, theirs = prompted(model), prompted(model)
    y, expected = step(model, ours, vector(CONFIG)), step(model, theirs, vector(CONFIG), through_blocks.reference)
    assert np.isfinite(y).all()
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
