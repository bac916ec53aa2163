"""``tinygrad-llm schedule`` as a user gives it."""

import pytest

from tinygrad_llm.cli.main import main
from tinygrad_llm.parallel.gantt import write_trace
from tinygrad_llm.parallel.schedules import schedule
from tinygrad_llm.parallel.simulation import simulate


def call(capsys, *arguments):
    status = main(["schedule", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_what_is_printed(capsys):
    assert call(capsys, "1f1b", "--stages", 4, "--microbatches", 6) == (
        0,
        "1f1b: 4 stages, 6 microbatches\n"
        "\n"
        "simulated\n"
        "0 |0123......aa4bb5cc.dd.ee.ff\n"
        "1 |.012....aa3bb4cc5dd.ee.ff..\n"
        "2 |..01..aa2bb3cc4dd5ee.ff....\n"
        "3 |...0aa1bb2cc3dd4ee5ff......\n"
        "time          27; if no rank were idle 18\n"
        "bubble        1/2 (50.0 %) of the ideal time; ranks are idle 1/3 (33.3 %) of all time\n"
        "held at most  4 3 2 1 on ranks 0 to 3 of the microbatches' activations\n"
        "messages      36 in a step, of which are sent 6 12 12 6 on ranks 0 to 3\n",
        "",
    )


def test_chunks(capsys):
    _, output, _ = call(capsys, "interleaved")
    assert "interleaved: 4 stages, 8 microbatches, 2 chunks\n" in output
    assert (
        "held at most  11 9 7 5 on ranks 0 to 3 of the microbatches' activations, those in one of 2 chunks counted as "
        in output
    )
    assert "3/16 (18.8 %)" in output
    assert "3/24" not in call(capsys, "interleaved", "--chunks", 4)[1]
    assert "bubble        3/32 (9.4 %)" in call(capsys, "interleaved", "--chunks", 4)[1]


def test_durations_and_operations(capsys):
    _, output, _ = call(capsys, "zb-h1", "--stages", 2, "--microbatches", 2, "--durations", "F=2,W=1/2", "--ops")
    assert "time          9.5; if no rank were idle 7" in output
    assert "held at most  2 on each rank" in output
    assert output.endswith(
        "0F0 0SEND_F0 0RECV_B0 0F1 0SEND_F1 0I0 0RECV_B1 0W0 0I1 0W1\n"
        "1RECV_F0 1F0 1RECV_F1 1I0 1SEND_B0 1F1 1I1 1SEND_B1 1W0 1W1\n"
    )


def test_one_and_many(capsys):
    assert call(capsys, "1f1b", "--stages", 1, "--microbatches", 1)[1].startswith("1f1b: 1 stage, 1 microbatch\n")
    assert "sent 2 4 4 4 ... 4 4 4 2 on ranks 0 to 16" in call(capsys, "1f1b", "--stages", 17, "--microbatches", 2)[1]


def test_pictures(capsys, tmp_path):
    for name, begins in (("s.svg", b"<svg "), ("s.png", b"\x89PNG")):
        status, output, error = call(capsys, "zb-h1", "--out", tmp_path / name)
        assert (status, error) == (0, "")
        assert output.endswith(f"wrote {tmp_path / name}\n")
        assert (tmp_path / name).read_bytes().startswith(begins)


def test_a_trace_is_shown_below_what_is_predicted_from_its_times(capsys, tmp_path):
    executed = simulate(schedule("1f1b", 2, 3), {"F": 0.25, "I": 0.5, "W": 0.25}, 0.125)
    write_trace(tmp_path / "t.json", executed.spans)
    options = ["1f1b", "--stages", 2, "--microbatches", 3, "--trace", tmp_path / "t.json", "--out", tmp_path / "t.svg"]
    status, output, _ = call(capsys, *options)
    assert status == 0
    predicted, _, measured = output.partition("executed")
    assert "predicted" in predicted
    assert "time          4 s; if no rank were idle 3 s" in predicted
    assert f"time          {float(executed.total):g} s; if no rank were idle 3 s" in measured
    picture = (tmp_path / "t.svg").read_text(encoding="utf-8")
    assert picture.index(">predicted<") < picture.index(">executed<")
    assert "time          8 s" in call(capsys, *options, "--durations", "F=1,I=.5,W=.5", "--force")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["2f2b"], "2f2b"),
        (["1f1b", "--stages", "0"], "Must be >= 1"),
        (["1f1b", "--microbatches=-1"], "Must be >= 1"),
        (["interleaved", "--chunks", "0"], "Must be >= 1"),
        (
            ["1f1b", "--durations", "F=1,B=2"],
            "durations are those of F, I and W, as in F=1,I=1,W=1 (B is I + W); not 'B=2'",
        ),
        (["1f1b", "--durations", "F=x"], "not 'F=x'"),
        (["1f1b", "--durations", "F=-1"], "not 'F=-1'"),
        (["1f1b", "--durations", "F=1/0"], "not 'F=1/0'"),
        (["1f1b", "--durations", "F=0,I=0,W=0"], "not all of F, I and W may be 0"),
        ([], "requires an argument"),
    ],
)
def test_wrong_usage_is_status_2(capsys, arguments, message):
    status, output, error = call(capsys, *arguments)
    assert (status, output) == (2, "")
    assert message in error
    assert error.count("\n") == 1


def test_what_cannot_be_done_is_status_1(capsys, tmp_path):
    (tmp_path / "old.svg").write_bytes(b"old")
    (tmp_path / "empty.json").write_bytes(b"")
    write_trace(tmp_path / "two.json", simulate(schedule("1f1b", 2, 8)).spans)
    write_trace(tmp_path / "many.json", simulate(schedule("1f1b", 4, 9)).spans)
    cases = [
        (["interleaved", "--microbatches", "6"], "6 microbatches are not a multiple of 4 stages"),
        (["1f1b", "--chunks", "2"], "1f1b: 2 chunks on a rank"),
        (["1f1b", "--stages", "1000", "--microbatches", "1000"], "at most 20,000 are shown"),
        (["1f1b", "--out", tmp_path / "old.svg"], "exists already; choose another name, or replace it with --force"),
        (["1f1b", "--out", tmp_path / "s.jpg"], "give a name that ends in .svg or .png"),
        (["1f1b", "--out", tmp_path / "no" / "s.svg"], "does not exist"),
        (["1f1b", "--trace", tmp_path / "none.json"], "No such file"),
        (["1f1b", "--trace", tmp_path / "empty.json"], "not valid JSON"),
        (["1f1b", "--trace", tmp_path / "two.json"], "two.json: has 2 ranks, which 1f1b with these --stages"),
        (["1f1b", "--trace", tmp_path / "many.json"], "has 4 ranks and 0B8, which 1f1b"),
    ]
    for arguments, message in cases:
        status, output, error = call(capsys, *arguments)
        assert (status, output) == (1, "")
        assert message in error
        assert error.count("\n") == 1
    assert (tmp_path / "old.svg").read_bytes() == b"old"


def test_help_ends_with_an_example(capsys):
    assert main(["schedule", "--help"]) == 0
    assert "tinygrad-llm schedule 1f1b --stages 4 --microbatches 8 --out 1f1b.svg" in capsys.readouterr().out
