"""An operation of your own: written, derived, checked, and tested, with what you see when its gradient is wrong.

The operation scales each row to length 1, as cosine similarity needs it. It takes 20 lines with its derivation and its
sample; being registered, it is known to everything that knows operations.

About 2 s on one thread of a 2-core machine. Needs hypothesis, which is in `pip install 'tinygrad-llm[test]'` and keeps
its notes in a folder named .hypothesis.
"""

import numpy as np
from hypothesis import Phase, given, settings

import tinygrad_llm as tg
from tinygrad_llm.checking import derivation_steps
from tinygrad_llm.testing import arrays, assert_gradients_match, numbers, shapes

# ---- 1. The operation: its value and its vjp, the algebra between them, and how to draw an input


@tg.op
def normalize(x):
    """``y = x / l``, where l is the length of each row of x. Gradient: ``dx = (dy - y sum(dy y)) / l``."""
    length = np.sqrt((x * x).sum(-1, keepdims=True))
    y = x / length
    return y, lambda dy: (dy - y * (dy * y).sum(-1, keepdims=True)) / length


@normalize.derivation("x")
def _(x, dy):
    length = np.sqrt((x * x).sum(-1, keepdims=True))
    outer = x[..., :, None] * x[..., None, :]
    jacobian = np.eye(x.shape[-1]) / length[..., None] - outer / length[..., None] ** 3
    yield (
        "dx_j = sum_i dy_i ∂y_i/∂x_j; quotient rule on x_i / l, with ∂l/∂x_j = x_j / l",
        np.einsum("...i,...ij->...j", dy, jacobian),
    )
    y = x / length
    yield "multiply out: x / l is y", dy / length - y * (dy * y).sum(-1, keepdims=True) / length


@normalize.sample
def _(rng, shape=(2, 3)):
    return (rng.standard_normal(shape),), {}


# ---- 2. Is the algebra right, is the gradient right?


def check():
    rng = np.random.default_rng(0)
    (x,), _ = normalize.sample(rng)
    for step in derivation_steps(normalize, "x", [x], {}, rng.standard_normal(x.shape)):
        print(f"  {step.change:7.1e}  {step.why}")
    print(tg.gradcheck(normalize, x))


# ---- 3. A test: any shape, any layout in memory. pytest runs a function like this one by itself.


@settings(database=None, derandomize=True, deadline=None)
@given(x=arrays(shapes(min_dims=1, max_dims=3), elements=numbers(0.5, 3)))
def test_normalize(x):
    assert_gradients_match(normalize, x)


# ---- 4. The same with a mistake: l is treated as a constant. Here hypothesis looks for the smallest case that fails.


def forgetful(x):
    length = np.sqrt((x * x).sum(-1, keepdims=True))
    return x / length, lambda dy: dy / length


@settings(database=None, derandomize=True, deadline=None, phases=[Phase.generate, Phase.shrink])
@given(x=arrays(shapes(min_dims=2, max_dims=2, min_side=2), elements=numbers(0.5, 3)))
def test_forgetful(x):
    assert_gradients_match(forgetful, x)


def main():
    print("1. The derivation of normalize: how much each step differs from the one before")
    check()
    print("\n2. Its test, on a hundred inputs")
    test_normalize()
    print("passed")
    print("\n3. The test of a wrong version")
    try:
        test_forgetful()
    except AssertionError as error:
        print(error, *error.__notes__, sep="\n")


if __name__ == "__main__":
    main()
