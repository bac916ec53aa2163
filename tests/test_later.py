"""Gradients of parameters that are worked out later are the same."""

import numpy as np
import pytest

from tinygrad_llm import Tensor, ops
from tinygrad_llm.later import put_off
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.operation import Operation, checkpoint

CONFIG = GPTConfig(vocab_size=30, context=6, channels=8, layers=2, heads=2)
IDS = np.arange(12).reshape(2, 6)


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("recomputed", [False, True])
def test_they_are_the_same_and_come_when_they_are_asked_for(recomputed):
    def loss(model):
        return checkpoint(lambda: model.loss(IDS, IDS[:, ::-1])) if recomputed else model.loss(IDS, IDS[:, ::-1])

    expected, model = GPT(CONFIG, seed=1), GPT(CONFIG, seed=1)
    loss(expected).backward()
    with put_off(model.parameters()) as later:
        loss(model).backward()
    assert all(gradient is None for gradient in gradients(model).values())
    later.run()
    for name, gradient in gradients(expected).items():
        np.testing.assert_array_equal(gradients(model)[name], gradient, err_msg=name)
    later.run()
    for name, gradient in gradients(expected).items():
        np.testing.assert_array_equal(gradients(model)[name], gradient, err_msg=f"{name}: nothing is left to do")


def test_others_get_theirs_at_once():
    x, w = Tensor(np.ones((3, 2)), requires_grad=True), Tensor(np.full((2, 4), 2.0), requires_grad=True)
    with put_off([w]) as later:
        ops.matmul(x, w).sum().backward()
    np.testing.assert_array_equal(x.grad, np.full((3, 2), 8.0))
    assert w.grad is None
    later.run()
    np.testing.assert_array_equal(w.grad, np.full((2, 4), 3.0))


def test_what_arrives_in_between_changes_nothing():
    x, w, b = (Tensor(np.array(value), requires_grad=True) for value in ([1.0, 2.0], [3.0, 5.0], [0.0, 0.0]))
    with put_off([w, b]) as later:
        y = x * w + b
        y.backward(np.array([1.0, 1.0]))
    x.grad *= 100  # a gradient is its leaf's own: what is put off does not see it
    later.run()
    w.grad *= 100
    np.testing.assert_array_equal(w.grad, [100, 200])
    np.testing.assert_array_equal(b.grad, [1, 1])


def test_a_gradient_is_its_leafs_own():
    def shifted(x, b):
        def vjp(dy):
            dx = dy * 2
            return dx, lambda: dx

        return 2 * (x + b), vjp

    x, b, c = (Tensor(np.zeros(2), requires_grad=True) for _ in range(3))
    with put_off([b]) as later:
        Operation(shifted)(x, b).backward(np.ones(2))
    x.grad *= 100
    later.run()
    np.testing.assert_array_equal(b.grad, [2, 2])
    b.grad = None
    with put_off([b, c]) as later:
        (b + c).backward(np.ones(2))
    later.run()
    b.grad *= 100
    np.testing.assert_array_equal(c.grad, [1, 1])


def test_the_order_of_several_uses_is_kept():
    big, small = np.float32(2**24), np.float32(1)
    results = []
    for later_too in (False, True):
        w = Tensor(np.ones(1, np.float32), requires_grad=True)
        uses = [w * small, w * small, w * big]
        total = uses[0] + uses[1] + uses[2]
        if later_too:
            with put_off([w]) as later:
                total.backward(np.ones(1, np.float32))
            later.run()
        else:
            total.backward(np.ones(1, np.float32))
        results.append(w.grad.copy())
    np.testing.assert_array_equal(results[0], results[1])
    assert results[0] == big, "the small ones come last, one after the other, and are lost"
