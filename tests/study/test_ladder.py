"""The ladder's numbers: which rungs there are, how wrong each is, what it keeps, and what the limit counts."""

import math

import numpy as np
import pytest
from rich.console import Console

import tinygrad_llm as tg
from tinygrad_llm.operation import Operation
from tinygrad_llm.study import ladder
from tinygrad_llm.study.lookup import UnknownOperation
from tinygrad_llm.study.machine import Machine
from tinygrad_llm.study.rungs import measuring as rungs
from tinygrad_llm.study.rungs import report as ladder_report
from tinygrad_llm.study.rungs import workloads
from tinygrad_llm.study.rungs.measuring import relative_error
from tinygrad_llm.study.rungs.plot import COLOURS, as_svg, draw
from tinygrad_llm.study.rungs.primitives import compositions
from tinygrad_llm.study.rungs.workloads import arrays_read, draw_workload, largest_array, product_operations

OURS = sorted(name for name, o in tg.registry.items() if o.__module__.startswith("tinygrad_llm."))
SMALL = {"attention": (1, 2, 5, 3), "self_attention": (1, 5, 12), "rotary": (1, 2, 3, 4)} | {
    "biased_attention": (1, 2, 5, 3),
    "getitem": (9, 4),
    "einsum": (3, 4),
    "matmul": (3, 4),
    "rnn": (2, 3, 4),
    "lstm": (2, 3, 4),
    "gru": (2, 3, 4),
    "gru_cell": (3, 6),
}
EPS = float(np.finfo(np.float32).eps)


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine of round numbers, which takes no time to measure."""
    known = Machine(gemm=1e9, bandwidth=1e6, threads=1, processor="test")
    monkeypatch.setattr(rungs, "measure_machine", lambda seconds: known)
    return known


def names(found):
    return [rung.name for rung in found.rungs]


def own(kernel=None, log=None, gradient=lambda x, dy: 3 * x**2 * dy, derivation=True):
    """x^3 as a user's own operation, which is not registered; `log` collects who was called, and in which dtype."""
    log = [] if log is None else log

    def cube(x):
        log.append(("reference", x.dtype))
        return x**3, lambda dy: gradient(x, dy)

    operation = Operation(cube)

    @operation.sample
    def _(rng, shape=(2, 3)):
        return (rng.standard_normal(shape),), {}

    if derivation:

        @operation.derivation("x")
        def _(x, dy):
            yield "the Jacobian", (dy.ravel() @ np.diag(3 * x.ravel() ** 2)).reshape(x.shape)

    if kernel is not None:

        @operation.kernel
        def _(x):
            log.append(("kernel", x.dtype))
            return kernel(x)

    return operation


# -- every operation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OURS)
def test_every_operation_climbs(name):
    found = ladder(name, SMALL.get(name, (3, 4)), repeats=1)
    expected = ["composed"] * (name in compositions) + ["dense Jacobian", "closed form"]
    assert names(found)[: len(expected)] == expected
    for rung in found.rungs:
        assert rung.gradient_errors
        # a few roundings, in sums of at most 2048 terms; the dense Jacobian has float64's, 2e-9 of float32's
        assert rung.gradient_error < (1e-6 if rung.name == "dense Jacobian" else 30), rung
        assert math.isnan(rung.value_error) == (rung.name == "dense Jacobian")
        assert not rung.value_error > 30
        assert (rung.costs is None) == (rung.name == "dense Jacobian")
    closed = found.rungs[expected.index("closed form")]
    assert closed.costs.nodes == 1
    if name in compositions and name not in ("abs", "dropout", "embedding", "relu", "clip"):
        assert found.rungs[0].costs.nodes > 1


@pytest.mark.parametrize("name", OURS)
def test_every_usual_workload_can_be_drawn(name):
    shape = workloads.usual_shape(tg.registry[name])
    inputs, _ = draw_workload(tg.registry[name], np.random.default_rng(0))
    first = next(x for x in inputs if np.size(x) == math.prod(shape))
    assert first.shape == shape


def test_the_rungs_of_a_name_and_of_the_operation_are_the_same():
    assert ladder("softmax", (3, 4), repeats=1).call == ladder(tg.ops.softmax, [3, 4], repeats=1).call


def test_the_seed_decides_the_numbers():
    first, again, other = (ladder("softmax", (30, 40), seed, repeats=1) for seed in (1, 1, 2))
    errors = [[r.gradient_error for r in found.rungs] for found in (first, again, other)]
    assert errors[0] == errors[1] != errors[2]


def test_several_outputs_and_many_inputs():
    assert names(ladder("split", (4, 6), repeats=1)) == ["dense Jacobian", "closed form"]
    found = ladder("stack", (2, 3), seed=3, repeats=1)
    inputs = found.call.count("xs[")
    assert list(found.rungs[0].gradient_errors) == [f"xs[{i}]" for i in range(inputs)]


# -- a user's own operation, and kernels -------------------------------------------------------------------------------


def test_an_own_operation_without_anything_has_one_rung():
    found = ladder(own(derivation=False), repeats=1)
    assert names(found) == ["closed form"]
    text = " ".join(found.notes)
    assert "cube is not composed of simpler operations here" in text
    assert "cube has no derivation" in text
    assert "cube has no kernel yet" in text
    assert found.call == "cube(x (2, 3))"
    assert found.products == 0


def test_an_own_operation_named_like_ours_is_not_taken_for_it():
    operation = own()
    operation.name = "softmax"
    assert names(ladder(operation, (2, 2), repeats=1)) == ["dense Jacobian", "closed form"]


def test_a_kernel_is_the_last_rung():
    log = []
    operation = own(lambda x: (x * x * x, lambda dy: 3 * x * x * dy), log)
    found = ladder(operation, (4, 5), repeats=3)
    assert names(found) == ["dense Jacobian", "closed form", "kernel"]
    assert found.rungs[-1].value_error < 3
    assert found.rungs[-1].gradient_error < 3
    assert found.rungs[-1].costs.nodes == 1
    single, double = np.dtype(np.float32), np.dtype(np.float64)
    rounds = [("reference", single), ("kernel", single)] * (1 + 3)
    assert log == [("reference", double), ("kernel", single), *rounds]  # exact values, is it declined, then the runs


def test_the_backend_is_put_back():
    with tg.use_backend("numpy"):
        log = []
        operation = own(lambda x: (x**3, lambda dy: 3 * x**2 * dy), log)
        ladder(operation, repeats=1)
        log.clear()
        operation(np.ones((2, 2)))
        assert log == [("reference", np.dtype(np.float64))]


def test_a_kernel_that_declines_is_no_rung():
    found = ladder(own(lambda x: NotImplemented), repeats=1)
    assert names(found) == ["dense Jacobian", "closed form"]
    assert "The kernel declines these arguments." in found.notes


def test_errors_are_found_in_the_right_place():
    wrong_gradient = ladder(own(lambda x: (x**3, lambda dy: 3.3 * x**2 * dy)), (4, 5), repeats=1).rungs[-1]
    assert wrong_gradient.value_error < 3
    assert wrong_gradient.gradient_errors["x"] == pytest.approx(0.1 / EPS, rel=1e-4)
    wrong_value = ladder(own(lambda x: (1.5 * x**3, lambda dy: 3 * x**2 * dy)), (4, 5), repeats=1).rungs[-1]
    assert wrong_value.value_error == pytest.approx(0.5 / EPS, rel=1e-4)
    assert wrong_value.gradient_error < 3


def test_a_wrong_first_line_is_found():
    operation = own()

    @operation.derivation("x")
    def _(x, dy):
        yield "twice as much", 6 * x**2 * dy

    assert ladder(operation, (4, 5), repeats=1).rungs[0].gradient_error == pytest.approx(1 / EPS, rel=1e-4)


def test_a_broadcast_input_receives_a_sum_on_every_rung():
    found = ladder("add", (64, 5), seed=2, repeats=1)  # y (5,)
    assert "y (5,)" in found.call or "y (1, 5)" in found.call
    assert all(0 < rung.gradient_errors["y"] < 30 for rung in found.rungs if rung.costs)


def test_a_gradient_that_is_a_function_is_called_and_none_is_left_out():
    operation = Operation(lambda x, w, n: (x * w * n, lambda dy: (lambda: dy * w * n, None, None)), "own")

    @operation.sample
    def _(rng):
        return (rng.standard_normal(3), rng.standard_normal(3), 2.0), {}

    found = ladder(operation, repeats=1)
    assert list(found.rungs[0].gradient_errors) == ["x"]
    assert found.rungs[0].gradient_error < 3
    assert found.call == "own(x (3,), w (3,), n=2.0)"


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_an_unknown_name_is_refused():
    with pytest.raises(UnknownOperation, match="did you mean softmax"):
        ladder("sofmax")


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (
            "attention",
            (3, 4),
            r"^attention: the shape \(3, 4\) does not fit: q .* usual one is \(4, 8, 256, 64\)$",
        ),
        ("einsum", (2, 2, 2), r"^einsum: the shape \(2, 2, 2\) does not fit: "),
        ("softmax", (), r"^softmax: the shape \(\) does not fit: "),
        ("layer_norm", (), r"^layer_norm: the shape \(\) does not fit: "),
        ("embedding", (0, 3), r"^embedding: the shape \(0, 3\) does not fit: "),
        ("softmax", (-1, 3), r"^softmax: the shape \(-1, 3\) does not fit: "),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(name, shape, message):
    with pytest.raises(ValueError, match=message):
        ladder(name, shape)


def test_own_operations_say_what_they_lack():
    bare = Operation(lambda x: (x, lambda dy: dy), "bare")
    with pytest.raises(ValueError, match=r"bare has no sample to draw from: add one with @bare\.sample"):
        ladder(bare)
    bare.sample(lambda rng: ((rng.standard_normal(3),), {}))
    with pytest.raises(ValueError, match="its sample takes no shape"):
        ladder(bare, (4,))
    constant = Operation(lambda x: (x, lambda dy: None), "constant")
    constant.sample(lambda rng: ((rng.standard_normal(3),), {}))
    with pytest.raises(ValueError, match="constant: none of its inputs has a gradient"):
        ladder(constant)


def test_no_repeats_are_refused():
    with pytest.raises(ValueError, match="repeats=0"):
        ladder("exp", repeats=0)


def test_too_large_a_shape_is_refused_before_anything_is_drawn(monkeypatch):
    monkeypatch.setattr(workloads, "available_memory", lambda: 64 * 1000)
    ladder("exp", (1000,), repeats=1)
    with pytest.raises(MemoryError, match=r"exp: arrays of 1,001 entries .* choose a smaller --shape"):
        ladder("exp", (1001,), repeats=1)
    drawn = []
    operation = Operation(lambda x: (x, lambda dy: dy), "own")
    operation.sample(lambda rng, shape: drawn.append(shape) or ((np.ones(shape),), {}))
    with pytest.raises(MemoryError):
        ladder(operation, (1001,), repeats=1)
    assert not drawn
    monkeypatch.setattr(workloads, "available_memory", lambda: None)
    ladder("exp", (1001,), repeats=1)


def test_inner_arrays_count_as_memory(monkeypatch):
    q, k = np.empty((2, 3, 50, 1)), np.empty((2, 1, 70, 1))
    assert largest_array(tg.ops.attention, (q, k, k)) == 2 * 3 * 50 * 70
    assert largest_array(tg.ops.self_attention, (np.empty((2, 50, 9)),), heads=3) == 2 * 3 * 50 * 50
    assert largest_array(tg.ops.embedding, (np.empty((100, 2)), np.empty((5, 7), int))) == 100 * 35
    assert largest_array(tg.ops.add, (np.empty((2, 3)), 1.0)) == 6
    monkeypatch.setattr(workloads, "available_memory", lambda: 64 * 2000)
    with pytest.raises(MemoryError, match="2,500 entries"):
        ladder("attention", (1, 1, 50, 1))


# -- what is counted ---------------------------------------------------------------------------------------------------


def test_bytes_and_nodes_of_softmax():
    composed, _, closed = ladder("softmax", (4, 8), repeats=1).rungs[:3]
    e, total, p = 4 * 8 * 4, 4 * 4, 4 * 8 * 4
    assert composed.costs == (5, e + total + p, e + total)  # x - max, exp, sum, + 0, division; p is the output
    assert closed.costs == (1, p, 0)


def test_shared_memory_counts_once():
    def twice(x):
        halves, rest = x[:1].T, np.arange(5.0, dtype=x.dtype)

        def vjp(dy):
            return dy * (x + 0 * halves.sum() + 0 * rest.sum() + 0 * rest[::2].sum())

        return x * x / 2, vjp

    operation = Operation(twice)
    operation.sample(lambda rng: ((rng.standard_normal((2, 3)),), {}))
    assert ladder(operation, repeats=1).rungs[0].costs == (1, 4 * (6 + 5), 4 * 5)


def test_a_node_behind_two_others_counts_once(monkeypatch):
    monkeypatch.setitem(compositions, "silu", lambda x: (e := tg.ops.exp(x)) * (1 / (1 + e)) * (x / e))
    costs = ladder("silu", (4,), repeats=1).rungs[0].costs
    assert costs.nodes == 6  # exp, 1 + e, 1 / _, e * _, x / e, _ * _


def test_moved_is_everything_once():
    found = ladder("layer_norm", (4, 8), repeats=1)
    x, parameters = 32, 8 + 8
    assert found.moved == 4 * ((x + parameters) + 2 * x + (x + parameters))
    with_ids = ladder("cross_entropy", (4, 8), repeats=1)
    assert with_ids.moved == 4 * 32 + 8 * 4 + 4 * (1 + 1 + 32)


@pytest.mark.parametrize("name", ["embedding", "getitem"])
def test_of_a_table_only_the_rows_looked_up_are_read(name):
    table, ids = np.ones((100, 3), np.float32), np.array([[7, 7, 2], [2, 99, 7]])
    rows, same = arrays_read(tg.registry[name], (table, ids), {})
    assert rows.shape == (3, 3)
    assert same is ids


def test_a_table_of_which_few_rows_are_looked_up_limits_less():
    rows, width, ids = 4096, 2, 8 * 256
    found = ladder("embedding", (rows, width), repeats=1)
    least = 8 * ids + 4 * (2 * ids * width + rows * width)
    assert least < found.moved <= least + 4 * ids * width


def test_operations_of_the_products():
    def count(name, *shapes, output, **options):
        return product_operations(tg.registry[name], [np.empty(s) for s in shapes], options, output)

    assert count("matmul", (2, 3), (3, 5), output=(2, 5)) == (2 * 2 * 3 * 5, 4 * 2 * 3 * 5)
    assert count("linear", (7, 2, 3), (3, 5), output=(7, 2, 5)) == (2 * 14 * 15, 4 * 14 * 15)
    full = 2 * (2 * 3) * (4 * 5) * (6 + 7)
    shapes = (2, 3, 4, 6), (2, 1, 5, 6), (2, 1, 5, 7)
    assert count("attention", *shapes, output=()) == (full, 2 * full)
    visible = 2 + 3 + 4 + 5
    causal = 2 * (2 * 3) * visible * (6 + 7)
    assert count("attention", *shapes, output=(), causal=True) == (causal, 2 * causal)
    assert count("self_attention", (2, 5, 36), output=(), heads=3) == (4 * 2 * 25 * 12, 8 * 2 * 25 * 12)
    assert count("self_attention", (2, 5, 36), output=(), causal=True) == (4 * 2 * 15 * 12, 8 * 2 * 15 * 12)
    shapes = (2, 5, 3), (2, 4), (2, 4), (3, 16), (4, 16), (16,)
    assert count("lstm", *shapes, output=()) == (2 * 10 * (3 + 4) * 16, 4 * 10 * (3 + 4) * 16)
    assert count("softmax", (4, 5), output=(4, 5)) == (0, 0)


def test_the_limit_and_the_share(machine):
    found = ladder("linear", (8, 16), repeats=2)
    assert found.products == 3 * 2 * 8 * 16 * 16
    assert found.limit == max(found.products / 1e9, found.moved / 1e6)
    closed = found.rungs[-1]
    assert found.share(closed) == found.limit / closed.total
    assert math.isnan(found.share(found.rungs[1]))


def test_the_better_of_two_measurements_of_the_machine_counts(monkeypatch):
    measured = iter([Machine(1e9, 5e6, 1, "before"), Machine(3e9, 2e6, 1, "after")])
    monkeypatch.setattr(rungs, "measure_machine", lambda seconds: next(measured))
    assert ladder("exp", (2,), repeats=1).machine == Machine(3e9, 5e6, 1, "before")


def test_medians_and_quartiles(monkeypatch):
    ticks = iter(range(10**6))
    steps = iter([1, 1, *[1, 5, 2, 9, 3, 6, 4, 8, 5, 7]])  # one run to study, five to measure: forward, backward
    clock = [0.0]

    def perf_counter():
        if next(ticks) % 2:
            clock[0] += next(steps)
        return clock[0]

    operation = own(derivation=False)
    case = rungs._prepare(operation, None, 0)
    runner = rungs._Taped("closed form", operation, "numpy")
    monkeypatch.setattr(rungs.time, "perf_counter", perf_counter)
    runs = [runner.run(case) for _ in range(6)]
    rung = rungs._summary(case, "closed form", runs[0], [(r.forward, r.backward) for r in runs[1:]])
    assert rung.forward == (2, 3, 4)
    assert rung.backward == (6, 7, 8)
    assert rung.total == 10, "the sum of what is shown, not the median of the sums"


def test_the_number_of_repeats_follows_the_time(monkeypatch):
    monkeypatch.setattr(rungs, "SECONDS", 0.0)
    assert ladder("exp", (2, 2)).repeats == rungs.FEWEST
    monkeypatch.setattr(rungs, "SECONDS", 1e9)
    monkeypatch.setattr(rungs, "MOST", 7)
    assert ladder("exp", (2, 2)).repeats == 7
    clock = iter(range(10**6))
    monkeypatch.setattr(rungs.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(rungs, "SECONDS", 30.0)
    assert ladder(own(derivation=False)).repeats == 6  # the clock is read 5 times after the start of the first round


def test_a_large_jacobian_is_left_out(monkeypatch):
    monkeypatch.setattr(rungs, "LARGEST_JACOBIAN", 36)
    assert "dense Jacobian" in names(ladder("exp", (2, 3), repeats=1))
    found = ladder("exp", (7,), repeats=1)
    assert "dense Jacobian" not in names(found)
    assert "Left out is the dense Jacobian, of up to 7 × 7 entries, 196 B; a small shape shows it." in found.notes


def test_a_scalar_output_does_not_hide_an_inner_jacobian():
    found = names(ladder("cross_entropy", (512, 64), repeats=1))
    assert [name for name in found if name != "kernel"] == ["composed", "closed form"]


@pytest.mark.parametrize(
    ("found", "exact", "error"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.5], [1.0, 2.0], 0.25 / EPS),
        ([0.5, -4.0], [0.0, -4.0], 0.125 / EPS),
        ([0.0], [0.0], 0.0),
        ([0.5], [0.0], 0.5 / EPS),
        ([math.nan, 1.0], [1.0, 1.0], math.inf),
        ([-math.inf, 1.0], [-math.inf, 2.0], 0.5 / EPS),
        ([math.inf], [1.0], math.inf),
        ([], [], 0.0),
    ],
)
def test_relative_errors(found, exact, error):
    assert relative_error(np.array(found, np.float32), np.array(exact)) == error


# -- how it is shown ---------------------------------------------------------------------------------------------------


@pytest.fixture
def shown():
    times = ladder_report.Times
    composed = ladder_report.Rung(
        "composed", times(1e-3, 2e-3, 3e-3), times(4e-3, 5e-3, 6e-3), 1.0, {"x": 2.0, "w": 9.0}, (5, 2000, 1000)
    )
    composed = ladder_report.Rung(**{**vars(composed), "costs": ladder_report.Costs(5, 2000, 1000)})
    none = times(math.nan, math.nan, math.nan)
    dense = ladder_report.Rung("dense Jacobian", none, times(1e-5, 2e-5, 3e-5), math.nan, {"x": 1, "w": 0}, None)
    machine = Machine(1e9, 1e6, 1, "test")
    return ladder_report.Ladder("f(x (2,))", 4, machine, 1400, 0, (composed, dense), ("A <note>.",))


def test_the_table(shown):
    assert shown.rows() == [
        ("forward", "2.00 ms", ""),
        ("  quartiles", "1.00 to 3.00", ""),
        ("backward", "5.00 ms", "20.0 µs"),
        ("  quartiles", "4.00 to 6.00", "10.0 to 30.0"),
        ("limit / time", "20 %", ""),
        ("error of the value", "1 ε", ""),
        ("error of dx", "2 ε", "1 ε"),
        ("error of dw", "9 ε", "0 ε"),
        ("saved for backward", "2.00 kB", ""),
        ("  beyond in- and outputs", "1.00 kB", ""),
        ("nodes on the tape", "5", ""),
    ]
    assert shown.rungs[0].gradient_error == 9.0


def test_the_text(shown):
    text = str(shown)
    for part in (
        "f(x (2,))",
        "composed",
        "dense Jacobian",
        "Limit 1.40 ms: 1.40 kB of memory moved once, 1.40 ms.",
        "4 alt",
    ):
        assert part in text
    assert text.endswith("A <note>.")
    assert all(line == line.rstrip() for line in text.splitlines())
    console = Console(width=60)
    with console.capture() as captured:
        console.print(shown)
    assert max(map(len, captured.get().splitlines())) <= 60


def test_both_limits_are_named_where_there_are_products(shown):
    both = ladder_report.Ladder(**{**vars(shown), "products": 2 * 10**9})
    assert both.limit == 2.0
    assert both.limited_by.startswith("2.00 GFLOP of matrix products, 2.00 s; 1.40 kB of memory")


def test_the_picture_has_the_numbers(shown):
    axes = draw(shown).axes[0]
    bars = sorted((round(p.get_y()), p.get_x(), p.get_width()) for p in axes.patches)
    assert bars == [(0, 0, pytest.approx(2)), (0, pytest.approx(2), pytest.approx(5)), (1, 0, pytest.approx(0.02))]
    spans = sorted(
        (segment[0][1], segment[0][0], segment[1][0])
        for lines in axes.collections
        for segment in lines.get_segments()
        if segment[0][1] == segment[1][1]
    )
    assert spans == [(0, 1, 3), (0, 6, 8), (1, pytest.approx(0.01), pytest.approx(0.03))]
    limits = [s[0][0] for lines in axes.collections for s in lines.get_segments() if s[0][0] == s[1][0]]
    assert limits == pytest.approx([1.4, 1.4])
    texts = [t.get_text() for t in axes.texts]
    assert "7.00 ms, 5.00 × the limit" in texts
    assert "20.0 µs" in texts
    assert "the machine's limit, 1.40 ms" in texts
    assert "gradient error 9 ε   ·   saves 2.00 kB, 1.00 kB of it beyond in- and outputs   ·   5 nodes" in texts
    assert axes.get_xlabel().startswith("milliseconds: medians of 4")
    fast = ladder_report.Ladder(**{**vars(shown), "machine": Machine(1e12, 1e12, 1, "fast")})
    assert draw(fast).axes[0].get_xlabel().startswith("milliseconds")
    slow = ladder_report.Ladder(**{**vars(shown), "machine": Machine(1.0, 1.0, 1, "slow")})
    axes = draw(slow).axes[0]
    assert axes.get_xlabel().startswith("seconds")
    assert axes.get_xlim()[1] > 1400


def test_nothing_to_move_can_be_drawn():
    found = ladder("exp", (0, 3), repeats=1)
    assert found.limit == 0
    assert any("ms" in t.get_text() or "µs" in t.get_text() for t in draw(found).axes[0].texts)


def test_html_holds_the_table_and_a_picture_in_the_colours_of_the_page(shown):
    html = shown._repr_html_()
    assert html.count("<tr>") == 1 + len(shown.rows())
    for row in shown.rows():
        for cell in filter(None, row[1:]):
            assert f"<td>{cell}</td>" in html
    assert "A &lt;note&gt;." in html
    svg = as_svg(shown)
    assert svg in html
    assert svg.startswith("<svg ")
    assert not any(colour in svg for colour in COLOURS.values())
    assert "var(--accent)" in svg
    assert "dense Jacobian" in svg
    assert "f(x (2,))" not in svg.split(">", 1)[1]  # the heading has it
    assert as_svg(shown) == svg


def test_the_colours_are_those_of_the_style_sheet():
    from tinygrad_llm.study.page import STYLE

    for name, colour in COLOURS.items():
        assert f"--{name}: {colour};" in STYLE


def test_a_picture_is_written_once(shown, tmp_path):
    path = tmp_path / "ladder.png"
    shown.plot(path)
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(FileExistsError, match="exists already"):
        shown.plot(path)
    path.write_bytes(b"")
    shown.plot(str(path), force=True)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (1234.5, "1,234"), (12.34, "12.3"), (1.234, "1.23"), (0.01234, "0.0123"), (9.3e-5, "9.30e-05")],
)
def test_digits(number, text):
    assert ladder_report.digits(number) == text


def test_units():
    assert ladder_report.span_text(ladder_report.Times(5e-4, 2e-3, 3e-3)) == "0.500 to 3.00"
    assert [ladder_report.time_text(t) for t in (2, 1e-3, 5e-5, 3e-8, 0, math.nan)] == [
        *("2.00 s", "1.00 ms", "50.0 µs", "30.0 ns", "0 ns", "")
    ]
    assert [ladder_report.size_text(n) for n in (12, 999, 1000, 2.5e6, 3e9, 1.7e13)] == [
        *("12 B", "999 B", "1.00 kB", "2.50 MB", "3.00 GB", "17.0 TB")
    ]
    assert [ladder_report.count_text(n) for n in (12, 3.4e6)] == ["12 FLOP", "3.40 MFLOP"]
    assert [ladder_report.error_text(e) for e in (0.0, 1e-9, 0.456, 12.3, 838861, math.inf, math.nan)] == [
        *("0 ε", "< 0.01 ε", "0.46 ε", "12 ε", "838,861 ε", "inf ε", "")
    ]
    assert [ladder_report.percent_text(s) for s in (0.0, 0.00123, 0.0456, 0.25, 1.5, math.nan)] == [
        *("0 %", "0.12 %", "4.6 %", "25 %", "150 %", "")
    ]
