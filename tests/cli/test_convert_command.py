"""tinygrad-llm convert."""

import json

import numpy as np
import pytest

from tinygrad_llm.cli.main import main
from tinygrad_llm.generation.loading import load_pretrained
from tinygrad_llm.models import Bert, BertConfig, Llama, LlamaConfig, load_model
from tinygrad_llm.tokenizer import Tokenizer, WordPieceTokenizer
from tinygrad_llm.weights import open_checkpoint
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


def gguf():
    return pytest.importorskip("gguf", reason="gguf is not installed: pip install '.[gguf]'")


def test_a_gguf_file_is_the_same_model_with_its_tokenizer(folder, tmp_path, capsys):
    gguf()
    Tokenizer.train(["hello there " * 20], 270, pattern="gpt2").save(folder / "tokenizer.json")
    file, back = tmp_path / "new" / "model.gguf", tmp_path / "back"
    status, out, _ = call(capsys, folder, file)
    assert status == 0
    assert out.startswith(f"wrote {file}: a Llama of ")
    assert f"{file.stat().st_size / 1e6:,.1f} MB" in out
    assert "tokenizer" not in out
    assert call(capsys, file, back)[0] == 0
    one = load_pretrained(folder)
    for other in (load_pretrained(file), load_pretrained(back)):
        assert other.tokenizer.digest == one.tokenizer.digest
        for name, array in one.model.state_dict().items():
            np.testing.assert_array_equal(other.model.state_dict()[name], array)


@pytest.mark.parametrize(("dtype", "kind"), [("float16", "F16"), ("bfloat16", "BF16"), ("q8_0", "Q8_0")])
def test_a_gguf_file_of_fewer_bits(tmp_path, capsys, dtype, kind):
    gguf()
    Llama(LlamaConfig(64, 32, 32, 2, 2, 1, 32)).save_pretrained(tmp_path / "from")
    assert call(capsys, tmp_path / "from", tmp_path / "x.gguf", "--dtype", dtype)[0] == 0
    tensors = open_checkpoint(tmp_path / "x.gguf").tensors
    assert tensors["model.embed_tokens.weight"].dtype == kind


def test_a_tokenizer_that_gguf_cannot_hold_is_told(folder, tmp_path, capsys):
    gguf()
    status, out, _ = call(capsys, folder, tmp_path / "x.gguf")  # its pattern is our own
    assert status == 0
    assert "the tokenizer was not written: GGUF has no name for the pattern" in out
    load_model(tmp_path / "x.gguf")


def test_a_gguf_file_is_replaced_only_by_force(folder, tmp_path, capsys):
    gguf()
    (tmp_path / "x.gguf").write_bytes(b"old")
    status, _, error = call(capsys, folder, tmp_path / "x.gguf")
    assert (status, (tmp_path / "x.gguf").read_bytes()) == (1, b"old")
    assert "exists already; choose another name, or replace it with --force" in error
    assert call(capsys, folder, tmp_path / "x.gguf", "--force")[0] == 0
    load_model(tmp_path / "x.gguf")
    (tmp_path / "folder.gguf").mkdir()
    assert "is a folder; choose another name" in call(capsys, folder, tmp_path / "folder.gguf", "--force")[2]
    assert (
        "is the model that is to be converted" in call(capsys, tmp_path / "x.gguf", tmp_path / "x.gguf", "--force")[2]
    )


def test_options_that_do_not_belong_together(folder, tmp_path, capsys):
    status, _, error = call(capsys, folder, tmp_path / "to", "--dtype", "q8_0")
    assert (status, (tmp_path / "to").exists()) == (1, False)
    assert "q8_0 is for GGUF files" in error
    status, _, error = call(capsys, folder, tmp_path / "x.gguf", "--shard-size", 5000)
    assert (status, (tmp_path / "x.gguf").exists()) == (1, False)
    assert "a GGUF file is not divided" in error


def test_one_file_of_weights_is_converted_with_the_tokenizer_beside_it(folder, tmp_path, capsys):
    (folder / "model.safetensors").rename(folder / "best.safetensors")
    assert call(capsys, folder / "best.safetensors", tmp_path / "to")[0] == 0
    digest = Tokenizer.load(folder / "tokenizer.json").digest
    assert load_pretrained(tmp_path / "to").tokenizer.digest == digest


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
