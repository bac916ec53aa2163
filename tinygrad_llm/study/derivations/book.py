"""The book of all gradients: an index by family and a page for each operation, made from the code."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from tinygrad_llm.files import atomic_write
from tinygrad_llm.operation import Operation
from tinygrad_llm.study.derivations.derivation import Derivation, derive
from tinygrad_llm.study.derivations.html_form import DERIVATION_STYLE, steps_html
from tinygrad_llm.study.notation.prose import (
    docstring_html,
    first_formula,
    formula_html,
    forward_source,
    highlight,
    source_of,
    vjp_source,
)
from tinygrad_llm.study.notation.typesetting import mathml
from tinygrad_llm.study.page import page, templates
from tinygrad_llm.tensor import registry

OPS = "tinygrad_llm.ops."
ORDER = (
    *("arithmetic", "exponential", "piecewise", "reductions", "shapes", "indexing"),
    *("products", "low_rank", "quantized"),
    *(
        "activations",
        "biased_activations",
        "gated",
        "softmaxes",
        "losses",
        "fused_losses",
        "preference",
        "norms",
        "residual_norms",
        "regularization",
        "rotations",
        "recurrent_cells",
        "recurrent",
    ),
    "scaled_attention",
    "attention_bias",
    "projected_attention",
)
"""The modules of operations, in the order in which one would read them."""

BOOK_STYLE = """
.study { font-family: "Iowan Old Style", Charter, "Palatino Linotype", Palatino, Georgia, "DejaVu Serif", serif; }
.study nav, .study .family, .study .signature, .study .contents { font-size: 0.95em;
  font-family: system-ui, "Segoe UI", "Helvetica Neue", "DejaVu Sans", sans-serif; }
.study .source { font-size: 0.78em; line-height: 1.55; }
.study .formula math { math-style: normal; }
.study nav.turn { display: flex; flex-wrap: wrap; gap: 0.2em 1.5em; justify-content: space-between;
  border-bottom: 1px solid var(--line); padding-bottom: 0.6em; margin-bottom: 1.6em; font-size: 0.95em; }
.study nav.turn.foot { border: 0; border-top: 1px solid var(--line); padding: 0.8em 0 0; margin: 3em 0 0; }
.study nav a, .study .contents a { text-decoration: none; }
.study nav a:hover, .study .contents a:hover { text-decoration: underline; }
.study h1 { font-size: 2.1em; margin: 0.2em 0 0.1em; overflow-wrap: anywhere; }
.study h2 { font-size: 1.3em; margin: 2.2em 0 0.6em; padding-top: 0.2em; }
.study .signature { overflow-wrap: anywhere; margin: 0.3em 0 1.2em; }
.study .family { color: var(--soft); margin: 0; font-size: 0.95em; }
.study .contents { list-style: none; margin: 0; padding: 0; border-top: 1px solid var(--line); }
.study .contents li { display: grid; grid-template-columns: 11rem 1fr; gap: 0.3em 1em; align-items: center;
  padding: 0.45em 0.2em; border-bottom: 1px solid var(--line); min-height: 2.2em; }
.study .contents .formula { overflow-x: auto; overflow-y: hidden; padding: 0.15em 0; }
.study .lead { font-size: 1.1em; max-width: 44em; line-height: 1.7; }
.study .symbols { display: grid; grid-template-columns: max-content 1fr; gap: 0.35em 1.2em; margin: 1em 0; }
.study .symbols dd { margin: 0; }
.study .about { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 0.2em 1.2em; }
@media (max-width: 600px) {
  .study .contents li { grid-template-columns: 1fr; gap: 0; }
  .study .formulas { margin-left: 0.4em; margin-right: 0; }
  .study .steps > li { padding-left: 2.1em; }
}
"""

_SYMBOLS = (
    ("dy", "the cotangent of the result: the derivative of the loss by each of its entries; it is given"),
    ("dx", "the gradient of the input x, which the vjp finds; likewise dgain, dweight, ..."),
    ("gx", "the same, where an input is itself called y, whose gradient is then gy"),
    ("∂y_i/∂x_j", "an entry of the Jacobian; i and j number the entries of the result and of the input"),
    ("delta_ij", "1 where i = j, else 0"),
    ("[ids_n = v]", "1 where the condition holds, else 0"),
    ("sum_i x_i", "the sum over all i"),
    ("xhat", "x after normalisation"),
    ("W^T", "W transposed"),
)

_INDEX = """
<h1>The book of all gradients</h1>
<p class="lead">Every operation of <code>tinygrad_llm</code>: its formula, and the derivation of its gradients, from the
definition (the dense Jacobian, summed) to the lines of code that run. The derivations are code themselves: each step
was computed when this page was made, on numbers small enough to redo on paper, and is compared with the step
before.</p>
<h2 id="signs">Signs</h2>
<dl class="symbols">
{% for sign, meaning in symbols %}<dt>{{ sign }}</dt><dd>{{ meaning }}</dd>
{% endfor %}
</dl>
{% for family, entries in families %}
<h2 id="{{ family.key }}">{{ family.title }}</h2>
<ul class="contents">
{% for name, formula in entries %}
<li><a href="{{ name }}.html"><code>{{ name }}</code></a><span class="formula">{{ formula }}</span></li>
{% endfor %}
</ul>
{% endfor %}
"""

_TURN = """
<nav class="turn {{ kind }}" aria-label="{{ 'pages, again' if kind else 'pages' }}">
<span>{% if before %}<a href="{{ before }}.html" rel="prev">← {{ before }}</a>{% endif %}</span>
<a href="index.html">all gradients</a>
<span>{% if after %}<a href="{{ after }}.html" rel="next">{{ after }} →</a>{% endif %}</span>
</nav>
"""

_OPERATION = """
{{ turn }}
<p class="family"><a href="index.html#{{ family.key }}">{{ family.title }}</a></p>
<h1>{{ name }}</h1>
<p class="signature"><code>{{ name }}{{ signature }}</code></p>
<div class="doc">{{ doc }}</div>
{{ steps }}
<h2 id="forward">The forward pass</h2>
{{ forward }}
<h2 id="vjp">The vjp</h2>
{{ vjp }}
<h2 id="code">The derivation as code</h2>
{% for source in derivations %}{{ source }}{% endfor %}
{% if about %}
<h2 id="family">About this family</h2>
<div class="doc about">{{ about }}</div>
{% endif %}
{{ foot }}
"""


@dataclass(frozen=True)
class Family:
    """The operations of one module."""

    key: str
    title: str
    doc: str
    operations: tuple[Operation, ...]


def families(operations: Mapping[str, Operation] = registry) -> list[Family]:
    """The operations by the module they stand in, in the order of the book; the users' own modules come last."""
    modules: dict[str, list[Operation]] = {OPS + name: [] for name in ORDER}
    for operation in operations.values():
        modules.setdefault(operation.__module__, []).append(operation)
    return [_family(module, tuple(members)) for module, members in modules.items() if members]


def _family(module: str, operations: tuple[Operation, ...]) -> Family:
    doc = inspect.cleandoc(getattr(sys.modules.get(module), "__doc__", None) or module)
    title = re.split(r"[:.]\s|[:.]?$", doc.splitlines()[0], maxsplit=1)[0]
    return Family(module.rpartition(".")[2], title, doc, operations)


def write_book(folder: Path, force: bool = False, advance: Callable[[str], object] = lambda name: None) -> list[Path]:
    """Write the book into `folder`, which is made; return the files. `advance` is called before each operation.

    Raises FileExistsError if something is in the folder already, unless `force` is given; then pages are replaced, and
    what else is there is left.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give the name of a folder")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise FileExistsError(f"{folder} is not empty; choose another folder, or replace the book in it with --force")
    groups = families()
    order = [(family, operation) for family in groups for operation in family.operations]
    names = [operation.name for _, operation in order]
    links = {name: f"{name}.html" for name in names}
    pages = {"index": page("The book of all gradients", index_html(groups), BOOK_STYLE)}
    for at, (family, operation) in enumerate(order):
        advance(operation.name)
        around = names[at - 1] if at else "", names[at + 1] if at + 1 < len(names) else ""
        body = operation_html(operation, family, links, *around)
        pages[operation.name] = page(f"{operation.name}: its gradient", body, DERIVATION_STYLE + BOOK_STYLE)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / f"{name}.html" for name in pages]
    for path, text in zip(written, pages.values(), strict=True):
        atomic_write(path, text.encode())
    return written


def index_html(groups: list[Family]) -> Markup:
    """The contents: every family with its operations and their formulas."""
    symbols = [(mathml(sign), meaning) for sign, meaning in _SYMBOLS]
    entries = [(f, [(o.name, formula_html(first_formula(o.__doc__ or ""))) for o in f.operations]) for f in groups]
    return Markup(templates().from_string(_INDEX).render(families=entries, symbols=symbols))


def worked_example(operation: Operation) -> Derivation:
    """The derivation on the first numbers for which no gradient is 0 everywhere."""
    for seed in range(20):
        found = derive(operation, seed=seed)
        if all(any(map(np.any, gradient.result)) for gradient in found.gradients):
            return found
    return derive(operation)


def operation_html(
    operation: Operation, family: Family, links: Mapping[str, str], before: str = "", after: str = ""
) -> Markup:
    """The page of one operation: docstring, worked derivation, and sources."""
    links = {name: address for name, address in links.items() if name != operation.name}
    derivable = len(operation.sample) and operation.derivations
    turn = templates().from_string(_TURN)
    rendered = (
        templates()
        .from_string(_OPERATION)
        .render(
            turn=Markup(turn.render(before=before, after=after, kind="")),
            foot=Markup(turn.render(before=before, after=after, kind="foot")),
            family=family,
            name=operation.name,
            signature=str(inspect.signature(operation.reference)),
            doc=docstring_html(operation.__doc__ or "", links, lead=True),
            steps=steps_html(worked_example(operation)) if derivable else "",
            forward=highlight(forward_source(operation)),
            vjp=highlight(vjp_source(operation)),
            derivations=[highlight(source_of(function)) for function in operation.derivations.values()],
            about=docstring_html(family.doc, links) if len(family.doc.splitlines()) > 1 else "",
        )
    )
    return Markup(rendered)
