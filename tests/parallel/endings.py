"""A job in which rank 1 ends badly, or all do: the argument says how."""

import os
import signal
import sys
import time

import numpy as np

from tinygrad_llm.parallel.launch import guarded, launched_rank, world
from tinygrad_llm.parallel.mesh import Mesh
from tinygrad_llm.parallel.options import Crew, ParallelOptions


def badly(how):
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "raise":
        raise KeyError("rank 1 has lost something")
    if how.startswith("exit"):
        sys.exit(int(how[4:]))
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "stuck":
        time.sleep(60)
    if how == "return":
        return 3
    if how == "shape":
        world().all_reduce(np.ones(2), label="of another shape")
    return 0


def main():
    how = sys.argv[1]
    ranks = world()
    if how == "mesh":
        Mesh(3, 1, 2, ranks)
    if how == "alike":
        raise OSError("the disk is full")
    if how == "unlike":
        raise OSError(f"disk {ranks.rank} is full")
    if how == "pending":
        ranks.start_send(np.ones(1_000_000), 1 - ranks.rank)
        raise OSError("something is on its way")
    if how == "status":
        return 4
    if how == "prepare":
        Crew(ParallelOptions(dp=2), ranks).told(lambda: time.sleep(2.5))
    for step in range(1, 21):
        ranks.engine.where = f"step {step}"
        ranks.all_reduce(np.ones(1000, np.float32), label="bucket 3")
    if ranks.rank == 1 and (status := badly(how)):
        return status
    ranks.engine.where = "step 21"
    ranks.all_reduce(np.ones(1000, np.float32), label="bucket 3")
    print("the end")
    return 0


if launched_rank() == 1 and sys.argv[1] == "late":
    time.sleep(60)
if launched_rank() == 1 and sys.argv[1] == "mistaken":
    os.environ["TINYGRAD_LLM_WATCHDOG"] = "soon"
sys.exit(guarded(main))
