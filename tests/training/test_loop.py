"""The loop's arithmetic: accumulation, schedules, clipping, failures; and metrics."""

import json

import numpy as np
import pytest

from tinygrad_llm import ops
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.optim import SGD
from tinygrad_llm.parallel.ranks import OneProcess
from tinygrad_llm.training import Batch, TrainConfig, training_step
from tinygrad_llm.training.metrics import Metrics, plot_loss, read_metrics, smooth, write_samples

SIZES = GPTConfig(vocab_size=13, context=6, channels=8, layers=1, heads=2)


class Parts:
    """A task whose batches are given rows; targets of -100 do not count."""

    def __init__(self, inputs, targets, divided):
        self.inputs, self.targets = np.split(inputs, divided), np.split(targets, divided)

    def batch(self, step, part):
        targets = self.targets[part]
        return Batch((self.inputs[part], targets), int((targets != -100).sum()))

    def loss(self, model, batch):
        return ops.cross_entropy(model(batch.arrays[0]), batch.arrays[1], reduction="sum")


def config(**changes):
    return TrainConfig(
        **{"steps": 10, "warmup": 0, "clip": 0.0, "schedule": "constant", "learning_rate": 0.1, **changes}
    )


def test_accumulated_parts_give_the_gradients_of_the_large_batch():
    rng = np.random.default_rng(0)
    inputs, targets = rng.integers(0, 13, (6, 5)), rng.integers(0, 13, (6, 5))
    targets[0, 1:], targets[4] = -100, -100  # so the parts differ in how many targets count
    results = []
    for divided in ([], [1, 4]):
        model = GPT(SIZES, seed=2).astype(np.float64)
        optimizer = SGD(model.named_parameters(), 0.1)
        task = Parts(inputs, targets, divided)
        loss, norm, count = training_step(model, OneProcess(optimizer), task, 0, config(accumulate=len(divided) + 1))
        results.append((loss, norm, count, model.state_dict()))
    (loss, norm, count, weights), (parts_loss, parts_norm, parts_count, parts_weights) = results
    assert count == parts_count == 30 - 4 - 5
    assert parts_loss == pytest.approx(loss, rel=1e-12)
    assert parts_norm == pytest.approx(norm, rel=1e-12)
    for name in weights:
        np.testing.assert_allclose(parts_weights[name], weights[name], rtol=0, atol=1e-12)


def test_the_loss_is_the_mean_over_the_targets():
    ids = np.random.default_rng(0).integers(0, 13, (2, 5))
    model = GPT(SIZES).astype(np.float64)
    expected = ops.cross_entropy(model(ids), ids).item()
    loss, _, _ = training_step(model, OneProcess(SGD(model.named_parameters(), 0.1)), Parts(ids, ids, []), 0, config())
    assert loss == pytest.approx(expected, rel=1e-12)


def test_clipping_bounds_the_step():
    ids = np.random.default_rng(0).integers(0, 13, (2, 5))
    model = GPT(SIZES).astype(np.float64)
    before = {name: a.copy() for name, a in model.state_dict().items()}
    _, norm, _ = training_step(
        model, OneProcess(SGD(model.named_parameters(), 1.0)), Parts(ids, ids, []), 0, config(clip=0.01)
    )
    assert norm > 0.01
    moved = sum(((before[name] - a) ** 2).sum() for name, a in model.state_dict().items())
    assert np.sqrt(moved) == pytest.approx(0.1 * 0.01, rel=1e-9)


def test_a_loss_that_is_not_finite_stops_with_a_remedy():
    ids = np.zeros((1, 3), int)
    model = GPT(SIZES)
    model.final_norm.bias.data[:] = np.nan
    with pytest.raises(FloatingPointError, match=r"step 8: the loss is nan.*--learning-rate"):
        training_step(model, OneProcess(SGD(model.named_parameters(), 1.0)), Parts(ids, ids, []), 7, config())


def test_metrics_are_kept_up_to_the_resumed_step_and_a_cut_line_is_left_out(tmp_path):
    file = tmp_path / "m.jsonl"
    metrics = Metrics(file)
    for step in (1, 2, 3):
        metrics.write(step=step, loss=step / 2)
    metrics.close()
    with file.open("a", encoding="utf-8") as lines:
        lines.write('{"step": 4, "lo')
    assert [row["step"] for row in read_metrics(file)] == [1, 2, 3]
    resumed = Metrics(file, resume_from=2)
    resumed.write(step=3, loss=9.0)
    resumed.close()
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert rows == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": 9.0}]


def test_the_plot_is_a_picture_with_and_without_anything_to_show(tmp_path):
    rows = [{"step": s, "loss": 5 / s, "learning_rate": 0.1} for s in range(1, 50)]
    plot_loss([*rows, {"step": 49, "validation_loss": 1.0}], tmp_path / "full.png")
    plot_loss([], tmp_path / "empty.png")
    for name in ("full.png", "empty.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_smoothing_starts_at_the_first_value_and_follows():
    assert smooth((3.0, 3.0, 3.0)) == pytest.approx([3.0, 3.0, 3.0])
    assert smooth((4.0, 0.0), weight=0.5) == pytest.approx([4.0, 4 / 3])


def test_samples_are_written_with_their_step(tmp_path):
    write_samples([{"step": 5, "sample": "a"}, {"step": 6, "loss": 1}, {"step": 9, "sample": "b"}], tmp_path / "s")
    assert (tmp_path / "s").read_text(encoding="utf-8") == "--- after step 5 ---\na\n\n--- after step 9 ---\nb\n"
    write_samples([{"step": 6, "loss": 1}], tmp_path / "s")
    assert not (tmp_path / "s").exists(), "one that is empty tells nothing"
    write_samples([], tmp_path / "s")
    assert not (tmp_path / "s").exists()
