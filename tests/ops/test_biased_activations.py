"""bias_gelu: its parts, limits and messages. Gradients are checked in test_every_operation.py."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm import ops
from tinygrad_llm.nn import MLP, Module
from tinygrad_llm.tape import saved_arrays

each_form = pytest.mark.parametrize("approximate", [True, False])


def gradients(function, *arrays, dy):
    leaves = [tg.Tensor(a, requires_grad=True) for a in arrays]
    y = function(*leaves)
    y.backward(dy)
    return [y.data, *(leaf.grad for leaf in leaves)]


@each_form
@given(seed=st.integers(0, 2**32 - 1), shape=st.sampled_from([(3,), (4, 5), (2, 3, 7), (1, 1), (0, 3), (2, 0)]))
def test_is_an_addition_and_a_gelu(approximate, seed, shape):
    rng = np.random.default_rng(seed)
    x, bias, dy = rng.standard_normal(shape), rng.standard_normal(shape[-1:]), rng.standard_normal(shape)
    found = gradients(lambda x, b: ops.bias_gelu(x, b, approximate), x, bias, dy=dy)
    expected = gradients(lambda x, b: ops.gelu(x + b, approximate), x, bias, dy=dy)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


@each_form
def test_limits(approximate):
    x, bias = np.array([[-1e4, -100.0, 0.0, 100.0, 1e4]]), np.array([-1.0, 1, 0, 1, -1])
    y, dx, db = gradients(lambda x, b: ops.bias_gelu(x, b, approximate=approximate), x, bias, dy=np.full((1, 5), 2.0))
    np.testing.assert_allclose(y, [[0, 0, 0, 101, 9999]], atol=1e-40)
    np.testing.assert_allclose(dx, [[0, 0, 1, 2, 2]], atol=1e-40)
    np.testing.assert_allclose(db, dx[0])


def test_keeps_no_array_but_its_inputs():
    x, bias = np.ones((2, 3)), np.ones(3)
    for function in (ops.bias_gelu.reference, ops.bias_gelu.compute):
        kept = saved_arrays(function(x, bias)[1])
        assert all(np.may_share_memory(a, x) or np.may_share_memory(a, bias) for a in kept)


def test_a_bias_without_a_gradient():
    x = tg.Tensor([[1.0, -2.0]], requires_grad=True)
    ops.bias_gelu(x, np.array([0.5, 0.5])).backward(np.ones((1, 2)))
    expected = ops.gelu.reference(x.data + 0.5)[1](np.ones((1, 2)))
    np.testing.assert_allclose(x.grad, expected, rtol=1e-14)


@pytest.mark.parametrize(("x", "bias"), [((2, 3), (2,)), ((2, 3), (1, 3)), ((2, 3), ()), ((2, 3), (1,)), ((), ())])
def test_a_bias_of_another_shape(x, bias):
    with pytest.raises(ValueError, match=r"bias_gelu: x .* needs a bias of the shape of its last axis"):
        ops.bias_gelu(np.ones(x), np.ones(bias))


def test_the_feed_forward_network_is_made_of_it():
    network = MLP(4, 8)
    for p in network.parameters():
        p.data = np.random.default_rng(p.size).standard_normal(p.shape)
    x = tg.Tensor(np.random.default_rng(0).standard_normal((2, 3, 4)), requires_grad=True)
    up, down = network.up, network.down
    expected = ops.linear(ops.gelu(ops.linear(x, up.weight, up.bias)), down.weight, down.bias)
    found = network(x)
    np.testing.assert_allclose(found.data, expected.data, rtol=1e-12, atol=1e-12)
    dy = np.random.default_rng(1).standard_normal(found.shape)
    grads = []
    for y in (found, expected):
        network.zero_grad()
        x.grad = None
        y.backward(dy)
        grads.append([x.grad, *(p.grad for p in network.parameters())])
    for a, b in zip(*grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_what_takes_the_place_of_a_layer_leaves_its_bias_to_the_activation():
    class Doubled(Module):
        bias = np.arange(8, dtype=np.float32)

        def forward(self, x, add_bias=True):
            y = 2 * ops.linear(x, weight)
            return y + self.bias if add_bias else y

    network = MLP(4, 8)
    weight = network.up.weight.data
    x = tg.Tensor(np.ones((1, 4), np.float32))
    network.up = Doubled()
    expected = network.down(ops.gelu(2 * (x.data @ weight) + Doubled.bias))
    np.testing.assert_allclose(network(x).data, expected.data, rtol=1e-6, atol=1e-6)
