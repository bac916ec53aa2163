"""What the mutants came to: a table of scores, the survivors, and which of them are equivalent to the original."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mutants import Mutant
from rich.console import Console
from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True)
class Equivalent:
    """An entry of equivalent.toml: a change that no test can notice. Found again by its text, wherever it stands."""

    file: str
    before: str
    after: str
    why: str


@dataclass
class Score:
    """Of one file, or of several."""

    killed: int = 0
    survivors: list[Mutant] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.killed + len(self.survivors)

    def equivalents(self, entries: Iterable[Equivalent]) -> int:
        return sum(reason(m, entries) is not None for m in self.survivors)


def read_equivalents(path: Path) -> list[Equivalent]:
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    return [
        Equivalent(group["file"], change[0], change[1], group["why"])
        for group in content["equivalent"]
        for change in group["changes"]
    ]


def reason(mutant: Mutant, entries: Iterable[Equivalent]) -> str | None:
    """Why a mutant is equivalent, or None."""
    for entry in entries:
        if (entry.file, entry.before, entry.after) == (mutant.module, mutant.before, mutant.after):
            return entry.why
    return None


def percent(part: int, whole: int) -> float:
    """Rounded down: 100 is only what is complete."""
    return 100.0 if not whole else int(1000 * part / whole) / 10


def rows(scores: dict[str, Score], entries: list[Equivalent]) -> list[dict[str, Any]]:
    """A row for each file, one for all of ops/, and one for all files."""
    ops = [s for name, s in scores.items() if name.startswith("ops/")]
    groups = [*((name, [score]) for name, score in scores.items()), ("ops/", ops), ("all", list(scores.values()))]
    table = []
    for name, group in groups:
        total, killed = sum(s.total for s in group), sum(s.killed for s in group)
        equivalent = sum(s.equivalents(entries) for s in group)
        table.append(
            {"file": name, "mutants": total, "killed": killed, "survived": total - killed, "equivalent": equivalent}
            | {"raw score": percent(killed, total), "score": percent(killed, total - equivalent)}
        )
    return table


def stale(scores: dict[str, Score], entries: list[Equivalent]) -> list[Equivalent]:
    """Entries for the files that were tried which no survivor matches."""
    found = {(m.module, m.before, m.after) for score in scores.values() for m in score.survivors}
    return [e for e in entries if e.file in scores and (e.file, e.before, e.after) not in found]


def print_report(console: Console, scores: dict[str, Score], entries: list[Equivalent], whole: bool) -> None:
    """The survivors, the table, and, if all mutants of the files were tried, the entries that match none."""
    for name, score in scores.items():
        for mutant in score.survivors:
            why = reason(mutant, entries)
            verdict = "[red]survived[/]" if why is None else "equivalent"
            console.print(f"{name}:{mutant.start[0]}: {verdict}", soft_wrap=True)
            console.print(f"  - {escape(mutant.before)}\n  + {escape(mutant.after)}", highlight=False, soft_wrap=True)
            if why is not None:
                console.print(f"  {escape(' '.join(why.split()))}", highlight=False, soft_wrap=True)
    table = Table("file", *(dict.fromkeys(("mutants", "killed", "survived", "equivalent", "raw %", "score %"))))
    table.columns[0].no_wrap, table.columns[0].min_width = True, max(map(len, scores), default=0)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows(scores, entries):
        table.add_row(*(f"{v:.1f}" if isinstance(v, float) else str(v) for v in row.values()))
    console.print(table)
    for entry in stale(scores, entries) if whole else ():
        console.print(
            f"equivalent.toml: no survivor matches {entry.file}: {entry.before} -> {entry.after}", markup=False
        )


def summary(scores: dict[str, Score], entries: list[Equivalent]) -> dict[str, Any]:
    """All of this as JSON."""
    survivors = [
        {"file": m.module, "line": m.start[0], "before": m.before, "after": m.after, "equivalent": reason(m, entries)}
        for score in scores.values()
        for m in score.survivors
    ]
    return {"scores": rows(scores, entries), "survivors": survivors}
