"""Whole runs: they resume bit for bit after any kill, survive damage, and refuse what does not fit."""

import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from rich.console import Console

from tinygrad_llm.generation import generate_text
from tinygrad_llm.models import Llama
from tinygrad_llm.training import TrainConfig, checkpoints, evaluate_text, load_run, loop, pretrain
from tinygrad_llm.training.metrics import read_metrics
from tinygrad_llm.weights.safetensors_file import open_safetensors

SMALL = {
    "steps": 12,
    "batch_size": 2,
    "context": 16,
    "vocab_size": 280,
    "layers": 1,
    "channels": 8,
    "heads": 2,
    "dropout": 0.1,
    "checkpoint_every": 3,
    "validate_every": 5,
    "sample_every": 6,
    "warmup": 2,
}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    lines = [f"Line {i} says that {i} times {i} is {i * i}.\n" for i in range(300)]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def quiet():
    return Console(file=io.StringIO(), soft_wrap=True)


def train(text, run, resume=False, **changes):
    return pretrain(TrainConfig(data=str(text), **(SMALL | changes)), run, resume, quiet())


def digest(run):
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def reference(text, tmp_path_factory):
    """A run that was never interrupted."""
    run = tmp_path_factory.mktemp("runs") / "reference"
    assert train(text, run) == 0
    return run


def test_a_run_leaves_everything(reference):
    names = {path.name for path in reference.iterdir()}
    assert {"config.toml", "tokenizer.json", "model.safetensors", "metrics.jsonl", "loss.png", "sample.txt"} <= names
    assert sorted(p.name for p in (reference / "checkpoints").iterdir()) == ["step-00000009", "step-00000012"]
    rows = read_metrics(reference / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 13))
    assert [row["step"] for row in rows if "validation_loss" in row] == [5, 10, 12]
    assert [row["step"] for row in rows if "sample" in row] == [6, 12]
    model, tokenizer = load_run(reference)
    assert model.config.vocab_size == tokenizer.vocab_size
    # this measures all of the held-out text, the last row in the metrics its first 16,384 tokens: here the same
    (last,) = (row["validation_loss"] for row in rows if "validation_loss" in row and row["step"] == 12)
    assert evaluate_text(reference, model, tokenizer, "", quiet())["loss"] == pytest.approx(last, rel=1e-5)


def test_a_llama_is_trained_and_resumed(text, tmp_path):
    train(text, tmp_path / "whole", model="llama", dropout=0.0)
    model, _ = load_run(tmp_path / "whole")
    assert type(model) is Llama
    train(text, tmp_path / "whole", resume=True, model="llama", dropout=0.0, steps=14)
    train(text, tmp_path / "again", model="llama", dropout=0.0)
    train(text, tmp_path / "again", resume=True, model="llama", dropout=0.0, steps=14)
    assert digest(tmp_path / "again") == digest(tmp_path / "whole")
    assert json.loads((tmp_path / "whole/config.json").read_text())["model_type"] == "llama"


@pytest.mark.parametrize("model", ["rnn", "lstm", "gru"])
def test_what_came_before_is_trained_and_goes_on_with_a_text(model, text, tmp_path):
    train(text, tmp_path, model=model, heads=0)
    found, tokenizer = load_run(tmp_path)
    assert found.config.kind == model
    assert generate_text(found, tokenizer, ["a"], 5)[0] != ""
    assert json.loads((tmp_path / "report.json").read_text())["model"]["tokens"] > 0


def test_the_same_settings_give_the_same_bytes_and_another_seed_others(text, reference, tmp_path):
    train(text, tmp_path / "same")
    train(text, tmp_path / "other", seed=1)
    assert digest(tmp_path / "same") == digest(reference)
    assert digest(tmp_path / "other") != digest(reference)


COMMAND = [sys.executable, "-m", "tinygrad_llm", "train"]


def arguments(text, run, **changes):
    settings = SMALL | changes
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    return [*COMMAND, "--data", str(text), "--out", str(run), "--resume", *flags]


LONG = {"steps": 60, "batch_size": 64, "checkpoint_every": 7, "validate_every": 20, "sample_every": 30}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(text, tmp_path):
    run, moments = tmp_path / "killed", random.Random(0)
    train(text, tmp_path / "whole", **LONG)
    reached = []
    while len(reached) < 6:
        process = subprocess.Popen(arguments(text, run, **LONG), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        wanted = moments.randrange(2, 9) + (reached[-1] if reached else 0)
        while process.poll() is None and steps_done(run) < wanted:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.05))
        process.kill()
        _, error = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), error
        reached.append(steps_done(run))
    assert len(set(reached)) >= 4, f"killed after steps {reached}"
    assert reached[0] < 60
    subprocess.run(arguments(text, run, **LONG), check=True, stdout=subprocess.DEVNULL)
    assert digest(run) == digest(tmp_path / "whole")
    steps = [row["step"] for row in read_metrics(run / "metrics.jsonl") if "loss" in row]
    assert steps == list(range(1, 61))


def steps_done(run):
    """The last step in the metrics of a run that may be under way."""
    file = run / "metrics.jsonl"
    return max((row["step"] for row in read_metrics(file)), default=0) if file.exists() else 0


@pytest.mark.parametrize("where", ["save_arrays", "sync", "publish", "plot_loss", "write_samples"])
def test_a_run_that_ends_inside_any_write_is_finished_by_the_next(text, reference, tmp_path, monkeypatch, where):
    module = loop if where in ("plot_loss", "write_samples") else checkpoints
    real, calls = getattr(module, where), []

    def dies(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise SystemExit("killed")
        return real(*arguments)

    monkeypatch.setattr(module, where, dies)
    with pytest.raises(SystemExit):
        train(text, tmp_path / "run")
    monkeypatch.setattr(module, where, real)
    assert train(text, tmp_path / "run", resume=True) == 0
    assert digest(tmp_path / "run") == digest(reference)
    assert (tmp_path / "run" / "sample.txt").read_text() == (reference / "sample.txt").read_text()
    assert (tmp_path / "run" / "loss.png").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows delivers Ctrl-C to the whole console")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_an_interrupted_run_finishes_its_step_saves_and_says_how_to_go_on(text, tmp_path, number, status):
    run = tmp_path / "stopped"
    command = arguments(text, run, steps=100_000, checkpoint_every=0, validate_every=0, sample_every=0)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for _ in range(300):
        time.sleep(0.1)
        assert process.poll() is None
        if (run / "metrics.jsonl").exists() and len(read_metrics(run / "metrics.jsonl")) > 2:
            break
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == status
    assert f"tinygrad-llm train --resume --out {run}" in output
    (checkpoint,) = (run / "checkpoints").iterdir()
    last = max(row["step"] for row in read_metrics(run / "metrics.jsonl"))
    assert checkpoint.name == f"step-{last:08d}"


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete", "state", "edit"])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_used(text, reference, tmp_path, damage, capsys):
    run = tmp_path / "damaged"
    shutil.copytree(reference, run)
    folder = run / "checkpoints" / "step-00000012"
    file = folder / ("state.json" if damage == "state" else "model.safetensors")
    content = file.read_bytes()
    if damage == "delete":
        file.unlink()
    elif damage == "flip":
        file.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    elif damage == "edit":
        (folder / "state.json").write_text((folder / "state.json").read_text().replace('"step": 12', '"step": 11'))
    else:
        file.write_bytes(content[: len(content) // 2])
    assert pretrain(TrainConfig(data=str(text), **SMALL), run, True, Console(soft_wrap=True)) == 0
    output = capsys.readouterr().out
    assert "warning: the checkpoint step-00000012 is damaged and was not used" in output
    assert "continued after step 9" in output
    assert digest(run) == digest(reference)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["step-00000009", "step-00000012"]


def test_what_others_leave_among_the_checkpoints_does_no_harm(text, reference, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    (run / "checkpoints" / ".DS_Store").write_bytes(b"")
    shutil.copytree(run / "checkpoints" / "step-00000009", run / "checkpoints" / "step-backup")
    assert train(text, run, resume=True, steps=14) == 0
    assert read_metrics(run / "metrics.jsonl")[-1]["step"] == 14


def test_fewer_steps_than_are_done_are_refused(text, reference):
    with pytest.raises(ValueError, match="12 steps are done already; --steps 5 would be fewer"):
        train(text, reference, resume=True, steps=5)


def test_a_gradient_that_is_not_finite_does_not_reach_the_weights(text, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(FloatingPointError, match=r"step .*--learning-rate"):
        train(text, run, learning_rate=1e30, optimizer="sgd", checkpoint_every=1, clip=0.0, steps=30)
    for file in run.glob("checkpoints/*/model.safetensors"):
        assert all(np.isfinite(tensor.read()).all() for tensor in open_safetensors(file).values())


def test_when_all_checkpoints_are_damaged_nothing_is_overwritten(text, reference, tmp_path):
    run = tmp_path / "damaged"
    shutil.copytree(reference, run)
    for file in run.glob("checkpoints/*/optimizer.safetensors"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="none of its 2 checkpoints can be read"):
        train(text, run, resume=True)
    assert digest(run) == digest(reference)


def test_a_second_process_in_the_same_folder_is_refused(text, reference):
    from filelock import FileLock

    with FileLock(reference / ".lock"), pytest.raises(ValueError, match="another process is training"):
        train(text, reference, resume=True)


def test_folders_that_hold_something_are_not_overwritten(text, reference, tmp_path):
    with pytest.raises(ValueError, match="there is a run already; continue it with --resume"):
        train(text, reference)
    with pytest.raises(ValueError, match="other settings: --seed is 0, not 5"):
        train(text, reference, resume=True, seed=5)
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="not empty and holds no run"):
        train(text, tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        train(text, tmp_path / "notes.txt")


def test_a_tokenizer_that_was_exchanged_is_noticed(text, reference, tmp_path):
    run = tmp_path / "copy"
    shutil.copytree(reference, run)
    train(text, tmp_path / "other", vocab_size=270)
    train(text, tmp_path / "same_size", pattern="gpt2")
    before = (run / "training.tokens").read_bytes()
    for other in ("other", "same_size"):
        shutil.copy(tmp_path / other / "tokenizer.json", run / "tokenizer.json")
        with pytest.raises(ValueError, match="do not belong together"):
            load_run(run)
        with pytest.raises(ValueError, match="is not the tokenizer that the run's checkpoints were trained with"):
            train(text, run, resume=True)
    assert (run / "training.tokens").read_bytes() == before


def test_a_text_that_was_exchanged_is_noticed(reference, tmp_path):
    run, changed = tmp_path / "copy", tmp_path / "changed.txt"
    shutil.copytree(reference, run)
    (run / "training.tokens").unlink()
    changed.write_text("Another text altogether.\n" * 300, encoding="utf-8")
    config = (run / "config.toml").read_text(encoding="utf-8").splitlines()
    config = [f"data = {json.dumps(str(changed))}" if line.startswith("data = ") else line for line in config]
    (run / "config.toml").write_text("\n".join(config), encoding="utf-8")
    with pytest.raises(ValueError, match="its text is not the one"):
        pretrain(TrainConfig(), run, True, quiet())


def test_a_text_of_a_few_lines_is_enough(tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("one\ntwo words\nthree words here\n", encoding="utf-8")
    assert train(short, tmp_path / "run", vocab_size=2048) == 0


def test_runs_that_cannot_be_loaded_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder or file"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"config.json missing; is this a folder that tinygrad-llm train wrote"):
        load_run(tmp_path)


def test_leftovers_of_a_kill_are_cleared_and_lost_token_files_made_again(text, reference, tmp_path):
    run = tmp_path / "copy"
    shutil.copytree(reference, run)
    (run / ".config.toml.123.tmp").write_bytes(b"half")
    (run / "training.tokens").write_bytes((run / "training.tokens").read_bytes()[:-10])
    shutil.rmtree(run / "checkpoints" / "step-00000012")
    assert train(text, run, resume=True) == 0
    assert digest(run) == digest(reference)
    assert not list(run.glob(".*.tmp"))
    (run / "validation.tokens").unlink()
    assert train(text, run, resume=True) == 0
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    (fresh / ".config.toml.123.tmp").write_bytes(b"half")
    assert train(text, fresh) == 0


@pytest.mark.parametrize(("model", "kind", "prompt"), [("bert", "Bert", "the [MASK] of"), ("t5", "T5", "the <1> of")])
def test_other_architectures_are_trained_and_shown_too(model, kind, prompt, text, tmp_path, capsys):
    pretrain(TrainConfig(data=str(text), **(SMALL | {"model": model})), tmp_path, False, Console(soft_wrap=True))
    out = capsys.readouterr().out
    assert f"model       {kind}, " in out
    assert "sample\n" in out
    assert f'--prompt "Return {prompt}' in out
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if "validation_loss" in row] == [5, 10, 12]
    with pytest.raises(ValueError, match=f"holds a {kind}, which is not made to go on with a text"):
        load_run(tmp_path)
