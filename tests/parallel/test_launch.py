"""How jobs begin and end: the whole job, at once, with a message and a status, whatever happens to a rank."""

import re
import sys

import pytest
from launching import mpirun, python, run

from tinygrad_llm import threads
from tinygrad_llm.parallel import launch, watchdog
from tinygrad_llm.parallel.communicator import Solo

SOON = 30
"""Seconds: the ranks that are left would wait for ever, or for the watchdog's ten minutes."""


def ended(how, **environment):
    return mpirun(2, "endings.py", how, timeout=SOON, **environment)


def own_lines(text):
    """What we print, without what MPI adds."""
    return [line for line in text.splitlines() if line.startswith(("[rank", "tinygrad-llm:", "Traceback", "OSError"))]


def test_a_job_that_ends_well():
    done = ended("well")
    assert (done.returncode, done.stdout.count("the end"), done.stderr) == (0, 2, "")


@pytest.mark.parametrize(
    ("how", "status", "message"),
    [
        ("raise", 1, r"\[rank 1\] Traceback .*\n(\[rank 1\] .*\n)+\[rank 1\] KeyError: 'rank 1 has lost something'"),
        ("exit0", 1, r"\[rank 1\] sys.exit\(0\) before the end:\n\[rank 1\] Traceback (.*\n)+.*, in badly"),
        ("exit5", 5, r"\[rank 1\] sys.exit\(5\) before the end"),
        ("interrupt", 130, r"\[rank 1\] interrupted"),
        ("return", 3, r"\[rank 1\] ended with status 3 before the others"),
        ("shape", 1, r"ValueError: all_reduce\(.*step 2.\) over world, ranks \[0, 1\], float.*rank . sent .* bytes"),
    ],
)
def test_what_ends_one_rank_ends_the_job(how, status, message):
    done = ended(how)
    assert done.returncode == status
    assert re.search(message, done.stderr), done.stderr
    assert "the end" not in done.stdout


def test_a_rank_that_is_killed():
    done = ended("kill")
    assert done.returncode == 9 or done.returncode > 128, "as mpiexec tells it"
    assert "the end" not in done.stdout


def test_a_rank_that_is_stuck():
    done = ended("stuck", TINYGRAD_LLM_WATCHDOG="0.5")
    assert done.returncode == watchdog.STATUS
    stuck = (
        r"\[rank 0\] stuck 0\.\d+ s in all_reduce\(bucket 3, step 21\) over world, ranks \[0, 1\], float32 \(1000,\)"
    )
    assert re.search(stuck + r"; nothing from \[1\]", done.stderr), done.stderr


def test_what_all_ranks_say_is_said_once():
    done = ended("mesh")
    assert done.returncode == 2
    assert done.stderr.startswith("tinygrad-llm: error: mesh: dp=3 x pp=1 x tp=2 needs 6 ranks, and there are 2")
    assert len(own_lines(done.stderr)) == 1
    done = ended("alike")
    assert done.returncode == 1
    assert own_lines(done.stderr) == ["Traceback (most recent call last):", "OSError: the disk is full"]
    done = ended("unlike")
    assert done.returncode == 1
    assert {"[rank 0] OSError: disk 0 is full", "[rank 1] OSError: disk 1 is full"} <= set(own_lines(done.stderr))


def test_all_end_with_a_status_of_their_own():
    done = ended("status")
    assert (done.returncode, done.stderr) == (4, "")


def test_what_is_pending_keeps_nobody():
    done = ended("pending")
    assert done.returncode == 1
    assert "OSError: something is on its way" in done.stderr


def test_the_command_says_its_mistakes_once():
    done = mpirun(2, ["-m", "tinygrad_llm"], "trian", timeout=60)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith('tinygrad-llm: error: Unknown command "trian"')
    done = mpirun(2, ["-m", "tinygrad_llm"], "generate", "no/such/run", timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("tinygrad-llm: error: no/such/run")
    assert len(done.stderr.splitlines()) == 1


def test_a_watchdog_without_sense():
    done = ended("well", TINYGRAD_LLM_WATCHDOG="soon")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == (
        "tinygrad-llm: error: TINYGRAD_LLM_WATCHDOG='soon': expected seconds, more than 0"
    )


@pytest.mark.parametrize(
    ("size", "rank", "library"),
    [
        ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "MPICH Version: 9"),
        ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "Open MPI v9"),
        ("PMI_SIZE", "PMI_RANK", "Open MPI v9"),
    ],
)
def test_the_launcher_of_another_mpi(tmp_path, size, rank, library):
    """Each rank believes to be alone; or it would end at once, without a word of ours."""
    begin = "exit('begun')" if size.startswith("OMPI") and library.startswith("MPICH") else "pass"
    stub(tmp_path, MISFIT.format(library=library, begin=begin))
    program = [*python("endings.py"), "well"]
    first, second = (run(program, **{size: "3", rank: r, "PYTHONPATH": str(tmp_path)}) for r in "01")
    assert (first.returncode, second.returncode) == (2, 2)
    assert second.stderr == ""
    assert len(first.stderr.splitlines()) == 1
    assert f"started 3 processes, and Python's MPI ({library}) is not of its kind; start them with" in first.stderr


MISFIT = """
import warnings
warnings.warn("suspicious MPI execution environment", RuntimeWarning)
THREAD_MULTIPLE = 3
def Get_library_version():
    return "{library}\\nbuilt somewhere"
def Is_initialized():
    return False
def Init_thread(level):
    {begin}
class COMM_WORLD:
    @staticmethod
    def Get_size():
        return 1
"""


@pytest.mark.parametrize("missing", ["mpi4py", "the library"])
def test_a_missing_runtime(tmp_path, missing):
    if missing == "mpi4py":
        stub(tmp_path, "", package="raise ImportError('No module named mpi4py')")
    else:
        stub(tmp_path, "raise RuntimeError('cannot load MPI library\\nlibmpi.so')")
    for program in ([*python("endings.py"), "well"], [*python(["-m", "tinygrad_llm"]), "derive", "softmax"]):
        done = run(program, OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="0", PYTHONPATH=str(tmp_path))
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.endswith("pip install 'tinygrad-llm[mpi]'\n")
        assert done.stdout == ""


def stub(folder, module, package="class rc: pass"):
    """An mpi4py that comes before the real one."""
    (folder / "mpi4py").mkdir()
    (folder / "mpi4py" / "__init__.py").write_text(package, encoding="utf-8")
    (folder / "mpi4py" / "MPI.py").write_text(module, encoding="utf-8")


def test_one_process_needs_no_mpi(monkeypatch):
    for name in (*launch.SIZES, *launch.NUMBERS):
        monkeypatch.delenv(name, raising=False)
    assert launch.launched_ranks() == 1
    assert isinstance(launch.world(), Solo)
    monkeypatch.setenv("PMI_SIZE", "1")
    assert isinstance(launch.world(), Solo)
    assert not launch.complain("nobody listens")
    assert "mpi4py" not in sys.modules


def test_ranks_share_the_processors_that_mpi_says():
    done = mpirun(4, ["-c", SHARES], TINYGRAD_LLM_THREADS="", OPENBLAS_NUM_THREADS="")
    assert done.returncode == 0, done.stderr
    expected = max(1, threads.default_threads() // 4)
    assert done.stdout.split() == [f"{expected},{len(threads.allowed_processors()) < 4}"] * 4


SHARES = """
import os
from tinygrad_llm import threads
from tinygrad_llm.parallel.launch import guarded, world
for name in threads.LOCAL_RANKS:
    os.environ.pop(name, None)
def main():
    ranks = world()
    print(f"{threads.thread_count()},{ranks.engine.polite}\\n", end="", flush=True)
    return 0
raise SystemExit(guarded(main))
"""


@pytest.mark.parametrize("how", ["late", "mistaken"])
def test_ranks_do_not_wait_for_ever_for_one_that_does_not_begin(how):
    done = ended(how, TINYGRAD_LLM_WATCHDOG="2")
    assert done.returncode != 0
    assert "the end" not in done.stdout
    assert "Timeout (0:00:10)!" in done.stderr
    assert "in _joined" in done.stderr or "in _mpi" in done.stderr


def test_ranks_wait_for_what_one_prepares():
    done = ended("prepare", TINYGRAD_LLM_WATCHDOG="1")
    assert (done.returncode, done.stdout.count("the end"), done.stderr) == (0, 2, "")
