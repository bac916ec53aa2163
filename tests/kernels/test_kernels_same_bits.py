"""A kernel that was compiled just now and one that was loaded from disk give the same bits."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("tinygrad_llm.kernels.compiled", reason="no kernels here", exc_type=ImportError)

STEPS = """
import hashlib
import numpy as np
import tinygrad_llm as tg
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.optim import Muon, clip_factor, global_norm

tg.use_backend("numba")
model = GPT(GPTConfig(vocab_size=280, context=40, channels=24, layers=1, heads=2))
optimizer = Muon(model.named_parameters(), lr=0.02)
ids = np.random.default_rng(0).integers(0, 280, (8, 41))
for fused in (True, False):
    optimizer.zero_grad()
    loss = model.loss(ids[:, :-1], ids[:, 1:]) if fused else tg.ops.cross_entropy(model(ids[:, :-1]), ids[:, 1:])
    loss.backward()
    optimizer.step(0.02, clip_factor(global_norm(model.parameters()), 0.5))
print(hashlib.sha256(b"".join(p.data.tobytes() for p in model.parameters())).hexdigest())
"""


def test_a_training_step_with_an_empty_cache_and_with_a_full_one(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}

    def steps():
        command = [sys.executable, "-c", STEPS]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True).stdout

    assert steps() == steps()
