"""Parameters in a flat space that ranks share out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.nn import Parameter
from tinygrad_llm.optim.optimizer import block_squares
from tinygrad_llm.parallel.flat_space import Unit

SHAPES = st.lists(st.sampled_from([(1,), (3,), (7,), (2, 8), (5, 5), (40,), (9, 9)]), min_size=1, max_size=9)


def unit_of(shapes, ranks, block=16):
    rng = np.random.default_rng(0)
    named = [(f"p{i}", Parameter(rng.standard_normal(shape))) for i, shape in enumerate(shapes)]
    return Unit(named, ranks, block)


@given(shapes=SHAPES, ranks=st.integers(1, 5))
def test_the_ranks_own_every_element_once(shapes, ranks):
    unit = unit_of(shapes, ranks)
    for name, parameter in unit.named:
        owned = np.zeros(parameter.size, int)
        for rank in range(ranks):
            for piece in unit.pieces(rank):
                if piece.name == name:
                    owned[piece.start : piece.stop] += 1
        assert (owned == 1).all()


@given(shapes=SHAPES, ranks=st.integers(1, 5))
def test_what_is_joined_comes_apart_again(shapes, ranks):
    unit = unit_of(shapes, ranks)
    arrays = {name: parameter.data for name, parameter in unit.named}
    flat = unit.join(arrays)
    assert flat.size == unit.size == ranks * unit.chunk
    for name, view in unit.views(flat).items():
        np.testing.assert_array_equal(view, arrays[name])
        assert np.shares_memory(view, flat)
    chunks = flat.reshape(ranks, -1)
    for rank in range(ranks):
        for piece in unit.pieces(rank):
            part = chunks[rank, piece.place : piece.place + piece.stop - piece.start]
            np.testing.assert_array_equal(part, arrays[piece.name].reshape(-1)[piece.start : piece.stop])
    assert np.count_nonzero(flat) == unit.size - unit.waste


@given(shapes=SHAPES, ranks=st.integers(1, 5))
def test_pieces_have_the_blocks_of_whole_parameters(shapes, ranks):
    unit = unit_of(shapes, ranks)
    for rank in range(ranks):
        for piece in unit.pieces(rank):
            size = dict(unit.named)[piece.name].size
            assert piece.start % 16 == 0
            assert piece.stop % 16 == 0 or piece.stop == size


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_the_squares_of_pieces_are_those_of_parameters(ranks):
    rng = np.random.default_rng(1)
    shapes = [(300, 50), (17,), (4096,), (5000,), (64, 64), (3,)]
    named = [(f"p{i}", Parameter(rng.standard_normal(shape).astype(np.float32))) for i, shape in enumerate(shapes)]
    unit = Unit(named, ranks)
    chunks = unit.join({name: parameter.data for name, parameter in named}).reshape(ranks, -1)
    found = [
        block_squares(chunks[rank, piece.place : piece.place + piece.stop - piece.start])
        for rank in range(ranks)
        for piece in unit.pieces(rank)
    ]
    expected = [block_squares(parameter.data) for _, parameter in named]
    assert sorted(np.concatenate(found)) == sorted(np.concatenate(expected))


def test_little_is_wasted_on_a_model_of_some_size():
    block = [(256, 768), (768,), (256, 256), (256,), (256, 1024), (1024,), (1024, 256), (256,), (256,), (256,)]
    shapes = [shape for _ in range(12) for shape in block]
    unit = Unit([(f"p{i}", Parameter(np.zeros(shape, np.float32))) for i, shape in enumerate(shapes)], 4)
    assert unit.waste < 0.01 * unit.size


def test_a_gradient_that_is_missing_is_zero():
    unit = unit_of([(3,), (2,)], 2)
    assert unit.join({"p0": None, "p1": np.ones(2)}).sum() == 2
