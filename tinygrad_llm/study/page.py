"""The look of everything that is shown as HTML: one style sheet, light and dark, and the shell of a page.

A page is one self-contained file: no network, no fonts or scripts from elsewhere. Inside a notebook the same fragments
stand without the shell, each in an element of the class ``study``, to which every rule of the style sheet is confined.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from jinja2 import Environment
from markupsafe import Markup

from tinygrad_llm.tape import Array

STYLE = """
.study {
  --paper: #fdfcf9; --card: #ffffff; --ink: #1d2330; --soft: #5b6476; --line: #dfe2e8; --accent: #2f5fd0;
  --mark: #fff3c4; --good: #1a7f4b; --bad: #b3261e; --plus: #c2571a; --minus: #2f5fd0; --zero: #f4f4f2;
  --word: #8b2fa8; --constant: #a8500f; --text: #22733f;
  color: var(--ink); background: var(--paper); color-scheme: light dark; line-height: 1.5;
  font-family: system-ui, "Segoe UI", "Helvetica Neue", "DejaVu Sans", sans-serif;
}
@media (prefers-color-scheme: dark) {
  .study {
    --paper: #14171d; --card: #1c2028; --ink: #e7eaf0; --soft: #9aa4b5; --line: #323846; --accent: #8fb0ff;
    --mark: #4a4120; --good: #62c795; --bad: #ff8a80; --plus: #f0955a; --minus: #7fa6ff; --zero: #23272f;
    --word: #d4a1f0; --constant: #f0b37a; --text: #93d3a2;
  }
}
.study code, .study pre, .study .number {
  font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: 0.9em;
}
.study pre {
  background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 0.8em 1em; overflow-x: auto;
}
.study a { color: var(--accent); }
.study h1, .study h2, .study h3 { line-height: 1.2; font-weight: 650; }
.study .soft { color: var(--soft); }
.study .good { color: var(--good); }
.study .bad { color: var(--bad); }
.study table { border-collapse: collapse; }
.study td, .study th { padding: 0.2em 0.7em; text-align: right; border-bottom: 1px solid var(--line); }
.study th { color: var(--soft); font-weight: 600; }
.study .scroll { overflow-x: auto; }
.study math { font-family: "STIX Two Math", "Cambria Math", "Latin Modern Math", "DejaVu Math TeX Gyre", math; }
.study .steps p math, .study .lead-formula math { math-style: normal; }
.study .lead-formula { font-size: 1.35em; margin: 0.9em 0; overflow-x: auto; overflow-y: hidden; }
.study .formulas { display: flex; flex-wrap: wrap; align-items: center; gap: 0.6em 2.5em; margin: 0.8em 1.5em;
  padding: 0.2em 0; overflow-x: auto; overflow-y: hidden; }
.study .kept { white-space: nowrap; }
.study .source .k, .study .source .kn, .study .source .ow { color: var(--word); }
.study .source .kc, .study .source .mi, .study .source .mf { color: var(--constant); }
.study .source .nf, .study .source .nd, .study .source .nc { color: var(--accent); }
.study .source .s1, .study .source .s2, .study .source .sd, .study .source .sa, .study .source .si,
.study .source .se { color: var(--text); }
.study .source .c1, .study .source .ch { color: var(--soft); font-style: italic; }
.study :focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
"""

_SHELL = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>body { margin: 0; } body > main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
{{ style }}</style>
</head>
<body class="study">
<main>
{{ body }}
</main>
</body>
</html>
"""


def templates() -> Environment:
    """Where templates come from. Everything put into one is escaped unless it is Markup already."""
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)


def page(title: str, body: Markup, style: str = "") -> str:
    """A whole HTML file around `body`; `style` adds rules to the common ones."""
    return templates().from_string(_SHELL).render(title=title, body=body, style=Markup(STYLE + style))


def fragment(body: Markup, style: str = "") -> str:
    """`body` for a notebook's cell, with the style it needs."""
    return f'<div class="study"><style>{STYLE}{style}</style>{body}</div>'


def json_in_script(data: dict[str, Any]) -> Markup:
    """JSON that can stand inside a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def short(number: float, digits: int = 4) -> str:
    """A number as one would write it on paper: at most so many significant digits, and no exponent if it is near 1."""
    if not np.isfinite(number):
        return str(number)
    text = f"{number:.{digits}g}"
    return "0" if float(text) == 0 else text


def shape_text(array: Array) -> str:
    """``(2, 3)``, or "a number"."""
    return str(array.shape) if array.ndim else "a number"
