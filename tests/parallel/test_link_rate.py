"""The program that measures messages between ranks."""

import json
import sys

import numpy as np
import pytest
from launching import mpirun, needs_mpi

from tinygrad_llm.parallel import link_rate


class TwoRanks:
    """A communicator whose all-reduce of so many bytes takes as long as it says."""

    size = 2

    def __init__(self, clock):
        self.clock = clock

    def barrier(self):
        self.clock[0] += 5.0

    def all_reduce(self, array):
        assert array.dtype == np.float32
        self.clock[0] += 0.25 + array.nbytes / 1000


def test_latency_and_rate_come_from_a_small_and_a_large_array(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(link_rate.time, "perf_counter", lambda: clock[0])
    found = link_rate.measure(TwoRanks(clock), 8000)
    assert found["latency"] == pytest.approx((0.25 + 0.008) / 2)
    assert found["rate"] == pytest.approx(8000 / (8 - 0.008))


@needs_mpi
def test_two_ranks_measure_themselves():
    done = mpirun(2, ["-m", "tinygrad_llm.parallel.link_rate"], 400_000)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert 0 < found["latency"] < 1
    assert 1e5 < found["rate"] < 1e13


def test_one_rank_cannot(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["link_rate", "100"])
    with pytest.raises(ValueError, match="start it with: mpiexec -n 2"):
        link_rate.main()
