"""Tests on ranks: `mpirun` starts some, each of which runs one of the programs beside this file."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ALONE = dict.fromkeys(("TINYGRAD_LLM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}
"""More ranks than processors, and as root, need no permission with the others."""


def launcher():
    """The mpiexec of this Python's environment, or of the system; None if there is no MPI to use."""
    if importlib.util.find_spec("mpi4py") is None:
        return None
    own = Path(sys.executable).parent / "mpiexec"
    return str(own) if own.exists() else shutil.which("mpiexec")


needs_mpi = pytest.mark.skipif(launcher() is None, reason="needs an MPI: pip install 'tinygrad-llm[mpi]'")


def mpirun(ranks, program, *arguments, timeout=60, **environment):
    """Run a program, a path or ``-m`` and a module, on so many ranks; the CompletedProcess, with its output as text."""
    if launcher() is None:
        pytest.skip("needs an MPI: pip install 'tinygrad-llm[mpi]'")
    command = [launcher(), "-n", str(ranks), *python(program), *map(str, arguments)]
    return run(command, timeout, **environment)


def python(program):
    """The command that runs a program."""
    return [sys.executable, *(program if isinstance(program, (list, tuple)) else [str(HERE / program)])]


def run(command, timeout=60, **environment):
    """Run a command with one thread, and the package and the tests within reach, after `PYTHONPATH` if it is given."""
    given = {name: value for name, value in os.environ.items() if not name.startswith(("PMI_", "OMPI_", "MPI_"))}
    paths = [environment.pop("PYTHONPATH", ""), str(HERE.parent.parent), str(HERE), os.environ.get("PYTHONPATH", "")]
    given |= ALONE | OPEN_MPI | {"PYTHONPATH": os.pathsep.join(filter(None, paths))} | environment
    return subprocess.run(command, env=given, capture_output=True, text=True, timeout=timeout)
