"""A folder with an adapter is a model: its base is found, the adapter merged, and the tokenizer is one of the two."""

import json

import numpy as np
import pytest

from tinygrad_llm import no_grad
from tinygrad_llm.cli.main import main
from tinygrad_llm.generation import Sampling, generate_tokens
from tinygrad_llm.generation.loading import adapter_chain, load_pretrained
from tinygrad_llm.models import LlamaConfig, new_model
from tinygrad_llm.models.adapter_files import save_adapter
from tinygrad_llm.models.adapters import LoRASettings, adapters, attach
from tinygrad_llm.tokenizer import Tokenizer

CONFIG = LlamaConfig(280, 24, 48, 2, 4, 2, 96)
IDS = np.random.default_rng(0).integers(0, 256, (2, 9))


def logits(model):
    with no_grad():
        return model.eval()(IDS).data


def tokenizer(size):
    return Tokenizer.train(["to be or not to be " * 30], size)


@pytest.fixture
def base(tmp_path):
    folder = tmp_path / "base"
    new_model(CONFIG, 1).save_pretrained(folder)
    tokenizer(257).save(folder / Tokenizer.FILE)
    return folder


def adapt(model, folder, base, seed=0):
    """An adapter that changes much; returns the logits with it."""
    attach(model, LoRASettings.parse("r=3,targets=q+v+down"), seed)
    rng = np.random.default_rng(seed)
    for module in adapters(model).values():
        module.lora_b.data[:] = 0.3 * rng.standard_normal(module.lora_b.shape)
    save_adapter(model, folder, str(base))
    return logits(model)


@pytest.fixture
def adapter(base, tmp_path):
    adapt(new_model(CONFIG, 1), tmp_path / "adapter", base)
    return tmp_path / "adapter"


@pytest.mark.parametrize("packed", [False, True])
def test_it_is_merged_into_its_base(base, tmp_path, packed):
    expected = adapt(new_model(CONFIG, 1), tmp_path / "adapter", base)
    path, model, found = load_pretrained(tmp_path / "adapter", packed)
    assert path == tmp_path / "adapter"
    assert not adapters(model)
    assert all(p.requires_grad for p in model.parameters())
    np.testing.assert_allclose(logits(model), expected, rtol=0, atol=1e-5)
    assert np.abs(expected - logits(new_model(CONFIG, 1))).max() > 0.1
    assert found.vocab_size == 257
    qkv = model.blocks[0].attention.qkv.weight.data
    assert qkv.flags.f_contiguous == packed
    greedy = [next(iter(generate_tokens(m, IDS.tolist(), Sampling(temperature=0)))) for m in (model, load(base, path))]
    np.testing.assert_array_equal(*greedy)


def load(base, adapter):
    """The same by hand."""
    from tinygrad_llm.models import load_model
    from tinygrad_llm.models.adapter_files import load_adapter

    model = load_model(base)
    load_adapter(model, adapter)
    return model.eval()


def test_a_tokenizer_of_its_own_comes_first(adapter):
    tokenizer(259).save(adapter / Tokenizer.FILE)
    assert load_pretrained(adapter).tokenizer.vocab_size == 259


def rename(adapter, base):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": str(base)}))


def test_the_base_is_found_beside_the_adapter_or_from_here(base, adapter, tmp_path, monkeypatch):
    for name in (base, "../base"):
        rename(adapter, name)
        assert adapter_chain(adapter)[1].samefile(base)
    rename(adapter, "base")
    with pytest.raises(FileNotFoundError, match="belongs to the model 'base', which is not there"):
        load_pretrained(adapter)
    monkeypatch.chdir(tmp_path)
    assert adapter_chain(adapter)[1].samefile(base)
    load_pretrained("adapter")


def test_an_adapter_of_an_adapter(base, adapter, tmp_path):
    expected = adapt(load_pretrained(adapter).model, tmp_path / "second", adapter, seed=7)
    model = load_pretrained(tmp_path / "second").model
    np.testing.assert_allclose(logits(model), expected, rtol=0, atol=2e-5)
    assert adapter_chain(tmp_path / "second") == [tmp_path / "second", adapter, base]


def test_a_base_that_cannot_be_is_told(base, adapter, tmp_path):
    for name in ("elsewhere/nothing", "some/model-on-a-hub", "no\0thing"):
        rename(adapter, name)
        with pytest.raises(FileNotFoundError, match=r"adapter_config\.json: the adapter belongs to the model"):
            load_pretrained(adapter)
    rename(adapter, adapter)
    with pytest.raises(ValueError, match="said to belong to itself"):
        load_pretrained(adapter)
    rename(adapter, ".")
    with pytest.raises(ValueError, match="said to belong to itself"):
        load_pretrained(adapter)
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    rename(tmp_path / "second", adapter)
    rename(adapter, tmp_path / "second")
    with pytest.raises(ValueError, match="said to belong to itself"):
        load_pretrained(adapter)
    with pytest.raises(FileNotFoundError, match=r"config\.json missing"):
        load_pretrained(tmp_path)


def test_a_base_of_another_shape_is_told(adapter, tmp_path):
    new_model(LlamaConfig(280, 24, 32, 2, 4, 2, 96), 1).save_pretrained(tmp_path / "narrow")
    rename(adapter, tmp_path / "narrow")
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors: .*\n.*mismatched: .*down_proj"):
        load_pretrained(adapter)


def test_convert_writes_the_merged_model(base, tmp_path, capsys):
    expected = adapt(new_model(CONFIG, 1), tmp_path / "adapter", base)
    assert main(["convert", str(tmp_path / "adapter"), str(tmp_path / "out")]) == 0
    assert "wrote" in capsys.readouterr().out
    merged = load_pretrained(tmp_path / "out")
    np.testing.assert_allclose(logits(merged.model), expected, rtol=0, atol=1e-5)
    assert merged.tokenizer.vocab_size == 257
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    assert main(["convert", str(base), str(tmp_path / "adapter")]) == 1
    assert "holds a model already" in capsys.readouterr().err
