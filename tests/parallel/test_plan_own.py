"""Our own step by formula: what the tape really keeps, the products that are really computed, the sum of the parts."""

import importlib.util
import os
from dataclasses import replace

import numpy as np
import pytest

from tinygrad_llm.backend import chosen_backend
from tinygrad_llm.models import GPT, GPTConfig, Llama, LlamaConfig
from tinygrad_llm.ops import fused_losses
from tinygrad_llm.parallel import plan_memory
from tinygrad_llm.parallel.plan_models import NAMED, ModelSizes
from tinygrad_llm.parallel.plan_own import (
    OwnMachine,
    activation_bytes,
    attention_operations,
    predict_step,
    saved_bytes,
    step_products,
    streamed_bytes,
    streamed_sample,
)
from tinygrad_llm.parallel.plan_setup import FLOAT32, Setup

GPT_SMALL = GPTConfig(vocab_size=301, context=40, channels=48, layers=3, heads=4, feed_forward=80)
LLAMA_SMALL = LlamaConfig(vocab_size=301, context=40, channels=48, layers=3, heads=4, kv_heads=2, feed_forward=112)
compiled = (
    chosen_backend() != "numpy"
    and os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"
    and importlib.util.find_spec("numba") is not None
    and importlib.util.find_spec("tinygrad_llm.kernels") is not None
)
needs_kernels = pytest.mark.skipif(not compiled, reason="the formula is that of compiled operations")


def kept(config, batch, time):
    """(bytes on the tape, bytes by the formula)"""
    model = (GPT if isinstance(config, GPTConfig) else Llama)(config)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (batch, time + 1))
    setup = Setup(time, batch_size=batch, precision=FLOAT32)
    loss = model.train().loss(ids[:, :-1], ids[:, 1:])
    return saved_bytes(loss, model), activation_bytes(ModelSizes.of(config), setup)


@needs_kernels
@pytest.mark.parametrize(
    "config",
    [
        GPT_SMALL,
        replace(GPT_SMALL, dropout=0.1),
        replace(GPT_SMALL, layers=1, channels=64, feed_forward=0),
        LLAMA_SMALL,
        replace(LLAMA_SMALL, kv_heads=4, tied=False),
    ],
)
def test_the_tape_keeps_what_the_formula_says(config):
    for batch, time in ((1, 40), (8, 32)):
        measured, formula = kept(config, batch, time)
        assert formula == pytest.approx(measured, rel=0.01)


@needs_kernels
def test_layers_keep_exactly_what_the_formula_says():
    for config in (GPT_SMALL, LLAMA_SMALL, replace(GPT_SMALL, dropout=0.2)):
        more = [kept(replace(config, layers=layers), 3, 24) for layers in (2, 5)]
        assert more[1][0] - more[0][0] == more[1][1] - more[0][1] > 0


@needs_kernels
def test_a_large_vocabulary_is_kept_in_blocks(monkeypatch):
    for module in (fused_losses, plan_memory):
        monkeypatch.setattr(module, "LOGITS", 4 * 301 * 30)
        monkeypatch.setattr(module, "LEAST_ROWS", 16)
    measured, formula = kept(GPT_SMALL, 8, 32)
    assert formula == pytest.approx(measured, rel=0.01)


def test_what_is_kept_twice_is_counted_once():
    model = GPT(GPT_SMALL)
    ids = np.zeros((1, 8), int)
    assert saved_bytes(model.loss(ids, ids) * 1.0, model) == pytest.approx(
        saved_bytes(model.loss(ids, ids), model), abs=8
    )
    loss = model.loss(ids, ids)
    loss.backward()
    assert saved_bytes(loss, model) == 0


@pytest.mark.parametrize("config", [GPT_SMALL, LLAMA_SMALL])
def test_products_are_those_of_a_step(config):
    model, setup = ModelSizes.of(config), Setup(40, batch_size=3, precision=FLOAT32)
    total = sum(2 * m * k * n * times for (m, k, n), times in step_products(model, setup).items())
    assert total == 3 * (model.layers * model.layer_operations(120, 40)[0] + model.head_operations(120))
    assert step_products(model, setup)[(120, 48, 301)] == 1
    assert step_products(model, setup)[(48, 120, 301)] == 1
    assert step_products(model, setup)[(120, 301, 48)] == 1


def test_the_parts_of_a_step():
    model = ModelSizes.of(GPT_SMALL)
    setup = Setup(40, batch_size=3, microbatches=2, precision=FLOAT32)
    machine = OwnMachine(1e9, 1e6, 2e6, 3e6, layer=0.5, step=0.25, latency=1.0, link=1e3)
    parts = predict_step(model, setup, machine)
    psi = model.parameters
    assert parts == pytest.approx(
        {
            "matrix products": 2 * 3 * (3 * model.layer_operations(120, 40)[0] + model.head_operations(120)) / 1e9,
            "attention": 2 * 3 * 7 * 120 * 40 * 48 / 3e6,
            "between the products": 2 * 3 * 120 * streamed_bytes(model) / 2e6,
            "loss": 2 * 4 * 6 * 120 * 301 / 1e6,
            "norm and update": 32 * psi / 1e6,
            "calls": 2 * (3 * 0.5 + 0.25),
        }
    )
    assert attention_operations(model, setup) == 7 * 120 * 40 * 48
    two = predict_step(model, replace(setup, dp=2), machine)
    assert two.pop("communication") == pytest.approx(2 * 1.0 + 4 * psi / 1e3)
    assert two == pytest.approx(parts)
    shared = predict_step(model, replace(setup, dp=2, zero=1), machine)
    assert shared["norm and update"] == pytest.approx(parts["norm and update"] / 2)
    assert shared["communication"] == pytest.approx(2 * 1.0 + 4 * psi / 1e3)


def test_products_that_were_measured_have_their_own_rate():
    machine = OwnMachine(1e9, 1, 1, 1, products={(2, 3, 4): 1e6})
    assert machine.product_seconds((2, 3, 4)) == pytest.approx(48 / 1e6)
    assert machine.product_seconds((4, 3, 2)) == pytest.approx(48 / 1e9)


def test_what_is_streamed_between_products():
    gpt2, gated = NAMED["gpt2"], NAMED["llama2-70b"]
    assert streamed_bytes(gpt2) == 4 * (37 * 768 + 5 * 3072)
    assert streamed_sample(gpt2) == 4 * (8 * 768 + 5 * 3072)
    assert streamed_bytes(gated) == 4 * (22 * 8192 + 4 * (8192 + 1024) + 8 * 28672)
