"""What a ladder found, as a table in the terminal, as HTML in a notebook, and as a picture."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from tinygrad_llm.files import atomic_write
from tinygrad_llm.study.lookup import refuse_existing
from tinygrad_llm.study.machine import Machine
from tinygrad_llm.study.page import fragment, templates


class Times(NamedTuple):
    """Seconds: the median between the first and the third quartile. NaN where nothing was measured."""

    low: float
    median: float
    high: float


class Costs(NamedTuple):
    """Nodes on the tape, bytes that they keep for backward, and how many of these are neither input nor output."""

    nodes: int
    saved: int
    extra: int


@dataclass(frozen=True)
class Rung:
    """One way to compute the gradient. Errors are in units of float32's epsilon; see `ladder` for what is counted."""

    name: str
    forward: Times
    backward: Times
    value_error: float
    gradient_errors: dict[str, float]
    costs: Costs | None

    @property
    def total(self) -> float:
        """Seconds of forward and backward: the sum of the two medians, as they are printed and drawn."""
        return self.backward.median + (0.0 if math.isnan(self.forward.median) else self.forward.median)

    @property
    def gradient_error(self) -> float:
        """The largest of the gradients' errors."""
        return max(self.gradient_errors.values())


@dataclass(frozen=True)
class Ladder:
    """The rungs, and the least that the machine needs: `moved` bytes and `products` floating-point operations."""

    call: str
    repeats: int
    machine: Machine
    moved: int
    products: int
    rungs: tuple[Rung, ...]
    notes: tuple[str, ...]

    @property
    def limit(self) -> float:
        """Seconds that forward and backward take at least on this machine."""
        return self.machine.bound(self.products, self.moved)

    def share(self, rung: Rung) -> float:
        """The limit over the measured time; NaN for a rung without a forward of its own."""
        return math.nan if math.isnan(rung.forward.median) else self.limit / rung.total

    @property
    def limited_by(self) -> str:
        """What the limit is made of."""
        moved, products = self.moved / self.machine.bandwidth, self.products / self.machine.gemm
        least = f"{size_text(self.moved)} of memory moved once, {time_text(moved)}"
        if not self.products:
            return least
        return f"{count_text(self.products)} of matrix products, {time_text(products)}; {least}"

    # -- as text -------------------------------------------------------------------------------------------------------
    def rows(self) -> list[tuple[str, ...]]:
        """The table: what is measured, then one cell for each rung, empty where there is nothing to tell."""
        costs = [rung.costs for rung in self.rungs]
        rows = [
            ("forward", *(time_text(r.forward.median) for r in self.rungs)),
            ("  quartiles", *(span_text(r.forward) for r in self.rungs)),
            ("backward", *(time_text(r.backward.median) for r in self.rungs)),
            ("  quartiles", *(span_text(r.backward) for r in self.rungs)),
            ("limit / time", *(percent_text(self.share(r)) for r in self.rungs)),
            ("error of the value", *(error_text(r.value_error) for r in self.rungs)),
        ]
        for name in self.rungs[0].gradient_errors:
            rows.append((f"error of d{name}", *(error_text(r.gradient_errors[name]) for r in self.rungs)))
        return [
            *rows,
            ("saved for backward", *("" if c is None else size_text(c.saved) for c in costs)),
            ("  beyond in- and outputs", *("" if c is None else size_text(c.extra) for c in costs)),
            ("nodes on the tape", *("" if c is None else str(c.nodes) for c in costs)),
        ]

    def remarks(self) -> list[str]:
        """What is said below the table."""
        return [
            f"Limit {time_text(self.limit)}: {self.limited_by}.",
            str(self.machine),
            f"Times are medians of {self.repeats} alternating runs in float32. Errors are against float64, relative to "
            "the largest entry, in units of float32's epsilon (ε = 1.2e-7).",
            *self.notes,
        ]

    def __rich__(self) -> RenderableType:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("", no_wrap=True)
        for rung in self.rungs:
            table.add_column(rung.name, justify="right", no_wrap=True)
        for row in self.rows():
            table.add_row(*row)
        return Group(Text(self.call, style="bold"), table, *(Text(remark, style="dim") for remark in self.remarks()))

    def __str__(self) -> str:
        console = Console(width=110, color_system=None)
        with console.capture() as captured:
            console.print(self)
        return "\n".join(line.rstrip() for line in captured.get().splitlines()).strip()

    __repr__ = __str__

    # -- as HTML and as a picture --------------------------------------------------------------------------------------
    def plot(self, path: str | os.PathLike[str], force: bool = False) -> None:
        """Draw the ladder into a new PNG file."""
        from tinygrad_llm.study.rungs.plot import draw  # matplotlib is slow to import

        target = refuse_existing(path, force)
        figure = draw(self)
        atomic_write(target, lambda temporary: figure.savefig(temporary, format="png", dpi=150))

    def _repr_html_(self) -> str:
        from tinygrad_llm.study.rungs.plot import as_svg

        body = templates().from_string(_TEMPLATE).render(ladder=self, picture=Markup(as_svg(self)))
        return fragment(Markup(body), _STYLE)


_STYLE = """
.study:has(> .ladder) { padding: 0.2em 1em 0.6em; border-radius: 8px; }
.study .ladder svg { width: 100%; min-width: 36rem; max-width: 60rem; height: auto; display: block; }
.study .ladder th:first-child { text-align: left; }
.study .ladder .detail { padding-left: 2em; font-weight: 400; }
.study .ladder td { font-variant-numeric: tabular-nums; white-space: nowrap; }
.study .ladder th { white-space: nowrap; }
"""

_TEMPLATE = """
<div class="ladder">
<h3><code>{{ ladder.call }}</code></h3>
<div class="scroll" tabindex="0" role="region" aria-label="times">{{ picture }}</div>
<div class="scroll" tabindex="0" role="region" aria-label="table"><table>
<tr><td></td>{% for rung in ladder.rungs %}<th scope="col">{{ rung.name }}</th>{% endfor %}</tr>
{% for row in ladder.rows() %}
<tr><th scope="row"{% if row[0].startswith(" ") %} class="detail"{% endif %}>{{ row[0].strip() }}</th>
{% for cell in row[1:] %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
{% for remark in ladder.remarks() %}
<p class="soft">{{ remark }}</p>
{% endfor %}
</div>
"""


def digits(number: float) -> str:
    """Three significant digits: 0.0123, 1.23, 12.3, 1,234; with an exponent below 0.001."""
    if number == 0 or not math.isfinite(number):
        return f"{number:g}"
    if abs(number) < 1e-3:
        return f"{number:.2e}"
    return f"{number:,.{max(0, 2 - math.floor(math.log10(abs(number))))}f}"


def time_unit(seconds: float) -> tuple[float, str]:
    """(units in a second, name) of the unit that suits a time."""
    for factor, name in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * factor >= 1:
            return factor, name
    return 1e9, "ns"


def time_text(seconds: float) -> str:
    """Seconds in the unit that suits them; empty for NaN."""
    if math.isnan(seconds):
        return ""
    factor, unit = time_unit(seconds)
    return f"{digits(seconds * factor)} {unit}"


def span_text(times: Times) -> str:
    """The quartiles, in the unit of the median."""
    if math.isnan(times.median):
        return ""
    factor, _ = time_unit(times.median)
    return f"{digits(times.low * factor)} to {digits(times.high * factor)}"


def size_text(size: float) -> str:
    """Bytes in decimal units."""
    return _scaled(size, "B")


def count_text(operations: float) -> str:
    """Floating-point operations in decimal units."""
    return _scaled(operations, "FLOP")


def _scaled(number: float, unit: str) -> str:
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{digits(number / factor)} {prefix}{unit}"
    return f"{number:.0f} {unit}"


def error_text(error: float) -> str:
    """An error in units of epsilon; empty for NaN."""
    if math.isnan(error):
        return ""
    if 0 < error < 0.01:
        return "< 0.01 ε"
    return f"{error:.2g} ε" if error < 99.5 else f"{digits(error)} ε"


def percent_text(share: float) -> str:
    """A share in percent, with two digits; empty for NaN."""
    if math.isnan(share):
        return ""
    return f"{100 * share:.0f} %" if share >= 0.095 else f"{100 * share:.2g} %"
