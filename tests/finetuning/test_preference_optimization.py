"""Learning from preferences: likelihoods, the reference, batches, measurements, the report."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import tinygrad_llm.finetuning.likelihoods as likelihoods
import tinygrad_llm.finetuning.preferences as module
from tinygrad_llm import no_grad
from tinygrad_llm.data import IGNORE, DataError
from tinygrad_llm.finetuning.dpo_config import DpoConfig
from tinygrad_llm.finetuning.instruct_config import InstructConfig
from tinygrad_llm.finetuning.likelihoods import log_probabilities, measured_log_probabilities
from tinygrad_llm.finetuning.packing import padded_rows
from tinygrad_llm.finetuning.preferences import prepare_preferences
from tinygrad_llm.generation.loading import Loaded
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.optim import AdamW
from tinygrad_llm.tokenizer import Tokenizer

WORDS = ["cat", "dog", "cow", "pig", "hen", "duck", "bird", "fox", "wolf", "horse"]
TEXT = " ".join(f"Say the plural of {word} twice: {word}s and {word}s." for word in WORDS)
LEARNED = Tokenizer.train([TEXT] * 3, 320)


def quiet():
    return Console(file=io.StringIO(), soft_wrap=True, markup=False, highlight=False, width=200)


def records(count, verb="Tell"):
    return [
        {
            "prompt": f"{verb} {WORDS[n % 10]} {n}",
            "chosen": " ".join([WORDS[n % 10]] * (1 + n % 3)),
            "rejected": " ".join([f"{WORDS[n % 10]}s"] * (1 + n % 2)),
        }
        for n in range(count)
    ]


def write(path, some):
    path.write_text("\n".join(map(json.dumps, some)), encoding="utf-8")
    return str(path)


def small(context=256, seed=3, dropout=0.0):
    config = GPTConfig(LEARNED.vocab_size, context, 16, 2, 2, init_std=0.2, dropout=dropout)
    return GPT(config, seed=seed).astype(np.float64)


def prepare(folder, model=None, data=None, **settings):
    """(task, what was printed), with 18 pairs to train on and 7 held out; another of the prompts of these."""
    data = data or records(18)
    held_out = [*records(7, "Say"), {**records(1, "Say")[0], "chosen": "miaow"}]
    files = {"data": write(folder / "a.jsonl", data), "validation_data": write(folder / "b.jsonl", held_out)}
    console = quiet()
    config = DpoConfig(model="base", **{"batch_size": 4, "template": "chatml", **files, **settings})
    task = prepare_preferences(config, Loaded(Path("base"), model or small(), LEARNED), console)
    return task, console.file.getvalue()


def begun(*arguments, **settings):
    task, _ = prepare(*arguments, **settings)
    before = task.measure_before(quiet())
    task.begin(before)
    return task, before


def log_p(model, ids, targets):
    """The definition: the sum of the targets' log-probabilities, from all logits."""
    with no_grad():
        logits = model(ids[None]).data[0]
    each = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return sum(each[t, target] for t, target in enumerate(targets) if target != IGNORE)


# ---- likelihoods


def some_rows(task):
    both = task.data.training.sequences[:4]
    return [one for pair in both for one in pair]


@pytest.mark.parametrize("step", [1000, 7, 1])
def test_log_probabilities_are_sums_over_the_answers(tmp_path, monkeypatch, step):
    task, _ = prepare(tmp_path)
    sequences = some_rows(task)
    rows = padded_rows(*zip(*sequences, strict=True))
    whole = log_probabilities(task.model, rows)
    weights = np.random.default_rng(0).standard_normal(len(sequences))
    whole.backward(weights)
    expected = [p.grad.copy() for p in task.model.parameters()]
    np.testing.assert_allclose(whole.data, [log_p(task.model, *one) for one in sequences], rtol=1e-12)
    task.model.zero_grad()
    seen = []
    monkeypatch.setattr(likelihoods, "rows_at_once", lambda model: step)
    head = task.model.head
    monkeypatch.setattr(task.model, "head", lambda x: seen.append(len(x.data)) or head(x))
    parts = log_probabilities(task.model, rows)
    assert max(seen) <= step
    np.testing.assert_allclose(parts.data, whole.data, rtol=1e-13)
    parts.backward(weights)
    for p, grad in zip(task.model.parameters(), expected, strict=True):
        np.testing.assert_allclose(p.grad, grad, rtol=1e-10, atol=1e-13)


def test_what_is_measured_is_the_same_however_it_is_batched(tmp_path, monkeypatch):
    task, _ = prepare(tmp_path, small(dropout=0.5))
    sequences = some_rows(task)
    expected = [log_p(task.model.eval(), *one) for one in sequences]
    task.model.train()
    told = []
    for tokens in (10_000, 60, 1):
        monkeypatch.setattr(likelihoods, "TOKENS", tokens)
        found = measured_log_probabilities(task.model, sequences, lambda *done: told.append(done))
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert told[-1] == (8, 8)
    assert task.model.training


# ---- the reference


def test_the_reference_is_the_model_before_training(tmp_path):
    task, before = begun(tmp_path)
    for part, reference in zip(task.data, task.reference, strict=True):
        expected = [[log_p(task.model, *one) for one in both] for both in part.sequences]
        np.testing.assert_allclose(reference, expected, rtol=1e-12)
    assert before["loss"] == pytest.approx(math.log(2), rel=1e-12)
    assert (before["accuracy"], before["margin"]) == (0.5, 0)
    again = json.loads(json.dumps(before))
    task.begin(again)
    np.testing.assert_array_equal(task.reference[0], np.array(before["reference"]["training"]))


def test_the_reference_stays_when_the_model_moves(tmp_path):
    task, before = begun(tmp_path)
    for p in task.model.parameters():
        p.data *= 1.5
    resumed, _ = prepare(tmp_path)
    resumed.begin(before)
    np.testing.assert_array_equal(resumed.reference[1], task.reference[1])
    assert task.validate(task.model)["validation_margin"] != 0


def test_another_model_or_other_pairs_are_refused(tmp_path):
    _, before = begun(tmp_path)
    for settings in ({"model": small(seed=4)}, {"data": records(17)}, {"template": "alpaca"}):
        other, _ = prepare(tmp_path, **settings)
        with pytest.raises(ValueError, match="the model or the pairs are not those any more"):
            other.begin(before)


# ---- training


def test_a_batch_has_the_chosen_answers_and_then_the_rejected(tmp_path):
    task, _ = begun(tmp_path)
    seen = []
    for step in range(5):
        batch = task.batch(step, 0)
        rows, reference = batch.arrays
        assert len(rows.ids) == 2 * batch.targets == 2 * len(reference)
        for place, (ids, targets) in enumerate(zip(rows.ids, rows.targets, strict=True)):
            answer = task.tokenizer.decode(targets[targets != IGNORE])
            assert answer.endswith("<|im_end|>")
            assert (answer.removesuffix("<|im_end|>").split()[0] in WORDS) == (place < batch.targets)
            length = int(np.flatnonzero(targets != IGNORE)[-1]) + 1
            expected = log_p(task.model, ids[:length], targets[:length])
            assert reference[place % batch.targets, place // batch.targets] == pytest.approx(expected)
        prompts = [task.tokenizer.decode(row[:20]).split("assistant")[0] for row in rows.ids]
        assert prompts[: batch.targets] == prompts[batch.targets :]
        seen += prompts[: batch.targets]
    assert len(seen) == len(set(seen)) == 18
    np.testing.assert_array_equal(task.batch(0, 0).arrays[0].ids, begun(tmp_path)[0].batch(0, 0).arrays[0].ids)


def test_the_parts_of_a_step_go_on_with_the_epoch(tmp_path):
    one, _ = begun(tmp_path)
    three, _ = begun(tmp_path, accumulate=3)
    for number in range(9):
        ids = three.batch(*divmod(number, 3)).arrays[0].ids
        np.testing.assert_array_equal(ids, one.batch(number, 0).arrays[0].ids)
    expected = [max(len(ids) for ids, _ in both) for both in one.data.training.sequences]
    assert one.lengths.tolist() == expected  # so that pairs of about equal length are filled up together


def test_only_the_last_answer_of_a_conversation_counts(tmp_path):
    turns = [{"role": role, "content": text} for role, text in (("user", "cat"), ("assistant", "dog"), ("user", "cow"))]
    task, _ = prepare(tmp_path, data=[{"prompt": turns, "chosen": "pig", "rejected": "hen"}, *records(2)])
    for (_, targets), answer in zip(task.data.training.sequences[0], ("pig", "hen"), strict=True):
        assert task.tokenizer.decode(targets[targets != IGNORE]) == f"{answer}<|im_end|>"
    assert task.tokenizer.decode(task.data.training.prompts[0]).endswith("cow<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("settings", [{}, {"beta": 0.5, "label_smoothing": 0.2}])
def test_the_loss_is_a_sum_over_pairs(tmp_path, settings):
    task, _ = begun(tmp_path, **settings)
    for number, p in enumerate(task.model.parameters()):
        p.data += 0.1 * np.random.default_rng(number).standard_normal(p.shape)
    beta, a = task.config.beta, task.config.label_smoothing
    rows, reference = task.batch(2, 0).arrays
    given = log_probabilities(task.model, rows).data.reshape(2, -1)
    h = beta * ((given[0] - reference[:, 0]) - (given[1] - reference[:, 1]))
    expected = (1 - a) * np.log1p(np.exp(-h)) + a * np.log1p(np.exp(h))
    assert np.abs(h).min() > 1e-3
    assert task.loss(task.model, task.batch(2, 0)).item() == pytest.approx(expected.sum(), rel=1e-12)


def test_validation_measures_margins_and_accuracy(tmp_path, monkeypatch):
    task, _ = begun(tmp_path, beta=0.3)
    for number, p in enumerate(task.model.parameters()):
        p.data += 0.2 * np.random.default_rng(number).standard_normal(p.shape)
    given = np.array([[log_p(task.model, *one) for one in both] for both in task.data.held_out.sequences])
    h = 0.3 * ((given - task.reference[1]) @ [1, -1])
    assert 0 < (h > 0).sum() < 8
    measured = task.validate(task.model)
    assert measured["validation_loss"] == pytest.approx(np.log1p(np.exp(-h)).mean())
    assert measured["validation_accuracy"] == pytest.approx((h > 0).mean())
    assert measured["validation_margin"] == pytest.approx(h.mean())
    monkeypatch.setattr(module, "MEASURED", 3)
    few, _ = begun(tmp_path, beta=0.3)
    assert len(set(few.measured)) == 3
    assert list(few.measured) != [0, 1, 2]
    assert few.validate(task.model)["validation_margin"] == pytest.approx(h[few.measured].mean())


def test_training_raises_the_accuracy(tmp_path):
    task, _ = begun(tmp_path)
    optimizer = AdamW(list(task.model.named_parameters()), 3e-3)
    for step in range(60):
        batch = task.batch(step, 0)
        loss = task.loss(task.model, batch) * (1 / batch.targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    measured = task.validate(task.model)
    assert measured["validation_accuracy"] >= 0.85
    assert measured["validation_loss"] < 0.5
    assert measured["validation_margin"] > 0.3


# ---- samples and the report


def test_a_sample_shows_pairs_with_their_log_probabilities(tmp_path):
    task, _ = begun(tmp_path, answered=0)
    blocks = task.sample(task.model).split("\n\n")
    assert len(blocks) == 3
    for block, place in zip(blocks, task.answered, strict=True):
        pair, both = task.data.held_out.preferences[place], task.data.held_out.sequences[place]
        lines = [f"prompt    {pair.chosen.asked}"]
        for name, dialogue, one in zip(("chosen   ", "rejected "), pair, both, strict=True):
            lines.append(f"{name} {dialogue.answer}  (log-probability {log_p(task.model, *one):.2f})")
        assert block.split("\n")[:3] == lines
        assert block.split("\n")[3].startswith("answer    ")


def test_each_prompt_is_answered_once(tmp_path):
    task, _ = prepare(tmp_path, answered=100)
    assert sorted(task.answered) == list(range(7))  # the eighth pair has the prompt of the first
    assert len(prepare(tmp_path, answered=5)[0].answered) == 5


def test_the_report_compares_with_what_was_before(tmp_path, monkeypatch):
    task, before = begun(tmp_path)
    assert len(before["answers"]) == 7
    for p in task.model.parameters():
        p.data *= 1.2
    pairs = [task.data.held_out.preferences[place] for place in task.answered]
    answers = [pair.chosen.answer for pair in pairs[:4]] + [pair.rejected.answer for pair in pairs[4:6]] + ["x"]
    monkeypatch.setattr(task, "_answers", lambda model, count, console=None: answers)
    rows = [{"step": step, "loss": 1.0} | task.validate(task.model) for step in (2, 4)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    console = quiet()
    report = task.report(tmp_path, json.loads(json.dumps(before)), console)
    json.dumps(report)
    after = report["after"]
    assert after["answers_chosen"] == pytest.approx(4 / 7)
    assert after["answers_rejected"] == pytest.approx(2 / 7)
    assert after["loss"] == pytest.approx(task.validate(task.model)["validation_loss"])
    assert len(report["margins"]) == 8
    assert np.mean(report["margins"]) == pytest.approx(after["margin"])
    given = np.array([[log_p(task.model, *one) for one in both] for both in task.data.held_out.sequences])
    np.testing.assert_allclose([after["chosen"], after["rejected"]], given.mean(0), rtol=1e-12)
    assert after["likelier"] == pytest.approx((given[:, 0] > given[:, 1]).mean())
    assert report["before"]["loss"] == before["loss"]
    assert "reference" not in report["before"]
    assert [one["before"] for one in report["answers"]] == before["answers"]
    assert (tmp_path / "margins.png").read_bytes().startswith(b"\x89PNG")
    printed = console.file.getvalue()
    assert "8 held-out pairs" in printed
    assert "own answers that are the chosen" in printed
    assert "57.1%" in printed


def test_without_answers_the_pairs_alone_are_reported(tmp_path):
    task, before = begun(tmp_path, answered=0)
    (tmp_path / "metrics.jsonl").write_text("", encoding="utf-8")
    console = quiet()
    report = task.report(tmp_path, before, console)
    assert report["answers"] == []
    assert report["before"] == pytest.approx(report["after"])
    assert "own answers" not in console.file.getvalue()


# ---- what is left out


def test_what_is_left_out_is_told(tmp_path):
    some = records(6)
    data = [*some, some[0], {**some[1], "chosen": " "}, {**some[2], "rejected": some[2]["chosen"]}]
    data += [{**some[3], "prompt": "long", "rejected": "cat " * 60}, {**some[4], "prompt": "Say cat 0"}]
    task, printed = prepare(tmp_path, data=data, context=64)
    assert "a.jsonl: 11 pairs" in printed
    assert "left out    pairs of which an answer is empty: 1 (line 8)" in printed
    assert "left out    pairs of which both answers are the same: 1 (line 9)" in printed
    assert "left out    repetitions of a pair: 1" in printed
    assert "left out    pairs to train on that begin as one that is held out: 1" in printed
    assert "left out    pairs to train on longer than 64 tokens: 1" in printed
    assert "split       6 pairs to train on, 8 held out" in printed
    assert task.training_examples == 6


def test_a_pair_that_just_fits_is_kept(tmp_path):
    longest = max(len(ids) for both in prepare(tmp_path)[0].data.training.sequences for ids, _ in both)
    assert prepare(tmp_path, context=longest)[0].training_examples == 18
    fewer, _ = prepare(tmp_path, context=longest - 1)
    assert fewer.training_examples < 18
    for pair, both in zip(fewer.data.training.preferences, fewer.data.training.sequences, strict=True):
        for dialogue, (_, targets) in zip(pair, both, strict=True):
            assert fewer.tokenizer.decode(targets[targets != IGNORE]) == f"{dialogue.answer}<|im_end|>"
    with pytest.raises(DataError, match="no pair to train on is left: all are longer than 5 tokens"):
        prepare(tmp_path, context=5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, "--beta 0.0: must be positive"),
        ({"beta": math.nan}, "--beta nan"),
        ({"label_smoothing": 0.6}, "--label-smoothing 0.6: must lie between 0 and 0.5"),
        ({"answered": -1}, "--answered -1"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        DpoConfig(**settings)


def test_the_learning_rate_is_gentler_than_that_of_other_fine_tuning():
    assert DpoConfig().peak_rate() == pytest.approx(0.1 * InstructConfig().peak_rate())
    assert DpoConfig(learning_rate=0.5).peak_rate() == 0.5
