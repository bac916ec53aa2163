"""A docstring without what it tells of the gradient: for those who want to find that themselves.

A sentence goes if it names a gradient or a cotangent, and so does a line of a block of formulas, or the whole block if
the sentence before it went; and then what refers back to it.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator

_TELLS = re.compile(
    r"(?i:\b(gradients?|cotangents?|vjp|backward|derivatives?|slopes?|each way|either direction)\b)|np\.|∂|u'"
    r"|(?<![\w-])(?!do\b|go\b)[dg]([a-zA-Z]|gain|bias|weight|logits|scores)(?![a-zA-Z0-9])"
)
_REFERS_BACK = re.compile(
    r"(The (sum|two means|\w+ has none)|Two cases|At the kink|Saves (that|where)|which|where|both|all three)\b"
)
_AFRESH = re.compile(r"(Numerics|Cost|Source|Raises|Saves)\b")
WIDTH = 112


def without_gradients(doc: str) -> str:
    """`doc`, dedented, without the sentences and blocks that tell the gradient."""
    parts: list[str] = []
    cut = False  # whether the sentence before was
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(doc)):
        kept = []
        for unit in _units(paragraph):
            text, cut = _shortened(unit, cut)
            kept += [text] if text else []
        if kept:
            parts.append("\n".join(kept))
    return "\n\n".join(filter(None, map(_ending, parts, [*parts[1:], ""])))


def tells(text: str) -> bool:
    """Whether a text names a gradient, a cotangent or a derivative."""
    return bool(_TELLS.search(text))


def _ending(part: str, following: str) -> str:
    """`part` without a last sentence that announces a block of formulas which is gone."""
    if not part.endswith("::") or following.startswith(" "):
        return part
    return textwrap.fill(" ".join(list(_sentences(part))[:-1]), WIDTH, break_on_hyphens=False)


def _units(paragraph: str) -> Iterator[str]:
    """A block of formulas, a paragraph, or each item of a list whose items are indented below their first line."""
    lines = paragraph.splitlines()
    starts = [i for i, line in enumerate(lines) if not line.startswith(" ")]
    if len(starts) in (0, len(lines)):
        yield paragraph
        return
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        yield "\n".join(lines[start:end])


def _shortened(unit: str, cut: bool) -> tuple[str, bool]:
    """(what is left, whether its end was cut), given whether what stands before was."""
    if unit.startswith(" "):
        kept = [line for line in unit.splitlines() if not tells(line)]
        told = len(kept) < len(unit.splitlines())
        return ("", True) if told and cut else ("\n".join(kept), told)
    sentences = list(_sentences(unit))
    kept = []
    referred = False  # whether this paragraph explains the gradient
    for sentence in sentences:
        referred = (referred and not _AFRESH.match(sentence)) or (cut and bool(_REFERS_BACK.match(sentence)))
        cut = tells(sentence) or referred
        kept += [] if cut else [sentence]
    if len(kept) == len(sentences):
        return unit, cut
    hanging = "    " if "\n " in unit else ""
    return textwrap.fill(" ".join(kept), WIDTH, subsequent_indent=hanging, break_on_hyphens=False), cut


def _sentences(text: str) -> Iterator[str]:
    """The sentences of a text; a full stop in a formula ends none."""
    text = " ".join(text.split())
    start = 0
    for match in re.finditer(r"``.*?``|[.:]\)? (?=[A-Z`(])", text):
        before = text[start : match.end()].rstrip()
        if match[0].startswith("`") or (match[0][0] == ":" and not before.endswith("::")):
            continue
        yield before
        start = match.end()
    yield text[start:]
