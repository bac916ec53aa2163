"""Pictures of schedules: the chart, the SVG, the PNG, and traces in files."""

import json
import xml.etree.ElementTree as ElementTree
from fractions import Fraction

import pytest

from tinygrad_llm.parallel.gantt import (
    NARROWEST,
    Panel,
    chart,
    measured_durations,
    read_trace,
    summary,
    svg,
    tick_step,
    time_label,
    write_trace,
)
from tinygrad_llm.parallel.gantt_png import draw, save_png
from tinygrad_llm.parallel.schedules import Op, schedule, with_comms
from tinygrad_llm.parallel.simulation import Span, Timeline, simulate

SVG = "{http://www.w3.org/2000/svg}"


def test_the_charts_of_the_papers():
    assert chart(simulate(schedule("1f1b", 4, 6))) == [
        "0 |0123......aa4bb5cc.dd.ee.ff",
        "1 |.012....aa3bb4cc5dd.ee.ff..",
        "2 |..01..aa2bb3cc4dd5ee.ff....",
        "3 |...0aa1bb2cc3dd4ee5ff......",
    ]
    assert chart(simulate(schedule("zb-h1", 4, 8))) == [
        "0 |0123...aA4bB5cC6dD7eEfFgGhH",
        "1 |.012..a3bA4cB5dC6eD7fEgFhGH",
        "2 |..01.a2b3cA4dB5eC6fD7gEhFGH",
        "3 |...0a1b2c3dA4eB5fC6gD7hEFGH",
    ]


def test_a_chart_has_the_smallest_time_as_its_unit_and_begins_at_the_first_start():
    spans = [(0, Op("F", 0, 11), 5, 8), (0, Op("B", 0, 19), 8, 14), (1, Op("F", 1, 0), 11, 14)]
    timeline = Timeline(tuple(Span(r, op, Fraction(a, 3), Fraction(b, 3)) for r, op, a, b in spans), 2)
    assert chart(timeline) == ["0 |1jj", "1 |..0"]
    assert chart(simulate(schedule("1f1b", 11, 1)))[3].startswith(" 3 |...0")


def test_a_long_chart_is_made_to_fit():
    timeline = simulate(schedule("1f1b", 4, 200))
    for columns, length in ((0, 120), (60, 60)):
        assert {len(line) for line in chart(timeline, columns)} == {3 + length}
    assert len(chart(simulate(schedule("1f1b", 2, 8)), 27)[0]) == 3 + 27


def boxes(picture):
    """(class, x, width, number) of what is drawn, from the SVG; an operation's number is its title."""
    root = ElementTree.fromstring(picture)
    assert root.tag == SVG + "svg"
    found = []
    for rect in root.iter(SVG + "rect"):
        tip = rect.find(SVG + "title")
        if tip is not None:
            place = {key: float(rect.get(key)) for key in ("x", "y", "width", "height")}
            found.append((tip.text.partition(":")[0], rect.get("class"), place, rect.get("fill-opacity")))
    return root, found


def test_an_svg_shows_every_operation_where_and_when_it_is():
    timeline = simulate(schedule("1f1b", 4, 8))
    root, found = boxes(svg("a < b", [Panel("simulated", timeline)]))
    assert [op for op, *_ in found] == [str(span.op) for span in timeline.spans]
    unit = found[0][2]["width"]
    for span, (_, kind, place, opacity) in zip(timeline.spans, found, strict=True):
        assert kind.split()[0] == span.op.kind
        assert place["x"] - found[0][2]["x"] == pytest.approx(float(span.start) * unit, abs=0.2)
        assert place["width"] == pytest.approx(float(span.end - span.start) * unit, abs=0.02)
        assert place["y"] == pytest.approx(found[0][2]["y"] + 36 * span.rank)
        assert opacity is None
        assert place["x"] + place["width"] <= NARROWEST
    texts = [element.text for element in root.iter(SVG + "text")]
    assert {"a < b", "simulated", "rank 3", "7", "forward", "backward", "idle"} <= set(texts)
    assert "backward: weights" not in texts
    assert root.get("width") == str(NARROWEST)


def test_chunks_and_messages_look_different():
    timeline = simulate(with_comms(schedule("interleaved", 2, 2, 3)))
    root, found = boxes(svg("", [Panel("", timeline)]))
    shades = {op[0]: opacity for op, kind, _, opacity in found if kind != "soft"}
    assert shades == {"0": None, "1": None, "2": "0.7", "3": "0.7", "4": "0.4", "5": "0.4"}
    assert {place["height"] for op, kind, place, _ in found if "_" in op} == {3.0}
    texts = " ".join(element.text or "" for element in root.iter(SVG + "text"))
    assert "a lighter box is a later chunk; a thin line is a message" in texts


def test_two_panels_share_their_axis_and_a_picture_is_as_broad_as_its_numbers_need():
    fast, slow = (simulate(schedule("1f1b", 2, 2), {"F": t, "I": t, "W": t}) for t in (1, 2))
    _, found = boxes(svg("", [Panel("predicted", fast, "s"), Panel("executed", slow, "s")]))
    first, second = found[0][2], found[len(fast.spans)][2]
    assert second["width"] == pytest.approx(2 * first["width"], abs=0.02)
    assert second["y"] > first["y"] + 2 * 36
    _, apart = boxes(svg("", [Panel("", fast), Panel("", slow, "s")]))
    assert apart[0][2]["width"] == apart[len(fast.spans)][2]["width"]
    root, found = boxes(svg("", [Panel("", simulate(schedule("zb-h1", 8, 32)))]))
    assert NARROWEST < int(root.get("width")) < 2400
    numbers = [e for e in root.iter(SVG + "text") if e.get("class") == "n"]
    assert len(numbers) == len(found) == 3 * 8 * 32
    root, found = boxes(svg("", [Panel("", simulate(schedule("1f1b", 4, 300)))]))
    assert root.get("width") == "2400"
    assert not [e for e in root.iter(SVG + "text") if e.get("class") == "n" and len(e.text) == 3]


def test_the_axis():
    assert [tick_step(t) for t in (27, 33, 0.49, 1000, 0)] == [5, 5, 0.05, 100, 1]
    assert time_label(0.25, 0.05, "s") == "250 ms"
    assert time_label(3, 1, "s") == "3 s"
    assert time_label(3e-4, 1e-4, "s") == "300 µs"
    assert time_label(2.5, 0.5, "") == "2.5"
    assert summary(Panel("", simulate(schedule("1f1b", 4, 8)))).startswith(
        "33 units of time, idle 27.3 % of it; bubble 37.5 %"
    )
    assert summary(Panel("", simulate(schedule("1f1b", 4, 8)), "s")).startswith("33 s, idle")


def test_a_png_has_the_same_boxes(tmp_path):
    timeline = simulate(schedule("zb-h1", 3, 4))
    figure = draw("title", [Panel("one", timeline), Panel("two", timeline)])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["one", "two"]
    bars = [bar for bar in figure.axes[0].patches if bar.get_width() == 1]
    assert [bar.get_x() for bar in bars] == [float(span.start) for span in timeline.spans]
    save_png("title", [Panel("", timeline)], tmp_path / "s.png")
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")


def test_a_trace_in_a_file_and_back(tmp_path):
    path = tmp_path / "trace.json"
    timeline = simulate(with_comms(schedule("1f1b", 2, 3)), {"F": Fraction(1, 4), "I": 0.5, "W": 1})
    write_trace(path, list(timeline.spans)[::-1])
    read = read_trace(path)
    assert read.ranks == 2
    assert sorted(read.spans) == sorted(timeline.spans)
    assert read.bubble == timeline.bubble
    assert read.peaks == timeline.peaks


def test_measured_durations_are_medians_of_all_chunks_together():
    spans = simulate(schedule("interleaved", 2, 4, 2), {"F": 3, "I": 5, "W": 1}).spans
    first = spans[0]._replace(start=Fraction(-100))
    assert measured_durations(Timeline((first, *spans[1:]), 2)) == {"F": 3, "I": 3, "W": 3}
    split = simulate(schedule("zb-h1", 2, 4), {"F": 3, "I": 5, "W": 1})
    assert measured_durations(split) == {"F": 3, "I": 5, "W": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "a trace is a list of"),
        ("{}", "a trace is a list of"),
        ('[[0, "0F0", 1]]', "is not .rank, operation, start, end."),
        ('[[0, "0X0", 1, 2]]', "is no operation of a schedule"),
        ("[[0, 5, 1, 2]]", "is not .rank, operation, start, end."),
        ('[[0, "0F0", NaN, 2]]', "is not .rank, operation, start, end."),
        ('[[0, "0F0", 3, 2]]', "ends before it starts"),
        ('[[-1, "0F0", 1, 2]]', "has no possible rank"),
        ('[[0, "0SEND_F0", 1, 2]]', "nothing is computed in it"),
    ],
)
def test_a_wrong_trace_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "trace.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        read_trace(path)
    assert str(path) in str(error.value)


def test_a_trace_is_json_with_a_line_for_each_operation(tmp_path):
    write_trace(tmp_path / "t.json", [Span(1, Op("F", 1, 2), Fraction(1, 2), Fraction(1))])
    assert json.loads((tmp_path / "t.json").read_text(encoding="utf-8")) == [[1, "1F2", 0.5, 1.0]]
