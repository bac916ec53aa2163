"""Ranks on several hosts, which are network namespaces: what the kernel counts is what the ledger says."""

import json
import re
import sys

import pytest
from launching import HERE
from namespaces import hosts, needs_namespaces


@pytest.fixture(autouse=True)
def _permitted():
    needs_namespaces()


@pytest.mark.parametrize(("count", "zero"), [(2, 0), (2, 3), (4, 1)])
def test_the_kernel_counts_what_the_ledger_says(count, zero, tmp_path):
    steps = 3
    with hosts(count, tmp_path) as run:
        done = run(sys.executable, HERE / "sending.py", zero, steps)
    assert done.returncode == 0, done.stderr
    ranks = [json.loads(text) for text in re.findall(r"\{.*?\}", done.stdout)]  # two may stand in one line
    assert sorted(found["rank"] for found in ranks) == list(range(count))
    for found in ranks:
        assert found["ledger"] > steps * found["parameters"] * (count - 1) / count, "there was something to send"
        assert found["kernel"] == pytest.approx(found["ledger"], rel=0.02)
