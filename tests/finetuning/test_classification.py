"""Fine-tuning a classifier: batches, measurements, the report, and all of it from a file to a run."""

import io
import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from tinygrad_llm.data import DataError
from tinygrad_llm.data.tables import Example
from tinygrad_llm.finetuning.classification import Classification, difference, prepare_classification
from tinygrad_llm.finetuning.classify_config import ClassifyConfig
from tinygrad_llm.finetuning.labelled_data import Labelled, labelled_data, short
from tinygrad_llm.finetuning.predicting import encode_texts, log_probabilities, padding_of, with_beginning
from tinygrad_llm.finetuning.running import finetune, freeze
from tinygrad_llm.generation.loading import Loaded, load_pretrained
from tinygrad_llm.models import GPT, BertConfig, GPTConfig, new_model
from tinygrad_llm.models.classifier import classes_of, make_classifier
from tinygrad_llm.tokenizer import Tokenizer, WordPieceTokenizer

WORDS = {"fruit": "apple pear plum cherry", "tool": "hammer saw drill chisel", "bird": "crow heron stork wren"}
FILLING = "the a red old and with big two"


def examples_of(counts, seed=0, most=9):
    """Texts that name something of their class, so many of each."""
    rng, found = np.random.default_rng(seed), []
    for label, count in counts.items():
        for number in range(count):
            words = rng.choice(FILLING.split(), rng.integers(1, most)).tolist()
            words.insert(rng.integers(len(words) + 1), rng.choice(WORDS[label].split()))
            found.append(Example(f"{' '.join(words)} {number}", label))
    return [found[place] for place in rng.permutation(len(found))]


TOKENIZER = with_beginning(Tokenizer.train([e.text for e in examples_of(dict.fromkeys(WORDS, 30))] * 3, 300))
COUNTS = {"fruit": 20, "tool": 7, "bird": 3}
LABELS = ("bird", "fruit", "tool")


def make_task(counts=COUNTS, **settings):
    config = ClassifyConfig(model="m", data="d", **{"batch_size": 4, **settings})
    data = Labelled(examples_of(counts), examples_of({"fruit": 6, "tool": 3, "bird": 2}, seed=1), LABELS)
    padding = padding_of(TOKENIZER)
    model = GPT(GPTConfig(TOKENIZER.vocab_size, 40, 16, 2, 2, init_std=0.1))
    model = make_classifier(model, LABELS, padding=padding).astype(np.float64)
    model.score.weight.data = np.random.default_rng(0).standard_normal((16, 3))
    training, held_out = (encode_texts(TOKENIZER, [e.text for e in some], 40) for some in data[:2])
    return Classification(config, model, TOKENIZER, data, training, held_out)


def quiet():
    return Console(file=io.StringIO())


def texts_of(task, batch):
    """(text, label) of each row of a batch."""
    ids, mask, targets = batch.arrays
    assert mask.shape == (len(ids), 1, 1, ids.shape[1])
    assert (ids[~mask[:, 0, 0]] == padding_of(TOKENIZER)).all()
    rows = [row[real][1:] for row, real in zip(ids, mask[:, 0, 0], strict=True)]
    assert all(row[0] == TOKENIZER.start_ids[0] for row in ids)
    return [(TOKENIZER.decode(row), LABELS[target]) for row, target in zip(rows, targets, strict=True)]


# ---- batches


@pytest.mark.parametrize("accumulate", [1, 3])
def test_each_epoch_has_each_example_once(accumulate):
    task = make_task(accumulate=accumulate)
    parts = [(step, part) for step in range(24) for part in range(accumulate)][:24]
    batches = [task.batch(*each) for each in parts]
    assert [batch.targets for batch in batches].count(2) == 3  # 30 examples are 7 batches of 4 and one of 2
    assert all(batch.targets == len(batch.arrays[0]) for batch in batches)
    epochs = [[one for batch in batches[low : low + 8] for one in texts_of(task, batch)] for low in (0, 8, 16)]
    for epoch in epochs:
        assert sorted(epoch) == sorted(task.data.training)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_batch_is_the_same_whenever_it_is_asked_for():
    task, other = make_task(), make_task()
    first = [task.batch(step, 0).arrays[0] for step in range(20)]
    for step in (17, 3, 19, 0, 3):
        np.testing.assert_array_equal(other.batch(step, 0).arrays[0], first[step])
    differs = make_task(seed=1)
    assert any(not np.array_equal(differs.batch(step, 0).arrays[0], first[step]) for step in range(8))


@pytest.mark.parametrize(("balance", "count"), [("oversample", 20), ("undersample", 3)])
def test_balanced_epochs_show_classes_equally_often(balance, count):
    task = make_task(balance=balance)
    assert task.training_examples == 3 * count
    each = -(-3 * count // 4)
    for epoch in range(2):
        seen = [one for step in range(each) for one in texts_of(task, task.batch(epoch * each + step, 0))]
        assert Counter(label for _, label in seen) == dict.fromkeys(LABELS, count)
        for label in LABELS:  # as evenly as can be
            often = Counter(text for text, other in seen if other == label)
            assert max(often.values()) - min(often.values()) <= 1
            assert len(often) == min(count, COUNTS[label])
    chosen = [set(task._chosen(epoch).tolist()) for epoch in range(3)]
    assert balance == "oversample" or len({frozenset(places) for places in chosen}) > 1


def test_the_loss_is_a_sum_over_texts():
    task = make_task()
    batch = task.batch(0, 0)
    ids, mask, targets = batch.arrays
    logits = task.model(ids, mask).data
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(4), targets]
    np.testing.assert_allclose(task.loss(task.model, batch).item(), expected.sum())


# ---- measurements


def test_validation_by_hand(monkeypatch):
    task = make_task()
    found = log_probabilities(task.model, task.held_out.rows, task.padding)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1)
    for row, log_p in zip(task.held_out.rows, found, strict=True):
        logits = task.model(row[None]).data[0]
        np.testing.assert_allclose(log_p, logits - np.log(np.exp(logits).sum()), rtol=1e-9, atol=1e-12)
    targets = np.array([LABELS.index(example.label) for example in task.data.held_out])
    measured = task.validate(task.model)
    assert measured["validation_loss"] == pytest.approx(-found[range(11), targets].mean())
    assert measured["validation_accuracy"] == pytest.approx((found.argmax(1) == targets).mean())
    assert 0 < measured["validation_macro_f1"] < 1
    monkeypatch.setattr("tinygrad_llm.finetuning.classification.MEASURED", 5)
    some = make_task()
    assert len(some.measured) == 5
    assert some.validate(some.model)["validation_loss"] == pytest.approx(
        -found[some.measured, targets[some.measured]].mean()
    )


def test_a_sample_shows_texts_with_what_they_are_taken_for():
    task = make_task()
    lines = task.sample(task.model).split("\n")
    assert len(lines) == 5
    found = log_probabilities(task.model, task.held_out.rows, task.padding)
    for line, place in zip(lines, task.measured, strict=False):
        example, best = task.data.held_out[place], found[place].argmax()
        verdict = "right" if LABELS[best] == example.label else f"is {example.label}"
        assert line == f"{math.exp(found[place].max()):.2f} {LABELS[best]} ({verdict}): {example.text}"


def test_predicting_leaves_the_mode_of_the_model():
    task = make_task()
    for mode in (True, False):
        task.model.train(mode)
        log_probabilities(task.model, task.held_out.rows, task.padding)
        assert task.model.training is task.model.body.training is mode


def test_the_report_compares_with_the_simple_methods(tmp_path, capsys):
    task, console = make_task({"fruit": 40, "tool": 30, "bird": 20}), Console(width=200, soft_wrap=True)
    before = task.measure_before(console)
    frequent, words = before.values()
    assert frequent["accuracy"] == pytest.approx(6 / 11)
    assert len(frequent["wrong"]) == 5
    assert words["accuracy"] >= 8 / 11
    report = task.report(tmp_path, before, console)
    found = log_probabilities(task.model, task.held_out.rows, task.padding)
    targets = np.array([LABELS.index(example.label) for example in task.data.held_out])
    assert report["wrong"] == np.flatnonzero(found.argmax(1) != targets).tolist()
    assert report["accuracy"] == pytest.approx(1 - len(report["wrong"]) / 11)
    assert (report["held_out"], report["trained_on"]) == (11, 90)
    assert np.array(report["confusion"]).sum(axis=1).tolist() == [2, 6, 3]
    assert {label: score["examples"] for label, score in report["classes"].items()} == {
        "bird": 2,
        "fruit": 6,
        "tool": 3,
    }
    assert report["loss"] == pytest.approx(-found[range(11), targets].mean())
    wrong = report["most_wrong"]
    assert [one["probability"] for one in wrong] == sorted((one["probability"] for one in wrong), reverse=True)
    assert len(wrong) == min(10, len(report["wrong"]))
    for one in wrong:
        assert one["label"] != one["predicted"]
        assert Example(one["text"], one["label"]) in task.data.held_out
    assert json.loads(json.dumps(report)) == report
    assert (tmp_path / "confusion.png").exists()
    printed = capsys.readouterr().out
    won, lost = difference(report["wrong"], words["wrong"])
    assert f"of 11 texts it alone gets {won} right, the other alone {lost}" in printed
    verdict = "better" if won > lost else "worse" if won < lost else "as good"
    assert f"this model is {verdict}" in printed
    assert f"by {abs(won - lost) / 11:.1%} (+- " in printed


def test_who_is_right_alone():
    assert difference([1, 2, 3], [3, 4]) == (1, 2)
    assert difference([], []) == (0, 0)


def test_only_what_is_to_be_trained_gets_a_gradient():
    task = make_task()
    freeze(task.model, 1)
    task.loss(task.model, task.batch(0, 0)).backward()
    trained = {name for name, p in task.model.named_parameters() if p.grad is not None}
    assert {name.split(".")[1] for name in trained} == {"blocks", "final_norm", "weight"}
    assert all(name.startswith("body.blocks.1.") for name in trained if "blocks" in name)


# ---- tokens


def test_longer_texts_are_cut_and_their_lengths_told():
    encoded = encode_texts(TOKENIZER, ["apple pear", "a"], 2)
    whole = encode_texts(TOKENIZER, ["apple pear", "a"], 40)
    assert [len(row) for row in whole.rows] == encoded.lengths.tolist() == whole.lengths.tolist()
    assert encoded.lengths[0] > 2
    np.testing.assert_array_equal(encoded.rows[0], whole.rows[0][:2])
    assert whole.rows[0][0] == TOKENIZER.start_ids[0] == padding_of(TOKENIZER)
    assert TOKENIZER.decode(whole.rows[0][1:]) == "apple pear"
    named = encode_texts(TOKENIZER, ["a <|endoftext|>"], 40).rows[0]
    assert (named[1:] != TOKENIZER.separator_id).all()


def test_an_encoders_text_keeps_its_last_token():
    tokenizer = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"])
    encoded = encode_texts(tokenizer, ["a b a b", "b"] * 300, 4)
    assert encoded.rows[0].tolist() == [2, 5, 6, 3]
    assert encoded.rows[599].tolist() == [2, 6, 3]
    assert encoded.lengths[:2].tolist() == [6, 3]
    assert padding_of(tokenizer) == 0


# ---- the data


def write(path, examples):
    path.write_text("".join(json.dumps(example._asdict()) + "\n" for example in examples), encoding="utf-8")
    return str(path)


def told(make, *arguments):
    """What it returns, and what it says."""
    console = Console(record=True, width=200, file=io.StringIO())
    return make(*arguments, console), console.export_text()


def test_all_that_is_left_out_is_told(tmp_path):
    examples = examples_of({"fruit": 40, "tool": 10, "bird": 10})
    twice, both = examples[0], Example("both", "bird")
    odd = [twice._replace(text=f" {twice.text}"), twice._replace(label=f"{twice.label} "), both]
    path = write(tmp_path / "d.jsonl", [*examples, *odd, both._replace(label="tool")])
    data, said = told(labelled_data, ClassifyConfig(model="m", data=path, validation_share=0.2))
    assert sorted([*data.training, *data.held_out]) == sorted(examples)
    assert Counter(e.label for e in data.held_out) == {"fruit": 8, "tool": 2, "bird": 2}
    assert data.labels == LABELS
    for part in (
        "64 texts in column 'text', labels in column 'label'",
        "labels with white space around them, which was taken off: 1",
        "repetitions of a text: 2",
        "whose text stands there with other labels too: 2",
        "48 texts to train on, 12 held out",
    ):
        assert part in said
    rows = [line.split() for line in said.splitlines() if line.split()[:1] in (["fruit"], ["tool"], ["bird"])]
    assert rows[0] == ["fruit", "32", "66.7%", "8"]
    assert sorted(row[0] for row in rows) == sorted(LABELS)


def test_texts_of_the_file_that_is_held_out_are_not_trained_on(tmp_path):
    examples = examples_of({"fruit": 10, "tool": 10})
    held_out = [*examples[:3], *examples_of({"fruit": 2, "tool": 2}, seed=5)]
    config = ClassifyConfig(
        model="m", data=write(tmp_path / "a.jsonl", examples), validation_data=write(tmp_path / "b.jsonl", held_out)
    )
    data, said = told(labelled_data, config)
    assert sorted(data.held_out) == sorted(set(held_out))
    assert sorted(data.training) == sorted(set(examples) - set(held_out))
    assert f"texts to train on that are held out too: {20 - len(data.training)}" in said
    write(tmp_path / "b.jsonl", [*held_out, Example("x", "stone")])
    with pytest.raises(DataError, match="nothing is trained on for its labels stone"):
        labelled_data(config, quiet())


def test_the_digest_is_that_of_all_examples_and_what_they_are_for():
    a, b = Example("a", "x"), Example("b", "y")
    digests = {Labelled([a], [b], ("x", "y")).digest, Labelled([b], [a], ("x", "y")).digest}
    digests |= {Labelled([a, b], [], ("x", "y")).digest, Labelled([a], [b._replace(text="c")], ("x", "y")).digest}
    assert len(digests) == 4


def test_warnings_of_labels_that_are_alike_or_not_measured(tmp_path):
    examples = [Example(f"t{i}", label) for i, label in enumerate(["a"] * 5 + ["A"] * 5 + ["b"])]
    _, said = told(labelled_data, ClassifyConfig(model="m", data=write(tmp_path / "d.jsonl", examples)))
    assert "differ only in capitals, and are taken for different: A, a" in said
    assert "nothing is held out of b" in said


def test_one_class_that_is_left_is_refused(tmp_path):
    examples = [Example("t", "a"), Example("t", "b"), Example("u", "a"), Example("v", "a")]
    config = ClassifyConfig(model="m", data=write(tmp_path / "d.jsonl", examples))
    with pytest.raises(DataError, match="only the class 'a' is left"):
        labelled_data(config, quiet())
    write(tmp_path / "d.jsonl", [Example("t", "a"), Example("t", "b"), Example(" t", "b")])
    with pytest.raises(DataError, match="all texts stand there with several labels"):
        labelled_data(config, quiet())


def test_texts_that_are_too_long_are_counted(tmp_path):
    path = write(tmp_path / "d.jsonl", [*examples_of({"fruit": 9, "tool": 9}), Example("apple " * 50, "fruit")])
    model = GPT(GPTConfig(TOKENIZER.vocab_size, 40, 16, 2, 2))
    loaded, config = Loaded(tmp_path, model, TOKENIZER), {"model": "m", "data": path, "validation_share": 0.3}
    task, said = told(prepare_classification, ClassifyConfig(**config), loaded)
    assert "1 of 19 (5.3%) are longer than 40 tokens" in said
    assert max(len(row) for row in [*task.training.rows, *task.held_out.rows]) == 40
    task, said = told(prepare_classification, ClassifyConfig(**config, context=4), loaded)
    assert "19 of 19 (100.0%) are longer than 4 tokens" in said
    assert task.model.body is model
    fitting = int(max(task.training.lengths.max(), task.held_out.lengths.max()))
    model.config = replace(model.config, context=fitting)
    assert "longer than" not in told(prepare_classification, ClassifyConfig(**config), loaded)[1]
    model.config = replace(model.config, context=40)
    with pytest.raises(ValueError, match="--context 41: the model takes 40 tokens"):
        prepare_classification(ClassifyConfig(**config, context=41), loaded, quiet())


def test_pooling_is_as_it_is_asked_for(tmp_path):
    path = write(tmp_path / "d.jsonl", examples_of({"fruit": 9, "tool": 9}))
    tokenizer = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *FILLING.split()])
    for pooling, kind in (("auto", "Classifier"), ("mean", "Classifier"), ("first", "Bert")):
        encoder = new_model(BertConfig(tokenizer.vocab_size, 24, 8, 1, 2, 8))
        config = ClassifyConfig(model="m", data=path, pooling=pooling)
        task = prepare_classification(config, Loaded(tmp_path, encoder, tokenizer), quiet())
        assert type(task.model).__name__ == kind
        assert classes_of(task.model) == ("fruit", "tool")
        task.loss(task.model, task.batch(0, 0)).backward()


def test_shortened():
    assert short(" a\n b  c ", 9) == "a b c"
    assert short("abcdefghij", 9) == "abcdef..."


# ---- all of it


def test_from_a_file_to_a_run_that_tells_the_classes(tmp_path, capsys):
    base = tmp_path / "base"
    GPT(GPTConfig(TOKENIZER.vocab_size, 32, 24, 1, 2, init_std=0.1), seed=1).save_pretrained(base)
    TOKENIZER.save(base / "tokenizer.json")
    path = write(tmp_path / "d.jsonl", examples_of(dict.fromkeys(WORDS, 40), most=5))
    config = ClassifyConfig(
        model=str(base), data=path, validation_share=0.2, epochs=8, learning_rate=0.01, batch_size=12, pooling="mean"
    )
    assert finetune(prepare_classification, config, tmp_path / "run", False, Console(width=200)) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["accuracy"] > 0.9
    path, model, tokenizer = load_pretrained(tmp_path / "run")
    assert classes_of(model) == LABELS
    rows = encode_texts(tokenizer, ["a red heron", "two old saw"], 32).rows
    assert log_probabilities(model, rows, padding_of(tokenizer)).argmax(axis=1).tolist() == [0, 2]
    assert "macro F1" in capsys.readouterr().out
