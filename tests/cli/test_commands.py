"""The commands as a user gives them: results, exit statuses, and one clear line for each mistake."""

import errno
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tinygrad_llm.training.checkpoints as checkpoints
from tinygrad_llm import threads
from tinygrad_llm.cli import arguments
from tinygrad_llm.cli.main import app, main
from tinygrad_llm.threads import set_threads, thread_count
from tinygrad_llm.training import runs

SMALL = (
    *("--steps=6", "--batch-size=2", "--context=16", "--vocab-size=280"),
    *("--layers=1", "--channels=8", "--heads=2", "--warmup=1"),
)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"def f{i}(x):\n    return x * {i}\n\n" for i in range(200)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", "--data", str(text), "--out", str(folder), *SMALL]) == 0
    return folder


def call(capsys, *arguments):
    """(status, standard output, standard error)"""
    status = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_training_reports_what_it_did(text, tmp_path, capsys):
    status, output, _ = call(capsys, "train", "--data", text, "--out", tmp_path / "run", *SMALL)
    assert status == 0
    for line in ("tokenizer   280 tokens", "held out ", "gzip -9", "a bigram model", "sample", "wrote ", "next "):
        assert line in output


def test_runs_without_a_name_are_numbered(text, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("run", "run-2"):
        assert call(capsys, "train", "--data", text, *SMALL)[0] == 0
        assert (tmp_path / name / "model.safetensors").is_file()


def test_files_that_are_skipped_are_counted(text, tmp_path, capsys):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_bytes(text.read_bytes())
    (folder / "b.png").write_bytes(b"\x89PNG\x00" * 9)
    (folder / "c.txt").write_bytes("caf\xe9".encode("latin-1") * 9)
    _, output, _ = call(capsys, "train", "--data", folder, "--out", tmp_path / "run", *SMALL)
    assert f"skipped     files of {folder}: 2 binary" in output


def test_resuming_nothing_is_refused_unless_it_says_what_to_begin(text, tmp_path, capsys):
    status, _, error = call(capsys, "train", "--resume", "--out", tmp_path / "typo")
    assert status == 1
    assert "there is no run to resume" in error
    assert not (tmp_path / "typo").exists()
    assert call(capsys, "train", "--resume", "--data", text, "--out", tmp_path / "new", *SMALL)[0] == 0


def test_generate_is_the_same_twice_and_without_the_cache(run, capsys):
    arguments = ["generate", run, "--prompt", "def ", "--max-tokens", "40", "--seed", "1"]
    _, first, _ = call(capsys, *arguments)
    assert first.startswith("def ")
    assert len(first) > len("def \n")
    assert call(capsys, *arguments)[1] == first
    assert call(capsys, *arguments, "--no-cache")[1] == first
    assert call(capsys, *arguments[:-1], "2")[1] != first


def test_generate_takes_several_prompts_and_stops(run, capsys):
    _, output, _ = call(capsys, "generate", run, "--prompt", "def ", "--prompt", "return", "--max-tokens", "5")
    assert "--- 0 ---\ndef " in output
    assert "--- 1 ---\nreturn" in output
    every = [f"--stop={c}" for c in map(chr, range(1, 128)) if c not in "\x1b"]
    assert call(capsys, "generate", run, "--prompt", "def", "--temperature", "0", *every)[0] == 0


def test_eval_measures_the_held_out_text_or_another(run, text, capsys):
    status, output, _ = call(capsys, "eval", run)
    assert status == 0
    held_out = dict(line.split() for line in output.replace(",", "").splitlines())
    assert held_out.keys() == {"loss", "perplexity", "bits_per_byte", "tokens", "bytes"}
    other = dict(line.split() for line in call(capsys, "eval", run, "--data", text)[1].replace(",", "").splitlines())
    assert int(other["bytes"]) == len(text.read_bytes())


def test_eval_tells_what_fewer_bits_cost(run, capsys, monkeypatch):
    rounded = []
    real = runs.quantize

    def spy(model, kind, progress):
        rounded.append(kind)
        real(model, kind, progress)

    monkeypatch.setattr(runs, "quantize", spy)
    losses = {}
    for weights in ("float32", "int8", "int4"):
        status, output, _ = call(capsys, "eval", run, "--weights", weights)
        assert status == 0
        losses[weights] = float(output.split()[1])
    assert rounded == ["int8", "int4"]
    assert losses["int8"] == pytest.approx(losses["float32"], rel=0.01)
    assert losses["int4"] == pytest.approx(losses["float32"], rel=0.05)
    assert call(capsys, "eval", run, "--weights", "int2")[0] == 2


def test_one_option_governs_the_threads_of_every_computation(run, capsys, monkeypatch):
    monkeypatch.setattr(arguments, "allowed_processors", lambda: range(999))
    before = thread_count()
    try:
        for command in (("generate", run, "--max-tokens=1"), ("eval", run), ("ladder", "relu", "--shape=4")):
            assert call(capsys, *command, "--threads", before + 1)[0] == 0
            assert thread_count() == before + 1
            set_threads(before)
        monkeypatch.setattr(threads, "_threads", None)
        monkeypatch.setenv("TINYGRAD_LLM_THREADS", "many")
        status, _, error = call(capsys, "eval", run)
        assert status == 1
        assert "TINYGRAD_LLM_THREADS='many'" in error
    finally:
        set_threads(before)


def test_help_of_each_command_ends_with_an_example(capsys):
    for command in (
        ["train"],
        ["generate"],
        ["eval"],
    ):
        end = call(capsys, *command, "--help")[1].rpartition("╯")[2]
        assert " ".join(end.split()).startswith(f"Example: tinygrad-llm {' '.join(command)}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], 'Unknown command "trian". Did you mean "train"'),
        (["train", "--step", "5"], "Unknown option: --step"),
        (["train", "--steps", "many"], 'unable to convert "many" into int'),
        (["train", "--steps", "0"], "--steps 0: must be at least 1"),
        (["train", "--heads", "5"], "not a multiple of heads=5"),
        (["train", "--schedule", "sine"], "sine"),
        (["train", "--vocab-size", "10"], "--vocab-size 10"),
        (["train", "--pattern", "(("], "--pattern"),
        (["generate"], "model"),
        (["generate", "run", "--temperature", "-1"], "temperature=-1.0 must not be negative"),
        (["generate", "run", "--max-tokens", "-1"], "--max-tokens"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status, output, error = call(capsys, *arguments)
    assert (status, output) == (2, "")
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing may be left behind"


def failing_inputs(folder):
    (folder / "empty.txt").write_bytes(b"")
    (folder / "blank.txt").write_text(" \n\n", encoding="utf-8")
    (folder / "binary").write_bytes(b"\x89PNG\r\n\x00\x01" * 50)
    (folder / "latin.txt").write_bytes("caf\xe9 ".encode("latin-1") * 50)
    (folder / "hollow").mkdir()
    return {
        "missing.txt": "no such",
        "empty.txt": "empty",
        "blank.txt": "",
        "binary": "binary",
        "latin.txt": "UTF-8",
        "hollow": "no text",
    }


def test_texts_that_cannot_be_used_are_one_line_and_status_1(tmp_path, capsys):
    for name, message in failing_inputs(tmp_path).items():
        status, _, error = call(capsys, "train", "--data", tmp_path / name, "--out", tmp_path / "run", *SMALL)
        assert status == 1, name
        assert message in error, error
        assert error.count("\n") == 1
        assert name in error or name == "blank.txt"


def test_a_draft_changes_nothing_at_temperature_0(run, capsys):
    arguments = ["generate", str(run), "--prompt", "a", "--max-tokens", "12", "--temperature", "0"]
    _, alone, _ = call(capsys, *arguments)
    status, drafted, _ = call(capsys, *arguments, "--draft", str(run))
    assert status == 0
    assert drafted == alone
    status, _, error = call(capsys, *arguments, "--draft", str(run), "--prompt", "b")
    assert status == 1
    assert "a draft runs ahead of one prompt, not of 2" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "nowhere"], "nowhere: no such folder"),
        (["generate", "."], "config.json missing; is this a folder"),
        (["generate", "{run}/config.toml"], "config.toml: a file that holds no model; a model is"),
        (["eval", "nowhere"], "nowhere: no such folder"),
        (["generate", "{run}", "--prompt", "x y z " * 40], "the model's context is 16"),
        (["train", "--out", "{run}"], "there is a run already"),
        (["train", "--out", "{run}", "--resume", "--seed", "9"], "--seed is 0, not 9"),
    ],
)
def test_failures_are_one_line_and_status_1(arguments, message, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status, _, error = call(capsys, *(a.replace("{run}", str(run)) for a in arguments))
    assert status == 1
    assert message in error
    assert error.count("\n") == 1


def test_a_run_of_another_version_is_refused(run, text, tmp_path, capsys):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    config = copy / "config.toml"
    config.write_text(config.read_text(encoding="utf-8").replace("format = 1", "format = 7"), encoding="utf-8")
    status, _, error = call(capsys, "train", "--out", copy, "--resume")
    assert status == 1
    assert "a run of format 7" in error


def test_a_full_disk_loses_nothing_and_says_so(text, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    arguments = ["train", "--data", str(text), "--out", str(folder), *SMALL, "--checkpoint-every", "2"]
    real = checkpoints.save_arrays

    def full(path, arrays, about):
        if "step-00000004" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, arrays, about)

    monkeypatch.setattr(checkpoints, "save_arrays", full)
    status, _, error = call(capsys, *arguments)
    assert status == 1
    assert "No space left on device" in error
    assert "optimizer.safetensors" in error
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-00000002"]
    monkeypatch.setattr(checkpoints, "save_arrays", real)
    status, output, _ = call(capsys, *arguments, "--resume")
    assert status == 0
    assert "continued after step 2" in output


def test_a_text_that_is_not_there_is_told_before_any_measuring(run, capsys):
    status, output, error = call(capsys, "eval", run, "--data", "nope")
    assert (status, output) == (1, "")
    assert error == "tinygrad-llm: error: nope: no such file or folder\n"


def test_an_unknown_command_is_answered_with_all_there_are(capsys):
    status, _, error = call(capsys, "foo")
    assert status == 2
    before, names = error.rstrip(".\n").split(" Available commands: ")
    assert before == 'tinygrad-llm: error: Unknown command "foo".'
    assert set(names.split(", ")) == {name for name in app if not name.startswith("-")} > {"train", "chat", "why"}


def test_the_help_shows_no_empty_defaults(capsys):
    for command in ("train", "generate", "eval", "derive", "bench", "why", "explore", "ladder"):
        _, output, _ = call(capsys, command, "--help")
        assert "default: (" not in output
        assert "--empty" not in output
        assert "default: '" not in output


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="this user may write everywhere")
def test_a_read_only_folder_is_refused(text, tmp_path, capsys):
    tmp_path.chmod(0o500)
    status, _, error = call(capsys, "train", "--data", text, "--out", tmp_path / "run", *SMALL)
    tmp_path.chmod(0o700)
    assert status == 1
    assert "Permission denied" in error


def test_a_reader_that_goes_away_is_no_traceback(run):
    command = [sys.executable, "-m", "tinygrad_llm", "generate", str(run), "--max-tokens", "400"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    error = process.stderr.read().decode()
    process.stderr.close()
    process.wait()
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("command", "backend", "no_compiler", "message"),
    [
        (["tokenizer", "show", "run"], "nonsense", "0", "='nonsense': expected one of auto, numpy, numba"),
        (["train"], "nonsense", "0", "='nonsense': expected one of auto, numpy, numba"),
        (["train"], "numba", "1", ": 'numba' cannot be had here:"),
    ],
)
def test_a_backend_that_there_is_not_is_one_line(command, backend, no_compiler, message, tmp_path):
    environment = os.environ | {"TINYGRAD_LLM_BACKEND": backend, "NUMBA_DISABLE_JIT": no_compiler}
    command = [sys.executable, "-m", "tinygrad_llm", *command]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"tinygrad-llm: error: TINYGRAD_LLM_BACKEND{message}")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_more_threads_than_processors_are_not_used(run, capsys, monkeypatch):
    monkeypatch.setattr(arguments, "allowed_processors", lambda: [4, 7])
    before = thread_count()
    warning = "warning: {} threads would wait for each other, as this process may use 2 processors: no more are used\n"
    try:
        for given, said in ((["--threads", 2], ""), (["--threads", 3], warning.format(3)), ([], warning.format(5))):
            set_threads(5)
            status, _, error = call(capsys, "generate", run, "--max-tokens", 1, *given)
            assert (status, error, thread_count()) == (0, said, 2)
    finally:
        set_threads(before)


@pytest.mark.parametrize("given", ["0", "-1", "two", "1.5", "2.0"])
def test_a_number_of_threads_that_cannot_be(run, capsys, monkeypatch, given):
    status, _, error = call(capsys, "generate", run, f"--threads={given}")
    assert status == 2
    assert "--threads" in error
    assert error.count("\n") == 1
    monkeypatch.setattr(threads, "_threads", None)
    monkeypatch.setenv("TINYGRAD_LLM_THREADS", given)
    status, _, error = call(capsys, "generate", run)
    assert status == 1
    assert f"TINYGRAD_LLM_THREADS='{given}': expected a whole number of at least 1\n" in error


INTERRUPTED = """
import sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
from {home} import {function}
sys.argv[1:] = ["tokenizer", "show", "text"]
sys.exit({function}())
"""


@pytest.mark.parametrize("module", ["cyclopts", "tinygrad_llm.study", "tinygrad_llm.tokenizer", "tinygrad_llm.kernels"])
def test_an_interrupt_while_the_commands_are_imported_is_status_130(module):
    """Of the command as it is installed: the entry point that pyproject.toml names."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    home, _, function = project["scripts"]["tinygrad-llm"].partition(":")
    code = INTERRUPTED.format(module=module, home=home, function=function)
    environment = os.environ | {"TINYGRAD_LLM_BACKEND": "numba"}  # the kernels are loaded by the command itself
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_importing_is_light():
    heavy = ["numba", "matplotlib", "rich", "regex", "cyclopts"]
    code = f"import sys, tinygrad_llm; print([m for m in {heavy} if m in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
