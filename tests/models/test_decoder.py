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
