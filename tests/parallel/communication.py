"""What every communicator must do: checks that each of its ranks runs at the same time as the others.

`test_communicator` runs them on threads and, as a program, on MPI.
"""

import hashlib
import inspect
import itertools
import sys

import numpy as np
import pytest

from tinygrad_llm.parallel.launch import guarded, world
from tinygrad_llm.parallel.ledger import formula
from tinygrad_llm.parallel.mesh import Mesh

LENGTHS = [0, 1, 2, 3, 4, 5, 7, 12, 24, 1001]
DTYPES = [np.float32, np.float64, np.int64]


def arrays(communicator, shape, dtype, seed=0):
    """What each rank gives: every rank can draw them all. The sums depend on their order."""
    found = []
    for rank in range(communicator.size):
        rng = np.random.default_rng([seed, rank])
        if np.dtype(dtype).kind == "i":
            found.append(rng.integers(-100, 100, shape).astype(dtype))
        else:
            found.append(np.asarray(rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 4, shape), dtype))
    return found


def tree(found):
    """The ordered sum of one to four arrays, written out."""
    if len(found) < 4:
        return np.asarray(sum(found[1:], start=found[0]))
    a, b, c, d = found
    return np.asarray((a + b) + (c + d))


def same(communicator, found, expected):
    """Bit for bit, here and on all ranks."""
    assert isinstance(found, np.ndarray)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()
    digests = communicator.gather_objects(hashlib.sha256(found.tobytes()).hexdigest())
    assert len(set(digests)) == 1


def cases():
    yield from itertools.product([(length,) for length in LENGTHS] + [(3, 5), (4, 0, 2), (12, 2)], DTYPES)


def booked(communicator, operation, call):
    """The result of a call, and the bytes of each rank that the ledger has for it."""
    entry = communicator.ledger[operation, communicator.axis]
    count, before = entry.count, entry.bytes
    result = call()
    assert entry.count == count + 1
    return result, communicator.gather_objects(entry.bytes - before)


def check_all_reduce(c):
    for shape, dtype in [*cases(), ((), np.float32)]:
        given = arrays(c, shape, dtype)
        own = given[c.rank].copy()
        own.flags.writeable = False
        result, sent = booked(c, "all_reduce", lambda own=own: c.all_reduce(own))
        same(c, result, tree(given))
        np.testing.assert_array_equal(own, given[c.rank])
        assert sum(sent) == c.size * formula("all_reduce", own.nbytes, c.size)
        if own.size % c.size == 0:
            assert set(sent) == {formula("all_reduce", own.nbytes, c.size)}


def check_all_reduce_of_views(c):
    given = arrays(c, (6, 8), np.float32)
    same(c, c.all_reduce(given[c.rank].T), tree([a.T for a in given]))
    same(c, c.all_reduce(given[c.rank][::2, 1::3]), tree([a[::2, 1::3] for a in given]))
    same(c, c.all_reduce(np.broadcast_to(given[c.rank][:1], (6, 8))), tree([a[:1].repeat(6, 0) for a in given]))


def check_views(c):
    given = arrays(c, (6, 12), np.float32)
    same(c, c.all_gather(given[c.rank].T[::2]), np.concatenate([a.T[::2] for a in given]))
    np.testing.assert_array_equal(c.reduce_scatter(given[c.rank].T), np.array_split(tree(given).T, c.size)[c.rank])
    expected = np.concatenate([np.array_split(a.T, c.size)[c.rank] for a in given])
    np.testing.assert_array_equal(c.all_to_all(given[c.rank].T), expected)
    same(c, c.broadcast(given[c.rank][:, ::3]), given[0][:, ::3])
    if c.size > 1:
        sending = c.start_send(given[c.rank].T, (c.rank + 1) % c.size)
        left = (c.rank - 1) % c.size
        np.testing.assert_array_equal(c.receive((12, 6), np.float32, left), given[left].T)
        sending.wait()


def check_max(c):
    for shape, dtype in [*cases(), ((), np.float64)]:
        given = arrays(c, shape, dtype)
        result, sent = booked(c, "max", lambda given=given: c.max(given[c.rank]))
        same(c, result, np.asarray(np.max(given, 0)))
        assert sum(sent) == c.size * formula("max", result.nbytes, c.size)
    own = np.array([np.nan if c.rank == 0 else 1.0, -c.rank, np.inf if c.rank == c.size - 1 else 0.0])
    result = c.max(own)
    assert np.isnan(result[0])
    assert result[1] == 0
    assert result[2] == np.inf


def check_reduce_scatter(c):
    for shape, dtype in cases():
        given = arrays(c, shape, dtype)
        before = given[c.rank].copy()
        result, sent = booked(c, "reduce_scatter", lambda given=given: c.reduce_scatter(given[c.rank]))
        expected = np.array_split(tree(given), c.size)[c.rank]
        assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
        assert result.tobytes() == expected.tobytes()
        np.testing.assert_array_equal(given[c.rank], before)
        assert sum(sent) == c.size * formula("reduce_scatter", before.nbytes, c.size)
        if len(before) % c.size == 0:
            assert set(sent) == {formula("reduce_scatter", before.nbytes, c.size)}


def check_all_gather(c):
    for shape, dtype in cases():
        given = arrays(c, shape, dtype)
        result, sent = booked(c, "all_gather", lambda given=given: c.all_gather(given[c.rank]))
        same(c, result, np.concatenate(given))
        assert set(sent) == {formula("all_gather", result.nbytes, c.size)}


def check_all_gather_of_unequal_chunks(c):
    for shape, dtype in cases():
        whole = arrays(c, shape, dtype)[0]
        own = np.array_split(whole, c.size)[c.rank]
        result, sent = booked(c, "all_gather", lambda own=own, whole=whole: c.all_gather(own, len(whole)))
        same(c, result, whole)
        assert sum(sent) == c.size * formula("all_gather", whole.nbytes, c.size)


def check_all_to_all(c):
    for shape, dtype in cases():
        given = arrays(c, shape, dtype)
        result, sent = booked(c, "all_to_all", lambda given=given: c.all_to_all(given[c.rank]))
        expected = np.concatenate([np.array_split(a, c.size)[c.rank] for a in given])
        assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
        assert result.tobytes() == expected.tobytes()
        assert sum(sent) == c.size * formula("all_to_all", given[0].nbytes, c.size)
        if len(given[0]) % c.size == 0:
            assert set(sent) == {formula("all_to_all", given[0].nbytes, c.size)}


def check_broadcast(c):
    for root, (shape, dtype) in itertools.product(range(c.size), [*cases(), ((), np.float64)]):
        given = arrays(c, shape, dtype)
        result, sent = booked(c, "broadcast", lambda given=given, root=root: c.broadcast(given[c.rank], root))
        same(c, result, given[root])
        assert sum(sent) == c.size * formula("broadcast", result.nbytes, c.size)


def check_small_things(c):
    value = {"rank": c.rank, "text": "ä" * 3 * c.rank, "list": [1.5, None, True]}
    assert [v["rank"] for v in c.gather_objects(value)] == list(range(c.size))
    assert c.gather_objects((c.rank, "x"))[-1] == [c.size - 1, "x"]
    assert c.any(False) is False
    assert c.any(True) is True
    assert c.any(c.rank == c.size - 1) is True
    c.barrier()
    c.barrier("the second")
    assert c.ledger["barrier", c.axis].count == 2
    assert c.ledger["barrier", c.axis].bytes == 0


def check_messages(c):
    if c.size == 1:
        return
    right, left = (c.rank + 1) % c.size, (c.rank - 1) % c.size
    sent = c.ledger["send", c.axis].bytes
    for shape, dtype in [*cases(), ((), np.int32)]:
        given = arrays(c, shape, dtype)
        receiving = c.start_receive(shape, dtype, left, tag=5)
        sending = c.start_send(given[c.rank], right, tag=5)
        found = receiving.wait()
        assert sending.wait() is None
        assert (found.shape, found.dtype) == (given[left].shape, given[left].dtype)
        assert found.tobytes() == given[left].tobytes()
        sent += given[c.rank].nbytes
    assert c.ledger["send", c.axis].bytes == sent


def check_messages_are_told_apart_by_tag_and_keep_their_order(c):
    if c.size == 1:
        return
    right, left = (c.rank + 1) % c.size, (c.rank - 1) % c.size
    sends = [c.start_send(np.array([tag, number]), right, tag) for number in range(3) for tag in (7, 32767, 0)]
    for tag in (0, 7, 32767):
        for number in range(3):
            assert c.receive((2,), np.int64, left, tag).tolist() == [tag, number]
    for handle in sends:
        handle.wait()
    big = np.arange(300_000.0) + c.rank  # more than MPI takes in before it is received
    handle = c.start_send(big, right)
    np.testing.assert_array_equal(c.receive(big.shape, big.dtype, left), np.arange(300_000.0) + left)
    handle.wait()


def check_messages_of_other_sizes_are_errors(c):
    if c.size == 1:
        return
    right, left = (c.rank + 1) % c.size, (c.rank - 1) % c.size
    for sent, expected, told in ((2, 3, "16"), (3, 2, "(24|more)")):
        sending = c.start_send(np.ones(sent), right)
        message = rf"receive over world, .*: rank {left} sent {told} bytes where {8 * expected} were expected"
        with pytest.raises(ValueError, match=message):
            c.receive((expected,), np.float64, left)
        sending.wait()
    assert c.engine.pending == []


def check_many_at_once(c):
    given = [arrays(c, (n,), np.float32, n) for n in (1, 50_000, 7, 0, 120_001, 12)]
    handles = [(c.start_all_reduce(a[c.rank]), c.start_reduce_scatter(a[c.rank])) for a in given]
    order = range(len(given)) if c.rank % 2 else range(len(given) - 1, -1, -1)
    for number in order:
        whole, chunk = (handle.wait() for handle in handles[number])
        assert whole.tobytes() == tree(given[number]).tobytes()
        assert chunk.tobytes() == np.array_split(tree(given[number]), c.size)[c.rank].tobytes()
    assert c.engine.pending == []
    assert handles[0][0].wait() is handles[0][0].wait()


def check_progress_alone_brings_it_to_its_end(c):
    given = arrays(c, (200_000,), np.float32)
    handle = c.start_all_reduce(given[c.rank])
    while not handle.finished:
        c.progress()
    assert handle.done()
    assert handle.wait().tobytes() == tree(given).tobytes()
    c.barrier()


def check_mesh(c):
    if c.size != 4:
        return
    for sizes in itertools.product((1, 2, 4), repeat=3):
        if np.prod(sizes) != 4:
            continue
        mesh = Mesh(*sizes, c)
        grid = np.arange(4).reshape(sizes)
        assert grid[mesh.coordinates] == c.rank == mesh.rank == mesh.rank_at(*mesh.coordinates)
        for axis, name in enumerate(("dp", "pp", "tp")):
            along = getattr(mesh, name)
            index = [*mesh.coordinates]
            index[axis] = slice(None)
            expected = grid[tuple(index)]
            assert (along.axis, along.size, along.rank) == (name, sizes[axis], mesh.coordinates[axis])
            assert along.ranks == tuple(expected)
            assert along.all_gather(np.array([c.rank])).tolist() == expected.tolist()
            assert along.all_reduce(np.array([c.rank])) == expected.sum()
            assert along.ledger is c.ledger


def check_axes_do_not_wait_for_each_other(c):
    """Ranks wait along different axes first, for large arrays, which move only while both sides are in a call."""
    if c.size != 4:
        return
    mesh = Mesh(2, 1, 2, c)
    one, two = np.full(400_000, 1.0 + c.rank), np.full(300_000, 10.0 * (1 + c.rank))
    handles = [mesh.dp.start_all_reduce(one), mesh.tp.start_all_reduce(two)]
    for number in ((0, 1), (1, 0), (1, 0), (0, 1))[c.rank]:
        handles[number].wait()
    assert handles[0].wait()[0] == sum(1.0 + r for r in mesh.dp.ranks)
    assert handles[1].wait()[-1] == sum(10.0 * (1 + r) for r in mesh.tp.ranks)


CHECKS = [f for name, f in list(globals().items()) if name.startswith("check_") and inspect.isfunction(f)]


def main():
    for check in CHECKS:
        for polite in {world().engine.polite, True}:
            world().engine.polite = polite
            world().ledger.clear()
            check(world())
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
