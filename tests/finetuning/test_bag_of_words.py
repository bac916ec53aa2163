"""The bag of words: its weights, and the regression."""

import math

import numpy as np
import pytest

from tinygrad_llm import no_grad, ops
from tinygrad_llm.finetuning import bag_of_words as module
from tinygrad_llm.finetuning.bag_of_words import (
    STRENGTHS,
    Vocabulary,
    bag_of_words,
    epochs_of,
    fit,
    majority,
    terms_of,
)

TEXTS = ["The cat sees!", "the dog, the cat", "a bird", "A bird sees the cat", "dog dog dog", ""]


def test_terms_are_words_signs_and_pairs_in_small_letters():
    assert terms_of("Go, ÜBER go_1!") == ["go", ",", "über", "go_1", "!", "go ,", ", über", "über go_1", "go_1 !"]
    assert terms_of(" ") == []


def test_weights_by_hand():
    vocabulary = Vocabulary(TEXTS)
    assert set(vocabulary.numbers) == {"the", "cat", "sees", "dog", "a", "bird", "the cat", "a bird"}
    assert list(vocabulary.numbers)[:3] == ["cat", "the", "the cat"]  # the most frequent first, then by name
    bag = vocabulary.bag("the the DOG zebra")
    assert [list(vocabulary.numbers)[term] for term in bag.terms] == ["the", "dog"]
    the, dog = (1 + math.log(2)) * (1 + math.log(7 / 4)), 1 + math.log(7 / 3)
    np.testing.assert_allclose(bag.weights, np.array([the, dog]) / math.hypot(the, dog), rtol=1e-6)
    assert len(vocabulary.bag("zebra").terms) == 0


def test_only_so_many_terms_are_kept(monkeypatch):
    monkeypatch.setattr(module, "TERMS", 2)
    assert list(Vocabulary(TEXTS).numbers) == ["cat", "the"]


def test_weights_are_those_of_scikit_learn():
    text = pytest.importorskip("sklearn.feature_extraction.text", reason="scikit-learn is not installed")
    theirs = text.TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    expected = theirs.fit_transform(TEXTS).toarray()
    vocabulary = Vocabulary(TEXTS)
    assert set(vocabulary.numbers) == set(theirs.vocabulary_)
    for row, one in zip(expected, TEXTS, strict=True):
        bag = vocabulary.bag(one)
        ours = np.zeros(len(row))
        ours[[theirs.vocabulary_[list(vocabulary.numbers)[term]] for term in bag.terms]] = bag.weights
        np.testing.assert_allclose(ours, row, rtol=1e-6, atol=1e-7)


def corpus(count, seed=0):
    """Texts whose class is told by some of their words, mostly."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 3, count)
    words = [rng.choice([*"abcdefgh", *[f"{'xyz'[t]}{i}" for i in range(4)]], rng.integers(3, 12)) for t in targets]
    return [" ".join(some) for some in words], np.where(rng.random(count) < 0.05, (targets + 1) % 3, targets)


@pytest.mark.parametrize("strength", [1.0, 10.0])
def test_the_fit_is_the_regression_of_least_loss(strength):
    texts, targets = corpus(300)
    vocabulary = Vocabulary(texts)
    bags = [vocabulary.bag(text) for text in texts]
    model = fit(bags, targets, len(vocabulary.numbers), 3, strength)
    x = np.zeros((300, len(vocabulary.numbers)))
    for row, bag in zip(x, bags, strict=True):
        row[bag.terms] = bag.weights
    w, b, y = model.weight.data.astype(float), model.bias.data.astype(float), np.eye(3)[targets]
    logits = x @ w + b
    with no_grad():
        np.testing.assert_allclose(model(bags).data, logits, atol=1e-5)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)

    def objective(w, b):
        logits = x @ w + b
        losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(300), targets]
        return losses.mean() + (w * w).sum() / (2 * strength * 300)

    found, best_w, best_b = objective(w, b), w, b
    for _ in range(3000):  # gradient descent, which goes on from there to the least
        logits = x @ best_w + best_b
        p = np.exp(logits - logits.max(1, keepdims=True))
        p = p / p.sum(1, keepdims=True) - y
        best_w = best_w - 2 * (x.T @ p / 300 + best_w / (strength * 300))
        best_b = best_b - 2 * p.mean(0)
    least = objective(best_w, best_b)
    assert least <= found <= 1.01 * least


def test_the_strength_is_chosen_by_the_texts_held_out_and_all_are_trained_on(monkeypatch):
    texts, targets = corpus(90)
    tried, seen = np.arange(0, 90, 5), []

    def spy(bags, targets, terms, classes, strength, seed, progress):
        seen.append((len(bags), strength))
        return fit(bags, targets, terms, classes, strength, seed, progress)

    monkeypatch.setattr(module, "fit", spy)
    told = []
    predict, strength = bag_of_words(texts, targets, 3, tried, 0, lambda *done: told.append(done))
    assert seen == [*((72, s) for s in STRENGTHS), (90, strength)]
    assert told[-1] == (5 * epochs_of(90), 5 * epochs_of(90))
    others, expected = corpus(300, seed=1)
    assert (predict(others) == expected).mean() > 0.85
    assert predict(others).shape == (300,)
    _, strength = bag_of_words(texts, targets, 3, np.array([], int))
    assert strength == STRENGTHS[1]


def test_the_strength_is_that_which_tells_most_right(monkeypatch):
    class Fake:
        def __init__(self, strength):
            self.strength = strength

        def predict(self, bags):
            return np.zeros(len(bags), int) if self.strength in (10.0, 100.0) else np.ones(len(bags), int)

    monkeypatch.setattr(module, "fit", lambda bags, targets, terms, classes, strength, *_: Fake(strength))
    texts, targets = ["a b"] * 10, np.zeros(10, int)
    assert bag_of_words(texts, targets, 2, np.array([1, 2]))[1] == 10.0


def test_as_often_as_makes_so_many():
    assert [epochs_of(n) for n in (1, 2500, 5000, 10_000, 10**6)] == [40, 40, 20, 10, 10]


def test_texts_without_a_known_term_get_the_bias():
    texts, targets = corpus(60)
    predict, _ = bag_of_words([*texts, "", "!?"], np.append(targets, [2, 2]), 3, np.arange(5))
    assert predict(["zebra"]).shape == (1,)
    model = fit([Vocabulary([""]).bag("")] * 4, np.array([0, 1, 1, 1]), 0, 2, 1.0)
    np.testing.assert_allclose(ops.softmax(model.bias).data, [0.25, 0.75], atol=0.02)


def test_the_most_frequent_class():
    assert majority(np.array([2, 0, 2, 1])) == 2
    assert majority(np.array([1, 0])) == 0
