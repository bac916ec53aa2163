"""Several hosts on one: network namespaces of Linux, each with an address of its own, on a bridge that joins them.

Whoever may make them (root, as a rule) can run ranks on them, which then know each other by the network alone, and read
from the kernel what each of them has sent.
"""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from launching import ALONE, HERE, launcher

OWN = os.getpid() % 250
"""Of what this process makes: others may do the same at the same time."""
BRIDGE, NET = f"tgbr{OWN}", f"10.99.{OWN}"


def ip(*arguments):
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True).stdout


def needs_namespaces():
    """Skip where there is no MPICH, or no permission."""
    found = launcher()
    if found is None or not Path(found).resolve().name.startswith(("mpiexec.hydra", "mpiexec")):
        pytest.skip("needs MPICH: pip install 'tinygrad-llm[mpi]'")
    if subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout.find("HYDRA") < 0:
        pytest.skip("needs MPICH's launcher")
    if shutil.which("ip") is None:
        pytest.skip("needs ip, of iproute2")
    made = subprocess.run(["ip", "netns", "add", f"tgtry{OWN}"], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "del", f"tgtry{OWN}"], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("needs permission to make network namespaces")


@contextlib.contextmanager
def hosts(count, folder, rate=""):
    """So many namespaces, of the addresses .1, .2 ... in `NET`; `rate`, as 200mbit, is what each may send.

    Yields ``run(*command, timeout)``, which starts a rank on each.
    """
    names = [f"tg{OWN}h{number}" for number in range(1, count + 1)]
    shell = folder / "nsssh"
    cases = "".join(f"{NET}.{number}) name={name} ;;\n" for number, name in enumerate(names, 1))
    skip = 'while [ "${1#-}" != "$1" ]; do shift; done'  # options of ssh
    shell.write_text(f'#!/bin/sh\n{skip}\ncase $1 in\n{cases}esac\nshift\nexec ip netns exec $name sh -c "$*"\n')
    shell.chmod(0o755)
    try:
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("addr", "add", f"{NET}.254/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        for number, name in enumerate(names, 1):
            ip("netns", "add", name)
            ip("link", "add", f"tgv{OWN}n{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", f"tgv{OWN}n{number}", "master", BRIDGE, "up")
            for command in (("addr", "add", f"{NET}.{number}/24", "dev", "eth0"), ("link", "set", "eth0", "up")):
                ip("-n", name, *command)
            ip("-n", name, "link", "set", "lo", "up")
            if rate:
                limit = ["root", "tbf", "rate", rate, "burst", "256kb", "latency", "400ms"]
                subprocess.run(["tc", "-n", name, "qdisc", "add", "dev", "eth0", *limit], check=True)
        yield lambda *command, timeout=60: _run(command, shell, count, timeout)
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True, check=False)


def _run(command, shell, count, timeout):
    addresses = ",".join(f"{NET}.{number}" for number in range(1, count + 1))
    start = [launcher(), "-launcher", "ssh", "-launcher-exec", str(shell), "-localhost", f"{NET}.254"]
    given = {name: value for name, value in os.environ.items() if not name.startswith(("PMI_", "OMPI_", "MPI_"))}
    paths = os.pathsep.join([str(HERE.parent.parent), str(HERE)])
    given |= ALONE | {"UCX_TLS": "self,tcp", "UCX_NET_DEVICES": "eth0", "PYTHONPATH": paths}
    return subprocess.run(
        [*start, "-hosts", addresses, "-n", str(count), "-ppn", "1", *map(str, command)],
        env=given,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
