"""Sentence similarity: whether sentences that people find alike have vectors that are alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygrad_llm.data import json_value, number_value, read_records, text_value
from tinygrad_llm.tape import Array


class Pair(NamedTuple):
    """Two sentences, and how alike people find them, on any scale."""

    first: str
    second: str
    score: float


def read_pairs(path: str | PathLike[str]) -> list[Pair]:
    """From a file of lines ``sentence <tab> sentence <tab> score``, if its name ends in .tsv, or else of JSON lines
    ``{"sentence1": text, "sentence2": text, "score": number}`` or ``[text, text, number]``. DataError lists all faulty
    lines."""
    return read_records(path, parse_tabs if Path(path).suffix.lower() == ".tsv" else parse_json)


def parse_json(line: str) -> Pair:
    """One line of JSON. ValueError says what is wrong with it."""
    record = json_value(line)
    if isinstance(record, dict):
        record = [record.get(name) for name in ("sentence1", "sentence2", "score")]
    if not isinstance(record, list) or len(record) != 3:
        raise ValueError('neither {"sentence1": text, "sentence2": text, "score": number} nor [text, text, number]')
    first, second, score = record
    return Pair(_sentence(first, "sentence1"), _sentence(second, "sentence2"), number_value(score, "score"))


def parse_tabs(line: str) -> Pair:
    """One line with tabs. ValueError says what is wrong with it."""
    fields = line.split("\t")
    if len(fields) != 3:
        raise ValueError(f"{len(fields)} fields between tabs; it must have three: sentence, sentence, score")
    try:
        score = float(fields[2])
    except ValueError:
        raise ValueError(f"the score is {json.dumps(fields[2][:40])}, not a number") from None
    return Pair(
        _sentence(fields[0], "the first sentence"),
        _sentence(fields[1], "the second sentence"),
        number_value(score, "the score"),
    )


def _sentence(value: Any, name: str) -> str:
    text = text_value(value, name)
    if not text.strip():
        raise ValueError(f"{name} is empty")
    return text


def measure_similarity(embed: Callable[[Sequence[str]], Array], pairs: Sequence[Pair]) -> dict[str, Any]:
    """Correlation of the cosines of the sentences' vectors with the scores.

    `embed` makes vectors (N, C) of N sentences; each sentence is embedded once. Of Spearman's rank correlation, the
    usual measure, only the order of the scores matters.
    """
    sentences = list(dict.fromkeys(sentence for pair in pairs for sentence in (pair.first, pair.second)))
    place = {sentence: number for number, sentence in enumerate(sentences)}
    vectors = embed(sentences).astype(np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    first = vectors[[place[pair.first] for pair in pairs]]
    second = vectors[[place[pair.second] for pair in pairs]]
    cosines, scores = (first * second).sum(axis=1), np.array([pair.score for pair in pairs])
    _check_varying(scores, "the scores")
    _check_varying(cosines, "the cosines")
    return {"pairs": len(pairs), "spearman": spearman(cosines, scores), "pearson": pearson(cosines, scores)}


def pearson(x: Array, y: Array) -> float:
    """Pearson's correlation ``sum (x - mean x)(y - mean y) / (|x - mean x| |y - mean y|)`` of x and y (N,).

    ValueError where it has no value: for fewer than two numbers, or if all of x or all of y are equal.
    """
    if len(x) != len(y) or len(x) < 2:
        raise ValueError(f"correlation: {len(x)} and {len(y)} numbers; it takes two or more, and as many of each")
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    _check_varying(x, "the first numbers")
    _check_varying(y, "the second numbers")
    return float(np.clip(_centred(x) @ _centred(y), -1, 1))


def _check_varying(values: Array, name: str) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"correlation: {name} are not all finite")
    if values.min() == values.max():
        raise ValueError(f"correlation: {name} are all {values[0]:g}; nothing goes together with a constant")


def _centred(values: Array) -> Array:
    """Less their mean, and of length 1."""
    values = values / np.abs(values).max()  # no square of what is left can overflow
    values = values - values.mean()
    return values / np.linalg.norm(values)


def spearman(x: Array, y: Array) -> float:
    """Spearman's rank correlation: `pearson` of the ranks of x and y (N,)."""
    return pearson(ranks(x), ranks(y))


def ranks(values: Array) -> Array:
    """The rank of each of (N,) values, from 1; equal ones share the mean of their ranks."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[group]
