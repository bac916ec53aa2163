"""What the axes of a graph's values mean, where the operations say so: batch, token, head, channel, vocabulary.

An embedding begins: whole numbers (B, T) become (B, T, C). From there the meanings follow the operations; where one is
not known to keep them, they are unknown (an empty word) rather than guessed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinygrad_llm.study.graph import Graph, Key, key_of, remembered
from tinygrad_llm.tape import Node

Kinds = tuple[str, ...]

ENTRYWISE = frozenset(
    (
        *("add", "sub", "mul", "div", "neg", "power", "abs", "clip", "where", "exp", "log", "sqrt"),
        *("tanh", "sigmoid", "relu", "gelu", "bias_gelu", "silu", "softplus", "dropout"),
        *(
            "layer_norm",
            "rms_norm",
            "add_layer_norm",
            "add_rms_norm",
            "softmax",
            "log_softmax",
            "rotary",
            "swiglu",
            "geglu",
        ),
    )
)
"""Operations that keep the axes of the input that has the shape of their output."""

RECURRENT = ("rnn", "lstm", "gru")

IDS: dict[int, Kinds] = {1: ("token",), 2: ("batch", "token")}
PARAMETERS: dict[tuple[str, str], Kinds] = {
    ("linear", "weight"): ("input", "output"),
    ("linear", "bias"): ("channel",),
    ("bias_gelu", "bias"): ("channel",),
    ("layer_norm", "gain"): ("channel",),
    ("layer_norm", "bias"): ("channel",),
    ("rms_norm", "gain"): ("channel",),
    ("add_layer_norm", "gain"): ("channel",),
    ("add_layer_norm", "bias"): ("channel",),
    ("add_rms_norm", "gain"): ("channel",),
    ("embedding", "weight"): ("row", "channel"),
    **{(name, weight): ("input", "output") for name in RECURRENT for weight in ("weight_x", "weight_h")},
    **{(name, bias): ("channel",) for name in RECURRENT for bias in ("bias", "bias_x", "bias_h")},
}


def axis_kinds(graph: Graph, tokens: np.ndarray | None = None) -> dict[Key, Kinds]:
    """The kind of each axis of each value. The table that the ids `tokens` are looked up in is the vocabulary's."""
    kinds: dict[Key, Kinds] = {}
    for value in graph.values.values():
        if value.node is None:
            kinds[value.key] = ("",) * value.data.ndim
            for use in value.uses:
                known = PARAMETERS.get((use.node.name, use.parameter))
                if use.node.name == "embedding" and remembered(use.node).arrays[1] is tokens:
                    known = ("vocabulary", "channel")
                if known is not None and len(known) == value.data.ndim:
                    kinds[value.key] = known
                    break
    for node in graph.nodes:
        given = input_kinds(node, kinds)
        for output, data in enumerate(remembered(node).values):
            found = _follow(node, given, data.shape)
            fits = found is not None and len(found) == data.ndim
            kinds[node.order, output] = found if found is not None and fits else ("",) * data.ndim
    return kinds


def input_kinds(node: Node, kinds: dict[Key, Kinds]) -> list[Kinds]:
    """The kinds of a node's inputs, by position."""
    given = [("",) * np.ndim(array) for array in remembered(node).arrays]
    for edge in node.edges:
        given[edge.position] = kinds[key_of(edge)]
    return given


def _follow(node: Node, given: Sequence[Kinds], shape: tuple[int, ...]) -> Kinds | None:
    """The kinds of an output; None where they are not known."""
    arrays, options = remembered(node).arrays, remembered(node).options
    if node.name == "embedding":
        return (*IDS.get(np.ndim(arrays[1]), ("",) * np.ndim(arrays[1])), "channel")
    if node.name == "linear":
        return (*given[0][:-1], "channel")
    if node.name == "matmul" and len(given[0]) >= 2 and len(given[1]) == 2:
        return (*given[0][:-1], given[1][-1])
    if node.name in ("attention", "biased_attention"):
        return (*given[0][:3], given[2][3])
    if node.name in ("self_attention", "split", "lstm_cell", "gru_cell"):
        return given[0]
    if node.name in RECURRENT:  # of the states of all steps, or of the last alone
        return (*given[0][: len(shape) - 1], "channel")
    if node.name == "transpose":
        axes = options.get("axes") if len(arrays) < 2 else arrays[1]
        order = range(len(shape))[::-1] if axes is None else np.atleast_1d(axes)
        return tuple(given[0][axis] for axis in order)
    if node.name == "reshape":
        return _reshaped(given[0], np.shape(arrays[0]), shape)
    if node.name in ENTRYWISE:
        return next((k for k, a in zip(given, arrays, strict=True) if np.shape(a) == shape), None)
    return None


def _reshaped(kinds: Kinds, before: tuple[int, ...], after: tuple[int, ...]) -> Kinds | None:
    """Leading axes of equal size are kept; channels split into heads, and heads join into channels."""
    same = 0
    while same < min(len(before), len(after)) and before[same] == after[same]:
        same += 1
    if kinds[same:] == ("channel",) and len(after) == same + 2:
        return (*kinds[:same], "head", "channel")
    if kinds[same:] == ("head", "channel") and len(after) == same + 1:
        return (*kinds[:same], "channel")
    return kinds if len(before) == len(after) == same else None
