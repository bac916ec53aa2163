"""The order in which hypotheses are tried: the first that fits is the diagnosis."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinygrad_llm.diagnosis import factors, places, sums, whole
from tinygrad_llm.diagnosis.evidence import Diagnosis, Evidence

Hypothesis = Callable[[Evidence], Diagnosis | None]


def diagnose(e: Evidence) -> Diagnosis:
    """The first hypothesis that explains the error, or what is known if none does."""
    with np.errstate(all="ignore"):
        whole_only = not e.wrong.any()  # right for these cotangents, or wrong by very little
        for hypothesis in WHOLE if whole_only else WHOLE + FACTORS + (ENTRYWISE if e.shaped else ()):
            found = hypothesis(e)
            if found is not None:
                return found
        return _tiny(e) if whole_only else _unknown(e)


def _tiny(e: Evidence) -> Diagnosis:
    """An error that fails, but too small to fit anything to."""
    return Diagnosis(
        "tiny",
        "the error is tiny, but more than rounding makes: look for a small constant, an eps that forward has and the "
        "vjp has not, or a rounded number in a formula",
        f"largest error {np.abs(e.error).max():.2e}, largest derivative {np.abs(e.right).max():.3g}",
    )


def _unknown(e: Evidence) -> Diagnosis:
    """What can be said without an explanation."""
    if not e.shaped:
        return Diagnosis(
            "unknown",
            "the input is too large for a closer look; check a smaller shape (up to 400 entries), where every entry is "
            "compared and the cause is looked for",
            f"wrong in {int(e.wrong.sum())} of {e.wrong.size} random directions",
        )
    right = ~e.wrong_entries
    k, j = np.unravel_index(int(np.abs(e.error).argmax()), e.error.shape)
    few = " With so few numbers many causes look alike: try a shape such as (3, 4)." if e.given.size < 6 else ""
    return Diagnosis(
        "unknown",
        "no simple cause fits." + few,
        f"largest error at {e.places(np.arange(e.x.size) == j)}: tape {e.given[k, j]:.6g}, numeric "
        f"{e.right[k, j]:.6g}; {int(right.sum())} of {right.size} entries are right",
    )


WHOLE: tuple[Hypothesis, ...] = (
    whole.not_attached,
    whole.random_vjp,
    whole.not_finite,
    whole.zero,
    whole.constant_function,
    whole.cotangent_ignored,
    whole.rounded,
    whole.not_linear,
    whole.low_precision,
)
FACTORS: tuple[Hypothesis, ...] = (
    factors.constant_factor,
    whole.swapped,
)
ENTRYWISE: tuple[Hypothesis, ...] = (
    places.transposed,
    sums.repeated_index,
    sums.dropped_terms,
    sums.cotangent_summed,
    sums.missing_direction,
    factors.named_factor,
    places.missing_mask,
    sums.extra_sum,
    places.misplaced,
    places.passes_through,
    places.wrong_places,
    places.other_point,
    factors.local_derivative,
    sums.rank_one,
)
