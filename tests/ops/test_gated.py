"""swiglu and geglu: values, limits and messages. Gradients are checked in test_every_operation.py."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm import ops

UNITS = {ops.swiglu: ops.silu, ops.geglu: ops.gelu}
each_unit = pytest.mark.parametrize(("unit", "activation"), UNITS.items(), ids=lambda o: o.name)


def gradients(function, *arrays, dy):
    leaves = [tg.Tensor(a, requires_grad=True) for a in arrays]
    function(*leaves).backward(dy)
    return [leaf.grad for leaf in leaves]


@given(gate=st.floats(-8, 8), up=st.floats(-8, 8))
def test_values_against_the_plain_formulas(gate, up):
    silu = gate / (1 + math.exp(-gate))
    gelu = 0.5 * gate * (1 + math.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
    assert ops.swiglu(np.array([gate]), np.array([up])).item() == pytest.approx(silu * up, rel=1e-12, abs=1e-13)
    assert ops.geglu(np.array([gate]), np.array([up])).item() == pytest.approx(gelu * up, rel=1e-9, abs=1e-13)


@each_unit
def test_is_the_activation_times_up(unit, activation):
    rng = np.random.default_rng(0)
    gate, up, dy = rng.standard_normal((3, 4, 5))
    np.testing.assert_allclose(unit(gate, up).data, activation(gate).data * up, rtol=1e-13)
    found = gradients(unit, gate, up, dy=dy)
    expected = gradients(lambda g, u: activation(g) * u, gate, up, dy=dy)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


@each_unit
def test_limits(unit, activation):
    gate, up = np.array([-1e4, -100.0, 0.0, 100.0, 1e4]), np.array([2.0, 2, 2, 2, -2])
    np.testing.assert_allclose(unit(gate, up).data, [0, 0, 0, 200, -2e4], atol=1e-40)
    dgate, dup = gradients(unit, gate, up, dy=np.ones(5))
    np.testing.assert_allclose(dgate, [0, 0, 1, 2, -2], atol=1e-40)
    np.testing.assert_allclose(dup, [0, 0, 0, 100, 1e4], atol=1e-40)


@each_unit
def test_a_gate_without_a_gradient(unit, activation):
    gate, up = np.array([1.0, -2.0]), tg.Tensor([3.0, 4.0], requires_grad=True)
    unit(gate, up).backward(np.array([1.0, 1.0]))
    np.testing.assert_allclose(up.grad, activation(gate).data, rtol=1e-14)


@each_unit
@pytest.mark.parametrize("shape", [(0,), (2, 0), ()])
def test_odd_shapes(unit, activation, shape):
    y = unit(np.ones(shape), np.full(shape, 2.0))
    assert y.shape == shape
    np.testing.assert_allclose(y.data, 2 * activation(1.0).item(), rtol=1e-14)


@each_unit
def test_names_what_does_not_fit(unit, activation):
    with pytest.raises(ValueError, match=rf"{unit.name}: gate \(2, 3\) and up \(3,\) differ in shape"):
        unit(np.ones((2, 3)), np.ones(3))
