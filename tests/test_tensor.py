"""The tape: what flows where, in which order, and what it refuses."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm import Tensor, locks
from tinygrad_llm.operation import Operation
from tinygrad_llm.tape import saved_arrays, unbroadcast


def leaf(*values):
    return Tensor(np.array(values, np.float64), requires_grad=True)


def test_a_value_used_twice_receives_both_contributions():
    x = leaf(3.0)
    y = x * x  # dy/dx = 2x
    z = y * x + y  # z = x^3 + x^2, dz/dx = 3x^2 + 2x
    z.backward(np.ones(1))
    assert x.grad == [33.0]


def test_a_diamond_is_visited_once_per_node():
    x = leaf(2.0)
    a = x * 3
    b, c = a * a, a * 5
    (b * c).backward(np.ones(1))  # 9x^2 * 15x = 135 x^3
    assert x.grad == [135 * 3 * 4]


def test_a_chain_of_a_hundred_thousand_operations():
    x = leaf(1.0, 2.0)
    y = x
    for _ in range(100_000):
        y = y * 1.00001
    y.backward(np.array([1.0, -1.0]))
    np.testing.assert_allclose(x.grad, 1.00001**100_000 * np.array([1.0, -1.0]), rtol=1e-9)


def test_a_long_chain_can_be_dropped_without_backward():
    x = leaf(1.0)
    y = x
    for _ in range(100_000):
        y = y * 1.0
    del y
    gc.collect()
    assert x.data.flags.writeable


def test_gradients_accumulate_over_backward_calls():
    x = leaf(2.0)
    (x * x).backward(np.ones(1))
    (x * 5).backward(np.ones(1))
    assert x.grad == [9.0]
    x.zero_grad()
    assert x.grad is None


def test_a_second_backward_is_refused():
    x = leaf(2.0)
    y = x * x
    y.backward(np.ones(1))
    with pytest.raises(RuntimeError, match=r"'mul' was already freed.*run the forward pass again"):
        y.backward(np.ones(1))


def test_a_graph_that_shares_freed_nodes_is_refused():
    x = leaf(2.0)
    shared = x * x
    (shared * 2).backward(np.ones(1))
    with pytest.raises(RuntimeError, match="already freed"):
        (shared * 3).backward(np.ones(1))


def test_a_non_scalar_needs_its_cotangent():
    x = leaf(1.0, 2.0)
    with pytest.raises(RuntimeError, match=r"shape \(2,\) is not a scalar, so its cotangent must be given"):
        (x * 2).backward()
    with pytest.raises(ValueError, match=r"cotangent has shape \(3,\), the Tensor \(2,\)"):
        (x * 2).backward(np.ones(3))


def test_a_scalar_needs_none_and_neither_does_a_leaf():
    x = Tensor(3.0, requires_grad=True)
    (x * x).backward()
    assert x.grad == 6.0
    x.backward(2.0)
    assert x.grad == 8.0


def test_without_a_gradient_backward_is_refused():
    with pytest.raises(RuntimeError, match="does not depend on any Tensor with requires_grad"):
        (Tensor([1.0]) * 2).backward()


def test_integers_have_no_gradient():
    with pytest.raises(TypeError, match=r"int64 cannot have a gradient.*astype\(np.float32\)"):
        Tensor(np.arange(3), requires_grad=True)
    with pytest.raises(TypeError, match="not numeric"):
        Tensor(np.array(["a"]))


def test_no_grad_records_nothing_and_nests():
    x = leaf(1.0)
    with tg.no_grad():
        assert not (x * 2).requires_grad
        with tg.enable_grad():
            assert (x * 2).requires_grad
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad

    @tg.no_grad()
    def double(t):
        return t * 2

    assert not double(x).requires_grad
    assert not x.detach().requires_grad


def test_arrays_that_a_vjp_needs_are_read_only_until_it_has_run():
    array = np.ones((2, 3))
    x = Tensor(array, requires_grad=True)
    y = x * x
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 5
    y.backward(np.ones((2, 3)))
    array[0] = 5
    assert x.data[0, 0] == 5


def test_locks_are_counted_and_views_are_locked_with_their_owner():
    array = np.ones((4, 3))
    view = array[:2]
    x, v = Tensor(array, requires_grad=True), Tensor(view, requires_grad=True)
    first, second = x * x, v * v
    assert not view.flags.writeable, "though its owner was locked before it"
    first.backward(np.ones((4, 3)))
    assert not array.flags.writeable, "the second graph still needs the memory"
    second.backward(np.ones((2, 3)))
    assert array.flags.writeable
    assert view.flags.writeable
    assert not locks._locks


def test_arrays_that_were_read_only_stay_so():
    array = np.ones(3)
    array.flags.writeable = False
    x = Tensor(array, requires_grad=True)
    (x * x).backward(np.ones(3))
    assert not array.flags.writeable


def test_a_dropped_graph_unlocks():
    x = leaf(1.0)
    y = x * x
    assert not x.data.flags.writeable
    del y
    assert x.data.flags.writeable


def test_writing_in_place_to_a_tensor_is_refused():
    x = leaf(1.0, 2.0)
    with pytest.raises(TypeError, match="not written in place"):
        x[0] = 1.0


def test_leaf_gradients_do_not_share_memory_with_the_cotangent():
    @tg.op
    def test_same(x, y):
        return x + y, lambda dy: (dy, dy)

    try:
        x, y, dy = leaf(1.0), leaf(2.0), np.ones(1)
        test_same(x, y).backward(dy)
        assert not np.may_share_memory(x.grad, y.grad)
        assert not np.may_share_memory(x.grad, dy)
    finally:
        del tg.registry["test_same"]


def test_retain_grad_keeps_the_gradient_of_an_intermediate_value():
    x = leaf(3.0)
    y = (x * x).retain_grad()
    (y * 2 + y).backward(np.ones(1))
    assert y.grad == [3.0]


def test_numpy_interoperation():
    x = leaf(1.0, 2.0)
    y = np.array([2.0, 3.0]) * x
    assert isinstance(y, Tensor)
    assert np.asarray(y).tolist() == [2.0, 6.0]
    assert np.asarray(y, np.float32).dtype == np.float32
    assert np.array(y) is not y.data
    assert (np.float64(2.0) * x).data.tolist() == [2.0, 4.0]
    assert len(x) == 2
    assert [t.item() for t in x] == [1.0, 2.0]
    assert float(x[0]) == 1.0
    with pytest.raises(TypeError):
        _ = x > 0


def test_numpy_scalars_do_not_widen_float32():
    x = Tensor(np.ones(2, np.float32), requires_grad=True)
    y = x * np.float64(0.5)
    assert y.dtype == np.float32
    y.backward(np.ones(2))
    assert x.grad.dtype == np.float32


def test_item_needs_one_element():
    with pytest.raises(ValueError, match=r"shape \(2,\) has 2 elements"):
        leaf(1.0, 2.0).item()


def test_repr_is_one_line_about_the_values():
    text = repr(Tensor(np.array([[1.0, -2.0, np.nan, np.inf]])))
    assert text == "Tensor(shape=(1, 4), float64, range [-2, 1], mean -0.5, std 1.5, NaN: 1!, infinite: 1!)"
    assert repr(leaf(2.0) * 3) == "Tensor(shape=(1,), float64, value 6, from mul, requires_grad)"
    assert "range [1e+300, 1e+308]" in repr(Tensor(np.array([1e308, 1e300])))
    assert repr(Tensor(np.zeros((0, 3)))) == "Tensor(shape=(0, 3), float64)"
    assert "value 1" in repr(Tensor(np.array(True)))


def test_detect_anomaly_names_the_first_operation_whose_value_is_not_finite():
    x = leaf(1e200, 1.0)
    with tg.detect_anomaly(), np.errstate(over="ignore"), pytest.raises(FloatingPointError) as caught:
        _ = x * 2 * x * x
    assert "mul: its value is not finite" in str(caught.value)
    assert "infinite: 1!" in str(caught.value)
    assert "range [2, 2e+200]" in str(caught.value)


def test_detect_anomaly_names_the_first_operation_whose_gradient_is_not_finite():
    x = leaf(4.0, 0.0)
    with tg.detect_anomaly():
        y = x.sqrt() * 3
        with np.errstate(divide="ignore"), pytest.raises(FloatingPointError) as caught:
            y.backward(np.ones(2))
    assert "sqrt: the gradient of input 'x' is not finite" in str(caught.value)
    assert "range [0, 4]" in str(caught.value)


@given(st.data())
def test_unbroadcast_is_the_adjoint_of_broadcasting(data):
    full = tuple(data.draw(st.lists(st.integers(0, 3), min_size=0, max_size=4)))
    kept = tuple(1 if data.draw(st.booleans()) else n for n in full)
    shape = kept[data.draw(st.integers(0, len(kept))) :]
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x, g = rng.standard_normal(shape), rng.standard_normal(full)
    back = unbroadcast(g, shape)
    assert back.shape == shape
    # <broadcast(x), g> = <x, unbroadcast(g)>
    np.testing.assert_allclose((np.broadcast_to(x, full) * g).sum(), (x * back).sum(), rtol=1e-12, atol=1e-12)


def test_a_cotangent_is_taken_in_the_dtype_of_its_tensor():
    seen = []

    def double(x):
        def vjp(dy):
            seen.append(dy.dtype)
            return 2 * dy

        return 2 * x, vjp

    x = Tensor(np.ones(2, np.float32), requires_grad=True)
    y = Operation(double)(x).retain_grad()
    y.backward(np.ones(2, np.float64))
    assert seen == [np.float32]
    assert x.grad.dtype == y.grad.dtype == np.float32
    leaf_alone = Tensor(np.ones(2, np.float32), requires_grad=True)
    leaf_alone.backward(np.ones(2, np.float64))
    assert leaf_alone.grad.dtype == np.float32


def test_leaf_gradients_do_not_share_memory_with_each_other():
    def both(x, y):
        def vjp(dy):
            gradient = 2 * dy
            return gradient, gradient

        return 2 * (x + y), vjp

    x, y = leaf(1.0), leaf(2.0)
    Operation(both)(x, y).backward(np.ones(1))
    assert not np.may_share_memory(x.grad, y.grad)


@pytest.mark.parametrize("part", [lambda slope: slope, lambda slope: slope[:]])
def test_a_leaf_gradient_does_not_share_memory_with_what_the_vjp_saved(part):
    def total(x):
        slope = np.ones_like(x)
        saved.append(slope)
        return x.sum(), lambda dy: part(slope)

    saved = []
    x = leaf(1.0, 2.0)
    Operation(total)(x).backward()
    assert x.grad.tolist() == [1.0, 1.0]
    assert not np.may_share_memory(x.grad, saved[0])


def test_the_gradient_of_a_leaf_that_is_sent_backward_itself_is_a_copy_of_the_cotangent():
    x, dy = leaf(1.0), np.ones(1)
    x.backward(dy)
    assert not np.may_share_memory(x.grad, dy)


def test_a_retained_gradient_shares_no_memory_with_the_cotangent_nor_with_a_leaf():
    x, dy = leaf(1.0), np.ones(1)
    y = Operation(lambda t: (t + 0, lambda cotangent: cotangent), "same")(x).retain_grad()
    y.backward(dy)
    assert not np.may_share_memory(y.grad, dy)
    assert not np.may_share_memory(x.grad, dy)
    assert not np.may_share_memory(y.grad, x.grad)


def test_a_gradient_that_is_a_read_only_view_becomes_an_array_that_can_be_added_to():
    total = Operation(lambda x: (x.sum(), lambda dy: np.broadcast_to(dy + 0, (2,))), "total")
    x = leaf(1.0, 2.0)
    total(x).backward()
    total(x).backward()
    assert x.grad.tolist() == [2.0, 2.0]


def test_a_gradient_arrives_in_the_dtype_of_its_input_whatever_the_vjp_computes_in():
    x = Tensor(np.ones(2, np.float32), requires_grad=True)
    Operation(lambda a: (2 * a, lambda dy: 2 * dy.astype(np.float64)), "double")(x).backward(np.ones(2))
    assert x.grad.dtype == np.float32


def test_the_owner_of_a_view_is_locked_and_unlocked_with_it():
    array = np.ones((4, 3))
    view = array[:2]
    v = Tensor(view, requires_grad=True)
    y = v * v
    assert not array.flags.writeable
    assert not view.flags.writeable
    y.backward(np.ones((2, 3)))
    assert array.flags.writeable
    assert view.flags.writeable


def test_an_input_is_locked_when_another_view_of_its_memory_was_saved():
    def square_sum(x):
        flat = x.reshape(-1)
        return flat @ flat, lambda dy: (2 * dy * flat).reshape(x_shape)

    x_shape = (2, 3)
    view = np.ones((4, 3))[:2]
    y = Operation(square_sum)(Tensor(view, requires_grad=True))
    assert not view.flags.writeable
    y.backward()
    assert view.flags.writeable


def test_saved_arrays_are_found_in_inner_closures_and_in_tuples_and_lists():
    plain, inside, first, second = (np.full(1, float(i)) for i in range(4))
    pair, listed = ("a name", first), [second]

    def inner(dy):
        return dy * inside

    def vjp(dy):
        return inner(dy) * plain * pair[1] * listed[0] * never_assigned

    if not listed:
        never_assigned = 1.0
    found = sorted(float(a[0]) for a in saved_arrays(vjp))
    assert found == [0.0, 1.0, 2.0, 3.0]


def test_a_function_that_calls_itself_is_searched_for_saved_arrays_once():
    kept = np.ones(1)

    def vjp(dy):
        return kept if dy is None else vjp(None)

    assert len(saved_arrays(vjp)) == 1


def test_a_vjp_may_return_a_list():
    x, y = leaf(2.0), leaf(3.0)
    Operation(lambda a, b: (a * b, lambda dy: [dy * b, dy * a]), "product")(x, y).backward(np.ones(1))
    assert x.grad == [3.0]
    assert y.grad == [2.0]


def test_a_vjp_may_be_a_partial_function():
    def times(factor, dy):
        return factor * dy

    x = leaf(2.0)
    Operation(lambda a: (3 * a, partial(times, 3.0)), "triple")(x).backward(np.ones(1))
    assert x.grad == [3.0]


def test_a_function_decorated_with_no_grad_may_run_in_several_threads_at_once():
    @tg.no_grad()
    def double(t, meet):
        meet()
        return t * 2

    x = leaf(1.0)
    first_inside, second_inside = threading.Event(), threading.Event()

    def wait_for_the_second():
        first_inside.set()
        assert second_inside.wait(5)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(double, x, wait_for_the_second)
        assert first_inside.wait(5)

        def outlast_the_first():
            second_inside.set()
            assert not first.result(5).requires_grad

        assert not double(x, outlast_the_first).requires_grad
    assert (x * 2).requires_grad


def test_tensors_are_not_compared_but_can_be_keys():
    x, same = leaf(1.0), leaf(1.0)
    for compare in (lambda: x == same, lambda: x == 1.0, lambda: x != same, lambda: x in [same]):
        with pytest.raises(TypeError, match="Tensors are not compared"):
            compare()
    names = {x: "x", same: "same"}
    assert names[x] == "x"
    assert names[same] == "same"


def test_the_truth_of_a_tensor_is_that_of_its_data():
    assert not Tensor(0.0)
    assert Tensor([2.0])
    with pytest.raises(ValueError, match="ambiguous"):
        bool(leaf(1.0, 2.0))


@pytest.mark.parametrize("number", [np.float64(4), np.int64(4)])
def test_numpy_numbers_keep_float32_also_in_divisions_and_limits(number):
    t = Tensor(np.ones(2, np.float32), requires_grad=True)
    assert (t / number).dtype == np.float32
    assert (number / t).dtype == np.float32
    assert t.clip(number).dtype == np.float32
    assert t.clip(high=number).dtype == np.float32


def test_an_array_of_a_tensor_is_its_data_unless_a_copy_is_wanted():
    t = leaf(1.0, 2.0)
    assert np.shares_memory(np.asarray(t), t.data)
    assert not np.shares_memory(np.array(t), t.data)
    assert t.__array__(np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="copy"):
        np.array(t, np.float32, copy=False)


@pytest.mark.parametrize("data", [True, 1, np.uint8(1), 1j])
def test_only_real_floating_point_numbers_have_gradients(data):
    with pytest.raises(TypeError, match="cannot have a gradient"):
        Tensor(data, requires_grad=True)
    assert not Tensor(data).requires_grad


def test_nothing_is_not_one_element():
    empty = Tensor(np.ones(0), requires_grad=True)
    with pytest.raises(ValueError, match=r"shape \(0,\) has 0 elements"):
        empty.item()
    with pytest.raises(RuntimeError, match=r"shape \(0,\) is not a scalar"):
        empty.backward()
    with pytest.raises(ValueError, match=r"cotangent has shape \(1,\), the Tensor \(2,\)"):
        leaf(1.0, 2.0).backward(np.ones(1))


METHODS = [
    *((name, {"axis": 1, "keepdims": True}) for name in ("sum", "mean", "max", "logsumexp")),
    *((name, {"axis": 0}) for name in ("sum", "mean", "max", "logsumexp", "softmax", "log_softmax")),
    *((name, {}) for name in ("sum", "mean", "max", "logsumexp", "softmax", "log_softmax", "gelu")),
    *((name, {}) for name in ("exp", "sqrt", "abs", "tanh", "sigmoid", "relu", "silu", "softplus", "log")),
    ("gelu", {"approximate": False}),
    ("clip", {"low": 0.4}),
    ("clip", {"high": 0.6}),
    ("clip", {"low": 0.4, "high": 0.6}),
]


@pytest.mark.parametrize(("name", "options"), METHODS)
def test_a_method_is_its_operation_with_the_same_defaults(name, options):
    t = Tensor(np.random.default_rng(0).random((2, 3, 4)))
    np.testing.assert_array_equal(getattr(t, name)(**options).data, tg.registry[name](t, **options).data)


def test_shapes_and_axes_may_stand_alone_or_in_a_tuple():
    t = Tensor(np.arange(6.0).reshape(1, 2, 3))
    for reshaped in (t.reshape(3, 2), t.reshape((3, 2)), t.reshape(3, -1)):
        np.testing.assert_array_equal(reshaped.data, t.data.reshape(3, 2))
    assert t.reshape(6).shape == t.reshape(-1).shape == (6,)
    assert Tensor([1.0]).reshape().shape == ()
    for transposed in (t.transpose(2, 0, 1), t.transpose((2, 0, 1))):
        np.testing.assert_array_equal(transposed.data, t.data.transpose(2, 0, 1))
    np.testing.assert_array_equal(t.T.data, t.data.T)
    np.testing.assert_array_equal(t.transpose().data, t.data.T)
    assert Tensor([1.0, 2.0]).transpose(0).shape == (2,)
