"""Multiple choice: the answer that a language model finds most probable after the question."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from typing import Any, NamedTuple

import numpy as np

from tinygrad_llm.data import IGNORE, json_value, read_records, text_value
from tinygrad_llm.models import Decoder
from tinygrad_llm.tape import Array
from tinygrad_llm.tokenizer import Tokenizer
from tinygrad_llm.training.evaluation import TOKENS, token_losses


class Question(NamedTuple):
    """A text, what may follow it, and which of these is right, counted from 0."""

    text: str
    choices: tuple[str, ...]
    answer: int


class Row(NamedTuple):
    """A question and one of its choices, as tokens, of which the last `targets` are the choice."""

    ids: list[int]
    targets: int


def read_questions(path: str | PathLike[str]) -> list[Question]:
    """From a file of JSON lines ``{"question": text, "choices": [text, ...], "answer": index}``; the text may also be
    called "context". DataError lists all faulty lines."""
    return read_records(path, parse_question)


def parse_question(line: str) -> Question:
    """One line of such a file. ValueError says what is wrong with it."""
    record = json_value(line)
    if not isinstance(record, dict):
        raise ValueError("not a JSON object, which is written in braces")
    names = [name for name in ("question", "context") if name in record]
    if len(names) != 1:
        raise ValueError(f"has {' and '.join(names) or 'neither question nor context'}; it must have one of the two")
    choices, answer = record.get("choices"), record.get("answer")
    if not isinstance(choices, list) or len(choices) < 2:
        raise ValueError("choices must be a list of at least two texts")
    for number, choice in enumerate(choices):
        if not text_value(choice, f"choice {number}"):
            raise ValueError(f"choice {number} is empty")
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise ValueError(f"answer must be a whole number from 0 to {len(choices) - 1}, the index of the right choice")
    return Question(text_value(record[names[0]], names[0]), tuple(choices), answer)


def measure_choices(
    model: Decoder,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Shares of the questions to which the model gives the right answer.

    `accuracy` takes the choice with the greatest log-likelihood, the sum over its tokens; `accuracy_per_byte` divides
    it by the choice's UTF-8 bytes first, so that long ones are not at a disadvantage. `standard_error` is that of the
    accuracy, ``sqrt(a (1 - a) / n)``; `chance` is the accuracy of guessing. Of equal choices the first is taken.
    """
    found = log_likelihoods(model, tokenizer, questions, progress)
    right = normalized = 0
    for question, likelihood in zip(questions, found, strict=True):
        sizes = np.array([len(choice.encode()) for choice in question.choices])
        right += int(likelihood.argmax() == question.answer)
        normalized += int((likelihood / sizes).argmax() == question.answer)
    count = len(questions)
    accuracy = right / count
    return {
        "questions": count,
        "accuracy": accuracy,
        "accuracy_per_byte": normalized / count,
        "standard_error": math.sqrt(accuracy * (1 - accuracy) / count),
        "chance": sum(1 / len(question.choices) for question in questions) / count,
    }


def log_likelihoods(
    model: Decoder,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Array]:
    """For each question, in nats, the log-probability of each of its choices after it.

    A question that does not fit into the context with a choice loses its beginning. ValueError for a choice that alone
    does not fit. `progress(done, total)` is told the choices of all questions.
    """
    context = model.config.context
    rows = [row for number, q in enumerate(questions, 1) for row in _rows(tokenizer, q, context, number)]
    totals, done = np.empty(len(rows)), 0
    model.eval()
    for batch in _batches(rows):
        ids, targets = _padded([rows[number] for number in batch])
        losses = token_losses(model, ids, targets)
        of_row = np.nonzero(targets != IGNORE)[0]
        totals[batch] = -np.bincount(of_row, weights=losses, minlength=len(batch))
        done += len(batch)
        progress(done, len(rows))
    if not np.isfinite(totals).all():
        raise ValueError("the model's logits are not finite: its weights are damaged, or training diverged")
    return np.split(totals, np.cumsum([len(question.choices) for question in questions])[:-1])


def _rows(tokenizer: Tokenizer, question: Question, context: int, number: int) -> Iterator[Row]:
    """Each choice after the question, the last `context` + 1 tokens of it.

    White space at the end of the question is taken for the beginning of the choice, as it is in most tokens; without
    any, a space is put there. So do common harnesses.
    """
    text = question.text.rstrip()
    before = [*tokenizer.conventions.before] if text else [*tokenizer.start_ids]
    alone = [*before, *tokenizer.encode(text, disallowed_special=()).tolist()]
    for choice in question.choices:
        between = question.text[len(text) :] or ("" if choice[0].isspace() or not text else " ")
        whole = [*before, *tokenizer.encode(text + between + choice, disallowed_special=()).tolist()]
        same = next((i for i, (a, b) in enumerate(zip(alone, whole, strict=False)) if a != b), len(alone))
        count = len(whole) - max(1, same)
        if count > context:
            raise ValueError(
                f"question {number} has a choice of {count:,} tokens, and the context is {context:,}: {choice[:40]!r}"
            )
        yield Row(whole[-context - 1 :], count)


def _batches(rows: Sequence[Row]) -> Iterator[list[int]]:
    """Numbers of rows, the longest first, as many as have at most `TOKENS` tokens when they are padded."""
    order = sorted(range(len(rows)), key=lambda number: -len(rows[number].ids))
    while order:
        count = max(1, TOKENS // len(rows[order[0]].ids))
        yield order[:count]
        order = order[count:]


def _padded(rows: Sequence[Row]) -> tuple[Array, Array]:
    """ids and targets (B, T), with padding on the right, which no position before it sees."""
    width = max(len(row.ids) for row in rows) - 1
    ids, targets = np.zeros((len(rows), width), np.int64), np.full((len(rows), width), IGNORE)
    for number, row in enumerate(rows):
        end = len(row.ids) - 1
        ids[number, :end] = row.ids[:-1]
        targets[number, end - row.targets : end] = row.ids[-row.targets :]
    return ids, targets
