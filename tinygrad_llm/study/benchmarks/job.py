"""A piece of work that a worker can repeat, and the numbers by which two workers see that they do the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinygrad_llm import random
from tinygrad_llm.operation import Operation
from tinygrad_llm.study.benchmarks.cases import Case
from tinygrad_llm.study.rungs.workloads import draw_workload
from tinygrad_llm.tape import Array

Check = tuple[float, float]
"""(size, value): two values agree if they differ by little of the larger size."""

AGREEMENT = 1e-3
"""The share of a check's size by which two contestants may differ, both in float32."""


def nothing() -> None:
    """What is done before a turn, if nothing needs to be."""


@dataclass
class Job:
    """`run` is timed; `before` is called, untimed, before each turn, of `runs` runs (0: as many as fit its time).

    `checks` tell what it computes; `operations` and `moved` are the floating-point operations and the bytes that one
    run needs at least, `amount` what it gets done, each 0 where another contestant tells.
    """

    run: Callable[[], object]
    checks: list[Check] = field(default_factory=list)
    before: Callable[[], None] = nothing
    runs: int = 0
    operations: float = 0.0
    moved: float = 0.0
    amount: float = 0.0


def fingerprint(array: Any) -> Check:
    """(norm, projection on random signs): errors of a share e of an array move the second by about e times the first.

    Both in float64; the same for arrays of the same numbers.
    """
    flat = np.asarray(array, np.float64).ravel()
    signs = random.stream(0, "fingerprint").integers(0, 2, flat.size, np.int8)
    return float(np.linalg.norm(flat)), float(2 * flat @ signs - flat.sum())


def agree(mine: Sequence[Check], theirs: Sequence[Check]) -> bool:
    """Whether two contestants have computed the same; NaN agrees with nothing."""
    return len(mine) == len(theirs) and all(
        abs(a - b) <= AGREEMENT * max(size, other) for (size, a), (other, b) in zip(mine, theirs, strict=True)
    )


def arguments(operation: Operation, case: Case) -> tuple[list[Any], dict[str, Any]]:
    """The same float32 arguments in every process."""
    rng = random.stream(0, "bench", operation.name)
    inputs, options = draw_workload(operation, rng, tuple(case.sizes["shape"]))
    return [single(x) for x in inputs], {name: single(x) for name, x in options.items()}


def single(x: Any) -> Any:
    """Floating-point arrays in float32; anything else as it is."""
    return x.astype(np.float32) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x


def cotangent(shape: tuple[int, ...]) -> Array:
    """The same random dy in every process."""
    return random.stream(0, "bench", "cotangent").standard_normal(shape, np.float32)


def batch(case: Case) -> tuple[Array, Array]:
    """Inputs and targets (B, T) of a training step."""
    config = case.sizes["config"]
    ids = random.stream(0, "bench", "batch").integers(
        0, config["vocab_size"], (case.sizes["batch"], config["context"] + 1)
    )
    return ids[:, :-1], ids[:, 1:]
