"""What a user waits for at first: the import, and the first training step with and without compiled kernels at hand."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable

from tinygrad_llm.study.benchmarks.group import environment
from tinygrad_llm.study.benchmarks.results import Measured, Row

NAMES = (
    "import tinygrad_llm, beside import numpy",
    "first training step, no kernel compiled yet",
    "first training step, kernels compiled before",
)
"""Names of the rows."""
TOKENIZER_NAMES = (
    "import and first ids, no kernel compiled yet",
    "import and first ids, kernels compiled before",
)
STARTS = {"train": NAMES, "tokenizer": TOKENIZER_NAMES}
"""The rows of each group."""

IMPORT = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
FIRST_STEP = """
import time, numpy
start = time.perf_counter()
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.optim import AdamW
from tinygrad_llm.parallel.ranks import OneProcess
from tinygrad_llm.training.config import TrainConfig
from tinygrad_llm.training.loop import training_step
from tinygrad_llm.training.pretraining import OneBatch

ids = numpy.arange(12 * 64).reshape(12, 64) % 65
model = GPT(GPTConfig(vocab_size=65, context=64, channels=128, layers=4, heads=4))
training_step(model, OneProcess(AdamW(model.named_parameters())), OneBatch((ids, ids)), 0, TrainConfig())
print(time.perf_counter() - start)
"""
"""The smallest model of the training steps; the clock starts when NumPy is there."""
FIRST_IDS = """
import time, numpy
start = time.perf_counter()
from tinygrad_llm import use_backend
from tinygrad_llm.tokenizer import Tokenizer

use_backend("numba")
Tokenizer({bytes([byte]): byte for byte in range(256)}, [], {}, "gpt2").encode("hello")
print(time.perf_counter() - start)
"""


def startup_rows(
    group: str, threads: int, rounds: int, progress: Callable[[int, int], object] = lambda done, total: None
) -> list[Row]:
    """The first step, or the first ids, with an empty cache of kernels, and with a full one; of training also the
    import beside NumPy's."""
    training = group == "train"
    code = FIRST_STEP if training else FIRST_IDS
    total = (1 + training) * rounds + 1
    imports: dict[str, list[float]] = {"ours": [], "numpy": []}
    warm: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        cold = seconds(code, threads, folder)
        progress(1, total)
        for number in range(rounds if training else 0):
            for name, module in (("ours", "tinygrad_llm"), ("numpy", "numpy")):
                imports[name].append(seconds(IMPORT.format(module), threads, folder))
            progress(2 + number, total)
        for number in range(rounds):
            warm.append(seconds(code, threads, folder))
            progress(total - rounds + 1 + number, total)
    found = [{"ours": Measured((cold,))}, {"ours": Measured(tuple(warm))}]
    if training:
        found.insert(0, {name: Measured(tuple(times)) for name, times in imports.items()})
    return [Row(group, name, threads, measured) for name, measured in zip(STARTS[group], found, strict=True)]


def seconds(code: str, threads: int, cache: str) -> float:
    """What a fresh interpreter prints at the end of `code`; `cache` is the folder of compiled kernels and modules."""
    given = environment(threads) | {"NUMBA_CACHE_DIR": cache, "PYTHONPYCACHEPREFIX": cache}
    given.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=given,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    if done.returncode:
        last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise ChildProcessError(f"a fresh interpreter ended with status {done.returncode}: {last}")
    return float(done.stdout.split()[-1])
