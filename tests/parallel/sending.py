"""Some steps of data parallel training: what the ledger says that this rank sent, and what the kernel says. As JSON."""

import json
import sys
import time
from pathlib import Path

import numpy as np

from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.optim import AdamW
from tinygrad_llm.parallel.data_parallel import DataRanks
from tinygrad_llm.parallel.launch import guarded, world
from tinygrad_llm.parallel.mesh import Mesh

SIZES = GPTConfig(vocab_size=500, context=8, channels=256, layers=4, heads=2)


def sent():
    """Bytes that have left this host, by the kernel's count."""
    for line in Path("/proc/net/dev").read_text(encoding="ascii").splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "eth0":
            return int(numbers.split()[8])
    raise LookupError("this host has no eth0")


def main():
    zero, steps = int(sys.argv[1]), int(sys.argv[2])
    mesh = Mesh(dp=world().size, world=world())
    model, ids = GPT(SIZES, seed=1), np.arange(16).reshape(2, 8)
    ranks = DataRanks(mesh.dp, model, lambda named: AdamW(named, 1e-3), zero)
    mesh.world.barrier()
    kernel, ledger = sent(), mesh.dp.ledger.bytes
    begun = time.perf_counter()
    for _ in range(steps):
        parts = ranks.parts(mesh.size)
        ranks.run(parts, lambda part: model.loss(ids + part, ids))
        ranks.update(1e-3, 1.0)
    seconds = time.perf_counter() - begun
    mesh.world.barrier()
    found = {"kernel": sent() - kernel, "ledger": mesh.dp.ledger.bytes - ledger, "seconds": seconds}
    print(json.dumps({"rank": mesh.rank, "parameters": 4 * model.parameter_count()} | found))
    return 0


sys.exit(guarded(main))
