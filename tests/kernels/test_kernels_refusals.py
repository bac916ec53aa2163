"""Arguments at which a kernel must do as its reference does, though its loops would not notice."""

import numpy as np
import pytest

import tinygrad_llm as tg

pytest.importorskip("tinygrad_llm.kernels.compiled", reason="no kernels here", exc_type=ImportError)

from tinygrad_llm.kernels import vector
from tinygrad_llm.ops.indexing import scatter_rows
from tinygrad_llm.optim.adamw import adamw_update


@pytest.mark.parametrize("ids", [[0, 7], [0, -4]])
def test_rows_outside_the_array_are_not_written(ids):
    with tg.use_backend("numba"), pytest.raises(IndexError):
        scatter_rows(np.array(ids), np.ones((2, 4), np.float32), 3)


def test_an_update_of_another_shape_is_refused():
    weight, mean, square = np.ones((3, 2, 3), np.float32)
    with tg.use_backend("numba"), pytest.raises(ValueError, match="broadcast"):
        adamw_update(weight, np.ones((3, 2), np.float32), mean, square, 1, 0.1, (0.9, 0.99), 1e-8, 0.0)


def test_strides_that_are_no_whole_number_of_elements():
    record = np.zeros((2, 3, 5), np.dtype([("tag", "u1"), ("x", np.float32, 4)]))
    record["x"] = np.random.default_rng(0).standard_normal((2, 3, 5, 4))
    x = record["x"]
    positions = np.arange(5)
    expected = tg.ops.rotary.reference(x.copy(), positions)[0]
    np.testing.assert_allclose(tg.ops.rotary.kernel(x, positions)[0], expected, rtol=1e-6, atol=1e-6)


def test_a_huge_gate_has_a_finite_gradient():
    gate, up = np.array([1e19], np.float32), np.ones(1, np.float32)
    assert tg.ops.geglu.kernel(gate, up)[1](np.ones(1, np.float32))[0].tolist() == [1.0]


def test_a_block_of_a_product_has_as_many_columns_as_rows():
    for itemsize in (4, 8):
        assert 2 * vector.VECTOR // itemsize % vector.ROWS == 0
