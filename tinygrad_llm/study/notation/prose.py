"""Text with formulas, and source code, as HTML and for the terminal: what all studies show of an operation.

Docstrings put formulas and code in ``double`` backticks and names in `single` ones; the sentences of derivations, which
have no names to quote, put formulas in `single` backticks. What stands in a formula's place is code, and left as it is,
if it holds a quote, an ``@``, a colon, or a dot between letters (as in ``np.add.at``); everything else is a formula and
should be in the house notation (`formulas.py`). If it is not, in an operation of the user's, it is shown as code too.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from tinygrad_llm.operation import Operation
from tinygrad_llm.study.notation.formulas import parse
from tinygrad_llm.study.notation.typesetting import mathml, terminal

_CODE = re.compile(r"[\"'][\w.,> -]*[\"']|[@:]|[A-Za-z]\.[A-Za-z]")
_DOCUMENTED = re.compile(r"``(?P<formula>.+?)``|`(?P<name>[^`]+)`|arXiv:(?P<paper>\d{4}\.\d{4,5})", re.DOTALL)
_LEAD = re.compile(r"``(.+?)``[,.:;]?\s*", re.DOTALL)
_PUNCTUATED = re.compile(r"\(?<math\b(?:(?!</math>).)*</math>[.,:;)]+|\(<math\b(?:(?!</math>).)*</math>", re.DOTALL)
_BLOCK_GAP = re.compile(r",?\s{2,}")


def is_code(span: str) -> bool:
    """Whether a quoted span is code rather than a formula."""
    return bool(_CODE.search(span))


def sentence_formulas(text: str) -> list[str]:
    """The formulas in a sentence of a derivation."""
    return [span for span in text.split("`")[1::2] if not is_code(span)]


def docstring_formulas(doc: str) -> list[str]:
    """The formulas in a docstring: in its text, and in the blocks that follow ``::``."""
    found = []
    for block, text in _paragraphs(doc):
        spans = _BLOCK_GAP.split(text) if block else [m["formula"] for m in _DOCUMENTED.finditer(text) if m["formula"]]
        found += [" ".join(span.split()) for span in spans]
    return [span for span in found if not is_code(span)]


# ---------------------------------------------------------------------------------------------------------------------
# Sentences of derivations


def html_sentence(text: str) -> Markup:
    """A sentence of a derivation with its formulas as MathML."""
    pieces = text.split("`")
    return kept(Markup().join(formula_html(p) if i % 2 else escape(p) for i, p in enumerate(pieces)))


def plain_sentence(text: str, space: str = " ") -> str:
    """A sentence of a derivation with its formulas in Unicode; in short ones `space` stands for each space."""
    pieces = text.split("`")
    pieces[1::2] = [f.replace(" ", space) if len(f) < 50 else f for f in map(formula_text, pieces[1::2])]
    return "".join(pieces)


def kept(text: Markup) -> Markup:
    """HTML in which no line ends between a formula and the brackets and stops that touch it."""
    return Markup(_PUNCTUATED.sub(lambda match: f'<span class="kept">{match[0]}</span>', text))


def formula_html(span: str, display: bool = False) -> Markup:
    """What is quoted in a text: a formula as MathML, code as code."""
    span = " ".join(span.split())
    try:
        return Markup("<code>{}</code>").format(span) if is_code(span) else mathml(span, display)
    except ValueError:
        return Markup("<code>{}</code>").format(span)


def formula_text(span: str) -> str:
    """What is quoted in a text: a formula in Unicode, code as it is."""
    span = " ".join(span.split())
    try:
        return span if is_code(span) else terminal(parse(span))
    except ValueError:
        return span


# ---------------------------------------------------------------------------------------------------------------------
# Docstrings


def docstring_html(doc: str, links: Mapping[str, str] | None = None, lead: bool = False) -> Markup:
    """A docstring as paragraphs and displayed formulas; names in `links` (name to address) become links.

    With `lead`, the formula with which the docstring begins stands by itself above the text.
    """
    parts = []
    if lead and (match := _LEAD.match(inspect.cleandoc(doc))) and not is_code(match[1]):
        parts.append(Markup('<div class="lead-formula">{}</div>').format(formula_html(match[1], display=True)))
        doc = inspect.cleandoc(doc)[match.end() :]
    for block, text in _paragraphs(doc):
        if not block:
            parts.append(Markup("<p>{}</p>").format(_prose(text, links or {})))
            continue
        spans = [formula_html(span, display=True) for span in _BLOCK_GAP.split(text)]
        cells = Markup("").join(Markup("<div>{}</div>").format(span) for span in spans)
        parts.append(Markup('<div class="formulas">{}</div>').format(cells))
    return Markup("\n").join(parts)


def plain_docstring(doc: str) -> str:
    """A docstring for the terminal: formulas in Unicode, the backticks gone, each paragraph on one line."""
    parts = []
    for block, text in _paragraphs(doc):
        if block:
            parts.append("\n".join("    " + formula_text(span) for span in _BLOCK_GAP.split(text)))
        else:
            parts.append(
                " ".join(
                    _DOCUMENTED.sub(
                        lambda m: formula_text(m["formula"]) if m["formula"] else m["name"] or m[0], text
                    ).split()
                )
            )
    return "\n\n".join(parts)


def first_formula(doc: str) -> str:
    """The first formula of a docstring, or code in a formula's place; empty if there is none."""
    match = re.search(r"``(.+?)``", doc, re.DOTALL)
    return " ".join(match[1].split()) if match else ""


def _paragraphs(doc: str) -> Iterator[tuple[bool, str]]:
    """(is a block of formulas, text) for each paragraph; the lines of a block are one."""
    blocks = False
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(doc)):
        lines = paragraph.rstrip()
        if blocks and lines.startswith(" "):
            yield True, "     ".join(line.strip() for line in lines.splitlines())
            continue
        blocks = lines.endswith("::")
        yield False, lines.removesuffix(":") if blocks else lines


def _prose(text: str, links: Mapping[str, str]) -> Markup:
    parts, end = [], 0
    for match in _DOCUMENTED.finditer(text):
        parts += [escape(text[end : match.start()]), _quoted(match, links)]
        end = match.end()
    return kept(Markup("").join([*parts, escape(text[end:])]))


def _quoted(match: re.Match[str], links: Mapping[str, str]) -> Markup:
    if match["formula"]:
        return formula_html(match["formula"])
    if match["paper"]:
        return Markup('<a href="https://arxiv.org/abs/{0}">arXiv:{0}</a>').format(match["paper"])
    code = Markup("<code>{}</code>").format(match["name"])
    address = links.get(match["name"])
    return Markup('<a href="{}">{}</a>').format(address, code) if address else code


# ---------------------------------------------------------------------------------------------------------------------
# Source code


def highlight(code: str) -> Markup:
    """Python code in colours, in a ``pre`` of the class ``source``."""
    from pygments import highlight as colour  # type: ignore[import-untyped]
    from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]
    from pygments.lexers import PythonLexer  # type: ignore[import-untyped]

    return Markup(f'<pre class="source">{colour(code, PythonLexer(), HtmlFormatter(nowrap=True))}</pre>')


def source_of(function: Callable[..., Any]) -> str:
    """The lines of a function, dedented; a note where Python does not know them (typed at a prompt)."""
    try:
        return textwrap.dedent(inspect.getsource(inspect.unwrap(function))).rstrip()
    except (OSError, TypeError):
        return f"# the source of {getattr(function, '__name__', 'this function')} is not in a file"


def vjps(operation: Operation) -> list[Callable[..., Any]]:
    """The vjps that the operation's samples lead to: one for most operations, several where it has several forms."""
    found: dict[Any, Callable[..., Any]] = {}
    for number in range(len(operation.sample)):
        inputs, options = operation.sample.draw(np.random.default_rng(0), number)
        vjp = operation.reference(*inputs, **options)[1]
        found.setdefault(getattr(vjp, "__code__", vjp), vjp)
    return list(found.values())


def vjp_source(operation: Operation) -> str:
    """The lines of the operation's vjp; of every one, if it has several forms."""
    return "\n\n".join(map(source_of, vjps(operation))) or "# no sample: the vjp is inside the forward function"


def forward_source(operation: Operation) -> str:
    """The lines of the operation's NumPy forward, without its docstring and its vjp, which are shown by themselves."""
    names = {operation.reference.__name__: operation.reference}
    module = inspect.getmodule(operation.reference)
    for vjp in vjps(operation):  # the functions which hold the vjps, where these are not the reference itself
        name = getattr(vjp, "__qualname__", "").partition(".")[0]
        if inspect.isfunction(holder := getattr(module, name, None)):
            names.setdefault(name, holder)
    return "\n\n\n".join(_without_vjp(source_of(function)) for function in names.values())


def _without_vjp(source: str) -> str:
    lines = source.splitlines()
    function = next((n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)), None)
    if function is None:
        return source
    hidden: set[int] = set()
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and len(function.body) > 1:
        hidden |= set(range(first.lineno, function.body[1].lineno)) - _comments(lines)
    for node in function.body:
        if isinstance(node, ast.FunctionDef) and node.name == "vjp":
            hidden |= set(range(node.lineno, (node.end_lineno or node.lineno) + 2))  # and the empty line after it
    return "\n".join(line for number, line in enumerate(lines, 1) if number not in hidden).rstrip()


def _comments(lines: list[str]) -> set[int]:
    return {number for number, line in enumerate(lines, 1) if line.strip().startswith("#")}
