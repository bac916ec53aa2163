"""Forms of English words, from the table of the package lemminflect (MIT): questions with one right answer.

The table has a line for each word and part of speech, as ``write,verb,wrote,written,writing,writes``; forms of equal
standing are divided by "/", and an empty past participle is the past tense again. Only this file is read.
"""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Container, Sequence
from pathlib import Path
from typing import NamedTuple

from tinygrad_llm import random
from tinygrad_llm.data.corpus import default_corpus
from tinygrad_llm.data.document import DataError
from tinygrad_llm.data.example_sets import ExampleSet
from tinygrad_llm.data.packages import package_file

TRAINING, HELD_OUT = 500, 200
"""Words to train on, and others to measure with."""

COMMON = 3
"""How often the documentation has a word that is asked for, at least."""

SHORTEST, LONGEST = 3, 10
"""Letters of a word."""

QUESTIONS = {
    "past tense": ("What is the past tense of {}?", "Give the past tense of the verb {}."),
    "past participle": ("What is the past participle of {}?", "Give the past participle of the verb {}."),
    "present participle": ("What is the -ing form of {}?", "Give the present participle of the verb {}."),
    "third person": ("What is the third person singular of {}?", "Complete with the verb {}: he ..."),
    "plural": ("What is the plural of {}?", "Give the plural of the noun {}."),
    "comparative": ("What is the comparative of {}?", "Give the comparative of the adjective {}."),
    "superlative": ("What is the superlative of {}?", "Give the superlative of the adjective {}."),
}
ANSWERS = {
    "past tense": "I {}",
    "past participle": "I have {}",
    "present participle": "I am {}",
    "third person": "he {}",
    "plural": "two {}",
    "comparative": "it is {}",
    "superlative": "the {}",
}
"""Forms as they are taught, and after a space, as the word in a question: so most are one token, which a model knows
from all that it has read. At the beginning of an answer or after a quotation mark "underscored" is four."""

FORMS = {
    "verb": ("past tense", "past participle", "present participle", "third person"),
    "noun": ("plural",),
    "adj": ("comparative", "superlative"),
}
ENDINGS = {
    "past tense": "ed",
    "past participle": "ed",
    "present participle": "ing",
    "third person": "s",
    "plural": "s",
    "comparative": "er",
    "superlative": "est",
}


class Inflection(NamedTuple):
    """A word, what is asked for, the right form, and forms that are wrong."""

    word: str
    kind: str
    right: str
    wrong: tuple[str, ...]


def table_file() -> Path:
    """The table in the installed package; FileNotFoundError says how to install it."""
    return package_file("inflections", "lemminflect", "0.2.3", "lemminflect/resources/infl_lu.csv.gz")


def read_inflections(path: Path) -> list[Inflection]:
    """The forms of plain English words, in their order; of a word that has a form in two spellings, none."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [line.rstrip("\n").split(",") for line in file]
    found = []
    for word, part, *listed in sorted(rows):
        kinds = FORMS.get(part, ())
        if not (plain(word) and SHORTEST <= len(word) <= LONGEST and all(plain(form) for form in listed if form)):
            continue
        forms = dict(zip(kinds, listed, strict=False))
        if part == "verb" and not forms.get("past participle"):
            forms["past participle"] = forms.get("past tense", "")
        for kind, right in forms.items():
            if right and not (kind == "plural" and right == word):  # those are what has no plural
                found.append(Inflection(word, kind, right, wrong_forms(word, kind, forms)))
    return found


def plain(text: str) -> bool:
    """Whether it is a word of small letters of English."""
    return text.isascii() and text.isalpha() and text.islower()


def wrong_forms(word: str, kind: str, forms: dict[str, str]) -> tuple[str, ...]:
    """What one may write who knows the endings but not their rules, or takes another form of the word.

    The ending as it is ("goed", "stoped", "makeing"), after a doubled letter ("walkked"), after a "y" become "i"
    ("plaied"), as "es" ("cates"); and the other forms. A doubled "l", "m" or "s" would be right in some countries.
    """
    ending = ENDINGS[kind]
    made = [word + ending, *forms.values()]
    if ending == "s":
        made.append(f"{word}es")
    elif word[-1] not in "aeiloumswxy":
        made.append(word + word[-1] + ending)
    if word.endswith("y"):
        made.append(f"{word[:-1]}i{'e' * (ending == 's')}{ending}")
    return tuple(form for form in dict.fromkeys(made) if form and form != forms[kind])


def common_words() -> frozenset[str]:
    """Words that the default corpus, Python's documentation, has several times: a table of all words has many that
    nobody knows, and whose forms nobody could tell."""
    counts: Counter[str] = Counter()
    for document in default_corpus():
        counts.update(re.findall(r"\b[a-z]+\b", document.text))
    return frozenset(word for word, count in counts.items() if count >= COMMON)


def chosen_inflections(
    seed: int,
    path: Path | None = None,
    training: int = TRAINING,
    held_out: int = HELD_OUT,
    words: Container[str] | None = None,
) -> tuple[list[Inflection], list[Inflection]]:
    """(training, held out): of so many words, which are among `words`, one form each. No word is on both sides; each
    kind of form is as likely as the others, as far as there are words that have it. DataError if there are not so many.
    """
    groups: dict[str, list[Inflection]] = {kind: [] for kind in QUESTIONS}
    for each in read_inflections(table_file() if path is None else path):
        if words is None or each.word in words:
            groups[each.kind].append(each)
    left = [
        [group[place] for place in random.stream(seed, "inflections", kind).permutation(len(group))]
        for kind, group in groups.items()
        if group
    ]
    turns = random.stream(seed, "inflections")
    taken: dict[str, Inflection] = {}
    while left and len(taken) < training + held_out:
        group = left[int(turns.integers(len(left)))]
        each = group.pop()
        taken.setdefault(each.word, each)
        left = [group for group in left if group]
    if len(taken) < training + held_out:
        raise DataError(f"inflections: {len(taken):,} words with one right form; {training + held_out:,} are needed")
    chosen = list(taken.values())
    return chosen[:training], chosen[training:]


def asked(each: Inflection, seed: int) -> str:
    """The question after a form."""
    forms = QUESTIONS[each.kind]
    return forms[int(random.stream(seed, "question", each.word, each.kind).integers(len(forms)))].format(each.word)


def answered(each: Inflection, form: str) -> str:
    """The answer that says a form, right or wrong."""
    return ANSWERS[each.kind].format(form)


def inflection_examples(seed: int = 0) -> ExampleSet:
    """{instruction, output}: what a form of a word is. See `chosen_inflections`."""

    def examples(some: Sequence[Inflection]) -> list[dict[str, str]]:
        return [{"instruction": asked(each, seed), "output": answered(each, each.right)} for each in some]

    training, held_out = chosen_inflections(seed, words=common_words())
    return ExampleSet(examples(training), examples(held_out), ["no word is on both sides, in whatever form"])


def wrong_inflection_examples(seed: int = 0) -> ExampleSet:
    """{prompt, chosen, rejected}: the questions of `inflection_examples`, the right form, and a wrong one by chance."""

    def examples(some: Sequence[Inflection]) -> list[dict[str, str]]:
        return [
            {
                "prompt": asked(each, seed),
                "chosen": answered(each, each.right),
                "rejected": answered(each, mistaken(each, seed)),
            }
            for each in some
        ]

    training, held_out = chosen_inflections(seed, words=common_words())
    return ExampleSet(examples(training), examples(held_out), ["no word is on both sides, in whatever form"])


def mistaken(each: Inflection, seed: int) -> str:
    """One of its wrong forms, of which each has one at least."""
    return each.wrong[int(random.stream(seed, "mistake", each.word, each.kind).integers(len(each.wrong)))]
