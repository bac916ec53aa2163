"""The memory of each rank, by kind: parameters, gradients, optimizer, activations, buffers."""

from __future__ import annotations

from dataclasses import dataclass

from tinygrad_llm.ops.fused_losses import LEAST_ROWS, LOGITS
from tinygrad_llm.parallel.plan_models import ModelSizes
from tinygrad_llm.parallel.plan_setup import FLOAT32, Precision, Setup, chunk_layers, rank_layers
from tinygrad_llm.parallel.simulation import closed_peak

KINDS = ("parameters", "gradients", "optimizer", "activations", "buffers")


@dataclass(frozen=True)
class RankMemory:
    """What the ranks at one place of the pipeline hold, in bytes."""

    pp: int
    """The place in the pipeline."""
    layers: int
    count: int
    """Parameters of this place, of one rank of the tensor-parallel group, before ZeRO shares them out."""
    held: int
    """Activations held at once at most, those of a microbatch in one chunk counted as one."""
    parameters: float
    gradients: float
    optimizer: float
    activations: float
    buffers: float

    @property
    def total(self) -> float:
        """All kinds."""
        return sum(getattr(self, kind) for kind in KINDS)


def zero_bytes(parameters: float, stage: int, ranks: int, precision: Precision) -> tuple[float, float, float]:
    """Bytes of parameters, gradients and optimizer state, Psi parameters on N data-parallel ranks.

    Mixed precision, K = 12: stage 0 ``(2 + 2 + K) Psi``; 1 ``4 Psi + K Psi / N``; 2 ``2 Psi + (2 + K) Psi / N``;
    3 ``(4 + K) Psi / N``. With float32: ``16 Psi``; ``8 Psi + 8 Psi / N``; ``4 Psi + 12 Psi / N``; ``16 Psi / N``.
    Source: Rajbhandari et al. 2019, ZeRO, arXiv:1910.02054, figure 1 and table 1.
    """
    share = [parameters / (ranks if stage >= least else 1) for least in (3, 2, 1)]
    return share[0] * precision.parameter, share[1] * precision.gradient, share[2] * precision.optimizer


def rank_parameters(model: ModelSizes, setup: Setup, pp: int) -> int:
    """Parameters on a rank at a place of the pipeline, before ZeRO.

    Matrices are shared out over tp, the vocabulary rounded up to a multiple of it; norms are copied. The first rank has
    the embeddings, the last one the final norm and the head, which of a tied model is a copy of the embedding, unless
    both are on one rank.
    """
    count = rank_layers(model, setup, pp) * (model.layer_sharded // setup.tp + model.layer_copied)
    table = -(-model.vocab_size // setup.tp) * model.channels
    first, last = pp == 0, pp == setup.pp - 1
    if first:
        count += table + model.positions
    if last:
        count += model.final_norm + (0 if model.tied and first else table)
    return count


def token_activations(model: ModelSizes, time: int, precision: Precision) -> tuple[float, float, float]:
    """Bytes kept of a layer for each token: (copied on each rank of tp, shared out over tp, inside attention).

    16-bit activations, of a GPT: ``10 C + (8 C + 4 F) + 5 H T``, which with F = 4 C is ``C (34 + 5 H T / C)``. Copied:
    inputs of two norms, of the first and the third matrix (2 C each), two dropout masks (C each). Shared out: Q, K, V
    and the input of the second matrix, what goes into and comes out of the activation. Inside attention: softmax and
    what dropout makes of it, 2 bytes each, and its mask (Korthikanti et al. 2022, arXiv:2205.05198, section 4.1).
    A Llama by the same count has no dropout, and 4 arrays of F channels: gate, its silu, up, and their product.

    float32, as our operations with their kernels keep them, of a GPT ``4 (4 C + 6) + 4 (4 C + 2 F)``, of which 6 are
    means, spreads and their like, and C for each of two dropout masks; of a Llama ``4 (4 C + 2) + 4 (3 H D + 3 Hkv D +
    3 F)``, since queries and keys are kept before and after they are rotated. Inside attention nothing is kept, as it
    is worked out again in tiles.
    """
    c, f, scores = model.channels, model.feed_forward, model.heads * time
    if precision == FLOAT32:
        if model.gated:
            return 4.0 * (4 * c + 2), 4.0 * (3 * model.q_channels + 3 * model.kv_channels + 3 * f), 0.0
        return (
            4.0 * (4 * c + 6) + 2 * c * (model.dropout > 0),
            4.0 * (model.qkv_channels + model.q_channels + 2 * f),
            0.0,
        )
    if model.gated:
        return 8.0 * c, 2.0 * (model.qkv_channels + model.q_channels) + 8.0 * f, 2.0 * scores
    return 10.0 * c, 2.0 * (model.qkv_channels + model.q_channels) + 4.0 * f, 5.0 * scores


def layer_activations(model: ModelSizes, setup: Setup) -> float:
    """Bytes kept of a layer for a microbatch of ``N = b T`` tokens, in 16 bits: none ``N C (10 + 24/t + 5 H T / C t)``,
    with sequence parallelism ``N C (34/t + 5 H T / C t)``; selective without the last term; full ``2 N C``, of which
    ours with sequence parallelism keeps a t-th part.

    Source: Korthikanti et al. 2022, arXiv:2205.05198, table 2.
    """
    copied, shared, attention = token_activations(model, setup.time, setup.precision)
    if setup.recomputed == "full":
        own_part = setup.norm_shards if setup.precision == FLOAT32 else 1
        return setup.tokens * setup.precision.activation * model.channels / own_part
    kept = copied / setup.norm_shards + (shared + attention * (setup.recomputed == "none")) / setup.tp
    return setup.tokens * (kept + _own_whole(model, setup))


def _own_whole(model: ModelSizes, setup: Setup) -> float:
    """Bytes for each token by which our own sequence parallelism shares out less of a layer than papers do.

    What is gathered for the first matrices of its two halves is kept as it is, C numbers each, so it is not gathered
    again for backward; each dropout keeps factors of all positions, and what it multiplies.
    """
    if setup.precision != FLOAT32 or setup.norm_shards == 1:
        return 0.0
    c, share = 4.0 * model.channels, 1 / setup.norm_shards
    return 2 * c * (1 - share) + (2 * (c + c * share) - 2 * model.channels * share) * (model.dropout > 0)


def first_stage_activations(model: ModelSizes, setup: Setup) -> float:
    """Bytes that the layers of the first rank keep with 1F1B or interleaved 1F1B: L layers' worth, whatever p is; with
    v chunks ``1 + (p - 1) / (p v)`` times as much. Source: Korthikanti et al. 2022, arXiv:2205.05198, section 4.2.3."""
    more = (setup.pp - 1) / (setup.pp * setup.chunks) if setup.chunks > 1 else 0.0
    return layer_activations(model, setup) * model.layers * (1 + more)


def ends_activations(model: ModelSizes, setup: Setup, pp: int) -> float:
    """Bytes kept for a microbatch outside of the layers: on the first rank of the embeddings, on the last of the head.

    In 16 bits a dropout mask, C; and ``4 C / t + 4 V / t``: inputs of the last norm and the head, and float32 logits
    (Korthikanti et al. 2022, section 4.3). In ours the ids; and for the head inputs of float32, with the logits of as
    many rows as are held at once, or else the gradients that they leave (see `ops.linear_cross_entropy`).
    """
    if setup.precision == FLOAT32 and setup.tp > 1:
        return _own_shared_ends(model, setup, pp)
    tokens, c, v = setup.tokens, model.channels, model.vocab_size / setup.tp
    size = 0.0
    own = setup.precision == FLOAT32
    if pp == 0:
        size += 8.0 * tokens + tokens * c * (model.dropout > 0) if own else tokens * c * (not model.gated)
    if pp == setup.pp - 1 and not own:
        size += tokens * (4.0 * c / setup.norm_shards + 4.0 * v)
    elif pp == setup.pp - 1:
        blocks = -(-tokens // max(LEAST_ROWS, int(LOGITS // (4 * v))))
        held = -(-tokens // blocks)
        size += 4.0 * (tokens * (2 * c + (1 if model.gated else 3)) + held * v)
        size += 4.0 * ((tokens - held) * c + v * c) if blocks > 1 else 0.0
    return size


def _own_shared_ends(model: ModelSizes, setup: Setup, pp: int) -> float:
    """The same of ours on several tensor-parallel ranks, in numbers of 4 bytes for each token.

    The embedding: ids, and the rows that were found, with which of them are this rank's; dropout as elsewhere. The
    head: inputs of the last norm and, whole, of the head; logits, their exponentials, and some numbers of the loss.
    """
    c, share, dropout = model.channels, 1 / setup.norm_shards, model.dropout > 0
    each = 0.0
    if pp == 0:
        each += 3 + c + dropout * (c / 4 if share == 1 else c + c * share)
    if pp == setup.pp - 1:
        each += c * share + c + 2 * model.vocab_size / setup.tp + 5
    return 4.0 * setup.tokens * each


def buffers(model: ModelSizes, setup: Setup, pp: int) -> float:
    """Bytes that are needed for a while: a layer that is gathered (ZeRO 3), or its gradient before it is shared out
    (ZeRO 2 and 3), and what is worked out again of a layer. The largest unit is a layer or an embedding."""
    layer = model.layer_sharded // setup.tp + model.layer_copied
    ends = pp in (0, setup.pp - 1)
    unit = max(layer, -(-model.vocab_size // setup.tp) * model.channels if ends else 0)
    size = 0.0
    if setup.dp > 1 and setup.zero >= 2:
        size += unit * setup.precision.gradient
    if setup.dp > 1 and setup.zero == 3:
        size += unit * setup.precision.parameter
    copied, shared, attention = token_activations(model, setup.time, setup.precision)
    if setup.recomputed == "full":
        size += setup.tokens * (copied / setup.norm_shards + (shared + attention) / setup.tp)
    elif setup.recomputed == "selective":
        size += setup.tokens * attention / setup.tp
    return size


def _ends_held(setup: Setup, pp: int, held: int) -> int:
    """Of how many microbatches a rank holds at once what lies outside of the layers.

    With several chunks the embeddings are in the first one of the first rank: it begins with a group of p microbatches,
    and the next p come before the gradients of the first have gone back through all chunks. The head is in the last
    chunk, where backward follows forward.
    """
    if setup.chunks == 1:
        return held
    return min(2 * setup.pp, setup.microbatches) if pp == 0 else 1


def rank_memory(model: ModelSizes, setup: Setup, pp: int) -> RankMemory:
    """What the ranks at a place of the pipeline hold when it is most. In ours only the first one has the optimizer's
    state of a tied embedding."""
    count = rank_parameters(model, setup, pp)
    held = closed_peak(setup.schedule, pp, setup.pp, setup.microbatches, setup.chunks)
    longest = max(chunk_layers(model, setup)[pp :: setup.pp])
    activations = held * longest * layer_activations(model, setup)
    activations += _ends_held(setup, pp, held) * ends_activations(model, setup, pp)
    parameters, gradients, optimizer = zero_bytes(count, setup.zero, setup.dp, setup.precision)
    if setup.precision == FLOAT32 and model.tied and 0 < pp == setup.pp - 1:
        copy = -(-model.vocab_size // setup.tp) * model.channels
        optimizer -= zero_bytes(copy, setup.zero, setup.dp, setup.precision)[2]
    layers = rank_layers(model, setup, pp)
    return RankMemory(pp, layers, count, held, parameters, gradients, optimizer, activations, buffers(model, setup, pp))


def all_memory(model: ModelSizes, setup: Setup) -> list[RankMemory]:
    """That of each place of the pipeline."""
    return [rank_memory(model, setup, pp) for pp in range(setup.pp)]
