"""linear_cross_entropy: that it is cross_entropy of a product, in blocks. Gradients: test_every_operation.py."""

import tracemalloc

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm.backend import why_no_kernels
from tinygrad_llm.ops import cross_entropy, fused_losses, linear_cross_entropy, matmul

ROWS, CHANNELS, TOKENS = 600, 5, 7


@pytest.fixture(params=["numpy", "numba"])
def backend(request):
    if request.param == "numba" and (reason := why_no_kernels()):
        pytest.skip(reason)
    with tg.use_backend(request.param):
        yield request.param


@pytest.fixture(params=["one block", "three blocks"])
def several(request, monkeypatch):
    if request.param == "three blocks":
        monkeypatch.setattr(fused_losses, "LOGITS", 1)  # then a block has at most LEAST_ROWS = 256 rows
    return request.param


def arguments(rng, ignored=-100):
    x, weight = rng.standard_normal((3, ROWS // 3, CHANNELS)), rng.standard_normal((TOKENS, CHANNELS))
    targets = rng.integers(0, TOKENS, x.shape[:-1])
    targets[rng.random(targets.shape) < 0.3] = ignored
    return x, weight, targets


def gradients(loss, *leaves):
    for leaf in leaves:
        leaf.grad = None
    loss.backward(np.asarray(-1.7))
    return [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("ignored", [-100, 2])
def test_equals_the_loss_of_the_product(backend, several, reduction, ignored):
    x, weight, targets = arguments(np.random.default_rng(0), ignored)
    leaves = tg.Tensor(x, requires_grad=True), tg.Tensor(weight, requires_grad=True)
    options = {"ignore_index": ignored, "reduction": reduction}
    fused = linear_cross_entropy(*leaves, targets, **options)
    apart = cross_entropy(matmul(leaves[0], leaves[1].T), targets, **options)
    assert fused.shape == ()
    assert fused.item() == pytest.approx(apart.item(), rel=1e-13)
    for a, b in zip(gradients(fused, *leaves), gradients(apart, *leaves), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


def test_the_same_loss_where_no_gradient_is_wanted(backend, several):
    x, weight, targets = arguments(np.random.default_rng(0))
    loss = linear_cross_entropy(tg.Tensor(x, requires_grad=True), weight, targets)
    with tg.no_grad():
        again = linear_cross_entropy(tg.Tensor(x, requires_grad=True), weight, targets)
        value, vjp = linear_cross_entropy.compute(x, weight, targets)
    assert not again.requires_grad
    assert again.item() == pytest.approx(loss.item(), rel=1e-14)
    assert value == again.item()
    loss.backward()
    np.testing.assert_allclose(vjp(np.float64(1))[0], linear_cross_entropy.reference(x, weight, targets)[1](1.0)[0])


def test_only_the_gradient_that_is_wanted_is_needed(backend, several):
    x, weight, targets = arguments(np.random.default_rng(0))
    both = tg.Tensor(x, requires_grad=True), tg.Tensor(weight, requires_grad=True)
    expected = gradients(linear_cross_entropy(*both, targets), *both)
    for position in (0, 1):
        leaves = [tg.Tensor(a, requires_grad=i == position) for i, a in enumerate((x, weight))]
        found = gradients(linear_cross_entropy(*leaves, targets), leaves[position])
        np.testing.assert_allclose(found[0], expected[position], rtol=1e-13, atol=1e-15)
        assert leaves[1 - position].grad is None


def test_a_vjp_may_run_twice(backend, several):
    x, weight, targets = arguments(np.random.default_rng(0))
    _, vjp = linear_cross_entropy.compute(x, weight, targets)
    first, second, halved = ([g() if callable(g) else g for g in vjp(np.float64(dy))] for dy in (1, 1, 0.5))
    for a, b, half in zip(first, second, halved, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(half, a / 2, rtol=1e-14)


def test_blocks_cover_all_rows_and_hold_no_more_than_allowed(monkeypatch):
    weight = np.zeros((50257, 1), np.float32)
    for count in (0, 1, 255, 256, 333, 334, 1000, 4096):
        parts = fused_losses.blocks(count, weight)
        assert [i for p in parts for i in range(p.start, p.stop)] == list(range(count))
        lengths = [p.stop - p.start for p in parts]
        assert max(lengths, default=0) * weight.nbytes <= fused_losses.LOGITS
        assert max(lengths, default=0) - min(lengths, default=0) <= 1
    assert len(fused_losses.blocks(333, weight)) == 1
    assert len(fused_losses.blocks(334, weight)) == 2
    assert len(fused_losses.blocks(256, np.zeros((10**6, 1), np.float32))) == 1
    assert len(fused_losses.blocks(257, np.zeros((10**6, 1), np.float32))) == 2


def test_no_rows(backend):
    x, weight = np.zeros((0, 3)), np.ones((4, 3))
    leaves = tg.Tensor(x, requires_grad=True), tg.Tensor(weight, requires_grad=True)
    loss = linear_cross_entropy(*leaves, np.zeros(0, int))
    assert loss.item() == 0
    dx, dweight = gradients(loss, *leaves)
    assert dx.shape == (0, 3)
    np.testing.assert_array_equal(dweight, np.zeros((4, 3)))


def test_huge_logits_and_ignored_rows_that_are_not_finite(backend):
    x = np.array([[1e4, 0.0], [np.nan, np.inf], [0.0, 1e4]])
    leaves = tg.Tensor(x, requires_grad=True), tg.Tensor(np.eye(2), requires_grad=True)
    with np.errstate(invalid="ignore"):  # inf times 0, in the row that does not count
        loss = linear_cross_entropy(*leaves, np.array([0, -100, 0]), reduction="sum")
        assert loss.item() == 1e4
        dx, _ = gradients(loss, *leaves)
    np.testing.assert_allclose(dx, -1.7 * np.array([[0, 0], [0, 0], [-1, 1]]), atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_stays(backend, dtype):
    x, weight, targets = arguments(np.random.default_rng(0))
    value, vjp = linear_cross_entropy.compute(x.astype(dtype), weight.astype(dtype), targets)
    assert value.dtype == dtype
    assert all((g() if callable(g) else g).dtype == dtype for g in vjp(dtype(0.3)))


def test_errors(backend):
    x, weight, targets = arguments(np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"x \(B=3, T=200, C=5\) and weight \(V=7, C=4\): the last axes must be"):
        linear_cross_entropy(x, weight[:, :4], targets)
    with pytest.raises(ValueError, match="the last axes must be the same C"):
        linear_cross_entropy(x, weight[0], targets)
    with pytest.raises(ValueError, match="linear_cross_entropy: unknown reduction 'none'; expected mean or sum"):
        linear_cross_entropy(x, weight, targets, reduction="none")
    with pytest.raises(ValueError, match=r"linear_cross_entropy: logits \(B=3, T=200, V=7\) and targets \(3, 100\)"):
        linear_cross_entropy(x, weight, targets[:, :100])
    with pytest.raises(TypeError, match="linear_cross_entropy: targets must be whole numbers"):
        linear_cross_entropy(x, weight, targets * 1.0)
    with pytest.raises(IndexError, match="linear_cross_entropy: target 7 is outside the vocabulary of V=7"):
        linear_cross_entropy(x, weight, np.where(targets == 1, 7, targets))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_frozen_weight_gets_no_gradient_and_x_the_same(backend, several, reduction):
    x, weight, targets = arguments(np.random.default_rng(0))
    found = []
    for frozen in (False, True):
        loss, vjp = linear_cross_entropy.compute(x, weight, targets, reduction=reduction, frozen=frozen)
        dx, dweight = vjp(np.asarray(-1.7))
        assert (dweight is None) == frozen
        found.append((loss, dx() if callable(dx) else dx))
    assert found[0][0] == found[1][0]
    np.testing.assert_array_equal(found[0][1], found[1][1])
    with tg.no_grad():
        _, vjp = linear_cross_entropy.compute(x, weight, targets, reduction=reduction, frozen=True)
    dx, dweight = vjp(np.asarray(-1.7))
    assert dweight is None
    np.testing.assert_allclose(dx() if callable(dx) else dx, found[0][1], rtol=1e-11, atol=1e-13)


def test_no_array_of_the_size_of_a_frozen_weight_is_made(backend, several, monkeypatch):
    monkeypatch.setattr(fused_losses, "LEAST_ROWS", 1)  # two rows are two blocks then
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((ROWS, 300)), rng.standard_normal((TOKENS, 300))
    wide = np.concatenate([weight] * 100)  # (700, 300): as large as the logits are small
    targets = rng.integers(0, TOKENS, ROWS)
    made = []

    def most(frozen):
        tracemalloc.start()
        try:
            _, vjp = linear_cross_entropy.compute(x[:2], wide, targets[:2], frozen=frozen)
            made[:] = [g() if callable(g) else g for g in vjp(np.asarray(1.0))]
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    most(True)
    assert most(True) < wide.nbytes / 3
    assert most(False) > wide.nbytes
