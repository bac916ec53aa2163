"""What a rank sends in a step when it is our own program that trains: byte for byte what its ledger holds.

`plan_traffic` has the formulas of papers, and these differ from them: parameters are communicated in units, whose ends
are filled up so that every rank has as much; ZeRO 3 gathers what belongs to no layer once a step; the last stage of a
pipeline sends the head's gradient for each microbatch. Not among them are a few short messages about losses, norms and
which gradients there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from tinygrad_llm.nn import Parameter
from tinygrad_llm.parallel.flat_space import Unit
from tinygrad_llm.parallel.plan_models import ModelSizes
from tinygrad_llm.parallel.plan_setup import FLOAT32, Setup, chunk_layers, rank_layers
from tinygrad_llm.parallel.plan_traffic import Traffic, dp_traffic, pp_traffic, tp_traffic

FLOAT = FLOAT32.parameter
"""Bytes of a number."""


def rank_traffic(model: ModelSizes, setup: Setup, pp: int) -> list[Traffic]:
    """All that a rank at a place of the pipeline sends in a step: in float32 as our program does it, else as papers do.

    ZeRO in a pipeline, and layers that are computed again, are not among what our program does: as in papers.
    """
    if setup.precision != FLOAT32:
        return [part for made in (dp_traffic, tp_traffic, pp_traffic) for part in made(model, setup, pp)]
    dp = dp_traffic if setup.zero and setup.pp > 1 else own_dp_traffic
    return [*dp(model, setup, pp), *own_tp_traffic(model, setup, pp), *own_pp_traffic(model, setup, pp)]


# ---- parameters of a rank, in the order in which the program has them


def layer_sizes(model: ModelSizes, tp: int) -> list[int]:
    """Numbers in each parameter of a layer, on one of `tp` ranks."""
    c, f, qkv = model.channels, model.feed_forward // tp, model.qkv_channels // tp
    plain = not model.gated
    norm = [c] * (2 if plain else 1)
    attention = [c * qkv, *[qkv] * (plain or model.qkv_bias), model.q_channels // tp * c, *[c] * plain]
    attention += [model.head_size] * (2 * model.qk_norm)
    mlp = [c * f, f, f * c, c] if plain else [c * f, c * f, f * c]
    return [*norm, *attention, *norm, *mlp]


def table_size(model: ModelSizes, setup: Setup) -> int:
    """Numbers in the rows of the vocabulary that a rank has, where these are most."""
    return -(-model.vocab_size // setup.tp) * model.channels


def dp_units(model: ModelSizes, setup: Setup, pp: int) -> list[tuple[str, list[int]]]:
    """The parameters that are communicated together along dp: what they are of, and numbers in each.

    Without a pipeline what belongs to no layer, and each layer; in a pipeline each stage, and of a tied model the
    embedding on the first rank, to which its copy sends what it has.
    """
    layer, table = layer_sizes(model, setup.tp), table_size(model, setup)
    begin = [table, *[model.positions] * (not model.gated)]
    end = [*[model.channels] * (model.final_norm // model.channels), *[table] * (not model.tied)]
    if setup.pp == 1:
        return [("the rest", begin + end), *[("layers", layer)] * model.layers]
    units = [count * layer for count in chunk_layers(model, setup)[pp :: setup.pp]]
    if pp == setup.pp - 1:
        units[-1] = units[-1] + end
    if pp == 0:
        units[0] = begin[model.tied :] + units[0]
    return [*(("stages", unit) for unit in units), *[("the embedding", [table])] * (model.tied and pp == 0)]


def unit_size(sizes: Sequence[int], ranks: int) -> int:
    """Numbers in the flat space of some parameters, with what fills it up (see `flat_space`)."""
    number = np.float32(0)  # that takes no memory, however often it is there
    named = [(f"{n}", Parameter(np.broadcast_to(number, (size,)))) for n, size in enumerate(sizes)]
    return Unit(named, ranks).size


# ---- what is sent along each axis


def own_dp_traffic(model: ModelSizes, setup: Setup, pp: int) -> list[Traffic]:
    """Gradients and parameters, by units.

    ZeRO 0 all-reduces each once. ZeRO 1 to 3 reduce-scatter it, 2 and 3 for each of m microbatches; 1 and 2 gather it
    once after the update, 3 for each forward and each backward pass of a layer, and what belongs to no layer once.
    """
    if setup.dp == 1:
        return []
    m = setup.microbatches
    reduce, times = ("reduce_scatter" if setup.zero else "all_reduce"), (m if setup.zero >= 2 else 1)
    units = Counter((what, FLOAT * unit_size(sizes, setup.dp)) for what, sizes in dp_units(model, setup, pp))
    found = [
        Traffic("dp", reduce, f"gradients of {what}", times * n, size, setup.dp) for (what, size), n in units.items()
    ]
    for (what, size), n in units.items() if setup.zero else ():
        again = 2 * m if setup.zero == 3 and what == "layers" else 1
        found.append(Traffic("dp", "all_gather", f"parameters of {what}", again * n, size, setup.dp))
    return found


def own_tp_traffic(model: ModelSizes, setup: Setup, pp: int) -> list[Traffic]:
    """Activations within the tensor-parallel group, ``M = b T C`` numbers each.

    Sums join what the ranks have of a product, 2 in each layer and 1 of the embedding; the stream leaves for matrices
    at 2 places of each layer, and for the head. A sum is an all-reduce forward, a leave one backward. With sequence
    parallelism they are a reduce-scatter forward and an all-gather backward, and the reverse; then there are gradients
    of what is replicated, norms, biases and positions. What is computed again is sent again.
    """
    if setup.tp == 1:
        return []
    m, c, layers = setup.microbatches, model.channels, rank_layers(model, setup, pp)
    first, last = pp == 0, pp == setup.pp - 1
    calls = first + last + (6 if setup.recomputed == "full" else 4) * layers
    size = FLOAT * setup.tokens * c
    norms = 2 * layers * (model.final_norm // c) + last * (model.final_norm // c)
    found = []

    def add(operation: str, what: str, count: int, size: int) -> None:
        if count:
            found.append(Traffic("tp", operation, what, m * count, size, setup.tp))

    if setup.sequence_parallel:
        add("reduce_scatter", "activations", calls, size)
        add("all_gather", "activations", calls, size)
        add("all_reduce", "gradients of what all have", norms + 2 * layers * (not model.gated), FLOAT * c)
        add("all_gather", "gradient of positions", first and not model.gated, FLOAT * setup.time * c)
    else:
        add("all_reduce", "activations", calls, size)
    add("all_reduce", "gradients of heads' norms", 2 * layers * model.qk_norm, FLOAT * model.head_size)
    add("max", "largest logits", last, FLOAT * setup.tokens)
    add("all_reduce", "sums of the loss", last, 2 * FLOAT * setup.tokens)
    return found


def own_pp_traffic(model: ModelSizes, setup: Setup, pp: int) -> list[Traffic]:
    """Messages along the pipeline, as in papers; but the last rank sends the gradient of a tied head to the first one
    for every microbatch, which sends the new values back once."""
    found = [part for part in pp_traffic(model, setup, pp) if part.operation == "send"]
    if setup.pp > 1 and model.tied:
        table = FLOAT * table_size(model, setup)
        if pp == 0:
            found.append(Traffic("pp", "send", "embedding for the head", 1, table, setup.pp))
        elif pp == setup.pp - 1:
            found.append(Traffic("pp", "send", "gradients of the head", setup.microbatches, table, setup.pp))
    return found
