"""The planted bugs: operations that are right with one vjp that is wrong, each of which must be caught and named."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm import Tensor, ops

rng = np.random.default_rng(7)
X = rng.standard_normal((3, 4))  # no two sizes are equal, and none is 2
Z = rng.standard_normal((3, 4))
SQUARE = rng.standard_normal((3, 3))
W = rng.standard_normal((4, 5))
POSITIVE = rng.uniform(0.5, 2.5, (3, 4))
ROW = rng.standard_normal(4)
TABLE = rng.standard_normal((6, 3))
MATRIX = rng.standard_normal((4, 4))
GAIN, BIAS = rng.uniform(0.5, 2, 4), rng.standard_normal(4)
IDS = np.array([[0, 2, 2], [5, 0, 3]])
TARGETS = np.array([1, 3, 0])
Q, K, V = (rng.standard_normal((1, 2, n, 5)) for n in (3, 4, 4))


@dataclass
class Bug:
    """``wrong(dy, y, *inputs)`` takes the place of the vjp of `operation` at `inputs`; `cause` is what it should be."""

    name: str
    operation: str
    inputs: tuple
    wrong: Callable
    cause: str
    options: dict = field(default_factory=dict)

    def function(self, *arrays, **options):
        value = tg.registry[self.operation].reference(*arrays, **options)[0]
        return value, lambda dy: self.wrong(dy, value, *arrays)


def mean(a, axis=-1):
    return a.mean(axis, keepdims=True)


def total(a, axis=-1):
    return a.sum(axis, keepdims=True)


def normalised(x, eps=1e-5):
    rstd = 1 / np.sqrt(x.var(-1, keepdims=True) + eps)
    return (x - mean(x)) * rstd, rstd


def layer_norm_dx(dy, x, gain, with_mean=True, with_projection=True, with_gain=True, with_rstd=True):
    xhat, rstd = normalised(x)
    g = dy * gain if with_gain else dy
    dx = g - (mean(g) if with_mean else 0) - (xhat * mean(g * xhat) if with_projection else 0)
    return dx * rstd if with_rstd else dx


def layer_norm(bias=lambda dy: dy.sum(0), exchanged=False, **without):
    def wrong(dy, y, x, gain, _):
        dgain, dbias = (dy * normalised(x)[0]).sum(0), bias(dy)
        return layer_norm_dx(dy, x, gain, **without), *((dbias, dgain) if exchanged else (dgain, dbias))

    return wrong


def attention(**changed):
    """The vjp of attention, but for the gradients given as functions of its intermediate values."""
    right = {"dq": lambda a: a.ds @ a.k, "dk": lambda a: a.ds.mT @ a.q, "dv": lambda a: a.p.mT @ a.dy}

    def wrong(dy, y, q, k, v):
        a = SimpleNamespace(q=q, k=k, v=v, dy=dy, p=softmax(q @ k.mT / np.sqrt(5)), dp=dy @ v.mT)
        a.ds = a.p * (a.dp - total(a.dp * a.p)) / np.sqrt(5)
        return tuple(gradient(a) for gradient in (right | changed).values())

    return wrong


def scattered(dy, x, index):
    dx = np.zeros_like(x)
    dx[index] = dy
    return dx


def softmax(x):
    return np.exp(x) / total(np.exp(x))


def norm_rest(dy, x):
    return (dy * normalised(x)[0]).sum(0), dy.sum(0)


def rms(x):
    return np.sqrt(mean(x * x) + 1e-5)


def rms_dx(g, x):
    return (g - x / rms(x) * mean(g * x / rms(x))) / rms(x)


def rms_gain(dy, x):
    return (dy * x / rms(x)).sum(0)


def linear_gradients(x, w, dy):
    return dy @ w.T, x.T @ dy


def gelu_slope(x):
    return tg.registry["gelu"].reference(x)[1](np.ones_like(x))


def onehot(targets, size=4):
    return np.eye(size)[targets]


ONE_AXIS = {"axis": -1}
LINEAR = (X[:, :3], SQUARE, SQUARE[0])
NORM, PLAIN_NORM = (X, GAIN, BIAS), (X, np.ones(4), np.zeros(4))

BUGS = [
    # Those found in other projects, most of them zero under a constant cotangent.
    Bug("returns zeros", "softmax", (X,), lambda dy, y, x: np.zeros_like(x), "zero"),
    Bug("dy s", "softmax", (X,), lambda dy, y, x: dy * y, "missing_projection"),
    Bug("returns zeros", "layer_norm", PLAIN_NORM, lambda dy, y, x, g, b: (0 * x, *norm_rest(dy, x)), "zero"),
    Bug("no mean, no gain", "layer_norm", PLAIN_NORM, layer_norm(with_mean=False), "missing_mean"),
    Bug("no projection, no gain", "layer_norm", PLAIN_NORM, layer_norm(with_projection=False), "missing_projection"),
    # Softmax and its relatives.
    Bug("sign", "softmax", (X,), lambda dy, y, x: y * (total(y * dy) - dy), "sign"),
    Bug("mean for sum", "softmax", (X,), lambda dy, y, x: y * (dy - mean(y * dy)), "missing_projection"),
    Bug("sum over everything", "softmax", (X,), lambda dy, y, x: y * (dy - (y * dy).sum()), "missing_projection"),
    Bug("plus for minus", "softmax", (X,), lambda dy, y, x: y * (dy + total(y * dy)), "missing_projection"),
    Bug("diagonal", "softmax", (X,), lambda dy, y, x: dy * y * (1 - y), "missing_cross_terms"),
    Bug("dy alone", "log_softmax", (X,), lambda dy, y, x: dy, "missing_projection"),
    Bug("mean for sum", "log_softmax", (X,), lambda dy, y, x: dy - np.exp(y) * mean(dy), "missing_projection"),
    Bug("1/N for p", "log_softmax", (X,), lambda dy, y, x: dy - mean(dy), "missing_mean_and_projection"),
    Bug("exp, not p", "logsumexp", (X,), lambda dy, y, x: dy[:, None] * np.exp(x), "missing_factor"),
    # Norms.
    Bug("no mean", "layer_norm", NORM, layer_norm(with_mean=False), "missing_mean"),
    Bug("no projection", "layer_norm", NORM, layer_norm(with_projection=False), "missing_projection"),
    Bug(
        "neither", "layer_norm", NORM, layer_norm(with_mean=False, with_projection=False), "missing_mean_and_projection"
    ),
    Bug("no gain", "layer_norm", NORM, layer_norm(with_gain=False), "missing_factor"),
    Bug("no rstd", "layer_norm", NORM, layer_norm(with_rstd=False), "missing_factor"),
    Bug("bias from one row", "layer_norm", NORM, layer_norm(bias=lambda dy: dy[0]), "missing_sum"),
    Bug("mean of the rows", "layer_norm", NORM, layer_norm(bias=lambda dy: dy.mean(0)), "factor"),
    Bug("gain and bias", "layer_norm", NORM, layer_norm(exchanged=True), "swapped"),
    Bug(
        "no projection",
        "rms_norm",
        (X, GAIN),
        lambda dy, y, x, g: (dy * g / rms(x), rms_gain(dy, x)),
        "missing_projection",
    ),
    Bug(
        "no division",
        "rms_norm",
        (X, GAIN),
        lambda dy, y, x, g: (rms_dx(dy * g, x) * rms(x), rms_gain(dy, x)),
        "missing_factor",
    ),
    # Products.
    Bug("W not transposed", "matmul", (X, MATRIX), lambda dy, y, x, w: (dy @ w, x.T @ dy), "transposed"),
    Bug("dW transposed", "matmul", (X[:, :3], SQUARE), lambda dy, y, x, w: (dy @ w.T, dy.T @ x), "transposed"),
    Bug("mean of the batch", "matmul", (X, W), lambda dy, y, x, w: (dy @ w.T, x.T @ dy / len(x)), "factor"),
    Bug(
        "sum over columns",
        "linear",
        LINEAR,
        lambda dy, y, x, w, b: (*linear_gradients(x, w, dy), dy.sum(1)),
        "wrong_axis",
    ),
    Bug(
        "bias from one row",
        "linear",
        LINEAR,
        lambda dy, y, x, w, b: (*linear_gradients(x, w, dy), dy[-1]),
        "missing_sum",
    ),
    Bug("no weight", "linear", LINEAR, lambda dy, y, x, w, b: (dy, x.T @ dy, dy.sum(0)), "passes_through"),
    Bug("no scale", "attention", (Q, K, V), attention(dq=lambda a: a.ds @ a.k * np.sqrt(5)), "factor"),
    Bug("dp p", "attention", (Q, K, V), attention(dq=lambda a: a.p * a.dp @ a.k / np.sqrt(5)), "rank_one"),
    Bug("p, not p^T", "attention", (K, K, V), attention(dv=lambda a: a.p @ a.dy), "transposed"),
    Bug("dq for dk", "attention", (V, K, V), attention(dq=lambda a: a.ds.mT @ a.q, dk=lambda a: a.ds @ a.k), "swapped"),
    # Losses.
    Bug("no mean", "cross_entropy", (X, TARGETS), lambda dy, y, x, t: dy * (softmax(x) - onehot(t)), "factor"),
    Bug("no onehot", "cross_entropy", (X, TARGETS), lambda dy, y, x, t: dy * softmax(x) / 3, "picked"),
    Bug("sign", "cross_entropy", (X, TARGETS), lambda dy, y, x, t: dy * (onehot(t) - softmax(x)) / 3, "sign"),
    Bug("no dy", "cross_entropy", (X, TARGETS), lambda dy, y, x, t: (softmax(x) - onehot(t)) / 3, "cotangent_ignored"),
    Bug("no p", "cross_entropy", (X, TARGETS), lambda dy, y, x, t: -dy * onehot(t) / 3, "missing_projection"),
    # Picking.
    Bug("assigns", "embedding", (TABLE, IDS), lambda dy, y, w, ids: scattered(dy, w, ids), "repeated_index"),
    Bug("assigns", "getitem", (X, TARGETS[[0, 2, 2]]), lambda dy, y, x, i: scattered(dy, x, i), "repeated_index"),
    Bug("one row on", "getitem", (X, np.array([0, 1])), lambda dy, y, x, i: scattered(dy, x, i + 1), "misplaced"),
    # Elementwise.
    Bug("slope at y", "gelu", (X,), lambda dy, y, x: dy * gelu_slope(y), "wrong_point"),
    Bug("no product rule", "gelu", (X,), lambda dy, y, x: dy * y / x, "local_derivative"),
    Bug("1 - x^2", "tanh", (X,), lambda dy, y, x: dy * (1 - x * x), "missing_factor"),
    Bug("1 - y", "tanh", (X,), lambda dy, y, x: dy * (1 - y), "missing_factor"),
    Bug("dy^2", "tanh", (X,), lambda dy, y, x: dy * dy * (1 - y * y), "not_linear"),
    Bug("no 1 - y", "sigmoid", (X,), lambda dy, y, x: dy * y, "missing_factor"),
    Bug("float32", "sigmoid", (X,), lambda dy, y, x: (dy * y * (1 - y)).astype(np.float32), "dtype"),
    Bug("whole numbers", "sigmoid", (X,), lambda dy, y, x: (9 * dy * y * (1 - y)).astype(int), "dtype"),
    Bug("x for dy", "relu", (X,), lambda dy, y, x: x * (x > 0), "cotangent_ignored"),
    Bug("no mask", "relu", (X,), lambda dy, y, x: dy, "missing_mask"),
    Bug("other side", "relu", (X,), lambda dy, y, x: dy * (x < 0), "wrong_point"),
    Bug("leaks", "relu", (X,), lambda dy, y, x: dy * np.where(x > 0, 1, 0.01), "branch"),
    Bug("no sign", "abs", (X,), lambda dy, y, x: dy, "missing_factor"),
    Bug("no mask", "clip", (X,), lambda dy, y, x: dy, "missing_mask", {"low": -0.5, "high": 0.5}),
    Bug("not rescaled", "dropout", (X, 0.4, 3), lambda dy, y, x, p, key: dy * (y != 0), "factor"),
    Bug("draws again", "dropout", (X, 0.4, 3), lambda dy, y, x, p, key: dy * (rng.random((3, 4)) > p), "random_vjp"),
    Bug("b for b^2", "div", (X, POSITIVE), lambda dy, y, a, b: (dy / b, -dy * a / b), "missing_factor"),
    Bug("sign", "div", (X, POSITIVE), lambda dy, y, a, b: (dy / b, dy * a / b**2), "sign"),
    Bug("no factor", "power", (POSITIVE, 3), lambda dy, y, x, n: dy * x ** (n - 1), "factor"),
    Bug("power not lowered", "power", (POSITIVE, 3), lambda dy, y, x, n: dy * n * x**n, "missing_factor"),
    Bug("own factor", "mul", (X, Z), lambda dy, y, a, b: (dy * a, dy * b), "swapped"),
    Bug("one row", "mul", (X, ROW), lambda dy, y, a, b: (dy * b, (dy * a)[0]), "missing_sum"),
    Bug("mean of the rows", "mul", (X, ROW), lambda dy, y, a, b: (dy * b, (dy * a).mean(0)), "factor"),
    Bug("NaN", "mul", (X, ROW), lambda dy, y, a, b: (dy * b * np.nan, dy * a), "not_finite"),
    Bug("sign", "sub", (X, Z), lambda dy, y, a, b: (dy, dy), "sign"),
    Bug("no chain", "log", (POSITIVE,), lambda dy, y, x: dy, "missing_factor"),
    Bug("one entry", "exp", (X,), lambda dy, y, x: dy * y * (x != X[1, 2]), "entry"),
    Bug("adds a constant", "exp", (X,), lambda dy, y, x: dy * y + 1e-7, "not_linear"),
    Bug("no half", "sqrt", (POSITIVE,), lambda dy, y, x: dy / y, "factor"),
    # Reductions and shapes.
    Bug("not divided", "mean", (X,), lambda dy, y, x: np.repeat(dy[:, None], 4, 1), "factor", ONE_AXIS),
    Bug("divided", "sum", (X,), lambda dy, y, x: np.repeat(dy[:, None] / 4, 4, 1), "factor", ONE_AXIS),
    Bug("sum of dy", "sum", (X,), lambda dy, y, x: np.full_like(x, dy.sum()), "cotangent_summed", ONE_AXIS),
    Bug("no mask", "max", (X,), lambda dy, y, x: np.repeat(dy[:, None], 4, 1), "missing_mask", ONE_AXIS),
    Bug("to the least", "max", (X,), lambda dy, y, x: dy[:, None] * (x == x.min(-1)[:, None]), "misplaced", ONE_AXIS),
    Bug("wrong offset", "concatenate", (X, Z), lambda dy, y, a, b: (dy[:, :4], dy[:, 3:7]), "misplaced", {"axis": 1}),
    Bug("parts exchanged", "concatenate", (X, Z), lambda dy, y, a, b: (dy[:, 4:], dy[:, :4]), "swapped", {"axis": 1}),
    Bug("only reshaped", "transpose", (X,), lambda dy, y, x: dy.reshape(x.shape), "transposed"),
    Bug("other branch", "where", (X > 0, X, Z), lambda dy, y, c, a, b: (None, dy * ~c, dy * c), "swapped"),
]


# What the diagnosis says instead of the cause that was planted; the rest of the table is named rightly.
NAMED_OTHERWISE: dict = {}


def checked(bug, function):
    """The report on `function` in place of the operation: every array of floats is an input, the rest is fixed."""
    varied = [i for i, x in enumerate(bug.inputs) if isinstance(x, np.ndarray)]

    def call(*arrays):
        given = dict(zip(varied, arrays, strict=True))
        return function(*(given.get(i, x) for i, x in enumerate(bug.inputs)), **bug.options)

    return tg.gradcheck(call, *(bug.inputs[i] for i in varied))


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: f"{bug.operation}: {bug.name}")
def test_a_planted_bug_is_caught_and_named(bug):
    assert checked(bug, tg.registry[bug.operation]), "the operation itself must be right here"
    report = checked(bug, bug.function)
    assert not report
    assert "FAILED" in str(report)
    expected = NAMED_OTHERWISE.get((bug.operation, bug.name), bug.cause)
    for found in report.inputs:
        assert found.verdict in ("ok", "FAIL")
        if found.verdict == "FAIL":
            assert found.diagnosis.cause == expected, report
            assert f"likely cause: {found.diagnosis.text}\n       evidence: {found.diagnosis.evidence}" in str(report)


def test_nine_in_ten_are_named_rightly():
    assert len(BUGS) >= 40
    assert len(NAMED_OTHERWISE) <= len(BUGS) / 10
    assert set(NAMED_OTHERWISE) <= {(bug.operation, bug.name) for bug in BUGS}


# ---- Functions that are in no registry -------------------------------------------------------------------------------


def cumulative(x):
    return np.cumsum(x, -1), lambda dy: np.cumsum(dy, -1)


def two_outputs(x):
    return (x * x, np.exp(x)), lambda dys: 2 * x * dys[0]


def half_masked(x):
    y = np.exp(x).sum(-1)
    return np.stack([y, 2 * y], -1), lambda dy: np.exp(x) * (dy[:, :1] * [1, 1, 1, 1] + 2 * dy[:, 1:] * [1, 0, 1, 1])


def detached(x):
    return Tensor(np.tanh(x.data))


def rounded_inside(x):
    return np.tanh(x), lambda dy: dy * (1 - np.tanh(x).astype(np.float32).astype(np.float64) ** 2)


def column_sums_of_product(x, w):
    return (x @ w).sum(0), lambda dy: (np.repeat((dy @ w)[None], 3, 0), np.outer(x.sum(0), dy))


OTHERS = {
    "a factor not transposed": (column_sums_of_product, (X, MATRIX), "transposed"),
    "cumsum the same way": (cumulative, (X,), "transposed"),
    "one output of two": (two_outputs, (X,), "output_ignored"),
    "terms masked out": (half_masked, (X,), "missing_terms"),
    "never attached": (detached, (X,), "not_attached"),
    "partly detached": (lambda x: x * Tensor(x.data), (X,), "factor"),
    "summed once more": (lambda x: (x * x, lambda dy: np.repeat(total(2 * x * dy), 4, 1)), (X,), "extra_sum"),
    "averaged": (lambda x: (x * x, lambda dy: np.repeat(mean(2 * x * dy, 0), 3, 0)), (X,), "extra_sum"),
    "slope at the other input": (
        lambda x, y: (np.sin(x) + 0 * y, lambda dy: (dy * np.cos(y), 0 * dy)),
        (X, Z),
        "wrong_point",
    ),
    "float32 inside": (rounded_inside, (X,), "dtype"),
    "two millionths": (lambda x: (abs(x), lambda dy: dy * np.sign(x) * (1 + 2e-6)), (X,), "tiny"),
    "a gradient of nothing": (
        lambda x: (np.ones(3) + 0 * x[0, 0], lambda dy: np.full((3, 4), dy.sum())),
        (X,),
        "constant_function",
    ),
    "rolled": (lambda x: (np.exp(x), lambda dy: np.roll(dy * np.exp(x), 1)), (X,), "misplaced"),
    "wrong row": (lambda x: (np.exp(x), lambda dy: dy * np.exp(x) * [[1], [2], [1]]), (X,), "entry"),
    "wrong where large": (lambda x: (x**3, lambda dy: dy * 3 * np.minimum(abs(x), 0.8) ** 2), (X,), "branch"),
    "variance without its mean": (lambda x: (x.var(-1), lambda dy: dy[:, None] * x / 2), (X,), "missing_mean"),
    "wrong under a sum": (lambda x: ((x**2).sum(-1), lambda dy: dy[:, None] * np.sin(3 * x)), (X,), "unknown"),
    "two formulas": (lambda x, w: (x @ w @ w, lambda dy: (dy @ w.T @ w, 0 * w)), (SQUARE, MATRIX[:3, :3]), "unknown"),
    "a large input": (lambda x: (x**3, lambda dy: dy * x), (rng.standard_normal((21, 20)),), "unknown"),
    "sign of a large input": (lambda x: (x**3, lambda dy: -3 * dy * x * x), (rng.standard_normal((21, 20)),), "sign"),
    "many outputs": (
        lambda x: (np.outer(x, np.arange(1.0, 500)), lambda dy: -dy @ np.arange(1.0, 500)),
        (ROW,),
        "sign",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_wrong_function_is_caught_and_named(name):
    function, arrays, cause = OTHERS[name]
    report = tg.gradcheck(function, *arrays)
    assert "FAILED" in str(report)
    assert report.inputs[0].verdict == "FAIL"
    assert report.inputs[0].diagnosis.cause == cause, report


def diagnosis_of(function, *arrays, **options):
    (found,) = tg.gradcheck(function, *arrays, **options).inputs
    return found.diagnosis


def test_the_text_names_the_remedy_and_the_evidence_the_numbers():
    found = diagnosis_of(lambda x: (x.mean(-1), lambda dy: np.repeat(dy[:, None], 4, 1)), X)
    assert found.text.startswith(
        "the gradient is 4 times what it should be: divide by 4; 4 is the size of axis -1 of dx"
    )
    assert found.evidence == "tape / numeric = 4 in all 12 values that are not 0"
    found = diagnosis_of(lambda x, p=3.5: (x * p, lambda dy: dy), X, p=3.5)
    assert "multiply by 3.5; 3.5 is p (or 1 over it)" in found.text
    found = diagnosis_of(lambda x: (x**2, lambda dy: dy * -x), X[:1])
    assert "-0.5 times what it should be: multiply by 2 and flip the sign; 2 is the factor that a power" in found.text
    found = diagnosis_of(lambda x: (np.tanh(x), lambda dy: dy), X)
    assert found.text == "the factor 1 - y^2 is missing"
    assert found.evidence == "tape / numeric = 1 / (1 - y^2) in all 12 values that are not 0"
    found = diagnosis_of(lambda x: (softmax(x * [1, 2, 3, 4]), lambda dy: 0 * x), X)
    assert "its columns sum to 0, so a constant cotangent would have hidden this" in found.evidence
    found = diagnosis_of(lambda x: (np.exp(x), lambda dy: dy * np.exp(x) * [[1], [2], [1]]), X)
    assert found.text.startswith("wrong only at index 1 of axis -2")
    found = diagnosis_of(lambda x: (np.maximum(x, 0), lambda dy: dy * np.where(x > 0, 1, 0.01)), X)
    assert found.text.startswith("wrong exactly where x is negative")
    found = diagnosis_of(lambda x: (normalised(x)[0], lambda dy: (dy - mean(dy)) * normalised(x)[1]), X)
    assert found.evidence.endswith("it is 0 for a constant cotangent, which would have hidden this")
    found = diagnosis_of(lambda x: (softmax(x), lambda dy: dy * softmax(x)), X)
    assert "constant" not in found.evidence
    found = diagnosis_of(lambda x: (x * [1, 2, 3, 4], lambda dy: 0 * x), X)
    assert "constant" not in found.evidence
    found = diagnosis_of(lambda x: (x, lambda dy: dy.astype(np.float32)), X)
    assert found.evidence.startswith("every value is a float32 number; largest relative error")
    found = diagnosis_of(lambda x: (np.exp(x), lambda dy: dy * np.exp(x) + 1), X)
    assert found.evidence == "vjp(0) is up to 1 instead of 0: a term without dy is added"


def test_at_equal_entries_the_cause_is_looked_for_close_by():
    found = diagnosis_of(lambda x: (softmax(x), lambda dy: dy * softmax(x)), np.zeros((2, 2)))
    assert found.cause == "missing_projection"
    assert "seen at a point close by" in found.evidence


def test_an_input_too_large_says_to_try_a_smaller_one():
    found = diagnosis_of(lambda x: (x**3, lambda dy: dy * x), rng.standard_normal((21, 20)))
    assert "check a smaller shape (up to 400 entries)" in found.text
    found = diagnosis_of(lambda x: (np.sin(x), lambda dy: dy * np.sin(x)), 1.0)
    assert found.text == "no simple cause fits. With so few numbers many causes look alike: try a shape such as (3, 4)."


# ---- What is nobody's fault ------------------------------------------------------------------------------------------


def verdicts(function, *arrays, **options):
    report = tg.gradcheck(function, *arrays, **options)
    return bool(report), [(found.verdict, found.diagnosis and found.diagnosis.cause) for found in report.inputs]


KINK = (True, [("kink", "kink")])


def test_a_gradient_between_the_slopes_of_a_kink_passes():
    assert verdicts(ops.relu, np.array([0.0, 1.0, -1.0])) == KINK
    assert verdicts(ops.clip, np.array([0.5, 1.0, -1.0]), low=-1.0, high=0.5) == KINK
    assert verdicts(ops.max, np.array([1.0, 1.0, 0.5, 1.0])) == KINK
    assert verdicts(lambda x: (abs(x), lambda dy: dy * np.where(x < 0, -1, 1)), np.array([0.0, 1.0, -2.0])) == KINK
    assert verdicts(ops.abs, np.array([0.0, 1.0])) == (True, [("ok", None)])  # 0 is the central difference
    order = lambda x: (np.sort(x), lambda dy: dy[np.argsort(np.argsort(x, kind="stable"), kind="stable")])  # noqa: E731
    assert verdicts(order, np.array([1.0, 3.0, 1.0, 2.0])) == KINK
    assert verdicts(ops.relu, np.where(rng.random((30, 40)) < 0.5, 0, 1.0)) == KINK
    text = str(tg.gradcheck(ops.relu, np.array([0.0, 1.0, -1.0])))
    assert text.startswith("gradcheck of relu: passed\n  kink dx (3,)")
    assert "the slope of an output is 0 to the left, 1 to the right; 1 of 3 entries" in text
    assert "likely cause" not in text


def test_beside_a_kink_the_steps_get_short_enough():
    for distance in (1e-3, 1e-5, 1e-7):
        x = np.array([distance, -distance, 1.0])
        assert verdicts(ops.relu, x) == (True, [("ok", None)])
        assert not tg.gradcheck(lambda x: (np.maximum(x, 0), lambda dy: dy * (x > -0.01)), x)
    assert verdicts(ops.relu, np.array([1e-12, -1e-12, 1.0])) == KINK


@pytest.mark.parametrize("slope", [-0.1, 1.1, np.nan])
def test_a_gradient_outside_the_slopes_fails(slope):
    x = np.array([0.0, 1.0, -2.0])
    wrong = lambda x: (np.maximum(x, 0), lambda dy: dy * np.where(x == 0, slope, x > 0))  # noqa: E731
    assert verdicts(wrong, x) == (False, [("FAIL", "kink")])


def test_ties_must_be_right_together():
    for share, right in ((1.0, False), (0.5, True), (0.3, False)):
        tied = lambda x, share=share: (x.max(), lambda dy: dy * share * (x == x.max()))  # noqa: E731
        assert verdicts(tied, np.array([2.0, 2.0, 1.0]))[0] == right
    found = diagnosis_of(lambda x: (x.min(), lambda dy: dy * (x == x.min())), np.array([1.0, 2.0, 1.0]))
    assert found.cause == "kink"
    assert "2 tied entries receive 2 together; moving all of them changes the output by 1" in found.evidence
    # of a difference of two kinks the parts may be chosen at will
    parts = lambda x: (max(x[0], 0) - max(x[1], 0), lambda dy: dy * np.array([1.0, 0, 0]))  # noqa: E731
    assert verdicts(parts, np.array([0.0, 0.0, 3.0])) == KINK


def test_a_wrong_entry_is_not_excused_by_a_kink_elsewhere():
    wrong = lambda x: (np.maximum(x, 0), lambda dy: 2 * dy * (x > 0))  # noqa: E731
    assert verdicts(wrong, np.array([0.0, 1.0, -2.0])) == (False, [("FAIL", "factor")])


draws = np.random.default_rng(0)
SQUARED = lambda x: (x.real.astype(np.float32) ** 2, lambda dy: 2 * x * dy)  # noqa: E731
UNDECIDED = {
    "jumps": (lambda x: (np.round(x), lambda dy: 0 * dy), [0.5, 1.0], "noise"),
    "noisy": (lambda x: (x.real + 1e-7 * np.modf(1e13 * x.real)[0], lambda dy: dy), [0.3, 1.0], "noise"),
    "in float32": (SQUARED, [0.3, 1.0], "noise"),
    "at the edge of its domain": (
        lambda x: (np.sqrt(x), lambda dy: dy / np.fmax(2 * np.sqrt(x), 1e-9)),
        [0.0, 1.0],
        "noise",
    ),
    "a pole within the step": (lambda x: (1 / x, lambda dy: -dy / x**2), [1e-7, 1.0], "noise"),
    "random": (lambda x: (x + draws.random(), lambda dy: dy), [0.5, 1.0], "not_deterministic"),
    "not defined": (lambda x: (np.where(x > 0, x, np.nan), lambda dy: dy), [-0.5, 1.0], "undefined"),
}


@pytest.mark.parametrize("name", UNDECIDED)
def test_what_cannot_be_decided_is_not_passed_and_nobody_is_accused(name):
    function, x, cause = UNDECIDED[name]
    assert verdicts(function, np.array(x)) == (False, [("open", cause)])
    text = str(tg.gradcheck(function, np.array(x)))
    assert "undecided\n  open dx (2,)" in text
    assert "likely cause" not in text
    assert ("float32" in text) == (function is SQUARED)


def test_a_noisy_function_does_not_excuse_a_gradient_that_is_far_off():
    noisy = lambda x: (x.real + 1e-9 * np.modf(1e13 * x.real)[0], lambda dy: 2 * dy)  # noqa: E731
    assert verdicts(noisy, np.array([0.3, 1.0])) == (False, [("FAIL", "factor")])


def test_badly_scaled_and_saturated_functions_pass():
    for scale in (1e-12, 1e-4, 1e6, 1e150):
        assert tg.gradcheck(lambda x, s=scale: (s * x * x, lambda dy: s * 2 * x * dy), X)
        assert not tg.gradcheck(lambda x, s=scale: (s * x * x, lambda dy: s * 2.001 * x * dy), X)
    for operation in (ops.tanh, ops.sigmoid, ops.softmax):
        assert tg.gradcheck(operation, 1e3 * X)
    assert tg.gradcheck(lambda x: ops.cross_entropy(x, np.array([0, 1, 2])), 100 * np.eye(3, 4))


@pytest.mark.parametrize("name", sorted(n for n, o in tg.registry.items() if o.__module__.startswith("tinygrad_llm.")))
@pytest.mark.parametrize("place", ["as drawn", "halves", "ties and kinks"])
def test_no_operation_is_blamed(name, place):
    operation = tg.registry[name]
    for number in range(len(operation.sample)):
        generator = np.random.default_rng([number, len(place)])
        inputs, options = operation.sample.draw(generator, number)
        floating = [i for i, x in enumerate(inputs) if isinstance(x, np.ndarray) and x.dtype.kind == "f"]
        if place == "halves":
            inputs = [np.maximum(np.round(2 * x), 1) / 2 if i in floating else x for i, x in enumerate(inputs)]
        if place == "ties and kinks" and name not in ("log", "sqrt", "power", "div"):  # those are not defined at 0
            special = generator.choice([0.15, -0.25, 0.35, 0, 1e-6])
            chosen = [generator.random(x.shape) < 0.5 if isinstance(x, np.ndarray) else 0 for x in inputs]
            inputs = [
                np.where(c, special, x) if i in floating else x
                for i, (c, x) in enumerate(zip(chosen, inputs, strict=True))
            ]
        varied = floating[: {"attention": 3, "biased_attention": 4, "dpo_loss": 2}.get(name)]  # the rest is constant

        def call(*arrays, operation=operation, inputs=inputs, options=options, varied=varied):
            given = dict(zip(varied, arrays, strict=True))
            return operation(*(given.get(i, x) for i, x in enumerate(inputs)), **options)

        report = tg.gradcheck(call, *(inputs[i] for i in varied), seed=number)
        assert report, report
