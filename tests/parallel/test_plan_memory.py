"""Memory of a plan: the tables of the papers, and what our own models keep."""

import importlib.util
import itertools
import os
from dataclasses import replace

import numpy as np
import pytest

from tinygrad_llm.backend import chosen_backend
from tinygrad_llm.models import GPT, GPTConfig, Llama, LlamaConfig
from tinygrad_llm.optim import SGD, AdamW
from tinygrad_llm.parallel.loopback import Loopback
from tinygrad_llm.parallel.options import Crew, ParallelOptions
from tinygrad_llm.parallel.plan_memory import (
    all_memory,
    buffers,
    ends_activations,
    first_stage_activations,
    layer_activations,
    rank_parameters,
    token_activations,
    zero_bytes,
)
from tinygrad_llm.parallel.plan_models import NAMED, ModelSizes, gpt, llama
from tinygrad_llm.parallel.plan_own import saved_bytes
from tinygrad_llm.parallel.plan_setup import FLOAT32, MIXED, Machine, Setup, check, chunk_layers, rank_layers
from tinygrad_llm.parallel.schedules import schedule
from tinygrad_llm.parallel.stages import staged

ZERO = {  # Rajbhandari et al. 2019, table 1: GB with stages 1, 2, 3 of 7.5, 128 and 1000 billion parameters
    4: ((52.5, 41.3, 30), (896, 704, 512), (7000, 5500, 4000)),
    16: ((35.6, 21.6, 7.5), (608, 368, 128), (4750, 2875, 1000)),
    64: ((31.4, 16.6, 1.88), (536, 284, 32), (4187, 2218, 250)),
    256: ((30.4, 15.4, 0.47), (518, 263, 8), (4046, 2054, 62.5)),
    1024: ((30.1, 15.1, 0.12), (513, 257, 2), (4011, 2013, 15.6)),
}
KORTHIKANTI = {  # GiB on the first stage: tp, with sp, with selective, with both, full recomputation
    "megatron-22b": ((8, 1, 1, 4), (59.2, 39.6, 29.2, 9.6, 4.5)),
    "gpt3-175b": ((8, 8, 3, 1), (66.8, 41.4, 37.8, 12.4, 5.8)),
    "megatron-530b": ((8, 35, 3, 1), (114, 66.5, 70.6, 23.1, 10.9)),
    "megatron-1t": ((8, 64, 1, 1), (131, 76.6, 81.2, 26.6, 12.5)),
}
SMALL = gpt("small", 5, 24, 4, 100, 20)
compiled = (
    chosen_backend() != "numpy"
    and os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"
    and importlib.util.find_spec("numba") is not None
    and importlib.util.find_spec("tinygrad_llm.kernels") is not None
)
needs_kernels = pytest.mark.skipif(not compiled, reason="the formula is that of compiled operations")
GATED = llama("gated", 3, 24, 4, 2, 50, vocab_size=100)


def printed(value, text):
    """Whether a value is that of a table: rounded or cut to as many digits."""
    step = 10.0 ** -len(f"{text}".partition(".")[2]) if "." in f"{text}" else 1.0
    return abs(value - text) < step


def total(*arguments):
    return sum(zero_bytes(*arguments)) / 1e9


@pytest.mark.parametrize("ranks", ZERO)
def test_the_table_of_zero(ranks):
    for billions, row in zip((7.5, 128, 1000), ZERO[ranks], strict=True):
        assert total(billions * 1e9, 0, ranks, MIXED) == 16 * billions
        for stage, text in enumerate(row, 1):
            assert printed(total(billions * 1e9, stage, ranks, MIXED), text), (billions, stage)


def test_zero_with_float32():
    psi, n = 7.5e9, 64
    assert [round(total(psi, stage, n, FLOAT32), 2) for stage in range(4)] == [120, 60.94, 31.41, 1.88]
    assert zero_bytes(psi, 1, n, FLOAT32) == (4 * psi, 4 * psi, 8 * psi / n)
    assert zero_bytes(psi, 2, n, FLOAT32) == (4 * psi, 4 * psi / n, 8 * psi / n)
    assert zero_bytes(psi, 3, n, MIXED) == (2 * psi / n, 2 * psi / n, 12 * psi / n)


@pytest.mark.parametrize("name", KORTHIKANTI)
def test_the_table_of_activations(name):
    (t, p, v, b), row = KORTHIKANTI[name]
    setup = Setup(
        2048, pp=p, tp=t, chunks=v, batch_size=b, microbatches=4 * p, schedule="interleaved" if v > 1 else "1f1b"
    )
    ways = [(False, "none"), (True, "none"), (False, "selective"), (True, "selective"), (False, "full")]
    for (sequence_parallel, recompute), text in zip(ways, row, strict=True):
        way = replace(setup, sequence_parallel=sequence_parallel, recompute=recompute)
        assert printed(first_stage_activations(NAMED[name], way) / 2**30, text), way


@pytest.mark.parametrize(("name", "saved"), [("gpt3-175b", 70), ("megatron-530b", 65)])
def test_what_selective_recomputation_saves(name, saved):
    copied, shared, attention = token_activations(NAMED[name], 2048, MIXED)
    assert 100 * attention / (copied + shared + attention) == pytest.approx(saved, abs=0.5)


def test_the_formulas_of_a_layer():
    model, n, h, at = NAMED["gpt2"], 3 * 512, 768, 12 * 512
    setup = Setup(512, batch_size=3, tp=4)
    plain = replace(setup, sequence_parallel=False)
    assert layer_activations(model, replace(setup, tp=1)) == n * (34 * h + 5 * at)
    assert layer_activations(model, plain) == n * (10 * h + 24 * h / 4 + 5 * at / 4)
    assert layer_activations(model, setup) == n * (34 * h / 4 + 5 * at / 4)
    assert layer_activations(model, replace(plain, recompute="selective")) == n * (10 * h + 24 * h / 4)
    assert layer_activations(model, replace(setup, recompute="selective")) == n * 34 * h / 4
    assert layer_activations(model, replace(setup, recompute="full")) == n * 2 * h
    assert layer_activations(model, replace(setup, recompute="full", precision=FLOAT32)) == n * 4 * h / 4
    assert layer_activations(model, replace(plain, recompute="full", precision=FLOAT32)) == n * 4 * h


@pytest.mark.parametrize(("schedule", "v"), [("1f1b", 1), ("interleaved", 3)])
def test_the_first_rank_holds_what_the_formula_says(schedule, v):
    model = replace(NAMED["gpt3-175b"], dropout=0.0)
    setup = Setup(2048, pp=8, tp=8, chunks=v, schedule=schedule, microbatches=32)
    memory = all_memory(model, setup)
    layers = first_stage_activations(model, setup)
    assert memory[0].activations == pytest.approx(layers + (8 if v == 1 else 16) * ends_activations(model, setup, 0))
    assert memory[0].held == (8 if v == 1 else 31)
    assert memory[-1].activations < memory[0].activations
    assert [rank.layers for rank in memory] == [12] * 8


def test_parameters_of_the_ranks_add_up():
    for model in (SMALL, GATED, NAMED["llama2-70b"]):
        one = Setup(16)
        assert rank_parameters(model, one, 0) == model.parameters
        for pp in (2, 3):
            ranks = sum(rank_parameters(model, replace(one, pp=pp), r) for r in range(pp))
            assert ranks == model.parameters + (model.table if model.tied else 0)
    table, positions = 100 * 24, 20 * 24
    half = Setup(16, tp=2)
    assert rank_parameters(SMALL, half, 0) == 5 * ((12 * 24**2 + 7 * 24) // 2 + 6 * 24) + table // 2 + positions + 48
    odd = replace(SMALL, vocab_size=101)
    assert rank_parameters(odd, half, 0) == rank_parameters(SMALL, half, 0) + 24
    assert [rank_layers(SMALL, Setup(16, pp=3), r) for r in range(3)] == [2, 2, 1]
    assert chunk_layers(SMALL, Setup(16, pp=2, chunks=2)) == [2, 1, 1, 1]
    assert [rank_layers(SMALL, Setup(16, pp=2, chunks=2), r) for r in range(2)] == [3, 2]


@pytest.mark.parametrize(("layers", "pp", "chunks"), [(7, 3, 1), (5, 2, 2), (6, 3, 1), (11, 2, 3), (4, 4, 1)])
def test_layers_are_cut_as_the_program_cuts_them(layers, pp, chunks):
    model = GPT(GPTConfig(vocab_size=9, context=4, channels=4, layers=layers, heads=1))
    _, stages = staged(model, pp * chunks)
    found = [len({name.split(".")[1] for name, _ in named if name.startswith("blocks")}) for named in stages]
    setup = Setup(4, pp=pp, chunks=chunks, schedule="interleaved" if chunks > 1 else "1f1b")
    assert chunk_layers(gpt("", layers, 4, 1), setup) == found
    assert found[0] >= found[-1], "the last stage has the head as well"


def test_the_ends_of_the_pipeline():
    setup = Setup(16, pp=2, tp=2, batch_size=3)
    n = 48
    assert ends_activations(SMALL, setup, 0) == n * 24
    assert ends_activations(GATED, setup, 0) == 0
    assert ends_activations(SMALL, setup, 1) == n * (4 * 24 / 2 + 4 * 100 / 2)
    assert ends_activations(SMALL, replace(setup, sequence_parallel=False), 1) == n * (4 * 24 + 4 * 100 / 2)
    assert ends_activations(SMALL, replace(setup, pp=1, tp=1), 0) == n * (24 + 4 * 24 + 4 * 100)
    held = {
        name: all_memory(SMALL, Setup(16, pp=2, microbatches=4, schedule=name))[1]
        for name in ("gpipe", "1f1b", "zb-h1")
    }
    assert {name: rank.held for name, rank in held.items()} == {"gpipe": 4, "1f1b": 1, "zb-h1": 2}
    assert held["gpipe"].activations == 4 * held["1f1b"].activations == 2 * held["zb-h1"].activations


@pytest.mark.parametrize(
    ("name", "v"), [("gpipe", 1), ("1f1b", 1), ("zb-h1", 1), *(("interleaved", v) for v in (1, 2, 3))]
)
def test_the_ends_hold_as_many_microbatches_as_in_the_schedule(name, v):
    model = gpt("", 24, 8, 1, 50, 16)
    for p, m in ((2, 2), (2, 4), (2, 8), (4, 4), (4, 8), (4, 16)):
        setup = Setup(16, pp=p, microbatches=m, schedule=name, chunks=v)
        orders, memory = schedule(name, p, m, v), all_memory(model, setup)
        for pp, stage in ((0, 0), (p - 1, p * v - 1)):
            steps = [{"F": 1, "B": -1, "W": -1}.get(op.kind, 0) for op in orders[pp] if op.stage == stage]
            ends = max(itertools.accumulate(steps)) * ends_activations(model, setup, pp)
            layers = memory[pp].held * 24 / (p * v) * layer_activations(model, setup)
            assert memory[pp].activations == pytest.approx(layers + ends)


def kept_on_a_rank(config, options, layers):
    """Bytes that the tape of a rank of our own holds for backward."""
    config = replace(config, layers=layers)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (3, 24))

    def main(world):
        model, found = (GPT if isinstance(config, GPTConfig) else Llama)(config), []
        ranks = Crew(options, world).ranks(model, lambda named: SGD(named, 0.1))

        def loss_of(part):
            loss = model.train().loss(ids, ids, reduction="sum")
            found.append(saved_bytes(loss, model))
            return loss

        for _ in range(2):  # in the first pass, each rank may work out its own table of rotations
            ranks.run(range(1), loss_of)
        return found[1]

    return max(Loopback(options.dp * options.tp, checked=False).run(main))


@needs_kernels
@pytest.mark.parametrize(
    "options",
    [
        {"tp": 2},
        {"tp": 4, "sequence_parallel": True},
        {"dp": 2, "tp": 2, "zero": 3, "sequence_parallel": True},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "config",
    [
        GPTConfig(vocab_size=304, context=40, channels=48, layers=2, heads=4, feed_forward=80),
        GPTConfig(vocab_size=304, context=40, channels=48, layers=2, heads=4, feed_forward=80, dropout=0.1),
        LlamaConfig(vocab_size=304, channels=48, layers=2, heads=4, kv_heads=4, feed_forward=96, tied=False),
    ],
    ids=["gpt", "gpt with dropout", "llama"],
)
def test_what_our_own_ranks_keep(config, options):
    few, many = (kept_on_a_rank(config, ParallelOptions(**options), layers) for layers in (2, 5))
    setup = Setup(24, batch_size=3, precision=FLOAT32, **{"sequence_parallel": False} | options)
    model = ModelSizes.of(config)
    assert layer_activations(model, setup) == pytest.approx((many - few) / 3, rel=1e-12)
    assert ends_activations(model, setup, 0) == pytest.approx(few - (many - few) * 2 / 3, rel=0.02)


@pytest.mark.parametrize("options", [{"pp": 2}, {"pp": 3}, {"pp": 2, "tp": 2}], ids=str)
@pytest.mark.parametrize("tied", [True, False])
def test_what_the_optimizers_of_our_own_pipeline_hold(tied, options):
    sizes = {"vocab_size": 300, "channels": 32, "layers": 5, "heads": 4, "kv_heads": 2, "feed_forward": 40}
    config, options = LlamaConfig(**sizes, tied=tied), ParallelOptions(**options)
    ids = np.zeros((1, 8), int)

    def main(world):
        model, crew = Llama(config), Crew(options, world)
        ranks = crew.ranks(model, lambda named: AdamW(named, 0.1))
        ranks.run(range(2), lambda part: model.loss(ids, ids))
        ranks.update(0.1, 1.0)
        entries = (ranks.others if options.tp > 1 else ranks).optimizer.state_dict().items()
        state = sum(array.nbytes for name, array in entries if not name.endswith("/updates"))
        return crew.mesh.coordinates.pp, state

    setup = Setup(8, pp=options.pp, tp=options.tp, microbatches=2, precision=FLOAT32)
    memory = all_memory(ModelSizes.of(config), setup)
    for pp, found in Loopback(options.pp * options.tp, checked=False).run(main):
        assert memory[pp].optimizer == found
    assert all_memory(SMALL, Setup(8, precision=FLOAT32))[0].optimizer == 8 * SMALL.parameters


def test_buffers_are_for_what_is_gathered_and_worked_out_again():
    layer, table = SMALL.layer_parameters, 10_000 * 24
    wide = replace(SMALL, vocab_size=10_000)
    setup = Setup(16, dp=2, pp=3)
    assert [buffers(SMALL, replace(setup, zero=z), 1) for z in range(4)] == [0, 0, 2 * layer, 4 * layer]
    assert [buffers(wide, replace(setup, zero=3), pp) for pp in range(3)] == [4 * table, 4 * layer, 4 * table]
    assert buffers(SMALL, replace(setup, dp=1, zero=3), 1) == 0
    assert buffers(SMALL, replace(setup, recompute="full"), 1) == layer_activations(SMALL, setup)
    assert buffers(SMALL, replace(setup, recompute="selective"), 1) == 16 * 5 * 4 * 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dp": 0}, "dp=0 must be at least 1"),
        ({"zero": 4}, "zero=4 must be 0, 1, 2 or 3"),
        ({"schedule": "x"}, "unknown schedule 'x'"),
        ({"tp": 3}, "tp=3 does not divide the 4 heads, 4 of them with keys and values"),
        ({"pp": 6}, "pp=6 needs as many layers, and small has 5"),
        ({"pp": 3, "chunks": 2, "schedule": "interleaved", "microbatches": 3}, "pp=3 x 2 chunks needs as many layers"),
        ({"chunks": 2}, "1f1b: 2 chunks on a rank"),
        ({"pp": 2, "schedule": "interleaved", "microbatches": 3}, "3 microbatches are not a multiple of pp=2"),
        ({"time": 21}, "21 tokens in a sequence, but small has 20 positions"),
    ],
)
def test_what_cannot_be_trained_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        check(SMALL, replace(Setup(16), **options))
    check(SMALL, Setup(16, pp=5, tp=4))
    with pytest.raises(ValueError, match="4 heads, 2 of them with keys"):
        check(GATED, Setup(16, tp=4))
    with pytest.raises(ValueError, match="does not divide the 50 feed-forward channels"):
        check(replace(GATED, kv_heads=4), Setup(16, tp=4))


def test_a_group_of_one_host_may_have_a_faster_link():
    machine = Machine(1e12, 100.0, 1e9, latency=2.0, tp_link=1000.0)
    assert machine.send_seconds("dp", 3, 500) == 2 * 3 + 5
    assert machine.send_seconds("tp", 1, 500) == 2 + 0.5
    assert replace(machine, tp_link=0.0).send_seconds("tp", 1, 500) == 2 + 5
    assert isinstance(NAMED["gpt2"], ModelSizes)


def test_chunks_of_unequal_length_count_as_the_longest():
    setup = Setup(16, pp=2, chunks=2, schedule="interleaved", microbatches=4)
    first, second = all_memory(SMALL, setup)
    assert (first.layers, second.layers) == (3, 2)
    layer = layer_activations(SMALL, setup)
    assert first.activations == first.held * 2 * layer + 4 * ends_activations(SMALL, setup, 0)
    assert second.activations == second.held * layer + ends_activations(SMALL, setup, 1)
