"""GGUF files that we write, read by us and by the package gguf."""

import sys

import numpy as np
import pytest

from tinygrad_llm.models import GPT, GPTConfig, Llama, LlamaConfig, RotaryScaling, load_model
from tinygrad_llm.weights import open_checkpoint, scatter, write_gguf
from tinygrad_llm.weights.gguf_file import llama3_divisors

gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install '.[gguf]'")

SIZES = {"vocab_size": 40, "context": 32, "channels": 64, "layers": 2, "heads": 4, "kv_heads": 2, "feed_forward": 96}
LLAMA3 = RotaryScaling("llama3", 8.0, 8192, 1.0, 4.0)


def random_model(model):
    rng = np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.data = rng.standard_normal(parameter.shape).astype(np.float32)
    return model


def llama(**options):
    return random_model(Llama(LlamaConfig(**{**SIZES, **options})))


MODELS = {
    "llama": lambda: llama(),
    "untied": lambda: llama(tied=False, rotary_base=500.0, norm_eps=1e-3, head_channels=32),
    "linear": lambda: llama(rotary_scaling=RotaryScaling("linear", 2.5)),
    "yarn": lambda: llama(rotary_scaling=RotaryScaling("yarn", 4.0, 16)),
    "yarn with turns": lambda: llama(rotary_scaling=RotaryScaling("yarn", 4.0, 16, fast=20.0, slow=2.0)),
    "llama3": lambda: llama(rotary_base=500000.0, rotary_scaling=LLAMA3),
    "mistral": lambda: llama(window=7),
    "qwen2": lambda: llama(qkv_bias=True),
    "qwen3": lambda: llama(qk_norm=True, head_channels=24),
    "gpt2": lambda: random_model(GPT(GPTConfig(40, 32, 64, 2, 4))),
    "gpt2 of another width": lambda: random_model(GPT(GPTConfig(40, 32, 64, 2, 4, feed_forward=96))),
}


def same_settings(one, other, model):
    """The same configuration, written out, but for how the weights began and dropout, which GGUF does not know."""
    texts = [model.layout.write_config(config) for config in (one, other)]
    for text in texts:
        for name in ("initializer_range", "resid_pdrop", "embd_pdrop"):
            text.pop(name, None)
        if "n_inner" in text:
            text["n_inner"] = text["n_inner"] or 4 * text["n_embd"]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_read_as_it_was_written(name, tmp_path):
    model = MODELS[name]()
    model.save_gguf(tmp_path / "model.gguf")
    read = load_model(tmp_path / "model.gguf")
    same_settings(read.config, model.config, model)
    assert getattr(read.config, "dropout", 0.0) == 0.0
    for own, array in model.state_dict().items():
        np.testing.assert_array_equal(read.state_dict()[own], array)


@pytest.mark.parametrize("name", MODELS)
def test_names_and_order_are_those_of_the_package(name, tmp_path):
    model = MODELS[name]()
    model.save_gguf(tmp_path / "model.gguf")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    kind = reader.get_field("general.architecture").contents()
    assert kind == name.split()[0] if name.startswith(("qwen", "gpt2")) else kind == "llama"
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, kind.upper()), 2)
    wanted = scatter(model.layout, model.config, model.state_dict())
    assert len(found) == len(wanted) + (name == "llama3")
    for theirs, array in wanted.items():
        if kind == "llama" and ("q_proj" in theirs or "k_proj" in theirs):
            heads = 4 if "q_proj" in theirs else 2
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        if kind == "gpt2" and ("attn.c_" in theirs or "mlp.c_" in theirs):
            array = array.T
        np.testing.assert_array_equal(found[names.get_name(theirs, (".weight", ".bias"))], array)
    for key, value in {
        "block_count": 2,
        "context_length": 32,
        "embedding_length": 64,
        "feed_forward_length": model.layout.write_config(model.config).get("intermediate_size")
        or model.config.feed_forward
        or 256,
        "attention.head_count": 4,
    }.items():
        assert reader.get_field(f"{kind}.{key}").contents() == value


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0"])
def test_matrices_are_rounded_as_the_package_does(kind, tmp_path):
    model = llama(feed_forward=96, channels=64)
    model.save_gguf(tmp_path / "model.gguf", kind)
    about = gguf.GGUFReader(tmp_path / "model.gguf").get_field("general.file_type").contents()
    assert about == gguf.LlamaFileType["MOSTLY_" + kind]
    found = open_checkpoint(tmp_path / "model.gguf").tensors
    number = gguf.GGMLQuantizationType[kind]
    for name, array in scatter(model.layout, model.config, model.state_dict()).items():
        array = np.ascontiguousarray(array)
        if array.ndim == 1:
            assert found[name].dtype == "F32"
        else:
            assert found[name].dtype == kind
            array = gguf.quants.dequantize(gguf.quants.quantize(array, number), number).astype(np.float32)
        np.testing.assert_array_equal(found[name].read(), array)


def test_rows_that_are_no_blocks_are_half_precision(tmp_path):
    model = llama(channels=48, feed_forward=64)
    model.save_gguf(tmp_path / "model.gguf", "Q8_0")
    dtypes = {name: tensor.dtype for name, tensor in open_checkpoint(tmp_path / "model.gguf").tensors.items()}
    assert dtypes["model.layers.0.mlp.up_proj.weight"] == "F16"
    assert dtypes["model.layers.0.mlp.down_proj.weight"] == "Q8_0"
    assert dtypes["model.norm.weight"] == "F32"


def test_the_divisors_of_llama3_change_the_frequencies_as_the_model_does():
    plain = 500000.0 ** (-np.arange(0, 64, 2) / 64)
    np.testing.assert_allclose(plain / llama3_divisors(500000.0, 64, 8.0), LLAMA3.frequencies(500000.0, 64), rtol=1e-12)


def test_equal_content_gives_equal_bytes_and_progress_is_told(tmp_path):
    told = []
    for name in ("a.gguf", "b.gguf"):
        llama().save_gguf(tmp_path / name, progress=lambda done, total: told.append((done, total)))
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    assert told == [(done, 20) for done in range(1, 21)] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gguf", "b.gguf"]


def large(model, number):
    model.blocks[0].mlp.up.weight.data[3, 5] = number
    return model


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: large(llama(), 1e5), "F16", "blk.0.ffn_up.weight: 1e[+]05 is too large for float16"),
        (lambda: large(llama(), 1e7), "Q8_0", "blk.0.ffn_up.weight: 1e[+]07 is too large for Q8_0"),
        (lambda: llama(qkv_bias=True, window=7), "F32", "GGUF has no sliding window for qwen2"),
        (lambda: llama(rotary_scaling=RotaryScaling("llama3", 8.0, 4096, 1.0, 4.0)), "F32", "Llama 3.1's scaling"),
        (lambda: llama(rotary_scaling=RotaryScaling("yarn", 4.0, 16, attention_factor=1.5)), "F32", "attention_factor"),
    ],
)
def test_what_cannot_be_written_leaves_the_old_file(make, kind, message, tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"old")
    with pytest.raises(ValueError, match=message):
        make().save_gguf(tmp_path / "model.gguf", kind)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_another_architecture_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="a 'bert' model cannot be written as GGUF; known are llama"):
        write_gguf(tmp_path / "x.gguf", {"model_type": "bert"}, {})


def test_without_the_package_the_line_to_install_it_is_told(tmp_path, monkeypatch):
    llama().save_gguf(tmp_path / "plain.gguf")
    llama().save_gguf(tmp_path / "few.gguf", "Q8_0")
    for name in ("gguf", "gguf.quants"):
        monkeypatch.setitem(sys.modules, name, None)
    load_model(tmp_path / "plain.gguf")  # which needs no package
    with pytest.raises(ValueError, match=r"weights of type Q8_0: pip install 'gguf>=0\.10,<1'"):
        load_model(tmp_path / "few.gguf")
    with pytest.raises(ValueError, match=r"to write GGUF files: pip install 'gguf>=0\.10,<1'"):
        llama().save_gguf(tmp_path / "other.gguf")
