"""Our own training step on a machine that was measured: its time by part, and the memory of its activations.

A step of a GPT or Llama in float32 with AdamW, of the sizes that ``tinygrad-llm train`` has. Unlike `plan_time`, which
counts matrix products alone, as they are nearly all of a step on accelerators, this counts what a small model spends
its time on between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinygrad_llm.nn import Module
from tinygrad_llm.parallel.plan_memory import ends_activations, layer_activations, rank_parameters
from tinygrad_llm.parallel.plan_models import ModelSizes
from tinygrad_llm.parallel.plan_setup import Setup
from tinygrad_llm.parallel.plan_time import UPDATE_BYTES
from tinygrad_llm.parallel.plan_traffic import dp_traffic
from tinygrad_llm.tape import Array, Node, saved_arrays
from tinygrad_llm.tensor import Tensor

Product = tuple[int, int, int]
"""(m, k, n) of ``(m, k) @ (k, n)``."""


@dataclass(frozen=True)
class OwnMachine:
    """What was measured of a machine, as a rank has it: rates in a second, times in seconds."""

    gemm: float
    """Floating-point operations of large matrix products."""
    memory: float
    """Bytes read and written of arrays beyond the caches."""
    stream: float
    """Bytes read and written by operations between the products, as `streamed_bytes` counts them."""
    attention: float
    """Floating-point operations of attention, forward and backward."""
    layer: float = 0.0
    """Time of a layer whose arrays hold next to nothing: calls, tape, hand-over to threads."""
    step: float = 0.0
    """Time of the rest of a step of such a model."""
    latency: float = 0.0
    link: float = float("inf")
    """Of messages to another rank; bytes in a second."""
    products: Mapping[Product, float] = field(default_factory=dict)
    """Floating-point operations in a second of products that were measured by themselves."""

    def product_seconds(self, product: Product) -> float:
        """The time of a matrix product: ``2 m k n`` over its own rate, or over that of large ones."""
        m, k, n = product
        return 2.0 * m * k * n / self.products.get(product, self.gemm)


def step_products(model: ModelSizes, setup: Setup) -> dict[Product, int]:
    """The matrix products of a microbatch with weights, and how often: ``x W`` forward, ``dy W^T`` and ``x^T dy``."""
    n, c = setup.tokens, model.channels
    maps = [(c, model.qkv_channels), (model.q_channels, c)]
    maps += [(c, model.feed_forward)] * (2 if model.gated else 1) + [(model.feed_forward, c)]
    found: dict[Product, int] = {}
    for (k, out), times in [*((pair, model.layers) for pair in maps), ((c, model.vocab_size), 1)]:
        for product in ((n, k, out), (n, out, k), (k, n, out)):
            found[product] = found.get(product, 0) + times
    return found


def attention_operations(model: ModelSizes, setup: Setup) -> float:
    """Floating-point operations of causal attention in a layer: two products forward and five backward, as the scores
    are worked out again; half of ``2 N T H D`` each."""
    return 7.0 * setup.tokens * setup.time * model.q_channels


def streamed_bytes(model: ModelSizes) -> float:
    """Bytes that a layer reads and writes for each token between its matrix products, forward and backward.

    Of a GPT forward, in arrays of C or F numbers: norm 2 C; biases of queries, keys and values 6 C, and of the output
    2 C; sum and norm 4 C; activation 2 F; bias 2 C; sum 3 C. Backward: sums of gradients 3 C each where the stream
    parts, twice; sums of rows for biases 3 C, C and C; norms 3 C and 4 C; activation 3 F. Of a Llama without biases,
    with rotations of queries and keys, 2 each forward and backward, and 3 F and 5 F for the gate.
    """
    c, f = model.channels, model.feed_forward
    if model.gated:
        turned = model.q_channels + model.kv_channels
        return 4.0 * ((2 + 4 + 3) * c + 2 * turned + 3 * f + (3 + 3 + 3 + 4) * c + 2 * turned + 5 * f)
    return 4.0 * ((2 + 6 + 2 + 4 + 2 + 3) * c + 2 * f + (3 + 3 + 3 + 1 + 1 + 3 + 4) * c + 3 * f)


def streamed_sample(model: ModelSizes) -> float:
    """Bytes for each token of those that were measured for `OwnMachine.stream`: the activation, 2 F forward and 3 F
    backward, and a sum with its norm, 4 C and 4 C."""
    return 4.0 * (5 * model.feed_forward + 8 * model.channels)


LOSS_PASSES = 6
"""How often the logits are read or written on the way to their gradient: top, exponentials twice, factor twice, and
once more by the product after them."""


def predict_step(model: ModelSizes, setup: Setup, machine: OwnMachine) -> dict[str, float]:
    """Seconds of a step by part, on each of `setup.dp` ranks; they follow one another, and nothing hides another.

    `machine` is what a rank has while the others work, too.
    """
    m, parameters = setup.microbatches, rank_parameters(model, setup, 0)
    owned = parameters / (setup.dp if setup.zero else 1)
    found = {
        "matrix products": m * sum(n * machine.product_seconds(p) for p, n in step_products(model, setup).items()),
        "attention": m * model.layers * attention_operations(model, setup) / machine.attention,
        "between the products": m * model.layers * setup.tokens * streamed_bytes(model) / machine.stream,
        "loss": m * 4.0 * LOSS_PASSES * setup.tokens * model.vocab_size / machine.memory,
        "norm and update": (4 * owned + UPDATE_BYTES * owned) / machine.memory,
        "calls": m * (model.layers * machine.layer + machine.step),
    }
    if setup.dp > 1:
        parts = dp_traffic(model, setup, 0)
        found["communication"] = sum(t.count * (machine.latency * t.messages + t.each / machine.link) for t in parts)
    return found


def activation_bytes(model: ModelSizes, setup: Setup) -> float:
    """Bytes that a forward pass keeps, by formula: of all layers and of both ends (see `plan_memory`)."""
    return model.layers * layer_activations(model, setup) + ends_activations(model, setup, 0)


def saved_bytes(loss: Tensor, model: Module) -> int:
    """Bytes of the arrays that the tape behind `loss` holds for backward, parameters left out; each counted once."""
    known = {id(_owner(parameter.data)) for parameter in model.parameters()}
    seen: dict[int, Array] = {}
    nodes: dict[int, Node] = {}
    todo = [loss.node] if loss.node is not None else []
    while todo:
        node = todo.pop()
        if node.order in nodes:
            continue
        nodes[node.order] = node
        todo += [edge.target for edge in node.edges if isinstance(edge.target, Node)]
        if node.vjp is not None:
            seen |= {id(owner): owner for owner in map(_owner, saved_arrays(node.vjp)) if id(owner) not in known}
    return sum(array.nbytes for array in seen.values())


def _owner(array: Array) -> Array:
    """The array whose memory this one looks at."""
    base: Any = array
    while isinstance(base.base, np.ndarray):
        base = base.base
    return base
