"""A derivative by hand, against the tape: one neuron, one softmax, and a value that is used twice.

Each section derives the gradient on paper (in the comments; the numbers are chosen so that a pencil is enough),
computes it line by line, and prints it beside the tape's gradient and a finite difference. Then `tg.gradcheck` repeats
the comparison, to nine digits, with random cotangents: there the loss is not the end, but something that depends on it
with a random slope, so all the gradients it prints are that slope times ours.

Under 1 s on one thread of a 2-core machine; final loss 1.3863 (= ln 4, of the softmax in section 2).
"""

import math

import numpy as np

import tinygrad_llm as tg
from tinygrad_llm import Tensor, ops


def finite_difference(function, values, name, step=1e-6):
    """(f(v + h) - f(v - h)) / 2h: the slope of the chord, an error of the order h^2 away from the derivative."""
    up, down = dict(values), dict(values)
    up[name] += step
    down[name] -= step
    return (float(function(**up)) - float(function(**down))) / (2 * step)


def compare(function, by_hand, **values):
    """Print, for each value, the derivative by hand, from the tape, and as a finite difference."""
    leaves = {name: Tensor(value, requires_grad=True) for name, value in values.items()}
    function(**leaves).backward()
    print(f"  {'':8}{'by hand':>12}{'tape':>12}{'finite difference':>20}")
    for name, hand in by_hand.items():
        tape, slope = leaves[name].grad.item(), finite_difference(function, values, name)
        assert math.isclose(hand, tape, rel_tol=1e-12), f"d{name}: {hand} by hand, {tape} from the tape"
        assert math.isclose(hand, slope, rel_tol=1e-6), f"d{name}: {hand} by hand, {slope} as a finite difference"
        print(f"  d{name:7}{hand:12.6f}{tape:12.6f}{slope:20.6f}")
    print(tg.gradcheck(function, *values.values(), names=tuple(values)), end="\n\n")


# ---- 1. One neuron with a squared error: loss = (tanh(w x + b) - 1)^2


def neuron(w, x, b):
    h = ops.tanh(w * x + b)
    return (h - 1) ** 2


def one_neuron():
    print("1. One neuron: u = w x + b,  h = tanh(u),  loss = (h - 1)^2")
    w, x, b = math.log(3), 0.5, 0.0
    # Forward. tanh(u) = (e^2u - 1) / (e^2u + 1), and e^2u = e^(ln 3) = 3, so h = 2/4.
    u = w * x + b  # ln(3)/2
    h = math.tanh(u)  # 1/2
    loss = (h - 1) ** 2  # 1/4
    # Backward: the chain rule from the loss to the leaves. `dv` is short for dloss/dv.
    dh = 2 * (h - 1)  # -1      the square
    du = dh * (1 - h**2)  # -3/4    tanh' = 1 - tanh^2
    dw = du * x  # -3/8    u = w x + b is linear in each: its slope in w is x,
    dx = du * w  # -3/4 ln 3                              in x it is w,
    db = du  # -3/4                                    in b it is 1
    print(f"  loss {loss:.6f}")
    compare(neuron, {"w": dw, "x": dx, "b": db}, w=w, x=x, b=b)


# ---- 2. Softmax and cross-entropy of one row: what every language model ends with


def softmax_cross_entropy():
    print("2. Three logits, the second is the target: p = softmax(x),  loss = -log p_1")
    x = np.log([1.0, 2.0, 5.0])
    target = 1
    # Forward: the exponentials are 1, 2 and 5, and their sum is 8.
    p = np.exp(x) / np.exp(x).sum()  # 1/8  2/8  5/8
    loss = -np.log(p[target])  # ln 4
    # Backward. loss = -x_1 + log sum_k e^x_k. The first term has the slope -1 in x_1, and 0 in the others; the second
    # has e^x_j / sum_k e^x_k = p_j in x_j. Together: dx = p - onehot. What was predicted, minus what came.
    dx = p.copy()  # 1/8  2/8      5/8
    dx[target] -= 1  # 1/8  2/8 - 1  5/8
    logits = Tensor(x, requires_grad=True)
    ops.cross_entropy(logits, target).backward()
    print(f"  p       {p}\n  by hand {dx}\n  tape    {logits.grad}")
    print(f"  The gradient's sum is {dx.sum():.0f}: adding one number to all logits changes no probability.")
    print(tg.gradcheck(lambda logits: ops.cross_entropy(logits, target), x, names=("logits",)), end="\n\n")
    assert np.allclose(dx, logits.grad, rtol=0, atol=1e-15)
    return loss


# ---- 3. A diamond: one value, two ways to the result


def diamond(x):
    a = x + 1
    left = a * a
    right = 5 * a
    return left * right


def used_twice():
    print("3. A diamond: a = x + 1,  left = a a,  right = 5 a,  y = left right")
    x = 1.0
    a = x + 1  # 2
    left, right = a * a, 5 * a  # 4, 10
    # Move a by a small e. left moves by 2a e = 4e, and so y by 4e right = 40e. right moves by 5e, and so y by 5e left =
    # 20e. Both happen at once, so y moves by 60e (and by terms in e^2, which do not count). That is why contributions
    # add: a is one number that acts through two ways. (And 5 a^3, which y is, has the slope 15 a^2 = 60.)
    dleft, dright = right, left  # y = left right
    through_left = dleft * a + dleft * a  # 40; a small diamond of its own: both factors of a a are a
    through_right = dright * 5  # 20
    da = through_left + through_right
    dx = da  # a = x + 1
    print(f"  da = {through_left:.0f} (through left) + {through_right:.0f} (through right)")
    compare(diamond, {"x": dx}, x=x)


def main():
    one_neuron()
    loss = softmax_cross_entropy()
    used_twice()
    print(f"final loss {loss:.4f}")


if __name__ == "__main__":
    main()
