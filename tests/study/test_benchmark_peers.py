"""What the benchmarks compare with computes exactly the same: PyTorch, tiktoken, Hugging Face's tokenizers."""

import numpy as np
import pytest

from tinygrad_llm.models import GPT, GPTConfig, Llama, LlamaConfig
from tinygrad_llm.study.benchmarks import ours, peers, tokenizer_ours, tokenizer_peers
from tinygrad_llm.study.benchmarks.cases import Case, gpt_sizes
from tinygrad_llm.study.benchmarks.job import agree
from tinygrad_llm.study.benchmarks.torch_models import torch_model
from tinygrad_llm.tensor import registry

TINY = gpt_sizes(2, 16, 2, 8, 23)
LLAMA = {
    "vocab_size": 23,
    "context": 8,
    "channels": 16,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "feed_forward": 24,
}
MODELS = {"GPT": (GPT, GPTConfig, TINY), "Llama": (Llama, LlamaConfig, LLAMA)}
SHAPES = {
    "attention": [2, 2, 5, 4],
    "embedding": [7, 6],
    "einsum": [3, 4],
    "getitem": [7, 6],
    "gru": [3, 5, 4],
    "lstm": [3, 5, 4],
    "lstm_cell": [5, 8],
    "rnn": [3, 5, 4],
    "self_attention": [2, 5, 12],
}


def case(kind, **sizes):
    return Case("", "", kind, sizes, ())


def same(peer, made):
    mine, theirs = ours.job(made), peers.job(peer, made)
    assert agree(mine.checks, theirs.checks), (mine.checks, theirs.checks)
    mine.before()
    theirs.before()
    for job in (mine, theirs):
        job.run()
    return mine, theirs


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="torch is not installed: pip install 'tinygrad-llm[peers]'")


def test_every_operation_that_torch_has(torch):
    for name in peers.torch_operations(torch):
        if name not in registry:
            continue
        shape = SHAPES.get(name, [5, 6])
        for backward in (False, True):
            same("torch", case("operation", operation=name, shape=shape, backward=backward))


@pytest.mark.parametrize("name", ["gru", "lstm", "rnn"])
def test_torch_has_recurrent_weights_as_it_keeps_them(torch, monkeypatch, name):
    given = []
    function = {"gru": "gru", "lstm": "lstm", "rnn": "rnn_tanh"}[name]
    real = getattr(torch, function)
    monkeypatch.setattr(torch, function, lambda *arguments: given.append(arguments) or real(*arguments))
    peers.job("torch", case("operation", operation=name, shape=[3, 5, 4], backward=True)).run()
    for x, states, weights, *_ in given:
        of_x, of_h, *biases = weights
        assert of_x.shape == of_h.shape == (len(biases[0]), 4)
        tensors = (x, *(states if name == "lstm" else (states,)), *weights)
        assert all(tensor.is_contiguous() for tensor in tensors)
    assert len(given) >= 3


def test_an_operation_without_an_equal(torch):
    with pytest.raises(peers.NoEqual, match="torch has no equal of dropout"):
        peers.job("torch", case("operation", operation="dropout", shape=[3, 4], backward=False))


def test_adamw_and_clipping(torch):
    for kind in ("adamw", "clip"):
        mine, theirs = same("torch", case(kind, shapes=[[30, 40], [50]]))
        assert mine.moved
        assert len(theirs.checks) == len(mine.checks)


def test_the_same_model_takes_the_same_steps(torch):
    mine, theirs = same("torch", case("train", config=TINY, batch=3))
    np.testing.assert_allclose([loss for loss, _ in mine.checks], [loss for loss, _ in theirs.checks], rtol=1e-5)
    for _ in range(20):
        a, b = mine.run(), theirs.run()
    np.testing.assert_allclose(a, b, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_the_model_has_our_weights(torch, name):
    kind, configure, sizes = MODELS[name]
    config = configure(**sizes)
    model = kind(config)
    found = torch_model(torch, model, config)
    assert sum(p.numel() for p in found.parameters()) == model.parameter_count()
    ids = np.arange(8)[None]
    with torch.no_grad():
        x = found.hidden(torch.from_numpy(ids)).numpy()
    np.testing.assert_allclose(x, model.hidden(ids).data, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_decoding_yields_the_same_tokens(torch, monkeypatch, name):
    monkeypatch.setattr(ours, "PROMPT", 3)
    made = case("decode", model=name, config=MODELS[name][2], weights="float32")
    mine, theirs = ours.job(made), peers.job("torch", made)
    assert agree(mine.checks, theirs.checks)
    theirs.before()
    mine.before()
    tokens = [int(mine.run()[0]) for _ in range(4)]
    assert [int(theirs.run().argmax()) for _ in range(4)] == tokens


SIZES = {"text": "documentation", "size": 4000, "vocabulary": 320, "length": 20}


@pytest.mark.parametrize("kind", ["encode", "encode anew", "calls", "decode ids", "batch", "build"])
@pytest.mark.parametrize("name", ["tiktoken", "tokenizers", "gigatoken"])
def test_tokenizers_give_the_same_tokens(name, kind):
    pytest.importorskip(name, reason=f"{name} is not installed: {peers.remedy(name)}")
    if (kind == "build" and name != "tiktoken") or (kind == "batch" and name == "tokenizers"):
        pytest.skip("they have no part in it")
    same(name, case(kind, **SIZES))


@pytest.mark.parametrize("name", ["tokenizers", "rustbpe", "bpeasy"])
def test_tokenizers_learn_as_much(monkeypatch, name):
    pytest.importorskip(name, reason=f"{name} is not installed: {peers.remedy(name)}")
    monkeypatch.setattr(tokenizer_ours, "LEARNED", 320)
    monkeypatch.setattr(tokenizer_peers, "LEARNED", 320)
    same(name, case("learn", **SIZES))


def test_what_is_missing_is_said(monkeypatch):
    with pytest.raises(ValueError, match="--against jax: unknown; expected all, or some of torch, tiktoken"):
        peers.chosen_peers(("jax",))
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None if name != "tiktoken" else "there")
    assert peers.chosen_peers(("all",)) == ("tiktoken",)
    assert peers.chosen_peers(("tiktoken",)) == ("tiktoken",)
    with pytest.raises(ValueError, match="--against gigatoken: it is not installed here; pip install gigatoken"):
        peers.chosen_peers(("gigatoken",))
    with pytest.raises(ValueError, match=r"--against torch: it is not installed here; pip install '\.\[peers\]'"):
        peers.chosen_peers(("torch",))
