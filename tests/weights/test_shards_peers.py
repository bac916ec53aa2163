"""Folders of several files: ours in transformers' hands, and transformers' in ours."""

import json

import numpy as np
import pytest

from tinygrad_llm.models import (
    GPT,
    T5,
    Bert,
    BertConfig,
    GPTConfig,
    Llama,
    LlamaConfig,
    T5Config,
    load_model,
)
from tinygrad_llm.weights import open_checkpoint, scatter

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[peers]'")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[peers]'")

pytestmark = pytest.mark.filterwarnings("ignore")

MODELS = {
    "AutoModelForCausalLM": lambda: Llama(LlamaConfig(40, 16, 32, 2, 4, 2, 48, tied=False)),
    "GPT2LMHeadModel": lambda: GPT(GPTConfig(40, 16, 32, 2, 4)),
    "BertForMaskedLM": lambda: Bert(BertConfig(40, 16, 32, 2, 4, 48, head="masked_lm")),
    "T5ForConditionalGeneration": lambda: T5(
        T5Config(vocab_size=40, channels=32, layers=2, heads=4, head_channels=8, feed_forward=48)
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_many_files_go_there_and_back(name, dtype, tmp_path):
    model = MODELS[name]()
    model.save_pretrained(tmp_path / "ours", shard=10_000, dtype=dtype)
    files = set(json.loads((tmp_path / "ours/model.safetensors.index.json").read_text())["weight_map"].values())
    assert len(files) == len(list((tmp_path / "ours").glob("*.safetensors"))) > 2
    theirs, info = getattr(transformers, name).from_pretrained(
        tmp_path / "ours", dtype=getattr(torch, dtype), output_loading_info=True
    )
    assert not any(info.values()), info
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="10KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 2
    state = theirs.state_dict()
    again = load_model(tmp_path / "theirs").state_dict()
    ours = open_checkpoint(tmp_path / "ours").tensors  # rounded to dtype
    for file_name in scatter(model.layout, model.config, model.state_dict()):
        np.testing.assert_array_equal(ours[file_name].read(), state[file_name].float().numpy())
    first = load_model(tmp_path / "ours").state_dict()
    assert first.keys() == again.keys()
    for own, array in first.items():
        np.testing.assert_array_equal(again[own], array)


def test_the_logits_are_the_same(tmp_path):
    model = MODELS["AutoModelForCausalLM"]().astype(np.float64)
    model.save_pretrained(tmp_path, shard=10_000)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    ids = np.arange(12)[None]
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids)).logits.numpy()
    np.testing.assert_allclose(load_model(tmp_path)(ids).data, expected, rtol=0, atol=1e-6)  # its angles are float32
