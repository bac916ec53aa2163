"""Signals and ranks that were started differently: nothing is lost, and all of them end alike."""

import os
import signal
import subprocess
import sys
import time

import pytest
from launching import ALONE, OPEN_MPI, launcher, mpirun, needs_mpi

from tinygrad_llm.parallel.loopback import Loopback
from tinygrad_llm.parallel.mesh import RanksError
from tinygrad_llm.parallel.options import Crew, ParallelOptions

MODULE = ["-m", "tinygrad_llm"]
SMALL = [
    *("--context", "16", "--batch-size", "2", "--accumulate", "2", "--vocab-size", "280", "--layers", "1"),
    *("--channels", "16", "--optimizer", "adamw", "--steps", "100000", "--validate-every", "0", "--threads", "1"),
]
SLOW_DISK = """
import os, pathlib, runpy, sys, time
from tinygrad_llm.training import loop
save = loop.save_checkpoint
def slowly(*arguments):
    time.sleep(1.5)
    return save(*arguments)
loop.save_checkpoint = slowly
pathlib.Path(__file__).with_name(f"{os.getpid()}.pid").touch()
sys.argv = ["tinygrad-llm", *sys.argv[1:]]
runpy.run_module("tinygrad_llm", run_name="__main__", alter_sys=True)
"""
"""The command, with a disk on which a checkpoint takes longer than ranks wait for one that has failed."""


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(f"Line {i} says that {i} times {i} is {i * i}.\n" for i in range(300)), encoding="utf-8")
    return path


@needs_mpi
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_all_ranks_when_the_checkpoint_is_written(number, status, text, tmp_path):
    run, program = tmp_path / "run", tmp_path / "slow_disk.py"
    program.write_text(SLOW_DISK, encoding="utf-8")
    command = [launcher(), "-n", "2", sys.executable, program, "train", *SMALL, "--dp", "2"]
    environment = {**os.environ, **ALONE, **OPEN_MPI}
    job = subprocess.Popen(
        [*command, "--data", text, "--out", run], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    try:
        deadline = time.monotonic() + 50
        while not (run / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        for file in tmp_path.glob("*.pid"):
            os.kill(int(file.stem), number)
        out, err = (stream.decode() for stream in job.communicate(timeout=20))
    finally:
        job.kill()
    assert job.returncode == status, err
    assert "nothing is lost. To go on:" in out, out + err
    assert [path.name for path in (run / "checkpoints").iterdir() if not path.name.startswith(".")], "it is whole"
    assert "before the others" not in err
    steps = str(len((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()) + 1)
    again = mpirun(2, MODULE, "train", "--resume", "--steps", steps, "--out", run, "--dp", "2")
    assert again.returncode == 0, again.stderr


def test_ranks_that_were_started_differently_do_not_train():
    def main(world):
        with pytest.raises(RanksError, match=r"zero is \d on rank \d and \d on rank \d: start all of"):
            Crew(ParallelOptions(dp=2, zero=world.rank), world)
        crew = Crew(ParallelOptions(dp=2), world)
        crew.agree({"tokenizer": "a"})
        with pytest.raises(RanksError, match=r"tokenizer is 't[01]' on rank [01] and 't[01]' on rank [01]"):
            crew.agree({"tokenizer": f"t{world.rank}"})

    Loopback(2).run(main)
