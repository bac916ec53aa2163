"""``tinygrad-llm generate --weights``: the same run in fewer bits."""

import pytest

from tinygrad_llm.cli.main import main
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.nn import quantize
from tinygrad_llm.tokenizer import Tokenizer
from tinygrad_llm.training import runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    tokenizer = Tokenizer.train(["the cat sat on the mat. the dog sat on the log. " * 20], 270)
    tokenizer.save(folder / "tokenizer.json")
    GPT(GPTConfig(tokenizer.vocab_size, 16, 64, 2, 2, init_std=0.3)).save_pretrained(folder)
    return folder


def generated(capsys, run, *options):
    status = main(["generate", str(run), "--prompt", "the", "--max-tokens", "12", "--temperature", "0", *options])
    return status, *capsys.readouterr()


def test_weights_in_fewer_bits(capsys, run, monkeypatch):
    made = []

    def noting(model, kind, progress):
        quantize(model, kind, progress)
        made.append((kind, model.blocks[1].mlp.up.kind))

    monkeypatch.setattr(runs, "quantize", noting)
    status, exact, told = generated(capsys, run)
    assert (status, told, made) == (0, "", [])
    assert generated(capsys, run, "--weights", "float32") == (status, exact, told)
    for kind in ("int8", "int4"):
        status, text, told = generated(capsys, run, "--weights", kind)
        assert (status, made.pop(), made) == (0, (kind, kind), [])
        assert len(text) > len("the")
        assert told == f"rounding the weights to {kind} ...\n"


def test_other_bits_are_wrong_usage(capsys, run):
    status, _, told = generated(capsys, run, "--weights", "int2")
    assert status == 2
    assert "int2" in told
