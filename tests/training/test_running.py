"""The best weights, and patience."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from tinygrad_llm import ops
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.parallel.options import Crew
from tinygrad_llm.training import Batch, TrainConfig
from tinygrad_llm.training.checkpoints import WholeModel
from tinygrad_llm.training.metrics import BestMeasurement, read_metrics
from tinygrad_llm.training.running import run_task

SIZES = GPTConfig(vocab_size=13, context=6, channels=8, layers=1, heads=2)


class Scripted:
    """A task that is measured as it is told, step after step."""

    unit = "tokens"

    def __init__(self, losses):
        self.losses, self.seen = list(losses), {}

    def batch(self, step, part):
        ids = np.random.default_rng(step).integers(0, 13, (2, 5))
        return Batch((ids,), ids.size)

    def loss(self, model, batch):
        return ops.cross_entropy(model(batch.arrays[0]), batch.arrays[0], reduction="sum")

    def validate(self, model):
        number = len(self.seen)
        self.seen[number] = model.token_embedding.weight.data.copy()
        return {"validation_loss": self.losses[number]}

    def sample(self, model):
        return "x"


def run(path, task, console=None, **changes):
    values = {"steps": len(task.losses), "validate_every": 1, "checkpoint_every": 0, "best": True, "warmup": 0}
    config = TrainConfig(**{**values, **changes})
    model = GPT(SIZES, seed=2)
    path.mkdir(exist_ok=True)
    console = console or Console(file=io.StringIO())
    return model, run_task(path, model, WholeModel(model), task, config, {}, "train", console, Crew())


def weights(model):
    return model.token_embedding.weight.data


def test_the_best_weights_are_the_models_and_the_runs(tmp_path):
    task = Scripted([5.0, 3.0, 4.0, 3.0, 6.0])
    model, trained = run(tmp_path / "run", task)
    assert trained.done
    np.testing.assert_array_equal(weights(model), task.seen[1])
    np.testing.assert_array_equal(weights(GPT.from_pretrained(tmp_path / "run")), task.seen[1])
    assert sorted(p.name[-1] for p in (tmp_path / "run/checkpoints").iterdir()) == ["2", "5"]


def test_without_best_the_last_are(tmp_path):
    task = Scripted([5.0, 3.0, 4.0])
    model, _ = run(tmp_path / "run", task, best=False)
    np.testing.assert_array_equal(weights(model), task.seen[2])
    np.testing.assert_array_equal(weights(GPT.from_pretrained(tmp_path / "run")), task.seen[2])


def test_patience_ends_training_and_a_resumed_run_stays_ended(tmp_path):
    task = Scripted([5.0, 4.0, 4.5, 4.4, 1.0, 1.0])
    shown = io.StringIO()
    model, trained = run(tmp_path / "run", task, Console(file=shown, width=200), patience=2)
    assert trained.done
    assert len(task.seen) == 4
    assert "stopped after step 4, as 2 measurements gave no better one" in shown.getvalue()
    assert "kept        the weights after step 2" in shown.getvalue()
    again = Scripted([9.0] * 6)
    model, trained = run(tmp_path / "run", again, patience=2)
    assert trained.done
    assert not again.seen
    np.testing.assert_array_equal(weights(model), task.seen[1])
    # with more patience it goes on from the last weights, not from the best
    model, _ = run(tmp_path / "run", (later := Scripted([1.0] * 6)), patience=3)
    assert len(later.seen) == 2
    assert [row["step"] for row in read_metrics(tmp_path / "run/metrics.jsonl") if "loss" in row] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(weights(model), later.seen[0])


def test_damaged_best_weights_are_told_and_the_last_are_taken(tmp_path):
    task = Scripted([3.0, 4.0])
    run(tmp_path / "run", task)
    file = tmp_path / "run/checkpoints/step-00000001/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    shown = io.StringIO()
    model, trained = run(tmp_path / "run", Scripted([9.0, 9.0]), Console(file=shown, width=300))
    assert trained.done
    assert "warning: the best weights, step-00000001, cannot be read, and the last are taken" in shown.getvalue()
    np.testing.assert_array_equal(weights(model), task.seen[1])


def test_only_what_is_not_frozen_is_trained(tmp_path):
    frozen = GPT(SIZES, seed=2)
    before = {name: array.copy() for name, array in frozen.state_dict().items()}
    for name, parameter in frozen.named_parameters():
        parameter.requires_grad = "mlp" in name
    shown = io.StringIO()
    console, saver = Console(file=shown, width=200), WholeModel(frozen)
    config = TrainConfig(steps=2, warmup=0, validate_every=0)
    run_task(tmp_path, frozen, saver, Scripted([1.0]), config, {}, "train", console, Crew())
    trained = sum(p.size for name, p in frozen.named_parameters() if "mlp" in name)
    assert f"{frozen.parameter_count():,} parameters, of which {trained:,} are trained" in shown.getvalue()
    for name, array in frozen.state_dict().items():
        same = np.array_equal(array, before[name])
        assert same == ("mlp" not in name or ("mlp_norm.bias" in name and same)), name


def test_the_best_measurement_of_metrics():
    rows = [{"step": s, "validation_loss": v} for s, v in ((2, 3.0), (4, 2.0), (6, 2.0), (8, 2.5))]
    best = BestMeasurement.of([{"step": 1, "loss": 0.1}, *rows])
    assert (best.step, best.loss, best.since) == (4, 2.0, 2)
    assert best.tired(2)
    assert not best.tired(3)
    assert not best.tired(0)


@pytest.mark.parametrize("value", [-1])
def test_patience_is_not_negative(value):
    with pytest.raises(ValueError, match="--patience -1: must not be negative"):
        TrainConfig(patience=value)


def test_the_kind_of_a_run_is_checked(tmp_path):
    TrainConfig().save(tmp_path / "config.toml")
    text = (tmp_path / "config.toml").read_text(encoding="utf-8")
    assert "kind" not in json.dumps(text)
    (tmp_path / "config.toml").write_text('kind = "classify"\n' + text, encoding="utf-8")
    with pytest.raises(ValueError, match="a run of tinygrad-llm finetune classify, not of tinygrad-llm train"):
        TrainConfig.load(tmp_path / "config.toml")
