"""gradcheck passes what is right and fails what is wrong, by a narrow margin both times."""

import functools

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm import Tensor


def softmax_with(vjp_of):
    def softmax(x):
        e = np.exp(x - x.max(-1, keepdims=True))
        s = e / e.sum(-1, keepdims=True)
        return s, lambda dy: vjp_of(s, dy)

    return softmax


RIGHT = softmax_with(lambda s, dy: s * (dy - (s * dy).sum(-1, keepdims=True)))
X = np.random.default_rng(0).standard_normal((3, 4))


def test_passes_a_right_operation_and_prints_what_it_did():
    report = tg.gradcheck(RIGHT, X)
    assert report
    text = str(report)
    assert text.startswith("gradcheck of softmax: passed\n  ok   dx (3, 4): largest error ")
    assert "complex step" in text


@pytest.mark.parametrize(
    "wrong",
    [
        lambda s, dy: np.zeros_like(s),  # passes a constant cotangent
        lambda s, dy: s * dy,
        lambda s, dy: -s * (dy - (s * dy).sum(-1, keepdims=True)),
        lambda s, dy: s * (dy - (s * dy).mean(-1, keepdims=True)),
        lambda s, dy: s * (dy - (s * dy).sum(keepdims=True)),
        lambda s, dy: s * (dy - (s * dy).sum(-1, keepdims=True)) * (1 + 1e-7),
        lambda s, dy: s * (dy - (s * dy).sum(-1, keepdims=True)) + 1e-8,
        lambda s, dy: np.full_like(s, np.nan),
    ],
)
def test_fails_a_wrong_operation(wrong):
    report = tg.gradcheck(softmax_with(wrong), X)
    assert not report
    assert "FAIL dx (3, 4)" in str(report)


def test_names_the_entry_and_both_values():
    def wrong(x):
        def vjp(dy):
            dx = 2 * x * dy
            dx[1] += 1
            return dx

        return x * x, vjp

    (found,) = tg.gradcheck(wrong, np.array([1.0, 2.0, 3.0])).inputs
    assert found.index == (1,)
    assert found.analytic == pytest.approx(found.numeric + 1)
    assert found.error == pytest.approx(1)


def test_an_operation_that_was_never_attached_is_said_to_be_so():
    report = tg.gradcheck(lambda x: Tensor(np.tanh(x.data)), X)
    assert not report
    assert "is it attached to the tape?" in str(report)


def test_large_inputs_are_checked_in_random_directions():
    big = np.random.default_rng(1).standard_normal((30, 40))
    report = tg.gradcheck(RIGHT, big)
    assert report
    assert report.inputs[0].index is None
    assert not tg.gradcheck(softmax_with(lambda s, dy: s * dy), big)
    one_wrong = softmax_with(lambda s, dy: s * (dy - (s * dy).sum(-1, keepdims=True)) + 1e-6 * (np.arange(40) == 7))
    assert not tg.gradcheck(one_wrong, big)


def test_functions_of_tensors_several_outputs_integers_and_options():
    def function(x, ids, scale=1.0):
        y = x[ids] * scale
        return y.sum(-1), y.exp()

    assert tg.gradcheck(function, X, np.array([0, 2, 2]), scale=0.5)
    with pytest.raises(ValueError, match="none of the inputs is a floating-point array"):
        tg.gradcheck(function, np.arange(3), np.arange(2))
    with pytest.raises(TypeError, match="must return Tensors"):
        tg.gradcheck(lambda x: 3, X)


def test_non_analytic_functions_use_central_differences():
    report = tg.gradcheck(lambda x: abs(x), X)
    assert report
    assert report.inputs[0].method == "central differences"


def test_float32_and_lists_and_empty_inputs():
    assert tg.gradcheck(RIGHT, X.astype(np.float32))
    assert tg.gradcheck(RIGHT, [1.0, 2.0])
    assert tg.gradcheck(lambda x: x * 2, np.zeros((0, 3)))


def test_badly_scaled_inputs():
    assert tg.gradcheck(lambda x: x * x, np.array([1e-8, 1.0, 1e8]))
    assert tg.gradcheck(lambda x: x * 1e-12, X)
    assert not tg.gradcheck(softmax_with(lambda s, dy: 0 * s), X * 1e-3)


@pytest.mark.parametrize("x", [[1e-4, 1.0], [1e-3, 1e3]])
def test_each_entry_is_varied_by_its_own_size(x):
    for function in (tg.ops.log, tg.ops.sqrt, lambda t: 1 / t):
        report = tg.gradcheck(function, np.array(x))
        assert report, report
    assert tg.gradcheck(tg.ops.tanh, np.array([0.3, 1e5]))


def test_a_small_gradient_is_not_hidden_by_a_large_one():
    factors = np.array([1e10, 1.0])
    assert tg.gradcheck(lambda x: ((x * factors).sum(), lambda dy: dy * factors), np.ones(2))
    assert not tg.gradcheck(lambda x: ((x * factors).sum(), lambda dy: dy * factors * [1, 0]), np.ones(2))


def test_a_large_value_does_not_hide_a_wrong_gradient():
    assert not tg.gradcheck(lambda x: (x * x + 1e12, lambda dy: dy * (2 * x + 1e-5)), np.ones(2))


@pytest.mark.parametrize("wrong", [1 + 1e-5, 1 - 1e-5])
def test_central_differences_see_an_error_of_a_hundred_thousandth(wrong):
    def magnitude(factor):
        return lambda x: (np.abs(x), lambda dy: factor * dy * np.sign(x))

    report = tg.gradcheck(magnitude(1.0), X)
    assert report
    assert report.inputs[0].method == "central differences"
    assert not tg.gradcheck(magnitude(wrong), X)
    big = np.sign(X[0, 0]) + np.random.default_rng(0).uniform(1, 2, (21, 20))
    assert tg.gradcheck(magnitude(1.0), big)
    assert not tg.gradcheck(magnitude(wrong), big)


def test_functions_that_write_to_what_they_are_given_are_refused():
    def writes_input(x):
        x *= 2
        return x.copy(), lambda dy: 2 * dy

    def writes_cotangent(x):
        def vjp(dy):
            dy *= 3
            return dy

        return 3 * x, vjp

    for function in (writes_input, writes_cotangent):
        with pytest.raises((ValueError, TypeError), match=r"read-only|must return"):
            tg.gradcheck(function, X)


def test_names_must_be_as_many_as_inputs():
    with pytest.raises(ValueError, match="1 names for 2 inputs"):
        tg.gradcheck(tg.ops.mul, X, X, names=["x"])


def test_a_function_without_a_name_is_named_by_its_place():
    double = lambda x: x * 2  # noqa: E731
    line = double.__code__.co_firstlineno
    assert str(tg.gradcheck(double, X)).startswith(f"gradcheck of the lambda in test_checking.py:{line}: passed\n")
    assert str(tg.gradcheck(functools.partial(RIGHT), X)).startswith("gradcheck of softmax: passed\n")

    class Doubler:
        def __call__(self, x):
            return x * 2

    assert tg.gradcheck(Doubler(), X).function == "Doubler"


def test_the_report_says_for_each_input_what_was_found():
    report = tg.gradcheck(lambda x, y: (x * np.maximum(y, 0), lambda dy: (dy, dy * x * (y > 0))), X, [1.0, 0, 2, 3])
    x, y = report.inputs
    assert (x.verdict, y.verdict) == ("FAIL", "kink")
    assert (x.passed, y.passed, report.passed, bool(report)) == (False, True, False, False)
    assert (x.diagnosis is None, y.diagnosis is None) == (False, False)
    assert str(report).splitlines()[0].endswith("FAILED")
    assert "  kink dy (4,): largest error 0.00e+00" in str(report)
    assert tg.gradcheck(RIGHT, X).inputs[0].diagnosis is None


def test_the_check_keeps_the_memory_layout():
    seen = []

    def spy(x):
        seen.append(x.strides)
        return x * 2, lambda dy: 2 * dy

    wide = np.zeros((3, 8))[:, ::2]
    assert tg.gradcheck(spy, wide)
    assert wide.strides in seen
    assert wide.flags.writeable


def test_derivation_steps_show_a_wrong_step():
    from tinygrad_llm.checking import derivation_steps
    from tinygrad_llm.operation import Operation

    operation = Operation(lambda x: (x * x, lambda dy: 2 * x * dy), name="square")

    @operation.derivation("x")
    def _(x, dy):
        yield "definition", np.einsum("i,ij->j", dy, np.diag(2 * x))
        yield "a wrong step", x * dy

    changes = [step.change > 1e-12 for step in derivation_steps(operation, "x", [X[0]], {}, X[1])]
    assert changes == [False, True, True]


def test_a_vjp_that_returns_no_gradient_or_a_wrong_shape_fails_with_a_report():
    def product(a, b):
        return a @ b, lambda dy: (dy @ b.T, a.T @ dy)

    def causes(da, db):
        report = tg.gradcheck(lambda a, b: (a @ b, lambda dy: (da(dy, a, b), db(dy, a, b))), X, X.T, names=["a", "b"])
        assert not report
        return [r.diagnosis.cause if r.diagnosis else r.verdict for r in report.inputs], str(report)

    right_a, right_b = (lambda dy, a, b: dy @ b.T), (lambda dy, a, b: a.T @ dy)
    assert tg.gradcheck(product, X, X.T)
    found, text = causes(right_a, lambda dy, a, b: dy @ a)
    assert found == ["ok", "transposed"]
    assert "  ok   da (3, 4): largest error" in text
    assert "  FAIL db (4, 3): there is no gradient to compare\n       likely cause: the gradient is transposed" in text
    assert "gradient of input 'b' has shape (3, 4), the input has (4, 3)" in text
    assert causes(lambda dy, a, b: (dy @ b.T).sum(0), right_b)[0] == ["shape", "ok"]
    found, text = causes(lambda dy, a, b: None, right_b)
    assert found == ["no_gradient", "ok"]
    assert "no gradient (None)" in text
    # an input whose gradient is merely wrong is diagnosed all the same
    assert causes(lambda dy, a, b: -dy @ b.T, lambda dy, a, b: None)[0] == ["sign", "no_gradient"]
    # too few gradients, and a wrong shape deep inside a function of Tensors
    assert tg.gradcheck(lambda a, b: (a + b, lambda dy: dy), X, X).inputs[1].diagnosis.cause == "no_gradient"
    reverse = tg.op(lambda x: (x.T * 2, lambda dy: dy * 2))
    report = tg.gradcheck(lambda x, y: reverse(x * x) * y, X, X.T)
    assert [r.diagnosis.cause if r.diagnosis else r.verdict for r in report.inputs] == ["transposed", "ok"]
    assert tg.gradcheck(lambda x: (x * 2, lambda dy: dy.T), np.zeros((0, 3))).inputs[0].diagnosis.cause == "transposed"


def test_an_error_as_small_as_float32_may_be_an_eps():
    def unit(x):
        length = np.sqrt((x * x).sum())
        return x / np.sqrt(length**2 + 1e-7), lambda dy: dy / length - x * (x * dy).sum() / length**3

    (found,) = tg.gradcheck(unit, X[0]).inputs
    assert found.verdict == "FAIL"
    assert "float32 rounds by 6e-8 (or forward has an eps that the vjp has not)" in found.diagnosis.evidence
