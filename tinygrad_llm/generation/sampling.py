"""From logits to a token: each step is a function on one row of V logits, where -inf means impossible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tinygrad_llm.tape import Array


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen. The defaults draw from the model's distribution as it is."""

    temperature: float = 1.0
    """Divides the logits: below 1 safer, above 1 wilder, 0 always takes the likeliest token."""
    top_k: int = 0
    """Keep only the k likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the likeliest tokens that together reach this probability."""
    min_p: float = 0.0
    """Keep tokens at least this probable, relative to the likeliest."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that occurred already become less likely."""

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"Sampling: temperature={self.temperature} must not be negative")
        if self.top_k < 0:
            raise ValueError(f"Sampling: top_k={self.top_k} must not be negative (0 keeps all tokens)")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"Sampling: top_p={self.top_p} must be above 0 and at most 1")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"Sampling: min_p={self.min_p} must lie between 0 and 1")
        if not self.repetition_penalty > 0:
            raise ValueError(f"Sampling: repetition_penalty={self.repetition_penalty} must be positive")


def penalize_repetition(logits: Array, history: Sequence[int], penalty: float) -> Array:
    """Divide the positive logits of tokens in `history` by `penalty`, multiply the negative ones.

    Source: Keskar et al. 2019 (CTRL), arXiv:1909.05858, section 4.1.
    """
    ids = np.unique(np.asarray(history, np.int64))
    result = logits.copy()
    result[ids] = np.where(result[ids] > 0, result[ids] / penalty, result[ids] * penalty)
    return result


def keep_top_k(logits: Array, k: int) -> Array:
    """-inf for all but the `k` largest logits; of equal ones at the border, the smallest ids stay."""
    groups = 16 * k
    least, each = np.finfo(logits.dtype).min, len(logits) // groups
    if each > 1:  # k groups of tokens have a largest logit at least so large: nothing smaller is among the k largest
        largest = logits[: each * groups].reshape(each, groups).max(axis=0)
        least = max(least, np.partition(largest, -k)[-k])
    ids = np.flatnonzero(logits >= least)
    possible = logits[ids]
    if k < len(ids):
        border = np.partition(possible, -k)[-k]  # the k-th largest, without sorting the others
        stays = possible > border
        stays[np.flatnonzero(possible == border)[: k - np.count_nonzero(stays)]] = True
        ids = ids[stays]
    return only(ids, logits)


def only(ids: Array, logits: Array) -> Array:
    """-inf for all but the logits of `ids`."""
    result = np.full_like(logits, -np.inf)
    result[ids] = logits[ids]
    return result


def keep_top_p(logits: Array, p: float) -> Array:
    """-inf for all but the smallest set of likeliest tokens whose probability reaches `p` (at least one token).

    Source: Holtzman et al. 2020, arXiv:1904.09751, section 3.1.
    """
    likely = probabilities(logits)
    for share in (2.0**-6, 2.0**-12, 2.0**-18, 0.0):  # most often a few tokens reach p: no need to sort the others
        ids = np.flatnonzero(likely >= share * likely.max())
        sums = np.cumsum(np.sort(likely[ids])[::-1])
        if sums[-1] >= p:
            break
    kept = keep_top_k(logits[ids], 1 + int((sums < p).sum()))
    return only(ids[kept > -np.inf], logits)


def keep_min_p(logits: Array, p: float) -> Array:
    """-inf for tokens whose probability is below `p` times that of the likeliest.

    Source: Nguyen et al. 2024, arXiv:2407.01082.
    """
    likely = probabilities(logits)
    return np.where(likely >= p * likely.max(), logits, -np.inf)


def probabilities(logits: Array) -> Array:
    """softmax, in float64."""
    weights = np.subtract(logits, logits.max(), dtype=np.float64)
    np.exp(weights, out=weights)
    weights /= weights.sum()
    return weights


def adjusted(logits: Array, sampling: Sampling, history: Sequence[int]) -> Array:
    """The logits, in float64, whose softmax is what is drawn from: -inf where a token is impossible.

    In order: repetition penalty, temperature, top-k, top-p, min-p. Temperature 0 leaves the likeliest token.
    """
    if not np.isfinite(logits.max()):
        raise ValueError("generate: the model's logits are not finite: its weights are damaged, or training diverged")
    if sampling.repetition_penalty != 1:
        logits = penalize_repetition(logits, history, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return only(np.array([logits.argmax()]), logits)
    logits = np.subtract(logits, logits.max(), dtype=np.float64)
    logits /= sampling.temperature
    if sampling.top_k:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p < 1:
        logits = keep_top_p(logits, sampling.top_p)
    if sampling.min_p > 0:
        logits = keep_min_p(logits, sampling.min_p)
    return logits


def choose(logits: Array, sampling: Sampling, history: Sequence[int], uniform: float) -> int:
    """One token id. `uniform`, drawn from [0, 1), decides by the inverse of the cumulative distribution."""
    logits = adjusted(logits, sampling, history)
    if sampling.temperature and not (sampling.top_k or sampling.top_p < 1 or sampling.min_p):
        return draw(logits, uniform)
    ids = np.flatnonzero(logits > -np.inf)  # as a rule few
    return int(ids[draw(logits[ids], uniform)])


def draw(logits: Array, uniform: float) -> int:
    """The token at which the sum of the probabilities of all tokens up to it exceeds `uniform`."""
    return draw_from(probabilities(logits), uniform)


def draw_from(weights: Array, uniform: float) -> int:
    """The same from probabilities, which need not add up to 1."""
    cumulative = np.cumsum(weights)
    # the last sum may be a rounding error away from 1, and must not make a token of probability 0 reachable
    return int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
