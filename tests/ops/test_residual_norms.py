"""add_layer_norm and add_rms_norm: that they are an addition and a norm. Gradients: test_every_operation.py."""

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm import ops
from tinygrad_llm.backend import why_no_kernels

FUSED = {"add_layer_norm": ops.layer_norm, "add_rms_norm": ops.rms_norm}
each_norm = pytest.mark.parametrize(("name", "norm"), FUSED.items(), ids=FUSED)


@pytest.fixture(params=["numpy", "numba"])
def backend(request):
    if request.param == "numba" and (reason := why_no_kernels()):
        pytest.skip(reason)
    with tg.use_backend(request.param):
        yield


def parameters(name, rng, channels):
    return [rng.standard_normal(channels) for _ in range(2 if name == "add_layer_norm" else 1)]


def outputs_and_gradients(function, arrays, ds, dy):
    leaves = [tg.Tensor(a, requires_grad=True) for a in arrays]
    s, y = function(*leaves)
    ((s * ds).sum() + (y * dy).sum()).backward()
    return [s.data, y.data, *(leaf.grad for leaf in leaves)]


@each_norm
def test_is_an_addition_and_a_norm(name, norm, backend):
    rng = np.random.default_rng(0)
    arrays = [*rng.standard_normal((2, 2, 3, 5)), *parameters(name, rng, 5)]
    ds, dy = rng.standard_normal((2, 2, 3, 5))

    def apart(x, residual, *rest):
        s = x + residual
        return s, norm(s, *rest, eps=0.1)

    found = outputs_and_gradients(lambda *a: tg.registry[name](*a, eps=0.1), arrays, ds, dy)
    expected = outputs_and_gradients(apart, arrays, ds, dy)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


@each_norm
def test_the_default_eps_is_that_of_the_norm(name, norm, backend):
    tiny = np.array([[1e-3, -1e-3]])
    given = [np.ones(2), np.zeros(2)][: 2 if name == "add_layer_norm" else 1]
    _, y = tg.registry[name](tiny, 0 * tiny, *given)
    np.testing.assert_allclose(y.data, norm(tiny, *given).data, rtol=1e-13)


@each_norm
@pytest.mark.parametrize("used", [0, 1])
def test_an_output_that_is_not_used_contributes_nothing(name, norm, used, backend):
    rng = np.random.default_rng(0)
    x, residual = (tg.Tensor(a, requires_grad=True) for a in rng.standard_normal((2, 4, 6)))
    rest, dy = parameters(name, rng, 6), rng.standard_normal((4, 6))
    tg.registry[name](x, residual, *rest)[used].backward(dy)
    s = tg.Tensor(x.data + residual.data, requires_grad=True)
    (s * 1 if used == 0 else norm(s, *rest)).backward(dy)
    for t in (x, residual):
        np.testing.assert_allclose(t.grad, s.grad, rtol=1e-12, atol=1e-13)


@each_norm
def test_gradients_of_x_and_residual_are_two_arrays(name, norm, backend):
    rng = np.random.default_rng(0)
    x, residual = (tg.Tensor(a, requires_grad=True) for a in rng.standard_normal((2, 4, 6)))
    s, y = tg.registry[name](x, residual, *parameters(name, rng, 6))
    (s + y).sum().backward()
    np.testing.assert_array_equal(x.grad, residual.grad)
    x.grad += 1
    assert np.abs(x.grad - residual.grad).min() > 0.5


@each_norm
def test_a_value_added_to_itself(name, norm, backend):
    rng = np.random.default_rng(0)
    x, rest, dy = rng.standard_normal((3, 4)), parameters(name, rng, 4), rng.standard_normal((3, 4))
    once, twice = tg.Tensor(x, requires_grad=True), tg.Tensor(x, requires_grad=True)
    s, y = tg.registry[name](once, once, *rest)
    (s + y).backward(dy)
    doubled = twice + twice
    (doubled + norm(doubled, *rest)).backward(dy)
    np.testing.assert_allclose(once.grad, twice.grad, rtol=1e-12, atol=1e-13)


@each_norm
def test_frozen_parameters(name, norm, backend):
    rng = np.random.default_rng(0)
    x = tg.Tensor(rng.standard_normal((3, 4)), requires_grad=True)
    gain = [tg.Tensor(p) for p in parameters(name, rng, 4)]
    s, y = tg.registry[name](x, rng.standard_normal((3, 4)), *gain)
    (s + y).sum().backward()
    assert x.grad is not None
    assert all(p.grad is None for p in gain)


@each_norm
@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 3), (2, 0), (4,)])
def test_odd_shapes(name, norm, shape, backend):
    leaves = [tg.Tensor(np.ones(s), requires_grad=True) for s in (shape, shape, shape[-1:], shape[-1:])]
    leaves = leaves[: 4 if name == "add_layer_norm" else 3]
    s, y = tg.registry[name](*leaves)
    assert s.shape == y.shape == shape
    (s + y).sum().backward()
    assert [leaf.grad.shape for leaf in leaves] == [leaf.shape for leaf in leaves]


@each_norm
def test_names_what_does_not_fit(name, norm, backend):
    x, rest = np.ones((2, 3, 4)), [np.ones(4)] * (2 if name == "add_layer_norm" else 1)
    with pytest.raises(ValueError, match=rf"{name}: x \(2, 3, 4\) and residual \(3, 4\) differ in shape"):
        tg.registry[name](x, x[0], *rest)
    with pytest.raises(ValueError, match=rf"{name}: x \(B=2, T=3, C=4\) needs a gain of shape \(C,\), not \(3,\)"):
        tg.registry[name](x, x, np.ones(3), *rest[1:])
