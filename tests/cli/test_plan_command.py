"""``tinygrad-llm plan`` as a user gives it."""

import json

import pytest

from tinygrad_llm.cli.main import main
from tinygrad_llm.cli.plan import parse_quantity


def call(capsys, *arguments):
    status = main(["plan", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_named_model(capsys):
    options = "gpt3-175b --dp 16 --pp 8 --tp 8 --microbatches 96 --zero 1 --recompute full --tokens 300e9"
    status, output, error = call(capsys, *options.split())
    assert (status, error) == (0, "")
    for part in (
        "174.6 billion parameters",
        "1024 ranks",
        "memory of a rank, GB",
        "reduce_scatter",
        "tokens/s, MFU",
        "days",
    ):
        assert part in output


def test_every_option_arrives(capsys, tmp_path):
    options = (
        "llama-7b --dp 2 --pp 4 --tp 2 --zero 2 --microbatches 8 --batch-size 3 --time 512 --schedule interleaved "
        "--chunks 4 --recompute selective --no-sequence-parallel --precision float32 --flops 1TFLOP/s --link 2GB/s "
        "--tp-link 3GB/s --latency 4us --memory 5GiB --bandwidth 6GB/s"
    )
    path = tmp_path / "plan.json"
    assert call(capsys, *options.split(), "--json", path)[0] == 0
    found = json.loads(path.read_text(encoding="utf-8"))
    setup = found["setup"]
    assert setup.pop("precision")["name"] == "float32"
    assert setup == {
        "time": 512,
        "dp": 2,
        "pp": 4,
        "tp": 2,
        "zero": 2,
        "microbatches": 8,
        "batch_size": 3,
        "chunks": 4,
        "schedule": "interleaved",
        "recompute": "selective",
        "sequence_parallel": False,
        "ranks": 16,
        "sequences": 48,
    }
    assert found["machine"] == pytest.approx(
        {"flops": 1e12, "link": 2e9, "tp_link": 3e9, "latency": 4e-6, "memory": 5 * 2**30, "bandwidth": 6e9}
    )


def test_sizes_of_ones_own(capsys, tmp_path):
    path = tmp_path / "plan.json"
    own = ["--layers", "2", "--channels", "48", "--heads", "4", "--vocab-size", "100", "--time", "64"]
    assert call(capsys, *own, "--json", path)[0] == 0
    model = json.loads(path.read_text(encoding="utf-8"))["model"]
    assert model["parameters"] == 2 * (12 * 48**2 + 13 * 48) + (100 + 64) * 48 + 96
    more = ["--architecture", "llama", "--kv-heads", 2, "--feed-forward", 96]
    assert call(capsys, *own, *more, "--json", path, "--force")[0] == 0
    model = json.loads(path.read_text(encoding="utf-8"))["model"]
    assert model["parameters"] == 2 * (48 * (96 + 48) + 3 * 48 * 96 + 96) + 2 * 100 * 48 + 48


def test_the_picture(capsys, tmp_path):
    path = tmp_path / "plan.png"
    status, output, _ = call(capsys, "gpt2", "--dp", 2, "--plot", path)
    assert status == 0
    assert output.endswith(f"wrote {path}\n")
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gpt2", "--dp", "0"], "Must be >= 1"),
        (["gpt2", "--zero", "4"], "Must be <= 3"),
        (["gpt2", "--flops", "fast"], "expected a positive number, as 140e12, 25GB/s, 80GiB or 5us; not 'fast'"),
        (["gpt2", "--link", "0"], "not '0'"),
        (["gpt2", "--memory=-3"], "not '-3'"),
        (["gpt2", "--memory", "1..2"], "not '1..2'"),
        (["gpt2", "--recompute", "some"], "--recompute"),
        (["gpt2", "--tp", "5"], "tp=5 does not divide the 12 heads"),
        (["gpt2", "--pp", "13"], "pp=13 needs as many layers, and gpt2 has 12"),
        (["gpt2", "--schedule", "interleaved", "--pp", "2"], "1 microbatches are not a multiple of pp=2"),
        (["gpt2", "--chunks", "2", "--pp", "2"], "1f1b: 2 chunks on a rank; only interleaved has more than one"),
        (["llama2-70b", "--tp", "16"], "tp=16 does not divide the 64 heads, 8 of them with keys and values"),
    ],
)
def test_wrong_usage_is_status_2(capsys, arguments, message):
    status, output, error = call(capsys, *arguments)
    assert (status, output) == (2, "")
    assert message in error
    assert error.count("\n") == 1


def test_what_cannot_be_done_is_status_1(capsys, tmp_path):
    (tmp_path / "old.json").write_bytes(b"old")
    cases = [
        ([], "a model by name, or --layers, --channels, --heads of your own"),
        (["--layers", "2", "--heads", "2"], "a model by name, or --channels of your own"),
        (["--layers", "2", "--channels", "9", "--heads", "2"], "--channels 9 is not a multiple of --heads 2"),
        (["--layers=2", "--channels=8", "--heads=4", "--kv-heads=3"], "--heads 4 is not a multiple of --kv-heads 3"),
        (["gpt2", "--layers", "3"], "--layers: gpt2 has its own"),
        (["gpt9"], "gpt9: neither a folder"),
        (["gpt2", "--time", "1025"], "1025 tokens in a sequence, but gpt2 has 1024 positions"),
        (["gpt2", "--json", tmp_path / "old.json"], "exists already"),
        (["gpt2", "--plot", tmp_path / "x.svg"], "give a name that ends in .png"),
    ]
    for arguments, message in cases:
        status, output, error = call(capsys, *arguments)
        assert (status, output) == (1, "")
        assert message in error
        assert error.count("\n") == 1
    assert (tmp_path / "old.json").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("text", "value"),
    [("140e12", 140e12), ("25GB/s", 25e9), ("80GiB", 80 * 2**30), ("5us", 5e-6), ("1.5 TFLOP/s", 1.5e12), ("7", 7.0)],
)
def test_quantities(text, value):
    assert parse_quantity(text) == pytest.approx(value)


def test_help_ends_with_an_example(capsys):
    assert main(["plan", "--help"]) == 0
    assert "tinygrad-llm plan gpt3-175b --dp 16" in capsys.readouterr().out
