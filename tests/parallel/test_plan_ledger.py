"""What a plan says that a rank of our own program sends is, byte for byte, what its ledger holds after a step."""

from collections import Counter

import numpy as np
import pytest

from tinygrad_llm.models import GPT, GPTConfig, Llama, LlamaConfig
from tinygrad_llm.optim import AdamW
from tinygrad_llm.parallel.loopback import Loopback
from tinygrad_llm.parallel.options import Crew, ParallelOptions
from tinygrad_llm.parallel.plan_ledger import dp_units, layer_sizes, rank_traffic, unit_size
from tinygrad_llm.parallel.plan_memory import rank_parameters
from tinygrad_llm.parallel.plan_models import NAMED, ModelSizes
from tinygrad_llm.parallel.plan_setup import FLOAT32, MIXED, Setup
from tinygrad_llm.training import Batch, TrainConfig, training_step

SIZES = {"vocab_size": 300, "context": 24, "channels": 32, "layers": 4}
GROUPED = {**SIZES, "heads": 8, "kv_heads": 4, "feed_forward": 52, "head_channels": 8}
CONFIGS = {
    "gpt": GPTConfig(**SIZES, heads=4, dropout=0.1),
    "llama": LlamaConfig(**GROUPED, tied=False),
    "qwen": LlamaConfig(**GROUPED, qkv_bias=True, qk_norm=True),
}
BATCH, TIME = 2, 16
UNCOUNTED = ("gather_objects", "receive")
"""Short messages, and what others have sent."""


class Random:
    """Batches in which every token is a target."""

    unit = "tokens"

    def batch(self, step, part):
        ids = np.random.default_rng([step, part]).integers(0, 300, (BATCH, TIME))
        return Batch((ids, ids), ids.size)

    def loss(self, model, batch):
        return model.loss(*batch.arrays, reduction="sum")


def make(config):
    return (GPT if isinstance(config, GPTConfig) else Llama)(config, 1)


def ledgers(config, options, microbatches):
    """{(axis, operation): (calls, bytes)} of each rank in a step, with its place along pp."""
    train = TrainConfig(
        steps=9, warmup=0, learning_rate=0.1, schedule="constant", clip=0.5, accumulate=microbatches * options.dp
    )

    def main(world):
        model, crew = make(config), Crew(options, world)
        ranks = crew.ranks(model, lambda named: AdamW(named, 0.1))
        world.ledger.clear()
        training_step(model.train(), ranks, Random(), 0, train)
        sent = {(axis, name): (entry.count, entry.bytes) for axis, name, entry in world.ledger}
        return crew.mesh.coordinates.pp, {key: value for key, value in sent.items() if key[1] not in UNCOUNTED}

    return Loopback(options.dp * options.pp * options.tp, checked=False).run(main)


def planned(config, options, microbatches, pp):
    """The same by formula."""
    setup = Setup(
        TIME,
        dp=options.dp,
        pp=options.pp,
        tp=options.tp,
        zero=options.zero,
        microbatches=microbatches,
        batch_size=BATCH,
        schedule=options.pipeline,
        chunks=options.chunks if options.pipeline == "interleaved" else 1,
        sequence_parallel=options.sequence_parallel,
        precision=FLOAT32,
    )
    found = {}
    for part in rank_traffic(ModelSizes.of(config), setup, pp):
        count, size = found.get((part.axis, part.operation), (0, 0))
        found[part.axis, part.operation] = count + part.count, size + part.sent
    return found


MESHES = [
    *[({"dp": dp, "zero": zero}, 2) for dp in (2, 4) for zero in range(4)],
    ({"dp": 2, "zero": 2}, 3),
    *[({"pp": pp, "pipeline": name}, 4) for pp, name in ((2, "1f1b"), (4, "gpipe"), (2, "zb-h1"))],
    ({"pp": 2, "pipeline": "interleaved", "chunks": 2}, 4),
    ({"dp": 2, "pp": 2}, 2),
    ({"dp": 2, "pp": 2, "pipeline": "interleaved", "chunks": 2}, 2),
    *[({"tp": tp, "sequence_parallel": shared}, 2) for tp in (2, 4) for shared in (False, True)],
    ({"dp": 2, "tp": 2, "zero": 1}, 2),
    ({"dp": 2, "tp": 2, "zero": 3}, 2),
    ({"dp": 2, "tp": 2, "zero": 3, "sequence_parallel": True}, 2),
    ({"pp": 2, "tp": 2}, 2),
    ({"pp": 2, "tp": 2, "sequence_parallel": True, "pipeline": "zb-h1"}, 2),
    ({"dp": 2, "pp": 2, "tp": 2, "sequence_parallel": True}, 2),
]
OTHERS = [
    ({"dp": 2, "zero": 1}, 2),
    ({"dp": 4, "zero": 3}, 2),
    ({"dp": 2, "pp": 2}, 2),
    ({"tp": 2}, 1),
    ({"pp": 2, "tp": 2, "sequence_parallel": True}, 2),
]


@pytest.mark.parametrize(
    ("name", "options", "microbatches"),
    [("gpt", *mesh) for mesh in MESHES] + [(name, *mesh) for name in ("llama", "qwen") for mesh in OTHERS],
    ids=lambda value: " ".join(f"{n}={v}" for n, v in value.items()) if isinstance(value, dict) else str(value),
)
def test_the_ledger_holds_what_the_plan_says(name, options, microbatches):
    options = ParallelOptions(**options)
    for pp, found in ledgers(CONFIGS[name], options, microbatches):
        expected = planned(CONFIGS[name], options, microbatches, pp)
        alone = {key for key, (_, size) in found.items() if not size}
        assert {key: value for key, value in found.items() if key not in alone} == expected
        assert all(options.dp == 1 and axis == "dp" for axis, _ in alone)


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_those_of_the_model(name):
    config = CONFIGS[name]
    sizes = [p.size for n, p in make(config).named_parameters() if n.startswith("blocks.1.")]
    model = ModelSizes.of(config)
    assert layer_sizes(model, 1) == sizes
    for tp in (1, 2, 4):
        assert sum(layer_sizes(model, tp)) == model.layer_sharded // tp + model.layer_copied
        for pp in (1, 2, 3):
            setup = Setup(TIME, pp=pp, tp=tp, dp=2, precision=FLOAT32)
            for place in range(pp):
                count = sum(sum(numbers) for _, numbers in dp_units(model, setup, place))
                copy = model.tied and pp > 1 and place == pp - 1
                assert count + copy * -(-300 // tp) * 32 == rank_parameters(model, setup, place)


def test_units_have_names():
    model = ModelSizes.of(CONFIGS["gpt"])
    zero = Setup(TIME, dp=2, zero=3, microbatches=3, precision=FLOAT32)
    assert [(part.operation, part.what, part.count) for part in rank_traffic(model, zero, 0)] == [
        ("reduce_scatter", "gradients of the rest", 3),
        ("reduce_scatter", "gradients of layers", 12),
        ("all_gather", "parameters of the rest", 1),
        ("all_gather", "parameters of layers", 24),
    ]
    piped = Setup(TIME, dp=2, pp=2, precision=FLOAT32)
    names = [[part.what for part in rank_traffic(model, piped, pp) if part.axis == "dp"] for pp in range(2)]
    assert names == [["gradients of stages", "gradients of the embedding"], ["gradients of stages"]]


def test_units_are_filled_up_to_whole_blocks_for_every_rank():
    assert unit_size([4096, 4096], 2) == 8192
    assert unit_size([4096, 1], 2) == 8192
    assert unit_size([4096, 4097], 2) == 16384
    assert unit_size([5, 7], 4) == 4 * 4096


def test_a_large_model_takes_no_memory_to_plan_and_what_fills_up_is_little():
    model, setup = NAMED["gpt3-175b"], Setup(2048, dp=8, zero=1, precision=FLOAT32)
    own = sum(part.sent for part in rank_traffic(model, setup, 0))
    assert own == pytest.approx(2 * 7 / 8 * 4 * model.parameters, rel=1e-4)
    assert own > 2 * 7 / 8 * 4 * model.parameters


def test_what_our_program_does_not_do_is_as_in_papers():
    model = ModelSizes.of(CONFIGS["gpt"])
    piped = Setup(TIME, dp=2, pp=2, zero=2, microbatches=3, precision=FLOAT32)
    kinds = Counter((part.axis, part.operation, part.count) for part in rank_traffic(model, piped, 0))
    assert kinds["dp", "reduce_scatter", 3] == kinds["dp", "all_gather", 1] == 1
    again = Setup(TIME, tp=2, recompute="full", sequence_parallel=False, precision=FLOAT32)
    assert rank_traffic(model, again, 0)[0].count == 4 * 6 + 2
    assert rank_traffic(model, Setup(TIME, dp=2, precision=MIXED), 0)[0].size == 2 * model.parameters
