"""The world: the ranks that mpiexec has started, and how they end.

No rank may end by itself while others wait for it. So each tells the others that it has ended, and how. If all end
within half a second, as after a mistake in the command line, each leaves in an orderly way, and what several have to
say is said once. Otherwise a rank that has failed ends the whole job.
"""

from __future__ import annotations

import faulthandler
import math
import os
import sys
import time
import traceback
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_llm import threads
from tinygrad_llm.parallel.communicator import Communicator, Solo
from tinygrad_llm.parallel.ledger import Ledger
from tinygrad_llm.parallel.mesh import RanksError
from tinygrad_llm.parallel.mpi import MpiTransport
from tinygrad_llm.parallel.waiting import Engine, Handle
from tinygrad_llm.parallel.watchdog import Watchdog, limit_from_environment

SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
"""Where MPICH and Intel MPI, Open MPI, and Slurm say how many ranks they started."""

NUMBERS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")
"""Where they say which one this is."""

PATIENCE = 0.5
"""Seconds for which a rank that has failed waits for the others to end too."""


def launched_ranks() -> int:
    """How many ranks the launcher has started; 1 if there was none."""
    return next((int(os.environ[name]) for name in SIZES if os.environ.get(name, "").isdecimal()), 1)


def launched_rank() -> int:
    """Which of them the launcher says that this is."""
    return next((int(os.environ[name]) for name in NUMBERS if os.environ.get(name, "").isdecimal()), 0)


BEGIN = 10.0
"""Seconds that ranks may be apart when they begin, at least: each loads Python first."""

PASSED_ON = 0.2
"""Seconds in which mpiexec passes on what a rank has printed: what it has not when the job is ended is lost."""


@dataclass
class _Job:
    """The ranks that MPI has brought together."""

    world: Communicator
    endings: Communicator
    """For what they tell each other at the end: they may be in the middle of anything else."""
    abort: Callable[[int], Any]


_job: _Job | None = None


def world() -> Communicator:
    """All ranks; `Solo` where there is one. The first call brings them together, and must be made by all."""
    global _job
    if launched_ranks() == 1:
        return Solo()
    if _job is None:
        _job = _join()
    return _job.world


def _join() -> _Job:
    limit = limit_from_environment()  # a mistake in it is found before others wait for this rank
    assert sys.__stderr__ is not None
    # until there is a watchdog: MPI waits for ranks that may never come, and lets no thread of Python's run meanwhile
    faulthandler.dump_traceback_later(min(max(limit, BEGIN), 1e6), exit=True, file=sys.__stderr__)
    try:
        return _joined(_mpi(), limit)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _joined(mpi: Any, limit: float) -> _Job:
    group = mpi.COMM_WORLD
    neighbours = _neighbours(group, mpi)
    threads.share_with(neighbours)
    engine = Engine(polite=neighbours >= len(threads.allowed_processors()))
    checked = bool(os.environ.get("TINYGRAD_LLM_DEBUG"))

    def abort(status: int) -> None:
        time.sleep(PASSED_ON)
        group.Abort(status)

    Watchdog(engine, group.Get_rank(), limit, abort)
    return _Job(
        Communicator(MpiTransport(mpi, group.Dup()), "world", Ledger(), engine, checked),
        Communicator(MpiTransport(mpi, group.Dup()), "end", Ledger(), Engine(polite=True)),
        abort,
    )


def _mpi() -> Any:
    """The module ``mpi4py.MPI``, begun; RanksError if there is none, or one that the launcher is not of."""
    try:
        with warnings.catch_warnings():  # of a launcher that does not fit: we have a clearer error
            warnings.simplefilter("ignore")
            import mpi4py

            mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
            from mpi4py import MPI

            if "OMPI_COMM_WORLD_SIZE" in os.environ and MPI.Get_library_version().startswith(("MPICH", "Intel")):
                raise _misfit(MPI)  # it would end the process when it begins
            if not MPI.Is_initialized():
                MPI.Init_thread(MPI.THREAD_MULTIPLE)
    except (ImportError, RuntimeError) as error:  # no mpi4py, or no MPI that it could load
        reason = str(error).splitlines()[0]
        raise RanksError(f"several ranks need mpi4py and an MPI ({reason}): pip install 'tinygrad-llm[mpi]'") from None
    if MPI.COMM_WORLD.Get_size() == 1:
        raise _misfit(MPI)
    return MPI


def _misfit(mpi: Any) -> RanksError:
    library, own = mpi.Get_library_version().splitlines()[0].strip(), os.path.join(sys.prefix, "bin", "mpiexec")
    return RanksError(
        f"the launcher has started {launched_ranks()} processes, and Python's MPI ({library[:40]}) is not of its kind; "
        f"start them with {own if os.path.exists(own) else 'the mpiexec of that MPI'}"
    )


def _neighbours(group: Any, mpi: Any) -> int:
    """How many ranks, this one among them, may run on the processors that this one may use."""
    local = group.Split_type(mpi.COMM_TYPE_SHARED)
    own = set(threads.allowed_processors())
    sets = local.allgather(sorted(own))
    local.Free()
    return sum(1 for other in sets if own & set(other))


# ---------------------------------------------------------------------------------------------------------------------


_complaints: list[str] | None = None


def complain(text: str) -> bool:
    """Have `guarded` print a rank's error, with its number; False, and nothing happens, where it does not guard."""
    if _complaints is None:
        return False
    _complaints.append(text)
    return True


def guarded(main: Callable[[], int]) -> int:
    """Run ``main()`` on this rank of several, and return its exit status.

    If it ends in an error, or by `sys.exit` (from wherever it was called: `main` returns its status), or returns
    another status than 0, and not all ranks end at the same time, the whole job is ended with that status.
    """
    global _complaints
    _complaints = []
    try:
        status = _status(main)
        text = "".join(complaint.rstrip("\n") + "\n" for complaint in _complaints)
    finally:
        _complaints = None
    return _end_alone(text, status) if _job is None else _end(_job, text, status)


def _status(main: Callable[[], int]) -> int:
    """That of ``main()``, whatever it does; what there is to say of it is complained."""
    try:
        world()
    except ValueError as error:
        complain(f"tinygrad-llm: error: {error}")
        return 2
    try:
        return main()
    except KeyboardInterrupt:
        complain("interrupted")
        return 130
    except SystemExit as error:
        complain(f"sys.exit({error.code!r}) before the end:\n{traceback.format_exc()}")
        return error.code if isinstance(error.code, int) and error.code else 1
    except RanksError as error:
        complain(f"tinygrad-llm: error: {error}")
        return 2
    except BaseException:
        complain(traceback.format_exc())
        return 1


def _end_alone(text: str, status: int) -> int:
    """The end of a rank that never met the others: they have all failed alike, and the first one speaks."""
    if launched_rank() == 0:
        _print(text)
    return status


def _end(job: _Job, text: str, status: int) -> int:
    """The end of a rank: with all the others, or of them all."""
    own = np.array([status, zlib.crc32(text.encode())])
    ending = job.endings.start_all_gather(own)
    if not _ended(ending, math.inf if status == 0 else PATIENCE):
        _print(text or f"ended with status {status} before the others", job.endings.rank)
        job.abort(status)
    texts = ending.wait()[1::2].tolist()
    if texts.index(texts[job.endings.rank]) == job.endings.rank:
        _print(text, None if len(set(texts)) == 1 else job.endings.rank)
    _ended(job.endings.start_barrier(), PATIENCE)  # who has nothing to say must not cut short who has
    return status


def _ended(handle: Handle, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while not handle.done() and time.monotonic() < deadline:
        time.sleep(0.002)
    return handle.finished


def _print(text: str, rank: int | None = None) -> None:
    sys.stdout.flush()
    for line in text.splitlines():
        print(line if rank is None else f"[rank {rank}] {line}", file=sys.stderr)
    sys.stderr.flush()
