"""Confusion matrix, precision, recall, F1 against tables made by hand and scikit-learn."""

import numpy as np
import pytest

from tinygrad_llm.finetuning import scores
from tinygrad_llm.finetuning.scores import (
    accuracy,
    class_scores,
    confusion_matrix,
    macro_f1,
    plot_confusion,
    standard_error,
)

TARGETS = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 0])
PREDICTED = np.array([0, 0, 1, 2, 1, 0, 2, 2, 2, 0])
CONFUSION = np.array([[3, 1, 1], [1, 1, 0], [0, 0, 3]])


def test_rows_are_true_and_columns_predicted():
    np.testing.assert_array_equal(confusion_matrix(TARGETS, PREDICTED, 3), CONFUSION)
    assert confusion_matrix(TARGETS, PREDICTED, 5).shape == (5, 5)


def test_scores_by_hand():
    first, second, third = class_scores(CONFUSION)
    assert first == pytest.approx((3 / 4, 3 / 5, 2 / 3, 5))
    assert second == pytest.approx((1 / 2, 1 / 2, 1 / 2, 2))
    assert third == pytest.approx((3 / 4, 1, 6 / 7, 3))
    assert accuracy(CONFUSION) == pytest.approx(0.7)
    assert standard_error(CONFUSION) == pytest.approx((0.7 * 0.3 / 10) ** 0.5)
    assert macro_f1(CONFUSION) == pytest.approx((2 / 3 + 1 / 2 + 6 / 7) / 3)


def test_a_share_of_nothing_is_nothing():
    confusion = np.array([[4, 0, 2, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    found = class_scores(confusion)
    assert found[0] == pytest.approx((0.8, 2 / 3, 8 / 11, 6))
    assert found[1] == (0, 0, 0, 1)  # never predicted
    assert found[2] == (0, 0, 0, 0)  # only predicted
    assert macro_f1(confusion) == pytest.approx(8 / 11 / 3)  # the last class does not occur


def test_as_scikit_learn_has_them():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    rng = np.random.default_rng(0)
    targets, predicted = rng.integers(0, 6, (2, 200))
    confusion = confusion_matrix(targets, predicted, 7)
    np.testing.assert_array_equal(confusion[:6, :6], metrics.confusion_matrix(targets, predicted))
    expected = metrics.precision_recall_fscore_support(targets, predicted)
    np.testing.assert_allclose(np.array(class_scores(confusion)[:6]).T, expected)
    assert macro_f1(confusion) == pytest.approx(metrics.f1_score(targets, predicted, average="macro"))


@pytest.mark.parametrize("count", [2, 5, 13])
def test_the_picture_shows_any_number_of_classes_and_any_labels(count, tmp_path):
    labels = [f"$x_{number}$ 漢\n" * (number % 3 + 1) for number in range(count)]
    confusion = np.diag(np.arange(count) + 1)
    plot_confusion(confusion, labels, tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_of_many_classes_the_picture_shows_the_most_frequent(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn, most = {}, 4
    monkeypatch.setattr(scores, "MOST", most)
    monkeypatch.setattr(Axes, "set_title", lambda self, text: drawn.update(title=text))
    shown = Axes.imshow
    monkeypatch.setattr(Axes, "imshow", lambda self, image, **o: drawn.update(image=image) or shown(self, image, **o))
    confusion = np.diag(np.arange(most + 2) + 1)
    confusion[3, 2] = 12
    plot_confusion(confusion, [str(number) for number in range(most + 2)], tmp_path / "confusion.png")
    assert (
        drawn["title"]
        == f"{accuracy(confusion):.1%} of {confusion.sum():,} right; the {most} most frequent of {most + 2} classes"
    )
    assert drawn["image"].shape == (most, most)
    np.testing.assert_allclose(drawn["image"][1, 0], 12 / 16)  # classes 2 and 3 are the first that are left
    np.testing.assert_allclose(np.diag(drawn["image"]), [1, 4 / 16] + [1] * (most - 2))
