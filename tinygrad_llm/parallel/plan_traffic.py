"""The bytes that a rank sends in a step, by axis of the mesh and kind of communication, as papers count them.

`plan_ledger` has those of our own program.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinygrad_llm.parallel.ledger import formula
from tinygrad_llm.parallel.plan_memory import rank_parameters
from tinygrad_llm.parallel.plan_models import ModelSizes
from tinygrad_llm.parallel.plan_setup import Setup, rank_layers

STEPS = {"all_reduce": 2, "max": 2, "reduce_scatter": 1, "all_gather": 1}
"""Messages one after the other in a ring of n ranks, over n - 1."""

BEFORE_BACKWARD = "inputs, for backward"
"""What is sent while something else is computed."""


@dataclass(frozen=True)
class Traffic:
    """One kind of communication in a step."""

    axis: str
    operation: str
    what: str
    count: int
    """Calls."""
    size: int
    """Bytes of the whole array of each call."""
    ranks: int

    @property
    def each(self) -> float:
        """Bytes that a rank sends in a call: all-reduce ``2 (n - 1) / n M``, reduce-scatter and all-gather
        ``(n - 1) / n M``, a message M (see `ledger`)."""
        return float(formula(self.operation, self.size, self.ranks))

    @property
    def sent(self) -> float:
        """Bytes that a rank sends in all calls."""
        return self.count * self.each

    @property
    def messages(self) -> int:
        """Messages of a call that follow one another."""
        return STEPS.get(self.operation, 0) * (self.ranks - 1) or 1


def dp_traffic(model: ModelSizes, setup: Setup, pp: int) -> list[Traffic]:
    """Gradients and parameters among the data-parallel ranks, Psi parameters each, m microbatches.

    ZeRO 0: one all-reduce of the gradients, ``2 Psi (N - 1) / N``. ZeRO 1: they are reduced to their owners, and the
    updated parameters gathered, the same bytes. ZeRO 2 reduces after every microbatch, as no rank has room for all
    gradients: ``(m + 1) Psi (N - 1) / N``. ZeRO 3 also gathers the parameters for each forward and each backward
    pass: ``3 m Psi (N - 1) / N``, and with one microbatch 3 rather than 2. Source: Rajbhandari et al. 2019, ZeRO,
    arXiv:1910.02054, section 7.
    """
    if setup.dp == 1:
        return []
    count, m = rank_parameters(model, setup, pp), setup.microbatches
    gradients, parameters = count * setup.precision.gradient, count * setup.precision.parameter
    if setup.zero == 0:
        return [Traffic("dp", "all_reduce", "gradients", 1, gradients, setup.dp)]
    return [
        Traffic("dp", "reduce_scatter", "gradients", m if setup.zero >= 2 else 1, gradients, setup.dp),
        Traffic("dp", "all_gather", "parameters", 2 * m if setup.zero == 3 else 1, parameters, setup.dp),
    ]


def tp_traffic(model: ModelSizes, setup: Setup, pp: int) -> list[Traffic]:
    """Activations within the tensor-parallel group, ``M = b T C`` numbers each.

    Two all-reduces for a layer forward and two backward, and the two of forward again with full recomputation; with
    sequence parallelism each is a reduce-scatter and an all-gather, the same bytes; and each rank keeps its part alone
    of what goes into the first matrices of a layer's two halves, and into the head, and gathers that once more in
    backward. One forward for the embedding, one backward for the head, and of the loss the maxima, and in one the sums
    of exponentials and the targets' logits. Source: Shoeybi et al. 2019, arXiv:1909.08053, section 3; Korthikanti et
    al. 2022, arXiv:2205.05198, section 4.2.2.
    """
    if setup.tp == 1:
        return []
    size, m = setup.tokens * model.channels * setup.precision.activation, setup.microbatches
    calls = rank_layers(model, setup, pp) * (6 if setup.recompute == "full" else 4) * m
    calls += m * (pp == 0) + m * (pp == setup.pp - 1)
    kinds = ("reduce_scatter", "all_gather") if setup.sequence_parallel else ("all_reduce",)
    found = [Traffic("tp", kind, "activations", calls, size, setup.tp) for kind in kinds]
    if setup.sequence_parallel:
        again = m * (2 * rank_layers(model, setup, pp) + (pp == setup.pp - 1))
        found.append(Traffic("tp", "all_gather", BEFORE_BACKWARD, again, size, setup.tp))
    if pp == setup.pp - 1:
        found.append(Traffic("tp", "max", "largest logits", m, 4 * setup.tokens, setup.tp))
        found.append(Traffic("tp", "all_reduce", "sums of the loss", m, 8 * setup.tokens, setup.tp))
    return found


def pp_traffic(model: ModelSizes, setup: Setup, pp: int) -> list[Traffic]:
    """Messages along the pipeline: an activation forward and its gradient backward over each boundary of v p stages,
    ``b T C`` numbers, with sequence parallelism its t-th part; and the gradient of a tied embedding, of which the first
    and the last rank have a copy each."""
    if setup.pp == 1:
        return []
    first, last = pp == 0, pp == setup.pp - 1
    size = setup.tokens * model.channels * setup.precision.activation // setup.norm_shards
    forward, backward = setup.chunks - last, setup.chunks - first
    counts = (("activations", forward), ("their gradients", backward))
    found = [Traffic("pp", "send", what, setup.microbatches * n, size, setup.pp) for what, n in counts if n]
    if model.tied and (first or last):
        table = -(-model.vocab_size // setup.tp) * model.channels * setup.precision.gradient
        found.append(Traffic("pp", "all_reduce", "gradient of the embedding", 1, table, 2))
    return found
