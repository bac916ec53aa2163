"""Sentence similarity: correlations, and the files of pairs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.data import DataError
from tinygrad_llm.training.similarity import Pair, measure_similarity, pearson, ranks, read_pairs, spearman

NUMBERS = st.lists(st.integers(-5, 5).map(float), min_size=2, max_size=20).filter(lambda x: len(set(x)) > 1)


@given(NUMBERS, st.randoms(use_true_random=False))
def test_pearson_is_numpys(x, random):
    y = [random.uniform(-3, 3) + place for place, _ in enumerate(x)]
    np.testing.assert_allclose(pearson(np.array(x), np.array(y)), np.corrcoef(x, y)[0, 1], atol=1e-12)


@given(NUMBERS)
def test_equal_values_share_a_rank(x):
    expected = [sum(b < a for b in x) + (sum(b == a for b in x) + 1) / 2 for a in x]
    assert ranks(np.array(x)).tolist() == expected


def test_spearman_sees_the_order_only():
    x = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(x, np.exp(x)) == pytest.approx(1)
    assert spearman(x, -(x**3)) == pytest.approx(-1)
    assert spearman(x, np.array([1.0, 3.0, 2.0, 4.0])) == pytest.approx(1 - 6 * 2 / (4 * 15))


def test_values_whose_squares_would_overflow():
    x = np.array([1e300, -1e300, 0.0])
    assert pearson(x, x) == pytest.approx(1)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1], [1], "two or more"),
        ([1, 2], [1, 2, 3], "2 and 3"),
        ([1, 1], [1, 2], "constant"),
        ([1, np.nan], [1, 2], "finite"),
    ],
)
def test_where_it_has_no_value(x, y, message):
    with pytest.raises(ValueError, match=message):
        pearson(np.array(x, float), np.array(y, float))


def test_each_sentence_is_embedded_once_and_cosines_are_compared():
    seen = []

    def embed(sentences):
        seen.extend(sentences)
        angles = {"a": 0.0, "b": 0.1, "c": 1.0, "d": 2.0}
        return np.array([[3 * np.cos(angles[s]), 3 * np.sin(angles[s])] for s in sentences], np.float32)

    pairs = [Pair("a", "b", 5.0), Pair("a", "c", 4.0), Pair("a", "d", 1.0)]
    measured = measure_similarity(embed, pairs)
    assert sorted(seen) == ["a", "b", "c", "d"]
    assert measured["pairs"] == 3
    assert measured["spearman"] == pytest.approx(1)
    cosines = np.cos([0.1, 1.0, 2.0])
    assert measured["pearson"] == pytest.approx(np.corrcoef(cosines, [5, 4, 1])[0, 1], abs=1e-6)


def test_pairs_from_files(tmp_path):
    lines, tabs = tmp_path / "pairs.jsonl", tmp_path / "pairs.TSV"
    lines.write_text('["a", "b", 1]\n{"score": 2.5, "sentence1": "c", "sentence2": "d"}\n', encoding="utf-8")
    tabs.write_text("a\tb\t1\nc\td\t2.5\n", encoding="utf-8")
    assert read_pairs(lines) == read_pairs(tabs) == [Pair("a", "b", 1.0), Pair("c", "d", 2.5)]


@pytest.mark.parametrize(
    ("name", "line", "fault"),
    [
        ("x.tsv", "a\tb", "2 fields"),
        ("x.tsv", "a\tb\tc", "not a number"),
        ("x.tsv", "a\tb\tnan", "not a finite number"),
        ("x.tsv", "a\t \t1", "the second sentence is empty"),
        ("x.jsonl", "3", "neither"),
        ("x.jsonl", '["a", "b"]', "neither"),
        ("x.jsonl", '{"sentence1": "a", "score": 1}', "sentence2 is missing"),
        ("x.jsonl", '["a", "b", "1"]', "score is '1', not a finite number"),
    ],
)
def test_faulty_pairs(tmp_path, name, line, fault):
    (tmp_path / name).write_text(line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=f"line 1: .*{fault}"):
        read_pairs(tmp_path / name)
