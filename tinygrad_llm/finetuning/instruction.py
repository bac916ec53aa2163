"""Instruction tuning: a decoder learns to answer. What is learned, and how well held-out prompts are answered."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from tinygrad_llm import random
from tinygrad_llm.data.dialogues import plain_messages
from tinygrad_llm.data.padding import batches_by_length, shuffled_batches
from tinygrad_llm.finetuning.answer_scores import best_match, scores_of
from tinygrad_llm.finetuning.instruct_config import InstructConfig
from tinygrad_llm.finetuning.instruction_data import InstructionData, instruction_data
from tinygrad_llm.finetuning.instruction_report import MARK, plot_lengths, tell_answers, tell_scores, write_answers
from tinygrad_llm.finetuning.labelled_data import short
from tinygrad_llm.finetuning.other_questions import asked_after, asked_before, read_questions, tell_other_questions
from tinygrad_llm.finetuning.packing import Rows, packed_rows, padded_rows, shifted
from tinygrad_llm.finetuning.templates import fitted_decoder, tell_template
from tinygrad_llm.generation.answers import answer_prompts
from tinygrad_llm.generation.chat import turn_ends
from tinygrad_llm.generation.loading import Loaded
from tinygrad_llm.models import Decoder, Recurrent
from tinygrad_llm.tape import Array, no_grad
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.tokenizer import Tokenizer
from tinygrad_llm.training.evaluation import TOKENS
from tinygrad_llm.training.loop import Batch
from tinygrad_llm.training.metrics import read_metrics
from tinygrad_llm.training.progress import counting

MEASURED = 500
"""Held-out examples whose loss is measured, at most."""

TOLD = 200
"""Batches, at most, of which it is told what packing saves."""

SAMPLES = 5
"""Held-out prompts that a sample answers."""

SHORTEST, LONGEST = 32, 256
"""Between these, a generated answer may have as many tokens as the longest of those held out, unless the settings say
otherwise: what a model says that has not learned yet to be short is to be seen."""

WIDTH = 1024
"""Tokens of a packed row at most, unless an example is longer: the mask has as many places as its square."""


class Instruction:
    """Tuning a decoder to answer (a `FinetuneTask`)."""

    unit = "answer tokens"
    next_command = "chat RUN"

    def __init__(self, config: InstructConfig, model: Decoder, tokenizer: Tokenizer, data: InstructionData) -> None:
        self.config, self.model, self.tokenizer, self.data = config, model, tokenizer, data
        self.packing = config.packing and not isinstance(model, Recurrent)
        self.training_examples = len(data.training.encoded)
        self.questions = read_questions(config.questions) if config.questions else []
        self.data_digest = data.digest
        learned = [*data.training.encoded, *data.rehearsal.encoded]
        self.sequences = [shifted(one.ids, one.answers) for one in learned]
        self.lengths = np.array([len(ids) for ids, _ in self.sequences])
        self.held_out = [shifted(one.ids, one.answers) for one in data.held_out.encoded]
        order = random.stream(config.seed, "measured").permutation(len(self.held_out))
        self.measured = np.sort(order[:MEASURED])
        alike: dict[str, list[int]] = {}
        for place, dialogue in enumerate(data.held_out.dialogues):
            alike.setdefault(plain_messages(dialogue.prompt), []).append(place)
        self.alike = {places[0]: places for places in alike.values()}
        prompts = list(self.alike)  # each once, however many answers it has
        order = random.stream(config.seed, "answered").permutation(len(prompts))
        self.answered = [prompts[number] for number in order[: max(SAMPLES, config.answered)]]
        self.ends = frozenset(turn_ends(tokenizer).values())
        self._epoch: tuple[int, list[Array]] = (-1, [])

    # ---- training

    def begin(self, before: dict[str, Any]) -> None:
        """Nothing of it is needed for training."""

    def batch(self, step: int, part: int) -> Batch:
        each = -(-self.training_examples // self.config.batch_size)
        epoch, number = divmod(step * self.config.accumulate + part, each)
        if self._epoch[0] != epoch:
            self._epoch = epoch, self.batches(epoch)
        rows = self.rows(self._epoch[1][number], self.packing)
        return Batch(rows, rows.counted)

    def batches(self, epoch: int) -> list[Array]:
        """The places of the examples of each batch, whether they are packed or not.

        What is rehearsed comes on top of the batch size, to each batch its share: between batches without it the model
        would forget.
        """
        stream = random.stream(self.config.seed, "batches", epoch)
        batches = shuffled_batches(self.lengths[: self.training_examples], self.config.batch_size, stream)
        rehearsed = self.training_examples + stream.permutation(len(self.lengths) - self.training_examples)
        shares = np.array_split(rehearsed, len(batches))
        return [np.concatenate(both) for both in zip(batches, shares, strict=True)]

    def rows(self, places: Array, packing: bool) -> Rows:
        """What the model is given of some training examples."""
        return self._rows([self.sequences[place] for place in places], packing)

    def _rows(self, sequences: Sequence[tuple[Array, Array]], packing: bool) -> Rows:
        inputs, targets = zip(*sequences, strict=True)
        if not packing:
            return padded_rows(inputs, targets)
        width = max(min(WIDTH, self.data.context), *map(len, inputs))
        sharing = not getattr(self.model.config, "window", 0)
        return packed_rows(inputs, targets, width, self.model.config.channels, sharing)

    def loss(self, model: Decoder, batch: Batch) -> Tensor:
        ids, targets, positions, mask = batch.arrays
        return model.loss(ids, targets, reduction="sum", positions=positions, mask=mask)

    def validate(self, model: Decoder) -> dict[str, float]:
        return {"validation_loss": self.held_out_loss(model, self.measured)}

    def held_out_loss(
        self, model: Decoder, places: Array, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> float:
        """Nats for each token of the answers of some held-out examples."""
        was_training, nats, count, done = model.training, 0.0, 0, 0
        model.eval()
        inputs = [self.held_out[place] for place in places]
        try:
            for some in batches_by_length([ids for ids, _ in inputs], TOKENS):
                rows = self._rows([inputs[number] for number in some], self.packing)
                with no_grad():
                    nats += self.loss(model, Batch(rows, rows.counted)).item()
                count, done = count + rows.counted, done + len(some)
                progress(done, len(places))
        finally:
            model.train(was_training)
        return nats / count

    def sample(self, model: Decoder) -> str:
        """Some held-out prompts, what was expected, and what the model answers."""
        places = self.answered[:SAMPLES]
        lines = []
        for place, answer in zip(places, self.answers(model, places), strict=True):
            dialogue = self.data.held_out.dialogues[place]
            lines += [f"prompt    {short(dialogue.asked, 200)}", f"expected  {short(dialogue.answer, 200)}"]
            lines.append(f"{MARK}{short(answer, 200)}\n")
        return "\n".join(lines).rstrip("\n")

    # ---- answers

    @property
    def answer_tokens(self) -> int:
        """The tokens of an answer, at most, without the one that ends it but with room for that."""
        longest = max(len(one.ids) - one.prompt for one in self.data.held_out.encoded)
        return self.config.answer_tokens or min(max(longest, SHORTEST), LONGEST)

    def answers(self, model: Decoder, places: list[int], console: Console | None = None) -> list[str]:
        """What the model answers to some held-out prompts, always taking the likeliest token."""
        encoded = [self.data.held_out.encoded[place] for place in places]
        prompts = [one.ids[: one.prompt] for one in encoded]
        given = model, prompts, self.ends, self.answer_tokens, self.tokenizer.vocab_size
        if console is None:
            found = answer_prompts(*given)
        else:
            with counting(console, f"answering {len(places):,} held-out prompts") as progress:
                found = answer_prompts(*given, progress)
        return [self.tokenizer.decode(ids) for ids in found]

    def _measured(self, console: Console) -> dict[str, Any]:
        """Of the model as it is: loss, and answers with their scores."""
        with counting(console, "measuring held-out examples") as progress:
            loss = self.held_out_loss(self.model, self.measured, progress)
        measured: dict[str, Any] = {"loss": loss, "perplexity": math.exp(min(700.0, loss))}
        places = self.answered[: self.config.answered]
        answers = self.answers(self.model, places, console) if places else []
        matches = [best_match(a, self._expected(place)) for a, place in zip(answers, places, strict=True)]
        if matches:
            measured |= scores_of(matches)._asdict()
        return measured | {"answers": answers, "matches": [list(match) for match in matches]}

    def _expected(self, place: int) -> list[str]:
        """All answers that are held out with the prompt of one that is answered."""
        return [self.data.held_out.dialogues[other].answer for other in self.alike[place]]

    def measure_before(self, console: Console) -> dict[str, Any]:
        """How well the model answers before it learns anything."""
        measured = self._measured(console)
        if self.questions:
            measured["other_questions"] = asked_before(self.model, self.tokenizer, self.questions, console)
        return measured

    def report(self, run: Path, before: dict[str, Any], console: Console) -> dict[str, Any]:
        """Scores before and after on the console; answers before, during and after in ``answers.txt``; the lengths of
        prompts and answers in ``lengths.png``; and all of it to be saved."""
        after = self._measured(console)
        plot_lengths(self.data, run / "lengths.png")
        tell_scores(before, after, console)
        places = self.answered[: len(after["answers"])]
        dialogues = [self.data.held_out.dialogues[place] for place in places]
        answers = [
            {
                "prompt": dialogue.asked,
                "expected": dialogue.answer,
                "before": old,
                "after": new,
                "exact_match_before": old_match[0],
                "exact_match": new_match[0],
                "token_f1_before": old_match[1],
                "token_f1": new_match[1],
            }
            for dialogue, old, new, old_match, new_match in zip(
                dialogues, before["answers"], after["answers"], before["matches"], after["matches"], strict=True
            )
        ]
        tell_answers(answers, console)
        if answers:
            write_answers(answers, read_metrics(run / "metrics.jsonl"), run / "answers.txt")
        other = {}
        if "other_questions" in before:
            other["other_questions"] = asked_after(self.model, self.tokenizer, before["other_questions"], console)
            tell_other_questions(other["other_questions"], console)
        scores = {
            name: {key: value for key, value in one.items() if key not in ("answers", "matches", "other_questions")}
            for name, one in (("before", before), ("after", after))
        }
        return {
            **scores,
            "trained_on": self.training_examples,
            "held_out": len(self.held_out),
            "measured": len(self.measured),
            "answered": len(answers),
            "answer_tokens": self.answer_tokens,
            "packing": self.packing,
            "answers": answers,
            **other,
        }


def prepare_instruction(config: InstructConfig, loaded: Loaded, console: Console) -> Instruction:
    """The task of these settings: the examples are read and told, and the model has the tokens of the template."""
    model, tokenizer, added = fitted_decoder(config, loaded)
    data = instruction_data(config, tokenizer, config.context or model.config.context, console)
    task = Instruction(config, model, tokenizer, data)
    tell_template(tokenizer, added, console)
    _tell_packing(task, console)
    return task


def _tell_packing(task: Instruction, console: Console) -> None:
    """How many tokens pass through the model, packed and not, in some batches of the first epoch."""
    batches = task.batches(0)[:TOLD]
    real = int(sum(task.lengths[places].sum() for places in batches))
    sizes = {packing: sum(task.rows(places, packing).ids.size for places in batches) for packing in (True, False)}
    what = f"{real:,} tokens of {'an epoch' if len(batches) < TOLD else f'{TOLD} batches'}"
    if not task.packing:
        why = "" if not task.config.packing else "; a recurrent model cannot pack, as it reads all that stands before"
        console.print(f"padding     {what} are filled up to {sizes[False]:,}{why}")
        return
    console.print(f"packing     {what} take {sizes[True]:,} places in rows; padding would cost {sizes[False]:,}")
