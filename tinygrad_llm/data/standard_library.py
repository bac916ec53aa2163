"""Examples from the docstrings of the standard library: texts with the module they are from, questions with answers.

What they hold depends a little on the version of Python; on one version they are the same each time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from tinygrad_llm import random
from tinygrad_llm.data.corpus import Docstring, library_docstrings
from tinygrad_llm.data.document import DataError
from tinygrad_llm.data.example_sets import ExampleSet, divided
from tinygrad_llm.data.tables import stratified_places

LEAST, MOST = 15, 160
"""Characters of a text that says something, and of an answer that is one line."""

HELD_OUT = 0.2

FUNCTION = "What does `{}` do?", "Describe `{}` in one line.", "What is `{}` for?", "In one line: what does `{}` do?"
OTHER = "What is `{}`?", "Describe `{}` in one line.", "What is `{}` for?", "In one line: what is `{}`?"
"""How it is asked for a function, and for a class or a module."""


def module_examples(classes: int = 10, seed: int = 0, docstrings: Iterable[Docstring] | None = None) -> ExampleSet:
    """{text, label}: the first paragraph of a docstring, and which of the largest modules or packages it is from.

    Left out is what names its own module, in any part of a word, so that it need only be read; and what stands in
    several modules. Texts that differ in signs, digits or capitals only count as one; modules whose name begins with an
    underscore, which nobody imports, as none. DataError if there are not so many.
    """
    named = repeated = 0
    found: dict[str, dict[str, str]] = {}
    for each in library_docstrings() if docstrings is None else docstrings:
        label, text = each.module.partition(".")[0], first_paragraph(each.text)
        if len(text) < LEAST or label.startswith("_"):
            continue
        if names(text, label):
            named += 1
            continue
        known = found.setdefault(essence(text), {})
        repeated += bool(known)
        known.setdefault(label, text)
    single = [(text, label) for known in found.values() if len(known) == 1 for label, text in known.items()]
    largest = [label for label, _ in Counter(label for _, label in single).most_common(classes)]
    if len(largest) < classes:
        raise DataError(f"this Python has docstrings in {len(largest)} modules, not in {classes}")
    examples = [{"text": text, "label": label} for text, label in single if label in largest]
    held_out = set(stratified_places([example["label"] for example in examples], HELD_OUT, seed))
    notes = [
        f"left out {named:,} docstrings that name their own module",
        f"left out {repeated:,} that are repeated, and all that stand in several modules",
        f"classes: {', '.join(largest)}",
    ]
    order = random.stream(seed, "order").permutation(len(examples))
    training = [examples[place] for place in order if place not in held_out]
    return ExampleSet(training, [examples[place] for place in order if place in held_out], notes)


class Described(NamedTuple):
    """Something of the standard library, and the line that says what it is."""

    name: str
    line: str
    is_function: bool

    @property
    def module(self) -> str:
        """The package or module to import."""
        return self.name.partition(".")[0]


def described(docstrings: Iterable[Docstring] | None = None) -> list[Described]:
    """All that is public and whose docstring begins with a paragraph of one line, each name once.

    Not what is defined inside of a function.
    """
    found: dict[str, Described] = {}
    functions: set[str] = set()
    for each in library_docstrings() if docstrings is None else docstrings:
        is_function = each.heading.startswith(("def ", "async def "))
        functions.update([each.name] if is_function else [])
        public = not any(part.startswith("_") for part in each.name.split("."))
        line = each.text.partition("\n\n")[0].strip()
        if public and "\n" not in line and LEAST <= len(line) <= MOST and each.name.rpartition(".")[0] not in functions:
            found.setdefault(each.name, Described(each.name, line, is_function))
    return list(found.values())


def question_examples(seed: int = 0, docstrings: Iterable[Docstring] | None = None) -> ExampleSet:
    """{instruction, output}: what something of the standard library does, and the first line of its docstring.

    No line that is held out is trained on, under whatever name. The words of the question are chosen by chance.
    """
    items = described(docstrings)
    training, held_out = (
        [{"instruction": asked(item, seed), "output": item.line} for item in shuffled(part, seed)]
        for part in divided(items, [essence(item.line) for item in items], HELD_OUT / 2, seed)
    )
    return ExampleSet(training, held_out, ["no answer is on both sides"])


def contrast_examples(seed: int = 0, docstrings: Iterable[Docstring] | None = None) -> ExampleSet:
    """{prompt, chosen, rejected}: the question, the right line, and that of something else in the same module.

    The examples are divided as those of `question_examples`, and a rejected line is of the same side as the chosen one.
    What has no other line beside it is left out.
    """
    items = described(docstrings)
    sides = divided(items, [essence(item.line) for item in items], HELD_OUT / 2, seed)
    parts = []
    for side in sides:
        beside: dict[str, list[str]] = {}
        for item in side:
            beside.setdefault(item.module, []).append(item.line)
        examples = []
        for item in shuffled(side, seed):
            others = [line for line in beside[item.module] if essence(line) != essence(item.line)]
            if others:
                other = others[int(random.stream(seed, "rejected", item.name).integers(len(others)))]
                examples.append({"prompt": asked(item, seed), "chosen": item.line, "rejected": other})
        parts.append(examples)
    left = len(items) - sum(map(len, parts))
    return ExampleSet(parts[0], parts[1], [f"left out {left:,} lines that have no other beside them"])


def asked(item: Described, seed: int) -> str:
    """The question after it."""
    forms = FUNCTION if item.is_function else OTHER
    return forms[int(random.stream(seed, "question", item.name).integers(len(forms)))].format(item.name)


def shuffled(items: list[Described], seed: int) -> list[Described]:
    return [items[place] for place in random.stream(seed, "order").permutation(len(items))]


def first_paragraph(text: str) -> str:
    """In one line."""
    return " ".join(text.strip().partition("\n\n")[0].split())


def names(text: str, module: str) -> bool:
    """Whether the text has the module's name: a short one as a word, a long one anywhere."""
    name = re.escape(module)
    return re.search(name if len(module) > 3 else rf"(?<![^\W_]){name}(?![^\W_])", text, re.IGNORECASE) is not None


def essence(text: str) -> str:
    """The letters of a text, by which two are told apart."""
    return " ".join(re.findall(r"[^\W\d_]+", text.lower()))
