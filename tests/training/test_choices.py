"""Multiple choice by log-likelihood."""

import json
import math

import numpy as np
import pytest

from tinygrad_llm.data import DataError
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.ops.softmaxes import log_softmax
from tinygrad_llm.tokenizer import Tokenizer
from tinygrad_llm.training.choices import Question, log_likelihoods, measure_choices, read_questions


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["the cat sat on the mat, and the dog sat on the cat. " * 5], vocab_size=290)


@pytest.fixture(scope="module")
def model(tokenizer):
    return GPT(GPTConfig(tokenizer.vocab_size, context=24, channels=16, layers=1, heads=2, init_std=0.5), seed=3).eval()


def directly(model, tokenizer, question, choice):
    """The sum of the log-probabilities of the choice's tokens, one at a time."""
    before = [*tokenizer.conventions.before, *tokenizer.encode(question).tolist()]
    whole = [*tokenizer.conventions.before, *tokenizer.encode(question + choice).tolist()]
    assert whole[: len(before)] == before
    table = np.array(log_softmax(model(np.array(whole)[None]).data[0]).data, np.float64)
    return sum(table[place - 1, whole[place]] for place in range(len(before), len(whole)))


def test_each_choice_has_the_sum_of_its_tokens_whatever_stands_beside_it(model, tokenizer):
    questions = [
        Question("the cat", (" sat", " sat on the mat, and", " dog"), 1),
        Question("on the cat the", (" mat", " dog sat"), 0),
    ]
    found = log_likelihoods(model, tokenizer, questions)
    for question, values in zip(questions, found, strict=True):
        expected = [directly(model, tokenizer, question.text, choice) for choice in question.choices]
        np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_white_space_between_belongs_to_the_choice(model, tokenizer):
    forms = [("the cat", " sat"), ("the cat", "sat"), ("the cat ", "sat")]
    questions = [Question(text, (choice, " dog"), 0) for text, choice in forms]
    found = [values[0] for values in log_likelihoods(model, tokenizer, questions)]
    np.testing.assert_allclose(found, [directly(model, tokenizer, "the cat", " sat")] * 3, rtol=1e-5)


def test_what_is_measured(model, tokenizer, monkeypatch):
    def likelihoods(*_):
        return [np.array([-2.0, -3.0]), np.array([-9.0, -4.0, -5.0]), np.array([-1.0, -1.0])]

    monkeypatch.setattr("tinygrad_llm.training.choices.log_likelihoods", likelihoods)
    questions = [
        Question("a", ("x", "xyzw"), 1),  # by bytes, -3/4 beats -2
        Question("b", ("xx", "x", "xxxxx"), 1),  # by bytes, -5/5 beats -4
        Question("c", ("x", "y"), 0),  # a tie: the first
    ]
    measured = measure_choices(model, tokenizer, questions)
    assert measured == {
        "questions": 3,
        "accuracy": 2 / 3,
        "accuracy_per_byte": 2 / 3,
        "standard_error": math.sqrt(2 / 3 * (1 / 3) / 3),
        "chance": (1 / 2 + 1 / 3 + 1 / 2) / 3,
    }


def test_a_long_question_loses_its_beginning(model, tokenizer):
    end = "and the dog sat on the cat"
    tail = tokenizer.encode("x" * 100 + end).tolist()
    (values,) = log_likelihoods(model, tokenizer, [Question("x" * 100 + end, (" mat", " cat"), 0)])
    ids = [*tail, *tokenizer.encode(" mat").tolist()][-25:]
    expected = log_softmax(model(np.array(ids[:-1])[None]).data[0]).data[-1, ids[-1]]
    np.testing.assert_allclose(values[0], expected, rtol=1e-5)


def test_a_choice_that_does_not_fit(model, tokenizer):
    with pytest.raises(ValueError, match=r"question 2 has a choice of \d+ tokens, and the context is 24: 'zqzq"):
        log_likelihoods(model, tokenizer, [Question("a", ("b", "c"), 0), Question("a", ("b", "zq" * 60), 0)])


def test_logits_that_are_not_finite(tokenizer):
    broken = GPT(GPTConfig(tokenizer.vocab_size, context=24, channels=16, layers=1, heads=2))
    broken.token_embedding.weight.data[:] = np.nan
    with pytest.raises(ValueError, match="logits are not finite"):
        log_likelihoods(broken, tokenizer, [Question("a", ("b", "c"), 0)])


def test_questions_from_a_file(tmp_path):
    path = tmp_path / "questions.jsonl"
    rows = [{"question": "a", "choices": ["b", "c"], "answer": 1, "more": 3}, {"context": "", "choices": ["d", "e"]}]
    rows[1]["answer"] = 0
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert read_questions(path) == [Question("a", ("b", "c"), 1), Question("", ("d", "e"), 0)]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("[1]", "not a JSON object"),
        ('{"choices": ["a", "b"], "answer": 0}', "neither question nor context"),
        ('{"question": "", "context": "", "choices": ["a", "b"], "answer": 0}', "has question and context"),
        ('{"question": 3, "choices": ["a", "b"], "answer": 0}', "question is 3, not text"),
        ('{"question": "q", "choices": ["a"], "answer": 0}', "at least two"),
        ('{"question": "q", "choices": "ab", "answer": 0}', "at least two"),
        ('{"question": "q", "choices": ["a", ""], "answer": 0}', "choice 1 is empty"),
        ('{"question": "q", "choices": ["a", "b"], "answer": 2}', "from 0 to 1"),
        ('{"question": "q", "choices": ["a", "b"], "answer": -1}', "from 0 to 1"),
        ('{"question": "q", "choices": ["a", "b"], "answer": true}', "from 0 to 1"),
        ('{"question": "q", "choices": ["a", "b"]}', "from 0 to 1"),
    ],
)
def test_faulty_questions(tmp_path, line, fault):
    path = tmp_path / "questions.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(DataError, match=f"line 1: .*{fault}"):
        read_questions(path)
