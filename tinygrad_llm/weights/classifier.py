"""Classifiers as Hugging Face writes them: a model without its head, and the matrix that makes scores of classes.

Decoders whose last token is looked at are `GPT2ForSequenceClassification`, `LlamaForSequenceClassification` and so on,
with the matrix in ``score.weight``. For the mean of all tokens `transformers` has nothing. There the names are ours,
`GPT2ForMeanPooledClassification` and ``mean_pooled_score.weight``, so that no program takes one for the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tinygrad_llm.weights.bert import labels_of, write_labels
from tinygrad_llm.weights.entries import Entry, Layout
from tinygrad_llm.weights.settings import require

ENDINGS = {"last": "ForSequenceClassification", "mean": "ForMeanPooledClassification"}
"""How the architecture's name ends, by the pooling."""

SCORES = {"last": "score.weight", "mean": "mean_pooled_score.weight"}
"""The name of the matrix."""


def pooling_of(json: Mapping[str, Any]) -> str:
    """The pooling of the classifier that config.json names, or nothing if it names none."""
    named = json.get("architectures")
    if not isinstance(named, list) or len(named) != 1:
        return ""
    return next((pooling for pooling, ending in ENDINGS.items() if str(named[0]).endswith(ending)), "")


class ClassifierLayout:
    """The `Layout` of a classifier, from that of the model it stands on, whose parameters are called ``body....``"""

    def __init__(self, body: Layout) -> None:
        self.body, self.MODEL_TYPES, self.PREFIX, self.IGNORED = body, body.MODEL_TYPES, body.PREFIX, body.IGNORED
        self.OUTSIDE = (*body.OUTSIDE, *SCORES.values())

    def read_config(self, json: Mapping[str, Any]) -> dict[str, Any]:
        """All but the body's."""
        require(json, problem_type=("single_label_classification", None))
        padding = json.get("pad_token_id")
        if padding is not None and (type(padding) is not int or padding < 0):
            raise ValueError(f"config.json has pad_token_id = {padding!r}, which is no token")
        return {"labels": labels_of(json), "pooling": pooling_of(json), "padding": -1 if padding is None else padding}

    def write_config(self, config: Any) -> dict[str, Any]:
        json = self.body.write_config(config.body)
        named = json.get("architectures", ["Recurrent"])[0]
        kind = re.sub(r"(LMHeadModel|Model|ForCausalLM)$", "", named)
        return {
            **json,
            "architectures": [kind + ENDINGS[config.pooling]],
            "pad_token_id": None if config.padding < 0 else config.padding,
            **write_labels(config.labels),
        }

    def copies(self, config: Any) -> dict[str, str]:
        return {}

    def entries(self, config: Any) -> list[Entry]:
        body = [entry for entry in self.body.entries(config.body) if entry.ours != "lm_head.weight"]
        return [
            *(entry._replace(ours=f"body.{entry.ours}") for entry in body),
            Entry("score.weight", (SCORES[config.pooling],), transposed=True),
        ]
