"""Arrays as rows of numbers, for the terminal and for a page, shortened where they are large."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jinja2 import Template
from markupsafe import Markup

from tinygrad_llm.study.page import templates
from tinygrad_llm.tape import Array

DIGITS = 6  # significant ones of the largest number in an array
EDGE = 3  # rows and columns at each end of what is shortened
MOST_PLAIN = 128  # entries that the terminal shows whole
MOST = 8  # rows, columns or matrices that are shown whole

MATRIX_STYLE = """
.study .arrays { display: flex; flex-wrap: wrap; gap: 0.7em 1.6em; align-items: flex-end; margin: 0.5em 0; }
.study .array { max-width: 100%; overflow-x: auto; }
.study .array figcaption { color: var(--soft); font-size: 0.85em; margin-bottom: 0.25em; }
.study figure.array { margin: 0; }
.study .matrix { border-left: 2px solid var(--soft); border-right: 2px solid var(--soft); border-radius: 5px;
  margin: 0; font-variant-numeric: tabular-nums; }
.study .matrix td { border: 0; padding: 0.1em 0.55em; font-size: 0.86em; white-space: nowrap;
  font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.study .matrix td.plus { background: color-mix(in srgb, var(--plus) var(--share), transparent); }
.study .matrix td.minus { background: color-mix(in srgb, var(--minus) var(--share), transparent); }
"""

_MATRICES = """
<div class="arrays">
{% for caption, rows in matrices %}
<figure class="array">{% if caption %}<figcaption>{{ caption }}</figcaption>{% endif %}
<table class="matrix"><tbody>
{% for row in rows %}
<tr>
{%- for text, kind, share in row -%}
<td{% if kind %} class="{{ kind }}" style="--share: {{ share }}%"{% endif %}>{{ text }}</td>
{%- endfor -%}
</tr>
{% endfor %}
</tbody></table></figure>
{% endfor %}
</div>
"""


def number_format(array: Array, exact: bool = False) -> Callable[[Any], str]:
    """How to write every number of `array` so that they have the same decimals.

    The largest number has `DIGITS` digits, or fewer where the others are zeros; `exact` writes all digits there are.
    """
    if array.dtype.kind != "f":
        return str
    finite = np.abs(array[np.isfinite(array)])
    largest = float(finite.max(initial=0.0))
    if exact:
        decimals = max(
            (len(np.format_float_positional(v, trim="-").partition(".")[2]) for v in finite.ravel()), default=0
        )
    elif largest and not 1e-3 <= largest < 10**DIGITS:
        return lambda v: f"{v:.{DIGITS - 1}e}" if v else "0"
    else:
        decimals = DIGITS - 1 - math.floor(math.log10(largest)) if largest else 1
        decimals = min(decimals, DIGITS)
        decimals = max((len(f"{v:.{decimals}f}".partition(".")[2].rstrip("0")) for v in finite.ravel()), default=0)
    return lambda v: f"{v:.{decimals}f}" if v else "0"


def plain_numbers(value: Any, width: int = 100, exact: bool = False) -> str:
    """An array as NumPy prints it, but with the same decimals everywhere; anything else as Python writes it."""
    if not isinstance(value, np.ndarray):
        return repr(value)
    write = number_format(value, exact)
    wide = max((len(write(v)) for v in value.ravel()), default=0)
    text = np.array2string(
        value,
        formatter={"all": lambda v: write(v).rjust(wide)},
        max_line_width=width,
        threshold=MOST_PLAIN,
        edgeitems=EDGE,
    )
    if value.size == 0:
        return f"no entries, shape {value.shape}"
    return text + (f"\n(the outer {EDGE} of each axis; {value.size:,} entries)" if value.size > MOST_PLAIN else "")


def matrices_html(value: Any, exact: bool = False, caption: str = "") -> Markup:
    """An array as one or more matrices, each entry tinted by its sign and size; anything else as code."""
    if not isinstance(value, np.ndarray):
        return Markup('<p class="number">{}{!r}</p>').format(f"{caption} " if caption else "", value)
    if value.size == 0:
        return Markup('<p class="soft">{} no entries, shape {}</p>').format(caption, str(value.shape))
    write, largest = number_format(value, exact), _largest(value)
    grid = value.reshape(-1, *value.shape[-2:]) if value.ndim > 1 else value.reshape(1, 1, -1)
    places = list(np.ndindex(value.shape[:-2]))
    matrices: list[tuple[str, list[list[tuple[str, str, int]]]]] = []
    for number in _shown(len(grid)):
        if number is None:
            matrices.append((f"… {len(grid):,} matrices", []))
            continue
        where = f"[{', '.join(map(str, places[number]))}]" if value.ndim > 2 else ""
        rows = [
            [("…", "", 0) if i is None or j is None else _cell(grid[number][i, j], write, largest) for j in columns]
            for columns in [_shown(grid.shape[2])]
            for i in _shown(grid.shape[1])
        ]
        matrices.append((f"{caption} {where}".strip(), rows))
    return Markup(_template().render(matrices=matrices))


@functools.cache
def _template() -> Template:
    return templates().from_string(_MATRICES)


def _shown(count: int) -> list[int | None]:
    """The numbers of the rows that are shown; None for those left out."""
    if count <= MOST:
        return list(range(count))
    return [*range(EDGE), None, *range(count - EDGE, count)]


def _largest(value: Array) -> float:
    if value.dtype.kind != "f":
        return 0.0
    return float(np.abs(value[np.isfinite(value)]).max(initial=0.0))


def _cell(number: Any, write: Callable[[Any], str], largest: float) -> tuple[str, str, int]:
    """(text, class, tint in percent) of one entry."""
    text = write(number).replace("-", "−")
    if not largest or not np.isfinite(number) or number == 0:
        return text, "", 0
    return text, "plus" if number > 0 else "minus", round(4 + 22 * abs(float(number)) / largest)
