"""Communication that gradients flow through: values, vjps, derivations, placements."""

import inspect
import zlib

import numpy as np
import pytest
from compositions import check, compositions
from hypothesis import given
from hypothesis import strategies as st
from launching import mpirun

import tinygrad_llm as tg
from tinygrad_llm import ops
from tinygrad_llm.checking import derivation_steps
from tinygrad_llm.parallel.across import on_threads
from tinygrad_llm.parallel.communication_ops import (
    communications,
    enter,
    exchange,
    gather,
    reduce,
    scatter_sum,
    shift,
    split,
)
from tinygrad_llm.parallel.communicator import Solo
from tinygrad_llm.parallel.loopback import Loopback
from tinygrad_llm.parallel.mesh import Mesh
from tinygrad_llm.parallel.placement import P, R, S, V, place, placement_of

NAMES = sorted(communications)
seeds = st.integers(0, 2**32 - 1)
each = pytest.mark.parametrize("name", NAMES)


def draw(name, seed):
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    operation = communications[name]
    (x, ranks), options = operation.sample(rng)
    return operation, x, ranks, options, rng


def expected(name, x, ranks, options):
    """The value on what all ranks hold, by its meaning."""
    if name in ("enter", "gather"):
        return np.stack([x] * ranks)
    if name in ("reduce", "scatter_sum"):
        return x.sum(0)
    if name == "shared_cross_entropy":
        targets, reduction = options["targets"], options["reduction"]
        return ops.cross_entropy.reference(x, targets, reduction=reduction)[0]
    if name == "shift":
        return np.stack([x[(r - options["steps"]) % ranks] for r in range(ranks)])
    return x


@each
@given(seed=seeds)
def test_values(name, seed):
    operation, x, ranks, options, _ = draw(name, seed)
    value, _ = operation.whole.reference(x, ranks, **options)
    np.testing.assert_allclose(value, expected(name, x, ranks, options), rtol=0, atol=1e-14)


@each
@given(seed=seeds)
def test_gradients(name, seed):
    operation, x, ranks, options, _ = draw(name, seed)
    report = tg.gradcheck(lambda t: operation.whole(t, ranks, **options), x, seed=seed)
    assert report, report


@each
@given(seed=seeds)
def test_derivation_steps_agree(name, seed):
    operation, x, ranks, options, rng = draw(name, seed)
    dy = rng.standard_normal(operation.whole.reference(x, ranks, **options)[0].shape)
    steps = derivation_steps(operation.whole, "x", (x, ranks), options, dy)
    assert len(steps) >= 3
    for step in steps:
        assert step.change < 1e-14, step.why


@each
def test_derivations_have_the_arguments_of_their_operation(name):
    given = inspect.signature(communications[name].reference).parameters
    found = inspect.signature(communications[name].derivations["x"]).parameters
    assert found.keys() == {"dy", "ranks", *given} - {"communicator"}
    for option in given.keys() - {"x", "communicator"}:
        assert found[option].default == given[option].default


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("number", range(len(compositions(1))))
def test_compositions_on_threads(number, ranks):
    composition = compositions(ranks)[number]
    program, _, placed, made, _ = composition
    check(on_threads(program, ranks, placed, made), composition, differences=ranks == 2)


@pytest.mark.parametrize("ranks", [2, 4])
def test_compositions_on_mpi(ranks):
    done = mpirun(ranks, "compositions.py")
    assert done.returncode == 0, done.stderr


def on_two(program, *placed, shape=(2, 4)):
    """What a program of two ranks makes of inputs placed so."""

    def main(c):
        return program(c, *(place(tg.Tensor(np.ones(shape), requires_grad=True), c, p) for p in placed))

    return Loopback(2).run(main)[0]


def test_replicated_and_sharded_meet_only_where_entered():
    with pytest.raises(
        ValueError,
        match=r"mul: an input of shape \(2, 4\) is replicated over world and meets one that is sharded along dim 1; "
        r"its cotangent would be only this rank's part: enter\(x\) first",
    ):
        on_two(lambda c, x, w: x * w, R, S(-1))
    with pytest.raises(ValueError, match="meets one that is varying"):
        on_two(lambda c, x, w: x * (w * 2.0), R, S(1))
    y = on_two(lambda c, x, w: enter(x, c) * w, R, S(1))
    assert placement_of(y, "world") == V
    assert placement_of(on_two(lambda c, x: (x * 3.0).sum(), R), "world") == R
    assert placement_of(on_two(lambda c, x: tg.Tensor(np.ones(4)) * x, S(0)), "world") == V, "it needs no gradient"


def test_a_partial_value_is_used_only_when_summed():
    with pytest.raises(ValueError, match=r"gelu: an input of shape \(2, 4\) is partial over world: .*reduce\(x\)"):
        on_two(lambda c, x: ops.gelu(x), P)
    assert placement_of(on_two(lambda c, x: reduce(x, c), P), "world") == R
    assert placement_of(on_two(lambda c, x: scatter_sum(x, c, dim=-1), P), "world") == S(1)


@pytest.mark.parametrize(
    ("program", "placed", "message"),
    [
        (enter, S(0), r"enter: \(2, 4\): x is sharded along dim 0 over world, and must be replicated"),
        (enter, V, "x is varying"),
        (reduce, R, "x is replicated over world, and must be varying or partial"),
        (reduce, S(1), "x is sharded along dim 1"),
        (scatter_sum, R, "x is replicated"),
        (split, S(0), "x is sharded along dim 0 over world, and must be replicated"),
        (gather, R, "x is replicated over world, and must be sharded along dim 0 or varying"),
        (gather, S(1), "x is sharded along dim 1 over world, and must be sharded along dim 0"),
        (gather, P, "x is partial"),
        (shift, R, "x is replicated"),
    ],
)
def test_each_takes_only_what_it_is_for(program, placed, message):
    with pytest.raises(ValueError, match=message):
        on_two(lambda c, x: program(x, c), placed)


def test_axes_are_told_apart():
    def main(c):
        mesh = Mesh(2, 1, 2, c)
        x = place(tg.Tensor(np.ones((2, 2)), requires_grad=True), mesh.tp, S(0))
        y = place(tg.Tensor(np.ones((2, 2)), requires_grad=True), mesh.dp, V)
        with pytest.raises(ValueError, match="replicated over dp and meets one that is varying"):
            x * y
        both = enter(x, mesh.dp) * enter(y, mesh.tp)
        summed = reduce(both, mesh.dp)
        return [placement_of(t, axis) for t in (both, summed) for axis in ("dp", "tp")]

    assert Loopback(4).run(main) == [[V, V, R, V]] * 4


def test_with_a_single_rank_nothing_is_said():
    solo = Solo("tp")
    x, w = (tg.Tensor(np.ones((2, 4)), requires_grad=True) for _ in range(2))
    place(w, solo, S(0))
    y = reduce(enter(x, solo) * w, solo) + gather(scatter_sum(x, solo), solo) + shift(split(x, solo), solo)
    y = y + exchange(x, solo, gathered=0, shared=1) + reduce(x, solo)
    assert not hasattr(y, "placements")
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, np.full((2, 4), 5.0))
    assert solo.ledger.bytes == 0


def test_a_checkpoint_knows_how_its_inputs_are_held():
    def program(c, x, w):
        return tg.checkpoint(lambda x, w: reduce(x * w, c), enter(x, c), w)

    def main(c):
        x = tg.Tensor(np.full(3, 2.0), requires_grad=True)
        w = place(tg.Tensor(np.full(3, 1.0 + c.rank), requires_grad=True), c, V)
        program(c, x, w).sum().backward()
        return x.grad.tolist(), w.grad.tolist()

    assert Loopback(2).run(main) == [([3.0] * 3, [2.0] * 3)] * 2


def test_a_gradient_that_differs_between_ranks_is_told():
    def forgetful(c, x, w):
        w.placements = {}
        return reduce(place(x * w, c, V), c)

    function = on_threads(forgetful, 2, [R, S(0)], R)
    _, vjp = function(np.ones((1, 3)), np.arange(6.0).reshape(2, 3))
    with pytest.raises(ValueError, match=r"hold different values of a replicated array of shape \(1, 3\).*not entered"):
        vjp(np.ones((1, 3)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x, c: split(x, c, dim=1),
            r"split: .*the 5 rows along dim 1 cannot .* 2 ranks over world",
        ),
        (lambda x, c: scatter_sum(x, c, dim=1), "scatter_sum: .*the 5 rows along dim 1"),
        (lambda x, c: exchange(x, c, gathered=0, shared=1), "exchange: .*the 5 rows along dim 1"),
        (lambda x, c: exchange(x, c, gathered=1, shared=-1), "gathered=1 and shared=-1 are the same dim"),
    ],
)
def test_what_cannot_be_shared_out(call, message):
    with pytest.raises(ValueError, match=message):
        Loopback(2).run(lambda c: call(np.ones((2, 5)), c))


def test_what_is_sent_is_what_the_formulas_say():
    def main(c):
        x = tg.Tensor(np.ones((4, 6)), requires_grad=True)
        y = reduce(enter(x, c) * 2.0, c)
        forward = c.ledger["all_reduce", "world"].bytes
        y.sum().backward()
        z = gather(split(y.detach(), c, dim=1), c, dim=1)
        np.testing.assert_array_equal(z.data, y.data)
        return forward, c.ledger["all_reduce", "world"].bytes, c.ledger["all_gather", "world"].bytes

    size = 4 * 6 * 8
    for found in Loopback(2).run(main):
        assert found == (size, 2 * size, size // 2)
