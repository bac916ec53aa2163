"""``tinygrad-llm bench`` as a user gives it. What is measured is made up here."""

import importlib.util
import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tinygrad_llm.cli import arguments as shared_arguments
from tinygrad_llm.cli.bench import parse_threads
from tinygrad_llm.cli.main import main
from tinygrad_llm.study import lookup
from tinygrad_llm.study.benchmarks import measuring
from tinygrad_llm.study.benchmarks.results import Measured, Results, Row
from tinygrad_llm.study.machine import Machine, Rates
from tinygrad_llm.threads import thread_count

RATES = Rates(Machine(100e9, 10e9, 1, "Some CPU"), ((64, 64, 64, 50e9),), ((1 << 15, 20e9),))
VERSIONS = {"python": "3.12", "numpy": "2.4", "numba": "0.68"}
ROW = Row("kernels", "softmax", 1, {"kernel": Measured((0.2, 0.2)), "reference": Measured((0.6, 0.6))}, 2e9, 1e9)


def results(seconds=0.2, **changes):
    row = replace(ROW, measured={**ROW.measured, "kernel": Measured((seconds,))})
    return replace(Results("2026-01-02T03:04:05+00:00", VERSIONS, {1: RATES}, (row,)), **changes)


@pytest.fixture
def asked(monkeypatch):
    calls = []

    def run(groups, against, threads, only, rounds, console, keep, text=""):
        calls.append((tuple(groups), against, threads, only, rounds))
        return results()

    monkeypatch.setattr(measuring, "run", run)
    return calls


def call(capsys, *arguments):
    status = main(["bench", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_machine_then_the_rows(capsys, asked, monkeypatch):
    monkeypatch.setattr(shared_arguments, "allowed_processors", lambda: [0, 1])
    status, output, error = call(capsys, "kernels", "--threads", "1,2", "--only", "soft*", "--rounds", 3)
    assert (status, error) == (0, "")
    assert asked == [(("kernels",), (), (1, 2), "soft*", 3)]
    assert output.index("Some CPU, 1 thread: 100 GFLOP/s") < output.index("64 × 64 @ 64 × 64") < output.index("softmax")
    assert "32 KiB" in output
    assert "50 %" in output


def test_more_threads_than_processors_are_not_measured(capsys, asked, monkeypatch):
    monkeypatch.setattr(shared_arguments, "allowed_processors", lambda: [0, 1])
    status, _, error = call(capsys, "kernels", "--threads", "1,99,2")
    assert (status, asked[0][2]) == (0, (1, 2))
    assert error.startswith("warning: 99 threads would wait for each other")


def test_everything_is_measured_without_a_group(capsys, asked):
    assert call(capsys)[0] == 0
    assert asked == [(("kernels", "train", "decode", "tokenizer", "pretrained"), (), (thread_count(),), "", 7)]


def test_files_are_written_and_read(capsys, asked, tmp_path):
    found, picture = tmp_path / "a.json", tmp_path / "a.png"
    status, output, _ = call(capsys, "kernels", "--json", found, "--plot", picture)
    assert status == 0
    assert f"wrote {found}\nwrote {picture}\n" in output
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert Results.load(found).rows == results().rows
    status, again, _ = call(capsys, "--from", found)
    assert status == 0
    assert again == output.replace(f"wrote {found}\nwrote {picture}\n", "")
    assert len(asked) == 1


def test_what_has_become_slower_is_status_1(capsys, tmp_path):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    results(0.2).save(old)
    for seconds, status, verdict in [(0.3, 1, "slower"), (0.1, 0, "faster"), (0.2, 0, "")]:
        results(seconds).save(new)
        found, output, _ = call(capsys, "--from", new, "--compare", old)
        assert found == status
        line = next(line for line in output.splitlines() if "kernels: softmax" in line)
        assert line.split()[-1] == (verdict or "1.00")
        assert f"{status} of 1 rows slower" in output


def test_another_machine_is_noted(capsys, tmp_path):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    other = replace(RATES, machine=replace(RATES.machine, processor="Old CPU"))
    results(machines={1: other}).save(old)
    results().save(new)
    assert "note: the older file is from another processor: Old CPU" in call(capsys, "--from", new, "--compare", old)[1]


def test_a_comparison_of_few_rounds_is_noted(capsys, tmp_path):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    results().save(old)
    results().save(new)
    output = call(capsys, "--from", new, "--compare", old)[1]
    assert "note: the older file has 1 round: " in output
    assert "note: this measurement has 1 round: " in output


def test_a_row_that_failed_is_status_1_after_all_is_shown(capsys, tmp_path):
    path = tmp_path / "a.json"
    results(notes=("softmax: torch is not timed",), failed=True).save(path)
    status, output, _ = call(capsys, "--from", path)
    assert status == 1
    assert "softmax: torch is not timed" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed"], "Invalid value"),
        (["--threads", "0"], "numbers of threads are whole numbers with commas between, as in 1,2; not '0'"),
        (["--threads", "1,,2"], "not '1,,2'"),
        (["--rounds", "0"], "Must be >= 1"),
        (["--fast"], "--fast"),
    ],
)
def test_wrong_usage_is_status_2(capsys, asked, arguments, message):
    status, output, error = call(capsys, *arguments)
    assert (status, output) == (2, "")
    assert message in error
    assert error.count("\n") == 1
    assert asked == []


def test_what_cannot_be_done_is_status_1(capsys, asked, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    old, empty = tmp_path / "old.json", tmp_path / "empty.json"
    results().save(old)
    empty.write_text("", encoding="utf-8")
    cases = [
        (["--json", old], "exists already; choose another name, or replace it with --force"),
        (["--plot", tmp_path / "a.jpg"], "give a name that ends in .png"),
        (["--compare", empty], "empty.json: not a file of benchmarks: it is not JSON"),
        (["--compare", tmp_path / "no.json"], "no.json: No such file"),
        (["--from", empty], "not a file of benchmarks"),
        (["--against", "torch"], "--against torch: it is not installed here; pip install '.[peers]' (in a clone)"),
        (["--against", "jax"], "--against jax: unknown; expected all, or some of torch, tiktoken"),
    ]
    for arguments, message in cases:
        status, output, error = call(capsys, *arguments)
        assert (status, output) == (1, "")
        assert message in error
        assert error.count("\n") == 1
    assert asked == []
    assert call(capsys, "--json", old, "--force")[0] == 0


def test_what_was_measured_before_an_interrupt_is_kept(capsys, monkeypatch, tmp_path):
    def run(groups, against, threads, only, rounds, console, keep, text):
        keep(results())
        raise KeyboardInterrupt

    path = tmp_path / "found.json"
    monkeypatch.setattr(measuring, "run", run)
    with pytest.raises(KeyboardInterrupt):
        main(["bench", "train", "--json", str(path)])
    assert Results.load(path) == results()
    assert capsys.readouterr().err == f"interrupted: {path} has the 1 row measured so far\n"
    with pytest.raises(KeyboardInterrupt):
        main(["bench", "train"])
    assert capsys.readouterr().err == ""


def test_a_folder_that_cannot_be_written_to_is_told_before_measuring(capsys, asked, tmp_path, monkeypatch):
    allowed = lookup.os.access
    monkeypatch.setattr(lookup.os, "access", lambda path, mode: path != tmp_path and allowed(path, mode))
    for option, name in (("--json", "a.json"), ("--plot", "a.png")):
        status, output, error = call(capsys, option, tmp_path / name)
        assert (status, output, error) == (1, "", f"tinygrad-llm: error: {tmp_path / name}: Permission denied\n")
    assert asked == []


def test_warming_measures_nothing(capsys, asked, monkeypatch):
    from tinygrad_llm.study.benchmarks import warming

    monkeypatch.setattr(warming, "warm", lambda progress: progress("exp", 0, 1) or ["exp", "tanh"])
    status, output, _ = call(capsys, "--warm")
    assert (status, output, asked) == (0, "compiled the kernels of exp, tanh\n", [])


def test_help_ends_with_an_example(capsys):
    assert main(["bench", "--help"]) == 0
    assert "tinygrad-llm bench kernels --plot roofline.png" in capsys.readouterr().out


@pytest.mark.parametrize(("text", "threads"), [("1", (1,)), ("1,2", (1, 2)), (" 2 , 1,2", (2, 1))])
def test_numbers_of_threads_are_read(text, threads):
    assert parse_threads(text) == threads


def test_the_table_of_the_readme(capsys, tmp_path, monkeypatch):
    script = Path(__file__).parents[2] / "benchmarks" / "readme_table.py"
    path = tmp_path / "a.json"
    results().save(path)
    monkeypatch.setattr(sys, "argv", ["readme_table.py", str(path)])
    runpy.run_path(str(script), run_name="__main__")
    assert "| softmax | 1 | 200 ms | 600 ms | 5.00 | 10.0 | 50 % | 3.00 |" in capsys.readouterr().out
    path.write_text(json.dumps([]), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"readme_table: .*not a file of benchmarks"):
        runpy.run_path(str(script), run_name="__main__")
    monkeypatch.setattr(sys, "argv", ["readme_table.py"])
    with pytest.raises(SystemExit, match="usage"):
        runpy.run_path(str(script), run_name="__main__")


def test_a_text_that_cannot_be_read_is_told_before_anything_is_measured(capsys, asked, tmp_path):
    (tmp_path / "empty.txt").write_text("", encoding="utf-8")
    (tmp_path / "binary.txt").write_bytes(b"a\xff")
    for name, why in (("absent.txt", "no such file"), ("empty.txt", "empty"), ("binary.txt", "not UTF-8 text")):
        status, _, error = call(capsys, "tokenizer", "--text", tmp_path / name)
        assert (status, asked) == (1, [])
        assert why in error


def test_several_groups_are_measured_in_one_run(capsys, asked):
    call(capsys, "train", "decode", "train")
    assert asked[0][0] == ("train", "decode")
    call(capsys)
    assert asked[1][0] == ("kernels", "train", "decode", "tokenizer", "pretrained")
