"""Ranks that share out the parts of a step end with the weights of one process, bit for bit."""

import hashlib

import numpy as np
import pytest

from tinygrad_llm import random
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.optim import SGD, AdamW, Muon
from tinygrad_llm.parallel.data_parallel import DataRanks
from tinygrad_llm.parallel.loopback import Loopback
from tinygrad_llm.parallel.mesh import RanksError
from tinygrad_llm.parallel.options import Crew, ParallelOptions
from tinygrad_llm.parallel.ranks import OneProcess
from tinygrad_llm.training import Batch, TrainConfig, training_step

SIZES = GPTConfig(vocab_size=60, context=8, channels=16, layers=3, heads=2, dropout=0.2)
STEPS = 3


class Random:
    """Batches of random ids, of which some are no targets."""

    unit = "tokens"

    def batch(self, step, part):
        rng = random.stream(5, "batch", step, part)
        ids, targets = rng.integers(0, 60, (2, 8)), rng.integers(0, 60, (2, 8))
        targets[rng.random((2, 8)) < 0.3] = -100
        return Batch((ids, targets), int((targets != -100).sum()))

    def loss(self, model, batch):
        return model.loss(*batch.arrays, reduction="sum")


def adamw(named):
    return AdamW(named, 0.01)


def trained(make_ranks, model, steps=STEPS, accumulate=4, first=0):
    """(ranks, the numbers of each step)."""
    config = TrainConfig(steps=9, warmup=0, learning_rate=0.01, schedule="constant", clip=0.5, accumulate=accumulate)
    ranks = make_ranks(model)
    return ranks, [training_step(model.train(), ranks, Random(), step, config) for step in range(first, first + steps)]


def digest(model):
    return hashlib.sha256(b"".join(p.data.tobytes() for p in model.parameters())).hexdigest()


def alone(**options):
    model = GPT(SIZES, seed=1)
    _, numbers = trained(lambda m: OneProcess(adamw(m.named_parameters())), model, **options)
    return model, numbers


def shared(ranks, zero, make=adamw, model=SIZES, **options):
    """What `ranks` ranks have: (digests of the weights, numbers of the steps, the optimizer's state)."""

    def main(comm):
        network = GPT(model, seed=1)
        data, numbers = trained(lambda m: DataRanks(comm, m, make, zero), network, **options)
        state = {name: array.copy() for name, array in data.state_dict().items()}
        with data.whole():
            return digest(network), numbers, state

    return Loopback(ranks).run(main)


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_weights_are_those_of_one_process(ranks, zero):
    model, numbers = alone()
    found = shared(ranks, zero)
    assert {weights for weights, _, _ in found} == {digest(model)}
    assert all(steps == numbers for _, steps, _ in found), "loss, norm and targets too"


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_the_optimizers_state_is_that_of_one_process(zero):
    model = GPT(SIZES, seed=1)
    ranks, _ = trained(lambda m: OneProcess(adamw(m.named_parameters())), model)
    expected = ranks.state_dict()
    for _, _, state in shared(2, zero):
        assert state.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(state[name], array, err_msg=name)


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_training_goes_on_where_another_number_of_ranks_has_left_it(zero):
    model, _ = alone(steps=4)
    half = GPT(SIZES, seed=1)
    before, _ = trained(lambda m: OneProcess(adamw(m.named_parameters())), half, steps=2)
    state, weights = before.state_dict(), {name: array.copy() for name, array in half.state_dict().items()}

    def main(comm):
        network = GPT(SIZES, seed=7)
        ranks = DataRanks(comm, network, adamw, zero)
        with ranks.whole():
            for name, parameter in network.named_parameters():
                parameter.data[...] = weights[name]
        ranks.load_state_dict(state)
        trained(lambda _: ranks, network, steps=2, first=2)
        with ranks.whole():
            return digest(network)

    assert set(Loopback(4).run(main)) == {digest(model)}


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_what_is_frozen_stays_and_what_has_no_gradient_is_left_alone(zero):
    def make():
        model = GPT(SIZES, seed=1)
        for name, parameter in model.named_parameters():
            parameter.requires_grad = "mlp" in name
        return model

    expected = make()
    trained(lambda m: OneProcess(adamw([(n, p) for n, p in m.named_parameters() if p.requires_grad])), expected)

    def main(comm):
        model = make()
        ranks, _ = trained(lambda m: DataRanks(comm, m, adamw, zero), model)
        with ranks.whole():
            return digest(model)

    assert set(Loopback(2).run(main)) == {digest(expected)}


@pytest.mark.parametrize("zero", [1, 3])
def test_a_small_piece_is_updated_as_the_whole_parameter_is(zero):
    config = GPTConfig(vocab_size=280, context=8, channels=16, layers=1, heads=2)  # 4,096 elements, and 384
    model = GPT(config, seed=1)
    trained(lambda m: OneProcess(adamw(m.named_parameters())), model)
    assert {weights for weights, _, _ in shared(2, zero, model=config)} == {digest(model)}


def test_a_rank_keeps_only_its_share():
    config = GPTConfig(vocab_size=4096, context=8, channels=256, layers=2, heads=2)
    total = 4 * GPT(config).parameter_count()

    def main(zero):
        def work(comm):
            model = GPT(config, seed=1)
            ranks, _ = trained(lambda m: DataRanks(comm, m, adamw, zero), model, steps=1, accumulate=8)
            return ranks.held()

        return work

    for zero, expected in (
        (0, (1, 1, 2)),
        (1, (1, 1, 2 / 4)),
        (2, (1, 1 / 4, 2 / 4)),
        (3, (1 / 4, 1 / 4, 2 / 4)),
    ):
        ranks = Loopback(4).run(main(zero))
        most = [max(held[kind] for held in ranks) / total for kind in ("parameters", "gradients", "optimizer")]
        assert most == pytest.approx(expected, rel=0.02), zero


@pytest.mark.parametrize("zero", [0, 3])
def test_after_training_each_rank_can_use_the_model_alone(zero):
    model, _ = alone()
    expected = model.eval()(np.arange(8)[None]).data

    def main(comm):
        network = GPT(SIZES, seed=1)
        ranks, _ = trained(lambda m: DataRanks(comm, m, adamw, zero), network)
        ranks.disband()
        assert not any("forward" in vars(block) for block in network.blocks)
        return network.eval()(np.arange(8)[None]).data if comm.rank == 1 else expected

    for found in Loopback(2).run(main):
        np.testing.assert_array_equal(found, expected)


def test_muon_is_for_whole_matrices():
    with pytest.raises(ValueError, match="--zero 1: muon updates whole matrices"):
        shared(2, 1, lambda named: Muon(named, 0.01))


@pytest.mark.parametrize("zero", [0, 1, 3])
def test_other_optimizers_are_shared_too(zero):
    model = GPT(SIZES, seed=1)
    trained(lambda m: OneProcess(SGD(m.named_parameters(), 0.01, momentum=0.9)), model)
    found = shared(2, zero, lambda named: SGD(named, 0.01, momentum=0.9))
    assert {weights for weights, _, _ in found} == {digest(model)}


def test_parts_that_cannot_be_shared_out_evenly():
    with pytest.raises(ValueError, match="--dp 4: the 6 passes of a step cannot be shared out evenly"):
        shared(4, 0, accumulate=6)


def test_an_unknown_stage():
    with pytest.raises(ValueError, match="--zero 4: must be 0, 1, 2 or 3"):
        shared(1, 4)


@pytest.mark.parametrize("zero", [0, 3])
def test_a_loss_that_goes_through_the_model_twice_is_refused(zero):
    class Twice(Random):
        def loss(self, model, batch):
            return super().loss(model, batch) + super().loss(model, batch)

    def main(comm):
        model = GPT(SIZES, seed=1)
        ranks = DataRanks(comm, model, adamw, zero)
        config = TrainConfig(steps=9, warmup=0, learning_rate=0.01, accumulate=2)
        with pytest.raises(RanksError, match="goes through the model more than once for a loss; give --dp 1"):
            training_step(model.train(), ranks, Twice(), 0, config)

    Loopback(2).run(main)


@pytest.mark.parametrize(
    ("dp", "zero", "passes", "same"),
    [(2, 0, 4, True), (2, 0, 6, False), (3, 1, 12, True), (3, 2, 12, False), (3, 3, 3, True), (2, 2, 6, True)],
)
def test_where_sums_are_made_in_the_order_of_one_process(dp, zero, passes, same):
    told = Loopback(dp).run(lambda world: Crew(ParallelOptions(dp=dp, zero=zero), world).same_order(passes))
    assert told == [same] * dp
    model, _ = alone(accumulate=passes)
    assert {weights == digest(model) for weights, _, _ in shared(dp, zero, accumulate=passes)} == {same}
