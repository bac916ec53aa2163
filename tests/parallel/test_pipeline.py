"""Pipelines of layers end with the weights of one process, bit for bit, whatever the schedule."""

import hashlib

import numpy as np
import pytest

from tinygrad_llm import random
from tinygrad_llm.models import GPT, GPTConfig, Llama, LlamaConfig
from tinygrad_llm.optim import AdamW, Muon
from tinygrad_llm.parallel.gantt import read_trace
from tinygrad_llm.parallel.loopback import Loopback
from tinygrad_llm.parallel.mesh import Mesh, RanksError
from tinygrad_llm.parallel.pipeline import PipelineRanks
from tinygrad_llm.parallel.ranks import OneProcess
from tinygrad_llm.parallel.schedules import Op
from tinygrad_llm.parallel.stages import layers_of, staged
from tinygrad_llm.training import Batch, TrainConfig, training_step

SIZES = {"vocab_size": 60, "context": 8, "channels": 16, "heads": 2}
GROUPED = {**SIZES, "kv_heads": 1, "feed_forward": 24}
MODELS = {
    "gpt": lambda layers, seed: GPT(GPTConfig(**SIZES, layers=layers, dropout=0.2), seed),
    "llama": lambda layers, seed: Llama(LlamaConfig(**GROUPED, layers=layers, tied=False), seed),
    "tied llama": lambda layers, seed: Llama(LlamaConfig(**GROUPED, layers=layers, tied=True), seed),
}
SCHEDULES = [("gpipe", 1), ("1f1b", 1), ("interleaved", 2), ("zb-h1", 1)]


class Random:
    """Batches of random ids, of different lengths, of which some are no targets."""

    unit = "tokens"

    def batch(self, step, part):
        rng = random.stream(5, "batch", step, part)
        shape = 2, 5 + part % 4
        ids, targets = rng.integers(0, 60, shape), rng.integers(0, 60, shape)
        targets[rng.random(shape) < 0.3] = -100
        return Batch((ids, targets), int((targets != -100).sum()))

    def loss(self, model, batch):
        return model.loss(*batch.arrays, reduction="sum")


def adamw(named):
    return AdamW(named, 0.01, weight_decay=0.1)


def trained(ranks, model, steps=range(3), accumulate=8, task=Random):
    config = TrainConfig(steps=9, warmup=0, learning_rate=0.01, schedule="constant", clip=0.5, accumulate=accumulate)
    return [training_step(model.train(), ranks, task(), step, config) for step in steps]


def digest(model):
    return hashlib.sha256(b"".join(p.data.tobytes() for p in model.parameters())).hexdigest()


def alone(kind, layers=5, make=adamw, **options):
    """(digest of the weights, the numbers of each step, the optimizer's state) of one process."""
    model = MODELS[kind](layers, 1)
    ranks = OneProcess(make(model.named_parameters()))
    numbers = trained(ranks, model, **options)
    return digest(model), numbers, ranks.state_dict()


def piped(kind, pp, pipeline="1f1b", chunks=1, dp=1, layers=5, make=adamw, **options):
    """What `alone` gives, of each rank of a mesh."""

    def main(world):
        model = MODELS[kind](layers, 1)
        ranks = PipelineRanks(Mesh(dp=dp, pp=pp, world=world), model, make, pipeline, chunks)
        numbers = trained(ranks, model, **options)
        state = {name: array.copy() for name, array in ranks.state_dict().items()}
        with ranks.whole():
            return digest(model), numbers, state

    return Loopback(dp * pp).run(main)


def assert_same(found, expected):
    for weights, numbers, state in found:
        assert numbers == expected[1], "loss, norm and targets"
        assert weights == expected[0]
        assert state.keys() == expected[2].keys()
        for name, array in expected[2].items():
            np.testing.assert_array_equal(state[name], array, err_msg=name)


@pytest.mark.parametrize(("pipeline", "chunks"), SCHEDULES)
@pytest.mark.parametrize("kind", MODELS)
def test_weights_and_state_are_those_of_one_process(kind, pipeline, chunks):
    assert_same(piped(kind, 2, pipeline, chunks), alone(kind))


@pytest.mark.parametrize(("pipeline", "chunks"), SCHEDULES)
def test_four_stages(pipeline, chunks):
    layers = 4 * chunks + 1
    assert_same(piped("gpt", 4, pipeline, chunks, layers=layers), alone("gpt", layers))


@pytest.mark.parametrize(("pipeline", "chunks"), SCHEDULES)
@pytest.mark.parametrize("kind", MODELS)
def test_with_data_parallel(kind, pipeline, chunks):
    assert_same(piped(kind, 2, pipeline, chunks, dp=2), alone(kind))


@pytest.mark.parametrize("pipeline", ["1f1b", "zb-h1"])
def test_fewer_microbatches_than_stages(pipeline):
    assert_same(piped("gpt", 4, pipeline, accumulate=2), alone("gpt", accumulate=2))


def test_muon_updates_whole_matrices():
    def make(named):
        return Muon(named, 0.01)

    assert_same(piped("gpt", 2, make=make), alone("gpt", make=make))


@pytest.mark.parametrize("dp", [1, 2])
def test_training_goes_on_on_another_mesh(dp):
    expected = alone("gpt", steps=range(4))
    half = MODELS["gpt"](5, 1)
    before = OneProcess(adamw(half.named_parameters()))
    trained(before, half, range(2))
    state, weights = before.state_dict(), {name: array.copy() for name, array in half.state_dict().items()}

    def main(world):
        model = MODELS["gpt"](5, 7)
        ranks = PipelineRanks(Mesh(dp=dp, pp=4 // dp, world=world), model, adamw)
        with ranks.whole():
            for name, parameter in model.named_parameters():
                parameter.data[...] = weights[name]
        ranks.load_state_dict(state)
        numbers = trained(ranks, model, range(2, 4))
        after = {name: array.copy() for name, array in ranks.state_dict().items()}
        with ranks.whole():
            return digest(model), numbers, after

    assert_same(Loopback(4).run(main), (expected[0], expected[1][2:], expected[2]))


def test_a_rank_keeps_its_own_stages_only_and_all_after_training():
    def main(world):
        model = MODELS["gpt"](4, 1)
        ranks = PipelineRanks(Mesh(pp=2, world=world), model, adamw)
        trained(ranks, model, range(1))
        known = {name for name, p in model.named_parameters() if np.isfinite(p.data).all()}
        ranks.disband()
        return known, set(ranks.optimizer.parameters), model.eval()(np.arange(8)[None]).data

    (first, first_trained, logits), (last, last_trained, same) = Loopback(2).run(main)
    names = {name for name, _ in MODELS["gpt"](4, 1).named_parameters()}
    assert first == first_trained
    assert last == last_trained | {"token_embedding.weight"}
    assert first_trained | last_trained == names
    assert not first_trained & last_trained
    np.testing.assert_array_equal(logits, same)
    assert np.isfinite(logits).all()


def test_what_ran_when_is_written(tmp_path):
    file = tmp_path / "trace.json"

    def main(world):
        model = MODELS["gpt"](4, 1)
        ranks = PipelineRanks(Mesh(dp=2, pp=2, world=world), model, adamw, "zb-h1", trace=file)
        trained(ranks, model, range(1))
        ranks.disband()

    Loopback(4).run(main)
    timeline = read_trace(file)
    assert timeline.ranks == 2
    expected = {Op(kind, stage, i) for kind in "FIW" for stage in range(2) for i in range(4)}
    assert {span.op for span in timeline.spans} == expected
    times = {span.op: span for span in timeline.spans}
    for i in range(4):
        assert times[Op("F", 0, i)].end <= times[Op("F", 1, i)].start
        assert times[Op("I", 1, i)].end <= times[Op("I", 0, i)].start


def test_layers_are_shared_out_in_order():
    assert [list(layers_of(stage, 3, 7)) for stage in range(3)] == [[0, 1, 2], [3, 4], [5, 6]]
    _, named = staged(MODELS["llama"](2, 1), 2)
    assert named[0][0][0] == "token_embedding.weight"
    assert [name for name, _ in named[1]][-2:] == ["final_norm.gain", "lm_head.weight"]


class Twice(Random):
    """A loss of two passes."""

    def loss(self, model, batch):
        return super().loss(model, batch) - super().loss(model, batch)


def test_what_a_pipeline_cannot_do():
    with pytest.raises(RanksError, match="6 stages need as many layers, and the model has 5; take fewer stages"):
        piped("gpt", 2, "interleaved", 3)
    with pytest.raises(RanksError, match="--dp 2: the 5 passes of a step cannot be shared out evenly"):
        piped("gpt", 2, dp=2, accumulate=5)
    with pytest.raises(RanksError, match=r"3 passes of a step are not a multiple of --pp 2.* a multiple of 4"):
        piped("gpt", 2, "interleaved", 2, dp=2, accumulate=6)
    with pytest.raises(RanksError, match="through the model more than once for a loss"):
        piped("gpt", 2, task=Twice)
    model = MODELS["gpt"](4, 1)
    model.final_norm.gain.requires_grad = False
    with pytest.raises(RanksError, match=r"trains all of a model, and final_norm.gain is frozen"):
        staged(model, 2)
    with pytest.raises(RanksError, match="runs GPT and Llama, and this is a Block"):
        staged(model.blocks[0], 2)
