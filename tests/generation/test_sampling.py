"""Samplers: each filter by its definition, and the draw by its distribution."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.generation import Sampling
from tinygrad_llm.generation.sampling import (
    choose,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalize_repetition,
    probabilities,
)

LOGITS = np.log(np.array([0.5, 0.25, 0.15, 0.1]))
logit_rows = st.lists(st.floats(-20, 20), min_size=1, max_size=12).map(np.array)


def kept(logits):
    return np.flatnonzero(np.isfinite(logits)).tolist()


def test_top_k_keeps_the_k_largest_and_the_smallest_ids_of_equals():
    assert kept(keep_top_k(LOGITS, 2)) == [0, 1]
    assert kept(keep_top_k(np.array([1.0, 2.0, 2.0, 2.0]), 2)) == [1, 2]
    for k in (4, 5, 99):
        assert kept(keep_top_k(LOGITS, k)) == [0, 1, 2, 3]


@given(
    st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0]) | st.floats(-9, 9), min_size=1, max_size=40).map(np.array),
    st.integers(1, 45),
    st.floats(0.01, 0.99),
)
def test_what_is_kept_is_the_head_of_a_stable_sort(logits, k, p):
    logits = np.append(logits, 1.0)  # one at least is possible
    order = np.argsort(-logits, kind="stable")
    expected = np.full_like(logits, -np.inf)
    expected[order[:k]] = logits[order[:k]]
    np.testing.assert_array_equal(keep_top_k(logits, k), expected)
    before = np.cumsum(np.append(0, probabilities(logits)[order]))[:-1]
    np.testing.assert_array_equal(keep_top_p(logits, p), keep_top_k(logits, max(1, (before < p).sum())))


def rows_of_a_vocabulary(kind, dtype):
    """Flat, peaked, of few different values, and with most tokens impossible."""
    rng = np.random.default_rng(0)
    logits = {"flat": 0.1, "peaked": 5.0, "equal": 1.0, "impossible": 1.0}[kind] * rng.standard_normal(3001)
    if kind == "equal":
        logits = np.round(logits)
    if kind == "impossible":
        logits[rng.permutation(3001)[:2900]] = -np.inf
    return logits.astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["flat", "peaked", "equal", "impossible"])
def test_filters_of_a_vocabulary_keep_the_head_of_a_stable_sort(kind, dtype):
    logits = rows_of_a_vocabulary(kind, dtype)
    order = np.argsort(-logits, kind="stable")
    for k in (1, 2, 50, 93, 94, 1000, 3000, 3001):  # 93 is the last k for which groups have more than one token
        result = keep_top_k(logits, k)
        expected = np.full_like(logits, -np.inf)
        expected[order[:k]] = logits[order[:k]]
        np.testing.assert_array_equal(result, expected)
        assert result.dtype == dtype
    before = np.cumsum(np.append(0, probabilities(logits)[order]))[:-1]
    for p in (1e-9, 0.1, 0.5, 0.9, 0.999, 1 - 1e-9, np.nextafter(1, 0)):
        np.testing.assert_array_equal(keep_top_p(logits, p), keep_top_k(logits, max(1, (before < p).sum())))


def test_a_draw_from_few_tokens_is_that_from_all():
    logits = rows_of_a_vocabulary("peaked", np.float64)
    for uniform in np.random.default_rng(1).random(50):
        cumulative = np.cumsum(probabilities(keep_min_p(logits, 1e-3)))
        expected = np.searchsorted(cumulative, uniform, side="right")
        assert choose(logits, Sampling(min_p=1e-3), [], uniform) == expected


@pytest.mark.parametrize(("p", "expected"), [(0.4, [0]), (0.51, [0, 1]), (0.74, [0, 1]), (0.76, [0, 1, 2])])
def test_top_p_keeps_the_smallest_set_that_reaches_p(p, expected):
    assert kept(keep_top_p(LOGITS, p)) == expected


def test_four_equal_tokens():
    """Probabilities of exactly a quarter: p and the drawn number may be sums of them."""
    equal = np.zeros(4)
    assert [len(kept(keep_top_p(equal, p))) for p in (0.25, 0.26, 0.5, 0.75, 1.0)] == [1, 2, 2, 3, 4]
    assert [choose(equal, Sampling(), [], u) for u in (0.0, 0.24, 0.25, 0.5, 0.99)] == [0, 0, 1, 2, 3]
    assert choose(np.array([-np.inf, 0.0]), Sampling(), [], 0.0) == 1


def test_min_p_is_relative_to_the_likeliest():
    assert kept(keep_min_p(LOGITS, 0.29)) == [0, 1, 2]
    assert kept(keep_min_p(LOGITS, 0.31)) == [0, 1]
    assert kept(keep_min_p(LOGITS, 1.0)) == [0]


@given(logit_rows, st.floats(0.01, 0.99))
def test_filters_keep_the_likeliest_token_and_change_no_logit(logits, p):
    for result in (keep_top_p(logits, p), keep_min_p(logits, p), keep_top_k(logits, 1)):
        stays = np.isfinite(result)
        assert stays[logits.argmax()]
        np.testing.assert_array_equal(result[stays], logits[stays])
    # what top-p leaves out is never likelier than what it keeps, and what it keeps reaches p
    stays = np.isfinite(keep_top_p(logits, p))
    assert probabilities(logits)[stays].sum() >= p - 1e-12
    assert logits[stays].min() >= logits[~stays].max(initial=-np.inf)


def test_the_repetition_penalty_lowers_both_signs():
    logits = np.array([2.0, -2.0, 1.0])
    assert penalize_repetition(logits, [0, 1, 1], 2.0).tolist() == [1.0, -4.0, 1.0]
    assert logits.tolist() == [2.0, -2.0, 1.0]


def test_temperature_zero_takes_the_likeliest():
    assert choose(np.array([0.0, 3.0, 1.0]), Sampling(temperature=0), [], 0.99) == 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_distribution(temperature):
    draws = (np.arange(2000) + 0.5) / 2000
    counts = np.bincount([choose(LOGITS, Sampling(temperature=temperature), [], u) for u in draws], minlength=4)
    expected = np.exp(LOGITS / temperature) / np.exp(LOGITS / temperature).sum()
    np.testing.assert_allclose(counts / 2000, expected, atol=1e-3)


@given(logit_rows, st.floats(0, 1, exclude_max=True))
def test_an_impossible_token_is_never_drawn(logits, uniform):
    logits = np.append(logits, -np.inf)
    assert np.isfinite(logits[choose(logits, Sampling(temperature=1.5), [], uniform)])
    assert np.isfinite(logits[choose(logits, Sampling(), [], np.nextafter(1.0, 0.0))])


@pytest.mark.parametrize(
    ("settings", "last_kept"),
    [
        ({}, 3),
        ({"top_k": 2}, 1),
        ({"top_p": 0.8}, 2),
        ({"min_p": 0.4}, 1),
        ({"top_k": 2, "top_p": 0.6}, 0),  # of the two that top-k leaves, the first has 2/3
        ({"temperature": 0.5, "top_p": 0.7}, 0),  # sharpened, the first has 0.72
        ({"temperature": 0.5, "min_p": 0.4}, 0),  # sharpened, the second has a quarter of the first
    ],
)
def test_choose_draws_from_what_the_filters_keep(settings, last_kept):
    sampling = Sampling(**settings)
    assert choose(LOGITS, sampling, [], 0.0) == 0
    assert choose(LOGITS, sampling, [], 0.999) == last_kept


@pytest.mark.parametrize("temperature", [0, 1])
def test_choose_penalizes_what_occurred(temperature):
    sampling = Sampling(temperature=temperature, repetition_penalty=50.0)
    assert choose(LOGITS, sampling, [], 0.1) == 0
    assert choose(LOGITS, sampling, [0, 0], 0.1) == 1
    assert choose(LOGITS, sampling, [0, 1], 0.1) == 2


def test_extreme_logits():
    assert choose(np.array([-1e4, 1e4, 0.0], np.float32), Sampling(temperature=0.1, top_p=0.9), [], 0.5) == 1


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.1}, {"min_p": 2}, {"repetition_penalty": 0}],
)
def test_wrong_settings_are_refused(wrong):
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        Sampling(**wrong)
