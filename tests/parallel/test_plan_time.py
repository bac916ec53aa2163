"""Time of a plan: the whole runs of the papers, and each part by hand."""

import itertools
from dataclasses import replace
from fractions import Fraction

import pytest

from tinygrad_llm.parallel.plan_memory import rank_parameters
from tinygrad_llm.parallel.plan_models import NAMED, gpt
from tinygrad_llm.parallel.plan_setup import FLOAT32, MIXED, Machine, Setup
from tinygrad_llm.parallel.plan_time import bubble, exposed_transfer, passes, seconds, step_time, training_days
from tinygrad_llm.parallel.plan_traffic import BEFORE_BACKWARD, tp_traffic
from tinygrad_llm.parallel.schedules import schedule
from tinygrad_llm.parallel.simulation import simulate

MODEL = gpt("small", 6, 24, 4, 100, 20)
MACHINE = Machine(1e9, 1e6, 1e9, latency=1e-3)
PRODUCTS, ATTENTION = MODEL.layer_operations(32, 16)
HEAD = MODEL.head_operations(32)


def test_the_days_of_whole_runs():
    assert round(training_days(300e9, 175e9, 1024, 140e12)) == 34
    assert training_days(450e9, 1e12, 3072, 163e12) == pytest.approx(84, rel=0.01)
    assert training_days(300e9, 175e9, 1024, 140e12, recompute=False) == pytest.approx(0.75 * 33.9, rel=0.001)


def test_passes_split_backward_by_what_has_weights():
    setup = Setup(16, batch_size=2, tp=2)
    rate = 2 * 1e9
    found = passes(MODEL, setup, MACHINE, 0)
    assert found["F"] == pytest.approx((6 * (PRODUCTS + ATTENTION) + HEAD) / rate)
    assert found["I"] == pytest.approx((6 * (PRODUCTS + 2 * ATTENTION) + HEAD) / rate)
    assert found["W"] == pytest.approx((6 * PRODUCTS + HEAD) / rate)
    assert sum(found.values()) == pytest.approx(MODEL.step_operations(2, 16) / rate)
    for recompute in ("selective", "full"):
        more = sum(passes(MODEL, replace(setup, recompute=recompute), MACHINE, 0).values())
        assert more == pytest.approx(MODEL.step_operations(2, 16, recompute) / rate)
    halves = [passes(MODEL, replace(setup, pp=3), MACHINE, pp) for pp in range(3)]
    assert halves[0]["W"] == pytest.approx(2 * PRODUCTS / rate)
    assert halves[2]["W"] == pytest.approx((2 * PRODUCTS + HEAD) / rate)


def test_one_rank_only_computes_and_updates():
    time = step_time(MODEL, Setup(16, batch_size=2, microbatches=3), MACHINE)
    assert time.products == pytest.approx(MODEL.step_operations(6, 16) / 1e9)
    assert (time.tp, time.bubble, time.pp, time.dp, time.update) == (0, 0, 0, 0, 0)
    assert time.total == time.products
    update = step_time(MODEL, Setup(16), replace(MACHINE, bandwidth=1e6)).update
    assert update == pytest.approx(28 * MODEL.parameters / 1e6)
    shared = step_time(MODEL, Setup(16, dp=4, zero=1), replace(MACHINE, bandwidth=1e6)).update
    assert shared == pytest.approx(update / 4)
    assert step_time(MODEL, Setup(16, dp=4), replace(MACHINE, bandwidth=1e6)).update == pytest.approx(update)


@pytest.mark.parametrize(("name", "v", "ratio"), [("gpipe", 1, 2 / 8), ("1f1b", 1, 2 / 9), ("interleaved", 2, 1 / 9)])
def test_the_bubble_is_that_of_the_schedule(name, v, ratio):
    m = 8 if name == "gpipe" else 9
    setup = Setup(16, pp=3, microbatches=m, schedule=name, chunks=v)
    time = step_time(MODEL, setup, MACHINE)
    assert time.bubble == pytest.approx(ratio * time.products)
    assert bubble(setup, {"F": 1.0, "I": 1.0, "W": 1.0}) == pytest.approx(ratio)


def test_the_bubble_of_zero_bubble_uses_the_times_of_the_parts():
    setup = Setup(16, pp=3, microbatches=9, schedule="zb-h1")
    work = passes(MODEL, setup, MACHINE, 2)
    assert step_time(MODEL, setup, MACHINE).bubble == pytest.approx(2 * (work["F"] + work["I"] - work["W"]))


def test_communication_of_tensor_parallelism_is_part_of_the_passes():
    setup = Setup(16, batch_size=2, tp=2, microbatches=3, sequence_parallel=False)
    time = step_time(MODEL, setup, MACHINE)
    size = 32 * 24 * 2
    calls = 3 * (6 * 4 + 2) * (2 * 1e-3 + size / 1e6)
    losses = 3 * (2 * 2e-3 + (4 + 8) * 32 / 1e6)
    assert time.tp == pytest.approx(calls + losses)
    piped = step_time(MODEL, replace(setup, pp=2), MACHINE)
    assert piped.bubble == pytest.approx((piped.products + piped.tp) / 3)
    split = replace(setup, pp=2, schedule="zb-h1", recompute="full")
    idle = step_time(MODEL, split, MACHINE)
    work = passes(MODEL, split, MACHINE, 1)
    assert idle.bubble == pytest.approx(work["F"] + work["I"] - work["W"] + idle.tp / 3)


@pytest.mark.parametrize(
    ("name", "v"), [("gpipe", 1), ("1f1b", 1), ("zb-h1", 1), ("interleaved", 2), ("interleaved", 3)]
)
@pytest.mark.parametrize("durations", [(1, 1, 1), (10, 11, 9), (3, 4, 2), (1, 2, 1)])
def test_messages_take_as_long_as_in_the_simulator(name, v, durations):
    takes = dict(zip("FIW", map(Fraction, durations), strict=True))
    for p, m in itertools.product((2, 3, 4), (1, 2, 3, 4, 6, 7, 12)):
        if name == "interleaved" and m % p:
            continue
        orders, setup = schedule(name, p, m, v), Setup(16, pp=p, microbatches=m, schedule=name, chunks=v)
        for hop in (takes["F"] / 100, takes["F"] / v, *([takes["W"] * 2 / 3] if name == "zb-h1" else ())):
            longer = simulate(orders, takes, hop).total - simulate(orders, takes).total
            assert exposed_transfer(setup, float(hop), durations[2]) == pytest.approx(float(longer)), (p, m, hop)


@pytest.mark.parametrize(
    ("name", "p", "m", "v", "hops"),
    [
        *[("gpipe", 8, 32, 1, 14), ("1f1b", 2, 8, 1, 8), ("1f1b", 4, 16, 1, 28), ("1f1b", 8, 32, 1, 68)],
        *[("interleaved", 4, 16, 2, 14), ("interleaved", 8, 32, 2, 30)],
        *[("zb-h1", 4, 16, 1, 12), ("zb-h1", 8, 32, 1, 28)],
        *[("1f1b", 1, 8, 1, 0), ("interleaved", 1, 8, 2, 0)],
    ],
)
def test_hops_that_nothing_hides(name, p, m, v, hops):
    assert exposed_transfer(Setup(16, pp=p, microbatches=m, schedule=name, chunks=v), 1.0, 2.0) == hops


def test_the_pipeline_waits_for_messages_and_copies_of_the_embedding_agree():
    setup = Setup(16, batch_size=2, pp=3, microbatches=4)
    hop = 1e-3 + 32 * 24 * 2 / 1e6
    tied = 2 * 1e-3 + 100 * 24 * 2 / 1e6
    assert step_time(MODEL, setup, MACHINE).pp == pytest.approx((4 + 2 * 2) * hop + tied)
    fast = replace(MACHINE, flops=1e3)  # W hides what it can
    split = replace(setup, schedule="zb-h1", microbatches=9)
    assert step_time(MODEL, split, fast).pp == pytest.approx((4 + 2 * 2) * hop + tied)
    slow = replace(MACHINE, flops=1e30)
    assert step_time(MODEL, split, slow).pp == pytest.approx((4 + 2 * 5) * hop + tied)


@pytest.mark.parametrize("flops", [1e3, 1e9])
def test_gradients_of_the_head_of_our_own_pipeline_hide_behind_passes(flops):
    setup, machine = Setup(16, batch_size=2, pp=2, microbatches=4, precision=FLOAT32), replace(MACHINE, flops=flops)
    work = {kind: max(passes(MODEL, setup, machine, pp)[kind] for pp in (0, 1)) for kind in "FIW"}
    hop, table = 1e-3 + 32 * 24 * 4 / 1e6, 1e-3 + 100 * 24 * 4 / 1e6
    hidden = flops == 1e3
    assert (sum(work.values()) > table) is hidden
    more = table * 2 if hidden else table * 2 + 3 * (table - sum(work.values()))
    assert step_time(MODEL, setup, machine).pp == pytest.approx((2 + 2 * 1) * hop + more)


def test_our_own_zero_3_does_the_forward_pass_twice():
    setup = Setup(16, dp=2, zero=3, microbatches=2, precision=FLOAT32)
    again = replace(setup, zero=2, recompute="full")
    assert step_time(MODEL, setup, MACHINE).products == step_time(MODEL, again, MACHINE).products
    assert step_time(MODEL, replace(setup, dp=1), MACHINE).products < step_time(MODEL, again, MACHINE).products / 1.2
    assert setup.recomputed == "full"
    assert [replace(setup, **other).recomputed for other in ({"precision": MIXED}, {"pp": 2})] == ["none", "none"]


def test_gradients_hide_behind_backward_passes():
    count = rank_parameters(MODEL, Setup(16, dp=2), 0)
    slow = Machine(1e30, 1e6, 1e9, latency=0.0)
    both = 2 * count / 1e6
    assert step_time(MODEL, Setup(16, dp=2), slow).dp == pytest.approx(both)
    assert step_time(MODEL, Setup(16, dp=2, zero=1), slow).dp == pytest.approx(both)
    assert step_time(MODEL, Setup(16, dp=2, zero=1, microbatches=4), slow).dp == pytest.approx(both)
    assert step_time(MODEL, Setup(16, dp=2, zero=2, microbatches=4), slow).dp == pytest.approx((4 + 1) / 2 * both)
    assert step_time(MODEL, Setup(16, dp=2, zero=3, microbatches=4), slow).dp == pytest.approx(3 * 4 / 2 * both)
    work = passes(MODEL, Setup(16), Machine(1.0, 1e6, 1e9), 0)
    some = replace(slow, flops=16 * (work["I"] + work["W"]) / both)  # a backward pass takes both / 16
    each = both / 2
    for zero, exposed in ((0, both - both / 16), (1, each - both / 16 + each), (2, 4 * (each - both / 16) + each)):
        found = step_time(MODEL, Setup(16, dp=2, zero=zero, microbatches=4), some).dp
        assert found == pytest.approx(exposed)
    fast = Machine(1e3, 1e6, 1e9, latency=0.0)
    assert step_time(MODEL, Setup(16, dp=2), fast).dp == pytest.approx(both / 6)
    assert step_time(MODEL, Setup(16, dp=2, zero=1), fast).dp == pytest.approx(both / 2 * (1 + 1 / 6))
    assert step_time(MODEL, Setup(16, dp=2, zero=3), fast).dp == pytest.approx(both / 2 / 6)


def test_a_slower_rate_makes_it_longer_in_proportion():
    model, setup = NAMED["gpt2-xl"], Setup(1024, dp=4, microbatches=2)
    one = step_time(model, setup, Machine(1e14, 1e12, 1e9, latency=0.0))
    other = step_time(model, setup, Machine(5e13, 5e11, 1e9, latency=0.0))
    assert other.total == pytest.approx(2 * one.total)


@pytest.mark.parametrize(("recompute", "share"), [("none", 1 / 2), ("selective", 1 / 2), ("full", 1 / 3)])
def test_gathers_hide_behind_passes_and_their_communication(recompute, share):
    setup = Setup(16, dp=2, tp=2, zero=3, microbatches=3, recompute=recompute)
    slow = Machine(1e30, 1e6, 1e9, latency=0.0, tp_link=1e6)
    parts = [part for part in tp_traffic(MODEL, setup, 0) if part.what != BEFORE_BACKWARD]
    sending = seconds(parts, slow) / 3
    each = rank_parameters(MODEL, setup, 0) * 2 / 2 / 1e6
    forward, backward = sending * share, sending * (1 - share)
    exposed = max(0, each - forward) + max(0, each - backward) + max(each - backward, each / 6)
    assert forward < each
    assert step_time(MODEL, setup, slow).dp == pytest.approx(3 * exposed)
