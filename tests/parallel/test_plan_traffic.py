"""Bytes of a plan: formulas of the papers, and as many messages as the schedule has."""

from dataclasses import replace

import pytest

from tinygrad_llm.parallel.plan_ledger import rank_traffic
from tinygrad_llm.parallel.plan_memory import rank_parameters
from tinygrad_llm.parallel.plan_models import gpt, llama
from tinygrad_llm.parallel.plan_setup import FLOAT32, Setup
from tinygrad_llm.parallel.plan_traffic import Traffic, dp_traffic, pp_traffic, tp_traffic
from tinygrad_llm.parallel.schedules import schedule
from tinygrad_llm.parallel.simulation import sent

MODEL = gpt("small", 6, 24, 4, 100, 20)


def sum_sent(parts):
    return sum(part.sent for part in parts)


@pytest.mark.parametrize("microbatches", [1, 5])
def test_zero(microbatches):
    for precision, size in ((FLOAT32, 4), (Setup(1).precision, 2)):
        setup = Setup(16, dp=4, microbatches=microbatches, precision=precision)
        whole = MODEL.parameters * size * 3 / 4
        ways = [sum_sent(dp_traffic(MODEL, replace(setup, zero=zero), 0)) / whole for zero in range(4)]
        assert ways == [2, 2, microbatches + 1, 3 * microbatches]
    assert dp_traffic(MODEL, Setup(16, zero=3), 0) == []


def test_names_and_counts_are_those_of_the_ledger():
    found = dp_traffic(MODEL, Setup(16, dp=2, zero=3, microbatches=3), 0)
    assert [(t.axis, t.operation, t.what, t.count) for t in found] == [
        ("dp", "reduce_scatter", "gradients", 3),
        ("dp", "all_gather", "parameters", 6),
    ]
    assert [t.operation for t in dp_traffic(MODEL, Setup(16, dp=2), 0)] == ["all_reduce"]
    assert [Traffic("dp", kind, "", 1, 8, 4).messages for kind in ("all_reduce", "all_gather", "send")] == [6, 3, 1]


def test_tensor_parallelism():
    setup = Setup(16, tp=4, batch_size=2, microbatches=3, pp=3, sequence_parallel=False)
    size = 2 * 16 * 24 * 2
    middle = tp_traffic(MODEL, setup, 1)
    assert [(t.operation, t.count, t.size) for t in middle] == [("all_reduce", 2 * 4 * 3, size)]
    assert sum_sent(middle) == 2 * 3 / 4 * size * 24
    parallel = tp_traffic(MODEL, replace(setup, sequence_parallel=True), 1)
    assert [(t.operation, t.count) for t in parallel] == [
        ("reduce_scatter", 24),
        ("all_gather", 24),
        ("all_gather", 12),
    ]
    assert sum_sent(parallel[:2]) == sum_sent(middle)
    assert sum_sent(parallel) == 10 / 8 * sum_sent(middle), "inputs of the first matrices are gathered once more"
    assert [t.count for t in tp_traffic(MODEL, replace(setup, sequence_parallel=True), 2)][:3] == [27, 27, 15]
    again = tp_traffic(MODEL, replace(setup, sequence_parallel=True, recompute="full"), 1)
    assert [t.count for t in again] == [36, 36, 12]
    assert tp_traffic(MODEL, replace(setup, recompute="full"), 1)[0].count == 2 * 6 * 3
    assert tp_traffic(MODEL, replace(setup, recompute="selective"), 1)[0].count == 24
    assert tp_traffic(MODEL, setup, 0)[0].count == 24 + 3
    head, maxima, sums = tp_traffic(MODEL, setup, 2)
    assert (head.count, maxima.count, maxima.size, sums.count, sums.size) == (24 + 3, 3, 4 * 32, 3, 8 * 32)
    assert tp_traffic(MODEL, replace(setup, tp=1), 0) == []


@pytest.mark.parametrize(("name", "v"), [("gpipe", 1), ("1f1b", 1), ("interleaved", 2), ("zb-h1", 1)])
def test_messages_of_the_pipeline_are_those_of_its_schedule(name, v):
    setup = Setup(16, pp=3, microbatches=6, schedule=name, chunks=v)
    counts = sent(schedule(name, 3, 6, v))
    for pp in range(3):
        sends = [part for part in pp_traffic(MODEL, setup, pp) if part.operation == "send"]
        assert sum(part.count for part in sends) == counts[pp]
        assert {part.size for part in sends} == {16 * 24 * 2}
    assert pp_traffic(MODEL, replace(setup, pp=1), 0) == []


def test_sequence_parallel_ranks_send_their_part_and_copies_of_the_embedding_agree():
    setup = Setup(16, pp=2, tp=4, microbatches=5)
    first = pp_traffic(MODEL, setup, 0)
    assert [(t.operation, t.count, t.size) for t in first] == [
        ("send", 5, 16 * 24 * 2 // 4),
        ("all_reduce", 1, 25 * 24 * 2),
    ]
    assert first[1].sent == 25 * 24 * 2
    assert pp_traffic(MODEL, replace(setup, sequence_parallel=False), 0)[0].size == 16 * 24 * 2
    untied = llama("", 6, 24, 4, 4, 32, vocab_size=100)
    assert [t.operation for t in pp_traffic(untied, setup, 0)] == ["send"]
    assert [t.what for t in pp_traffic(MODEL, replace(setup, pp=3), 1)] == ["activations", "their gradients"]


def test_all_axes_together():
    setup = Setup(16, dp=2, pp=2, tp=2, microbatches=2)
    assert {part.axis for part in rank_traffic(MODEL, setup, 1)} == {"dp", "tp", "pp"}
    assert rank_traffic(MODEL, setup, 1)[0].size == 2 * rank_parameters(MODEL, setup, 1)
    assert rank_traffic(MODEL, Setup(16), 0) == []


def test_the_first_rank_sends_activations_and_the_last_one_gradients():
    setup = Setup(16, pp=3, microbatches=2)
    sends = [[t.what for t in pp_traffic(MODEL, setup, pp) if t.operation == "send"] for pp in range(3)]
    assert sends == [["activations"], ["activations", "their gradients"], ["their gradients"]]
