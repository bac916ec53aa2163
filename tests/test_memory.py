"""Freed memory stays with the process."""

import subprocess
import sys

import numpy as np
import pytest

from tinygrad_llm import memory

FAULTS = """
import resource
import numpy as np
from tinygrad_llm.memory import keep_freed_memory
if not keep_freed_memory():
    raise SystemExit("no mallopt")
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(1 << 24, np.float32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(max(faults() for _ in range(3)))
"""


def test_an_array_in_the_place_of_a_freed_one_causes_no_page_faults():
    result = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, timeout=60)
    if "no mallopt" in result.stderr:
        pytest.skip("the C library has no mallopt")
    assert int(result.stdout) < 16  # of 64 MB, which without would be 32 pages of 2 MB, or 16,384 of 4 kB


def test_where_there_is_no_glibc_nothing_is_changed(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "win32")
    assert not memory.keep_freed_memory()
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert not memory.keep_freed_memory()


def test_the_peak_is_in_bytes_and_never_falls():
    before = memory.peak_memory()
    if before is None:
        pytest.skip("this system does not tell")
    assert before > 1 << 24
    np.ones(1 << 25, np.float32)
    after = memory.peak_memory()
    assert after is not None
    assert before <= after < 1 << 40
