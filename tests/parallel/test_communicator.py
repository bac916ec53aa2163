"""Communication between ranks that are threads, and between those of MPI."""

import numpy as np
import pytest
from communication import CHECKS
from launching import mpirun

from tinygrad_llm.optim.pairwise import PairwiseSum
from tinygrad_llm.parallel.collectives import chunk_bounds, ordered_sum
from tinygrad_llm.parallel.communicator import Solo
from tinygrad_llm.parallel.ledger import Ledger, formula
from tinygrad_llm.parallel.loopback import Loopback
from tinygrad_llm.parallel.mesh import Mesh, RanksError


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("check", CHECKS)
def test_threads(check, ranks):
    Loopback(ranks, checked=False).run(check)


@pytest.mark.parametrize("check", CHECKS)
def test_threads_that_compare_their_calls(check):
    Loopback(4).run(check)


@pytest.mark.parametrize("check", CHECKS)
def test_solo(check):
    check(Solo())


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_mpi(ranks):
    done = mpirun(ranks, "communication.py")
    assert done.returncode == 0, done.stderr


def test_mpi_whose_ranks_compare_their_calls():
    done = mpirun(2, "communication.py", TINYGRAD_LLM_DEBUG="1")
    assert done.returncode == 0, done.stderr


def test_solo_gives_back_the_very_array():
    solo, array = Solo(), np.arange(3.0)
    results = [solo.all_reduce(array), solo.max(array), solo.broadcast(array), solo.all_to_all(array)]
    results += [solo.all_gather(array), solo.reduce_scatter(array), solo.start_all_reduce(array).wait()]
    assert all(result is array for result in results)
    assert solo.ledger.bytes == 0
    assert solo.ledger["all_reduce", "world"].count == 2


@pytest.mark.parametrize("length", [0, 1, 5, 12, 13])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_chunks_are_numpys(length, ranks):
    rows = np.arange(length)
    for bounds, expected in zip(chunk_bounds(length, ranks), np.array_split(rows, ranks), strict=True):
        np.testing.assert_array_equal(rows[bounds], expected)


@pytest.mark.parametrize("ranks", range(1, 10))
def test_the_sum_over_ranks_is_that_over_parts(ranks):
    """A rank that has added up a power of two of the parts has a number that stands in the tree of all of them."""
    rng = np.random.default_rng(0)
    parts = [(rng.standard_normal(20) * 10.0 ** rng.integers(-3, 4, 20)).astype(np.float32) for _ in range(4 * ranks)]
    whole, sums = PairwiseSum(), []
    for part in parts:
        whole.add([part.copy()])
    for rank in range(ranks):
        own = PairwiseSum()
        for part in parts[4 * rank : 4 * rank + 4]:
            own.add([part.copy()])
        sums.append(own.finish()[0])
    assert ordered_sum(sums).tobytes() == whole.finish()[0].tobytes()


def test_formulas():
    assert formula("all_reduce", 1000, 4) == 1500
    assert formula("reduce_scatter", 1000, 4) == formula("all_gather", 1000, 4) == formula("all_to_all", 1000, 4) == 750
    assert formula("send", 1000, 4) == 1000
    assert formula("all_reduce", 1000, 1) == 0
    assert formula("all_gather", 10, 3) == pytest.approx(20 / 3)


def test_the_ledger_adds_up_and_reads_well():
    ledger = Ledger()
    ledger["send", "pp"].bytes, ledger["all_reduce", "dp"].bytes = 5, 7000
    ledger["all_reduce", "dp"].seconds, ledger["send", "pp"].seconds = 0.5, 0.25
    assert (ledger.bytes, ledger.seconds) == (7005, 0.75)
    lines = str(ledger).splitlines()
    assert [line.split()[:2] for line in lines] == [["axis", "operation"], ["dp", "all_reduce"], ["pp", "send"]]
    assert lines[1].split()[2:] == ["0", "7,000", "0.500"]
    ledger.clear()
    assert ledger.bytes == 0


def test_seconds_are_those_of_waiting():
    def late(c):
        if c.rank:
            import time

            time.sleep(0.3)
        c.all_reduce(np.ones(2), label="x")
        return c.ledger["all_reduce", "world"].seconds

    waited, worked = Loopback(2, checked=False).run(late)
    assert waited > 0.25 > worked


def test_different_calls_are_told_apart_when_compared():
    shapes = r"all_reduce\(bucket 3, step 10\) over world, ranks \[0, 1\], .*rank 0: all_reduce of float64 \(3,\); "
    with pytest.raises(ValueError, match=shapes + r"rank 1: all_reduce of float64 \(4,\)"):
        Loopback(2).run(
            lambda c: (setattr(c.engine, "where", "step 10"), c.all_reduce(np.ones(3 + c.rank), "bucket 3"))
        )
    with pytest.raises(ValueError, match=r"rank 0: any of .*; rank 1: barrier"):
        Loopback(2).run(lambda c: c.barrier() if c.rank else c.any(True))
    with pytest.raises(ValueError, match=r"float32, rows of \(2,\), 4 of them; rank 1: .* rows of \(3,\)"):
        Loopback(2).run(lambda c: c.all_gather(np.ones((2, 2 + c.rank), np.float32)))


def test_a_message_of_another_size_is_an_error():
    with pytest.raises(ValueError, match=r"all_reduce over world, ranks .* \(4,\): rank 0 sent 8 bytes where 16 were"):
        Loopback(2, checked=False).run(lambda c: c.all_reduce(np.ones(3 + c.rank)))
    with pytest.raises(ValueError, match=r"receive.* over world, .*float32 \(3,\): rank 0 sent 24 bytes where 12 were"):
        Loopback(2).run(lambda c: c.receive((3,), np.float32, 0) if c.rank else c.send(np.ones(3), 1))


def test_wrong_arguments():
    solo = Solo("tp")
    for call in (solo.all_gather, solo.reduce_scatter, solo.all_to_all):
        with pytest.raises(ValueError, match="over tp: a single number has no rows"):
            call(np.array(1.0))
    with pytest.raises(ValueError, match=r"all_gather\(x\) over tp.*: of 5 rows, rank 0 has 5, and not 3"):
        solo.all_gather(np.ones(3), 5, "x")
    for call in (lambda: solo.send(np.ones(1), 0), lambda: solo.receive((1,), float, 1)):
        with pytest.raises(ValueError, match=r"over tp: . is not among the others of 1 ranks"):
            call()
    with pytest.raises(ValueError, match="broadcast over tp: 1 is not among the ranks 0 to 0"):
        solo.broadcast(np.ones(1), 1)
    with pytest.raises(ValueError, match="the tag 32768 is not from 0 to 32767"):
        Loopback(2).run(lambda c: c.send(np.ones(1), 1 - c.rank, 32768))
    with pytest.raises(TypeError, match="not JSON serializable"):
        solo.gather_objects(np.ones(2))


def test_a_thread_does_not_wait_for_one_that_has_failed():
    def main(c):
        if c.rank == 2:
            raise KeyError("two")
        c.all_reduce(np.ones(2))

    with pytest.raises(KeyError, match="two"):
        Loopback(3).run(main)


def test_meshes_that_do_not_fit():
    with pytest.raises(RanksError, match=r"dp=2 x pp=1 x tp=2 needs 4 ranks, and there are 1; .*mpiexec -n 4"):
        Mesh(2, 1, 2)
    with pytest.raises(RanksError, match="pp=0"):
        Mesh(pp=0)
    with pytest.raises(RanksError, match="needs 1 ranks, and there are 2"):
        Loopback(2).run(lambda c: Mesh(world=c))
    mesh = Mesh()
    assert (mesh.rank, mesh.size, mesh.coordinates) == (0, 1, (0, 0, 0))
    assert mesh.tp.all_reduce(np.ones(1)) == 1


def test_what_went_wrong_is_raised_wherever_it_is_waited_for():
    """Waiting for one operation may bring up what is wrong with another: that has no result either."""

    def main(c):
        if c.rank == 1:
            c.start_send(np.ones(3), 0, tag=1)
            c.send(np.ones(2), 0, tag=2)
            return None
        bad, good = c.start_receive((2,), float, 1, tag=1), c.start_receive((2,), float, 1, tag=2)
        errors = []
        for handle in (good, bad):
            try:
                errors.append(handle.wait())
            except ValueError as error:
                errors.append(str(error))
        return errors

    errors = Loopback(2, checked=False).run(main)[0]
    assert isinstance(errors[1], str)
    assert "rank 1 sent 24 bytes where 16 were expected" in errors[1]


def test_threads_of_which_one_has_failed_run_no_more():
    ranks = Loopback(2)
    with pytest.raises(KeyError):
        ranks.run(lambda c: {}[c.rank])
    with pytest.raises(RuntimeError, match="a rank has failed in an earlier run; make new ones"):
        ranks.run(lambda c: c.barrier())
