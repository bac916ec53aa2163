"""Questions after other things: what is asked, what is answered before and after, and what the first answers cost."""

import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from tinygrad_llm import no_grad
from tinygrad_llm.data import DataError
from tinygrad_llm.finetuning import other_questions as module
from tinygrad_llm.finetuning.other_questions import (
    answers_to,
    asked_after,
    asked_before,
    loss_of_answers,
    read_questions,
    tell_other_questions,
)
from tinygrad_llm.finetuning.templates import with_template
from tinygrad_llm.generation.chat import Conversation
from tinygrad_llm.generation.sampling import Sampling
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.tokenizer import ChatTemplate, Tokenizer

QUESTIONS = ["Who are you?", "Why?", "What is the moon made of?"]


@pytest.fixture(scope="module")
def pair():
    """A model that was taught nothing, and its tokenizer."""
    tokenizer = with_template(
        Tokenizer.train(["Who are you? Why? What is the moon made of? Cheese. " * 9], 300), "chatml"
    )
    config = GPTConfig(tokenizer.vocab_size, 128, 16, 2, 2, init_std=0.3, dropout=0.5)
    return GPT(config, seed=4).astype(np.float64), tokenizer


def quiet():
    return Console(file=io.StringIO(), soft_wrap=True, markup=False, highlight=False, width=200)


def test_questions_stand_in_lines(tmp_path):
    file = tmp_path / "q.txt"
    file.write_text("Why?\n\n  Who are you? \nWhy?\n", encoding="utf-8")
    assert read_questions(str(file)) == ["Why?", "Who are you?"]
    file.write_text("\n \n", encoding="utf-8")
    with pytest.raises(DataError, match="all its lines are blank"):
        read_questions(str(file))
    with pytest.raises(DataError, match="nothing"):
        read_questions(str(tmp_path / "nothing.txt"))


def test_answers_are_those_of_a_conversation(pair, monkeypatch):
    monkeypatch.setattr(module, "TOKENS", 9)
    model, tokenizer = pair
    found = answers_to(model, tokenizer, QUESTIONS, quiet())
    expected = [
        "".join(Conversation(model, tokenizer, Sampling(temperature=0), max_tokens=9).answer(question))
        for question in QUESTIONS
    ]
    assert found == expected
    assert any(found)


def test_the_loss_is_of_the_tokens_that_are_said(pair):
    model, tokenizer = pair
    answers = ["Cheese.", "the moon", ""]
    nats, template = [], ChatTemplate.of(tokenizer)
    with no_grad():
        for question, answer in zip(QUESTIONS[:2], answers, strict=False):
            prompt = template.encode(tokenizer, [{"role": "user", "content": question}])
            said = tokenizer.encode(answer)
            logits = model.eval()(np.concatenate([prompt, said])[None]).data[0]
            log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            nats += [-log_p[len(prompt) - 1 + place, token] for place, token in enumerate(said)]
    model.train()
    assert loss_of_answers(model, tokenizer, QUESTIONS, answers) == pytest.approx(np.mean(nats), rel=1e-9)
    assert model.training
    assert math.isnan(loss_of_answers(model, tokenizer, QUESTIONS[:1], [""]))


def test_after_is_compared_with_before(pair, monkeypatch):
    model, tokenizer = pair
    before = json.loads(json.dumps(asked_before(model.eval(), tokenizer, QUESTIONS, quiet())))
    assert before["questions"] == QUESTIONS
    same = asked_after(model, tokenizer, before, quiet())
    assert [(one["question"], one["before"]) for one in same["answers"]] == list(
        zip(QUESTIONS, before["answers"], strict=True)
    )
    assert all(one["after"] == one["before"] for one in same["answers"])
    assert same["loss_after"] == same["loss_before"] == before["loss"] > 0
    monkeypatch.setattr(module, "answers_to", lambda *_: ["new 1", "new 2", "new 3"])
    told = asked_after(GPT(model.config, seed=5), tokenizer, before, quiet())
    assert [one["after"] for one in told["answers"]] == ["new 1", "new 2", "new 3"]
    assert told["loss_after"] != told["loss_before"] == before["loss"]
    console = quiet()
    tell_other_questions(told, console)
    lines = console.file.getvalue().split("\n")
    assert "question    Why?" in lines
    assert "  after     new 2" in lines
    assert lines.index("  after     new 2") == lines.index("question    Why?") + 2
    assert f"{told['loss_before']:.3f} nats a token before, {told['loss_after']:.3f} after" in console.file.getvalue()
