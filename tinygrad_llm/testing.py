"""For the tests of your own operations: hypothesis strategies, and an assertion that compares gradients.

    from hypothesis import given
    from tinygrad_llm.testing import arrays, assert_gradients_match, broadcastable

    @given(x=arrays())
    def test_gradient(x):
        assert_gradients_match(my_operation, x)

    @given(xs=broadcastable(2))
    def test_it_broadcasts(xs):
        assert_gradients_match(my_operation, *xs)

If a gradient is wrong, hypothesis looks for the smallest case in which it is. Numbers are multiples of a half, so that
this case can be redone on paper; the cotangents are random, so that a wrong gradient shows nevertheless.
Needs hypothesis: ``pip install 'tinygrad-llm[test]'``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tinygrad_llm.checking import gradcheck
from tinygrad_llm.tape import Array
from tinygrad_llm.tensor import Tensor

try:
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp
except ImportError as error:
    raise ImportError("tinygrad_llm.testing needs hypothesis: pip install 'tinygrad-llm[test]'") from error

__all__ = [
    "arrays",
    "assert_gradients_match",
    "broadcastable",
    "broadcastable_shapes",
    "cotangents",
    "numbers",
    "shapes",
]

Shape = tuple[int, ...]
Strategy = st.SearchStrategy


def assert_gradients_match(
    function: Callable[..., Any],
    *arrays: npt.ArrayLike | Tensor,
    names: Sequence[str] | None = None,
    rtol: float | None = None,
    **options: Any,
) -> None:
    """Raise AssertionError, with the report and its diagnosis, unless `gradcheck` passes.

    `function` is an operation, an undecorated one (it returns ``(value, vjp)``), or any function of Tensors; `options`
    are its keyword arguments. A gradient between the slopes on both sides of a kink passes. One that cannot be checked
    does not: keep to inputs at which the function is defined on both sides and does not jump.
    """
    report = gradcheck(function, *arrays, names=names, rtol=rtol, **options)
    if not report:
        raise AssertionError(str(report))


def numbers(low: float = -3, high: float = 3) -> Strategy[float]:
    """Multiples of a half from `low` to `high`, both included: ``numbers(0.5, 3)`` for log, or below a fraction line.

    The simplest is the one nearest to 0.
    """
    first, last = math.ceil(2 * low), math.floor(2 * high)
    if first > last:
        raise ValueError(f"numbers: no multiple of a half lies between low={low} and high={high}")
    return st.integers(first, last).map(lambda n: n / 2)


def shapes(min_dims: int = 1, max_dims: int = 3, min_side: int = 1, max_side: int = 4) -> Strategy[Shape]:
    """Shapes with `min_dims` to `max_dims` axes of `min_side` to `max_side` entries; (1,) is the simplest by default.

    ``shapes(min_dims=0)`` has also (), and ``shapes(min_side=0)`` axes without entries.
    """
    return hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, min_side=min_side, max_side=max_side)


def arrays(
    shapes: int | Shape | Strategy[Shape] | None = None,
    dtype: npt.DTypeLike = np.float64,
    elements: Strategy[Any] | None = None,
    layouts: bool = True,
    zero_strides: bool = False,
) -> Strategy[Array]:
    """Arrays of these `shapes` (one, or a strategy; else any of `shapes()`), each entry drawn from `elements`.

    `elements` are `numbers()` by default, for integers -3 to 3. With `layouts` the same values may lie in memory in C
    or Fortran order, with gaps, backwards, or as a transposed view: an operation must not care. With `zero_strides` the
    first entry may also be repeated along an axis, as by np.broadcast_to. ::

        arrays((2, 3))                              arrays(shapes(2, 2), elements=numbers(0.5, 3))
        arrays(shapes(max_side=8), np.float32)      arrays((4,), dtype=int, elements=st.integers(0, 9))
    """
    kind = np.dtype(dtype).kind
    if elements is None:
        elements = {"f": numbers(), "b": st.booleans()}.get(kind, st.integers(0 if kind == "u" else -3, 3))
    where = _default_shapes() if shapes is None else shapes
    drawn = hnp.arrays(dtype, where, elements=elements, fill=st.nothing())  # without fill, entries are independent
    if not layouts and not zero_strides:
        return drawn
    chosen = (list(_LAYOUTS) if layouts else ["C order"]) + (["zero stride"] if zero_strides else [])
    return st.builds(_laid_out, drawn, st.sampled_from(chosen), st.integers(0, 7))


_default_shapes = shapes


def broadcastable_shapes(count: int, max_dims: int = 3, max_side: int = 4) -> Strategy[tuple[Shape, ...]]:
    """Tuples of `count` shapes that broadcast together, as in ``((3, 1), (4,))``."""
    found = hnp.mutually_broadcastable_shapes(num_shapes=count, max_dims=max_dims, max_side=max_side)
    return found.map(lambda shapes: tuple(shapes.input_shapes))


def broadcastable(
    count: int, max_dims: int = 3, max_side: int = 4, elements: Strategy[Any] | None = None, layouts: bool = True
) -> Strategy[tuple[Array, ...]]:
    """Tuples of `count` float64 arrays whose shapes broadcast together; `elements` and `layouts` as for `arrays`."""

    def fill(shapes: tuple[Shape, ...]) -> Strategy[tuple[Array, ...]]:
        return st.tuples(*(arrays(shape, elements=elements, layouts=layouts) for shape in shapes))

    return broadcastable_shapes(count, max_dims, max_side).flatmap(fill)


def cotangents(like: Any) -> Strategy[Any]:
    """Cotangents of a value: arrays of its shape and dtype, in any layout; a tuple of them for a tuple of values.

    They are normally distributed and never constant. For a test that calls a vjp itself::

        @given(x=arrays(), data=st.data())
        def test_vjp_is_linear(x, data):
            y, vjp = my_operation.reference(x)
            dy = data.draw(cotangents(y))
            np.testing.assert_allclose(vjp(3 * dy), 3 * vjp(dy))
    """
    if isinstance(like, tuple):
        return st.tuples(*map(cotangents, like))
    value = like.data if isinstance(like, Tensor) else np.asarray(like)

    def draw(seed: int) -> Array:
        return np.asarray(np.random.default_rng(seed).standard_normal(value.shape), value.dtype)

    return st.builds(_laid_out, st.integers(0, 2**32 - 1).map(draw), st.sampled_from(list(_LAYOUTS)), st.integers(0, 7))


def _with_gaps(x: Array, axis: int) -> Array:
    spread = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    spread[..., ::2] = x
    return spread[..., ::2]


def _transposed(x: Array, axis: int) -> Array:
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, axis, -1)), -1, axis)


# The same values in other places of memory. The plain one is the first, and so the simplest.
_LAYOUTS: dict[str, Callable[[Array, int], Array]] = {
    "C order": lambda x, axis: x,
    "Fortran order": lambda x, axis: np.asfortranarray(x),
    "gaps": _with_gaps,
    "backwards": lambda x, axis: np.flip(np.flip(x, axis).copy(), axis),
    "transposed": _transposed,
}


def _laid_out(x: Array, layout: str, number: int) -> Array:
    """`x` in the layout of that name; `number` chooses the axis."""
    if not x.ndim:
        return x
    axis = number % x.ndim
    if layout == "zero stride":
        return np.broadcast_to(np.take(x, [0], axis), x.shape) if x.size else x
    return _LAYOUTS[layout](x, axis)
