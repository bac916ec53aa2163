"""What holds for every operation in the registry, on both backends: the one test matrix.

A new operation enters it by being registered; it needs a sample and a derivation of each differentiable input.
"""

import inspect
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm.checking import derivation_steps
from tinygrad_llm.tape import saved_arrays, sweep, unbroadcast

OPERATIONS = sorted(name for name, o in tg.registry.items() if o.__module__.startswith("tinygrad_llm."))
SAMPLES = [
    (name, number, backend)
    for name in OPERATIONS
    for number in range(len(tg.registry[name].sample))
    for backend in (["numpy", "numba"] if tg.registry[name].kernel else ["numpy"])
]
each_sample = pytest.mark.parametrize(
    ("name", "number", "backend"), SAMPLES, ids=["-".join(map(str, sample)) for sample in SAMPLES], indirect=["backend"]
)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture
def backend(request):
    with tg.use_backend(request.param):
        yield request.param


def draw(name, number, seed):
    """(operation, inputs, options, generator) of one sample."""
    operation = tg.registry[name]
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), number])
    inputs, options = operation.sample.draw(rng, number)
    return operation, inputs, options, rng


def floating(inputs):
    return [isinstance(x, np.ndarray) and x.dtype.kind == "f" for x in inputs]


def cotangent(rng, value):
    if isinstance(value, tuple):
        return tuple(rng.standard_normal(np.shape(v)) for v in value)
    return rng.standard_normal(np.shape(value))


def gradients(operation, inputs, options, dy):
    """The vjp's gradients with the deferred ones called, un-broadcast to the inputs' shapes; None where undefined."""
    value, vjp = operation.compute(*inputs, **options)
    result = vjp(dy)
    result = result if isinstance(result, tuple) else (result,)
    called = [g() if callable(g) else g for g in result]
    return value, [
        None if g is None else unbroadcast(np.asarray(g), np.shape(x)) for g, x in zip(called, inputs, strict=False)
    ]


def flat(value):
    return value if isinstance(value, tuple) else (value,)


@pytest.mark.parametrize("name", OPERATIONS)
def test_has_sample_and_derivations(name):
    operation = tg.registry[name]
    assert len(operation.sample), f"{name} has no sample"
    assert operation.__doc__, f"{name} has no docstring"
    for number in range(len(operation.sample)):
        _, inputs, options, rng = draw(name, number, 0)
        value = operation.compute(*inputs, **options)[0]
        _, found = gradients(operation, inputs, options, cotangent(rng, value))
        for position, gradient in enumerate(found):
            if gradient is not None:
                parameter = operation.parameters[min(position, len(operation.parameters) - 1)]
                assert parameter in operation.derivations, f"{name} has no derivation of {parameter}"


@pytest.mark.parametrize("name", OPERATIONS)
def test_derivations_have_the_defaults_of_their_operation(name):
    operation = tg.registry[name]
    expected = inspect.signature(operation.reference).parameters
    for parameter, derivation in operation.derivations.items():
        found = inspect.signature(derivation).parameters
        assert found.keys() == {*expected, "dy"}, parameter
        for option, described in expected.items():
            assert found[option].default in (described.default, inspect.Parameter.empty), f"d{parameter}: {option}"


def differentiable(operation, inputs, options):
    """Per input, whether the operation has a gradient for it (a mask or an index has none)."""
    value, _ = operation.compute(*inputs, **options)
    found = gradients(operation, inputs, options, cotangent(np.random.default_rng(0), value))[1]
    return [i < len(found) and found[i] is not None for i in range(len(inputs))]


@each_sample
@given(seed=seeds)
def test_gradients(name, number, backend, seed):
    operation, inputs, options, _ = draw(name, number, seed)
    varied = [i for i, has in enumerate(differentiable(operation, inputs, options)) if has]

    def call(*tensors):
        given = dict(zip(varied, tensors, strict=True))
        return operation(*(given.get(i, x) for i, x in enumerate(inputs)), **options)

    names = [operation.parameters[min(i, len(operation.parameters) - 1)] for i in varied]
    report = tg.gradcheck(call, *(inputs[i] for i in varied), names=names, seed=seed)
    assert report, f"{name}: {report}"


@each_sample
@given(seed=seeds)
def test_derivation_steps_agree(name, number, backend, seed):
    operation, inputs, options, rng = draw(name, number, seed)
    value = operation.compute(*inputs, **options)[0]
    dy = cotangent(rng, value)
    for parameter in operation.derivations:
        if not operation.variadic:
            position = operation.parameters.index(parameter)
            if position >= len(inputs) or gradients(operation, inputs, options, dy)[1][position] is None:
                continue
        steps = derivation_steps(operation, parameter, inputs, options, dy)
        assert len(steps) >= 3, f"{name}: the derivation of {parameter} needs at least a definition and a result"
        for step in steps:
            assert step.change < 1e-12, f"{name}, d{parameter}: {step.why!r} differs from the step before"


@each_sample
@given(seed=seeds)
def test_writes_to_nothing_it_was_given(name, number, backend, seed):
    operation, inputs, options, rng = draw(name, number, seed)
    before = [np.copy(x) if isinstance(x, np.ndarray) else x for x in inputs]
    value, vjp = operation.compute(*inputs, **options)
    dy = cotangent(rng, value)
    dy_before, value_before = [d.copy() for d in flat(dy)], [np.copy(v) for v in flat(value)]
    for gradient in flat(vjp(dy)):
        if callable(gradient):
            gradient()
    for x, old in zip(inputs, before, strict=True):
        if isinstance(x, np.ndarray):
            np.testing.assert_array_equal(x, old)
    for now, old in zip((*flat(dy), *flat(value)), (*dy_before, *value_before), strict=True):
        np.testing.assert_array_equal(now, old)


SAVED = {
    "add_layer_norm": {"gain"},
    "add_rms_norm": {"gain"},
    "cross_entropy": {"logits"},
    "linear_cross_entropy": {"x", "weight"},
    "layer_norm": {"x", "gain"},
    "rms_norm": {"x", "gain"},
    "log": {"x"},
    "abs": {"x"},
} | {
    "attention": {"q", "k", "v"},
    "bias_gelu": {"x", "bias"},
    "biased_attention": {"q", "k", "v"},
    "clip": {"x"},
    "div": {"y"},
    "einsum": {"xs"},
    "embedding": {"ids"},
    "geglu": {"gate", "up"},
    "gelu": {"x"},
    "getitem": {"index"},
    "gru": {"x", "h", "weight_x", "weight_h"},
    "gru_cell": {"h"},
    "linear": {"x", "weight"},
    "lora": {"x", "a", "b"},
    "lstm": {"x", "h", "c", "weight_x", "weight_h"},
    "lstm_cell": {"c"},
    "quantized_linear": {"values", "scales", "minimums"},
    "rnn": {"x", "h", "weight_x", "weight_h"},
    "logsumexp": {"x"},
    "matmul": {"x", "y"},
    "max": {"x"},
    "mul": {"x", "y"},
    "power": {"x", "y"},
    "silu": {"x"},
    "swiglu": {"gate", "up"},
    "self_attention": {"qkv"},
    "where": {"condition"},
}
"""The inputs that a vjp may keep alive until backward; none for the operations that are not named."""


@each_sample
def test_keeps_no_input_that_it_does_not_need(name, number, backend):
    operation, inputs, options, _ = draw(name, number, 0)
    _, vjp = operation.compute(*inputs, **options)
    saved = saved_arrays(vjp)
    for position, x in enumerate(inputs):
        if isinstance(x, np.ndarray) and any(np.may_share_memory(x, array) for array in saved):
            assert operation.parameters[min(position, len(operation.parameters) - 1)] in SAVED.get(name, ())


@each_sample
@given(seed=seeds)
def test_gradients_own_their_memory(name, number, backend, seed):
    operation, inputs, options, rng = draw(name, number, seed)
    wanted = differentiable(operation, inputs, options)
    leaves = [tg.Tensor(x, requires_grad=True) if has else x for x, has in zip(inputs, wanted, strict=True)]
    outputs = flat(operation(*leaves, **options))
    dys = [rng.standard_normal(t.shape) for t in outputs]
    sweep(outputs, dys)
    tensors = [leaf for leaf in leaves if isinstance(leaf, tg.Tensor)]
    for i, t in enumerate(tensors):
        assert t.grad is not None
        assert t.grad.shape == t.shape
        assert t.grad.dtype == t.dtype
        assert t.grad.flags.writeable
        others = [*dys, *(o.data for o in outputs), *(u.data for u in tensors), *(u.grad for u in tensors[:i])]
        assert not any(np.may_share_memory(t.grad, other) for other in others)
        assert t.data.flags.writeable, "the tape must unlock what it locked"


def layouts(x, rng):
    """The same values in other memory layouts."""
    if not x.ndim:
        yield x.copy()
        return
    spread = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    spread[..., ::2] = x
    yield spread[..., ::2]
    yield np.asfortranarray(x)
    yield x[..., ::-1].copy()[..., ::-1]
    yield x.swapaxes(0, -1).copy().swapaxes(0, -1)


@each_sample
@given(seed=seeds)
def test_memory_layout_does_not_matter(name, number, backend, seed):
    operation, inputs, options, rng = draw(name, number, seed)
    value = operation.compute(*inputs, **options)[0]
    dy = cotangent(rng, value)
    expected_value, expected = gradients(operation, inputs, options, dy)
    variants = [list(layouts(x, rng)) if f else [x] for x, f in zip(inputs, floating(inputs), strict=True)]
    dy_variants = [list(layouts(d, rng)) for d in flat(dy)]
    for k in range(4):
        chosen = [v[k % len(v)] for v in variants]
        dys = tuple(v[(k + 1) % len(v)] for v in dy_variants)
        got_value, got = gradients(operation, chosen, options, dys if isinstance(dy, tuple) else dys[0])
        pairs = [*zip(flat(got_value), flat(expected_value), strict=True), *zip(got, expected, strict=True)]
        for a, b in pairs:
            if b is not None:
                np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@each_sample
@given(seed=seeds)
def test_zero_stride_inputs_and_cotangents(name, number, backend, seed):
    operation, inputs, options, rng = draw(name, number, seed)
    wanted = floating(inputs)
    constant = [np.broadcast_to(x.reshape(-1)[:1].reshape(()), x.shape) if f and x.size else x
                for x, f in zip(inputs, wanted, strict=True)]  # fmt: skip
    dense = [np.array(x) if f else x for x, f in zip(constant, wanted, strict=True)]
    value = operation.compute(*dense, **options)[0]
    one = tuple(np.broadcast_to(np.asarray(rng.standard_normal()), np.shape(v)) for v in flat(value))
    many = tuple(np.array(d) for d in one)
    strided = gradients(operation, constant, options, one if isinstance(value, tuple) else one[0])
    packed = gradients(operation, dense, options, many if isinstance(value, tuple) else many[0])
    for a, b in [*zip(flat(strided[0]), flat(packed[0]), strict=True), *zip(strided[1], packed[1], strict=True)]:
        if b is not None:
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@each_sample
@given(seed=seeds)
def test_float32_stays_float32_and_is_close(name, number, backend, seed):
    operation, inputs, options, rng = draw(name, number, seed)
    single = [x.astype(np.float32) if f else x for x, f in zip(inputs, floating(inputs), strict=True)]
    double = [x.astype(np.float64) if f else x for x, f in zip(single, floating(inputs), strict=True)]
    value = operation.compute(*double, **options)[0]
    dy = tuple(d.astype(np.float32) for d in flat(cotangent(rng, value)))
    dy64 = tuple(d.astype(np.float64) for d in dy)
    many = isinstance(value, tuple)
    value32, got = gradients(operation, single, options, dy if many else dy[0])
    value64, expected = gradients(operation, double, options, dy64 if many else dy64[0])
    # rounding of each step, and of a sum over at most `terms` elements, relative to the largest value
    terms = max((x.size for x, f in zip(inputs, floating(inputs), strict=True) if f), default=1)
    tolerance = 32 * np.finfo(np.float32).eps * np.sqrt(max(terms, 1))
    for a, b in [*zip(flat(value32), flat(value64), strict=True), *zip(got, expected, strict=True)]:
        if b is None:
            continue
        assert np.asarray(a).dtype == (np.float32 if np.asarray(b).dtype.kind == "f" else np.asarray(b).dtype)
        magnitude = max(1.0, float(np.abs(b).max(initial=0.0)))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * magnitude)
