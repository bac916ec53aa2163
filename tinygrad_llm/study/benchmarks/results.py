"""What a benchmark found, as data: rows, the machine, the versions; written to JSON and read back, and compared."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from tinygrad_llm.files import atomic_write
from tinygrad_llm.study.machine import Rates
from tinygrad_llm.study.rungs.report import Times

KIND, FORMAT = "tinygrad_llm benchmarks", 1
SLOWER = 1.1
"""A row has become slower only if its time has grown by more than this factor, and beyond its spread."""

ROUNDS, ENOUGH = 7, 5
"""How many rounds are usual, and of how many at least the quartiles say how far chance goes."""

HAD, APART, SLUMP = 0.85, 1.5, 0.5
"""The machine was busy if a product got less than this share of its threads' time, if a row's quartiles are further
apart than this factor (on a quiet one they were up to 1.3), or if a square product had less than this share of the rate
of a smaller one."""


@dataclass(frozen=True)
class Measured:
    """One contestant of a row: seconds of a run in each round, CPU seconds of a run, most memory held in bytes."""

    rounds: tuple[float, ...]
    cpu: float | None = None
    peak: int | None = None

    @property
    def times(self) -> Times:
        """Quartiles of the rounds."""
        low, median, high = np.quantile(self.rounds, (0.25, 0.5, 0.75))
        return Times(float(low), float(median), float(high))

    @property
    def apart(self) -> float:
        """The third quartile over the first; 1 where there are too few rounds to tell."""
        return self.times.high / self.times.low if len(self.rounds) >= ENOUGH else 1.0


@dataclass(frozen=True)
class Row:
    """One case at one number of threads. `operations` and `moved` are what a run needs at least (0: not counted)."""

    group: str
    name: str
    threads: int
    measured: dict[str, Measured]
    operations: float = 0.0
    moved: float = 0.0
    amount: float = 0.0
    unit: str = ""

    @property
    def own(self) -> Measured:
        """Ours: the kernel, where there is one."""
        return self.measured.get("kernel") or self.measured["ours"]

    @property
    def others(self) -> list[str]:
        """The contestants that are not ours."""
        return [name for name in self.measured if name not in ("kernel", "ours")]

    def ratio(self, other: str) -> float:
        """How many times as long the other takes: the ratio of the medians."""
        return self.measured[other].times.median / self.own.times.median

    def ratios(self, other: str) -> list[float]:
        """The same in each round."""
        return [theirs / mine for theirs, mine in zip(self.measured[other].rounds, self.own.rounds, strict=True)]


class Change(NamedTuple):
    """A row then and now; `ratio` of the medians above 1 is slower now."""

    name: str
    before: Times
    now: Times

    @property
    def ratio(self) -> float:
        """Time now over time then."""
        return self.now.median / self.before.median

    @property
    def verdict(self) -> str:
        """Slower, faster, or nothing: a change of a tenth whose quartiles do not overlap."""
        if self.ratio > SLOWER and self.now.low > self.before.high:
            return "slower"
        if self.ratio < 1 / SLOWER and self.now.high < self.before.low:
            return "faster"
        return ""


@dataclass(frozen=True)
class Results:
    """All rows, with what they were measured on. `machines` has the rates for each number of threads."""

    made: str
    versions: dict[str, str]
    machines: dict[int, Rates]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    failed: bool = False

    @property
    def processor(self) -> str:
        """The name of the processor."""
        return next(iter(self.machines.values())).machine.processor

    @property
    def rounds(self) -> int:
        """How many rounds were asked for: all rows have them, but those that can be measured only once."""
        return max((len(row.own.rounds) for row in self.rows), default=0)

    def limit(self, row: Row) -> float:
        """Seconds that the row takes at least on this machine; NaN where nothing is counted."""
        if not (row.operations or row.moved) or row.threads not in self.machines:
            return math.nan
        return self.machines[row.threads].machine.bound(row.operations, row.moved)

    def share(self, row: Row, contestant: str) -> float:
        """The limit over the measured time; NaN for float32 beside fewer bits, which has other bytes to read."""
        if contestant == "float32":
            return math.nan
        return self.limit(row) / row.measured[contestant].times.median

    def busy(self) -> list[str]:
        """Signs that the machine had other work to do; none on a quiet one."""
        signs = []
        for threads, rates in self.machines.items():
            if rates.had < HAD:
                signs.append(f"{threads_text(threads)} had {rates.had:.0%} of the processor time that they could use")
            squares = [(size, rate) for size, k, n, rate in rates.products if size == k == n]
            for (_, before), (size, rate) in itertools.pairwise(squares):
                if rate < SLUMP * before:
                    said = f"{rate / 1e9:.0f} GFLOP/s, and a smaller one with {before / 1e9:.0f}"
                    signs.append(f"a product of {size} × {size} ran with {said}, {threads_text(threads)}")
        apart = [row for row in self.rows if any(m.apart > APART for m in row.measured.values())]
        if apart:
            signs.append(f"in {len(apart)} of {len(self.rows)} rows the quartiles are a factor of {APART:g} apart")
        return signs

    def save(self, path: Path) -> None:
        """Write everything as JSON."""
        body = {"kind": KIND, "format": FORMAT, **asdict(self)}
        atomic_write(path, (json.dumps(body, indent=1, allow_nan=False) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote. Raises ValueError, with the file's name, for anything else."""
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: not a file of benchmarks: it is not JSON ({error})") from None
        if not isinstance(plain, dict) or plain.get("kind") != KIND:
            raise ValueError(f"{path}: not a file of benchmarks; tinygrad-llm bench --json writes one")
        if plain.get("format") != FORMAT:
            raise ValueError(f"{path}: format {plain.get('format')!r}; this version reads format {FORMAT}")
        try:
            return cls(
                str(plain["made"]),
                dict(plain["versions"]),
                {int(threads): Rates.from_plain(rates) for threads, rates in plain["machines"].items()},
                tuple(_row(row) for row in plain["rows"]),
                tuple(plain["notes"]),
                bool(plain["failed"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path}: a damaged file of benchmarks ({type(error).__name__}: {error})") from None

    def since(self, old: Results) -> list[Change]:
        """The rows that both have. Raises ValueError if there is none."""
        before = {(row.group, row.name, row.threads): row for row in old.rows}
        pairs = [(before.get((row.group, row.name, row.threads)), row) for row in self.rows]
        changes = [
            Change(f"{row.group}: {row.name}, {threads_text(row.threads)}", then.own.times, row.own.times)
            for then, row in pairs
            if then is not None
        ]
        if not changes:
            raise ValueError("the two measurements have no row in common")
        return changes


def _row(plain: dict[str, Any]) -> Row:
    measured = {
        name: Measured(tuple(map(float, m["rounds"])), m["cpu"], m["peak"]) for name, m in plain["measured"].items()
    }
    row = Row(**{**plain, "measured": measured})
    if not all(m.rounds for m in measured.values()) or not row.own.rounds:
        raise ValueError(f"{row.name} was never measured")
    return row


def threads_text(threads: int) -> str:
    """``1 thread``, ``2 threads``."""
    return f"{threads} thread{'s' if threads > 1 else ''}"
