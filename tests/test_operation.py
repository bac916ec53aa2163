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

    with tg.use_backend("auto"):
        doubled(np.ones(2, np.float32))
        assert len(runs) == 1
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


def draws_and_doubles(x):
    random.next_stream("dropout")
    return x * 2


def test_backward_through_a_checkpoint_leaves_the_random_scope_as_it_was():
    with random.scope(7, "test"):
        y = tg.checkpoint(draws_and_doubles, leaf(1.0))
        random.next_stream("batch")
        before = random.get_state()
        y.backward(np.ones(1))
        assert random.get_state() == before


def test_a_recomputation_that_fails_leaves_the_random_scope_as_it_was():
    calls = []

    def works_once(x):
        calls.append(x)
        if len(calls) > 1:
            raise RuntimeError("not again")
        return draws_and_doubles(x)

    with random.scope(7, "test"):
        y = tg.checkpoint(works_once, leaf(1.0))
        random.next_stream("batch")
        before = random.get_state()
        with pytest.raises(RuntimeError, match="not again"):
            y.backward(np.ones(1))
        assert random.get_state() == before


def test_a_checkpoint_records_its_recomputation_also_under_no_grad():
    x = leaf(3.0)
    y = tg.checkpoint(lambda t: t * t, x)
    with tg.no_grad():
        y.backward(np.ones(1))
    assert x.grad == [6.0]


def test_under_no_grad_checkpoint_only_calls_the_function():
    x = leaf(3.0)
    with tg.no_grad():
        assert tg.checkpoint(lambda t: t, x) is x


def test_an_output_of_a_checkpoint_that_depends_on_no_input_receives_no_gradient():
    x, constant = leaf(2.0), Tensor(np.array([5.0]))
    a, b = tg.checkpoint(lambda t: (t * 3, constant), x)
    (a * b).backward(np.ones(1))
    assert x.grad == [15.0]
    assert constant.grad is None


def test_an_input_that_a_checkpoint_does_not_use_receives_zeros():
    x, unused = leaf(2.0), leaf(1.0, 1.0)
    tg.checkpoint(lambda t, _: t * 3, x, unused).backward(np.ones(1))
    assert x.grad == [3.0]
    assert unused.grad.tolist() == [0.0, 0.0]


def test_arguments_of_a_checkpoint_that_are_no_tensors_arrive_unchanged():
    arguments = [1, 2], np.float64(3.0), None
    seen = []

    def function(x, *rest):
        seen.extend(rest)
        return x * 2

    tg.checkpoint(function, leaf(1.0), *arguments).backward(np.ones(1))
    assert len(seen) == 2 * len(arguments)
    assert all(got is given for got, given in zip(seen, arguments * 2, strict=True))


def test_an_integer_output_of_a_checkpoint_requires_no_gradient():
    x = leaf(1.0, 3.0)
    doubled, index = tg.checkpoint(lambda t: (t * 2, Tensor(t.data.argmax())), x)
    assert doubled.requires_grad
    assert not index.requires_grad
    assert index.item() == 1
    doubled.backward(np.ones(2))
    assert x.grad.tolist() == [2.0, 2.0]


def test_a_value_that_checkpoints_share_with_the_graph_outside_gets_the_same_gradient_as_without_them():
    rng = np.random.default_rng(0)
    start, weight, dy = (rng.standard_normal((3, 3)) for _ in range(3))

    def gradients(call):
        x, w = Tensor(start, requires_grad=True), Tensor(weight, requires_grad=True)
        wt = w.T

        def layer(t):
            return (t @ wt).tanh()

        (call(layer, call(layer, x)) @ wt + wt).backward(dy)
        return x.grad, w.grad

    plain, again = gradients(lambda function, t: function(t)), gradients(tg.checkpoint)
    for left, right in zip(plain, again, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-12)


def test_a_recomputation_that_returns_another_number_of_outputs_is_refused():
    calls = []

    def fewer_and_fewer(t):
        calls.append(t)
        return (t * 3, t * 2)[: 3 - len(calls)]

    a, b = tg.checkpoint(fewer_and_fewer, leaf(1.0))
    with pytest.raises(ValueError, match="longer"):
        (a * b).backward(np.ones(1))


def test_a_checkpoint_turns_a_list_of_outputs_into_a_tuple():
    x = leaf(2.0)
    outputs = tg.checkpoint(lambda t: [t * 3, t * t], x)
    assert isinstance(outputs, tuple)
    (outputs[0] * outputs[1]).backward(np.ones(1))
    assert x.grad == [36.0]


@pytest.mark.parametrize("function", [lambda t: t.data, lambda t: (t, None), lambda t: None])
def test_a_checkpoint_whose_function_returns_no_tensors_is_refused(function):
    with pytest.raises(TypeError, match="checkpoint: the function must return a Tensor or a tuple of them"):
        tg.checkpoint(function, leaf(1.0))


def test_a_list_of_tensors_where_one_belongs_is_refused_with_the_remedy():
    with pytest.raises(TypeError, match=r"a list of Tensors is not a Tensor: .*stack\(\)"):
        tg.ops.exp([leaf(1.0), leaf(2.0)])


def test_an_option_receives_no_gradient_and_says_so():
    @make
    def scaled(x, *, by):
        return x * by, lambda dy: dy * by

    with pytest.raises(TypeError, match=r"scaled: 'by' is an option, which receives no gradient; detach\(\) it"):
        scaled(leaf(1.0), by=leaf(2.0))
    assert scaled(leaf(3.0), by=leaf(2.0).detach()).data == [6.0]


@pytest.mark.parametrize("result", [np.ones(1), (np.ones(1), np.ones(1)), (np.ones(1), abs, abs), None, (), (abs,)])
def test_a_function_that_returns_no_pair_of_value_and_vjp_is_refused(result):
    @make
    def incomplete(x):
        return result

    with pytest.raises(TypeError, match=r"incomplete: an operation returns \(value, vjp\)"):
        incomplete(np.ones(1))


def test_numbers_and_integers_where_arrays_of_floats_belong_are_a_type_error_that_names_the_operation():
    with pytest.raises(TypeError, match=r"matmul: .*float64 and float"):
        tg.ops.matmul(leaf(1.0, 2.0), 2.0)
    with pytest.raises(TypeError, match=r"cross_entropy: .*int64"):
        tg.ops.cross_entropy(np.array([[1, 2]]), np.array([0]))


def test_an_option_after_a_list_of_inputs_must_be_named():
    a, b = np.ones((2, 1)), np.zeros((2, 1))
    with pytest.raises(TypeError, match=r"concatenate: .*by name, as in axis=1"):
        tg.ops.concatenate([a, b], 1)
    assert tg.ops.concatenate([a, b], axis=1).shape == (2, 2)


def test_a_tuple_of_tensors_in_the_place_of_one_is_refused():
    x = leaf(1.0)
    with pytest.raises(TypeError, match=r"list of Tensors.*stack\(\)"):
        tg.ops.exp((x, x))


def test_a_tuple_of_numbers_in_the_place_of_the_first_input_is_an_array():
    assert tg.ops.sub((5.0, 7.0), (1.0, 2.0)).data.tolist() == [4.0, 5.0]
    assert tg.ops.exp((0.0, 0.0)).data.tolist() == [1.0, 1.0]
    assert tg.ops.where((True, False), leaf(1.0, 2.0), 0.0).data.tolist() == [1.0, 0.0]


def test_the_slot_of_a_kernel_is_empty_full_and_callable():
    @make
    def doubled(x):
        return 2 * x, lambda dy: 2 * dy

    assert not doubled.kernel
    assert doubled.kernel(np.ones(2)) is NotImplemented
    assert doubled.kernel() is NotImplemented

    @doubled.kernel
    def twin(x, factor=2):
        return factor * x, lambda dy: factor * dy

    assert doubled.kernel
    assert doubled.kernel.function is twin
    assert doubled.kernel(np.ones(2))[0].tolist() == [2.0, 2.0]
    assert doubled.kernel(np.ones(2), 3)[0].tolist() == [3.0, 3.0]
    assert doubled.kernel(np.ones(2), factor=4)[0].tolist() == [4.0, 4.0]


def test_only_a_function_alone_becomes_the_kernel_of_an_operation_of_functions():
    @make
    def applied(function, x):
        return function(x), lambda dy: (None, dy)

    @applied.kernel
    def twin(function, x):
        return function(x) + 1, lambda dy: (None, dy)

    assert applied.kernel(lambda x: 2 * x, np.ones(2))[0].tolist() == [3.0, 3.0]
    assert applied.kernel.function is twin


def test_samples_are_drawn_in_their_default_shape_or_a_given_one():
    @make
    def doubled(x):
        return 2 * x, lambda dy: 2 * dy

    for size in (2, 3):

        @doubled.sample
        def _(rng, shape=(size,)):
            return (rng.standard_normal(shape),), {}

    rng = np.random.default_rng(0)
    assert len(doubled.sample) == 2
    assert [doubled.sample.draw(rng, number)[0][0].shape for number in range(2)] == [(2,), (3,)]
    assert doubled.sample.draw(rng, 1, (4, 5))[0][0].shape == (4, 5)
    assert {doubled.sample(rng)[0][0].shape for _ in range(20)} == {(2,), (3,)}


def test_an_operation_introduces_itself():
    def halved(x, *, by=2):
        """x / by"""
        return x / by, lambda dy: dy / by

    operation = make(halved)
    assert operation.__name__ == operation.name == "halved"
    assert operation.__doc__ == "x / by"
    assert operation.__wrapped__ is operation.reference is halved
    assert operation.parameters == ("x",)
    assert Operation(halved, "other").name == "other"


@pytest.mark.parametrize("module", ["a_module", "zzz.module"])
def test_a_name_that_another_module_has_taken_is_refused_but_a_module_may_be_loaded_again(module):
    def surely_new(x):
        return x, lambda dy: dy

    try:
        surely_new.__module__ = "some.module"
        tg.op(surely_new)
        again = tg.op(surely_new)
        assert tg.registry["surely_new"] is again
        surely_new.__module__ = module
        with pytest.raises(ValueError, match=r"the name 'surely_new' is taken by some.module"):
            tg.op(surely_new)
    finally:
        del tg.registry["surely_new"]


@pytest.mark.parametrize("error", [ValueError, IndexError, TypeError, AttributeError, OverflowError])
def test_errors_inside_an_operation_say_where_they_come_from(error):
    @make
    def broken(x):
        raise error("no luck")

    kind = error if error in (ValueError, IndexError) else TypeError
    with pytest.raises(kind, match=r"broken: \(2,\): .*no luck") as caught:
        broken(np.ones(2))
    assert type(caught.value) is kind
    assert caught.value.__cause__ is not None


def test_other_errors_inside_an_operation_are_passed_on():
    @make
    def broken(x):
        raise KeyError("no luck")

    with pytest.raises(KeyError, match="no luck"):
        broken(np.ones(2))


def test_positions_of_tensors_by_name_are_filled_with_the_defaults_before_them():
    @make
    def affine(x, slope=2.0, offset=0.0):
        return slope * x + offset, lambda dy: (slope * dy, dy * x, dy)

    x, offset = leaf(1.0), leaf(5.0)
    affine(x, offset=offset).backward()
    assert x.grad == [2.0]
    assert offset.grad == [1.0]
    slope = leaf(3.0)
    affine(x, slope=slope, offset=1.0).backward()
    assert slope.grad == [1.0]
    assert affine(x, 4.0, offset=offset).item() == 9.0


def test_what_follows_the_tensors_given_by_name_stays_as_it_was_given():
    @make
    def affine(x, slope=2.0, offset=0.0):
        return slope * x + offset, lambda dy: (slope * dy, dy * x, dy)

    x, slope = leaf(1.0), leaf(3.0)
    for given in ({}, {"offset": 1.0}):
        memory = affine(x, slope=slope, **given).node.memory
        assert [a.item() for a in memory.arrays] == [1.0, 3.0]
        assert memory.options == given


def test_sizes_that_keep_shapes_from_broadcasting():
    assert explain_broadcast([]) == explain_broadcast([(2, 1), (3,), ()]) == "the shapes do not broadcast"
    assert explain_broadcast([(2, 1), (3, 1)]) == "axis -2 has sizes 2 and 3; they must be equal, or one of them 1"
    assert explain_broadcast([(1, 2), (3, 4)]) == "axis -1 has sizes 2 and 4; they must be equal, or one of them 1"
    assert explain_broadcast([(2, 5), (3, 5)]) == "axis -2 has sizes 2 and 3; they must be equal, or one of them 1"
    assert explain_broadcast([(2,), (0,)]) == "axis -1 has sizes 0 and 2; they must be equal, or one of them 1"
    assert explain_broadcast([(2,), (3,), (4,)]).startswith("axis -1 has sizes 2 and 3 and 4;")
    assert named_shape((), "BTC") == "()"
    assert named_shape((7, 6, 5, 2, 8), "BTC") == "(7, 6, B=5, T=2, C=8)"


def test_values_are_checked_only_under_detect_anomaly_and_every_output_is():
    @make
    def pair(x):
        return (x, x / 0), lambda dys: dys[0]

    with np.errstate(divide="ignore"):
        assert pair(np.ones(1))[1].data == [np.inf]
        with tg.detect_anomaly(), pytest.raises(FloatingPointError, match="pair: its value is not finite"):
            pair(np.ones(1))


def test_all_outputs_are_tensors_that_know_their_place():
    @make
    def spread(x):
        return (x * 1, x * 2, (x > 0).astype(int)), lambda dys: dys[0] + 2 * dys[1]

    x = leaf(1.0, 2.0)
    one, two, positive = spread(x)
    assert (one.output_index, two.output_index) == (0, 1)
    assert one.node is two.node
    assert positive.node is None
    (one + two).backward(np.ones(2))
    assert x.grad.tolist() == [3.0, 3.0]
    assert not any(t.requires_grad for t in spread(x.data))
    assert len(spread(x.data)) == 3
