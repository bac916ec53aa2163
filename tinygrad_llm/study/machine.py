"""What this machine can do: its rate of matrix products and its memory bandwidth, in one number each or by size."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from tinygrad_llm import threads

GEMM_SIZE = 1024
"""Rows and columns of the matrices: large enough for the full rate, and about 2 GFLOP a product."""
STREAM_BYTES = 64 << 20
"""Size of each of the three arrays that are streamed: beyond the caches of most machines."""


@dataclass(frozen=True)
class Machine:
    """Limits of a machine: `gemm` in floating-point operations per second, `bandwidth` in bytes per second."""

    gemm: float
    bandwidth: float
    threads: int
    processor: str

    def bound(self, operations: float, moved: float) -> float:
        """The least seconds for so many operations and so many bytes moved, both at once: the roofline.

        Source: Williams, Waterman, Patterson 2009, "Roofline: an insightful visual performance model".
        """
        return max(operations / self.gemm, moved / self.bandwidth)

    def best(self, other: Machine) -> Machine:
        """The higher rates of two measurements: what else the machine does can only lower them."""
        return replace(self, gemm=max(self.gemm, other.gemm), bandwidth=max(self.bandwidth, other.bandwidth))

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return (
            f"{self.processor}, {threads}: {self.gemm / 1e9:.0f} GFLOP/s in matrix products (float32), "
            f"{self.bandwidth / 1e9:.1f} GB/s of memory"
        )


def measure_machine(seconds: float = 1.0) -> Machine:
    """Measure this machine for about so many `seconds`; the best of the repeats counts, as other work only slows them.

    gemm: ``2 n^3`` operations over the time of ``x @ y``, n = 1024, float32, by NumPy's BLAS.
    bandwidth: arrays of 64 MB each are copied, ``b = a`` (two are moved), and added, ``c = a + b`` (three); the better
    rate counts. The work is split over the threads. Only what the program reads and writes is counted,
    not that a processor may read a line of memory before it writes it.
    """
    return Machine(_gemm_rate(seconds / 2), _bandwidth(seconds / 2), threads.thread_count(), processor_name())


PRODUCTS = (
    *((n, n, n) for n in (64, 128, 256, 512, 1024, 2048)),
    (768, 128, 512),
    (2048, 384, 1536),
    (256, 768, 3072),
    (256, 3072, 768),
    (256, 768, 50257),
    (1, 768, 50257),
)
"""(m, k, n) of the products ``(m, k) @ (k, n)`` whose rates are measured: square ones, and those of the models."""
STREAMS = tuple(1 << power for power in (15, 17, 19, 21, 23, 25, 27, 28))
"""Bytes of the arrays that are copied, from those that fit the smallest cache to those that fit none."""


@dataclass(frozen=True)
class Rates:
    """Rates by size: `products` has (m, k, n, floating-point operations per second), `streams` (bytes of an array,
    bytes moved per second). `had` is the processor time that a product got, of the time of all its threads: about 1,
    unless other programs took a part."""

    machine: Machine
    products: tuple[tuple[int, int, int, float], ...]
    streams: tuple[tuple[int, float], ...]
    had: float = 1.0

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    def best(self, other: Rates) -> Rates:
        """The higher rates of two measurements of the same sizes, and the smaller share of processor time."""
        products = (
            (*mine[:3], max(mine[3], theirs[3])) for mine, theirs in zip(self.products, other.products, strict=True)
        )
        streams = ((mine[0], max(mine[1], theirs[1])) for mine, theirs in zip(self.streams, other.streams, strict=True))
        return Rates(self.machine.best(other.machine), tuple(products), tuple(streams), min(self.had, other.had))

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        """Back from what `plain` gave."""
        products = tuple((m, k, n, rate) for m, k, n, rate in plain["products"])
        streams = tuple((size, rate) for size, rate in plain["streams"])
        return cls(Machine(**plain["machine"]), products, streams, float(plain.get("had", 1.0)))


def measure_rates(seconds: float = 4.0) -> Rates:
    """Measure products and copies of several sizes for about so many `seconds`.

    The machine's limits are the best rates: of a product of any size, and of streaming arrays beyond the caches.
    """
    machine = measure_machine(seconds / 4)
    each = 0.75 * seconds / (len(PRODUCTS) + len(STREAMS))
    products = tuple((m, k, n, product_rate(m, k, n, each)) for m, k, n in PRODUCTS)
    streams = tuple((size, _copy_rate(size, each)) for size in STREAMS)
    fastest = max(machine.gemm, *(rate for *_, rate in products))
    return Rates(replace(machine, gemm=fastest), products, streams, processor_share(seconds / 10))


def _gemm_rate(seconds: float) -> float:
    return product_rate(GEMM_SIZE, GEMM_SIZE, GEMM_SIZE, seconds)


def product_rate(m: int, k: int, n: int, seconds: float) -> float:
    """Floating-point operations in a second of ``(m, k) @ (k, n)`` in float32, measured for so many seconds."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    z = np.empty((m, n), np.float32)
    return 2 * m * k * n / best_time(lambda: np.matmul(x, y, out=z), seconds)


def processor_share(seconds: float = 0.5) -> float:
    """Processor time over time, for each thread, while matrices are multiplied: they leave no thread without work."""
    x = np.ones((GEMM_SIZE, GEMM_SIZE), np.float32)
    used, start = time.process_time(), time.perf_counter()
    best_time(lambda: np.matmul(x, x), seconds)
    return (time.process_time() - used) / (time.perf_counter() - start) / threads.thread_count()


def _copy_rate(size: int, seconds: float) -> float:
    """Bytes read and written in a second by copying an array of `size` bytes, a part of it by each thread.

    A small array is copied many times in one run: handing out the parts would else be all that is measured.
    """
    a, b = (np.ones(size // 4, np.float32) for _ in range(2))
    repeats = max(1, STREAM_BYTES // 4 // size)

    def copy(low: int, high: int) -> None:
        source, target = a[low:high], b[low:high]
        for _ in range(repeats):
            np.copyto(target, source)

    return 2 * size * repeats / best_time(lambda: threads.run(copy, a.size), seconds)


def _bandwidth(seconds: float) -> float:
    a, b, c = (np.ones(STREAM_BYTES // 4, np.float32) for _ in range(3))

    def copy(low: int, high: int) -> None:  # NumPy lets other threads run while it copies and adds
        np.copyto(b[low:high], a[low:high])

    def add(low: int, high: int) -> None:
        np.add(a[low:high], b[low:high], out=c[low:high])

    copy_rate = 2 * STREAM_BYTES / best_time(lambda: threads.run(copy, a.size), seconds / 2)
    add_rate = 3 * STREAM_BYTES / best_time(lambda: threads.run(add, a.size), seconds / 2)
    return max(copy_rate, add_rate)


def best_time(work: Callable[[], object], seconds: float) -> float:
    """The shortest of the runs of `work` in so many seconds, after one that is not counted; three runs at least."""
    work()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def processor_name() -> str:
    """The processor's name, as the operating system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def available_memory() -> int | None:
    """Bytes that can still be had without swapping, as Linux tells; None where nothing tells."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
