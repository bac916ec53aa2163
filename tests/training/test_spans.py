"""Span corruption: counts, lengths, what is left out and what the target says of it; and the task that trains a T5."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import random
from tinygrad_llm.data import Document, write_tokens
from tinygrad_llm.models import T5
from tinygrad_llm.optim import AdamW
from tinygrad_llm.parallel.ranks import OneProcess
from tinygrad_llm.tokenizer import Tokenizer
from tinygrad_llm.training import spans as spans_module
from tinygrad_llm.training.config import TrainConfig
from tinygrad_llm.training.loop import training_step
from tinygrad_llm.training.spans import (
    SpanCorruption,
    corrupt,
    noise_spans,
    partitions,
    span_counts,
    t5_config,
)

V, END = 1000, 900


def test_counts_are_those_of_the_paper():
    assert span_counts(512) == (77, 26)  # 15 % of the tokens, in spans of 3
    assert span_counts(20, 0.3, 2.0) == (6, 3)
    assert span_counts(2) == (1, 1)
    assert span_counts(4, 0.9, 1.0) == (3, 1)  # no more spans than tokens that are kept before them


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1,), "1 tokens; at least 2 are needed"),
        ((9, 0.0), "noise=0.0 must lie between 0 and 1"),
        ((9, 1.0), "noise=1.0 must lie between 0 and 1"),
        ((9, 0.1, 0.5), "mean_span=0.5 be at least 1"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        span_counts(*arguments)


def test_all_partitions_are_equally_likely():
    found = partitions(6000, 5, 3, random.stream(0, "test"))
    assert (found.sum(1) == 5).all()
    kinds, counts = np.unique(found, axis=0, return_counts=True)
    assert kinds.tolist() == [[1, 1, 3], [1, 2, 2], [1, 3, 1], [2, 1, 2], [2, 2, 1], [3, 1, 1]]
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)  # five standard deviations of a count
    assert partitions(2, 4, 4, random.stream(0, "test")).tolist() == [[1] * 4] * 2
    assert partitions(2, 1, 1, random.stream(0, "test")).tolist() == [[1]] * 2


@given(st.integers(2, 120), st.floats(0.02, 0.9), st.floats(1, 6), st.integers(0, 2**32 - 1))
def test_spans_are_as_many_as_counted_and_begin_behind_what_is_kept(length, noise, mean_span, seed):
    tokens, count = span_counts(length, noise, mean_span)
    spans = noise_spans(4, length, random.stream(seed, "test"), noise, mean_span)
    assert spans.shape == (4, length)
    assert ((spans > 0).sum(1) == tokens).all()
    for row in spans:
        assert row[0] == 0
        assert row[-1] == count
        begins = np.flatnonzero((row > 0) & (np.diff(row, prepend=0) != 0))
        assert row[begins].tolist() == list(range(1, count + 1))  # in order, each in one piece
        assert (row[begins - 1] == 0).all()


def by_hand(ids, spans):
    """(input, target) of one row, token by token."""
    source, target, last = [], [], 0
    for token, span in zip(ids, spans, strict=True):
        if span and span != last:
            source.append(V - span)
            target.append(V - span)
        (target if span else source).append(token)
        last = span
    return [*source, END], [*target, END]


@given(st.integers(2, 60), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_inputs_and_targets_are_those_made_token_by_token(length, rows, seed):
    generator = random.stream(seed, "test")
    ids = generator.integers(0, 900, (rows, length))
    spans = noise_spans(rows, length, generator, 0.3, 2.0)
    before = ids.copy(), spans.copy()
    inputs, targets = corrupt(ids, spans, V, END)
    for row in range(rows):
        assert (inputs[row].tolist(), targets[row].tolist()) == by_hand(ids[row], spans[row])
    tokens, count = span_counts(length, 0.3, 2.0)
    assert inputs.shape == (rows, length - tokens + count + 1)
    assert targets.shape == (rows, tokens + count + 1)
    np.testing.assert_array_equal(ids, before[0])
    np.testing.assert_array_equal(spans, before[1])


def test_the_figure_of_the_paper():
    words = ["Thank", "you", "for", "inviting", "me", "to", "your", "party", "last", "week"]
    spans = np.array([[0, 0, 1, 1, 0, 0, 0, 0, 2, 0]])
    inputs, targets = corrupt(np.arange(10)[None], spans, V, END)
    names = dict(enumerate(words)) | {V - 1: "<X>", V - 2: "<Y>", END: "<end>"}
    assert " ".join(names[i] for i in inputs[0].tolist()) == "Thank you <X> me to your party <Y> week <end>"
    assert " ".join(names[i] for i in targets[0].tolist()) == "<X> for inviting <Y> last <end>"


def test_where_a_text_is_cut_is_drawn_anew_each_time():
    generator = random.stream(0, "test")
    first, second = noise_spans(8, 64, generator), noise_spans(8, 64, generator)
    assert not np.array_equal(first, second)
    assert len({row.tobytes() for row in first}) == 8
    np.testing.assert_array_equal(noise_spans(8, 64, random.stream(0, "test")), first)
    covered = (noise_spans(4000, 64, random.stream(1, "test")) > 0).mean(0)
    assert covered[0] == 0
    assert covered[-1] == 1
    assert np.abs(covered[8:-8] - 10 / 64).max() < 0.06  # elsewhere all places are about equally likely


# -- the task ----------------------------------------------------------------------------------------------------------

TEXT = "the cat sat on the mat and the dog sat on the log. "


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    tokenizer = Tokenizer.train([TEXT * 20], 270)
    training = write_tokens([Document("a", TEXT * 60)], tokenizer, folder / "training")
    validation = write_tokens([Document("b", TEXT * 20)], tokenizer, folder / "validation")
    config = TrainConfig(context=40, batch_size=8, layers=1, channels=32, heads=2, vocab_size=270, steps=50)
    return SpanCorruption(config, training, validation, tokenizer)


def test_the_vocabulary_has_an_end_and_sentinels_behind_the_tokens(task):
    tokens, spans = span_counts(40)
    config = t5_config(task.config, task.tokenizer.vocab_size)
    known = task.tokenizer.vocab_size
    assert (config.vocab_size, config.end_id, config.start_id, config.pad_id) == (
        known + 1 + spans,
        known,
        known,
        known,
    )
    assert (config.channels, config.layers, config.heads, config.head_channels) == (32, 1, 2, 16)
    inputs, targets = task.batch(0, 0).arrays
    assert inputs.shape == (8, 40 - tokens + spans + 1)
    assert targets.shape == (8, tokens + spans + 1)
    assert (targets[:, 0] == config.vocab_size - 1).all()
    assert (inputs[:, -1] == known).all()
    assert (targets[:, -1] == known).all()
    assert inputs.max() == config.vocab_size - 1


def test_a_batch_is_decided_by_the_seed_the_step_and_the_part(task):
    first, again = task.batch(3, 1), task.batch(3, 1)
    assert first.targets == first.arrays[1].size
    for a, b in zip(first.arrays, again.arrays, strict=True):
        np.testing.assert_array_equal(a, b)
    for other in (task.batch(4, 1), task.batch(3, 0)):
        assert not np.array_equal(other.arrays[0], first.arrays[0])


def test_what_was_left_out_puts_the_text_together_again(task):
    inputs, targets = task.batch(0, 0).arrays
    for source, target in zip(inputs, targets, strict=True):
        text, missing = task.readable(source[:-1]), task.readable(target[:-1])
        parts = missing.split("<1>")[1].split("<2>") if "<2>" in missing else [missing.split("<1>")[1]]
        for number, part in enumerate(parts, 1):
            text = text.replace(f"<{number}>", part)
        assert text.replace("<|endoftext|>", "") in TEXT * 60 + TEXT


def test_readable_shows_sentinels_between_texts(task):
    v, ids = task.vocab_size, task.tokenizer.encode("cat sat")
    assert task.readable(np.array([v - 1, v - 2, *ids, v - 1])) == "<1><2>cat sat<1>"
    assert task.readable(ids) == "cat sat"
    assert task.readable(np.array([], int)) == ""


def test_training_lowers_the_loss_and_the_sample_shows_it(task, monkeypatch):
    monkeypatch.setattr(spans_module, "MEASURED", 500)
    model = T5(t5_config(task.config, task.tokenizer.vocab_size))
    optimizer = AdamW(list(model.named_parameters()), 3e-3)
    before = task.validate(model.eval())["validation_loss"]
    assert task.validate(model) == {"validation_loss": before}  # always the same windows
    for step in range(60):
        training_step(model.train(), OneProcess(optimizer), task, step, task.config)
    after = task.validate(model.eval())["validation_loss"]
    assert after < 0.6 * before
    lines = task.sample(model).split("\n")
    assert [line.split(": ")[0] for line in lines] == ["input", "output", "target"]
    assert "<1>" in lines[0]
    assert lines[2].startswith("target: <1>")


def test_the_loss_is_summed_over_the_targets_of_the_batch(task):
    model = T5(t5_config(task.config, task.tokenizer.vocab_size))
    batch = task.batch(0, 0)
    inputs, targets = batch.arrays
    assert task.loss(model, batch).item() == pytest.approx(model.loss(inputs, targets).item() * targets.size, rel=1e-5)


def test_it_is_validated_on_held_out_text_in_nats_per_target(task, monkeypatch):
    monkeypatch.setattr(spans_module, "MEASURED", 2 * 8 * 9)  # two batches
    model = T5(t5_config(task.config, task.tokenizer.vocab_size))
    drawn, losses = [], []

    def batch(tokens, rows, context, generator):
        drawn.append(tokens)
        return type(tokens).batch(tokens, rows, context, generator)

    monkeypatch.setattr(task.validation, "batch", lambda *given: batch(task.validation, *given), raising=False)
    loss = model.loss
    monkeypatch.setattr(model, "loss", lambda *given, **how: losses.append(loss(*given)) or loss(*given, **how))
    found = task.validate(model)["validation_loss"]
    assert len(drawn) == len(losses) == 2
    assert found == pytest.approx(np.mean([value.item() for value in losses]), rel=1e-5)  # batches of one size
