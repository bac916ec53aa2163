"""Direct preference optimisation: a decoder learns which of two answers is the better one.

Its reference is the model itself, as it was before the first step. What that gives to the answers is worked out once,
with the weights that training begins with, and kept in the run: so there is never a second model in memory. It makes no
difference whether all weights are trained or an adapter: an adapter begins as one that adds nothing, and then the
reference is the model without it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from tinygrad_llm import ops, random
from tinygrad_llm.data.dialogues import plain_messages
from tinygrad_llm.data.padding import shuffled_batches
from tinygrad_llm.finetuning.answer_scores import match
from tinygrad_llm.finetuning.dpo_config import DpoConfig
from tinygrad_llm.finetuning.labelled_data import short
from tinygrad_llm.finetuning.likelihoods import log_probabilities, measured_log_probabilities
from tinygrad_llm.finetuning.packing import padded_rows
from tinygrad_llm.finetuning.preference_data import PreferenceData, preference_data
from tinygrad_llm.finetuning.preference_report import plot_margins, tell_answers, tell_measured
from tinygrad_llm.finetuning.templates import fitted_decoder, tell_template
from tinygrad_llm.generation.answers import answer_prompts
from tinygrad_llm.generation.chat import turn_ends
from tinygrad_llm.generation.loading import Loaded
from tinygrad_llm.models import Decoder
from tinygrad_llm.nn import Dropout
from tinygrad_llm.tape import Array
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.tokenizer import Tokenizer
from tinygrad_llm.training.loop import Batch
from tinygrad_llm.training.metrics import read_metrics
from tinygrad_llm.training.progress import counting

MEASURED = 500
"""Held-out pairs that are measured during training, at most."""

SAMPLES = 3
"""Held-out pairs that a sample shows."""

LONGEST = 64
"""Tokens of a generated answer, at most."""


class PreferenceOptimization:
    """Teaching a decoder which answers are preferred (a `FinetuneTask`)."""

    unit = "pairs"
    next_command = "chat RUN"

    def __init__(self, config: DpoConfig, model: Decoder, tokenizer: Tokenizer, data: PreferenceData) -> None:
        self.config, self.model, self.tokenizer, self.data = config, model, tokenizer, data
        self.training_examples = len(data.training.sequences)
        self.data_digest = data.digest
        self.began_with = weights_digest(model)
        self.lengths = np.array([max(len(ids) for ids, _ in both) for both in data.training.sequences])
        count = len(data.held_out.sequences)
        self.measured = np.sort(random.stream(config.seed, "measured during training").permutation(count)[:MEASURED])
        self.alike: dict[str, list[int]] = {}
        """Places of the held-out pairs of each prompt."""
        for place, pair in enumerate(data.held_out.preferences):
            self.alike.setdefault(plain_messages(pair.prompt), []).append(place)
        first = [places[0] for places in self.alike.values()]
        order = random.stream(config.seed, "answered").permutation(len(first))
        self.answered = [first[place] for place in order[: max(SAMPLES, config.answered)]]
        self.ends = frozenset(turn_ends(tokenizer).values())
        self.reference: tuple[Array, Array]
        """What the reference gives to chosen and rejected (N, 2) of the training and of the held-out pairs."""
        self._epoch: tuple[int, list[Array]] = (-1, [])

    # ---- the reference

    def measure_before(self, console: Console) -> dict[str, Any]:
        """What the model gives to all pairs, and answers, before it learns anything."""
        with counting(console, "measuring what the model gives to the answers before training") as progress:
            training, held_out = (self._given(self.model, part.sequences, progress) for part in self.data)
        kept = {"of": self._reference_digest, "training": training.tolist(), "held_out": held_out.tolist()}
        answers = self._answers(self.model, self.config.answered, console)
        return {**self._scores(held_out, held_out), "answers": answers, "reference": kept}

    def begin(self, before: dict[str, Any]) -> None:
        """Take the reference from what was measured before; ValueError if that was another model, or other pairs."""
        kept = before["reference"]
        if kept["of"] != self._reference_digest:
            raise ValueError(
                "the run keeps what its model gave to the answers before training, but the model or the pairs are not "
                "those any more; begin another run with --out"
            )
        self.reference = np.array(kept["training"]), np.array(kept["held_out"])

    @property
    def _reference_digest(self) -> str:
        """Of all that the reference follows from."""
        return hashlib.sha256(f"{self.began_with} {self.data_digest}".encode()).hexdigest()

    def _given(self, model: Decoder, pairs: Any, progress: Any = lambda done, total: None) -> Array:
        """Log-probabilities (N, 2) of the chosen and the rejected answers."""
        found = measured_log_probabilities(model, [one for both in pairs for one in both], progress)
        return found.reshape(-1, 2)

    # ---- training

    def batch(self, step: int, part: int) -> Batch:
        each = -(-self.training_examples // self.config.batch_size)
        epoch, number = divmod(step * self.config.accumulate + part, each)
        if self._epoch[0] != epoch:
            stream = random.stream(self.config.seed, "batches", epoch)
            self._epoch = epoch, shuffled_batches(self.lengths, self.config.batch_size, stream)
        places = self._epoch[1][number]
        chosen, rejected = zip(*(self.data.training.sequences[place] for place in places), strict=True)
        rows = padded_rows(*zip(*chosen, *rejected, strict=True))
        return Batch((rows, self.reference[0][places]), len(places))

    def loss(self, model: Decoder, batch: Batch) -> Tensor:
        rows, reference = batch.arrays
        given = log_probabilities(model, rows)
        chosen, rejected = given[: batch.targets], given[batch.targets :]
        reference = reference.astype(given.dtype)
        options = {"beta": self.config.beta, "label_smoothing": self.config.label_smoothing}
        return ops.dpo_loss(chosen, rejected, reference[:, 0], reference[:, 1], **options, reduction="sum")

    def validate(self, model: Decoder) -> dict[str, float]:
        given = self._given(model, [self.data.held_out.sequences[place] for place in self.measured])
        scores = self._scores(given, self.reference[1][self.measured])
        return {
            "validation_loss": scores["loss"],
            "validation_accuracy": scores["accuracy"],
            "validation_margin": scores["margin"],
        }

    def _margins(self, given: Array, reference: Array) -> Array:
        """(N,): the reward of the chosen answer less that of the rejected one, ``h`` of `ops.dpo_loss`."""
        gained = given - reference
        return self.config.beta * (gained[:, 0] - gained[:, 1])

    def _scores(self, given: Array, reference: Array) -> dict[str, float]:
        """Means over pairs (N, 2). A margin of zero, which says nothing, counts as half a right one."""
        margins = self._margins(given, reference)
        options = {"beta": self.config.beta, "label_smoothing": self.config.label_smoothing}
        return {
            "loss": ops.dpo_loss(given[:, 0], given[:, 1], reference[:, 0], reference[:, 1], **options).item(),
            "accuracy": float((1 + np.sign(margins)).mean() / 2),
            "margin": float(margins.mean()),
            "likelier": float((given[:, 0] > given[:, 1]).mean()),
            "chosen": float(given[:, 0].mean()),
            "rejected": float(given[:, 1].mean()),
        }

    # ---- answers and the report

    def _answers(self, model: Decoder, count: int, console: Console | None = None) -> list[str]:
        """What the model answers to the first `count` of the held-out prompts, always taking the likeliest token."""
        prompts = [self.data.held_out.prompts[place] for place in self.answered[:count]]
        given = model, prompts, self.ends, LONGEST, self.tokenizer.vocab_size
        if console is None:
            found = answer_prompts(*given)
        else:
            with counting(console, f"answering {len(prompts):,} held-out prompts") as progress:
                found = answer_prompts(*given, progress)
        return [self.tokenizer.decode(ids) for ids in found]

    def sample(self, model: Decoder) -> str:
        """Some held-out pairs with their log-probabilities, and what the model answers itself."""
        places = self.answered[:SAMPLES]
        given = self._given(model, [self.data.held_out.sequences[place] for place in places])
        answers = self._answers(model, SAMPLES)
        lines = []
        for number, place in enumerate(places):
            pair = self.data.held_out.preferences[place]
            lines.append(f"prompt    {short(pair.chosen.asked, 200)}")
            for name, dialogue, nats in zip(("chosen", "rejected"), pair, given[number], strict=True):
                lines.append(f"{name:<9} {short(dialogue.answer, 200)}  (log-probability {nats:.2f})")
            lines.append(f"answer    {short(answers[number], 200)}\n")
        return "\n".join(lines).rstrip("\n")

    def _matched(self, answers: list[str]) -> dict[str, float]:
        """Shares of the answers that match what was chosen, and what was rejected, for their prompts."""
        if not answers:
            return {}
        preferences, both = self.data.held_out.preferences, []
        for answer, place in zip(answers, self.answered, strict=False):
            pairs = [preferences[other] for other in self.alike[plain_messages(preferences[place].prompt)]]
            sides = zip(*pairs, strict=True)  # all that were chosen, and all that were rejected
            both.append([max(match(answer, dialogue.answer).exact for dialogue in side) for side in sides])
        chosen, rejected = np.mean(both, axis=0).tolist()
        return {"answers_chosen": chosen, "answers_rejected": rejected}

    def report(self, run: Path, before: dict[str, Any], console: Console) -> dict[str, Any]:
        """Scores and answers before and after on the console, the margins in ``margins.png``, and all to be saved."""
        with counting(console, "measuring the held-out pairs") as progress:
            given = self._given(self.model, self.data.held_out.sequences, progress)
        answers = self._answers(self.model, self.config.answered, console)
        scores = {
            "before": {key: before[key] for key in before if key not in ("answers", "reference")}
            | self._matched(before["answers"]),
            "after": self._scores(given, self.reference[1]) | self._matched(answers),
        }
        count = len(given)
        tell_measured(scores, count, console)
        pairs = [self.data.held_out.preferences[place] for place in self.answered[: len(answers)]]
        shown = [
            {
                "prompt": pair.chosen.asked,
                "chosen": pair.chosen.answer,
                "rejected": pair.rejected.answer,
                "before": old,
                "after": new,
            }
            for pair, old, new in zip(pairs, before["answers"], answers, strict=True)
        ]
        tell_answers(shown, console)
        margins = self._margins(given, self.reference[1])
        plot_margins(margins, read_metrics(run / "metrics.jsonl"), run / "margins.png")
        return {
            **scores,
            "beta": self.config.beta,
            "trained_on": self.training_examples,
            "held_out": count,
            "margins": margins.tolist(),
            "answers": shown,
        }


def weights_digest(model: Decoder) -> str:
    """SHA-256 of all weights and their names."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {parameter.shape} {parameter.dtype}".encode())
        digest.update(np.ascontiguousarray(parameter.data).data)
    return digest.hexdigest()


def prepare_preferences(config: DpoConfig, loaded: Loaded, console: Console) -> PreferenceOptimization:
    """The task of these settings: the pairs are read and told, and the model has the tokens of the template."""
    model, tokenizer, added = fitted_decoder(config, loaded)
    for module in model.modules():  # what is measured before training drops nothing either: both see the same model
        if isinstance(module, Dropout):
            module.p = 0.0
    data = preference_data(config, tokenizer, config.context or model.config.context, console)
    tell_template(tokenizer, added, console)
    return PreferenceOptimization(config, model, tokenizer, data)
