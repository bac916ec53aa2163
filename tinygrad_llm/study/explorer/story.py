"""What a training step reads and predicts, and where it looks: tokens, probabilities, attention patterns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_llm.ops.projected_attention import heads_of, split_heads
from tinygrad_llm.ops.scaled_attention import hide, softmax_rows
from tinygrad_llm.study.graph import Graph, Key, key_of, remembered
from tinygrad_llm.tape import Array, Node

SEQUENCES, TOKENS, BEST = 8, 128, 4
"""How many sequences of a batch, tokens of each, and next tokens of each are shown at most."""


@dataclass(frozen=True)
class Story:
    """Targets (B, T), ids (B, T) if they were found, and the logits (B, T, V) that a cross-entropy was taken of."""

    ids: Array | None
    targets: Array
    logits: Array
    key: Key | None
    loss: float
    words: Sequence[str]

    def data(self, numbers: dict[Key, int]) -> dict[str, Any]:
        """Ready for JSON: of each position the token read, the target, its probability, and the likeliest tokens."""
        logits = self.logits[:SEQUENCES, :TOKENS].astype(np.float64)
        targets = self.targets[:SEQUENCES, :TOKENS]
        probabilities = softmax_rows(logits.copy())
        best = np.argsort(-probabilities, axis=-1, kind="stable")[..., :BEST]
        known = (targets >= 0) & (targets < logits.shape[-1])
        chosen = np.take_along_axis(probabilities, np.where(known, targets, 0)[..., None], -1)[..., 0]
        return {
            "loss": self.loss if math.isfinite(self.loss) else str(self.loss),
            "shape": list(self.logits.shape),
            "ids": None if self.ids is None else self.ids.reshape(self.targets.shape)[:SEQUENCES, :TOKENS].tolist(),
            "targets": np.where(known, targets, -1).tolist(),
            "chosen": _finite(np.where(known, chosen, np.nan)),
            "best": best.tolist(),
            "likely": _finite(np.take_along_axis(probabilities, best, -1)),
            "value": None if self.key is None else numbers[self.key],
        }


def _finite(array: Array) -> list[Any]:
    """For JSON, which has neither NaN nor infinities: they become None."""
    return (
        [None if not math.isfinite(x) else x for x in array.tolist()] if array.ndim == 1 else list(map(_finite, array))
    )


def story(graph: Graph, words: Sequence[str]) -> Story | None:
    """What the graph of a language model's loss reads and predicts; None for another graph."""
    last = graph.outputs[0]
    if last.name != "cross_entropy" or len(remembered(last).arrays) < 2:
        return None
    logits, targets = (np.asarray(a) for a in remembered(last).arrays[:2])
    if logits.ndim not in (2, 3) or targets.shape != logits.shape[:-1] or 0 in logits.shape:
        return None
    looked_up = [remembered(n).arrays[1] for n in graph.nodes if n.name == "embedding"]
    ids = next((a for a in looked_up if np.shape(a) == targets.shape), None)
    ids = ids if ids is not None else next((a for a in looked_up if np.size(a) == targets.size), None)
    shape = (1, *logits.shape) if logits.ndim == 2 else logits.shape
    if ids is not None and np.ndim(ids) == 2:
        shape = (*np.shape(ids), logits.shape[-1])
    edge = next((e for e in last.edges if e.position == 0), None)
    loss = remembered(last).values[0]
    return Story(
        ids,
        targets.reshape(shape[:-1]),
        logits.reshape(shape),
        None if edge is None else key_of(edge),
        float(loss) if loss.size == 1 else math.nan,
        words,
    )


def attention_patterns(graph: Graph, node: Node) -> dict[str, Array] | None:
    """Of an attention node, for each query head: the probabilities p (B, H, T, S), their gradient, and the scores'.

    Recomputed from its inputs: ``p = softmax(scale q k^T)``, ``dp = dy v^T``, ``ds = p (dp - rowsum(dp p))``.
    """
    memory = remembered(node)
    given = dict(zip(node.parameters, memory.arrays, strict=False)) | dict(memory.options)
    if node.name == "self_attention" and node.parameters[0] == "qkv":
        q, k, v = split_heads(given["qkv"], given["heads"])
    elif node.name in ("attention", "biased_attention") and tuple(node.parameters[:3]) == ("q", "k", "v"):
        q, k, v = given["q"], given["k"], given["v"]
    else:
        return None
    group = q.shape[1] // max(k.shape[1], 1)
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    scale = given.get("scale")
    scale = 1 / math.sqrt(max(q.shape[-1], 1)) if scale is None else scale
    with np.errstate(all="ignore"):
        scores = (q * scale) @ k.swapaxes(-1, -2) + given.get("bias", 0)
        hide(scores, given.get("mask"), bool(given.get("causal")))
        p = softmax_rows(scores)
        patterns = {"p": p}
        dy = graph.cotangents[node.order][0]
        if dy is not None:
            if node.name == "self_attention":
                dy = heads_of(dy, q.shape[1])
            dp = dy @ v.swapaxes(-1, -2)
            patterns |= {"dp": dp, "ds": p * (dp - (dp * p).sum(-1, keepdims=True))}
    return patterns
