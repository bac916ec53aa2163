"""The operations of a transformer's blocks against PyTorch: values and all gradients, in float64."""

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm.ops import (
    attention,
    cross_entropy,
    einsum,
    embedding,
    getitem,
    layer_norm,
    linear,
    matmul,
    rms_norm,
)

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install '.[peers]'")
F = torch.nn.functional
TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


def agree(ours, theirs, *arrays, seed=0):
    """Both functions of `arrays` have equal values, and equal gradients for a random cotangent."""
    tensors = [tg.Tensor(a.copy(), requires_grad=True) for a in arrays]
    torches = [torch.tensor(a, requires_grad=True) for a in arrays]
    y, expected = ours(*tensors), theirs(*torches)
    np.testing.assert_allclose(y.data, expected.detach().numpy(), **TOLERANCE)
    dy = np.asarray(np.random.default_rng(seed).standard_normal(y.shape))
    y.backward(dy)
    gradients = torch.autograd.grad(expected, torches, torch.tensor(dy))
    for tensor, gradient in zip(tensors, gradients, strict=True):
        np.testing.assert_allclose(tensor.grad, gradient.numpy(), **TOLERANCE)


@pytest.fixture
def normal():
    rng = np.random.default_rng(1)
    return lambda *shape: rng.standard_normal(shape)


def test_linear(normal):
    agree(linear, lambda x, w, b: F.linear(x, w.T, b), normal(2, 5, 8), normal(8, 7), normal(7))
    agree(linear, lambda x, w: F.linear(x, w.T), normal(3, 8), normal(8, 7))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ((3, 4), (4, 5)),
        ((4,), (4,)),
        ((4,), (2, 4, 5)),
        ((2, 3, 4), (4,)),
        ((2, 1, 3, 4), (6, 4, 5)),
        ((2, 3, 4), (4, 5)),
    ],
)
def test_matmul(normal, x, y):
    agree(matmul, torch.matmul, normal(*x), normal(*y))


@pytest.mark.parametrize(
    ("subscripts", "shapes"),
    [
        ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
        ("bthd,bshd->bhts", [(2, 3, 2, 4), (2, 5, 2, 4)]),
        ("ii->i", [(4, 4)]),
        ("iij,j->i", [(3, 3, 4), (4,)]),
        ("ij,kl->l", [(2, 3), (4, 5)]),
        ("...i,ij->...j", [(2, 3, 4), (4, 5)]),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 2)]),
    ],
)
def test_einsum(normal, subscripts, shapes):
    arrays = [normal(*shape) for shape in shapes]
    agree(lambda *xs: einsum(subscripts, *xs), lambda *xs: torch.einsum(subscripts, *xs), *arrays)


def test_embedding(normal):
    ids = np.random.default_rng(2).integers(0, 10, (4, 20))
    agree(lambda w: embedding(w, ids), lambda w: F.embedding(torch.tensor(ids), w), normal(10, 6))


@pytest.mark.parametrize(
    "index",
    [
        2,
        (slice(None), slice(1, 4, 2)),
        (Ellipsis, None, 1),
        np.array([[0, 3, 3], [-1, 0, 2]]),
        (slice(1, 3), np.array([0, 0, 4])),
        (np.array([0, 0, 1]), np.array([4, 4, 2])),
        np.arange(20).reshape(4, 5) % 3 == 0,
    ],
    ids=repr,
)
def test_getitem(normal, index):
    def as_torch(part):
        return torch.tensor(part) if isinstance(part, np.ndarray) else part

    theirs = tuple(map(as_torch, index)) if isinstance(index, tuple) else as_torch(index)
    agree(lambda x: getitem(x, index), lambda x: x[theirs], normal(4, 5, 3))


@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_layer_norm(normal, eps):
    arrays = normal(2, 5, 8), normal(8), normal(8)
    agree(lambda *a: layer_norm(*a, eps=eps), lambda x, g, b: F.layer_norm(x, (8,), g, b, eps), *arrays)


@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_rms_norm(normal, eps):
    agree(lambda *a: rms_norm(*a, eps=eps), lambda x, g: F.rms_norm(x, (8,), g, eps), normal(2, 5, 8), normal(8))


def bottom_right(queries, keys):
    """PyTorch's is_causal aligns the sequences at their beginning; ours end together."""
    return torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize("case", ["plain", "causal", "cached", "boolean", "added", "scaled"])
def test_attention(normal, case, heads, kv_heads):
    queries, keys = {"causal": (5, 5), "cached": (2, 5)}.get(case, (3, 4))
    rng = np.random.default_rng(3)
    boolean = rng.random((2, 1, queries, keys)) < 0.7
    boolean[..., 0] = True  # PyTorch has no answer for a row that sees nothing
    added = rng.standard_normal((heads, queries, keys))
    ours, theirs = {
        "plain": ({}, {}),
        "causal": ({"causal": True}, {"is_causal": True}),
        "cached": ({"causal": True}, {"attn_mask": bottom_right(queries, keys)}),
        "boolean": ({"mask": boolean}, {"attn_mask": torch.tensor(boolean)}),
        "added": ({"mask": added}, {"attn_mask": torch.tensor(added)}),
        "scaled": ({"scale": 0.3}, {"scale": 0.3}),
    }[case]
    agree(
        lambda q, k, v: attention(q, k, v, **ours),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **theirs),
        normal(2, heads, queries, 8),
        normal(2, kv_heads, keys, 8),
        normal(2, kv_heads, keys, 8),
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("ignore_index", [-100, 3])
def test_cross_entropy(normal, reduction, smoothing, ignore_index):
    targets = np.random.default_rng(4).integers(0, 9, 30)
    targets[::4] = ignore_index
    options = {"reduction": reduction, "label_smoothing": smoothing, "ignore_index": ignore_index}
    agree(
        lambda x: cross_entropy(x, targets, **options),
        lambda x: F.cross_entropy(x, torch.tensor(targets), **options),
        3 * normal(30, 9),
    )


def test_z_loss(normal):
    targets = np.random.default_rng(5).integers(0, 9, 30)

    def theirs(x):
        return F.cross_entropy(x, torch.tensor(targets)) + 0.1 * (torch.logsumexp(x, -1) ** 2).mean()

    agree(lambda x: cross_entropy(x, targets, z_loss=0.1), theirs, 3 * normal(30, 9))
