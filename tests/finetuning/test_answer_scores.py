"""Exact match and token F1, by hand."""

import pytest

from tinygrad_llm.finetuning.answer_scores import Match, best_match, match, scores_of, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The cat, a dog; an Owl!", ["cat", "dog", "owl"]),
        ("state-of-the-art", ["stateoftheart"]),
        ("  wrote\n", ["wrote"]),
        ("«¿Qué?» 1 + 2 = 3", ["qué", "1", "+", "2", "=", "3"]),
        ("the", []),
        ("anthem", ["anthem"]),
        ("", []),
    ],
)
def test_words(text, words):
    assert words_of(text) == words


@pytest.mark.parametrize(
    ("answer", "expected", "exact", "f1"),
    [
        ("Wrote.", "wrote", 1, 1),
        ("the answer", "answer", 1, 1),
        ("b a c", "b c", 1, 1),  # "a" is an article
        ("written", "wrote", 0, 0),
        ("he wrote it", "wrote", 0, 0.5),
        ("wrote", "he wrote it", 0, 0.5),
        ("x x y", "x y y", 0, 2 / 3),
        ("x x", "x x y", 0, 0.8),
        ("y x", "x y", 0, 1),
        ("", "wrote", 0, 0),
        ("!", "!", 1, 1),
        (" ! ", "!", 1, 1),
        ("?", "!", 0, 0),
        ("the", "!", 0, 0),
        ("!", "wrote", 0, 0),
    ],
)
def test_matches(answer, expected, exact, f1):
    assert match(answer, expected) == Match(exact, pytest.approx(f1))


def test_of_several_expected_answers_the_best_counts():
    assert best_match("x y", ["z", "y x", "x"]) == Match(0, 1)
    assert best_match("x", ["z", "x y", "x"]) == Match(1, 1)
    assert best_match("x y", ["x y z w", "y"]) == Match(0, pytest.approx(2 / 3))


def test_means_and_standard_error():
    scores = scores_of([Match(1, 1), Match(0, 0.5), Match(0, 0), Match(0, 0.5)])
    assert scores == (0.25, 0.5, pytest.approx((0.25 * 0.75 / 4) ** 0.5))
