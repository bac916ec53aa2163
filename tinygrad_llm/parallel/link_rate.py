"""The latency and the rate of messages between ranks, as an all-reduce has them: a program for two or more of them.

    mpiexec -n 2 python -m tinygrad_llm.parallel.link_rate 4000000

The first rank prints them as JSON. Of several calls the fastest counts.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from tinygrad_llm.parallel.communicator import Communicator
from tinygrad_llm.parallel.launch import guarded, world
from tinygrad_llm.parallel.ledger import formula

REPEATS = 20


def measure(ranks: Communicator, size: int) -> dict[str, float]:
    """Latency in seconds, of which an all-reduce has ``2 (n - 1)``, and bytes sent in a second."""
    small, large = (_fastest(ranks, bytes_) for bytes_ in (4 * ranks.size, size))
    latency = small / (2 * (ranks.size - 1))
    return {"latency": latency, "rate": float(formula("all_reduce", size, ranks.size)) / max(large - small, 1e-9)}


def _fastest(ranks: Communicator, size: int) -> float:
    array = np.ones(max(ranks.size, size // 4), np.float32)
    times = []
    for _ in range(REPEATS):
        ranks.barrier()
        start = time.perf_counter()
        ranks.all_reduce(array)
        times.append(time.perf_counter() - start)
    return min(times[2:])


def main() -> int:
    ranks = world()
    if ranks.size < 2:
        raise ValueError("start it with: mpiexec -n 2 python -m tinygrad_llm.parallel.link_rate BYTES")
    found = measure(ranks, int(sys.argv[1]))
    if ranks.rank == 0:
        print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
