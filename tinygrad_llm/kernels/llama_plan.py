"""What the compiled twin of `models/llama.py` reads and writes for a token: the addresses of all arrays of a model.

They are looked up once, and again when a part of the model or of the cache has been replaced. Whatever the compiled
function cannot compute is found here, as it checks nothing.
"""

from __future__ import annotations

import functools
import math
import operator
from itertools import accumulate, chain, pairwise
from operator import attrgetter
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from tinygrad_llm.generation.cache import LayerKV
from tinygrad_llm.models.llama import GatedMLP, RotaryAttention
from tinygrad_llm.nn.layers import Linear, RMSNorm
from tinygrad_llm.nn.quantized import GROUPS, Quantized, QuantizedLinear

FLOAT, INT8, INT4 = 0, GROUPS["int8"], GROUPS["int4"]
"""How weights are stored: for those in fewer bits, how many share a scale."""

QKV, OUT, GATE, UP, DOWN = range(5)
"""The products of a block, in their order."""

BIAS, Q_NORM, K_NORM = range(2, 5)
"""Vectors that a block may have, beside the gains of its two norms: the bias of queries, keys and values, and the gains
of the norms of queries and of keys. Their address is 0 where there is none."""

MAPS = "attention.qkv", "attention.out", "mlp.gate", "mlp.up", "mlp.down"
UNBIASED = tuple(f"{name}.bias" for name in MAPS[OUT:])
UNITS = {"attention": RotaryAttention, "mlp": GatedMLP, "attention_norm": RMSNorm, "mlp_norm": RMSNorm}
NORMS = "attention.q_norm", "attention.k_norm"
NUMBERS = "attention.heads", "attention.kv_heads", "attention.base", "attention.scale", "attention.window"


@functools.cache
def held_by(quantised, biased, normed):
    """The names of all that a block has, in sorts, for one with these parts; and what gets them, one after the other.

    A bias or a norm that is not there is None under its own name. A quantised weight has no data.
    """
    data = "" if quantised else ".data"
    sorts = {
        "weights": [f"{name}.weight{data}" for name in MAPS],
        "vectors": [
            "attention_norm.gain.data",
            "mlp_norm.gain.data",
            "attention.qkv.bias" + (data if biased else ""),
            *(f"{name}.gain.data" if normed else name for name in NORMS),
        ],
        "unbiased": UNBIASED,
        "maps": MAPS,
        "units": UNITS,
        "norms": NORMS,
        "epsilons": [f"{name}.eps" for name in ("attention_norm", "mlp_norm", *(NORMS if normed else ()))],
        "numbers": NUMBERS,
        "frequencies": ["attention.frequencies"],
    }
    ends = [0, *accumulate(map(len, sorts.values()))]
    return dict(zip(sorts, pairwise(ends), strict=True)), attrgetter(*chain(*sorts.values()))


class Plan(NamedTuple):
    """Where everything is that the blocks of a model read and write for a token."""

    held: list[Any]
    kind: int | None
    maps: Any
    vectors: Any
    stores: Any
    channels: int
    features: int
    weights: int


def plan_of(held, sorts):
    """The plan for what blocks and caches have; its kind is None if the compiled function cannot compute that."""
    has = {sort: [layer[low:high] for layer in held] for sort, (low, high) in sorts.items()}
    weights, vectors, maps, stores = has["weights"], has["vectors"], has["maps"], [layer[-2:] for layer in held]
    kinds = {kind_of(weight) for layer in weights for weight in layer}
    usual = (
        len(kinds) == 1
        and None not in kinds
        and all(bias is None for layer in has["unbiased"] for bias in layer)
        and all(type(linear) in (Linear, QuantizedLinear) for layer in maps for linear in layer)
        and all([type(unit) for unit in layer] == [*UNITS.values()] for layer in has["units"])
        and {type(norm) for layer in has["norms"] for norm in layer} in ({RMSNorm}, {type(None)})
        and all(is_row_major(a) for layer in (*vectors, *stores) for a in layer if a is not None)
        and len({eps for layer in has["epsilons"] for eps in layer}) == 1
        and len(set(has["numbers"])) == 1
        and all(np.array_equal(layer, has["frequencies"][0]) for layer in has["frequencies"])
        and fit_together(weights, maps, vectors, has["numbers"][0], stores)
    )
    if not usual:
        return Plan(held, None, None, None, None, 0, 0, 0)
    places = np.array([[addresses(parts(weight)) for weight in layer] for layer in weights])
    read, written = (np.array([addresses(layer) for layer in layers]) for layers in (vectors, stores))
    sizes = [matrix_shape(w, linear) for w, linear in zip(weights[0], maps[0], strict=True)]
    channels, features = sizes[DOWN]
    return Plan(held, kinds.pop(), places, read, written, channels, features, sum(map(math.prod, sizes)))


def addresses(arrays):
    """Of each array; 0 for None."""
    return [0 if a is None else a.ctypes.data for a in arrays]


def is_row_major(a):
    return isinstance(a, np.ndarray) and a.dtype == np.float32 and a.flags.c_contiguous


def fit_together(weights, maps, vectors, numbers, stores):
    """Whether all layers have the same vectors and sizes, those of the first cache: nothing is checked afterwards."""
    heads, kv_heads, *_ = numbers
    _, _, capacity, width = stores[0][0].shape
    channels, features = matrix_shape(weights[0][DOWN], maps[0][DOWN])
    qkv = (heads + 2 * kv_heads) * width
    lengths = channels, channels, qkv, width, width
    expected = [
        (qkv, channels),
        (channels, heads * width),
        *[(features, channels)] * 2,
        (channels, features),
        *[None if a is None else (length,) for a, length in zip(vectors[0], lengths, strict=True)],
        *[(1, kv_heads, capacity, width)] * 2,
    ]
    found = [
        [*map(matrix_shape, *layer[:2]), *(None if a is None else a.shape for sort in layer[2:] for a in sort)]
        for layer in zip(weights, maps, vectors, stores, strict=True)
    ]
    return all(shapes == expected for shapes in found)


def matrix_shape(weight, linear):
    """(out, in), however it is stored."""
    return weight.shape[::-1] if isinstance(weight, np.ndarray) else (len(weight.values), linear.inputs)


def parts(weight):
    """The arrays of a weight: numbers, scales, minimums."""
    return (weight, None, None) if isinstance(weight, np.ndarray) else weight


def kind_of(weight):
    """`FLOAT`, `INT8` or `INT4`; None for what the compiled function cannot read."""
    if isinstance(weight, np.ndarray):
        return FLOAT if weight.dtype == np.float32 and weight.flags.f_contiguous else None
    if not isinstance(weight, Quantized) or not all(a is None or a.flags.c_contiguous for a in weight):
        return None
    return INT8 if weight.minimums is None else INT4


_plans: WeakKeyDictionary[LayerKV, Plan] = WeakKeyDictionary()
"""The plan made last for the sequence whose first layer's cache this is."""


def plan_for(blocks, caches):
    """The plan, made anew if something has been replaced since; None for blocks of other parts."""
    try:
        first = blocks[0].attention
        present = type(first.qkv) is not Linear, first.qkv.bias is not None, first.q_norm is not None
        sorts, get = held_by(*present)
        held = [(*get(block), cache.keys, cache.values) for block, cache in zip(blocks, caches, strict=True)]
    except AttributeError:
        return None
    plan = _plans.get(caches[0])
    if plan is None or len(held) != len(plan.held) or not all(map(operator.is_, chain(*plan.held), chain(*held))):
        plan = _plans[caches[0]] = plan_of(held, sorts)
    return plan
