"""The strategies draw what they promise, and shrink to it; the assertion explains what is wrong."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

import tinygrad_llm as tg
from tinygrad_llm.testing import (
    arrays,
    assert_gradients_match,
    broadcastable,
    broadcastable_shapes,
    cotangents,
    numbers,
    shapes,
)

# the phase left out, Phase.explain, traces every line that a failing test runs, which takes many times as long
thorough = settings(
    max_examples=100,
    database=None,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


def softmax_without_its_sum(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    y = e / e.sum(-1, keepdims=True)
    return y, lambda dy: dy * y


def layout_of(x):
    """In what order x lies in memory."""
    if any(s == 0 for s, n in zip(x.strides, x.shape, strict=True) if n > 1):
        return "zero stride"
    if any(s < 0 for s in x.strides):
        return "backwards"
    if x.flags.c_contiguous:
        return "C order"
    if x.flags.f_contiguous:
        return "Fortran order"
    return "gaps" if x.strides[-1] == 2 * x.itemsize else "transposed"


@thorough
@given(x=arrays())
def test_arrays_hold_halves(x):
    assert x.dtype == np.float64
    assert 1 <= x.ndim <= 3
    assert all(1 <= n <= 4 for n in x.shape)
    assert np.array_equal(2 * x, np.rint(2 * x))
    assert np.abs(x).max() <= 3


LAYOUTS = ("C order", "Fortran order", "gaps", "backwards", "transposed", "zero stride")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_drawn(layout):
    drawn = arrays((2, 3, 4), zero_strides=True)
    x = find(drawn, lambda x: layout_of(x) == layout, settings=settings(thorough, max_examples=500))
    assert x.shape == (2, 3, 4)
    if layout in ("C order", "zero stride"):
        plain = arrays((2, 3, 4), layouts=False, zero_strides=layout == "C order")
        with pytest.raises(NoSuchExample):
            find(plain, lambda x: layout_of(x) not in ("C order", "zero stride"), settings=thorough)


@pytest.mark.parametrize("layout", LAYOUTS[1:5])
def test_a_layout_keeps_the_values(layout):
    from tinygrad_llm.testing import _laid_out

    x = np.arange(24.0).reshape(2, 3, 4)
    for number in range(3):
        np.testing.assert_array_equal(_laid_out(x, layout, number), x)


def test_without_zero_strides_none_are_drawn():
    with pytest.raises(NoSuchExample):
        find(arrays((2, 3)), lambda x: layout_of(x) == "zero stride", settings=thorough)


def test_entries_differ():
    assert len(np.unique(find(arrays((3, 4)), lambda x: len(np.unique(x)) > 6, settings=thorough))) > 6


@pytest.mark.parametrize(("dtype", "kind"), [(np.float32, "f"), (np.int64, "i"), (np.uint8, "u"), (bool, "b")])
def test_dtypes(dtype, kind):
    x = find(arrays((3,), dtype), lambda x: x.any(), settings=thorough)
    assert x.dtype == dtype
    assert x.dtype.kind == kind


def test_shapes_and_numbers_keep_within_their_bounds():
    assert find(shapes(min_dims=0), lambda s: True, settings=thorough) == ()
    assert find(shapes(2, 2, 0, 3), lambda s: 0 in s, settings=thorough) == (0, 0)
    assert find(shapes(1, 2, 2, 5), lambda s: len(s) == 2 and max(s) == 5, settings=thorough) in ((2, 5), (5, 2))
    assert find(numbers(0.5, 3), lambda n: True, settings=thorough) == 0.5
    assert find(numbers(-2, 2), lambda n: n == -2, settings=thorough) == -2
    assert find(numbers(1.2, 2.4), lambda n: n > 1.5, settings=thorough) == 2
    with pytest.raises(NoSuchExample):
        find(numbers(-2, 2), lambda n: abs(n) > 2, settings=thorough)
    with pytest.raises(ValueError, match=r"no multiple of a half lies between low=0.1 and high=0.4"):
        numbers(0.1, 0.4)


@thorough
@given(found=broadcastable_shapes(3), xs=broadcastable(2, max_dims=2, max_side=3, elements=numbers(1, 2)))
def test_broadcastable(found, xs):
    assert len(found) == 3
    np.broadcast_shapes(*found)
    assert len(xs) == 2
    assert np.broadcast(*xs).ndim <= 2
    assert all(x.min(initial=1) >= 1 and x.max(initial=1) <= 2 for x in xs)


def test_broadcasting_is_really_drawn():
    a, b = find(broadcastable(2), lambda xs: xs[0].shape != xs[1].shape and xs[0].ndim == 2, settings=thorough)
    assert a.shape != b.shape


@thorough
@given(data=st.data(), x=arrays(shapes(1, 2, 2, 4), np.float32))
def test_cotangents(data, x):
    dy = data.draw(cotangents(x))
    assert dy.shape == x.shape
    assert dy.dtype == np.float32
    assert np.ptp(dy) > 0
    one, two = data.draw(cotangents((tg.Tensor(x), np.float64(3))))
    assert (one.shape, two.shape) == (x.shape, ())


def test_cotangents_come_in_layouts_too():
    value = np.zeros((2, 3, 4))
    for layout in LAYOUTS[:5]:
        assert layout_of(find(cotangents(value), lambda dy, wanted=layout: layout_of(dy) == wanted, settings=thorough))


@given(xs=broadcastable(2))
def test_a_right_operation_passes(xs):
    assert_gradients_match(tg.ops.mul, *xs)


@given(x=arrays(), approximate=st.booleans())
def test_options_are_handed_on(x, approximate):
    assert_gradients_match(tg.ops.gelu, x, approximate=approximate)


def test_a_wrong_one_raises_with_the_diagnosis():
    with pytest.raises(AssertionError) as caught:
        assert_gradients_match(softmax_without_its_sum, np.array([[0.5, 1, 2]]), names=["logits"])
    text = str(caught.value)
    assert text.startswith("gradcheck of softmax_without_its_sum: FAILED\n  FAIL dlogits (1, 3)")
    assert "likely cause: the term along the output y or softmax(logits) (axis -1) is missing" in text
    almost = lambda x: (x * x, lambda dy: 2.0001 * x * dy)  # noqa: E731
    assert_gradients_match(almost, np.array([1.0, 2.0]), rtol=1e-3)
    with pytest.raises(AssertionError):
        assert_gradients_match(almost, np.array([1.0, 2.0]))


def test_an_undecided_check_raises_too():
    with pytest.raises(AssertionError, match="undecided"):
        assert_gradients_match(lambda x: (np.round(x), lambda dy: 0 * dy), np.array([0.5, 1.0]))


def test_hypothesis_reports_the_smallest_failing_case():
    @thorough
    @given(x=arrays(shapes(2, 2, 1, 4)))
    def check(x):
        assert_gradients_match(softmax_without_its_sum, x)

    with pytest.raises(AssertionError) as caught:
        check()
    assert "x=array([[0.]])" in "".join(caught.value.__notes__)  # the softmax of one entry is 1, whatever it is

    @thorough
    @given(x=arrays(shapes(2, 2, 2, 4)))
    def check_at_least_two(x):
        assert_gradients_match(softmax_without_its_sum, x)

    with pytest.raises(AssertionError) as caught:
        check_at_least_two()
    assert "x=array([[0.,0.],[0.,0.]])" in "".join("".join(caught.value.__notes__).split())
    assert "the term along the output y" in str(caught.value)


def test_a_vjp_that_is_wrong_for_one_layout_is_caught():
    def doubled(x):  # reads the memory, not the array
        return 2 * x, lambda dy: dy * (2 if x.flags.c_contiguous or x.flags.f_contiguous else 1)

    @thorough
    @given(x=arrays((2, 3)))
    def check(x):
        assert_gradients_match(doubled, x)

    with pytest.raises(AssertionError, match=r"is 0\.5 times what it should be"):
        check()


def test_without_hypothesis_it_says_what_to_install():
    code = "import sys; sys.modules['hypothesis'] = None; import tinygrad_llm; import tinygrad_llm.testing"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1
    assert "tinygrad_llm.testing needs hypothesis: pip install 'tinygrad-llm[test]'" in run.stderr
