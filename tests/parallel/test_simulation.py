"""The simulator of schedules: times, idle times and peaks equal their closed forms exactly; what is wrong is named."""

from fractions import Fraction

import pytest

from tinygrad_llm.parallel.schedules import Op, from_text, schedule, with_comms
from tinygrad_llm.parallel.simulation import UNIT, closed_bubble, closed_peak, sent, simulate, validate

UNEVEN = {"F": Fraction(3, 2), "I": 4, "W": Fraction(1, 3)}
PLAIN = [(p, m) for p in (1, 2, 3, 4, 7, 8, 16) for m in (1, 2, 4, 5, 16, 33)]


@pytest.mark.parametrize("name", ["gpipe", "1f1b", "zb-h1"])
@pytest.mark.parametrize("durations", [UNIT, UNEVEN], ids=["unit", "uneven"])
def test_bubble_and_peaks_are_the_closed_forms(name, durations):
    for p, m in PLAIN:
        timeline = simulate(schedule(name, p, m), durations)
        assert timeline.bubble == closed_bubble(name, p, m, 1, durations), (p, m)
        assert timeline.peaks == {r: closed_peak(name, r, p, m) for r in range(p)}, (p, m)
        assert set(timeline.busy.values()) == {m * sum(map(Fraction, durations.values()))}


@pytest.mark.parametrize("durations", [UNIT, UNEVEN], ids=["unit", "uneven"])
def test_those_of_the_interleaved_schedule(durations):
    for p, groups, v in [(p, g, v) for p in (1, 2, 3, 4, 8) for g in (1, 2, 3) for v in (1, 2, 4)] + [(16, 2, 3)]:
        timeline = simulate(schedule("interleaved", p, groups * p, v), durations)
        assert timeline.bubble == closed_bubble("interleaved", p, groups * p, v, durations), (p, groups, v)
        assert timeline.peaks == {r: closed_peak("interleaved", r, p, groups * p, v) for r in range(p)}


def test_the_table_of_the_papers():
    for p, m in [(4, 8), (8, 32), (16, 16)]:
        assert closed_bubble("gpipe", p, m) == closed_bubble("1f1b", p, m) == Fraction(p - 1, m)
        assert closed_bubble("zb-h1", p, m) == Fraction(p - 1, 3 * m)
        assert closed_bubble("interleaved", p, m, 4) == Fraction(p - 1, 4 * m)
        assert (closed_peak("gpipe", 0, p, m), closed_peak("1f1b", 0, p, m)) == (m, min(p, m))
        assert {closed_peak("zb-h1", r, p, m) for r in range(p)} == {p}
    assert closed_peak("interleaved", 0, 4, 8, 2) == 11 == 4 * 2 * (1 + Fraction(4 - 1, 4 * 2))


def test_the_idle_share_counts_all_of_the_time():
    timeline = simulate(schedule("1f1b", 4, 8))
    assert timeline.total == 33
    assert timeline.idle_share == Fraction(3, 11) == timeline.bubble / (1 + timeline.bubble)


def test_no_formula_where_the_weights_take_longer_than_forward():
    with pytest.raises(ValueError, match="zb-h1: no formula for W=2 longer than F=1; simulate it"):
        closed_bubble("zb-h1", 2, 2, 1, {"F": 1, "I": 1, "W": 2})


@pytest.mark.parametrize(("name", "v"), [("gpipe", 1), ("1f1b", 1), ("interleaved", 2), ("zb-h1", 1)])
def test_messages_change_nothing_but_the_time_they_take(name, v):
    orders = schedule(name, 4, 8, v)
    for transfer in (0, Fraction(1, 7)):
        plain, with_messages = simulate(orders, UNEVEN, transfer), simulate(with_comms(orders), UNEVEN, transfer)
        computed = tuple(span for span in with_messages.spans if len(span.op.kind) == 1)
        assert computed == plain.spans
    assert plain.total > simulate(orders, UNEVEN).total


def test_a_message_takes_its_time():
    spans = {span.op: span for span in simulate(schedule("gpipe", 2, 1), UNIT, Fraction(1, 2)).spans}
    assert spans[Op("F", 1, 0)].start == Fraction(3, 2)
    assert (spans[Op("B", 1, 0)].start, spans[Op("B", 1, 0)].end) == (Fraction(5, 2), Fraction(9, 2))
    assert spans[Op("B", 0, 0)].start == 5


def test_messages_are_counted_by_who_sends_them():
    assert sent(schedule("1f1b", 4, 8)) == {0: 8, 1: 16, 2: 16, 3: 8}
    assert sent(with_comms(schedule("interleaved", 2, 2, 2))) == {0: 2 + 2 + 2, 1: 2 + 2 + 2}
    assert sent(schedule("gpipe", 1, 3)) == {0: 0}


def test_a_deadlock_names_where_each_rank_stands():
    orders = from_text("0F0 0B0 0F1 0B1\n1F1 1F0 1B0 1B1\n2F0 2B0 2F1 2B1")
    with pytest.raises(ValueError, match="stands still") as error:
        simulate(orders)
    assert str(error.value) == (
        "the schedule stands still: rank 0 at 0B0 waits for 1B0 of rank 1; rank 1 at 1F1 waits for 0F1 of rank 0; "
        "rank 2 at 2F0 waits for 1F0 of rank 1"
    )
    late = from_text("0F0 0SEND_F0 0B0 0RECV_B0\n1RECV_F0 1F0 1B0 1SEND_B0")
    with pytest.raises(ValueError, match="rank 0 at 0B0 waits for 0RECV_B0 of rank 0; rank 1 is done"):
        simulate(late)
    with pytest.raises(ValueError, match="rank 0 at 0B0 waits for 0F0 of rank 0"):
        simulate(from_text("0B0 0F0"))
    with pytest.raises(ValueError, match="rank 0 at 0W0 waits for 0I0 of rank 0"):
        simulate(from_text("0F0 0W0 0I0"))
    with pytest.raises(ValueError, match="rank 0 at 0SEND_F0 waits for 0F0 of rank 0"):
        simulate(from_text("0SEND_F0 0F0 0RECV_B0 0B0\n1RECV_F0 1F0 1B0 1SEND_B0"))
    with pytest.raises(ValueError, match="rank 1 at 1SEND_B0 waits for 1B0 of rank 1"):
        simulate(from_text("0F0 0SEND_F0 0RECV_B0 0B0\n1RECV_F0 1F0 1SEND_B0 1B0"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0F0 0B0\n1F0", "rank 1 lacks 1B0"),
        ("0F0 0F1 0B0 0B1\n1F0 1B0", r"rank 1 lacks 1B1 \(and 1 more\)"),
        ("0F0 0B0 0B0\n1F0 1B0", "rank 0 has 0B0 2 times"),
        ("0F0 1F0 0B0\n1B0", "rank 0 has 1F0, but stage 1 lives on rank 1"),
        ("0F0 0I0", "rank 0 lacks 0W0"),
        ("0F0 0B0 0I0 0W0", "rank 0 has 0B0 as a whole and in its parts"),
        ("0F0 0SEND_F0 0RECV_B0 0B0\n1F0 1B0 1SEND_B0", "rank 1 lacks 1RECV_F0"),
        ("0F0 0SEND_F0 0RECV_B0 0B0 0SEND_B0\n1RECV_F0 1F0 1B0 1SEND_B0", "rank 0 has too much: 0SEND_B0"),
        ("", "a schedule of 0 stages for ranks"),
    ],
)
def test_what_is_missing_or_misplaced_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        simulate(from_text(text))


def test_a_whole_schedule_may_be_expected():
    orders = schedule("1f1b", 2, 2)
    validate(orders, 2, 2)
    validate(with_comms(orders), 2, 2)
    with pytest.raises(ValueError, match=r"rank 0 lacks 0B2 \(and 3 more\)"):
        validate(orders, 2, 3)
    with pytest.raises(ValueError, match="a schedule of 3 stages for ranks"):
        validate(orders, 3, 2)


def test_whole_and_split_backward_passes_go_together():
    orders = from_text("0F0 0F1 0B0 0B1\n1F0 1F1 1I0 1I1 1W0 1W1")
    assert simulate(orders).total == simulate(with_comms(orders)).total == 8
