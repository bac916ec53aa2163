"""The tape at its edges: descriptions, un-broadcasting, what a gradient may share, what is kept alive."""

import gc
import itertools
import sys
import threading
import weakref

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm import Tensor, locks, ops, tape
from tinygrad_llm.locks import lock, unlock
from tinygrad_llm.operation import Operation
from tinygrad_llm.tape import SMALL, describe, sweep, unbroadcast


def leaf(*values):
    return Tensor(np.array(values, np.float64), requires_grad=True)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([np.nan], "shape=(1,), float64, NaN: 1!"),
        ([np.inf], "shape=(1,), float64, infinite: 1!"),
        ([np.nan, 2.0], "shape=(2,), float64, range [2, 2], mean 2, std 0, NaN: 1!"),
        ([np.nan, np.nan, np.inf, -np.inf], "shape=(4,), float64, NaN: 2!, infinite: 2!"),
        ([0.0, 0.0], "shape=(2,), float64, range [0, 0], mean 0, std 0"),
        ([1.0, 3.0], "shape=(2,), float64, range [1, 3], mean 2, std 1"),
        ([1e308, -1e308, 1e-300], "shape=(3,), float64, range [-1e+308, 1e+308], mean 0, std 8.165e+307"),
        ([5], "shape=(1,), int64, value 5"),
        ([], "shape=(0,), float64"),
        ([1j], "shape=(1,), complex128"),
    ],
)
def test_a_description_says_what_is_in_an_array(values, text):
    assert describe(np.array(values)) == text


@pytest.mark.parametrize(
    ("given", "wanted"), [((3,), (2, 3)), ((), (1,)), ((3,), (2,)), ((2, 3), (3, 2)), ((3,), (0,))]
)
def test_what_is_no_broadcast_of_the_input_is_refused(given, wanted):
    with pytest.raises(ValueError, match="is no broadcast of"):
        unbroadcast(np.ones(given), wanted)


@pytest.mark.parametrize(("given", "wanted"), [((2, 0), (0,)), ((2, 0), (1, 0)), ((0, 3), (3,)), ((2, 0), ())])
def test_empty_gradients_are_unbroadcast_too(given, wanted):
    total = unbroadcast(np.ones(given), wanted)
    assert total.shape == wanted
    assert not total.any()


def test_as_many_cotangents_as_outputs():
    x = leaf(1.0)
    with pytest.raises(ValueError, match="shorter"):
        sweep([x * 2, x * 3], [np.ones(1)])


def returns(*gradients, name="odd"):
    """An operation of one output, whose vjp returns these gradients."""
    return Operation(lambda *xs: (xs[0] + 0, lambda dy: gradients), name)


def test_a_gradient_that_is_missing_at_the_end_is_named():
    def three(x, y, z):
        return x + y + z, lambda dy: (dy,)

    with pytest.raises(RuntimeError) as caught:
        Operation(three)(leaf(1.0), np.ones(1), leaf(2.0)).backward()
    where = "three: the gradient of input 'z'"
    assert str(caught.value) == f"{where} is not defined (its vjp gives None), but that input requires a gradient"


def test_the_inputs_of_a_variadic_operation_are_counted():
    with pytest.raises(RuntimeError, match="gradient of input 'xs' is not defined"):
        returns(None, None, None)(leaf(1.0), np.ones(1), np.ones(1)).backward()
    with pytest.raises(RuntimeError, match=r"gradient of input 'xs\[1\]' is not defined"):
        returns(None, None, None)(np.ones(1), leaf(1.0), np.ones(1)).backward()
    with pytest.raises(RuntimeError, match=r"gradient of input 'xs\[2\]' is not defined"):
        returns(None, None, None)(np.ones(1), np.ones(1), leaf(1.0)).backward()


@pytest.mark.parametrize("computed", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("wanted", [np.float32, np.float64])
def test_a_gradient_has_the_dtype_of_its_input(computed, wanted):
    x = Tensor(np.ones(2, wanted), requires_grad=True)
    returns(np.full(2, 3, computed))(x).backward(np.ones(2))
    assert x.grad.dtype == wanted
    assert x.grad.tolist() == [3.0, 3.0]


def test_a_gradient_of_a_leaf_that_grows_does_not_change_a_cotangent_that_is_waiting():
    def both(a, b):
        def vjp(dy):
            shared = 2 * dy
            return shared, shared

        return 2 * (a + b), vjp

    x = leaf(1.0)
    early, late = x * 3, x * 7
    # backward: `both` gives x its first gradient and leaves a cotangent for `early`; then `late` adds to that of x
    (Operation(both)(x, early) + late).backward()
    assert x.grad == [2 + 2 * 3 + 7]


def test_a_gradient_that_shares_no_memory_becomes_that_of_the_leaf_without_a_copy():
    made = []

    def total(a, b):
        def vjp(dy):
            made.extend((2 * dy, 3 * dy))
            return tuple(made)

        return 2 * a + 3 * b, vjp

    x, y = leaf(1.0), leaf(1.0)
    Operation(total)(x, y).backward()
    assert x.grad is made[0]
    assert y.grad is made[1]


def test_a_backward_inside_a_vjp_gives_the_gradient_at_once_even_through_the_first_operation_of_all(monkeypatch):
    monkeypatch.setattr(tape, "_creation", itertools.count())
    inside, x = leaf(3.0), leaf(5.0)
    square = inside * inside
    assert square.node.order == 0

    def scaled(a):
        def vjp(dy):
            square.backward()
            return dy * inside.grad

        return 6 * a, vjp

    Operation(scaled)(x).backward()
    assert inside.grad == [6.0]
    assert x.grad == [6.0]


def test_anomalies_of_a_graph_that_was_recorded_without_detection():
    x = leaf(0.0, 4.0)
    y = x.sqrt()
    with tg.detect_anomaly(), np.errstate(divide="ignore"), pytest.raises(FloatingPointError) as caught:
        y.backward(np.ones(2))
    assert "Inputs: not recorded: run the forward pass under detect_anomaly() too" in str(caught.value)


def test_infinite_gradients_pass_where_nobody_looks_for_them():
    x = leaf(0.0)
    with np.errstate(divide="ignore"):
        x.sqrt().backward()
    assert x.grad == [np.inf]


def test_after_backward_nothing_is_kept_alive():
    x = leaf(1.0)
    alive = weakref.ref(x)
    (x * 2).backward()
    del x
    gc.collect()
    assert alive() is None


def test_locked_memory_belongs_to_what_was_saved_and_to_nothing_else():
    saved, free = np.ones(3), np.ones(3)
    y = Operation(lambda a, b: (a * 2 + b, lambda dy: (dy * a, dy)))(Tensor(saved, True), Tensor(free, True))
    assert not saved.flags.writeable
    assert free.flags.writeable
    y.backward(np.ones(3))
    assert saved.flags.writeable


@pytest.mark.parametrize(("elements", "remembered"), [(SMALL // 16, True), (SMALL // 16 + 1, False)])
def test_operations_of_at_most_64_kilobytes_are_remembered(elements, remembered):
    assert SMALL == 65536
    x = Tensor(np.ones(elements), requires_grad=True)
    y = ops.exp(x)
    assert (y.node.memory is not None) == remembered
    with tg.keep_graph():
        assert ops.exp(x).node.memory is not None


@pytest.mark.parametrize(("more", "remembered"), [(0, True), (1, False)])
def test_the_limit_of_what_is_remembered_is_exact_to_the_byte(more, remembered):
    scale = Operation(lambda x, bytes_: (2 * x, lambda dy: (2 * dy, None)), "scale")
    x = leaf(1.0)  # 8 bytes, and 8 more of the output
    y = scale(x, np.zeros(SMALL - 16 + more, np.uint8))
    assert (y.node.memory is not None) == remembered


def test_a_leaf_knows_its_graph_only_if_all_of_it_is_remembered():
    small, large = leaf(1.0), Tensor(np.ones(SMALL), requires_grad=True)
    y = small * 2
    y.backward()
    assert small.origin == (y.node,)
    (large.sum() + small.sum()).backward()
    assert large.origin == ()
    assert small.origin == ()


def test_unbroadcasting_to_no_axes_gives_an_array():
    total = unbroadcast(np.ones((2, 3)), ())
    assert type(total) is np.ndarray
    assert total.flags.writeable
    assert total == 6


def test_memory_that_is_not_numpys_own_is_locked_too():
    array = np.frombuffer(bytearray(16))
    x = Tensor(array, requires_grad=True)
    y = x * x
    assert not array.flags.writeable
    y.backward(np.ones(2))
    assert array.flags.writeable


def test_memory_of_a_library_that_hides_whether_it_may_be_written_to_is_left_alone():
    """As PyTorch's is: once read-only, NumPy would never make it writeable again."""

    class Foreign:
        def __init__(self):
            self.kept = np.arange(3.0)
            self.__array_interface__ = self.kept.__array_interface__

    x = np.asarray(Foreign())
    assert not isinstance(x.base, np.ndarray)
    assert x.flags.writeable
    lock(x)
    assert x.flags.writeable
    unlock(x)
    view = x[1:]
    lock(view)
    unlock(view)
    assert x.flags.writeable
    assert view.flags.writeable


def test_an_owner_that_was_read_only_stays_so_when_a_view_of_it_is_unlocked():
    owner = np.ones(3)
    owner.flags.writeable = False
    view = owner[:2]
    lock(view)
    unlock(view)
    assert not owner.flags.writeable
    assert not view.flags.writeable


def test_an_array_is_locked_although_its_last_lock_is_undone_in_the_middle(monkeypatch):
    array = np.ones(3)

    class Collected(dict):
        """Like a garbage collection, in the middle of the second lock, of the node that had the first."""

        def get(self, key):
            found = super().get(key)
            if found is not None:
                unlock(array)
            return found

    monkeypatch.setattr(locks, "_locks", Collected())
    lock(array)
    lock(array)
    assert not array.flags.writeable
    unlock(array)
    assert array.flags.writeable


def test_threads_may_share_an_array():
    shared, problems = np.ones(3), []

    def work():
        try:
            for _ in range(20_000):
                lock(shared)
                unlock(shared)
        except Exception as error:
            problems.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not problems
    assert shared.flags.writeable


def test_a_writeable_view_of_an_array_made_read_only_is_left_as_it_was():
    owner = np.ones(4)
    view = owner[:2]
    owner.flags.writeable = False
    x = Tensor(view, requires_grad=True)
    (x * x).backward(np.ones(2))
    np.testing.assert_array_equal(x.grad, [2, 2])
    assert view.flags.writeable
    assert not owner.flags.writeable


def test_a_cotangent_is_gone_when_the_next_vjp_runs():
    alive = []

    @Operation
    def second(x):
        def vjp(dy):
            cotangents.append(weakref.ref(dy))
            return dy * 2

        return x * 2, vjp

    @Operation
    def first(x):
        def vjp(dy):
            alive.append(cotangents[0]() is not None)
            return dy * 2

        return x * 2, vjp

    cotangents: list = []
    size = SMALL // 8 + 1  # small operations keep their cotangents for study
    x = tg.Tensor(np.ones(size), requires_grad=True)
    second(first(x)).sum().backward()
    assert alive == [False]
