"""The same operations in PyTorch: equal values and equal gradients, for random inputs and cotangents, in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import Tensor, ops

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install '.[peers]'")
F = torch.nn.functional

CASES = {
    "add": (ops.add, torch.add, "nb"),
    "sub": (ops.sub, torch.sub, "nb"),
    "mul": (ops.mul, torch.mul, "nb"),
    "div": (ops.div, torch.div, "np"),
    "neg": (ops.neg, torch.neg, "n"),
    "power": (ops.power, torch.pow, "pb"),
    "power, x >= 0, whole y": (ops.power, torch.pow, "zw"),
    "power 0": (lambda x: ops.power(x, 0), lambda x: torch.pow(x, 0), "k"),
    "power 1": (lambda x: ops.power(x, 1), lambda x: torch.pow(x, 1), "k"),
    "power 2": (lambda x: ops.power(x, 2), lambda x: torch.pow(x, 2), "k"),
    "power 3": (lambda x: ops.power(x, 3), lambda x: torch.pow(x, 3), "k"),
    "power 0.5": (lambda x: ops.power(x, 0.5), lambda x: torch.pow(x, 0.5), "p"),
    "power -1": (lambda x: ops.power(x, -1), lambda x: torch.pow(x, -1), "p"),
    "number to the power": (lambda x: ops.power(2.5, x), lambda x: torch.pow(2.5, x), "n"),
    "exp": (ops.exp, torch.exp, "n"),
    "log": (ops.log, torch.log, "p"),
    "sqrt": (ops.sqrt, torch.sqrt, "p"),
    "tanh": (ops.tanh, torch.tanh, "h"),
    "sigmoid": (ops.sigmoid, torch.sigmoid, "h"),
    "relu": (ops.relu, torch.relu, "k"),
    "gelu": (ops.gelu, lambda x: F.gelu(x, approximate="tanh"), "h"),
    "gelu exact": (lambda x: ops.gelu(x, approximate=False), F.gelu, "h"),
    "silu": (ops.silu, F.silu, "h"),
    # beyond a threshold (20 by default) PyTorch returns x itself, which is not the function
    "softplus": (ops.softplus, lambda x: F.softplus(x, threshold=1000), "h"),
    "abs": (ops.abs, torch.abs, "k"),
    "clip": (lambda x: ops.clip(x, -1, 1), lambda x: torch.clamp(x, -1, 1), "k"),
    "clip low": (lambda x: ops.clip(x, low=0.0), lambda x: torch.clamp(x, min=0.0), "k"),
    "clip high": (lambda x: ops.clip(x, high=1), lambda x: torch.clamp(x, max=1), "k"),
    "clip crossed": (lambda x: ops.clip(x, 1, -1), lambda x: torch.clamp(x, 1, -1), "k"),
    "where": (
        lambda x, y: ops.where(np.arange(4) % 3 == 0, x, y),
        lambda x, y: torch.where(torch.arange(4) % 3 == 0, x, y),
        "nb",
    ),
    "sum": (ops.sum, torch.sum, "n"),
    "sum axes": (lambda x: ops.sum(x, axis=(0, -1)), lambda x: x.sum((0, -1)), "n"),
    "mean": (ops.mean, torch.mean, "n"),
    "mean axis": (lambda x: ops.mean(x, axis=1, keepdims=True), lambda x: x.mean(1, keepdim=True), "n"),
    "max": (ops.max, torch.amax, "k"),
    "max axes": (lambda x: ops.max(x, axis=(0, -1)), lambda x: torch.amax(x, (0, -1)), "k"),
    "softmax": (ops.softmax, lambda x: torch.softmax(x, -1), "h"),
    "softmax axis": (lambda x: ops.softmax(x, axis=1), lambda x: torch.softmax(x, 1), "h"),
    "log_softmax": (ops.log_softmax, lambda x: torch.log_softmax(x, -1), "h"),
    "log_softmax axis": (lambda x: ops.log_softmax(x, axis=0), lambda x: torch.log_softmax(x, 0), "h"),
    "logsumexp": (ops.logsumexp, lambda x: torch.logsumexp(x, -1), "h"),
    "logsumexp axis": (
        lambda x: ops.logsumexp(x, axis=-2, keepdims=True),
        lambda x: torch.logsumexp(x, -2, keepdim=True),
        "h",
    ),
    "softmax of huge logits": (lambda x: ops.softmax(x * 1e4), lambda x: torch.softmax(x * 1e4, -1), "k"),
    "log_softmax of huge logits": (lambda x: ops.log_softmax(x * 1e4), lambda x: torch.log_softmax(x * 1e4, -1), "k"),
    "reshape": (lambda x: ops.reshape(x, (4, -1)), lambda x: x.reshape(4, -1), "n"),
    "transpose": (lambda x: ops.transpose(x, (1, 2, 0)), lambda x: x.permute(1, 2, 0), "n"),
    "concatenate": (lambda x, y: ops.concatenate(x, y, axis=1), lambda x, y: torch.cat([x, y], 1), "nn"),
    "stack": (lambda x, y: ops.stack(x, y, axis=-2), lambda x, y: torch.stack([x, y], -2), "nn"),
    "split": (lambda x: ops.split(x, [1, 3], axis=-1), lambda x: torch.tensor_split(x, [1, 3], -1), "n"),
    "pad": (
        lambda x: ops.pad(x, ((0, 1), (2, 0), (1, 3)), value=5.0),
        lambda x: F.pad(x, (1, 3, 2, 0, 0, 1), value=5.0),
        "n",
    ),
}
SHAPE = (2, 3, 4)
DRAW = {
    "n": lambda rng: rng.standard_normal(SHAPE),
    "h": lambda rng: 10 * rng.standard_normal(SHAPE),
    "p": lambda rng: rng.uniform(0.2, 3, SHAPE),
    "b": lambda rng: rng.standard_normal((3, 1)),  # is broadcast
    "k": lambda rng: rng.integers(-2, 3, SHAPE).astype(float),  # on the kinks, and with ties
    "z": lambda rng: rng.integers(0, 3, SHAPE).astype(float),
    "w": lambda rng: rng.integers(0, 3, SHAPE).astype(float),
}


def flat(result):
    return list(result) if isinstance(result, (tuple, list)) else [result]


@pytest.mark.parametrize("name", CASES)
@given(seed=st.integers(0, 2**32 - 1))
def test_values_and_gradients_equal_pytorch(name, seed):
    ours, theirs, kinds = CASES[name]
    rng = np.random.default_rng(seed)
    arrays = [DRAW[kind](rng) for kind in kinds]
    leaves = [Tensor(a, requires_grad=True) for a in arrays]
    peers = [torch.tensor(a, requires_grad=True) for a in arrays]
    results, expected = flat(ours(*leaves)), flat(theirs(*peers))
    dys = [rng.standard_normal(r.shape) for r in results]
    for result, peer in zip(results, expected, strict=True):
        np.testing.assert_allclose(result.data, peer.detach().numpy(), rtol=1e-10, atol=1e-10)
    torch.autograd.backward(expected, [torch.tensor(dy) for dy in dys])
    total = Tensor(0.0)
    for result, dy in zip(results, dys, strict=True):
        total = total + ops.sum(result * dy)  # so each result receives its dy
    total.backward()
    for leaf, peer in zip(leaves, peers, strict=True):
        np.testing.assert_allclose(leaf.grad, peer.grad.numpy(), rtol=1e-10, atol=1e-10)
