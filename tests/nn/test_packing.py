"""Weights in one block of memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.models import GPT, GPTConfig, Llama, LlamaConfig, load_model
from tinygrad_llm.nn import Linear
from tinygrad_llm.nn.packing import LINE, in_one_block, pack_parameters

shapes = st.lists(st.integers(0, 5), min_size=0, max_size=3).map(tuple)


@given(st.lists(st.tuples(shapes, st.sampled_from([np.float64, np.float32, np.int8, np.uint16])), max_size=5))
def test_copies_are_equal_aligned_and_do_not_overlap(kinds):
    rng = np.random.default_rng(0)
    arrays = [np.asarray(100 * rng.standard_normal(shape)).astype(dtype).T for shape, dtype in kinds]
    copies = in_one_block(arrays)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(copy, array)
        assert (copy.dtype, copy.shape) == (array.dtype, array.shape)
        assert copy.flags.c_contiguous
        assert copy.flags.writeable
        assert copy.size == 0 or copy.ctypes.data % LINE == 0
        assert not np.shares_memory(copy, array)
    for copy in copies:
        copy[...] = 1  # changes no other
    assert all((copy == 1).all() for copy in copies)
    for i, copy in enumerate(copies):
        copy[...] = i
    assert all((copy == i).all() for i, copy in enumerate(copies))


def is_packed(model):
    for linear in (m for m in model.modules() if isinstance(m, Linear)):
        assert linear.weight.data.flags.f_contiguous, "(out, in) in memory"
    assert model.token_embedding.weight.data.flags.c_contiguous
    places = [p.data.ctypes.data for p in model.parameters()]
    assert places == sorted(places)
    assert places[-1] - places[0] < sum(p.data.nbytes + LINE for p in model.parameters())


def test_a_packed_model_is_the_same():
    model = GPT(GPTConfig(20, 8, 16, 1, 2))
    ids = np.arange(6)[None]
    before, weights = model(ids).data, {name: p.data.copy() for name, p in model.named_parameters()}
    pack_parameters(model)
    np.testing.assert_allclose(model(ids).data, before, atol=1e-6)  # BLAS adds in another order
    assert [name for name, _ in model.named_parameters()] == list(weights)
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(parameter.data, weights[name])
    is_packed(model)


@pytest.mark.parametrize(
    "model",
    [
        GPT(GPTConfig(20, 8, 16, 1, 2)),
        Llama(LlamaConfig(20, 8, 12, 2, 6, 2, 10, tied=False, qkv_bias=True)),
        Llama(LlamaConfig(20, 8, 12, 2, 6, 2, 10)).astype(np.float64),
    ],
    ids=["gpt", "llama", "float64"],
)
def test_a_model_is_packed_as_it_is_read(tmp_path, model):
    model.save_pretrained(tmp_path / "saved")
    plain, packed = load_model(tmp_path / "saved"), load_model(tmp_path / "saved", packed=True)
    is_packed(packed)
    assert all(p.data.flags.c_contiguous for p in plain.parameters())
    read = zip(model.named_parameters(), plain.named_parameters(), packed.named_parameters(), strict=True)
    for (name, parameter), *others in read:
        for other_name, other in others:
            assert (other_name, other.dtype) == (name, parameter.dtype)
            np.testing.assert_array_equal(other.data, parameter.data)
            assert other.data.flags.writeable
