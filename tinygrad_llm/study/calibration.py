"""Measuring a machine for `parallel.plan_own`: what a training step is made of, piece by piece, and a step itself.

Of several runs the best counts, as whatever else the machine does only makes them slower.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from tinygrad_llm import ops
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.optim import AdamW
from tinygrad_llm.parallel.plan_models import ModelSizes
from tinygrad_llm.parallel.plan_own import OwnMachine, attention_operations, step_products, streamed_sample
from tinygrad_llm.parallel.plan_setup import FLOAT32, Setup
from tinygrad_llm.parallel.ranks import OneProcess
from tinygrad_llm.study.machine import best_time, measure_machine, product_rate
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.threads import set_threads, thread_count
from tinygrad_llm.training.config import TrainConfig
from tinygrad_llm.training.loop import training_step
from tinygrad_llm.training.pretraining import OneBatch

SMALLEST = {"vocab_size": 257, "context": 4, "channels": 8, "heads": 1}
"""A model whose arrays hold next to nothing."""
SHALLOW, DEEP = 2, 10
"""Layers of two such models: the difference of their steps is what layers take."""


def measure_for(config: GPTConfig, batch: int, threads: int, seconds: float = 4.0) -> OwnMachine:
    """What this machine does for a model of that configuration with so many threads, in about so many `seconds`."""
    sizes = ModelSizes.of(config)
    setup = Setup(config.context, batch_size=batch, precision=FLOAT32)
    before = thread_count()
    set_threads(threads)
    try:
        limits = measure_machine(seconds / 8)
        products = step_products(sizes, setup)
        rates = {product: product_rate(*product, seconds / 4 / len(products)) for product in products}
        smallest = [measure_step(GPTConfig(**SMALLEST, layers=layers), 1, seconds / 8)[0] for layers in (SHALLOW, DEEP)]
        layer = max(0.0, smallest[1] - smallest[0]) / (DEEP - SHALLOW)
        return OwnMachine(
            gemm=limits.gemm,
            memory=limits.bandwidth,
            stream=_stream_rate(sizes, setup, seconds / 8),
            attention=_attention_rate(sizes, setup, seconds / 8),
            layer=layer,
            step=max(0.0, smallest[0] - SHALLOW * layer),
            products=rates,
        )
    finally:
        set_threads(before)


def measure_step(config: GPTConfig, batch: int, seconds: float) -> tuple[float, GPT]:
    """The time of a training step with AdamW, the best of those that took `seconds`; and the model."""
    model = GPT(config)
    optimizer = AdamW(model.named_parameters(), 3e-4, (0.9, 0.95), 1e-8, 0.1)
    settings = TrainConfig(steps=1, warmup=0, learning_rate=3e-4, schedule="constant", clip=1.0)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (batch, config.context + 1))
    ranks, task = OneProcess(optimizer), OneBatch((ids[:, :-1], ids[:, 1:]))
    return best_time(lambda: training_step(model, ranks, task, 0, settings), seconds), model


def _attention_rate(sizes: ModelSizes, setup: Setup, seconds: float) -> float:
    shape = (setup.batch_size, setup.time, sizes.qkv_channels)
    qkv = Tensor(np.random.default_rng(0).standard_normal(shape, np.float32), True)
    dy = np.ones((setup.batch_size, setup.time, sizes.q_channels), np.float32)

    def run() -> None:
        qkv.grad = None
        ops.self_attention(qkv, sizes.heads, causal=True).backward(dy)

    return attention_operations(sizes, setup) / best_time(run, seconds)


def _stream_rate(sizes: ModelSizes, setup: Setup, seconds: float) -> float:
    """Of the activation and of a sum with its norm, forward and backward."""
    rng = np.random.default_rng(0)

    def tensor(*shape: int) -> Tensor:
        return Tensor(rng.standard_normal(shape, np.float32), True)

    n, c, f = setup.tokens, sizes.channels, sizes.feed_forward
    wide, bias, x, residual, gain, shift = tensor(n, f), tensor(f), tensor(n, c), tensor(n, c), tensor(c), tensor(c)
    dwide, dy = np.ones((n, f), np.float32), np.ones((n, c), np.float32)

    def run() -> None:
        for leaf in (wide, bias, x, residual, gain, shift):
            leaf.grad = None
        ops.bias_gelu(wide, bias).backward(dwide)
        ops.add_layer_norm(x, residual, gain, shift)[1].backward(dy)

    return n * streamed_sample(sizes) / best_time(run, seconds)


def launcher() -> str | None:
    """The mpiexec of this Python's environment, or else of the system."""
    own = Path(sys.executable).parent / "mpiexec"
    return str(own) if own.exists() else shutil.which("mpiexec")


def measure_link(size: int, timeout: float = 60.0) -> tuple[float, float]:
    """(latency, bytes in a second) of an all-reduce of `size` bytes among two ranks on this machine, by our own
    communicator over MPI. RuntimeError that says why, if there is none."""
    mpiexec = launcher()
    if mpiexec is None:
        raise RuntimeError("there is no mpiexec; pip install 'tinygrad-llm[mpi]' brings one")
    command = [mpiexec, "-n", "2", sys.executable, "-m", "tinygrad_llm.parallel.link_rate", str(size)]
    environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    environment |= {"OPENBLAS_NUM_THREADS": "1", "TINYGRAD_LLM_THREADS": "1"}
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
        )
        found = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        raise RuntimeError(f"two ranks could not be measured: {error}") from error
    if found is None:
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise RuntimeError(f"two ranks could not be started: {said[-1]}")
    return float(found["latency"]), float(found["rate"])
