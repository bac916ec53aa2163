"""`compare`: equal parameters, gradients followed back, times of steps, and what is written and drawn."""

import dataclasses
import io
import json
import math
import re

import numpy as np
import pytest
from rich.console import Console

from tinygrad_llm.models import GPT, GPTConfig, Recurrent, RecurrentConfig, new_model
from tinygrad_llm.study.architectures import distance, experiment, losses, steps
from tinygrad_llm.study.architectures.distance import Reach, gradients_back, measure_reach
from tinygrad_llm.study.architectures.losses import Curve
from tinygrad_llm.study.architectures.plot import OF_MODEL, draw, plot
from tinygrad_llm.study.architectures.report import (
    NAMES,
    loss_cells,
    markdown,
    reach_cells,
    remarks,
    step_cells,
    tables,
)
from tinygrad_llm.study.architectures.results import Comparison
from tinygrad_llm.study.architectures.settings import KINDS, QUICK, RATES, SPREADS, Settings
from tinygrad_llm.study.architectures.steps import StepTime, batches, time_steps
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.training import loop
from tinygrad_llm.training.architectures import model_config
from tinygrad_llm.training.metrics import read_metrics


@pytest.fixture(scope="module", autouse=True)
def no_plots_of_each_training():
    """They are tested elsewhere, and take most of the time of a training as short as these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "plot_loss", lambda *arguments: None)
        yield


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [{}, {"channels": 96, "layers": 3}, {"channels": 64, "layers": 1, "context": 32}])
def test_all_have_as_many_parameters_within_one_percent(sizes):
    settings = Settings(**sizes)
    trainings = settings.trainings()
    assert list(trainings) == ["gpt", "lstm", "gru", "rnn"]
    counts = {
        kind: new_model(model_config(config, settings.vocab_size)).parameter_count()
        for kind, config in trainings.items()
    }
    assert trainings["gpt"].channels == settings.channels
    for kind, count in counts.items():
        assert count == pytest.approx(counts["gpt"], rel=0.01), kind
    for kind in ("lstm", "gru", "rnn"):  # neither of the widths beside it is nearer
        chosen = trainings[kind].channels
        errors = [abs(settings.parameters(kind, chosen + step) - counts["gpt"]) for step in (-1, 0, 1)]
        assert min(errors) == errors[1]


def test_trainings_differ_in_the_model_alone():
    trainings = Settings(steps=32, measurements=8, seed=3, data="x.txt").trainings()
    own = {"model", "channels", "layers", "learning_rate", "init_std"}
    shared = [{k: v for k, v in dataclasses.asdict(c).items() if k not in own} for c in trainings.values()]
    assert all(values == shared[0] for values in shared)
    assert (shared[0]["validate_every"], shared[0]["seed"], shared[0]["data"]) == (4, 3, "x.txt")
    assert {kind: config.learning_rate for kind, config in trainings.items()} == RATES
    assert {kind: config.init_std for kind, config in trainings.items()} == SPREADS
    assert [config.layers for config in trainings.values()] == [4, 2, 2, 2]


def test_settings_that_are_given_win_over_quick_ones():
    settings = Settings.of(True, steps=5, context=None, seed=1)
    assert (settings.steps, settings.context, settings.seed) == (5, QUICK["context"], 1)
    assert Settings.of(False, steps=None) == Settings()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 3}, "--steps 3: must be at least 16"),
        ({"models": ("gpt", "mamba")}, "unknown architecture 'mamba'; known are gpt, lstm, gru, rnn"),
        ({"context": 1}, "--context 1: must be at least 2"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Settings(**wrong)


# -- gradients back ----------------------------------------------------------------------------------------------------


def small(kind, layers=2):
    if kind == "gpt":
        return GPT(GPTConfig(vocab_size=11, context=9, channels=8, layers=layers, heads=2, init_std=0.3), 1)
    sizes = {"vocab_size": 11, "context": 9, "channels": 6, "units": 6, "layers": layers, "init_std": 0.5}
    return Recurrent(RecurrentConfig(kind=kind, **sizes), 1)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_back_are_the_numerical_derivatives(kind):
    model = small(kind).astype(np.float64)
    ids = np.random.default_rng(0).integers(0, 11, (2, 8))
    found = gradients_back(model, ids)
    channels = model.config.channels
    assert found.shape == (2, 7, channels)

    vectors = model.token_embedding.weight.data[ids[:, :-1]].copy()
    plain = model.token_embedding

    class Given(distance.Watched):
        def forward(self, ids):
            return Tensor(vectors)

    def loss():
        logits = model.head(model.hidden(ids[:, :-1])[:, -1]).data
        return sum(
            math.log(np.exp(row - row.max()).sum()) + row.max() - row[target]
            for row, target in zip(logits, ids[:, -1], strict=True)
        )

    model.token_embedding = Given(plain)
    for row, back, channel in [(0, 0, 1), (1, 1, 0), (0, 3, 2), (1, 6, 5), (0, 6, 4)]:
        place = row, 6 - back, channel
        kept, step = vectors[place], 1e-5
        values = []
        for sign in (1, -1):
            vectors[place] = kept + sign * step
            values.append(loss())
        vectors[place] = kept
        slope = (values[0] - values[1]) / (2 * step)
        assert found[row, back, channel] == pytest.approx(slope, rel=1e-6, abs=1e-9)


def test_the_model_is_left_as_it_was():
    model = small("lstm")
    embedding, before = model.token_embedding, {n: p.data.copy() for n, p in model.named_parameters()}
    gradients_back(model, np.arange(10)[None])
    assert model.token_embedding is embedding
    assert all(p.grad is None for p in model.parameters())
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(parameter.data, before[name])
    with pytest.raises(IndexError):
        gradients_back(model, np.full((1, 9), 99))
    assert model.token_embedding is embedding


def test_a_reach_is_the_median_of_norms_by_distance():
    model, ids = small("gru"), np.random.default_rng(3).integers(0, 11, (5, 7))
    norms = measure_reach(model, ids)
    gradients = gradients_back(model, ids)
    assert model.dtype == np.float64
    assert len(norms) == 6
    for k in range(6):
        own = sorted(math.sqrt(sum(g * g for g in gradients[b, k])) for b in range(5))
        assert norms[k] == pytest.approx(own[2], rel=1e-12)


def test_the_share_that_is_kept_counts_from_distance_one():
    reach = Reach("rnn", True, (8.0, 4.0, 2.0, 0.5))
    assert [reach.kept(k) for k in (1, 2, 3)] == [1.0, 0.5, 0.125]


# -- steps -------------------------------------------------------------------------------------------------------------


def test_steps_have_as_many_tokens_then_one_sequence():
    settings = Settings(lengths=(16, 64, 512, 2048), tokens=1024)
    assert batches(settings) == [(64, 16), (16, 64), (2, 512), (1, 2048), (1, 16), (1, 64), (1, 512)]


def test_models_take_turns_and_the_first_run_is_not_counted(monkeypatch):
    clock, log = [0.0], []

    def work(name, seconds):
        def run():
            log.append(name)
            clock[0] += seconds + (100 if log.count(name) == 1 else 0)

        return run

    monkeypatch.setattr(steps.time, "perf_counter", lambda: clock[0])
    times = steps._take_turns([work("a", 1.0), work("b", 2.0), work("c", 4.0)], 3)
    assert times == [(1.0,) * 3, (2.0,) * 3, (4.0,) * 3]
    assert "".join(log) == "abcbcacababc"


def test_every_step_of_every_model_is_timed():
    settings = Settings(**QUICK, models=("gru", "gpt"))
    told = []
    found = time_steps(settings, settings.trainings(), lambda done, total: told.append((done, total)))
    assert [(s.model, s.batch, s.length) for s in found] == [
        (model, *size) for size in batches(settings) for model in ("gru", "gpt")
    ]
    assert all(len(s.rounds) == 2 and min(s.rounds) > 0 for s in found)
    assert told == [(i, 5) for i in range(6)]


def test_time_for_a_token_is_a_median():
    assert StepTime("gpt", 3, 4, (12.0, 120.0, 24.0)).per_token == 2.0


# -- curves ------------------------------------------------------------------------------------------------------------


def test_the_time_until_a_loss_lies_on_a_line_between_measurements():
    curve = Curve(1, 1, 1, 0.1, (1, 2, 3), (10.0, 20.0, 40.0), (6.0, 4.0, 3.0))
    assert [curve.seconds_until(loss) for loss in (7, 6, 5, 4, 3.25, 3, 2.9)] == [10, 10, 15, 20, 35, 40, None]


# -- all of it ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"Line {i} says that {i} times {i} is {i * i}.\n" for i in range(400)), encoding="utf-8")
    return path


def quiet():
    return Console(file=io.StringIO(), soft_wrap=True)


@pytest.fixture(scope="module")
def ran(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison") / "small"
    return experiment.run_comparison(Settings(**QUICK, data=str(text)), folder, quiet()), folder


def test_curves_are_those_of_the_runs(ran):
    found, folder = ran
    assert found.models == KINDS
    for kind, curve in found.curves.items():
        rows = read_metrics(folder / kind / "metrics.jsonl")
        own = [row["seconds"] for row in rows if "seconds" in row]
        assert curve.tokens == (128, 256)
        assert curve.losses == tuple(row["validation_loss"] for row in rows if "validation_loss" in row)
        assert curve.seconds[-1] == pytest.approx(np.median(own) + sum(own[1:]))
        assert curve.seconds[0] == pytest.approx(np.median(own) + sum(own[1:4]))
        assert curve.parameters == pytest.approx(found.curves["gpt"].parameters, rel=0.03)


def test_reaches_are_those_of_the_runs_before_and_after(ran):
    found, folder = ran
    assert [(r.model, r.trained) for r in found.reaches] == [(kind, t) for kind in KINDS for t in (False, True)]
    config = found.settings.trainings()["lstm"]
    untrained, trained = losses.before_and_after(folder / "lstm", config)
    ids = losses.held_out_sequences(folder / "lstm", 4, 16)
    assert ids.shape == (4, 17)
    assert found.reach("lstm", True).norms == measure_reach(trained, ids)
    assert found.reach("lstm", False).norms == measure_reach(untrained, ids)
    assert found.reach("lstm", True).norms != found.reach("lstm", False).norms


def test_held_out_sequences_are_spread_over_the_text(ran):
    _, folder = ran
    every = np.asarray(losses.RunFiles(folder / "gpt").load()[2].ids)
    ids = losses.held_out_sequences(folder / "gpt", 3, 5)
    np.testing.assert_array_equal(ids[0], every[:6])
    np.testing.assert_array_equal(ids[-1][:-1], every[-6:-1])
    assert len(losses.held_out_sequences(folder / "gpt", 10**9, 5)) == len(every) // 6


def test_nothing_is_trained_twice(ran, monkeypatch):
    found, folder = ran
    monkeypatch.setattr(losses, "pretrain", lambda *arguments, **options: pytest.fail("trained again"))
    again = experiment.run_comparison(found.settings, folder, quiet())
    assert (again.curves, again.reaches) == (found.curves, found.reaches)


def test_other_settings_need_another_folder(ran):
    found, folder = ran
    with pytest.raises(ValueError, match="a run with other settings; choose another --out, or remove it"):
        experiment.run_comparison(dataclasses.replace(found.settings, steps=12), folder, quiet())


def test_an_interrupted_training_ends_all_and_is_taken_up(text, tmp_path, monkeypatch):
    settings, kept = Settings(**QUICK, data=str(text), models=("gru", "rnn")), losses.pretrain
    for status in (130, 0):  # Ctrl-C, or a signal that asks for an orderly end
        monkeypatch.setattr(losses, "pretrain", lambda *arguments, status=status, **options: status)
        assert experiment.run_comparison(settings, tmp_path / "runs", quiet()) == status
    monkeypatch.setattr(losses, "pretrain", kept)
    console = quiet()
    found = experiment.run_comparison(settings, tmp_path / "runs", console)
    assert found.models == ("gru", "rnn")
    said = console.file.getvalue()
    assert "1 of 2: training gru" in said
    assert "2 of 2: training rnn" in said
    assert "gzip" not in said


def test_json_holds_everything(ran, tmp_path):
    found, _ = ran
    found.save(tmp_path / "x.json")
    assert Comparison.load(tmp_path / "x.json") == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.update(kind="other"), "not a comparison; tinygrad-llm compare writes one"),
        (lambda p: p.update(format=9), "format 9; this version reads format 1"),
        (lambda p: p.pop("curves"), r"a damaged comparison \(KeyError"),
        (lambda p: p["steps"][0].pop("rounds"), r"a damaged comparison \(TypeError"),
    ],
)
def test_files_that_are_no_comparison_are_refused(ran, tmp_path, change, message):
    found, _ = ran
    path = tmp_path / "x.json"
    found.save(path)
    plain = json.loads(path.read_text(encoding="utf-8"))
    change(plain)
    path.write_text(json.dumps(plain), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"x\.json: {message}"):
        Comparison.load(path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="it is not JSON"):
        Comparison.load(path)


def test_tables_tell_what_was_found(ran):
    found, _ = ran
    header, body = loss_cells(found)
    curve = found.curves["lstm"]
    assert body[1] == [
        *("LSTM", f"{curve.parameters:,}", "1", str(curve.channels), "256"),
        *(f"{curve.seconds[-1]:.1f}", f"{curve.losses[-1]:.3f}"),
    ]
    assert len(header) == len(body[0])
    header, body = step_cells(found)
    assert header == ["", "B=4 T=8", "B=2 T=16", "B=1 T=32", "B=1 T=8", "B=1 T=16"]
    assert float(body[2][3]) == pytest.approx(1e6 * found.step("gru", 1, 32).per_token, rel=0.01)
    header, body = reach_cells(found)
    assert header == ["", "", "k=4", "k=15"]
    assert [row[:2] for row in body[:3]] == [["GPT", "untrained"], ["", "trained"], ["LSTM", "untrained"]]
    assert float(body[7][3]) == pytest.approx(found.reach("rnn", True).kept(15), rel=0.06)
    stream = io.StringIO()
    Console(file=stream, width=150).print(tables(found))
    for part in ("loss at equal parameters", "microseconds a token", "GRU", "k=15", found.processor):
        assert part in stream.getvalue()


def test_the_lines_of_the_readme(ran):
    found, _ = ran
    loss, time, gradient = markdown(found).splitlines()
    ended = sorted((curve.losses[-1], NAMES[model], curve.seconds[-1]) for model, curve in found.curves.items())
    assert loss.endswith(": " + ", ".join(f"{name} {value:.2f} in {spent:.0f} s" for value, name, spent in ended) + ".")
    assert loss.startswith("- Held-out loss after 256 tokens, with 0.02 million parameters each: ")
    assert "from 8 to 32 tokens: GPT " in time
    shortest, longest = (float(number) for number in re.search(r"RNN (\S+) to (\S+) µs", time).groups())
    assert shortest == pytest.approx(1e6 * found.step("rnn", 1, 8).per_token, rel=0.01)
    assert longest == pytest.approx(1e6 * found.step("rnn", 1, 32).per_token, rel=0.01)
    assert gradient.startswith("- Gradient 15 tokens back")
    value = float(re.search(r"LSTM (\S+),", gradient)[1])
    assert value == pytest.approx(found.reach("lstm", True).kept(15), rel=0.5)


def test_a_busy_machine_is_told(ran):
    found, _ = ran
    assert "the machine was busy: we had 50% of the" in remarks(dataclasses.replace(found, had=0.5))[1]
    assert len(remarks(dataclasses.replace(found, had=1.0))) == 1


def test_the_picture_has_four_panels_and_names_every_line(ran, tmp_path):
    found, _ = ran
    figure = draw(found)
    assert len(figure.axes) == 4
    for axes, lines in zip(figure.axes, (4, 4, 8, 8), strict=True):
        assert sorted(text.get_text() for text in axes.texts) == sorted(NAMES.values())
        assert len(axes.lines) == lines
        assert axes.get_xlabel()
        assert axes.get_ylabel()
        for label in axes.texts:
            (kind,) = [kind for kind, name in NAMES.items() if name == label.get_text()]
            assert label.get_color() == OF_MODEL[kind]
    by_colour = {line.get_color(): line for line in figure.axes[0].lines}
    curve = found.curves["gru"]
    np.testing.assert_allclose(by_colour[OF_MODEL["gru"]].get_xdata(), np.array(curve.tokens) / 1000)
    np.testing.assert_allclose(by_colour[OF_MODEL["gru"]].get_ydata(), curve.losses)
    solid = [line for line in figure.axes[2].lines if line.get_linestyle() == "-"]
    expected = [1e6 * found.step("gpt", max(1, 32 // n), n).per_token for n in (8, 16, 32)]
    np.testing.assert_allclose(solid[0].get_ydata(), expected)
    trained = [line for line in figure.axes[3].lines if line.get_linestyle() == "-"]
    norms = np.array(found.reach("rnn", True).norms)
    np.testing.assert_allclose(trained[3].get_ydata(), norms[1:] / norms[1])
    plot(found, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_names_do_not_overlap(ran):
    found, _ = ran
    same = {kind: dataclasses.replace(curve, losses=(4.0,) * 2) for kind, curve in found.curves.items()}
    axes = draw(dataclasses.replace(found, curves=same)).axes[0]
    heights = sorted(label.xyann[1] for label in axes.texts)
    assert min(np.diff(heights)) > 13
    assert sum(heights) == pytest.approx(0, abs=1e-6)


def test_what_is_too_small_is_not_drawn(ran):
    found, _ = ran
    reaches = tuple(
        dataclasses.replace(r, norms=(1.0, 1.0, 1e-5, 1e-20, 0.0)) if r.model == "rnn" else r for r in found.reaches
    )
    axes = draw(dataclasses.replace(found, reaches=reaches)).axes[3]
    (drawn,) = [x for x in axes.lines if x.get_color() == OF_MODEL["rnn"] and x.get_linestyle() == "-"]
    np.testing.assert_array_equal(drawn.get_ydata(), [1, 1e-5, np.nan, np.nan])
    (label,) = [x for x in axes.texts if x.get_text() == "RNN"]
    assert label.xy == (2, 1e-5)
