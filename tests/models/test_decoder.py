"""What every decoder-only language model has: its loss."""

import numpy as np
import pytest

from tinygrad_llm import no_grad, ops
from tinygrad_llm.models import GPT, GPTConfig, Llama, LlamaConfig
from tinygrad_llm.nn import quantize

IDS = np.array([[1, 4, 2, 0, 3], [5, 1, 1, 2, 4]])
MODELS = {
    "gpt": lambda: GPT(GPTConfig(11, 5, 16, 2, 2)),
    "llama": lambda: Llama(LlamaConfig(11, 5, 16, 2, 4, 2, 20)),
    "llama with its own head": lambda: Llama(LlamaConfig(11, 5, 16, 1, 2, 1, 20, tied=False)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_is_that_of_the_logits(name, reduction):
    model, targets = MODELS[name]().astype(np.float64), IDS[:, ::-1].copy()
    targets[0, 1] = 7
    options = {"ignore_index": 7, "reduction": reduction}
    results = []
    for loss in (
        lambda: model.loss(IDS, targets, **options),
        lambda: ops.cross_entropy(model(IDS), targets, **options),
    ):
        model.zero_grad()
        value = loss()
        value.backward()
        results.append([value.data, *(parameter.grad for parameter in model.parameters())])
    for fused, apart in zip(*results, strict=True):
        np.testing.assert_allclose(fused, apart, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", MODELS)
def test_a_quantised_model_has_a_loss(name):
    model = MODELS[name]().eval()
    with no_grad():
        before = model.loss(IDS, IDS).item()
        quantize(model, "int8")
        after = model.loss(IDS, IDS).item()
        assert after == pytest.approx(ops.cross_entropy(model(IDS), IDS).item(), rel=1e-6)
    assert after == pytest.approx(before, rel=0.01)
    assert after != before


# ---- more tokens


@pytest.mark.parametrize("config", [GPTConfig(9, 8, 4, 1, 1), LlamaConfig(9, 8, 4, 1, 2, 1, 6, tied=False)])
@pytest.mark.parametrize(("first", "count", "rows"), [(9, 2, 11), (7, 1, 9), (6, 5, 11)])
def test_new_tokens_are_means_of_the_others(config, first, count, rows):
    model = (GPT if isinstance(config, GPTConfig) else Llama)(config).astype(np.float64)
    ids = np.arange(first)[None, :8]
    before, tables = model(ids).data, [model.token_embedding.weight.data]
    if model.lm_head is not None:
        tables.append(model.lm_head.weight.data.T)
    model.add_tokens(first, count)
    assert model.config.vocab_size == rows
    after = model(ids).data
    assert after.shape[-1] == rows
    np.testing.assert_allclose(after[..., :first], before[..., :first])
    np.testing.assert_allclose(
        after[..., first : first + count], before[..., :first].mean(-1, keepdims=True).repeat(count, -1)
    )
    np.testing.assert_array_equal(after[..., first + count :], before[..., first + count :])
    grown = [model.token_embedding.weight.data] + ([] if model.lm_head is None else [model.lm_head.weight.data.T])
    for table, new in zip(tables, grown, strict=True):
        assert new.shape == (rows, 4)
        assert new.dtype == np.float64
        np.testing.assert_allclose(new[first : first + count], np.tile(table[:first].mean(0), (count, 1)))
    model.loss(np.full((1, 3), first + count - 1), np.full((1, 3), first)).backward()
    assert all(p.grad.shape == p.shape for p in model.parameters())
