"""What a text classifier must beat: the most frequent class, and logistic regression on the words of a text.

A text is its words, signs and pairs of these that follow each other, without their places. Of each term counts
``(1 + ln tf) idf``, with tf its occurrences in the text and ``idf = 1 + ln((1 + n) / (1 + df))``, n the texts that are
trained on and df those that have the term; the vector of a text is made 1 long. Terms in one text only are left out.
Source: Spärck Jones 1972; the weights are those of scikit-learn with ``sublinear_tf=True``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from tinygrad_llm import ops, random
from tinygrad_llm.data.padding import shuffled_batches
from tinygrad_llm.nn import Module, Parameter
from tinygrad_llm.optim import Adam
from tinygrad_llm.tape import Array, no_grad
from tinygrad_llm.tensor import Tensor

TERM = re.compile(r"\w+|[^\w\s]")
TERMS = 300_000
"""The most frequent terms that are kept."""

STRENGTHS = (1.0, 10.0, 100.0, 1000.0)
"""Of fit against small weights, from which one is chosen: C in ``C sum(losses) + |W|^2 / 2``."""

HELD_OUT = 0.2
"""Share of the training texts by which the strength is chosen."""

BATCH, RATE = 64, 0.2
LEAST_EPOCHS, MOST_EPOCHS, TRAINED = 10, 40, 100_000
"""How often each text is trained on: as often as makes so many, within bounds."""


class Bag(NamedTuple):
    """A text: the numbers (n,) of its terms, and their weights (n,)."""

    terms: Array
    weights: Array


def terms_of(text: str) -> list[str]:
    """Words and signs of a text in small letters, then its pairs."""
    singles = TERM.findall(text.lower())
    return [*singles, *(f"{a} {b}" for a, b in pairwise(singles))]


class Vocabulary:
    """The terms of texts, and their inverse document frequencies."""

    def __init__(self, texts: Sequence[str]) -> None:
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(set(terms_of(text)))
        kept = sorted((term for term, count in counts.items() if count > 1), key=lambda term: (-counts[term], term))
        self.numbers = {term: number for number, term in enumerate(kept[:TERMS])}
        frequencies = np.array([counts[term] for term in self.numbers])
        self.idf = 1 + np.log((1 + len(texts)) / (1 + frequencies))

    def bag(self, text: str) -> Bag:
        """The terms of a text that are known, their vector 1 long."""
        counts = Counter(term for term in terms_of(text) if term in self.numbers)
        terms = np.array([self.numbers[term] for term in counts], np.int64)
        weights = (1 + np.log(np.array(list(counts.values()), np.float64))) * self.idf[terms]
        return Bag(terms, (weights / max(1e-12, float(np.linalg.norm(weights)))).astype(np.float32))


class LogisticRegression(Module):
    """Logits ``x W + b`` of bags x, whose zeros are not stored."""

    def __init__(self, terms: int, classes: int) -> None:
        self.weight = Parameter(np.zeros((max(1, terms), classes), np.float32))
        self.bias = Parameter(np.zeros(classes, np.float32))

    def forward(self, bags: Sequence[Bag]) -> Tensor:
        """(B, classes)."""
        longest = max([1, *(len(bag.terms) for bag in bags)])
        terms = np.zeros((len(bags), longest), np.int64)
        weights = np.zeros((len(bags), longest, 1), self.weight.dtype)  # 0 beyond a text's end
        for row, bag in enumerate(bags):
            terms[row, : len(bag.terms)] = bag.terms
            weights[row, : len(bag.terms), 0] = bag.weights
        return (ops.embedding(self.weight, terms) * weights).sum(axis=1) + self.bias

    def predict(self, bags: Sequence[Bag]) -> Array:
        """The class (N,) of each."""
        with no_grad():
            parts = [self(bags[low : low + BATCH]).data.argmax(axis=1) for low in range(0, len(bags), BATCH)]
        return np.concatenate(parts)


def epochs_of(texts: int) -> int:
    """How often each of so many texts is trained on."""
    return min(max(LEAST_EPOCHS, TRAINED // texts), MOST_EPOCHS)


def fit(
    bags: Sequence[Bag],
    targets: Array,
    terms: int,
    classes: int,
    strength: float,
    seed: int = 0,
    progress: Callable[[], object] = lambda: None,
) -> LogisticRegression:
    """The regression of least ``mean(losses) + |W|^2 / (2 C n)``, nearly: by Adam, with a rate that falls to nothing.
    `progress` is called after each of its `epochs_of`."""
    model = LogisticRegression(terms, classes)
    optimizer = Adam(model.named_parameters(), RATE)
    lengths, decay = np.array([len(bag.terms) for bag in bags]), 0.5 / (strength * len(bags))
    epochs, per_epoch = epochs_of(len(bags)), -(-len(bags) // BATCH)
    for epoch in range(epochs):
        batches = shuffled_batches(lengths, BATCH, random.stream(seed, "bag of words", epoch))
        for number, batch in enumerate(batches):
            optimizer.zero_grad()
            loss = ops.cross_entropy(model([bags[place] for place in batch]), targets[batch])
            (loss + (model.weight * model.weight).sum() * decay).backward()
            optimizer.step(RATE * (1 - (epoch * per_epoch + number) / (epochs * per_epoch)))
        progress()
    return model


def bag_of_words(
    texts: Sequence[str],
    targets: Array,
    classes: int,
    tried: Array,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Callable[[Sequence[str]], Array], float]:
    """What predicts the classes (N,) of N texts, and the strength that was chosen.

    `tried` are the places of those texts that are held out while the strength is chosen: the one with which most of
    them are told right, of equal ones the smallest. Then all are trained on. Without any the second is taken.
    `progress(done, total)` counts epochs.
    """
    vocabulary = Vocabulary(texts)
    bags, size = [vocabulary.bag(text) for text in texts], len(vocabulary.numbers)
    rest = np.setdiff1d(np.arange(len(bags)), tried)
    strengths = STRENGTHS if len(tried) else STRENGTHS[1:2]
    total, done = len(strengths) * epochs_of(len(rest)) + epochs_of(len(bags)), 0

    def tell() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    right = []
    for strength in strengths if len(strengths) > 1 else ():
        model = fit([bags[place] for place in rest], targets[rest], size, classes, strength, seed, tell)
        right.append(int((model.predict([bags[place] for place in tried]) == targets[tried]).sum()))
    best = strengths[int(np.argmax(right)) if right else 0]
    model = fit(bags, targets, size, classes, best, seed, tell)
    return lambda others: model.predict([vocabulary.bag(text) for text in others]), best


def majority(targets: Array) -> int:
    """The most frequent class, of equal ones the first."""
    return int(np.bincount(targets).argmax())
