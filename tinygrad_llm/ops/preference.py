"""The loss of learning from preferences: dpo_loss."""

from __future__ import annotations

import numpy as np

from tinygrad_llm.operation import op
from tinygrad_llm.ops.activations import softplus, stable_sigmoid
from tinygrad_llm.ops.losses import REDUCTIONS
from tinygrad_llm.ops.samples import normal


@op
def dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta=0.1, label_smoothing=0.0, reduction="mean"):
    """``loss = -log sigmoid(h)`` with ``h = beta ((c - c0) - (r - r0))``: direct preference optimisation (DPO).

    For each pair of answers to one prompt: c and r, the log-probabilities (...) that the model gives to the chosen and
    the rejected answer, and c0 and r0, those of the reference, the model before training, which are constants. The loss
    is a number, or of their shape for reduction "none".

    ``beta (c - c0)`` is the reward that the model gives to the chosen answer without being told so, and h by how much
    it is greater than that of the rejected one; the loss is the surprise that the chosen one is preferred, where the
    chance of it is ``s = sigmoid(h)`` (Bradley and Terry 1952). beta says how dear it is to leave the reference. With a
    the label_smoothing, the chance that a pair stands the wrong way round::

        loss = -(1 - a) log s - a log(1 - s) = (1 - a) softplus(-h) + a softplus(h)

    Saves h. With w the cotangent of a pair's loss, ``dy / count`` for the mean::

        dc = -w beta ((1 - a) sigmoid(-h) - a sigmoid(h))     dr = -dc

    Without smoothing, a pair that the model has right already (a large h) has almost no gradient, and one that it has
    quite wrong has ``beta``. Numerics: no exponent is positive, so margins of +-1e4 neither overflow nor lose digits;
    the differences to the reference are taken first, where near numbers cancel exactly.
    Sources: Rafailov et al. 2023, arXiv:2305.18290, equations 7 and 8; smoothing: Mitchell 2023, "A note on DPO with
    noisy preferences and relationship to IPO". ValueError for shapes that differ and options that do not exist.
    """
    check((chosen, rejected, reference_chosen, reference_rejected), beta, label_smoothing, reduction)
    h = beta * ((chosen - reference_chosen) - (rejected - reference_rejected))
    loss = (1 - label_smoothing) * softplus.reference(-h)[0]
    if label_smoothing:
        loss = loss + label_smoothing * softplus.reference(h)[0]
    share = 1 / max(h.size, 1) if reduction == "mean" else 1.0

    def vjp(dy):
        slope = (1 - label_smoothing) * stable_sigmoid(-h)
        if label_smoothing:
            slope = slope - label_smoothing * stable_sigmoid(h)
        dr = dy * (share * beta) * slope
        return -dr, dr

    return loss if reduction == "none" else loss.sum() * share, vjp


def check(arrays, beta, label_smoothing, reduction):
    """Raises ValueError for what does not fit."""
    shapes = [np.shape(array) for array in arrays]
    if len(set(shapes)) > 1:
        listed = ", ".join(map(str, shapes))
        raise ValueError(f"dpo_loss: the log-probabilities have the shapes {listed}; they must be the same")
    if not 0 < beta < np.inf:
        raise ValueError(f"dpo_loss: beta={beta} is not positive")
    if not 0 <= label_smoothing <= 0.5:
        raise ValueError(f"dpo_loss: label_smoothing={label_smoothing} is not in [0, 0.5]")
    if reduction not in REDUCTIONS:
        raise ValueError(f"dpo_loss: unknown reduction {reduction!r}; expected one of {', '.join(REDUCTIONS)}")


def derive(c, r, c0, r0, dy, beta, a, reduction, letter):
    """The steps for both gradients, which differ in the sign of `∂h/∂c` and `∂h/∂r`."""
    sign = 1 if letter == "c" else -1
    minus = "-" if letter == "r" else ""
    h = beta * ((c - c0) - (r - r0))
    w = dy / max(h.size, 1) if reduction == "mean" else dy
    down = np.exp(-h)
    s = 1 / (1 + down)
    yield (
        f"`d{letter} = w ∂loss/∂{letter}`, where `loss = -(1 - a) log s - a log(1 - s)` with `s = 1 / (1 + e^-h)`, and "
        "`w` is `dy`, over the number of pairs if the mean is taken; chain rule with `∂loss/∂s = a / (1 - s) - (1 - a) "
        f"/ s`, `∂s/∂h = e^-h / (1 + e^-h)^2` and `∂h/∂{letter} = {minus}beta`",
        w * (a / (1 - s) - (1 - a) / s) * (down / (1 + down) ** 2) * (sign * beta),
    )
    yield (
        "`∂s/∂h = s (1 - s)`, as for the sigmoid; multiplied out, `1 - s` cancels in one term and `s` in the other",
        w * (a * s - (1 - a) * (1 - s)) * (sign * beta),
    )
    yield (
        "`s = sigmoid(h)` and `1 - s = sigmoid(-h)`, which keeps its digits where `s` is nearly 1",
        w * (sign * beta) * (a * stable_sigmoid(h) - (1 - a) * stable_sigmoid(-h)),
    )


@dpo_loss.derivation("chosen")
def _(chosen, rejected, reference_chosen, reference_rejected, dy, beta=0.1, label_smoothing=0.0, reduction="mean"):
    references = reference_chosen, reference_rejected
    yield from derive(chosen, rejected, *references, dy, beta, label_smoothing, reduction, "c")


@dpo_loss.derivation("rejected")
def _(chosen, rejected, reference_chosen, reference_rejected, dy, beta=0.1, label_smoothing=0.0, reduction="mean"):
    references = reference_chosen, reference_rejected
    yield from derive(chosen, rejected, *references, dy, beta, label_smoothing, reduction, "r")


def likelihoods(rng, shape):
    """Log-probabilities of answers, and those of a reference that is near."""
    policy = [-3 + normal(rng, shape) for _ in range(2)]
    return (*policy, *(one + normal(rng, shape) for one in policy))


@dpo_loss.sample
def _(rng, shape=(4,)):
    return likelihoods(rng, shape), {"beta": 0.7}


@dpo_loss.sample
def _(rng, shape=(2, 3)):
    return likelihoods(rng, shape), {"reduction": "none", "label_smoothing": 0.2}


@dpo_loss.sample
def _(rng, shape=(3,)):
    return likelihoods(rng, shape), {"reduction": "sum", "beta": 2.0}
