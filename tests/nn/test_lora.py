"""LoRALinear: how it begins, merging, dropout, and the same beside weights in fewer bits."""

import numpy as np
import pytest

from tinygrad_llm import Tensor, no_grad, random
from tinygrad_llm.nn import Linear, LoRALinear, QuantizedLinear
from tinygrad_llm.ops.quantized import dequantized

C, F = 70, 30
PARTS = ((0, 12), (20, 30))


def linear(bias=True, dtype=np.float64):
    made = Linear(C, F, bias=bias, std=0.3).astype(dtype)
    if bias:
        made.bias.data[:] = np.arange(F)
    return made


def trained(base, parts=(), rank=3, **options):
    """With a B that is not zero."""
    made = LoRALinear(base, rank, 5.0, parts, **options)
    rng = np.random.default_rng(1)
    made.lora_b.data[:] = 0.2 * rng.standard_normal(made.lora_b.shape)
    return made.eval()


def data(shape=(4, 5, C), dtype=np.float64, seed=2):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def test_it_begins_as_the_linear_map_and_with_a_gradient_for_b_alone():
    base = linear()
    made = LoRALinear(base, 4, 8.0)
    assert made.scale == 2
    assert made.lora_a.shape == (C, 4)
    assert made.lora_b.shape == (4, F)
    assert made.lora_a.dtype == made.lora_b.dtype == np.float64
    assert not made.lora_b.data.any()
    x = Tensor(data())
    np.testing.assert_array_equal(made(x).data, base(x).data)
    made(x).backward(data((4, 5, F)))
    assert not made.lora_a.grad.any()
    assert made.lora_b.grad.all()


def test_a_begins_with_the_spread_of_peft():
    a = LoRALinear(Linear(400, 10, std=0), 50, 1.0).lora_a.data
    assert a.dtype == np.float32
    assert a.mean() == pytest.approx(0, abs=3e-3)
    assert a.std() == pytest.approx(1 / np.sqrt(3 * 400), rel=0.05)


def test_a_comes_from_the_random_scope():
    def drawn(seed):
        with random.scope(seed, "lora"):
            return LoRALinear(base, 2, 1.0).lora_a.data

    base = linear()
    np.testing.assert_array_equal(drawn(3), drawn(3))
    assert not np.array_equal(drawn(3), drawn(4))


@pytest.mark.parametrize("parts", [(), PARTS])
@pytest.mark.parametrize("bias", [True, False])
def test_merged_is_one_linear_map_and_leaves_the_weights_alone(parts, bias):
    base = linear(bias)
    made, x = trained(base, parts), Tensor(data())
    before = [p.data.copy() for p in made.parameters()]
    merged = made.merged()
    assert type(merged) is Linear
    assert merged.bias is base.bias
    np.testing.assert_allclose(merged(x).data, made(x).data, rtol=0, atol=1e-12)
    assert np.abs(merged(x).data - base(x).data).max() > 0.1
    for p, old in zip(made.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.data, old)
    assert not np.may_share_memory(merged.weight.data, base.weight.data)
    written = np.zeros((C, F))
    at = 0
    for number, (start, stop) in enumerate(parts or ((0, F),)):
        width = stop - start
        written[:, start:stop] = made.lora_a.data[:, 3 * number : 3 * number + 3] @ made.lora_b.data[:, at : at + width]
        at += width
    np.testing.assert_allclose(merged.weight.data, base.weight.data + 5 / 3 * written, rtol=0, atol=1e-12)


def test_merged_lies_in_memory_as_the_weight_does():
    base = linear()
    base.weight.data = np.asfortranarray(base.weight.data)
    assert trained(base).merged().weight.data.flags.f_contiguous
    assert trained(linear()).merged().weight.data.flags.c_contiguous


def test_the_bias_may_be_left_to_an_operation_that_follows():
    base = linear()
    made, x = trained(base), Tensor(data())
    assert made.bias is base.bias
    np.testing.assert_allclose(made(x, add_bias=False).data + np.arange(F), made(x).data, rtol=0, atol=1e-12)


def test_dropout_acts_on_what_the_update_sees_and_in_training_only():
    base = linear()
    made, x = trained(base, dropout=0.5), Tensor(data())
    whole, plain = made(x).data, base(x).data
    made.train()
    with random.scope(0, "a step"):
        first = made(x).data
    with random.scope(0, "a step"):
        np.testing.assert_array_equal(made(x).data, first)
    assert np.abs(first - whole).max() > 0.1
    with random.scope(0, "many"), no_grad():
        mean = np.mean([made(x).data for _ in range(3000)], axis=0)
    # each of 70 terms of h varies by its own size; 3000 draws, and 600 outputs of which the worst is looked at
    np.testing.assert_allclose(mean, whole, rtol=0, atol=5 * np.abs(whole - plain).max() / np.sqrt(3000) * 2)
    made.lora_b.data[:] = 0
    np.testing.assert_array_equal(made(x).data, plain)


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("parts", [(), PARTS])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_beside_weights_in_fewer_bits_gradients_are_those_of_the_floats_they_stand_for(kind, parts, dtype):
    base = linear(dtype=np.float32)
    small = QuantizedLinear(base, kind)
    base.weight.data = np.ascontiguousarray(dequantized(*small.weight)[:, :C].T)
    base.astype(dtype)
    adapters = [trained(of, parts).astype(dtype) for of in (base, small)]
    x, dy = data(dtype=dtype), data((4, 5, F), dtype, seed=4)
    found = []
    for adapter in adapters:
        adapter.lora_a.data = adapters[0].lora_a.data.copy()
        leaf = Tensor(x, requires_grad=True)
        y = adapter(leaf)
        y.backward(dy)
        found.append([y.data, leaf.grad, adapter.lora_a.grad, adapter.lora_b.grad])
    for a, b in zip(*found, strict=True):
        assert b.dtype == dtype
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-6 * np.abs(a).max())
    assert base.weight.grad is not None
    assert [name for name, _ in adapters[1].named_parameters()] == ["lora_a", "lora_b"]
    with no_grad():
        merged = adapters[1].merged()
        np.testing.assert_allclose(merged(Tensor(x)).data, found[1][0], rtol=0, atol=1e-5 * np.abs(found[1][0]).max())
    np.testing.assert_array_equal(merged.bias.data, np.arange(F))
    assert isinstance(adapters[1].base, QuantizedLinear)


def test_what_is_refused():
    for rank in (0, -1):
        with pytest.raises(ValueError, match=f"rank={rank} must be at least 1"):
            LoRALinear(linear(), rank, 1.0)
    for alpha in (0.0, np.inf, np.nan):
        with pytest.raises(ValueError, match=r"alpha=.* must be a number other than zero"):
            LoRALinear(linear(), 1, alpha)
    with pytest.raises(ValueError, match="p=1"):
        LoRALinear(linear(), 1, 1.0, dropout=1.0)
