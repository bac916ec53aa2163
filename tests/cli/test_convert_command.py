"""tinygrad-llm convert."""

import json

import numpy as np
import pytest

from tinygrad_llm.cli.main import main
from tinygrad_llm.generation.loading import load_pretrained
from tinygrad_llm.models import Bert, BertConfig, Llama, LlamaConfig, load_model
from tinygrad_llm.tokenizer import Tokenizer, WordPieceTokenizer
from tinygrad_llm.weights.safetensors_file import open_safetensors


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "from"
    Llama(LlamaConfig(280, 32, 16, 2, 2, 1, 24), seed=1).save_pretrained(path)
    Tokenizer.train(["hello there " * 20], 280).save(path / "tokenizer.json")
    return path


def call(capsys, *arguments):
    status = main(["convert", *map(str, arguments)])
    return status, *capsys.readouterr()


def test_the_copy_is_the_same_model_with_its_tokenizer(folder, tmp_path, capsys):
    status, out, _ = call(capsys, folder, tmp_path / "to")
    assert status == 0
    assert out.startswith(f"wrote {tmp_path / 'to'}: a Llama of ")
    one, other = load_pretrained(folder), load_pretrained(tmp_path / "to")
    assert other.tokenizer.digest == one.tokenizer.digest
    for name, array in one.model.state_dict().items():
        np.testing.assert_array_equal(other.model.state_dict()[name], array)


@pytest.mark.parametrize(("dtype", "step"), [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_half_the_bytes_round(folder, tmp_path, capsys, dtype, step):
    assert call(capsys, folder, tmp_path / "to", "--dtype", dtype)[0] == 0
    assert json.loads((tmp_path / "to/config.json").read_text())["dtype"] == dtype
    halves = [(path / "model.safetensors").stat().st_size for path in (tmp_path / "to", folder)]
    assert halves[0] < 0.6 * halves[1]
    other = load_model(tmp_path / "to").state_dict()
    for name, array in load_model(folder).state_dict().items():
        np.testing.assert_allclose(other[name], array, rtol=step, atol=2**-25)
        assert other[name].dtype == np.float32


def test_many_files_and_then_one_again(folder, tmp_path, capsys):
    to = tmp_path / "to"
    assert call(capsys, folder, to, "--shard-size", 5000)[0] == 0
    parts = [open_safetensors(path) for path in to.glob("*.safetensors")]
    assert len(parts) > 3
    assert max(map(len, parts)) > 1
    for part in parts:
        assert len(part) == 1 or sum(tensor.read().nbytes for tensor in part.values()) <= 5000
    one = load_model(folder).state_dict()
    for name, array in load_model(to).state_dict().items():
        np.testing.assert_array_equal(array, one[name])
    assert call(capsys, folder, to, "--force")[0] == 0
    assert [path.name for path in to.glob("*.safetensors*")] == ["model.safetensors"]
    load_model(to)


def test_a_model_of_whole_words_keeps_its_vocabulary(tmp_path, capsys):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "list"]
    Bert(BertConfig(7, 16, 16, 1, 2, 24)).save_pretrained(tmp_path / "from")
    WordPieceTokenizer(pieces).save(tmp_path / "from/vocab.txt")
    assert call(capsys, tmp_path / "from", tmp_path / "to")[0] == 0
    assert load_pretrained(tmp_path / "to").tokenizer.encode("the list").tolist() == [2, 5, 6, 3]


def test_a_model_without_a_tokenizer_is_converted_too(folder, tmp_path, capsys):
    (folder / "tokenizer.json").unlink()
    status, out, _ = call(capsys, folder, tmp_path / "to")
    assert status == 0
    assert "no tokenizer" in out


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder, to: to.write_text("x"), "is a file; give a folder"),
        (lambda folder, to: to.symlink_to(folder), "is the model that is to be converted"),
        (lambda folder, to: Llama(LlamaConfig(9, 8, 8, 1, 1, 1, 8)).save_pretrained(to), "holds a model already"),
    ],
)
def test_nothing_is_overwritten(folder, tmp_path, capsys, prepare, message):
    prepare(folder, tmp_path / "to")
    before = (folder / "model.safetensors").read_bytes()
    status, _, error = call(capsys, folder, tmp_path / "to")
    assert status == 1
    assert message in error
    assert (folder / "model.safetensors").read_bytes() == before


def test_what_is_no_model_is_told(tmp_path, capsys):
    status, _, error = call(capsys, tmp_path / "nowhere", tmp_path / "to")
    assert status == 1
    assert "nowhere: no such folder" in error
    assert not (tmp_path / "to").exists()
