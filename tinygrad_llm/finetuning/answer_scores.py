"""How well answers match what was expected: exact match and token F1, as those of SQuAD.

Both look at an answer without capitals, without punctuation, without the articles a, an and the, and with one space
between words. Source: Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

ARTICLES = "a", "an", "the"


def words_of(text: str) -> list[str]:
    """The words that count. SQuAD takes off ASCII's punctuation, some mathematical signs among it; here that of all
    scripts, and no other sign."""
    kept = "".join(sign for sign in text.lower() if not unicodedata.category(sign).startswith("P"))
    return [word for word in kept.split() if word not in ARTICLES]


class Match(NamedTuple):
    """How well one answer matches: `exact` is 0 or 1; `f1` the harmonic mean of the share of its words that were
    expected, and the share of the expected words that it has."""

    exact: float
    f1: float


def match(answer: str, expected: str) -> Match:
    """Where nothing of either is left to compare, as of a sign alone, the texts themselves are compared."""
    found, wanted = words_of(answer), words_of(expected)
    if not (found and wanted):
        same = float(not found and not wanted and answer.strip() == expected.strip())
        return Match(same, same)
    common = (Counter(found) & Counter(wanted)).total()
    return Match(float(found == wanted), 2 * common / (len(found) + len(wanted)))


def best_match(answer: str, expected: Sequence[str]) -> Match:
    """That with whichever of several expected answers it matches best."""
    matches = [match(answer, one) for one in expected]
    return Match(max(m.exact for m in matches), max(m.f1 for m in matches))


class AnswerScores(NamedTuple):
    """Means over answers, and the standard error of the first."""

    exact_match: float
    token_f1: float
    standard_error: float


def scores_of(matches: Sequence[Match]) -> AnswerScores:
    """Of at least one match."""
    count = len(matches)
    exact = sum(m.exact for m in matches) / count
    return AnswerScores(exact, sum(m.f1 for m in matches) / count, math.sqrt(exact * (1 - exact) / count))
