"""What the benchmarks count, how they take turns, and what they do when a worker fails. No time is asserted here."""

import io
import itertools
import json
import math
import threading
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from tinygrad_llm.backend import why_no_kernels
from tinygrad_llm.models import GPTConfig
from tinygrad_llm.operation import Operation
from tinygrad_llm.study import machine as machines
from tinygrad_llm.study.benchmarks import measuring, ours, startup, warming
from tinygrad_llm.study.benchmarks import worker as workers
from tinygrad_llm.study.benchmarks.cases import Case, cases, gpt_sizes, training_operations
from tinygrad_llm.study.benchmarks.group import Process, WorkFailed, alternate, environment
from tinygrad_llm.study.benchmarks.job import Job, agree, fingerprint
from tinygrad_llm.study.benchmarks.plot import _apart, draw, drawable, plot
from tinygrad_llm.study.benchmarks.report import few_rounds, foreign, markdown, tables
from tinygrad_llm.study.benchmarks.results import Change, Measured, Results, Row
from tinygrad_llm.study.benchmarks.tokenizer_cases import WORDS
from tinygrad_llm.study.benchmarks.tokenizer_cases import text_of as text_of_case
from tinygrad_llm.study.benchmarks.tokenizer_ours import token_check
from tinygrad_llm.study.machine import Machine, Rates, measure_rates
from tinygrad_llm.study.rungs.report import Times
from tinygrad_llm.tensor import registry

TINY = gpt_sizes(1, 8, 2, 4, 11)
RATES = Rates(Machine(100e9, 10e9, 2, "Some CPU"), ((64, 64, 64, 50e9),), ((1 << 15, 20e9), (1 << 21, 10e9)))


def row(name="softmax", group="kernels", threads=2, operations=2e9, moved=1e9, **measured):
    measured = measured or {"reference": (4.0, 5.0, 6.0), "kernel": (0.2, 0.1, 0.3), "torch": (0.2, 0.4, 0.3)}
    found = {name: Measured(tuple(rounds), 0.5, 2_000_000) for name, rounds in measured.items()}
    return Row(group, name, threads, found, operations, moved, 100.0, "tokens")


def results(*rows, **changes):
    versions = {"python": "3.12", "numpy": "2.4", "numba": "0.68", "torch": "2.13"}
    return replace(Results("2026-01-02T03:04:05+00:00", versions, {2: RATES}, rows or (row(),)), **changes)


def text_of(table):
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    return console.file.getvalue()


# -- cases -------------------------------------------------------------------------------------------------------------


def test_operations_of_a_training_step():
    config = GPTConfig(vocab_size=11, context=4, channels=8, layers=3, heads=2)
    parameters = 3 * (8 * 24 + 8 * 8 + 2 * 8 * 32) + 11 * 8
    attention = 3 * 3 * (2 * 2 * 8 * 4)  # a token, L layers, forward and twice that backward, two products with 4 keys
    assert training_operations(config, 5, 4) == 20 * (6 * parameters + attention / 2)


def test_operations_count_the_feed_forward_width():
    wide = GPTConfig(vocab_size=11, context=4, channels=8, layers=1, heads=2, feed_forward=100)
    usual = GPTConfig(vocab_size=11, context=4, channels=8, layers=1, heads=2)
    assert training_operations(wide, 1, 4) - training_operations(usual, 1, 4) == 6 * 4 * 2 * 8 * (100 - 32)


def test_kernels_are_found_in_the_registry(monkeypatch):
    def three(x):
        return 3 * x, lambda dy: 3 * dy

    with_kernel, without = Operation(three, "aaa_with"), Operation(three, "aaa_without")
    with_kernel.kernel(three)
    monkeypatch.setitem(registry, "aaa_with", with_kernel)
    monkeypatch.setitem(registry, "aaa_without", without)
    found = cases("kernels", "aaa_")
    assert [case.name for case in found] == ["aaa_with (2048, 1536)", "aaa_with (2048, 1536) + backward"]
    assert [case.sizes["backward"] for case in found] == [False, True]
    assert found[0].contestants == ("reference", "kernel")
    assert cases("kernels", "aaa_", ("torch", "tiktoken"))[0].contestants == ("reference", "kernel", "torch")


def test_others_take_part_where_they_can():
    def contestants(group, *against):
        return [case.contestants for case in cases(group, "", against)]

    assert set(contestants("train", "torch", "tiktoken")) == {("ours", "torch", "torch.compile")}
    assert set(contestants("train")) == {("ours",)}
    assert contestants("decode")[0] == ("ours",)
    assert contestants("decode", "torch", "tokenizers") == [("ours", "torch"), *[("ours", "float32")] * 2] * 2
    tokenizer = contestants("tokenizer", "torch", "tiktoken", "tokenizers", "rustbpe")
    assert tokenizer[0] == ("ours", "tiktoken", "tokenizers")  # slow ones once
    assert tokenizer[1] == ("ours", "tiktoken")
    assert ("ours", "tokenizers", "rustbpe") in tokenizer  # who learn
    assert set(contestants("tokenizer", "torch")) == {("ours",)}


def test_only_is_part_of_a_name_or_a_pattern():
    assert [c.amount for c in cases("train", "gpt-2")] == [256, 256]
    assert len(cases("train", "GPT*b=4")) == 1
    assert cases("train", "llama") == []


def test_only_is_matched_with_what_is_shown():
    assert [c.name for c in cases("decode", "decode*135M*")] == [
        f"Llama 135M, {w}" for w in ("float32", "int8", "int4")
    ]
    assert [c.name for c in cases("decode", "decode: GPT-2 124M, int8")] == ["GPT-2 124M, int8"]
    assert len(cases("train", "Train: 4 LAYERS")) == 1
    assert cases("train", "decode*135M*") == cases("decode", "train:") == []


def test_first_steps_are_chosen_by_their_names(monkeypatch):
    monkeypatch.setattr(measuring, "_machine", lambda threads, console: RATES)
    monkeypatch.setattr(measuring, "startup_rows", lambda *more: [row(name, "train") for name in startup.NAMES])
    monkeypatch.setattr(measuring, "measure", lambda *more: None)

    def names(only, group="train"):
        console = Console(file=io.StringIO())
        return tuple(row.name for row in measuring.run([group], (), [1], only, 3, console).rows)

    assert names("") == names("startup") == names("train:") == startup.NAMES
    assert names("train: import*numpy") == startup.NAMES[:1]
    assert names("train: first") == startup.NAMES[1:]
    assert names("4 layers") == ()
    assert names("", "decode") == ()


def test_cases_are_plain_data():
    for group in ("kernels", "train", "decode", "tokenizer"):
        for case in cases(group, "", ("torch", "tokenizers")):
            again = Case(**json.loads(json.dumps(case.plain())))
            assert again.sizes == case.sizes
            assert ours.JOBS[again.kind]


# -- the checks that all compute the same ------------------------------------------------------------------------------


def test_results_agree_within_float32_and_no_further():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 60))
    for other, same in [
        (x.astype(np.float32), True),
        (x * (1 + 1e-6), True),
        (-x, False),
        (x[::-1], False),
        (x * 1.01, False),
        (x + 0.1 * (np.arange(60) == 3), False),
        (np.where(x == x.max(), np.nan, x), False),
    ]:
        assert agree([fingerprint(x)], [fingerprint(other)]) is same
    assert not agree([fingerprint(x)], [fingerprint(x)] * 2)
    assert agree([(3.0, 3.0)], [(3.002, 3.002)])
    assert not agree([(3.0, 3.0)], [(3.004, 3.004)])


def test_a_fingerprint_is_the_norm_and_a_projection_on_signs():
    size, value = fingerprint(np.array([3.0, 4.0]))
    assert size == 5.0
    assert value in (7.0, 1.0, -1.0, -7.0)
    ones = fingerprint(np.ones(10_000))[1]
    assert -500 < ones < 500  # of random signs, as many are negative


# -- turns -------------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self, step):
        self.now, self.step = 0.0, step

    def __call__(self):
        return self.now

    def work(self):
        self.now += self.step


def worker_with(job, clock):
    found = workers.Worker("ours", clock)
    found._job = job
    return found


def test_a_turn_lasts_as_long_as_it_is_given():
    clock = Clock(0.25)
    assert worker_with(Job(clock.work), clock).turn(1.0)["times"] == [0.25] * 4
    assert worker_with(Job(clock.work), clock).turn(0.0)["times"] == [0.25]


def test_a_turn_may_have_a_number_of_runs_and_something_before():
    clock, log = Clock(0.25), []
    job = Job(lambda: log.append("run"), before=lambda: log.append("before"), runs=3)
    assert len(worker_with(job, clock).turn(0.0)["times"]) == 3
    assert log == ["before", "run", "run", "run"]


def test_cpu_seconds_are_those_of_one_run(monkeypatch):
    ticks = iter([10.0, 14.0, 20.0, 21.0])
    monkeypatch.setattr(workers.time, "process_time", lambda: next(ticks))
    clock = Clock(0.25)
    assert worker_with(Job(clock.work), clock).turn(0.5)["cpu"] == [4.0, 1.0]


def test_a_worker_whose_input_ends_stops_in_the_midst_of_its_work():
    """A SIGTERM to the parent must not leave workers that compute for nobody."""
    case = Case("kernels", "exp", "operation", {"operation": "exp", "shape": [3, 5], "backward": False}, ())
    with Process("ours", 1) as process:
        process.ask("prepare", case=case.plain())
        process._process.stdin.write(json.dumps({"do": "turn", "seconds": 1000}) + "\n")
        process._process.stdin.close()
        assert process._process.wait(60) == 0


def test_requests_come_in_their_order_and_then_the_end():
    ended = threading.Event()
    found = workers.requests(["a", "b"], lambda status: ended.set())
    assert [next(found), next(found)] == ["a", "b"]
    assert ended.wait(60)


def test_the_collector_is_on_again_after_a_failure():
    def fail():
        raise MemoryError

    with pytest.raises(MemoryError):
        worker_with(Job(fail), Clock(1.0)).turn(1.0)
    assert workers.gc.isenabled()


def test_work_is_built_and_run_once_before_it_is_timed(monkeypatch):
    log = []
    job = Job(lambda: log.append("run"), [(1.0, 2.0)], lambda: log.append("before"), operations=3.0, moved=4.0)
    monkeypatch.setattr(ours, "job", lambda case: log.append(case.name) or job)
    found = workers.Worker("kernel").prepare(Case("kernels", "a", "operation", {}, ()).plain())
    assert found == {"checks": [(1.0, 2.0)], "operations": 3.0, "moved": 4.0, "amount": 0.0}
    assert log == ["a", "before", "run"]


def test_an_error_of_the_work_is_one_line():
    class Failing:
        def turn(self, seconds):
            raise ValueError(f"no {seconds}\nmore")

    assert workers.answer(Failing(), '{"do": "turn", "seconds": 2}') == {"error": "ValueError: no 2"}


def test_peak_memory_is_that_of_this_work():
    peak = workers.high_water()
    assert peak is None or peak > 1 << 20


class Scripted:
    """A worker that answers from a list, and keeps a log that all share."""

    def __init__(self, name, log, *replies):
        self.name, self.log, self.replies = name, log, iter(replies)

    def ask(self, do, **more):
        self.log.append((self.name, do))
        reply = next(self.replies)
        if isinstance(reply, Exception):
            raise reply
        return reply


def test_rounds_alternate_and_the_order_moves_on(monkeypatch):
    monkeypatch.setattr("tinygrad_llm.study.benchmarks.group.PAUSE", 0.125)
    log, slept, told = [], [], []
    group = {
        name: Scripted(name, log, *({"times": [9.0, n, n + 1], "cpu": [n, 0.0, 9.0]} for n in (1, 2, 3)))
        for name in ("a", "b")
    }
    found = alternate(group, 3, 0.5, lambda done, total: told.append((done, total)), slept.append)
    assert [name for name, _ in log] == ["a", "b", "b", "a", "a", "b"]
    assert slept == [0.125] * 6
    assert found == {"a": [(2.0, 1.0), (3.0, 2.0), (4.0, 3.0)], "b": [(2.0, 1.0), (3.0, 2.0), (4.0, 3.0)]}
    assert told == [(1, 3), (2, 3), (3, 3)]


# -- rows, with workers that fail --------------------------------------------------------------------------------------


class Crew:
    """Stands in for `Workers`."""

    threads = 2

    def __init__(self, **members):
        self.members, self.ended = members, []

    def get(self, name):
        return self.members[name]

    def end(self, name):
        self.ended.append(name)


def told(value=1.0, operations=0.0):
    return {"checks": [(1.0, value)], "operations": operations, "moved": 0.0, "amount": 0.0}


def turn(seconds):
    return {"times": [seconds], "cpu": [2 * seconds]}


def measure(crew, *contestants):
    notes = []
    case = Case("train", "a model", "train", {}, contestants, 100, "tokens")
    return measuring.measure(case, crew, 1, lambda done, total: None, notes), notes


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr("tinygrad_llm.study.benchmarks.group.PAUSE", 0.0)


def test_a_row_is_measured():
    log = []
    crew = Crew(
        ours=Scripted("ours", log, told(operations=5.0), turn(2.0), {"peak": 7}),
        torch=Scripted("torch", log, told(1.0005, 6.0), turn(3.0), {"peak": None}),
    )
    found, notes = measure(crew, "torch", "ours")
    assert notes == []
    assert list(found.measured) == ["torch", "ours"]
    assert found.own == Measured((2.0,), 4.0, 7)
    assert (found.operations, found.amount, found.unit, found.threads) == (5.0, 100, "tokens", 2)
    assert found.ratio("torch") == 1.5
    assert [do for _, do in log] == ["prepare"] * 2 + ["turn"] * 2 + ["finish"] * 2


def test_a_contestant_with_other_results_is_not_timed():
    log = []
    crew = Crew(
        ours=Scripted("ours", log, told(), turn(2.0), {"peak": 7}),
        torch=Scripted("torch", log, told(1.002)),
    )
    found, notes = measure(crew, "ours", "torch")
    assert list(found.measured) == ["ours"]
    assert notes == ["a model: torch is not timed: its results differ by more than 0.001"]


def test_a_contestant_that_fails_is_left_out_with_a_note():
    log = []
    crew = Crew(
        ours=Scripted("ours", log, told(), turn(2.0), {"peak": 7}),
        torch=Scripted("torch", log, WorkFailed("torch: MemoryError: no")),
        other=Scripted("other", log, ChildProcessError("the worker process of other was ended by signal 9")),
        third=Scripted("third", log, WorkFailed("third: NoEqual: no such thing")),
        fourth=Scripted("fourth", log, WorkFailed("fourth: Unsupported: dynamo, unlike NoEqual: this is told")),
    )
    found, notes = measure(crew, "ours", "torch", "other", "third", "fourth")
    assert list(found.measured) == ["ours"]
    assert notes == [
        "a model: torch: MemoryError: no",
        "a model: the worker process of other was ended by signal 9",
        "a model: fourth: Unsupported: dynamo, unlike NoEqual: this is told",
    ]
    assert crew.ended == ["torch", "other", "fourth"]


def test_without_ours_there_is_no_row():
    log = []
    crew = Crew(kernel=Scripted("kernel", log, WorkFailed("kernel: MemoryError: no")), torch=Scripted("torch", log))
    assert measure(crew, "torch", "kernel") == (None, ["a model: kernel: MemoryError: no"])
    assert log == [("kernel", "prepare")]


def test_a_crash_of_ours_is_an_error():
    crew = Crew(ours=Scripted("ours", [], ChildProcessError("gone")))
    with pytest.raises(ChildProcessError, match="gone"):
        measure(crew, "ours")


def test_a_run_measures_the_machine_before_and_after(monkeypatch):
    slow = replace(RATES, machine=replace(RATES.machine, gemm=1.0))
    rates = iter([slow, RATES, RATES, slow])
    monkeypatch.setattr(measuring, "_machine", lambda threads, console: next(rates))
    monkeypatch.setattr(measuring, "_rows", lambda found, threads, *more: [row(threads=threads)])
    monkeypatch.setattr(measuring, "why_no_kernels", lambda: "")
    kept = []
    console = Console(file=io.StringIO())
    found = measuring.run(["kernels"], (), [2, 1], "adamw", 3, console, kept.append)
    assert [[r.threads for r in results.rows] for results in kept] == [[2], [2, 1]], "after each row, all so far"
    assert list(kept[0].machines) == [2]
    assert {n: r.machine.gemm for n, r in found.machines.items()} == {2: 100e9, 1: 100e9}
    assert [r.threads for r in found.rows] == [2, 1]
    assert not found.failed
    assert found.versions["numpy"] == np.__version__


def test_how_far_it_has_come_is_shown(monkeypatch):
    monkeypatch.setattr(measuring, "_machine", lambda threads, console: RATES)
    monkeypatch.setattr(measuring, "measure", lambda case, workers, *more: row(case.name, threads=workers.threads))
    monkeypatch.setattr(measuring, "startup_rows", lambda group, *more: [row(startup.STARTS[group][0])])
    console = Console(file=io.StringIO(), width=200)
    found = measuring.run(["train", "tokenizer"], (), [2, 1], "", 3, console)
    lines = console.file.getvalue().splitlines()
    total = len(cases("train")) + len(cases("tokenizer")) + len(startup.STARTS)
    assert len(lines) == len(found.rows) == 2 * total
    assert lines[0] == f"1 of {2 * total}: train: 4 layers, C=128, H=4, T=64, B=12, V=65, 2 threads ..."
    assert lines[total - 1] == f"{total} of {2 * total}: tokenizer: first run, 2 threads ..."
    assert lines[-2] == f"{2 * total - 1} of {2 * total}: train: first run, 1 thread ..."


def test_kernels_that_cannot_be_compiled_are_not_measured(monkeypatch):
    monkeypatch.setattr(measuring, "why_no_kernels", lambda: "the reason")
    for groups in (["kernels"], ["train", "kernels"]):
        with pytest.raises(ValueError, match=r"none here: the reason; .* without: train, decode, tokenizer"):
            measuring.run(groups, (), [1], "softmax", 3, Console(file=io.StringIO()))
    with pytest.raises(ValueError, match="no benchmark of decode has such a name"):  # nothing is compiled for others
        measuring.run(["decode"], (), [1], "zzz", 3, Console(file=io.StringIO()))


def test_a_name_that_nothing_has_is_an_error():
    with pytest.raises(ValueError, match="--only zzz: no benchmark of train, decode has such a name"):
        measuring.run(["train", "decode"], (), [1], "zzz", 3, Console(file=io.StringIO()))


# -- processes ---------------------------------------------------------------------------------------------------------


def test_a_worker_process_works_and_its_death_is_told():
    case = Case("kernels", "exp", "operation", {"operation": "exp", "shape": [3, 5], "backward": True}, ())
    with Process("ours", 1) as process:
        assert process.ask("prepare", case=case.plain())["checks"]
        assert process.ask("turn", seconds=0.0)["times"][0] > 0
        with pytest.raises(WorkFailed, match="ours: UnknownOperation: unknown operation 'expp'"):
            process.ask("prepare", case={**case.plain(), "sizes": {**case.sizes, "operation": "expp"}})
        assert process.ask("finish")
        process._process.kill()
        with pytest.raises(ChildProcessError, match=r"of ours (was ended by signal 9|ended with status 1)"):
            process.ask("turn", seconds=0.0)


def test_a_worker_that_is_left_is_ended():
    with Process("ours", 1) as process:
        pass
    assert process._process.returncode is not None


def test_a_worker_that_cannot_start_says_why():
    with Process("no_such_library", 1) as process, pytest.raises(ChildProcessError, match="No module named 'no_such"):
        process.ask("finish")


def test_every_library_gets_the_same_number_of_threads():
    found = environment(3)
    names = ("TINYGRAD_LLM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    assert [found[name] for name in names] == ["3"] * 4


def test_start_up_is_measured_in_fresh_interpreters(monkeypatch, tmp_path):
    code = "import os; print('hello'); print(sum(os.environ[name] == {!r} for name in {}) / 4)"
    names = ["NUMBA_CACHE_DIR", "PYTHONPYCACHEPREFIX"]
    assert startup.seconds(code.format(str(tmp_path), names), 1, str(tmp_path)) == 0.5
    with pytest.raises(ChildProcessError, match=r"ended with status 1: ValueError: no$"):
        startup.seconds("raise ValueError('no')", 1, str(tmp_path))
    asked = []
    count = itertools.count(1)
    monkeypatch.setattr(startup, "seconds", lambda code, *more: asked.append((code, *more)) or float(next(count)))
    rows = startup.startup_rows("train", 2, 2)
    assert [r.own.rounds for r in rows] == [(2.0, 4.0), (1.0,), (6.0, 7.0)]
    assert rows[0].measured["numpy"].rounds == (3.0, 5.0)
    caches = {cache for _, _, cache in asked}
    assert len(caches) == 1
    assert sum("tinygrad_llm;" in a[0] for a in asked) == 2


def test_fresh_interpreters_keep_what_they_compile(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    startup.seconds("import colorsys; print(1)", 1, str(tmp_path))
    assert [path.name.partition(".")[0] for path in tmp_path.rglob("colorsys.*.pyc")] == ["colorsys"]


# -- our side ----------------------------------------------------------------------------------------------------------


def job_of(kind, **sizes):
    return ours.job(Case("kernels", "a", kind, sizes, ()))


def test_bytes_of_an_operation():
    """softmax keeps its output: backward reads it and dy, and writes dx."""
    one = 4 * 6 * 8
    forward = job_of("operation", operation="softmax", shape=[6, 8], backward=False)
    both = job_of("operation", operation="softmax", shape=[6, 8], backward=True)
    assert forward.moved == 2 * one
    assert both.moved == 5 * one
    assert (forward.operations, both.operations) == (5 * 48, 9 * 48)
    assert len(forward.checks) == 1
    assert len(both.checks) == 2
    assert both.checks[0] == forward.checks[0]


def test_operations_of_products():
    forward = job_of("operation", operation="matmul", shape=[6, 8], backward=False)
    both = job_of("operation", operation="matmul", shape=[6, 8], backward=True)
    assert (forward.operations, both.operations) == (2 * 6 * 8 * 8, 6 * 6 * 8 * 8)
    assert forward.moved == 4 * (48 + 64 + 48)


@pytest.mark.parametrize("backward", [False, True])
def test_an_operation_runs_as_often_as_it_is_asked(backward):
    job = job_of("operation", operation="layer_norm", shape=[6, 8], backward=backward)
    first, second = job.run(), job.run()
    np.testing.assert_array_equal(first[0], second[0])


def test_optimiser_and_clipping_do_their_work():
    adamw, clip = job_of("adamw", shapes=[[3, 4], [5]]), job_of("clip", shapes=[[3, 4], [5]])
    assert (adamw.moved, clip.moved) == (7 * 4 * 17, 3 * 4 * 17)
    adamw.run()
    clip.run()
    (limit, _), gradients = clip.checks[0], clip.checks[1:]
    assert math.hypot(*(size for size, _ in gradients)) == pytest.approx(limit, rel=1e-5)


def test_parameters_of_gpt_2():
    shapes = ours.parameter_shapes(Case("", "", "", {"shapes": "GPT-2"}, ()))
    assert sum(math.prod(shape) for shape in shapes) == 124_439_808


def test_a_training_step_learns_its_batch():
    job = job_of("train", config=TINY, batch=2)
    losses = [loss for loss, _ in job.checks]
    assert len(losses) == 3
    assert losses[0] > losses[1] > losses[2]
    assert job.operations == training_operations(GPTConfig(**TINY), 2, 4)
    assert job.run() < losses[2]


def test_decoding_goes_on_token_by_token(monkeypatch):
    monkeypatch.setattr(ours, "PROMPT", 2)
    job = job_of("decode", model="GPT", config=TINY, weights="float32")
    job.before()
    token = job.run()
    assert token.shape == (1,)
    weights = 11 * 8 + (4 * 8 * 8 + 2 * 8 * 32) + (24 + 8 + 32 + 8) + 6 * 8
    assert job.moved == 4 * weights
    assert job.operations == 2 * weights
    job.before()
    np.testing.assert_array_equal(job.run(), token)


def test_weights_of_fewer_bits_are_less_to_read(monkeypatch):
    monkeypatch.setattr(ours, "PROMPT", 2)
    config = {**TINY, "channels": 64}
    jobs = {kind: job_of("decode", model="GPT", config=config, weights=kind) for kind in ("float32", "int8", "int4")}
    assert jobs["float32"].operations == jobs["int8"].operations == jobs["int4"].operations
    vectors = 9 * 64 + 6 * 64  # biases and norms stay in float32
    table = 11 * 64  # int8 in both
    matrices = jobs["float32"].moved / 4 - vectors - table
    for kind, bits in (("int8", 8.25), ("int4", 5)):
        assert jobs[kind].moved == (matrices * bits + table * 8.25) / 8 + 4 * vectors
        assert jobs[kind].checks == []
        jobs[kind].before()
        assert jobs[kind].run().shape == (1,)


def test_all_bits_beside_fewer(monkeypatch):
    monkeypatch.setattr(ours, "PROMPT", 2)
    case = Case("", "", "decode", {"model": "GPT", "config": {**TINY, "channels": 64}, "weights": "int8"}, ())
    fewer, all_bits = (workers.Worker(name).prepare(case.plain()) for name in ("ours", "float32"))
    assert fewer["checks"] == all_bits["checks"] == []
    assert fewer["moved"] < all_bits["moved"]
    assert case.sizes["weights"] == "int8"


TOKENIZER_KINDS = ["encode", "encode anew", "encode plainly", "batch", "decode ids", "learn", "calls", "build"]


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
def test_the_tokenizers_work(kind):
    sizes = {"text": "documentation", "size": 3000, "vocabulary": 300, "length": 20}
    job = job_of(kind, **sizes)
    again = job_of(kind, **{**sizes, "vocabulary": 280})
    job.before()
    job.run()
    assert job.checks != again.checks or kind in ("decode ids", "learn", "calls", "build")
    assert job.amount >= 3000 or kind in ("calls", "build")


def test_all_kinds_of_tokenizer_cases_can_be_built_and_name_their_text():
    found = cases("tokenizer", "", ("tiktoken",))
    assert {case.kind for case in found} == set(TOKENIZER_KINDS)
    assert len({case.name for case in found}) == len(found)
    named = cases("tokenizer", "", (), "some/book.txt")
    assert {case.sizes["text"] for case in named} - set(WORDS) == {"some/book.txt"}
    assert named[0].name == "encode book.txt, V=8192, words known"


def test_texts_have_the_asked_size(tmp_path):
    (tmp_path / "book.txt").write_text("été " * 1000, encoding="utf-8")
    assert text_of_case(str(tmp_path / "book.txt"), 10) == "été été ét"
    for name in ("Python", "documentation", *WORDS):
        text = text_of_case(name, 5000)
        assert len(text) == 5000
        assert name not in WORDS or set(text) <= set(WORDS[name])


def test_one_id_among_many_is_noticed():
    ids = np.arange(10_000)
    other = ids.copy()
    other[5000] += 1
    assert agree(token_check(ids), token_check(ids.astype(np.int32)))
    assert not agree(token_check(ids), token_check(other))


def test_warming_calls_every_kernel(monkeypatch):
    called = []

    def three(x):
        return 3 * x, lambda dy: lambda: called.append(x.dtype) or 3 * dy

    tripled = Operation(three, "aaa_tripled")
    tripled.kernel(three)
    tripled.sample(lambda rng: ((rng.standard_normal(4),), {}))
    monkeypatch.setattr(warming, "registry", {"aaa_tripled": tripled})
    if reason := why_no_kernels():
        with pytest.raises(ValueError, match="'numba' cannot be had here"):
            warming.warm()
        pytest.skip(reason)
    told = []
    assert warming.warm(lambda *progress: told.append(progress)) == ["aaa_tripled"]
    assert called == [np.float32]
    assert told == [("aaa_tripled", 0, 3), ("a training step", 1, 3), ("the tokenizer", 2, 3), ("", 3, 3)]


# -- the machine by size -----------------------------------------------------------------------------------------------


def test_rates_by_size(monkeypatch):
    monkeypatch.setattr(machines, "PRODUCTS", ((2, 3, 4), (5, 5, 5)))
    monkeypatch.setattr(machines, "STREAMS", (1 << 10, 1 << 12))
    monkeypatch.setattr(machines, "STREAM_BYTES", 1 << 14)
    monkeypatch.setattr(machines, "GEMM_SIZE", 4)
    monkeypatch.setattr(machines, "best_time", lambda work, seconds: (work(), 0.5)[1])
    found = measure_rates(0.1)
    assert found.products == ((2, 3, 4, 2 * 2 * 24.0), (5, 5, 5, 2 * 2 * 125.0))
    assert found.streams == ((1 << 10, 4 * 4096.0), (1 << 12, 4 * 4096.0))
    assert found.machine.gemm == 500.0  # the best of all sizes
    assert found.had > 0
    assert Rates.from_plain(json.loads(json.dumps(found.plain()))) == found


def test_the_better_of_two_measurements_counts():
    streams = ((1 << 15, 1e9), (1 << 21, 11e9))
    other = Rates(replace(RATES.machine, bandwidth=99e9), ((64, 64, 64, 60e9),), streams, 0.5)
    best = RATES.best(other)
    assert best.had == other.best(RATES).had == 0.5
    assert best.machine == replace(RATES.machine, bandwidth=99e9)
    assert best.products == ((64, 64, 64, 60e9),)
    assert best.streams == ((1 << 15, 20e9), (1 << 21, 11e9))


def test_processor_time_is_shared_among_the_threads(monkeypatch):
    times = iter([1.0, 4.0])
    clock = iter([10.0, 12.0])
    monkeypatch.setattr(machines.time, "process_time", lambda: next(times))
    monkeypatch.setattr(machines.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(machines, "best_time", lambda work, seconds: work())
    monkeypatch.setattr(machines.threads, "thread_count", lambda: 2)
    monkeypatch.setattr(machines, "GEMM_SIZE", 4)
    assert machines.processor_share(0.5) == 0.75


# -- results -----------------------------------------------------------------------------------------------------------


def test_ratios_of_medians_and_of_each_round():
    found = row()
    assert found.ratio("torch") == pytest.approx(0.3 / 0.2)
    assert found.ratios("torch") == pytest.approx([1.0, 4.0, 1.0])
    assert found.others == ["reference", "torch"]
    assert found.own.times == pytest.approx(Times(0.15, 0.2, 0.25))


def test_a_busy_machine_is_noticed():
    quiet = row("a", kernel=(1.0, 1.0, 1.1, 1.3, 9.0), reference=(1.0, 1.0, 1.0, 1.4, 1.5))
    few = row("b", kernel=(1.0, 2.0, 3.0, 4.0))
    assert results(quiet, few).busy() == []
    apart = row("c", kernel=(1.0,) * 5, torch=(1.0, 1.0, 1.2, 1.6, 1.6))
    assert results(quiet, few, apart).busy() == ["in 1 of 3 rows the quartiles are a factor of 1.5 apart"]
    had = {1: replace(RATES, had=0.86), 2: replace(RATES, had=0.84)}
    assert results(machines=had).busy() == ["2 threads had 84% of the processor time that they could use"]
    sizes = ((64, 64, 64, 90e9), (128, 128, 128, 46e9), (256, 256, 256, 22e9), (1, 768, 50257, 1e9))
    slump = results(machines={1: replace(RATES, products=sizes)})
    assert slump.busy() == ["a product of 256 × 256 ran with 22 GFLOP/s, and a smaller one with 46, 1 thread"]


def test_a_busy_machine_is_told_below_the_tables():
    busy = results(machines={2: replace(RATES, had=0.5)})
    last = text_of(tables(busy)).splitlines()[-1]
    said = "2 threads had 50% of the processor time that they could use"
    assert last == f"the machine was busy ({said}): do not trust these numbers"
    assert "busy" not in text_of(tables(results()))


def test_an_older_file_says_nothing_of_processor_time(tmp_path):
    results(machines={2: replace(RATES, had=0.5)}).save(tmp_path / "a.json")
    plain = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert Results.load(tmp_path / "a.json").machines[2].had == 0.5
    del plain["machines"]["2"]["had"]
    (tmp_path / "a.json").write_text(json.dumps(plain), encoding="utf-8")
    assert Results.load(tmp_path / "a.json").busy() == []


def test_the_limit_of_fewer_bits_is_not_that_of_all_bits(tmp_path):
    found = results(row("GPT-2 124M, int8", "decode", ours=(0.2,), float32=(0.3,)))
    line = next(line for line in text_of(tables(found)).splitlines() if "limit / time" in line)
    assert line.split() == ["limit", "/", "time", "50", "%"]
    assert len(draw(found).axes[1].collections) == 1, "ours alone is drawn"


def test_the_limit_and_its_share():
    found = results()
    assert found.limit(row()) == 0.1
    assert found.limit(row(operations=50e9)) == 0.5
    assert found.share(row(), "kernel") == pytest.approx(0.5)
    assert math.isnan(found.limit(row(operations=0, moved=0)))
    assert math.isnan(found.limit(row(threads=7)))


def test_results_come_back_from_their_file(tmp_path):
    found = results(row(), row("b", "train", ours=(1.0,), numpy=(2.0,)), notes=("a note",), failed=True)
    found.save(tmp_path / "a.json")
    again = Results.load(tmp_path / "a.json")
    assert again == found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "a.json: not a file of benchmarks: it is not JSON"),
        ("{", "it is not JSON"),
        ("[1]", "not a file of benchmarks; tinygrad-llm bench --json writes one"),
        ('{"kind": "other"}', "not a file of benchmarks;"),
        ('{"kind": "tinygrad_llm benchmarks", "format": 2}', "format 2; this version reads format 1"),
        ('{"kind": "tinygrad_llm benchmarks", "format": 1}', "a damaged file of benchmarks"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        Results.load(path)


def test_damaged_rows_are_refused(tmp_path):
    path = tmp_path / "a.json"
    results().save(path)
    good = json.loads(path.read_text(encoding="utf-8"))
    for change in ({"rounds": []}, {"rounds": None}, {"rounds": ["x"]}, {}):
        bad = json.loads(json.dumps(good))
        bad["rows"][0]["measured"] = {"kernel": {"cpu": 1, "peak": None, **change}} if change else {}
        path.write_text(json.dumps(bad), encoding="utf-8")
        with pytest.raises(ValueError, match="a damaged file of benchmarks"):
            Results.load(path)


@pytest.mark.parametrize(
    ("before", "now", "verdict"),
    [
        (Times(0.9, 1.0, 1.1), Times(1.2, 1.3, 1.4), "slower"),
        (Times(0.9, 1.0, 1.25), Times(1.2, 1.3, 1.4), ""),  # within the spread
        (Times(0.99, 1.0, 1.01), Times(1.05, 1.09, 1.2), ""),  # less than a tenth
        (Times(0.9, 1.0, 1.1), Times(0.6, 0.7, 0.8), "faster"),
        (Times(0.75, 1.0, 1.1), Times(0.6, 0.7, 0.8), ""),
        (Times(0.9, 1.0, 1.1), Times(0.9, 1.0, 1.1), ""),
    ],
)
def test_a_change_counts_beyond_a_tenth_and_its_spread(before, now, verdict):
    assert Change("a", before, now).verdict == verdict


def test_rows_are_compared_with_their_like():
    old = results(row("a", kernel=(1.0,)), row("b", kernel=(1.0,)), row("a", threads=1, kernel=(5.0,)))
    new = results(row("a", kernel=(2.0,)), row("c", kernel=(1.0,)), row("a", group="train", ours=(9.0,)))
    (change,) = new.since(old)
    assert change == Change("kernels: a, 2 threads", Times(1.0, 1.0, 1.0), Times(2.0, 2.0, 2.0))
    assert change.ratio == 2.0
    with pytest.raises(ValueError, match="no row in common"):
        results(row("d")).since(old)


def test_what_else_has_changed_is_said():
    other = replace(RATES, machine=replace(RATES.machine, processor="Other CPU"))
    old = results(machines={2: other}, versions={"python": "3.12", "numpy": "2.0", "numba": "0.68"})
    assert foreign(results(), results()) == []
    assert foreign(results(), old) == [
        "the older file is from another processor: Other CPU, now Some CPU",
        "numpy was 2.0, and is 2.4",
    ]


# -- tables and pictures -----------------------------------------------------------------------------------------------


def test_too_few_rounds_are_said():
    few, one, enough = (results(row(kernel=(1.0,) * count), row(ours=(1.0,))) for count in (4, 1, 5))
    assert few_rounds(enough, enough) == []
    assert few_rounds(few, enough) == [
        "this measurement has 4 rounds: with fewer than 5 a change may be chance; measure with --rounds 7"
    ]
    assert [said.split(":")[0] for said in few_rounds(few, one)] == [
        "the older file has 1 round",
        "this measurement has 4 rounds",
    ]


def test_the_rates_by_which_shares_were_computed_stand_beside_them():
    model = row("tiny", "train", moved=0.0, ours=(0.2,))
    start = Row("train", "import", 2, {"ours": Measured((0.3,))})
    lines = text_of(tables(results(row(), model, start, row(threads=7, group="train")))).splitlines()
    titles = [line.strip() for line in lines if line.startswith(("kernels", "train"))]
    assert titles == [
        "kernels, 2 threads (limit: 100 GFLOP/s, 10.0 GB/s)",
        "train: tiny, 2 threads (limit: 100 GFLOP/s, 10.0 GB/s)",
        "train: import, 2 threads",
        "train: softmax, 7 threads",
    ]


def test_the_table_of_kernels():
    line = next(line for line in text_of(tables(results())).splitlines() if "softmax" in line)
    cells = ["softmax", "200 ms", "150 to 250", "5.00 s", "300 ms", "5.00", "10.0", "50 %", "25.00", "1.50"]
    assert line.split() == " ".join(cells).split()


def test_the_table_of_a_model():
    model = row("tiny", "train", moved=0.0, ours=(0.1, 0.2, 0.3), torch=(0.3, 0.3, 0.3))
    text = text_of(tables(results(model, notes=("torch.compile: no compiler",))))
    lines = {line.split("  ")[0].strip() or line.strip().split("  ")[0]: line.split() for line in text.splitlines()}
    assert "train: tiny, 2 threads (limit: 100 GFLOP/s, 10.0 GB/s)" in lines
    assert lines["time"] == ["time", "200", "ms", "300", "ms"]
    assert lines["tokens/s"] == ["tokens/s", "500", "333"]
    assert lines["limit / time"][-4:] == ["10", "%", "6.7", "%"]
    assert lines["time / ours"] == ["time", "/", "ours", "1.50"]
    assert lines["in each round"][-3:] == ["1.00", "to", "3.00"]
    assert "torch eager" in text
    assert "torch.compile: no compiler" in text


def test_markdown_for_the_readme():
    model = row("tiny", "train", moved=0.0, ours=(0.2,), torch=(0.3,))
    start = Row("train", "import", 2, {"ours": Measured((0.3,)), "numpy": Measured((0.2,))})
    text = markdown(results(row(), model, start))
    assert text.startswith("Measured on Some CPU (2 threads: 100 GFLOP/s, 10 GB/s), Python 3.12, NumPy 2.4, Numba 0.68")
    assert "torch 2.13, 2026-01-02." in text
    assert "| tiny | 2 | 200 ms | 300 ms | 1.50 | 10 % | 2.00 MB |" in text
    assert "| softmax | 2 | 200 ms | 5.00 s | 300 ms | 5.00 | 10.0 | 50 % | 25.00 | 1.50 |" in text
    assert "| import | 2 | 300 ms, numpy 200 ms |" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| softmax") or "GB/s |" in line}
    assert len(widths) == 1


def test_discs_stand_beside_each_other():
    assert _apart([(0.0, 0.0), (9.0, 0.0), (5.0, 20.0)], 8.0) == [(0.0, 0.0), (9.0, 0.0), (5.0, 20.0)]
    assert _apart([(0.0, 0.0), (1.0, 0.0), (0.0, 0.0), (0.0, 8.0)], 8.0) == [
        (0.0, 0.0),
        (9.0, 0.0),
        (-8.0, 0.0),
        (0.0, 8.0),
    ]
    roof = draw(results(*(row(name, ours=(0.3,)) for name in "abc"))).axes[0]
    (discs,) = (c for c in roof.collections if c.get_label() == "kernel")
    places = roof.transData.transform(discs.get_offsets())
    width = math.sqrt(discs.get_sizes()[0]) * roof.figure.dpi / 72
    assert all(math.dist(a, b) > width for a, b in itertools.combinations(places.tolist(), 2))
    assert [text.get_text() for text in roof.get_legend().get_texts()] == ["kernel"]


def test_the_memory_s_label_stays_right_of_the_axis():
    figure = draw(results(row("a", moved=1e9, operations=1e8), row("b", moved=1e6, operations=1e10)))
    roof = figure.axes[0]
    (label,) = (text for text in roof.texts if text.get_text().startswith("memory"))
    assert label.get_window_extent().x0 > roof.get_window_extent().x0


def test_the_picture(tmp_path):
    many = [
        row("a"),
        row("a + backward", operations=4e9),
        row("b", ours=(0.3,)),
        row("c", threads=1),
        row("d", moved=0),
    ]
    found = results(*many, machines={1: RATES, 2: RATES})
    assert [r.name for r in drawable(found)] == ["a + backward", "b"]
    roof, shares = draw(found).axes
    assert [t.get_text() for t in shares.get_yticklabels()] == ["b", "a"]
    kernels = next(c for c in roof.collections if c.get_label() == "kernel").get_offsets()
    np.testing.assert_allclose(np.sort(kernels, 0), [[2.0, 2e9 / 0.3 / 1e9], [4.0, 4e9 / 0.2 / 1e9]])
    plot(found, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no row with operations and bytes to draw"):
        draw(results(row(moved=0)))
