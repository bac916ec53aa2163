"""Pipeline schedules as lists: their text, their messages, what is refused."""

import pytest

from tinygrad_llm.parallel.schedules import (
    KINDS,
    SCHEDULES,
    Op,
    from_text,
    peer,
    rank_of,
    schedule,
    stage_count,
    tag,
    to_text,
    with_comms,
)

SIZES = [("gpipe", 3, 4, 1), ("1f1b", 4, 6, 1), ("interleaved", 2, 4, 3), ("interleaved", 3, 3, 2), ("zb-h1", 4, 5, 1)]
ONE_F_ONE_B = """\
0F0 0F1 0F2 0F3 0B0 0F4 0B1 0F5 0B2 0B3 0B4 0B5
1F0 1F1 1F2 1B0 1F3 1B1 1F4 1B2 1F5 1B3 1B4 1B5
2F0 2F1 2B0 2F2 2B1 2F3 2B2 2F4 2B3 2F5 2B4 2B5
3F0 3B0 3F1 3B1 3F2 3B2 3F3 3B3 3F4 3B4 3F5 3B5"""
ZB_H1 = """\
0F0 0F1 0F2 0I0 0W0 0F3 0I1 0W1 0I2 0W2 0I3 0W3
1F0 1F1 1I0 1F2 1I1 1W0 1F3 1I2 1W1 1I3 1W2 1W3
2F0 2I0 2F1 2I1 2F2 2I2 2W0 2F3 2I3 2W1 2W2 2W3"""
INTERLEAVED = """\
0F0 0F1 2F0 2F1 0F2 2B0 0F3 2B1 2F2 0B0 2F3 0B1 2B2 2B3 0B2 0B3
1F0 1F1 3F0 3B0 3F1 3B1 1F2 1B0 1F3 1B1 3F2 3B2 3F3 3B3 1B2 1B3"""


def test_the_orders_are_those_of_the_papers():
    assert to_text(schedule("gpipe", 2, 3)) == "0F0 0F1 0F2 0B0 0B1 0B2\n1F0 1F1 1F2 1B0 1B1 1B2"
    assert to_text(schedule("1f1b", 4, 6)) == ONE_F_ONE_B
    assert to_text(schedule("zb-h1", 3, 4)) == ZB_H1
    assert to_text(schedule("interleaved", 2, 4, 2)) == INTERLEAVED


@pytest.mark.parametrize("sizes", SIZES)
def test_gradients_of_every_stage_add_up_in_the_order_of_the_microbatches(sizes):
    for ops in schedule(*sizes).values():
        for stage in {op.stage for op in ops}:
            for kind in "FBIW":
                numbers = [op.microbatch for op in ops if (op.kind, op.stage) == (kind, stage)]
                assert numbers == (list(range(sizes[2])) if numbers else [])


@pytest.mark.parametrize("sizes", SIZES)
def test_text_and_back(sizes):
    for orders in (schedule(*sizes), with_comms(schedule(*sizes))):
        assert from_text(to_text(orders)) == orders


def test_an_operation_and_its_text():
    assert str(Op("F", 2, 10)) == "2F10"
    for kind in KINDS:
        assert Op.parse(str(Op(kind, 12, 3))) == Op(kind, 12, 3)


@pytest.mark.parametrize("text", ["", "F0", "2F", "2X0", "-1F0", "2F0 ", "2f0", "2SEND0", "2F0.5"])
def test_other_text_is_no_operation(text):
    with pytest.raises(ValueError, match=r"is no operation of a schedule; .* as in 2F0"):
        Op.parse(text)


@pytest.mark.parametrize("sizes", SIZES)
def test_messages_cross_every_boundary_once_in_each_direction(sizes):
    _, ranks, microbatches, _ = sizes
    orders = with_comms(schedule(*sizes))
    stages = stage_count(orders)
    found = sorted(op for ops in orders.values() for op in ops if op.kind == "SEND_F")
    assert found == [Op("SEND_F", s, i) for s in range(stages - 1) for i in range(microbatches)]
    found = sorted(op for ops in orders.values() for op in ops if op.kind == "SEND_B")
    assert found == [Op("SEND_B", s, i) for s in range(1, stages) for i in range(microbatches)]
    placed = {op: rank for rank, ops in orders.items() for op in ops}
    for op, rank in placed.items():
        assert rank == rank_of(op.stage, ranks)
        if op.kind.startswith("SEND"):
            assert placed[peer(op)] == (rank + (1 if op.kind == "SEND_F" else -1)) % ranks
            assert peer(peer(op)) == op


@pytest.mark.parametrize("sizes", SIZES)
def test_a_tag_belongs_to_one_message(sizes):
    orders = with_comms(schedule(*sizes))
    stages = stage_count(orders)
    sends = [op for ops in orders.values() for op in ops if op.kind.startswith("SEND")]
    assert len({tag(op, stages) for op in sends}) == len(sends)
    assert all(tag(op, stages) == tag(peer(op), stages) for op in sends)


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_sends_follow_at_once_and_receives_are_posted_early(ahead):
    plain = schedule("1f1b", 3, 5)
    for rank, ops in with_comms(plain, ahead).items():
        computed = [op for op in ops if len(op.kind) == 1]
        assert computed == plain[rank]
        for place, op in enumerate(ops):
            if op.kind.startswith("SEND"):
                assert ops[place - 1] == Op(op.kind[-1], op.stage, op.microbatch)
            if op.kind.startswith("RECV"):
                between = [other for other in ops[place:] if len(other.kind) == 1]
                at = computed.index(Op(op.kind[-1], op.stage, op.microbatch))
                assert between.index(computed[at]) == min(ahead, at)


def test_stages_of_one_rank_send_each_other_nothing():
    for name in SCHEDULES:
        orders = schedule(name, 1, 3, 2 if name == "interleaved" else 1)
        assert with_comms(orders) == orders


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gpip", 2, 2), "unknown schedule 'gpip'; known are gpipe, 1f1b, interleaved, zb-h1"),
        (("1f1b", 0, 2), "1f1b: stages=0 must be at least 1"),
        (("1f1b", 2, 0), "microbatches=0"),
        (("interleaved", 2, 2, 0), "chunks=0"),
        (("zb-h1", 2, 2, 2), "zb-h1: 2 chunks on a rank; only interleaved has more than one"),
        (("interleaved", 4, 6, 2), "interleaved: 6 microbatches are not a multiple of 4 stages"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        schedule(*arguments)
