"""A whole plan: whether it fits, which knob to turn, its text, its JSON and its picture."""

import json
from dataclasses import replace

import pytest

from tinygrad_llm.parallel.plan import advice, knobs, make_plan
from tinygrad_llm.parallel.plan_models import NAMED, gpt
from tinygrad_llm.parallel.plan_plot import draw, save_plot
from tinygrad_llm.parallel.plan_report import amount, count, duration, lines, shown
from tinygrad_llm.parallel.plan_setup import FLOAT32, Machine, Setup
from tinygrad_llm.parallel.plan_time import bubble, passes

MACHINE = Machine(140e12, 25e9, 80e9, tp_link=300e9)
GPT3 = make_plan(NAMED["gpt3-175b"], Setup(2048, dp=16, pp=8, tp=8, zero=1, microbatches=96, recompute="full"), MACHINE)
LLAMA = make_plan(NAMED["llama-7b"], Setup(2048, dp=8), replace(MACHINE, tp_link=0.0))


def test_what_follows_from_the_time_of_a_step():
    assert GPT3.step_tokens == 16 * 96 * 2048
    assert GPT3.tokens_per_second == pytest.approx(GPT3.step_tokens / GPT3.time.total)
    assert GPT3.days(300e9) == pytest.approx(300e9 / GPT3.tokens_per_second / 86400)
    done = NAMED["gpt3-175b"].step_operations(1536, 2048)
    assert GPT3.utilisation == pytest.approx(done / GPT3.time.total / 1024 / 140e12)
    assert 0.6 < GPT3.utilisation < 0.75 * 0.95  # a quarter is done again, and some of the time ranks wait


def test_the_fullest_rank_decides_whether_it_fits():
    assert GPT3.fullest.pp == 0
    assert GPT3.fits
    total = GPT3.fullest.total
    assert make_plan(GPT3.model, GPT3.setup, replace(MACHINE, memory=total)).fits
    assert not make_plan(GPT3.model, GPT3.setup, replace(MACHINE, memory=total - 1)).fits
    assert LLAMA.fullest.total == pytest.approx(16 * 6738415616 + LLAMA.fullest.activations)
    assert not LLAMA.fits


def test_knobs_keep_ranks_and_batch():
    for plan in (
        GPT3,
        LLAMA,
        make_plan(NAMED["gpt2"], Setup(1024, dp=4, batch_size=6, recompute="selective"), MACHINE),
        make_plan(NAMED["gpt2"], Setup(1024, dp=4, batch_size=5, recompute="full"), MACHINE),
        make_plan(NAMED["gpt2"], Setup(1024, dp=4, batch_size=9), MACHINE),
        make_plan(NAMED["gpt2"], Setup(1024, dp=4, batch_size=11), MACHINE),
    ):
        found = list(knobs(plan))
        assert len({text for text, _ in found}) == len(found)
        for text, other in found:
            assert (other.setup.ranks, other.setup.sequences) == (plan.setup.ranks, plan.setup.sequences), text
    texts = {text for text, _ in knobs(GPT3)}
    assert {"--zero 2", "--tp 16 --dp 8 --microbatches 192", "--schedule zb-h1"} <= texts
    assert {"--recompute none", "--recompute selective"} <= texts
    assert "--tp 64 --dp 2 --microbatches 768" not in texts  # 96 heads
    assert "--recompute full" not in texts
    alone = {text: other.setup.ranks for text, other in knobs(make_plan(NAMED["gpt2"], Setup(1024), MACHINE))}
    assert alone["--tp 2, with 2 ranks"] == 2
    assert not any("zero" in text for text in alone)
    for size, text in {6: "3 --microbatches 4", 5: "1 --microbatches 10", 9: "3 --microbatches 6", 11: "1 --m"}.items():
        batch = make_plan(NAMED["gpt2"], Setup(1024, batch_size=size, microbatches=2), MACHINE)
        assert [name for name, _ in knobs(batch) if name.startswith(f"--batch-size {text}")]


def test_advice():
    assert advice(GPT3) == "it fits; --recompute none would be 33 % faster"
    best = dict(knobs(LLAMA))["--tp 2 --dp 4 --microbatches 2"]
    gain = best.tokens_per_second / LLAMA.tokens_per_second - 1
    assert advice(LLAMA) == f"it does not fit; --tp 2 --dp 4 --microbatches 2 would: 63.4 GB, {100 * gain:.0f} % faster"
    alone = make_plan(NAMED["gpt2-xl"], Setup(1024, recompute="full", microbatches=8), replace(MACHINE, memory=1e12))
    fastest = max((other for _, other in knobs(alone)), key=lambda other: other.tokens_per_second)
    assert fastest.setup.ranks == 2, "with more ranks, which does not make each of them faster"
    assert advice(alone) == "it fits; --recompute none would be 32 % faster"
    more = make_plan(NAMED["gpt2-xl"], Setup(1024, microbatches=8), replace(MACHINE, memory=26e9))
    assert not more.fits
    assert advice(more).endswith("% slower for each rank")
    assert advice(make_plan(NAMED["gpt2"], Setup(1024), MACHINE)).startswith("it fits, and no single change")
    several = advice(make_plan(NAMED["gpt3-175b"], Setup(2048, dp=1024), MACHINE))
    assert several.startswith("it does not fit, mostly for its optimizer; --tp 8 --dp 128 --microbatches 8 then --pp 8")
    never = advice(make_plan(NAMED["gpt2"], Setup(1024), replace(MACHINE, memory=1e6)))
    assert "nor after any change of one knob after the other: more ranks (--tp, --pp, --dp with --zero 3)" in never


def test_the_text():
    text = "\n".join(lines(GPT3, 300e9))
    for part in (
        "model       gpt3-175b, L=96 C=12288 H=96 F=49152 V=51200: 174.6 billion parameters",
        "dp 16 x pp 8 x tp 8 = 1024 ranks; zero 1, 1f1b, recompute full, mixed precision, sequence parallel",
        "96 microbatches of 1 on each of 16: 1536 sequences of 2048, 3.146 million tokens",
        "machine     140 TFLOP/s, 80 GB, 25 GB/s between ranks and 300 GB/s within tp",
        "pp rank 7, 12 layers",
        "dp  reduce_scatter  gradients                          1 x 5.6 GB    5.25 GB",
        "tp  all_gather      inputs, for backward           2400 x 50.3 MB     106 GB",
        f"bubble {100 * 7 / 96:.1f} % of the ideal time",
        "matrix products                   32 s   85.7 %",
        "days for 300 billion tokens",
        "(every rank is as slow as the slowest;",
        "memory      18.8 GB of 80 GB on the fullest rank: it fits",
    ):
        assert part in text
    assert max(map(len, text.splitlines())) < 180
    alone = "\n".join(lines(make_plan(NAMED["gpt2"], Setup(1024), MACHINE)))
    for part in ("each, 12 layers", "nothing, there is no other", "no bubble", "1 microbatch of 1 on"):
        assert part in alone
    assert "days" not in alone
    assert "within tp" not in alone


def test_our_own_zero_3_computes_layers_again_whatever_is_asked_for():
    own = make_plan(NAMED["gpt2"], Setup(1024, dp=4, zero=3, precision=FLOAT32), MACHINE)
    assert "zero 3, 1f1b, recompute full, float32 precision" in "\n".join(lines(own))
    assert not any("recompute" in text for text, _ in knobs(own))


def test_the_bubble_that_is_shown_is_the_time_of_waiting():
    setup = Setup(2048, pp=8, tp=8, microbatches=32, schedule="zb-h1", recompute="full")
    plan = make_plan(NAMED["gpt3-175b"], setup, MACHINE)
    durations = plan.time.products + plan.time.tp
    shown = next(line for line in lines(plan) if line.startswith("time of a step"))
    assert f"bubble {100 * plan.time.bubble / durations:.1f} % of the ideal time" in shown
    alone = passes(plan.model, setup, MACHINE, 7)
    assert f"bubble {100 * bubble(setup, alone):.1f} %" not in shown, "without tp, and without the slowest of each pass"


def test_a_long_pipeline_is_shown_in_part():
    plan = make_plan(NAMED["megatron-1t"], Setup(2048, pp=64, microbatches=64), MACHINE)
    assert [rank.pp for rank in shown(plan)] == [0, 1, 63]
    assert [rank.pp for rank in shown(GPT3)] == list(range(8))


def test_json_has_all_numbers():
    found = json.loads(json.dumps(GPT3.plain(300e9)))
    assert found["fits"] is True
    assert found["days"] == GPT3.days(300e9)
    assert found["memory"][0]["total"] == GPT3.fullest.total
    assert found["seconds"]["total"] == GPT3.time.total
    assert sum(part["sent"] for part in found["traffic"]) == sum(part.sent for part in GPT3.traffic)
    assert found["setup"]["ranks"] == 1024
    assert found["setup"]["precision"]["name"] == "mixed"
    assert "days" not in GPT3.plain()


def test_bars_are_the_bytes(tmp_path):
    figure = draw(GPT3)
    first, second = figure.axes
    assert len(first.patches) == 8 * 5
    assert sum(bar.get_width() for bar in first.patches[:5]) == pytest.approx(GPT3.memory[0].total / 1e9)
    assert [label.get_text() for label in second.get_yticklabels()] == [text for text, _ in knobs(GPT3)]
    assert "127 GB, too much" in [text.get_text() for text in draw(LLAMA).axes[0].texts]
    save_plot(make_plan(gpt("", 1, 8, 1), Setup(16), MACHINE), tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_numbers_are_short():
    assert [amount(x, "B") for x in (0, 5, 999, 1000, 31.41e9, 999.6e6, 1e21)] == [
        *("0 B", "5 B", "999 B", "1 kB", "31.4 GB", "1 GB", "1e+03 EB"),
    ]
    assert [count(x) for x in (12, 9999, 124439808, 174.6e9, 1.008e12)] == [
        *("12", "9,999", "124.4 million", "174.6 billion", "1.008 trillion"),
    ]
    assert [duration(x) for x in (37.4, 0.0283, 5e-6, 0, 1e-9)] == ["37.4 s", "28.3 ms", "5 µs", "0", "0.001 µs"]


def test_the_fullest_rank_is_not_always_the_one_with_most_parameters():
    plan = make_plan(gpt("", 4, 8, 1), Setup(512, pp=2, microbatches=8, schedule="gpipe"), MACHINE)
    assert plan.memory[0].count > plan.memory[1].count
    assert plan.fullest.pp == 1  # it has the logits of all microbatches
