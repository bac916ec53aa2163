"""What a benchmark found, for people: tables in the terminal, and Markdown for the README."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tinygrad_llm.study.benchmarks.results import ENOUGH, ROUNDS, Change, Results, Row, threads_text
from tinygrad_llm.study.machine import Rates
from tinygrad_llm.study.rungs.report import digits, percent_text, size_text, span_text, time_text

Cells = tuple[str, ...]
TITLES = {"torch": "torch eager", "xllamacpp": "llama.cpp, 4 bits"}
"""Contestants that a table calls by another name."""


def machine_table(rates: Rates) -> RenderableType:
    """The limits of the machine, and its rates by size."""
    products = _table(
        ["product", "GFLOP/s"], [(f"{m} × {k} @ {k} × {n}", _number(r / 1e9)) for m, k, n, r in rates.products]
    )
    streams = _table(
        ["copy of an array of", "GB/s"], [(_binary(size), _number(rate / 1e9)) for size, rate in rates.streams]
    )
    side = Table.grid(padding=(0, 6))
    side.add_row(products, streams)
    return Group(Text(str(rates.machine), style="bold"), side)


def tables(results: Results) -> RenderableType:
    """All rows: one table of kernels for each number of threads, and one table for each other case."""
    parts: list[RenderableType] = []
    for threads in results.machines:
        kernels = [row for row in results.rows if (row.group, row.threads) == ("kernels", threads)]
        if kernels:
            header, body = kernel_cells(results, kernels)
            title = f"kernels, {threads_text(threads)}{limits_text(results, threads)}"
            parts += [Text(title, style="bold"), _table(header, body)]
    for row in results.rows:
        if row.group != "kernels":
            header, body = contestant_cells(results, row)
            title = f"{row.group}: {row.name}, {threads_text(row.threads)}"
            if row.operations or row.moved:
                title += limits_text(results, row.threads)
            parts += [Text(title, style="bold"), _table(header, body)]
    return Group(*parts, *(Text(remark, style="dim") for remark in remarks(results)), *busy_text(results))


def busy_text(results: Results) -> list[Text]:
    """What to think of the numbers, if the machine had other work to do."""
    signs = "; ".join(results.busy())
    return [Text(f"the machine was busy ({signs}): do not trust these numbers", style="bold")] if signs else []


def limits_text(results: Results, threads: int) -> str:
    """The rates by which the shares of the limit were computed: they differ from one measurement to the next."""
    if threads not in results.machines:
        return ""
    machine = results.machines[threads].machine
    return f" (limit: {machine.gemm / 1e9:.0f} GFLOP/s, {machine.bandwidth / 1e9:.1f} GB/s)"


def kernel_cells(results: Results, rows: Sequence[Row]) -> tuple[list[str], list[Cells]]:
    """One line for each kernel."""
    others = sorted({name for row in rows for name in row.others})
    header = ["", "kernel", "quartiles", *others, "GB/s", "GFLOP/s", "limit / time", *(f"× {name}" for name in others)]
    body = []
    for row in rows:
        seconds = row.own.times.median
        body.append(
            (
                row.name,
                time_text(seconds),
                span_text(row.own.times),
                *(time_text(row.measured[name].times.median) if name in row.measured else "" for name in others),
                _number(row.moved / seconds / 1e9),
                _number(row.operations / seconds / 1e9),
                percent_text(results.limit(row) / seconds),
                *(_ratio(row.ratio(name)) if name in row.measured else "" for name in others),
            )
        )
    return header, body


def contestant_cells(results: Results, row: Row) -> tuple[list[str], list[Cells]]:
    """One column for each contestant; lines without numbers are left out."""
    names = list(row.measured)
    measured = [row.measured[name] for name in names]
    lines: list[Cells] = [
        ("time", *(time_text(m.times.median) for m in measured)),
        ("  quartiles", *(span_text(m.times) for m in measured)),
        ("CPU time", *("" if m.cpu is None else time_text(m.cpu) for m in measured)),
        ("most memory", *("" if m.peak is None else size_text(m.peak) for m in measured)),
    ]
    if row.amount:
        lines.append((f"{row.unit}/s", *(_rate(row.amount / m.times.median, row.unit) for m in measured)))
    if row.operations or row.moved:
        lines.append(("limit / time", *(percent_text(results.share(row, name)) for name in names)))
    if row.others:
        lines.append(("time / ours", *(_ratio(row.ratio(n)) if n in row.others else "" for n in names)))
        lines.append(("  in each round", *(_rounds(row, n) if n in row.others else "" for n in names)))
    return ["", *(TITLES.get(name, name) for name in names)], [line for line in lines if any(line[1:])]


def remarks(results: Results) -> list[str]:
    """What is said below the tables."""
    said = [
        "Times are medians of alternating rounds; all contestants compute in float32 with the same number of threads, "
        "each in a process of its own, and only if they give the same results (weights of fewer bits excepted)."
        if any(row.group != "tokenizer" for row in results.rows)
        else "Times are medians of alternating rounds; contestants are in processes of their own, and only those that "
        "give the same ids take part. In a batch, some use threads of their own.",
        "Limit: the operations of the matrix products at the measured rate of products, or the bytes that must be "
        "moved at the measured bandwidth of memory, whichever takes longer. Above 100 % the arrays were in a cache.",
        "Operations of a training step: 6 x parameters in matrix products x tokens + 12 L C T x tokens / 2 (causal "
        "attention). Of decoding: all weights are read once for each token.",
    ]
    if not any(row.group in ("train", "decode") for row in results.rows):
        said.pop()
    return [*said, *results.notes]


def changes_table(changes: Sequence[Change]) -> RenderableType:
    """Then and now."""
    body = [
        (c.name, time_text(c.before.median), time_text(c.now.median), _ratio(c.ratio), c.verdict)
        for c in sorted(changes, key=lambda change: -change.ratio)
    ]
    return _table(["", "before", "now", "now / before", ""], body)


def foreign(results: Results, old: Results) -> list[str]:
    """In what the two measurements differ beside the time."""
    said = []
    if results.processor != old.processor:
        said.append(f"the older file is from another processor: {old.processor}, now {results.processor}")
    for name in ("python", "numpy", "numba"):
        if results.versions.get(name) != old.versions.get(name):
            said.append(f"{name} was {old.versions.get(name)}, and is {results.versions.get(name)}")
    return said


def few_rounds(results: Results, old: Results) -> list[str]:
    """Which of the two measurements has too few rounds to tell a change from chance."""
    return [
        f"{which} has {made.rounds} round{'s' if made.rounds > 1 else ''}: with fewer than {ENOUGH} a change may be "
        f"chance; measure with --rounds {ROUNDS}"
        for which, made in (("the older file", old), ("this measurement", results))
        if made.rounds < ENOUGH
    ]


# -- Markdown ----------------------------------------------------------------------------------------------------------


def markdown(results: Results) -> str:
    """The tables of a README: training and decoding beside the others, kernels by their share of the limit."""
    versions = results.versions
    peers = "".join(f", {name} {versions[name]}" for name in ("torch",) if name in versions and _beside(results, name))
    about = f"Python {versions['python']}, NumPy {versions['numpy']}, Numba {versions.get('numba', 'none')}{peers}"
    threads = "; ".join(
        f"{threads_text(n)}: {r.machine.gemm / 1e9:.0f} GFLOP/s, {r.machine.bandwidth / 1e9:.0f} GB/s"
        for n, r in results.machines.items()
    )
    parts = [f"Measured on {results.processor} ({threads}), {about}, {results.made[:10]}."]
    models = [row for row in results.rows if row.group in ("train", "decode") and (row.operations or row.moved)]
    if models:
        parts.append(_markdown(*model_cells(results, models)))
    kernels = [row for row in results.rows if row.group == "kernels"]
    if kernels:
        parts.append(_markdown(*kernel_lines(results, kernels)))
    tokens = [row for row in results.rows if row.group == "tokenizer" and row.unit]
    if tokens:
        parts.append(_markdown(*tokenizer_lines(tokens)))
    pretrained = [row for row in results.rows if row.group == "pretrained"]
    if pretrained:
        parts.append(_markdown(*pretrained_lines(pretrained)))
    others = [row for row in results.rows if row.group in ("train", "tokenizer")]
    waits = [row for row in others if not (row.operations or row.moved or row.unit)]
    if waits:
        body = [(row.name, str(row.threads), *_times(row)) for row in waits]
        parts.append(_markdown(["start", "threads", "time"], body))
    return "\n\n".join(parts) + "\n"


def model_cells(results: Results, rows: Sequence[Row]) -> tuple[list[str], list[Cells]]:
    """One line for each model."""
    others = [name for name in ("torch", "torch.compile") if _beside(results, name)]
    titles = [TITLES.get(name, name) for name in others]
    header = ["", "threads", "ours", *titles, *(f"× {t}" for t in titles), "limit / time", "memory"]
    body = []
    for row in rows:
        title = row.name if row.group == "train" else f"decode, {row.name}"
        there = [name if name in row.measured else "" for name in others]
        body.append(
            (
                title,
                str(row.threads),
                time_text(row.own.times.median),
                *(time_text(row.measured[name].times.median) if name else "" for name in there),
                *(_ratio(row.ratio(name)) if name else "" for name in there),
                percent_text(results.limit(row) / row.own.times.median),
                "" if row.own.peak is None else size_text(row.own.peak),
            )
        )
    return header, body


def tokenizer_lines(rows: Sequence[Row]) -> tuple[list[str], list[Cells]]:
    """The tokenizer beside the others, and how many times its time they take. Who is in most rows has a column."""
    names = sorted({name for row in rows for name in row.others}, key=lambda name: (name != "tiktoken", name))
    most = [name for name in names if 2 * sum(name in row.measured for row in rows) > len(rows)]
    body = []
    for row in rows:
        beside = {name: f"{time_text(row.measured[name].times.median)} ({row.ratio(name):.1f}x)" for name in row.others}
        rest = ", ".join(f"{name} {text}" for name, text in beside.items() if name not in most)
        columns = (beside.get(name, "") for name in most)
        body.append((row.name, str(row.threads), time_text(row.own.times.median), *columns, rest))
    return ["", "threads", "ours", *most, "others"], body


def pretrained_lines(rows: Sequence[Row]) -> tuple[list[str], list[Cells]]:
    """Tokens a second of a real model, and of the others beside it."""
    others = sorted({name for row in rows for name in row.others})
    body = []
    for row in rows:
        there = [name if name in row.measured else "" for name in others]
        rates = {name: f"{row.amount / m.times.median:,.0f}" for name, m in row.measured.items()}
        beside = (*(rates.get(name, "") for name in others), *(_ratio(row.ratio(n)) if n else "" for n in there))
        body.append((row.name, str(row.threads), rates["ours"], *beside))
    titles = [TITLES.get(name, name) for name in others]
    return ["tokens a second", "threads", "ours", *titles, *(f"ours / {t}" for t in titles)], body


def kernel_lines(results: Results, rows: Sequence[Row]) -> tuple[list[str], list[Cells]]:
    """The table of kernels with the threads as a column, and without the quartiles."""
    header, body = kernel_cells(results, rows)
    lines = [(cells[0], str(row.threads), cells[1], *cells[3:]) for cells, row in zip(body, rows, strict=True)]
    return [header[0], "threads", header[1], *header[3:]], lines


def _times(row: Row) -> Cells:
    return (", ".join([time_text(row.own.times.median), *(_beside_text(row, name) for name in row.others)]),)


def _beside_text(row: Row, name: str) -> str:
    return f"{name} {time_text(row.measured[name].times.median)}"


def _beside(results: Results, name: str) -> bool:
    return any(name in row.measured for row in results.rows)


def _markdown(header: Sequence[str], body: Iterable[Cells]) -> str:
    rule = ["---", *("---:" for _ in header[1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *body))


# -- cells -------------------------------------------------------------------------------------------------------------


def _table(header: Sequence[str], body: Iterable[Cells]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, title in enumerate(header):
        table.add_column(title, justify="right" if number else "left", no_wrap=True)
    for cells in body:
        table.add_row(*cells)
    return table


def _number(value: float) -> str:
    return digits(value) if value and not math.isnan(value) else ""


def _ratio(value: float) -> str:
    return f"{value:.2f}"


def _rate(value: float, unit: str) -> str:
    return size_text(value) if unit == "B" else f"{value:,.0f}" if value >= 100 else digits(value)


def _rounds(row: Row, name: str) -> str:
    ratios = row.ratios(name)
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


def _binary(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
