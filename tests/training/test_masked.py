"""Masks: which tokens are targets and what becomes of them; and the task that trains a BERT to find them."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import random
from tinygrad_llm.data import IGNORE, Document, write_tokens
from tinygrad_llm.generation.filling import fill_masks
from tinygrad_llm.models import Bert
from tinygrad_llm.optim import AdamW
from tinygrad_llm.parallel.ranks import OneProcess
from tinygrad_llm.tokenizer import Tokenizer
from tinygrad_llm.training import masked as masked_module
from tinygrad_llm.training.config import TrainConfig
from tinygrad_llm.training.loop import training_step
from tinygrad_llm.training.masked import MaskedLanguageModeling, bert_config, mask_tokens

V, MASK, SPECIAL = 50, 7, (0, 3)


def masked(ids, seed=0, **shares):
    return mask_tokens(ids, MASK, V, SPECIAL, random.stream(seed, "test"), **shares)


def some_ids(shape, seed=0):
    return np.random.default_rng(seed).integers(0, V, shape)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 1), st.floats(0, 1), st.integers(0, 5), st.integers(0, 30))
def test_targets_are_the_ids_and_nothing_else_changes(seed, chosen, share, rows, length):
    ids = some_ids((rows, length), seed)
    before = ids.copy()
    inputs, targets = masked(ids, seed, chosen=chosen, masked=share, changed=(1 - share) / 2)
    np.testing.assert_array_equal(ids, before)
    chosen_here = targets != IGNORE
    np.testing.assert_array_equal(targets[chosen_here], ids[chosen_here])
    np.testing.assert_array_equal(inputs[~chosen_here], ids[~chosen_here])
    assert not np.isin(targets, [*SPECIAL, MASK]).any()
    assert not np.isin(inputs[chosen_here], SPECIAL).any()
    assert ((inputs >= 0) & (inputs < V)).all()


def test_the_shares_are_those_of_the_paper():
    ids = np.full((1000, 200), 20)
    inputs, targets = masked(ids)
    is_target = targets != IGNORE
    count = is_target.sum()

    def near(share, expected, number):  # five standard deviations of a share
        return abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / number)

    assert near(is_target.mean(), 0.15, ids.size)
    assert near((inputs[is_target] == MASK).mean(), 0.8, count)
    others = inputs[is_target & (inputs != MASK) & (inputs != 20)]
    assert near(others.size / count, 0.1 * 46 / 47, count)  # one of the 47 that are drawn from is the id itself
    kinds, counts = np.unique(others, return_counts=True)
    assert sorted({*range(V)} - {*kinds.tolist()}) == [*SPECIAL, MASK, 20]
    assert np.abs(counts - others.size / 46).max() < 5 * np.sqrt(others.size / 46)


def test_each_place_is_drawn_by_itself_and_by_the_seed():
    ids = np.full((40, 30), 20)
    targets = masked(ids)[1] != IGNORE
    assert len({row.tobytes() for row in targets}) == 40
    assert len({row.tobytes() for row in targets.T}) == 30
    for ours, again in zip(masked(ids), masked(ids), strict=True):
        np.testing.assert_array_equal(ours, again)
    assert not np.array_equal(targets, masked(ids, seed=1)[1] != IGNORE)


def test_all_or_none_of_the_targets_are_masked():
    ids = np.full((3, 50), 20)
    inputs, targets = masked(ids, chosen=1.0, masked=1.0, changed=0.0)
    assert (inputs == MASK).all()
    assert (targets == 20).all()
    inputs, _ = masked(ids, chosen=1.0, masked=0.0, changed=0.0)
    np.testing.assert_array_equal(inputs, ids)


@pytest.mark.parametrize(
    "shares", [{"chosen": 0.0}, {"chosen": 1.5}, {"masked": 0.95}, {"masked": -0.1}, {"changed": -0.1}]
)
def test_shares_that_cannot_be_are_refused(shares):
    with pytest.raises(ValueError, match="must lie above 0 and up to 1"):
        masked(some_ids((1, 4)), **shares)


def test_a_vocabulary_of_special_tokens_is_refused():
    with pytest.raises(ValueError, match="all 3 ids are special"):
        mask_tokens(np.zeros((1, 4), int), 2, 3, {0, 1}, random.stream(0, "test"))


# -- the task ----------------------------------------------------------------------------------------------------------

TEXT = "the cat sat on the mat and the dog sat on the log. "


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    tokenizer = Tokenizer.train([TEXT * 20], 270)
    training = write_tokens([Document("a", TEXT * 60)], tokenizer, folder / "training")
    validation = write_tokens([Document("b", TEXT * 20)], tokenizer, folder / "validation")
    config = TrainConfig(context=40, batch_size=8, layers=1, channels=32, heads=2, vocab_size=270, steps=100)
    return MaskedLanguageModeling(config, training, validation, tokenizer)


def test_the_mask_follows_behind_the_tokens(task):
    config = bert_config(task.config, task.tokenizer.vocab_size)
    assert task.mask_id == task.tokenizer.vocab_size == config.vocab_size - 1
    assert (config.context, config.channels, config.layers, config.heads) == (40, 32, 1, 2)
    assert (config.feed_forward, config.head, config.token_types) == (128, "masked_lm", 1)
    assert bert_config(TrainConfig(channels=96, context=8), 5).heads == 3
    assert bert_config(TrainConfig(channels=100, context=8), 5).heads == 2  # 3 do not divide it


def test_a_batch_is_decided_by_the_seed_the_step_and_the_part(task):
    first, again = task.batch(3, 1), task.batch(3, 1)
    inputs, targets = first.arrays
    assert inputs.shape == targets.shape == (8, 40)
    assert first.targets == (targets != IGNORE).sum()
    assert (inputs == task.mask_id).any()
    assert not (targets == task.tokenizer.separator_id).any()
    for a, b in zip(first.arrays, again.arrays, strict=True):
        np.testing.assert_array_equal(a, b)
    for other in (task.batch(4, 1), task.batch(3, 0)):
        assert not np.array_equal(other.arrays[0], first.arrays[0])


def test_the_loss_is_summed_over_the_targets_of_the_batch(task):
    model = Bert(bert_config(task.config, task.tokenizer.vocab_size))
    batch = task.batch(0, 0)
    inputs, targets = batch.arrays
    mean = model.loss(inputs, targets).item()
    assert task.loss(model, batch).item() == pytest.approx(mean * batch.targets, rel=1e-5)
    logits = model(inputs).data
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    rows, columns = np.nonzero(targets != IGNORE)
    expected = -np.log(p[rows, columns, targets[rows, columns]]).mean()
    assert mean == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_targets_has_no_loss(task):
    model = Bert(bert_config(task.config, task.tokenizer.vocab_size))
    ids = np.zeros((2, 5), int)
    loss = model.loss(ids, np.full_like(ids, IGNORE), reduction="sum")
    assert loss.item() == 0
    loss.backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


def test_training_lowers_the_loss_and_the_sample_shows_it(task, monkeypatch):
    monkeypatch.setattr(masked_module, "MEASURED", 100)
    model = Bert(bert_config(task.config, task.tokenizer.vocab_size))
    optimizer = AdamW(list(model.named_parameters()), 3e-3)
    before = task.validate(model.eval())["validation_loss"]
    assert before == pytest.approx(np.log(271), rel=0.1)
    assert task.validate(model) == {"validation_loss": before}  # always the same masks
    for step in range(60):
        training_step(model.train(), OneProcess(optimizer), task, step, task.config)
    assert task.validate(model.eval())["validation_loss"] < 0.5 * before
    lines = task.sample(model).split("\n")
    assert [line.split(": ")[0] for line in lines[:3]] == ["masked", "filled", "text"]
    count = lines[0].count("[]")
    assert count > 0
    assert lines[1].count("[") == lines[2].count("[") == count
    text = lines[2].removeprefix("text: ").replace("[", "").replace("]", "")
    assert text.replace("<|endoftext|>", "") in TEXT * 30
    filled, right = lines[1].removeprefix("filled: "), int(lines[3].split()[0])
    assert lines[3] == f"{right} of {count} right"
    tokens = [re.findall(r"\[(.*?)\]", line, re.DOTALL) for line in lines[1:3]]
    assert right == sum(a == b for a, b in zip(*tokens, strict=True)) > count / 3
    assert (right == count) == (filled == lines[2].removeprefix("text: "))


def test_the_measured_text_ends_after_enough_targets(task, monkeypatch):
    model = Bert(bert_config(task.config, task.tokenizer.vocab_size)).eval()
    seen = []
    monkeypatch.setattr(
        model, "loss", lambda *given, **options: seen.append(given) or Bert.loss(model, *given, **options)
    )
    monkeypatch.setattr(masked_module, "MEASURED", 1)
    first = task.validate(model)["validation_loss"]
    assert len(seen) == 1
    inputs, targets = seen[0]
    assert first == pytest.approx(Bert.loss(model, inputs, targets).item(), rel=1e-5)
    monkeypatch.setattr(masked_module, "MEASURED", 10**9)
    task.validate(model)
    tokens = len(task.validation) - 1
    assert sum(inputs.size for inputs, _ in seen[1:]) == tokens // 40 * 40  # all, but for a window that is filled up


def test_masks_are_filled_with_the_likeliest_token_that_is_none(task):
    model = Bert(bert_config(task.config, task.tokenizer.vocab_size)).eval()
    ids = np.array([[1, task.mask_id, 3, task.mask_id]])
    model.masked_lm_head.bias.data[[9, task.mask_id]] = 10, 20
    np.testing.assert_array_equal(fill_masks(model, ids, task.mask_id), [[1, 9, 3, 9]])
    assert ids[0, 1] == task.mask_id
    np.testing.assert_array_equal(fill_masks(model, ids[:, :1], task.mask_id), [[1]])


def test_readable_shows_brackets_between_texts(task):
    ids = task.tokenizer.encode("cat sat")
    places = np.zeros(len(ids) + 1, bool)
    places[-1] = True
    assert task.readable(np.append(ids, task.mask_id), places) == "cat sat[]"
    assert task.readable(ids, np.zeros(len(ids), bool)) == "cat sat"
    every = task.readable(ids, np.ones(len(ids), bool))
    assert every.replace("][", "") == "[cat sat]"
