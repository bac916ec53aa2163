"""A derivation as HTML: for a notebook, a page of its own, and the book of all gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from tinygrad_llm.checking import Step
from tinygrad_llm.study.derivations.derivation import TOLERANCE, Derivation, GradientSteps
from tinygrad_llm.study.derivations.text_form import agreement, jacobian_caption, reason, worth_showing
from tinygrad_llm.study.notation.numbers import MATRIX_STYLE, matrices_html
from tinygrad_llm.study.notation.prose import docstring_html, highlight, html_sentence, source_of
from tinygrad_llm.study.page import page, shape_text, templates

DERIVATION_STYLE = (
    MATRIX_STYLE
    + """
.study .steps { list-style: none; margin: 0; padding: 0; counter-reset: step; }
.study .steps > li { counter-increment: step; position: relative; padding: 0 0 1.1em 2.6em; margin: 0; }
.study .steps > li::before { content: counter(step); position: absolute; left: 0; top: 0.1em; width: 1.6em;
  height: 1.6em; border: 1px solid var(--line); border-radius: 50%; text-align: center; font-size: 0.85em;
  line-height: 1.6em; background: var(--card); color: var(--accent); font-weight: 650; }
.study .steps > li:not(:last-child)::after { content: ""; position: absolute; left: 0.7em; top: 1.9em; bottom: -0.1em;
  border-left: 1px solid var(--line); }
.study .steps p { margin: 0; line-height: 1.9; }
.study .steps .agreement { font-size: 0.86em; line-height: 1.5; }
.study .between summary { cursor: pointer; color: var(--soft); font-size: 0.9em; }
.study .doc { font-size: 1.02em; }
.study .doc p { line-height: 1.75; margin: 0.8em 0; }
.study .drawn { display: flex; flex-wrap: wrap; gap: 0 2.4em; }
.study .drawn > div { max-width: 100%; }
.study h3.gradient { margin: 2em 0 0.9em; }
"""
)

_DERIVATION = """
<h2>The numbers</h2>
{% for note in notes %}<p class="soft">{{ note }}</p>{% endfor %}
<div class="drawn">
{% for part in drawn %}<div>{{ part }}</div>{% endfor %}
</div>
{% for gradient, jacobian, steps in gradients %}
<h2 class="gradient" id="gradient-{{ gradient.input }}">The gradient of <code>{{ gradient.input }}</code></h2>
<ol class="steps">
{% for sentence, named, numbers, agreement, good in steps %}
<li><p>{{ sentence }}</p>
{{ named }}
{% if loop.first %}{{ jacobian }}{% endif %}
{{ numbers }}
{% if not loop.first %}<p class="agreement {{ 'good' if good else 'bad' }}">{{ agreement }}</p>{% endif %}
</li>
{% endfor %}
</ol>
{% endfor %}
"""


def steps_html(derivation: Derivation) -> Markup:
    """The drawn numbers, and the steps of each gradient."""
    drawn = []
    for name, value in derivation.named_inputs:
        drawn += _named(name, value, derivation.exact)
    for name, value in derivation.options.items():
        if isinstance(value, np.ndarray):
            drawn += _named(name, value, derivation.exact)
    drawn += [*_named(derivation.call, derivation.value, False), *_named("dy", derivation.dy, derivation.exact)]
    gradients = [(g, _jacobian(g), [_step(g, step) for step in g.steps]) for g in derivation.gradients]
    text = templates().from_string(_DERIVATION).render(notes=derivation.notes, drawn=drawn, gradients=gradients)
    return Markup(text)


def derivation_html(derivation: Derivation, links: Mapping[str, str] | None = None) -> Markup:
    """The whole derivation: docstring, numbers, steps, and the lines of the vjp."""
    doc = docstring_html(derivation.operation.__doc__ or "", links, lead=True)
    return Markup('<h1>{}</h1>\n<div class="doc">{}</div>\n{}\n<h2>The lines of vjp</h2>\n{}').format(
        derivation.operation.name, doc, steps_html(derivation), highlight(source_of(derivation.vjp))
    )


def derivation_page(derivation: Derivation) -> str:
    """A whole HTML file with the derivation."""
    return page(f"{derivation.operation.name}: its derivation", derivation_html(derivation), DERIVATION_STYLE)


def _named(name: str, value: Any, exact: bool) -> list[Markup]:
    """One array as a captioned figure; several for a tuple of them."""
    if isinstance(value, tuple) and any(isinstance(v, np.ndarray) for v in value):
        return [part for i, each in enumerate(value) for part in _named(f"{name}[{i}]", each, exact)]
    if not isinstance(value, np.ndarray | np.generic):
        return [Markup("<p><code>{} = {!r}</code></p>").format(name, value)]
    array = np.asarray(value)
    head = Markup('<p><code>{}</code> <span class="soft">{}</span></p>').format(name, shape_text(array))
    return [head + matrices_html(array, exact)]


def _step(gradient: GradientSteps, step: Step) -> tuple[Markup, Markup, Markup, str, bool]:
    """(sentence, intermediate results, numbers, comparison with the step before, whether they agree)."""
    good = step.change <= TOLERANCE
    return html_sentence(reason(step)), _between(step), _values(gradient.name, step.value), agreement(step), good


def _between(step: Step) -> Markup:
    """The intermediate results of a step, folded."""
    shown = worth_showing(step)
    if not shown:
        return Markup("")
    parts = Markup("").join(part for name, value in shown.items() for part in _named(name, value, False))
    names = Markup(", ").join(Markup("<code>{}</code>").format(name) for name in shown)
    return Markup('<details class="between"><summary>with {}</summary><div class="drawn">{}</div></details>').format(
        names, parts
    )


def _jacobian(gradient: GradientSteps) -> Markup:
    if gradient.jacobian is None:
        return Markup("")
    return Markup('<p class="soft agreement">{}:</p>{}<p class="soft agreement">summed with dy:</p>').format(
        jacobian_caption(gradient), matrices_html(gradient.jacobian)
    )


def _values(name: str, value: Any) -> Markup:
    if not isinstance(value, tuple):
        return matrices_html(np.asarray(value))
    figures = [matrices_html(np.asarray(v), caption=f"{name}[{i}]") for i, v in enumerate(value)]
    return Markup('<div class="drawn">{}</div>').format(Markup("").join(figures))
