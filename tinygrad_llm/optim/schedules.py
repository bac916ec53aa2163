"""Learning-rate schedules: the factor by which the peak rate is multiplied at each step."""

from __future__ import annotations

import math
from typing import Literal, get_args

Schedule = Literal["constant", "linear", "cosine", "wsd"]
SCHEDULES: tuple[str, ...] = get_args(Schedule)


def rate_factor(schedule: str, step: int, steps: int, warmup: int = 0, floor: float = 0.0, decay: float = 0.2) -> float:
    """The factor at `step` (counted from 0) of `steps`.

    Every schedule rises linearly over the first `warmup` steps, ``(step + 1) / (warmup + 1)``. Then, with t going from
    0 to 1 over the steps that remain:

    - ``constant``: 1
    - ``linear``: ``1 - (1 - floor) t``
    - ``cosine``: ``floor + (1 - floor) (1 + cos(pi t)) / 2`` (Loshchilov and Hutter 2017, arXiv:1608.03983)
    - ``wsd`` (warmup, stable, decay): 1, and over the last `decay` share of all steps linear down to `floor`
      (Hu et al. 2024, arXiv:2404.06395)
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule {schedule!r} is unknown; choose one of {', '.join(SCHEDULES)}")
    if schedule == "wsd":  # in a short run the decay may begin before the warm-up has ended
        tail = max(1, round(decay * steps))
        done = min(1.0, max(0.0, (step - (steps - tail)) / tail))
        return min(1 - (1 - floor) * done, (step + 1) / (warmup + 1))
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    if schedule == "linear":
        return 1 - (1 - floor) * done
    return floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2
