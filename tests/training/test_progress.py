"""What is shown while training."""

import io

import pytest
from rich.console import Console

from tinygrad_llm.training import progress as shown
from tinygrad_llm.training.metrics import Metrics, past_losses, smooth


@pytest.fixture
def lines(monkeypatch):
    """Takes (losses before, first step, [(loss, tokens, seconds)]); gives a line for each step."""
    monkeypatch.setattr(shown, "LINE_SECONDS", 0.0)

    def told(losses, start, steps):
        console = Console(file=io.StringIO(), width=200)
        with shown.Progress(console, start, start + len(steps), losses) as progress:
            for number, (loss, tokens, seconds) in enumerate(steps):
                progress.step(start + 1 + number, loss, tokens, seconds)
        return console.file.getvalue().splitlines()

    return told


def test_the_rate_counts_from_after_the_first_step(lines):
    assert lines((), 0, [(5.0, 1000, 50.0), (5.0, 1000, 0.5), (5.0, 1000, 1.5)]) == [
        "step 1/3  loss 5.000  validation -",
        "step 2/3  loss 5.000  validation -  2,000 tokens/s",
        "step 3/3  loss 5.000  validation -  1,000 tokens/s",
    ]


def test_the_loss_is_smoothed_over_the_steps_before_those_of_this_process(lines):
    before = [6.0 - 0.01 * i for i in range(150)]
    (line,) = lines(before, 150, [(9.0, 1000, 1.0)])
    assert line == f"step 151/151  loss {smooth((*before[-99:], 9.0))[-1]:.3f}  validation -"
    assert "loss 9" not in line


def test_past_losses_are_those_up_to_the_step_that_is_resumed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert past_losses(path, 9) == []
    metrics = Metrics(path)
    for step in (1, 2, 3):
        metrics.write(step=step, loss=float(step))
        metrics.write(step=step, validation_loss=9.0)
    metrics.close()
    assert past_losses(path, 2) == [1.0, 2.0]


def test_a_resumed_run_hands_its_losses_on(tmp_path, monkeypatch):
    from tinygrad_llm.training import TrainConfig, pretrain, running

    text = tmp_path / "text.txt"
    text.write_text("".join(f"line {i} of a text\n" for i in range(300)), encoding="utf-8")
    given = []
    real = shown.Progress
    monkeypatch.setattr(running, "Progress", lambda *arguments: given.append(arguments[3]) or real(*arguments))
    sizes = {"context": 8, "batch_size": 2, "vocab_size": 270, "layers": 1, "channels": 8, "heads": 2, "warmup": 1}
    console = Console(file=io.StringIO())
    for steps, resume in ((3, False), (4, True)):
        config = TrainConfig(data=str(text), steps=steps, **sizes)
        assert pretrain(config, tmp_path / "run", resume, console, {"steps"}) == 0
    assert [len(losses) for losses in given] == [0, 3]


def test_without_a_terminal_counted_work_is_a_line_now_and_then(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(shown.time, "monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), width=200)
    with shown.counting(console, "baking") as progress:
        for seconds, done, total in (
            (9, 1000, 5000),
            (1, 2000, 5000),
            (9, 2500, 5000),
            (1, 3000, None),
            (10, 0, None),
            (10, 5000, 5000),
        ):
            now[0] += seconds
            progress(done, total)
    assert console.file.getvalue().splitlines() == [
        "baking ...",
        "baking: 2,000 of 5,000",
        "baking: 3,000",
        "baking ...",
    ]
