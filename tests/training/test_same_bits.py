"""The same seed and the same number of threads give the same bits."""

import hashlib

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm import random, threads
from tinygrad_llm.backend import why_no_kernels
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.optim import AdamW, Muon, clip_by_global_norm

try:
    from tinygrad_llm.kernels import layout
except ImportError:  # without kernels only BLAS has threads
    layout = None


@pytest.fixture
def shared_out(monkeypatch):
    """Work is shared out among three threads, however little it is."""
    if layout is not None:
        monkeypatch.setattr(layout, "PIECE", 1)
    before = threads.thread_count()
    threads.set_threads(3)
    yield
    threads.set_threads(before)


def trained(optimizer):
    model = GPT(GPTConfig(vocab_size=300, context=24, channels=48, layers=2, heads=3, dropout=0.1))
    steps = optimizer(model.named_parameters(), lr=1e-3)
    ids = np.random.default_rng(0).integers(0, 300, (4, 25))
    for step in range(3):
        steps.zero_grad()
        with random.scope(0, "step", step):
            tg.ops.cross_entropy(model(ids[:, :-1]), ids[:, 1:]).backward()
        clip_by_global_norm(model.parameters(), 0.1)
        steps.step()
    return hashlib.sha256(b"".join(p.data.tobytes() for p in model.parameters())).hexdigest()


@pytest.mark.parametrize("optimizer", [AdamW, Muon])
def test_run_to_run(shared_out, optimizer):
    with tg.use_backend("auto" if why_no_kernels() else "numba"):
        assert len({trained(optimizer) for _ in range(3)}) == 1
