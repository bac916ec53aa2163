"""Fine-tuning a classifier: what is learned, how it is measured, and how much better it is than simple methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from tinygrad_llm import random
from tinygrad_llm.data.padding import padded, shuffled_batches
from tinygrad_llm.data.tables import stratified_places
from tinygrad_llm.finetuning.bag_of_words import HELD_OUT, bag_of_words, majority
from tinygrad_llm.finetuning.classify_config import ClassifyConfig
from tinygrad_llm.finetuning.labelled_data import Labelled, labelled_data, short
from tinygrad_llm.finetuning.predicting import (
    Encoded,
    encode_texts,
    log_probabilities,
    padding_of,
    with_beginning,
)
from tinygrad_llm.finetuning.scores import (
    accuracy,
    class_scores,
    confusion_matrix,
    macro_f1,
    plot_confusion,
    standard_error,
)
from tinygrad_llm.generation.loading import Loaded
from tinygrad_llm.models import Bert
from tinygrad_llm.models.classifier import Classifier, check_classifiable, classes_of, make_classifier
from tinygrad_llm.tape import Array
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.tokenizer import Tokenizer, WordPieceTokenizer
from tinygrad_llm.training.loop import Batch
from tinygrad_llm.training.progress import counting

MEASURED = 2000
"""Held-out texts that are measured during training, at most."""

SAMPLES, WRONG = 5, 10
"""Predictions that a sample shows, and wrong ones that the report does."""


class Classification:
    """Fine-tuning a classifier (a `FinetuneTask`)."""

    unit = "texts"
    next_command = 'predict RUN "a text"'

    def __init__(
        self,
        config: ClassifyConfig,
        model: Classifier | Bert,
        tokenizer: Tokenizer | WordPieceTokenizer,
        data: Labelled,
        training: Encoded,
        held_out: Encoded,
    ) -> None:
        self.config, self.model, self.tokenizer, self.data = config, model, tokenizer, data
        self.training, self.held_out, self.padding = training, held_out, padding_of(tokenizer)
        numbers = {label: number for number, label in enumerate(data.labels)}
        self.targets = np.array([numbers[example.label] for example in data.training])
        self.held_out_targets = np.array([numbers[example.label] for example in data.held_out])
        self.training_examples = len(self._chosen(0))
        self.data_digest = data.digest
        order = random.stream(config.seed, "measured during training").permutation(len(data.held_out))
        self.measured = np.sort(order[:MEASURED])
        self._epoch: tuple[int, list[Array]] = (-1, [])

    # ---- training

    def begin(self, before: dict[str, Any]) -> None:
        """Nothing of it is needed for training."""

    def batch(self, step: int, part: int) -> Batch:
        each = -(-self.training_examples // self.config.batch_size)
        epoch, number = divmod(step * self.config.accumulate + part, each)
        if self._epoch[0] != epoch:
            self._epoch = epoch, self._batches(epoch)
        places = self._epoch[1][number]
        ids, mask = padded([self.training.rows[place] for place in places], self.padding)
        return Batch((ids, mask, self.targets[places]), len(places))

    def _batches(self, epoch: int) -> list[Array]:
        """All batches of an epoch, as places of training examples."""
        chosen = self._chosen(epoch)
        lengths = np.array([len(self.training.rows[place]) for place in chosen])
        generator = random.stream(self.config.seed, "batches", epoch)
        return [chosen[batch] for batch in shuffled_batches(lengths, self.config.batch_size, generator)]

    def _chosen(self, epoch: int) -> Array:
        """Places of the training examples of an epoch: each once, or of each class as many."""
        if self.config.balance == "none":
            return np.arange(len(self.targets))
        counts = np.bincount(self.targets)
        count = int(counts.max() if self.config.balance == "oversample" else counts.min())
        generator = random.stream(self.config.seed, "balance", epoch)
        chosen = []
        for number in range(len(counts)):
            places = np.flatnonzero(self.targets == number)
            whole, rest = divmod(count, len(places))
            chosen += [np.tile(places, whole), generator.permutation(places)[:rest]]
        return np.concatenate(chosen)

    def loss(self, model: Classifier | Bert, batch: Batch) -> Tensor:
        ids, mask, targets = batch.arrays
        return model.loss(ids, targets, mask, reduction="sum")

    def validate(self, model: Classifier | Bert) -> dict[str, float]:
        found = log_probabilities(model, [self.held_out.rows[place] for place in self.measured], self.padding)
        targets = self.held_out_targets[self.measured]
        confusion = confusion_matrix(targets, found.argmax(axis=1), len(self.data.labels))
        return {
            "validation_loss": float(-found[np.arange(len(targets)), targets].mean()),
            "validation_accuracy": accuracy(confusion),
            "validation_macro_f1": macro_f1(confusion),
        }

    def sample(self, model: Classifier | Bert) -> str:
        """Some held-out texts, with what they are taken for."""
        places = self.measured[:SAMPLES]
        found = log_probabilities(model, [self.held_out.rows[place] for place in places], self.padding)
        return "\n".join(self._prediction(place, row) for place, row in zip(places, found, strict=True))

    def _prediction(self, place: int, found: Array) -> str:
        """One line of a held-out text with what it is taken for, its log-probabilities being `found` (classes,)."""
        example, best = self.data.held_out[place], int(found.argmax())
        verdict = "right" if best == self.held_out_targets[place] else f"is {short(example.label, 30)}"
        label = short(self.data.labels[best], 30)
        return f"{math.exp(found[best]):.2f} {label} ({verdict}): {short(example.text, 90)}"

    # ---- the simple methods, and the report

    def measure_before(self, console: Console) -> dict[str, Any]:
        """What the most frequent class and a bag of words make of the held-out texts."""
        labels, data = self.data.labels, self.data
        frequent = np.full(len(data.held_out), majority(self.targets))
        tried = stratified_places([example.label for example in data.training], HELD_OUT, self.config.seed)
        with counting(console, "training a bag of words to compare with") as progress:
            predict, strength = bag_of_words(
                [e.text for e in data.training], self.targets, len(labels), np.array(tried), self.config.seed, progress
            )
        words = predict([example.text for example in data.held_out])
        return {
            "the most frequent class": self._measured(frequent),
            "bag of words, logistic regression": {**self._measured(words), "strength": strength},
        }

    def _measured(self, predicted: Array) -> dict[str, Any]:
        confusion = confusion_matrix(self.held_out_targets, predicted, len(self.data.labels))
        return {
            "accuracy": accuracy(confusion),
            "standard_error": standard_error(confusion),
            "macro_f1": macro_f1(confusion),
            "wrong": np.flatnonzero(predicted != self.held_out_targets).tolist(),
        }

    def report(self, run: Path, before: dict[str, Any], console: Console) -> dict[str, Any]:
        """Tables on the console, the confusion matrix in ``confusion.png``, and all of it to be saved."""
        with counting(console, "measuring the held-out texts") as progress:
            found = log_probabilities(self.model, self.held_out.rows, self.padding, progress)
        predicted, targets, labels = found.argmax(axis=1), self.held_out_targets, self.data.labels
        confusion = confusion_matrix(targets, predicted, len(labels))
        plot_confusion(confusion, labels, run / "confusion.png")
        measured = self._measured(predicted)
        scores = dict(zip(labels, class_scores(confusion), strict=True))
        _tell_scores(scores, console)
        _tell_comparison({"this model": measured, **before}, len(targets), console)
        wrong = sorted(measured["wrong"], key=lambda place: -found[place].max())[:WRONG]
        if wrong:
            console.print("most wrong  (probability, what it was taken for, what it is, the text)")
        for place in wrong:
            console.print(f"  {self._prediction(place, found[place])}")
        console.print(f"picture     {run / 'confusion.png'}: what was taken for what")
        return {
            **measured,
            "loss": float(-found[np.arange(len(targets)), targets].mean()),
            "held_out": len(targets),
            "trained_on": len(self.targets),
            "classes": {label: score._asdict() for label, score in scores.items()},
            "confusion": confusion.tolist(),
            "compared": before,
            "most_wrong": [
                {
                    "text": short(self.data.held_out[place].text, 400),
                    "label": labels[targets[place]],
                    "predicted": labels[predicted[place]],
                    "probability": math.exp(found[place].max()),
                }
                for place in wrong
            ],
        }


def prepare_classification(config: ClassifyConfig, loaded: Loaded, console: Console) -> Classification:
    """The task of these settings: the examples are read and told, and the model is given its head."""
    check_classifiable(loaded.model)
    data = labelled_data(config, console)
    longest = loaded.model.config.context
    if config.context > longest:
        raise ValueError(f"--context {config.context:,}: the model takes {longest:,} tokens")
    context = config.context or longest
    tokenizer = loaded.tokenizer if classes_of(loaded.model) else with_beginning(loaded.tokenizer)
    with counting(console, "encoding the texts") as progress:
        training = encode_texts(tokenizer, [e.text for e in data.training], context, progress)
        held_out = encode_texts(tokenizer, [e.text for e in data.held_out], context)
    _tell_lengths(np.concatenate([training.lengths, held_out.lengths]), context, console)
    pooling = "" if config.pooling == "auto" else config.pooling
    model = make_classifier(loaded.model, data.labels, pooling, padding_of(tokenizer), config.seed)
    return Classification(config, model, tokenizer, data, training, held_out)


def _tell_lengths(lengths: Array, context: int, console: Console) -> None:
    middle, most, longest = np.percentile(lengths, [50, 95, 100]).astype(int)
    console.print(
        f"lengths     half of the texts up to {middle:,} tokens, 95 % up to {most:,}, the longest {longest:,}"
    )
    if cut := int((lengths > context).sum()):
        share = f"{cut:,} of {len(lengths):,} ({cut / len(lengths):.1%})"
        console.print(
            f"            {share} are longer than {context:,} tokens, of which the model does not see the rest"
        )


def _tell_scores(scores: dict[str, Any], console: Console) -> None:
    width = max(len("class"), *(len(short(label, 30)) for label in scores))
    console.print(f"{'class':<{width}}  precision  recall      F1  held out")
    for label, score in scores.items():
        console.print(
            f"{short(label, 30):<{width}}  {score.precision:>9.1%}  {score.recall:>6.1%}  {score.f1:>6.1%}  "
            f"{score.examples:>8,}"
        )


def _tell_comparison(measured: dict[str, dict[str, Any]], count: int, console: Console) -> None:
    """The accuracies, the model's first, and whether it is better than the others."""
    width = max(map(len, measured))
    console.print(f"{'':<{width}}  accuracy  (standard error)  macro F1")
    for name, one in measured.items():
        margin = f"(+- {one['standard_error']:.1%})"
        console.print(f"{name:<{width}}  {one['accuracy']:>8.1%}  {margin:>16}  {one['macro_f1']:>8.1%}")
    (model, own), *_, (name, other) = measured.items()
    won, lost = difference(own["wrong"], other["wrong"])
    gain = (won - lost) / count
    error = math.sqrt(((won + lost) / count - gain**2) / count)
    verdict = f"better than {name} by" if gain > 0 else f"worse than {name} by" if gain < 0 else f"as good as {name},"
    console.print(f"{model} is {verdict} {abs(gain):.1%} (+- {error:.1%}):")
    console.print(f"of {count:,} texts it alone gets {won:,} right, the other alone {lost:,}")


def difference(wrong: Sequence[int], other_wrong: Sequence[int]) -> tuple[int, int]:
    """How many examples only the first gets right, and only the second, from those that each gets wrong."""
    return len(set(other_wrong) - set(wrong)), len(set(wrong) - set(other_wrong))
