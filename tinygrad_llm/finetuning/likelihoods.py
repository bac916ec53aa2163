"""How probable whole answers are: differentiable sums over their tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tinygrad_llm import ops
from tinygrad_llm.data import IGNORE
from tinygrad_llm.data.padding import batches_by_length
from tinygrad_llm.finetuning.packing import Rows, padded_rows
from tinygrad_llm.models import Decoder
from tinygrad_llm.operation import checkpoint
from tinygrad_llm.tape import Array, no_grad
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.training.evaluation import TOKENS, rows_at_once


def log_probabilities(model: Decoder, rows: Rows) -> Tensor:
    """(B,): for each row the sum of ``log p(target)`` over its targets that are not IGNORE, in nats.

    Only the places with such a target pass the head. If these are many they pass a part at a time, and again in
    backward, so that never all of their logits are held.
    """
    x = model.hidden(rows.ids)
    owners, places = np.nonzero(rows.targets != IGNORE)
    targets = rows.targets[owners, places]
    x = x.reshape(rows.targets.size, -1)[owners * rows.targets.shape[1] + places]
    step = rows_at_once(model)

    def nats(some: Tensor, wanted: Array) -> Tensor:
        return ops.cross_entropy(model.head(some), wanted, reduction="none")

    if len(targets) <= step:
        losses = nats(x, targets)
    else:
        parts = [slice(low, low + step) for low in range(0, len(targets), step)]
        losses = ops.concatenate([checkpoint(nats, x[part], targets[part]) for part in parts])
    belongs = owners[:, None] == np.arange(len(rows.ids))  # a product with it adds up what is of one row
    return -(losses.reshape(1, -1) @ belongs.astype(losses.dtype)).reshape(len(rows.ids))


def measured_log_probabilities(
    model: Decoder,
    sequences: Sequence[tuple[Array, Array]],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Array:
    """`log_probabilities` (N,) of N pairs of inputs and targets, without dropout and gradients.

    Those of about equal length go through the model together. `progress(done, total)` counts them."""
    was_training, found, done = model.training, np.zeros(len(sequences)), 0
    model.eval()
    try:
        with no_grad():
            for some in batches_by_length([ids for ids, _ in sequences], TOKENS):
                rows = padded_rows(*zip(*(sequences[number] for number in some), strict=True))
                found[some] = log_probabilities(model, rows).data
                done += len(some)
                progress(done, len(sequences))
    finally:
        model.train(was_training)
    return found
