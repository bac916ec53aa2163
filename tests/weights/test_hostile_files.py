"""Damaged and lying files of weights: each is refused with the reason, and without asking for much memory."""

import json
import os
import struct
import tracemalloc

import numpy as np
import pytest

from tinygrad_llm.models import (
    GPT,
    Bert,
    BertConfig,
    DistilBert,
    DistilBertConfig,
    GPTConfig,
    Llama,
    LlamaConfig,
    load_model,
)
from tinygrad_llm.weights.safetensors_file import write_safetensors

MEMORY = 20_000_000
"""Bytes at most that a refusal may ask for."""

SIZES = {"vocab_size": 40, "context": 16, "channels": 32, "layers": 2, "heads": 4, "kv_heads": 2, "feed_forward": 32}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    Llama(LlamaConfig(**SIZES)).save_pretrained(path)
    return path


def refused(path, message):
    tracemalloc.start()
    try:
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            load_model(path)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


# -- safetensors -------------------------------------------------------------------------------------------------------


def parts(folder):
    """(header, data) of the file of weights."""
    content = (folder / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def put(folder, header, data, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    start = struct.pack("<Q", len(text) if length is None else length)
    (folder / "model.safetensors").write_bytes(start + text + data)


def cut(size):
    def damage(folder):
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:size])

    return damage


def length(claimed):
    return lambda folder: put(folder, *parts(folder), claimed)


def text(header):
    return lambda folder: put(folder, header, parts(folder)[1])


NORM = "model.norm.weight"  # (32,) F32: 128 bytes


def entry(**changes):
    """The description of one tensor is changed."""

    def damage(folder):
        header, data = parts(folder)
        header[NORM] |= changes
        put(folder, header, data)

    return damage


def header(change):
    def damage(folder):
        found, data = parts(folder)
        changed = change(found)
        put(folder, found if changed is None else changed, data)

    return damage


def swapped_offsets(found):
    """Two tensors are said to lie in the same place."""
    found[NORM]["data_offsets"] = found["model.layers.0.input_layernorm.weight"]["data_offsets"]


def twice(found):
    return json.dumps(found).replace(f'"{NORM}"', '"model.layers.0.input_layernorm.weight"').encode()


def tensors(change):
    """The file is written anew with other tensors."""

    def damage(folder):
        found, data = parts(folder)
        found.pop("__metadata__")
        arrays = {}
        for name, about in found.items():
            first, last = about["data_offsets"]
            arrays[name] = np.frombuffer(data[first:last], np.float32).reshape(about["shape"]).copy()
        change(arrays)
        write_safetensors(folder / "model.safetensors", arrays, {})

    return damage


def value(name, number):
    def change(arrays):
        arrays[name].flat[3] = number

    return change


def swap(one, other):
    def change(arrays):
        arrays[one], arrays[other] = arrays[other], arrays[one]

    return change


SAFETENSORS = {
    "empty": (cut(0), "its header claims"),
    "seven bytes": (cut(7), "its header claims"),
    "only a length": (cut(8), "its header claims"),
    "half a header": (cut(500), "its header claims [0-9,]+ bytes, the file has 500"),
    "half the data": (cut(9000), "its tensors take [0-9,]+ bytes, but [0-9,]+ follow"),
    "a byte too few": (cut(-1), "its tensors take"),
    "a byte too many": (lambda f: put(f, parts(f)[0], parts(f)[1] + b"x"), "its tensors take"),
    "no length": (length(0), "its header claims 0 bytes"),
    "a length of 2^63": (length(2**63), "its header claims 9,223,372,036,854,775,808 bytes"),
    "a length of 2^64 - 1": (length(2**64 - 1), "its header claims"),
    "a length of 90 MB": (length(90_000_000), "its header claims 90,000,000 bytes"),
    "a length one too short": (lambda f: length(len(json.dumps(parts(f)[0])) - 1)(f), "its header is not JSON"),
    "no JSON": (text(b"hello world"), "its header is not JSON"),
    "no UTF-8": (text(b'{"\xff": 1}'), "its header is not JSON"),
    "deep nesting": (text(b"[" * 200_000), "its header is not JSON"),
    "a list": (text(b"[1, 2]"), "its header is not a JSON object"),
    "a tensor that is a number": (header(lambda h: h.update({NORM: 7})), "'model.norm.weight' is described by 7"),
    "no offsets": (header(lambda h: h[NORM].pop("data_offsets") and None), "'model.norm.weight' is described by"),
    "three offsets": (entry(data_offsets=[0, 1, 2]), "'model.norm.weight' is described by"),
    "an unknown dtype": (entry(dtype="F8_E4M3"), "'model.norm.weight' has dtype 'F8_E4M3'"),
    "a dtype that is a list": (entry(dtype=["F32"]), "'model.norm.weight' has dtype"),
    "another dtype": (entry(dtype="F16"), r"F16 \(32,\), takes 64 bytes, not 128"),
    "a negative size": (entry(shape=[-32]), r"has shape \(-32,\)"),
    "a fraction of a size": (entry(shape=[32.0]), r"has shape \(32.0,\)"),
    "a size that is true": (entry(shape=[True, 32]), r"has shape \(True, 32\)"),
    "a size of 10^18": (entry(shape=[10**18]), "takes 4,000,000,000,000,000,000 bytes, not 128"),
    "a product of 10^40": (entry(shape=[10**20, 10**20]), "takes 40,000"),
    "forty axes": (entry(shape=[1] * 39 + [32]), "has shape"),
    "offsets beyond the end": (entry(data_offsets=[10**9, 10**9 + 128]), "begins at byte 1,000,000,000 of the data"),
    "offsets backwards": (entry(data_offsets=[128, 0]), "takes 128 bytes, not -128"),
    "negative offsets": (entry(data_offsets=[-128, 0]), "offsets -128, 0"),
    "two in one place": (header(swapped_offsets), "begins at byte"),
    "a name twice": (header(twice), "stands twice in its header"),
    "metadata of numbers": (header(lambda h: h.update(__metadata__={"a": 1})), "its metadata are not texts"),
    "not a number": (tensors(value(NORM, np.nan)), "norm.weight holds numbers that are not finite"),
    "infinity": (tensors(value("model.layers.1.mlp.up_proj.weight", np.inf)), "up_proj.weight holds numbers that are"),
    "one missing": (tensors(lambda a: a.pop(NORM)), r"missing: norm.weight \(32,\)"),
    "one too many": (tensors(lambda a: a.update(x=np.ones(3))), r"unexpected: x \(3,\)"),
    "two exchanged": (
        tensors(swap("model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight")),
        r"(?s)k_proj.weight should be \(16, 32\), and is \(32, 32\).*q_proj.weight should be \(32, 32\)",
    ),
    "whole numbers": (tensors(lambda a: a.update({NORM: np.ones(32, np.int64)})), "norm.weight has dtype I64"),
    "the head not tied": (
        tensors(lambda a: a.update({"lm_head.weight": a["model.embed_tokens.weight"] + 1})),
        "should be the same, as config.json ties them, but they differ",
    ),
    "with the prefix and without": (tensors(lambda a: a.update({"norm.weight": a[NORM]})), "norm.weight stands twice"),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_a_damaged_file_of_weights_is_refused(name, folder):
    damage, message = SAFETENSORS[name]
    load_model(folder)
    damage(folder)
    refused(folder, message)


# -- config.json -------------------------------------------------------------------------------------------------------


def setting(**changes):
    def damage(folder):
        file = folder / "config.json"
        content = {name: v for name, v in (json.loads(file.read_text()) | changes).items() if v != "absent"}
        file.write_text(json.dumps(content))

    return damage


CONFIG = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json: no such file"),
    "an empty config": (lambda f: (f / "config.json").write_text(""), "config.json: not valid JSON"),
    "a config that is a list": (lambda f: (f / "config.json").write_text("[]"), "config.json: not a JSON object"),
    "a config of brackets": (lambda f: (f / "config.json").write_text("[" * 200_000), "config.json: not valid JSON"),
    "no UTF-8 there": (lambda f: (f / "config.json").write_bytes(b"\xff"), "config.json: not valid JSON"),
    "no architecture": (setting(model_type="absent"), "has no model_type"),
    "an unknown architecture": (setting(model_type="mamba"), "holds a 'mamba' model; known are gpt2, llama"),
    "another architecture": (setting(model_type="gpt2"), "config.json lacks"),
    "Qwen3 instead of Llama": (setting(model_type="qwen3"), "missing: layers.0.self_attn.k_norm.weight"),
    "no sizes": (setting(hidden_size="absent"), "config.json lacks hidden_size"),
    "a width of 10^12": (setting(hidden_size=10**12), "says channels = 1,000,000,000,000"),
    "a vocabulary of 10^12": (setting(vocab_size=10**12), "says vocab_size = 1,000,000,000,000"),
    "10^9 layers": (setting(num_hidden_layers=10**9), "says layers = 1,000,000,000"),
    "heads of 10^9 channels": (setting(head_dim=10**9), "says head_channels = 1,000,000,000"),
    "10^9 heads": (setting(num_attention_heads=10**9, num_key_value_heads=10**9), "says heads = 1,000,000,000"),
    "a negative width": (setting(hidden_size=-32), "channels=-32 must be at least 1"),
    "a size in words": (setting(hidden_size="many"), "what stands for channels is 'many'"),
    "a size that is a list": (setting(num_hidden_layers=[2]), r"what stands for layers is \[2\]"),
    "a size of a fraction": (setting(hidden_size=32.5), "what stands for channels is 32.5"),
    "an epsilon that is not a number": (setting(rms_norm_eps="small"), "what stands for norm_eps is 'small'"),
    "another activation": (setting(hidden_act="gelu"), "hidden_act = 'gelu'"),
    "a scaling of nothing": (setting(rope_parameters={"rope_type": "yarn"}), "factor=0.0 must be a positive number"),
    "an unknown scaling": (setting(rope_parameters={"rope_type": "longrope", "factor": 2.0}), "kind='longrope'"),
    "a scaling that is a word": (setting(rope_parameters="yarn"), "its rotary scaling is 'yarn'"),
    "a base that is a word": (setting(rope_parameters={"rope_theta": "x"}), "rope_theta"),
    "a base of 10^400": (setting(rope_parameters={"rope_theta": 10**400}), "rope_theta = '1000"),
    "a base without end": (setting(rope_parameters={"rope_theta": float("inf")}), "rope_theta = 'inf'"),
    "a scaling of 10^400": (setting(rope_parameters={"rope_type": "linear", "factor": 10**400}), "factor = '1000"),
    "a scaling that is true": (setting(rope_parameters={"rope_type": "linear", "factor": True}), "factor = 'True'"),
    "a scaling without a kind": (setting(rope_parameters={"rope_type": None, "factor": 2.0}), "rope_type = None"),
    "a scaled context of 10^400": (
        setting(rope_parameters={"rope_type": "yarn", "factor": 2.0}, original_max_position_embeddings=10**400),
        "original_max_position_embeddings = '1000",
    ),
    "an epsilon of 10^400": (setting(rms_norm_eps=10**400), "what stands for norm_eps is 1000"),
    "an epsilon without end": (setting(rms_norm_eps=float("inf")), "norm_eps is inf, which is not finite"),
    "an epsilon that is not a number at all": (setting(rms_norm_eps=float("nan")), "norm_eps is nan"),
    "10^12 positions": (setting(max_position_embeddings=10**12), "says context = 1000000000000; more than"),
    "a window of 10^12": (setting(model_type="mistral", sliding_window=10**12), "says window = 1000000000000; more"),
    "10^12 layers with windows": (
        setting(model_type="qwen2", use_sliding_window=True, sliding_window=8, num_hidden_layers=10**12),
        "does not give all layers a sliding window",
    ),
    "windows of 10^12 layers": (
        setting(model_type="qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=10**12),
        r"missing: layers.0.self_attn.k_proj.bias",
    ),
    "an unknown kind of layer": (
        setting(model_type="qwen2", use_sliding_window=True, sliding_window=8, layer_types=["strange"] * 2),
        "does not give all layers a sliding window",
    ),
    "999 layers": (setting(num_hidden_layers=999), "more numbers than the file could hold"),
}


@pytest.mark.parametrize("name", CONFIG)
def test_a_lying_configuration_is_refused(name, folder):
    damage, message = CONFIG[name]
    damage(folder)
    refused(folder, message)


def test_a_pickle_is_never_opened(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "a pickle, which can run any program when it is opened; save the model as safetensors")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("other.safetensors", "other.safetensors: no such folder or file"),
        ("pytorch_model.bin", "a pickle, which can run any program"),
        ("model.pt", "a pickle, which can run any program"),
        ("notes.txt", "holds no model; give a Hugging Face folder, a .safetensors file or a .gguf file"),
        ("model.gguf", "begins with b'hell', not with b'GGUF'"),
        ("config.json", "holds no model; give"),
    ],
)
def test_a_file_that_is_no_model(name, message, folder):
    if not name.startswith("other"):
        (folder / name).write_bytes(b"hello")
    refused(folder / name, message)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.gguf")
    refused(tmp_path / "model.gguf", "no such folder or file")


def test_a_file_of_weights_is_read_with_the_configuration_beside_it(folder):
    (folder / "model.safetensors").rename(folder / "best.safetensors")
    refused(folder, "model.safetensors: no such file")
    load_model(folder / "best.safetensors")
    (folder / "config.json").unlink()
    refused(folder / "best.safetensors", "config.json: no such file")


def test_weights_that_are_not_there(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, "model.safetensors: no such file")


def test_a_gpt_with_a_position_too_few(tmp_path):
    GPT(GPTConfig(40, 16, 32, 1, 4)).save_pretrained(tmp_path)
    setting(n_positions=17)(tmp_path)
    refused(tmp_path, r"wpe.weight should be \(17, 32\), and is \(16, 32\)")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (GPT(GPTConfig(40, 16, 32, 1, 4)), "n_positions"),
        (Bert(BertConfig(40, 16, 32, 1, 4, 32)), "max_position_embeddings"),
        (Bert(BertConfig(40, 16, 32, 1, 4, 32)), "type_vocab_size"),
        (DistilBert(DistilBertConfig(40, 16, 32, 1, 4, 32)), "max_position_embeddings"),
    ],
)
def test_a_table_of_positions_that_the_file_has_not(model, name, tmp_path):
    model.save_pretrained(tmp_path)
    setting(**{name: 10**9})(tmp_path)
    refused(tmp_path, "more numbers than the file could hold")


# -- several files -----------------------------------------------------------------------------------------------------


@pytest.fixture
def sharded(tmp_path):
    path = tmp_path / "model"
    Llama(LlamaConfig(**SIZES)).save_pretrained(path, shard=12_000)
    load_model(path)
    return path


def index(change):
    def damage(folder):
        file = folder / "model.safetensors.index.json"
        content = json.loads(file.read_text())
        changed = change(content, content["weight_map"])
        file.write_text(json.dumps(content if changed is None else changed))

    return damage


def named(file):
    return index(lambda content, files: files.update({NORM: file}))


FIRST, SECOND = "model-00001-of-00006.safetensors", "model-00002-of-00006.safetensors"

INDEX = {
    "a file above": (named("../secret.safetensors"), r"'../secret.safetensors' is not the name of a file"),
    "an absolute path": (named("/etc/passwd"), "'/etc/passwd' is not the name of a file in this folder"),
    "a path of Windows": (named("..\\secret"), "is not the name of a file in this folder"),
    "the folder": (named(".."), "is not the name of a file in this folder"),
    "no name": (named(""), "is not the name of a file in this folder"),
    "a number": (named(7), "has no weight_map from tensors to files"),
    "a file that is not there": (
        index(lambda content, files: files.update(dict.fromkeys(files, "other.safetensors"))),
        "other.safetensors: no such file",
    ),
    "no map": (index(lambda content, files: {}), "has no weight_map"),
    "a map that is a list": (index(lambda content, files: {"weight_map": []}), "has no weight_map"),
    "a list": (index(lambda content, files: []), "not a JSON object"),
    "a tensor left out": (index(lambda content, files: files.pop(NORM) and None), "holds other tensors than"),
    "a tensor in the wrong file": (named(FIRST), "holds other tensors than model.safetensors.index.json says"),
    "a tensor that no file has": (index(lambda content, files: files.update(x=FIRST)), "holds other tensors than"),
    "a file lost": (lambda f: (f / SECOND).unlink(), f"{SECOND}: no such file"),
    "a file cut short": (lambda f: (f / SECOND).write_bytes((f / SECOND).read_bytes()[:900]), "its header|its tensors"),
    "a file for another": (lambda f: (f / SECOND).write_bytes((f / FIRST).read_bytes()), "holds other tensors than"),
}


@pytest.mark.parametrize("name", INDEX)
def test_a_damaged_index_is_refused(name, sharded):
    damage, message = INDEX[name]
    damage(sharded)
    refused(sharded, message)


@pytest.mark.skipif(os.name == "nt", reason="Windows lets only some make links")
def test_a_link_to_itself_is_refused(sharded):
    (sharded / SECOND).unlink()
    (sharded / SECOND).symlink_to(SECOND)
    refused(sharded, f"{SECOND}: no such file")
