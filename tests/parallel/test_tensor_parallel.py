"""Ranks that share out every matrix have the losses and gradients of one process, and so have all kinds of meshes."""

import numpy as np
import pytest

from tinygrad_llm import random
from tinygrad_llm.models import GPT, Bert, BertConfig, GPTConfig, Llama, LlamaConfig
from tinygrad_llm.optim import SGD, Muon
from tinygrad_llm.parallel.loopback import Loopback
from tinygrad_llm.parallel.mesh import RanksError
from tinygrad_llm.parallel.options import Crew, ParallelOptions
from tinygrad_llm.parallel.ranks import OneProcess
from tinygrad_llm.parallel.tensor_parallel import Cut, CutModel
from tinygrad_llm.training import Batch, TrainConfig, training_step

SIZES = {"vocab_size": 61, "context": 8, "channels": 16, "layers": 2}
GROUPED = {**SIZES, "heads": 8, "kv_heads": 4, "feed_forward": 26, "head_channels": 6}
MODELS = {
    "gpt": lambda: GPT(GPTConfig(**SIZES, heads=4, dropout=0.2, init_std=0.2), 1),
    "llama": lambda: Llama(LlamaConfig(**GROUPED, tied=False, init_std=0.2), 1),
    "qwen": lambda: Llama(LlamaConfig(**GROUPED, qkv_bias=True, qk_norm=True, window=3, init_std=0.2), 1),
}
TOLERANCE = 1e-12
OPERATIONS = "all_reduce", "max", "reduce_scatter", "all_gather"
each_model = pytest.mark.parametrize("kind", MODELS)
each_stream = pytest.mark.parametrize("sequence", [False, True])


def make(kind):
    """A model in float64, of which no parameter is at a special value."""
    model, rng = MODELS[kind]().astype(np.float64), np.random.default_rng(3)
    for parameter in model.parameters():
        parameter.data += 0.1 * rng.standard_normal(parameter.shape)
    return model


class Random:
    """Batches of random ids, of which some are no targets."""

    unit = "tokens"

    def batch(self, step, part):
        rng = random.stream(5, "batch", step, part)
        ids, targets = rng.integers(0, 61, (2, 8)), rng.integers(0, 61, (2, 8))
        targets[rng.random((2, 8)) < 0.3] = -100
        return Batch((ids, targets), int((targets != -100).sum()))

    def loss(self, model, batch):
        return model.loss(*batch.arrays, reduction="sum")


def sgd(named):
    return SGD(named, 0.1, momentum=0.9)


def trained(ranks, model, steps=range(3)):
    config = TrainConfig(steps=9, warmup=0, learning_rate=0.1, schedule="constant", clip=0.5, accumulate=4)
    return [training_step(model.train(), ranks, Random(), step, config) for step in steps]


def alone(kind, optimizer=sgd):
    """(weights, numbers of the steps, the optimizer's state) of one process."""
    model = make(kind)
    ranks = OneProcess(optimizer(model.named_parameters()))
    numbers = trained(ranks, model)
    return model.state_dict(), numbers, ranks.state_dict()


def on_mesh(kind, optimizer=sgd, **options):
    """The same of every rank of a mesh."""
    settings = ParallelOptions(**options)

    def main(world):
        model = make(kind)
        ranks = Crew(settings, world).ranks(model, optimizer)
        numbers, state = trained(ranks, model), ranks.state_dict()
        with ranks.whole():
            return {name: array.copy() for name, array in model.state_dict().items()}, numbers, state

    return Loopback(settings.dp * settings.pp * settings.tp).run(main)


def assert_same(found, expected):
    """Arrays of the same names, equal up to rounding in proportion to the largest value."""
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        scale = max(1e-3, np.abs(array).max(initial=0))
        np.testing.assert_allclose(found[name] / scale, array / scale, rtol=0, atol=TOLERANCE, err_msg=name)


@each_stream
@each_model
@pytest.mark.parametrize("size", [2, 4])
def test_loss_and_every_gradient_are_those_of_one_process(kind, sequence, size):
    model, batch = make(kind), Random().batch(0, 0)

    def loss_of(model):
        with random.scope(0, "step"):
            return Random().loss(model.train(), batch)

    expected = loss_of(model)
    expected.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}

    def main(comm):
        model = make(kind)
        cut = CutModel(model, comm, sequence)
        loss = loss_of(model)
        loss.backward()
        named = dict(model.named_parameters())
        joined = {
            name: cut.parts[name][2].join(p.grad, comm) if name in cut.parts else p.grad for name, p in named.items()
        }
        return loss.item(), joined

    for loss, found in Loopback(size).run(main):
        assert loss == pytest.approx(expected.item(), rel=TOLERANCE)
        assert_same(found, gradients)


@each_model
@pytest.mark.parametrize(
    "options",
    [
        {"tp": 2},
        {"tp": 4, "sequence_parallel": True},
        {"dp": 2, "tp": 2, "zero": 1},
        {"dp": 2, "tp": 2, "zero": 3, "sequence_parallel": True},
        {"pp": 2, "tp": 2},
        {"pp": 2, "tp": 2, "sequence_parallel": True, "pipeline": "zb-h1"},
        {"dp": 2, "pp": 2, "tp": 2, "sequence_parallel": True},
    ],
    ids=lambda options: " ".join(f"{name}={value}" for name, value in options.items()),
)
def test_training_on_a_mesh_is_that_of_one_process(kind, options):
    weights, numbers, state = alone(kind)
    for found, steps, momentum in on_mesh(kind, **options):
        assert_same(found, weights)
        assert_same(momentum, state)
        for (loss, norm, targets), expected in zip(steps, numbers, strict=True):
            assert (loss, norm) == pytest.approx(expected[:2], rel=TOLERANCE)
            assert targets == expected[2]


def test_training_goes_on_on_ranks_and_on_one_process_again():
    weights, _, _ = alone("gpt")
    first = make("gpt")
    before = OneProcess(sgd(first.named_parameters()))
    trained(before, first, range(1))
    state, values = before.state_dict(), {name: array.copy() for name, array in first.state_dict().items()}

    def main(world):
        model = make("gpt")
        ranks = Crew(ParallelOptions(tp=2), world).ranks(model, sgd)
        with ranks.whole():
            model.load_state_dict(values)
        ranks.load_state_dict(state)
        trained(ranks, model, range(1, 2))
        momentum = ranks.state_dict()
        ranks.disband()
        return model, momentum

    model, momentum = Loopback(2).run(main)[0]
    after = OneProcess(sgd(model.named_parameters()))
    after.load_state_dict(momentum)
    trained(after, model, range(2, 3))
    assert_same(model.state_dict(), weights)


@each_stream
def test_what_is_sent_is_what_the_formula_says(sequence):
    """Per layer two sums forward and two backward, as all-reduces or as their halves; as much for the embedding, once,
    and for what the head gets; of a loss over N targets, three numbers for each."""
    size, kept = 2, 6
    ids, targets = np.zeros((2, 8), int), np.full((2, 8), -100)
    targets.ravel()[:kept] = 1

    def main(comm):
        model = make("gpt").eval()
        CutModel(model, comm, sequence)
        loss = model.loss(ids, targets)
        forward = {name: comm.ledger[name, comm.axis].bytes for name in OPERATIONS}
        loss.backward()
        return forward, {name: comm.ledger[name, comm.axis].bytes for name in OPERATIONS}

    share, stream, layers = (size - 1) / size, 8 * 2 * 8 * 16, SIZES["layers"]
    number_each = 2 * share * 8 * kept
    sums = 1 + 2 * layers
    for forward, both in Loopback(size).run(main):
        if sequence:
            assert forward == {
                "all_reduce": 2 * number_each,
                "max": number_each,
                "reduce_scatter": sums * share * stream,
                "all_gather": sums * share * stream,  # what leaves the norms, the last one too
            }
            # each half becomes the other; positions are split, of one sequence, and norms and biases replicated
            replicated = 8 * 16 * (2 * (2 * layers + 1) + 2 * layers)
            assert both["reduce_scatter"] == 2 * forward["reduce_scatter"]
            assert both["all_gather"] == 2 * forward["all_gather"] + share * 8 * 8 * 16
            assert both["all_reduce"] == 2 * number_each + 2 * share * replicated
        else:
            assert forward == {
                "all_reduce": 2 * number_each + sums * 2 * share * stream,
                "max": number_each,
                "reduce_scatter": 0,
                "all_gather": 0,
            }
            assert both["all_reduce"] == forward["all_reduce"] + sums * 2 * share * stream


@each_model
def test_a_rank_has_its_part_of_every_matrix(kind):
    whole = make(kind)
    most = sum(p.size for name, p in whole.named_parameters() if p.ndim == 2 and "position" not in name)

    def main(comm):
        model = make(kind)
        CutModel(model, comm, sequence=False)
        matrices = [p.size for name, p in model.named_parameters() if p.ndim == 2 and "position" not in name]
        return sum(matrices), sum(p.size for p in model.parameters()) - sum(matrices)

    parts = Loopback(4).run(main)
    assert sum(size for size, _ in parts) == most, "together they have all of them, once"
    assert max(size for size, _ in parts) < 0.3 * most
    assert all(rest < whole.parameter_count() - most + 1 for _, rest in parts)


def test_a_parameter_without_values_is_not_used():
    def main(comm):
        model = make("gpt")
        plain = dict(model.named_parameters())
        cut = CutModel(model, comm, sequence=False)
        return all(np.isnan(plain[name].data).all() for name in cut.parts)

    assert all(Loopback(2).run(main))


@pytest.mark.parametrize(("sections", "ranks"), [((12,), 4), ((8, 4, 4), 2), ((5,), 3), ((1,), 2)])
@pytest.mark.parametrize("dim", [0, 1])
def test_what_is_cut_joins_to_the_same(sections, ranks, dim):
    how = Cut(dim, sections)
    array = np.random.default_rng(0).standard_normal((sum(sections), 3) if dim == 0 else (3, sum(sections)))
    joined = Loopback(ranks).run(lambda comm: (how.part(array, comm), how.join(how.part(array, comm), comm)))
    assert sum(part.size for part, _ in joined) == array.size
    for _, whole in joined:
        np.testing.assert_array_equal(whole, array)
    first = joined[0][0]
    np.testing.assert_array_equal(np.take(first, 0, dim), np.take(array, 0, dim))


def test_the_columns_of_queries_keys_and_values_are_cut_alike():
    array = np.arange(12)[None]  # two heads of two queries, keys and values
    parts = Loopback(2).run(lambda comm: Cut(1, (4, 4, 4)).part(array, comm))
    assert [part[0].tolist() for part in parts] == [[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]]


def test_an_id_outside_the_vocabulary_is_an_error_as_in_one_process():
    def main(comm):
        model = make("gpt")
        CutModel(model, comm, sequence=False)
        with pytest.raises(IndexError, match="ids reach from 0 to 61, not 0 to 60"):
            model.loss(np.array([[0, 61]]), np.array([[0, 1]]))

    Loopback(2).run(main)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda: Bert(BertConfig(vocab_size=9, channels=8, layers=1, heads=4)),
            r"runs GPT and Llama.*Bert; give --tp 1",
        ),
        (lambda: GPT(GPTConfig(**{**SIZES, "channels": 12}, heads=3)), "--tp 2: 3 heads cannot be shared out"),
        (lambda: Llama(LlamaConfig(**{**GROUPED, "kv_heads": 1})), "1 key and value heads cannot be shared out"),
    ],
)
def test_what_cannot_be_cut_is_refused(model, message):
    def main(world):
        with pytest.raises(RanksError, match=message):
            Crew(ParallelOptions(tp=2), world).ranks(model(), sgd)

    Loopback(2).run(main)


def test_frozen_weights_and_muon_are_refused():
    def main(world):
        crew, model = Crew(ParallelOptions(tp=2), world), make("gpt")
        model.final_norm.gain.requires_grad = False
        with pytest.raises(RanksError, match=r"trains all of a model, and final_norm.gain is frozen"):
            crew.ranks(model, sgd)
        with pytest.raises(RanksError, match="muon updates whole matrices"):
            crew.ranks(make("gpt"), lambda named: Muon(named, 0.1))

    Loopback(2).run(main)


def test_options_that_do_not_go_together():
    with pytest.raises(RanksError, match="--sequence-parallel: it is the ranks of --tp"):
        ParallelOptions(sequence_parallel=True).check()
    with pytest.raises(RanksError, match="needs 2 ranks"):
        Crew(ParallelOptions(tp=2))
