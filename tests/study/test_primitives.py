"""Every composition gives the operation's value and gradients, on all of its samples."""

import warnings
import zlib

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm.study.rungs.primitives import compositions
from tinygrad_llm.tape import saved_arrays

SAMPLES = [(name, number) for name in sorted(compositions) for number in range(len(tg.registry[name].sample))]
DECLINED = {("gelu", 1), ("bias_gelu", 1)}  # need erfc


def draw(name, number, seed=0):
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), number])
    inputs, options = tg.registry[name].sample.draw(rng, number)
    return inputs, options, rng


def leaves(inputs):
    return [tg.Tensor(x, True) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x for x in inputs]


def run(function, inputs, options, dy):
    tensors = leaves(inputs)
    y = joined(function(*tensors, **options))
    y.backward(dy)
    return y, [t.grad for t in tensors if isinstance(t, tg.Tensor)]


def joined(y):
    """Several outputs, of one shape, as one."""
    return tg.ops.stack(*y) if isinstance(y, tuple) else y


def differentiable(name, inputs, options):
    """How many inputs receive a gradient; those after them (targets, a mask) do not."""
    value, vjp = tg.registry[name].reference(*inputs, **options)
    gradients = vjp(np.zeros(np.shape(value)))
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    return len(gradients)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "number"), [s for s in SAMPLES if s not in DECLINED])
def test_equals_the_operation(name, number, seed):
    inputs, options, rng = draw(name, number, seed)
    count = differentiable(name, inputs, options)
    rest = inputs[count:]
    value = tg.registry[name].reference(*inputs, **options)[0]
    dy = rng.standard_normal(np.shape(value))
    exact, exact_gradients = run(lambda *xs, **o: tg.registry[name](*xs, *rest, **o), inputs[:count], options, dy)
    y, gradients = run(lambda *xs, **o: compositions[name](*xs, *rest, **o), inputs[:count], options, dy)
    assert y.shape == exact.shape
    np.testing.assert_allclose(y.data, exact.data, rtol=1e-10, atol=1e-10)
    assert len(gradients) == len(exact_gradients) > 0
    for gradient, wanted in zip(gradients, exact_gradients, strict=True):
        np.testing.assert_allclose(gradient, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("name", "number"), [s for s in SAMPLES if s not in DECLINED])
def test_float32_stays_float32(name, number):
    inputs, options, _ = draw(name, number)
    count = differentiable(name, inputs, options)
    inputs = [x.astype(np.float32) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x for x in inputs]
    tensors = [*leaves(inputs[:count]), *inputs[count:]]
    y = joined(compositions[name](*tensors, **options))
    assert y.dtype == np.float32
    assert all(a.dtype != np.float64 for a in saved_arrays(y.node.vjp))


def test_a_composition_is_made_of_other_operations():
    for name, number in SAMPLES:
        if (name, number) in DECLINED:
            continue
        inputs, options, _ = draw(name, number)
        count = differentiable(name, inputs, options)
        y = compositions[name](*leaves(inputs[:count]), *inputs[count:], **options)
        pending, names = [y[-1].node if isinstance(y, tuple) else y.node], set()
        while pending:
            node = pending.pop()
            names.add(node.name)
            pending += [e.target for e in node.edges if hasattr(e.target, "edges")]
        assert name not in names
        assert names


def test_the_exact_gelu_has_no_composition():
    x = tg.Tensor(np.ones(3), True)
    assert compositions["gelu"](x, approximate=False) is NotImplemented


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_large_logits_do_not_overflow(name):
    x = np.array([[1e4, 0.0, -1e4], [3.0, 1e4, 1e4]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y, (dx,) = run(compositions[name], [x], {}, np.ones((2,) if name == "logsumexp" else (2, 3)))
    np.testing.assert_allclose(y.data, tg.registry[name](x).data, rtol=1e-12)
    assert np.isfinite(dx).all()
