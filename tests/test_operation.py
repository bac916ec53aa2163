"""@op, backends, deferred gradients, several outputs, recomputation."""

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm import Tensor, random
from tinygrad_llm.operation import Operation, explain_broadcast, named_shape


def make(function):
    """An operation that is not entered in the registry."""
    return Operation(function)


def leaf(*values):
    return Tensor(np.array(values, np.float64), requires_grad=True)


def test_deferred_gradients_are_called_only_for_inputs_that_need_them():
    called = []

    @make
    def product(x, y):
        def vjp(dy):
            return lambda: called.append("x") or dy * y, lambda: called.append("y") or dy * x

        return x * y, vjp

    x = leaf(2.0)
    product(x, np.array([3.0])).backward(np.ones(1))
    assert called == ["x"]
    assert x.grad == [3.0]


def test_several_outputs_take_a_tuple_of_cotangents_with_zeros_for_the_unused():
    seen = []

    @make
    def both(x):
        def vjp(dys):
            seen.append(dys)
            return (2 * dys[0] + 3 * dys[1],)

        return (2 * x, 3 * x), vjp

    x = leaf(1.0, 1.0)
    _, triple = both(x)
    triple.backward(np.array([1.0, 2.0]))
    assert x.grad.tolist() == [3.0, 6.0]
    assert seen[0][0].tolist() == [0.0, 0.0]


def test_a_tuple_of_one_output_stays_a_tuple():
    @make
    def only(x):
        def vjp(dys):
            (dy,) = dys
            return (2 * dy,)

        return (2 * x,), vjp

    for function in (only, lambda x: tg.checkpoint(only, x)):
        x = leaf(1.0)
        (y,) = function(x)
        y.backward(np.ones(1))
        assert x.grad == [2.0]


def test_a_missing_gradient_is_an_error_and_not_a_silent_zero():
    @make
    def forgetful(x, y):
        return x * y, lambda dy: (dy * y,)

    with pytest.raises(RuntimeError, match="forgetful: the gradient of input 'y' is not defined"):
        forgetful(leaf(1.0), leaf(2.0)).backward(np.ones(1))


def test_a_gradient_of_the_wrong_shape_is_an_error():
    @make
    def wrong(x):
        return x * 2, lambda dy: dy[:1]

    with pytest.raises(RuntimeError, match=r"gradient of input 'x' has shape \(1,\), the input has \(3,\)"):
        wrong(leaf(1.0, 2.0, 3.0)).backward(np.ones(3))


def test_a_transposed_gradient_is_an_error_although_its_size_fits():
    @make
    def wrong(x):
        return x * 2, lambda dy: 2 * dy.T

    with pytest.raises(RuntimeError, match=r"gradient of input 'x' has shape \(3, 2\), the input has \(2, 3\)"):
        wrong(Tensor(np.ones((2, 3)), requires_grad=True)).backward(np.ones((2, 3)))


def test_tensors_given_by_name_receive_gradients():
    x, w, b = leaf(1.0, 2.0), Tensor(np.ones((2, 1)), requires_grad=True), leaf(0.0)
    tg.ops.linear(x, weight=w, bias=b).backward(np.ones(1))
    assert w.grad.tolist() == [[1.0], [2.0]]
    assert b.grad.tolist() == [1.0]
    with pytest.raises(TypeError, match="linear: the argument 'weight' is missing"):
        tg.ops.linear(x, bias=b)


def test_shape_errors_name_the_operation_the_shapes_and_the_axis():
    with pytest.raises(ValueError, match=r"mul: \(2, 3\) and \(4,\): axis -1 has sizes 3 and 4"):
        _ = Tensor(np.ones((2, 3))) * np.ones(4)
    assert explain_broadcast([(2, 1, 3), (5, 3), (4, 5, 3)]) == (
        "axis -3 has sizes 2 and 4; they must be equal, or one of them 1"
    )
    assert named_shape((2, 8, 64), "BTC") == "(B=2, T=8, C=64)"
    assert named_shape((8, 64), "BTC") == "(T=8, C=64)"
    assert named_shape((5, 2, 8, 64), "BTC") == "(5, B=2, T=8, C=64)"


def test_a_kernel_runs_unless_the_backend_is_numpy_or_it_declines():
    @make
    def doubled(x):
        return 2 * x, lambda dy: 2 * dy

    runs = []

    @doubled.kernel
    def _(x):
        if x.dtype != np.float32:
            return NotImplemented
        runs.append(x.dtype)
        return 2 * x, lambda dy: 2 * dy

    with tg.use_backend("numba"):
        doubled(np.ones(2, np.float32))
        assert doubled(np.ones(2)).data.tolist() == [2.0, 2.0]
        with tg.use_backend("numpy"):
            doubled(np.ones(2, np.float32))
    assert len(runs) == 1
    with pytest.raises(ValueError, match="unknown backend 'cuda'"):
        tg.use_backend("cuda")


def test_names_are_unique_and_derivations_name_an_input():
    with pytest.raises(ValueError, match="the name 'mul' is taken"):

        @tg.op
        def mul(x):
            return x, lambda dy: dy

    with pytest.raises(ValueError, match="no input is called 'z'; it has x, y"):
        tg.registry["mul"].derivation("z")


def network(w):
    def block(x):
        return (tg.ops.dropout(x * w, p=0.5, key=int(random.next_stream("dropout").integers(2**40)))).tanh()

    return block


def test_checkpoint_gives_the_same_bits_and_replays_dropout():
    rng = np.random.default_rng(0)
    results = []
    for recompute in (False, True):
        rng = np.random.default_rng(0)
        x, w = Tensor(rng.standard_normal((4, 5)), True), Tensor(rng.standard_normal((4, 5)), True)
        block = network(w)
        with random.scope(7, "test"):
            y = tg.checkpoint(block, tg.checkpoint(block, x)) if recompute else block(block(x))
            y.backward(rng.standard_normal((4, 5)))
        results.append((y.data, x.grad, w.grad))
    for plain, again in zip(*results, strict=True):
        np.testing.assert_array_equal(plain, again)


def test_checkpoint_keeps_only_its_inputs():
    import tracemalloc

    def long(x):
        for _ in range(20):
            x = x.tanh()
        return x

    def peak(run):
        x = Tensor(np.ones(100_000), requires_grad=True)
        tracemalloc.start()
        y = run(x)
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        y.backward(np.ones(100_000))
        return held, x.grad

    held_plain, plain = peak(long)
    held_again, again = peak(lambda x: tg.checkpoint(long, x))
    assert held_again < held_plain / 5
    np.testing.assert_array_equal(plain, again)


def test_checkpoint_reaches_parameters_when_no_input_needs_a_gradient():
    w = leaf(2.0)
    tg.checkpoint(lambda x: x * w, Tensor([3.0])).backward(np.ones(1))
    assert w.grad == [3.0]


def test_checkpoint_of_several_outputs():
    x = leaf(2.0)
    a, b = tg.checkpoint(lambda t: (t * 3, t * t), x)
    (a * b).backward(np.ones(1))  # 3x * x^2
    assert x.grad == [36.0]
