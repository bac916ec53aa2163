"""GGUF files: written with the package gguf, read by us; and a real model."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest

from tinygrad_llm import no_grad
from tinygrad_llm.generation.loading import PACKAGES, load_pretrained
from tinygrad_llm.models import Llama, LlamaConfig, RotaryScaling
from tinygrad_llm.weights import gguf_file, gguf_names, open_checkpoint, scatter

gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install '.[gguf]'")

SIZES = {"vocab_size": 40, "context": 32, "channels": 256, "layers": 2, "heads": 4, "kv_heads": 2, "feed_forward": 256}


def config(**options):
    return LlamaConfig(**{**SIZES, "init_std": 0.3, **options})


def permuted(rows, heads):
    """llama.cpp's order of the rows of queries and keys, from Hugging Face's."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def write(path, model, kind="llama", dtype="F32", **changes):
    """A GGUF file of the model as llama.cpp's converter writes it; matrices of that type."""
    c = model.config
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(changes.get("layers", c.layers))
    writer.add_context_length(c.context)
    writer.add_embedding_length(c.channels)
    writer.add_feed_forward_length(c.feed_forward)
    writer.add_head_count(c.heads)
    writer.add_head_count_kv(c.kv_heads)
    writer.add_key_length(c.head_size)
    writer.add_rope_freq_base(c.rotary_base)
    writer.add_layer_norm_rms_eps(c.norm_eps)
    if c.window:
        writer.add_sliding_window(c.window)
    if c.rotary_scaling:
        writer.add_rope_scaling_type(gguf.RopeScalingType(c.rotary_scaling.kind))
        writer.add_rope_scaling_factor(c.rotary_scaling.factor)
        writer.add_rope_scaling_orig_ctx_len(c.rotary_scaling.original_context)
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, kind.upper()), c.layers)
    for name, array in scatter(model.layout, c, model.state_dict()).items():
        if kind == "llama" and ("q_proj" in name or "k_proj" in name):
            array = permuted(array, c.heads if "q_proj" in name else c.kv_heads)
        name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if name == changes.get("without"):
            continue
        array = np.ascontiguousarray(array)
        if array.ndim == 1 or dtype == "F32":
            writer.add_tensor(name, array)
        else:
            quantization = gguf.GGMLQuantizationType[dtype]
            writer.add_tensor(name, gguf.quants.quantize(array, quantization), raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", {}),
        ("llama", {"tied": False, "rotary_base": 500.0, "norm_eps": 1e-3, "head_channels": 32}),
        ("llama", {"rotary_scaling": RotaryScaling("linear", 2.0, 16)}),
        ("llama", {"rotary_scaling": RotaryScaling("yarn", 2.0, 16)}),
        ("qwen2", {"qkv_bias": True}),
        ("qwen3", {"qk_norm": True, "head_channels": 48}),
        ("llama", {"window": 7, "tied": False}),
    ],
)
def test_a_model_is_read_as_it_was_written(kind, options, tmp_path):
    model = Llama(config(**options), seed=1)
    for parameter in model.parameters():
        parameter.data = parameter.data + np.float32(0.01)  # biases too
    read = Llama.from_pretrained(write(tmp_path / "model.gguf", model, kind))
    for name in ("init_std", "norm_eps", "rotary_base"):  # the first is not kept, the others are float32 in the file
        assert getattr(read.config, name) == pytest.approx(getattr(model.config, name), rel=1e-6) or name == "init_std"
    same = {"init_std": 0.02, "norm_eps": read.config.norm_eps, "rotary_base": read.config.rotary_base}
    assert read.config == config(**(options | same))
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(read.state_dict()[name], array)


@pytest.mark.parametrize("dtype", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_weights_in_few_bits_are_those_of_the_package(dtype, tmp_path):
    model = Llama(config(), seed=1)
    stored = open_checkpoint(write(tmp_path / "model.gguf", model, dtype=dtype))
    reader = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    for theirs, ours in [("blk.1.ffn_up.weight", "model.layers.1.mlp.up_proj.weight"), ("token_embd.weight",) * 2]:
        tensor = reader[theirs]
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        found = stored.tensors[ours if ours in stored.tensors else "model.embed_tokens.weight"]
        assert found.dtype == dtype
        np.testing.assert_array_equal(found.read().astype(np.float32), expected.reshape(found.shape))
    assert Llama.from_pretrained(tmp_path / "model.gguf").dtype == np.float32


@pytest.mark.parametrize("dtype", ["Q4_K", "Q6_K"])
def test_blocks_of_256_are_read(dtype, tmp_path):
    """The package cannot write these: blocks of random bytes."""
    _, weights, size = next(kind for kind in gguf_names.KINDS.values() if kind[0] == dtype)
    blocks = np.random.default_rng(0).integers(0, 60, (4, 3 * size), np.uint8)
    kind = gguf.GGMLQuantizationType[dtype]
    found = gguf_file.numbers_of(blocks.reshape(-1), kind.value, (4, 3 * weights))
    np.testing.assert_array_equal(found, gguf.quants.dequantize(blocks, kind))


def test_what_does_not_fit_is_told(tmp_path):
    model = Llama(config(), seed=1)
    with pytest.raises(ValueError, match=r"(?s)missing: layers.1.mlp.up_proj.weight \(256, 256\)"):
        Llama.from_pretrained(write(tmp_path / "a.gguf", model, without="blk.1.ffn_up.weight"))
    with pytest.raises(ValueError, match=r"missing: layers.2."):
        Llama.from_pretrained(write(tmp_path / "b.gguf", model, layers=3))
    with pytest.raises(ValueError, match="its architecture is 'gemma'"):
        Llama.from_pretrained(write(tmp_path / "c.gguf", model, "gemma"))
    whole = (tmp_path / "a.gguf").read_bytes()
    (tmp_path / "d.gguf").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is it cut short"):
        Llama.from_pretrained(tmp_path / "d.gguf")


def smollm2() -> Path:
    package = PACKAGES["smollm2"]
    try:
        return Path(str(distribution(package.name).locate_file(package.place)))
    except PackageNotFoundError:
        pytest.skip(f"the package is not installed: pip install --no-deps {package.name}=={package.version}")


def test_a_real_model_knows_the_capital_of_france():
    smollm2()
    _, model, tokenizer = load_pretrained("smollm2")
    assert model.config == LlamaConfig(context=8192, rotary_base=100000.0, norm_eps=model.config.norm_eps)
    ids = tokenizer.encode("The capital of France is")
    assert ids.tolist() == [504, 3575, 282, 4649, 314]
    with no_grad():
        logits = model(ids[None]).data[0, -1]
    expected = {" Paris": 17.3713, " the": 14.8886, " London": 13.2450, " Le": 13.0095, " New": 12.9515}
    assert [tokenizer.decode([i]) for i in logits.argsort()[:-6:-1]] == list(expected)
    np.testing.assert_allclose(np.sort(logits)[:-6:-1], list(expected.values()), atol=2e-3)
