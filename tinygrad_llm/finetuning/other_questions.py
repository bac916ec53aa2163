"""Questions after other things than those that are learned: what a model answers to them before and after.

How much is forgotten is also told by one number: the nats that each token of the answers before costs the model after.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console

from tinygrad_llm.data.dialogues import Dialogue
from tinygrad_llm.data.records import read_records
from tinygrad_llm.finetuning.labelled_data import short
from tinygrad_llm.finetuning.packing import shifted
from tinygrad_llm.finetuning.templates import encode_dialogues
from tinygrad_llm.generation.answers import answer_prompts
from tinygrad_llm.generation.chat import turn_ends
from tinygrad_llm.models import Decoder
from tinygrad_llm.tokenizer import ChatTemplate, Tokenizer
from tinygrad_llm.training.evaluation import token_losses
from tinygrad_llm.training.progress import counting

TOKENS = 64
"""Of an answer, at most."""

SHOWN = 240
"""Characters of an answer that are printed."""


def read_questions(path: str) -> list[str]:
    """Those of a text file that has one in each line, each once."""
    return list(dict.fromkeys(read_records(path, str.strip)))


def asked_before(model: Decoder, tokenizer: Tokenizer, questions: Sequence[str], console: Console) -> dict[str, Any]:
    """The questions, what the model answers, and what its answers cost it (`loss_of_answers`)."""
    answers = answers_to(model, tokenizer, questions, console)
    loss = loss_of_answers(model, tokenizer, questions, answers)
    return {"questions": list(questions), "answers": answers, "loss": loss}


def asked_after(model: Decoder, tokenizer: Tokenizer, before: dict[str, Any], console: Console) -> dict[str, Any]:
    """What the model answers now to the questions of `asked_before`, and what its answers of then cost it."""
    questions, answers = before["questions"], before["answers"]
    trios = zip(questions, answers, answers_to(model, tokenizer, questions, console), strict=True)
    return {
        "loss_before": before["loss"],
        "loss_after": loss_of_answers(model, tokenizer, questions, answers),
        "answers": [{"question": question, "before": old, "after": new} for question, old, new in trios],
    }


def answers_to(model: Decoder, tokenizer: Tokenizer, questions: Sequence[str], console: Console) -> list[str]:
    """What the model answers, always taking the likeliest token."""
    template, ends = ChatTemplate.of(tokenizer), frozenset(turn_ends(tokenizer).values())
    prompts = [template.encode(tokenizer, [_asked(question)]) for question in questions]
    with counting(console, f"answering {len(prompts):,} other questions") as progress:
        found = answer_prompts(model, prompts, ends, TOKENS, tokenizer.vocab_size, progress)
    return [tokenizer.decode(ids) for ids in found]


def loss_of_answers(model: Decoder, tokenizer: Tokenizer, questions: Sequence[str], answers: Sequence[str]) -> float:
    """Nats for each token of some answers, as far as the context goes, but for the token that ends one: those that are
    cut off have none. NaN if they have no tokens."""
    dialogues = [
        Dialogue((_asked(question), {"role": "assistant", "content": answer}))
        for question, answer in zip(questions, answers, strict=True)
        if answer
    ]
    if not dialogues:
        return math.nan
    was_training, losses, last = model.training, [], model.config.context + 1
    model.eval()
    try:
        for one in encode_dialogues(tokenizer, dialogues):
            ids, targets = shifted(one.ids[:-1][:last], one.answers[:-1][:last])
            losses.append(token_losses(model, ids[None], targets[None]))
    finally:
        model.train(was_training)
    return float(np.concatenate(losses).mean())


def tell_other_questions(told: dict[str, Any], console: Console) -> None:
    """Each question with its answers, whole lines, and the loss."""
    console.print(f"other questions, and what is answered before and after (of {TOKENS} tokens, cut at {SHOWN} signs)")
    for one in told["answers"]:
        console.print(f"question    {short(one['question'], SHOWN)}")
        console.print(f"  before    {short(one['before'], SHOWN)}")
        console.print(f"  after     {short(one['after'], SHOWN)}")
    before, after = told["loss_before"], told["loss_after"]
    console.print(f"what was answered before costs {before:.3f} nats a token before, {after:.3f} after")


def _asked(question: str) -> dict[str, str]:
    return {"role": "user", "content": question}
