"""derive: what it draws, shows and refuses; and the check, which must find every step that is wrong."""

import re

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm.operation import Operation
from tinygrad_llm.study import derive
from tinygrad_llm.study.derivations.check import check_derivations
from tinygrad_llm.study.derivations.derivation import UnknownInput
from tinygrad_llm.study.derivations.html_form import derivation_page
from tinygrad_llm.study.lookup import UnknownOperation
from tinygrad_llm.study.notation.numbers import matrices_html, number_format, plain_numbers

OPERATIONS = sorted(name for name, o in tg.registry.items() if o.__module__.startswith("tinygrad_llm."))
SAMPLES = [(name, number) for name in OPERATIONS for number in range(1, len(tg.registry[name].sample) + 1)]


def arrays(values):
    return [
        x for value in values for x in (value if isinstance(value, tuple) else (value,)) if isinstance(x, np.ndarray)
    ]


@pytest.mark.parametrize(("name", "sample"), SAMPLES)
def test_every_operation_and_sample(name, sample):
    found = derive(name, sample=sample)
    assert found.gradients
    assert found.exact
    assert found.largest_change <= 1e-12
    for x in arrays([*found.inputs, *found.options.values(), found.dy]):
        if x.dtype.kind == "f":  # every number has the one decimal that is shown
            finite = x[np.isfinite(x)]
            np.testing.assert_array_equal(finite, np.round(finite, 1))
            assert [float(f"{v:.1f}") for v in finite.ravel()] == finite.ravel().tolist()
    value, vjp = found.operation.reference(*found.inputs, **found.options)
    for shown, expected in zip(arrays([found.value]), arrays([value]), strict=True):
        np.testing.assert_array_equal(shown, expected)
    gradients = vjp(found.dy)
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    assert [g.input for g in found.gradients] == [
        n for n in found.operation.derivations if found.operation.variadic or has_gradient(found, n, gradients)
    ]
    text = str(found)
    for gradient in found.gradients:
        assert f"The gradient of {gradient.input}" in text
    assert "The lines of vjp\ndef vjp(" in text
    assert "`" not in text.split("The lines of vjp")[0]
    html = found._repr_html_()
    assert html.count("<li>") == sum(len(g.steps) for g in found.gradients)
    assert html.count("equal to the step before") == sum(len(g.steps) - 1 for g in found.gradients)


def has_gradient(found, name, gradients):
    position = found.operation.parameters.index(name)
    return position < min(len(gradients), len(found.inputs)) and gradients[position] is not None


SHOWN = """The numbers
sample 1 of 1, seed 0
x  (2, 2)
    [[ 0.1 -0.1]
     [ 0.6  0.1]]
relu(x)  (2, 2)
    [[0.1   0]
     [0.6 0.1]]
dy  (2, 2)
    [[ 0.5 -1.0]
     [ 2.0  3.0]]

The gradient of x
1. dxⱼ = Σᵢ dyᵢ ∂yᵢ/∂xⱼ; where i = j it is 1 for xᵢ > 0 and 0 for xᵢ < 0, elsewhere 0
    the dense Jacobian, a row for each entry of the result and a column for each of x:
        [[1 0 0 0]
         [0 0 0 0]
         [0 0 1 0]
         [0 0 0 1]]
    summed with dy:
    dx
        [[0.5   0]
         [2.0 3.0]]

2. only the term i = j is left of the sum: dy passes where x > 0
    dx
        [[0.5   0]
         [2.0 3.0]]
    equal to the step before exactly

3. x > 0 exactly where y = max(x, 0) > 0, so y is enough to know where
    dx
        [[0.5   0]
         [2.0 3.0]]
    equal to the step before exactly

4. this is what the lines of vjp compute
    dx
        [[0.5   0]
         [2.0 3.0]]
    equal to the step before exactly


The lines of vjp
def vjp(dy):
    return dy * (y > 0)"""


def test_intermediate_results_are_shown_where_they_get_their_name():
    found = derive("layer_norm", (1, 3), input="x")
    first, second, third, fourth, last = found.gradients[0].steps
    assert list(first.named) == ["centred", "rstd", "xhat", "g", "delta", "dcentred", "dvar", "drstd", "dxhat"]
    assert list(second.named) == ["inner"]
    assert third.named == fourth.named == last.named == {}
    x, gain, _ = found.inputs
    np.testing.assert_array_equal(first.named["g"], found.dy * gain)
    np.testing.assert_array_equal(first.named["centred"], x - x.mean(-1, keepdims=True))
    assert "    inner  (1, 3, 3)\n        [[[" in str(found)
    assert "with <code>inner</code>" in found._repr_html_()
    large = derive("layer_norm", (1, 7), input="x")
    assert "    inner  (1, 7, 7)" not in str(large), "49 numbers are too many to follow"
    assert "    centred  (1, 7)" in str(large)


def test_the_text_of_a_derivation(monkeypatch):
    monkeypatch.setattr(
        tg.registry["relu"].sample, "functions", [lambda rng: ((np.array([[0.1, -0.1], [0.6, 0.1]]),), {})]
    )
    monkeypatch.setattr(
        "tinygrad_llm.study.derivations.derivation.draw_cotangent",
        lambda rng, value: np.array([[0.46, -1.04], [2.0, 2.97]]),
    )
    text = str(derive("relu"))
    assert text.startswith("relu\ny = max(x, 0). Saves y: it is positive where x is")
    assert text[text.index("The numbers") :] == SHOWN


def test_gradients_have_the_names_that_the_sentences_give_them():
    shown = str(derive("mul"))
    assert shown.count("\n    gx\n") == shown.count("\n    gy\n") == 3
    assert "\n    dx\n" not in shown
    assert str(derive("exp")).count("\n    dx\n") == 3
    assert "dxs[0]" in derive("stack")._repr_html_()


def test_seed_shape_and_input():
    found = derive("linear", shape=(2, 5), input="weight", seed=3)
    assert found.inputs[0].shape == (2, 5)
    assert [g.input for g in found.gradients] == ["weight"]
    assert "sample 1 of 2, seed 3" in found.notes
    np.testing.assert_array_equal(found.inputs[0], derive("linear", shape=(2, 5), seed=3).inputs[0])
    assert not np.array_equal(found.inputs[0], derive("linear", shape=(2, 5), seed=4).inputs[0])
    assert not np.array_equal(found.inputs[0].ravel()[:5], found.dy.ravel()[:5])


@pytest.mark.parametrize("arguments", [("attention", (1, 3, 2), "k"), ("split", (2, 3), "x"), ("mean", (2, 3), "x")])
def test_the_dense_jacobian(arguments):
    found = derive(*arguments)
    (gradient,) = found.gradients
    dy = np.concatenate([np.ravel(d) for d in arrays([found.dy])] or [np.ravel(found.dy)])
    assert gradient.jacobian.shape == (dy.size, gradient.steps[0].value.size)
    np.testing.assert_allclose(dy @ gradient.jacobian, gradient.steps[-1].value.ravel(), rtol=1e-13, atol=1e-15)
    assert np.count_nonzero(gradient.jacobian) >= dy.size
    assert "the dense Jacobian, a row for each entry of the result" in str(found)
    assert "the dense Jacobian, a row for each entry of the result" in found._repr_html_()


def test_a_jacobian_that_is_not_small_is_not_shown():
    assert derive("tanh", shape=(8,)).gradients[0].jacobian.shape == (8, 8)
    for found in (derive("tanh", shape=(9,)), derive("stack", shape=(2,)), derive("tanh", shape=(0,))):
        assert found.gradients[0].jacobian is None
        assert "dense Jacobian," not in str(found)


def test_the_first_sample_that_fits_is_used():
    assert "sample 2 of 2, seed 0" in derive("power", input="x", sample=2).notes
    assert derive("power", input="y").options == {}
    with pytest.raises(ValueError, match="no sample that was asked for has a gradient of y"):
        derive("power", input="y", sample=2)
    with pytest.raises(ValueError, match="no sample 3; they are numbered from 1 to 2"):
        derive("power", sample=3)
    with pytest.raises(ValueError, match="no sample 0"):
        derive("power", sample=0)


def test_missing_axes_are_leading_ones():
    found = derive("attention", shape=(1, 3, 2))
    assert found.inputs[0].shape == (1, 1, 3, 2)
    assert found.notes[1] == "attention needs 4 axes here: the shape (1, 3, 2) is read as (1, 1, 3, 2)"
    assert [len(g.steps) for g in found.gradients] == [6, 6, 4]
    assert found.largest_change <= 1e-12
    assert len(derive("attention", shape=(1, 1, 3, 2)).notes) == 1
    assert derive("softmax", shape=(3,)).inputs[0].shape == (3,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"operation": "attention", "shape": (2, 3, 4, 5, 6)},
            "(2, 3, 4, 5, 6) does not fit its first input; (2, 2, 3, 2)",
        ),
        (
            {"operation": "softmax", "shape": (1000, 1000)},
            "1,000,000 x 1,000,000 entries, 8 TB; choose a shape of at most",
        ),
        ({"operation": "softmax", "shape": (1025,)}, "1,025 x 1,025 entries, 8.4 MB"),
        (
            {"operation": "einsum", "shape": (1, 1000), "sample": 3},
            "einsum: the dense Jacobian has 1 x 1,000,000 entries",
        ),
        ({"operation": "softmax", "shape": (2, -3)}, "the shape (2, -3) has a negative size"),
        ({"operation": "max", "shape": (0,)}, "max: the shape (0,) does not fit"),
    ],
)
def test_shapes_that_are_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        derive(**arguments)


def test_names_that_are_not_known():
    with pytest.raises(UnknownOperation, match="unknown operation 'sofmax'; did you mean softmax"):
        derive("sofmax")
    with pytest.raises(UnknownInput, match="linear: no input is called 'w'; choose from x, weight, bias"):
        derive("linear", input="w")
    with pytest.raises(UnknownInput, match="where: its input condition has no derivation; choose from x, y"):
        derive("where", input="condition")


def test_empty_arrays_are_shown():
    text = str(derive("softmax", shape=(0, 3)))
    assert "no entries, shape (0, 3)" in text


def test_large_arrays_are_shortened():
    found = derive("tanh", shape=(20, 20))
    assert "(the outer 3 of each axis; 400 entries)" in str(found)
    assert str(found).count("\n") < 150
    assert found._repr_html_().split("</table>")[0].count("<tr>") == 7
    row = found._repr_html_().split("<tr>")[1]
    assert row.count("<td") == 7
    assert "…" in row


def own_operation(**kinds):
    """An operation that is not registered: y = 1 / x, with what `kinds` asks for."""

    def reciprocal(x):
        """``y = 1 / x``."""

        def vjp(dy):
            return -dy / (x * x)

        return 1 / x, vjp

    operation = Operation(reciprocal)
    if kinds.get("sample", True):
        operation.sample(kinds.get("draw", lambda rng, shape=(3,): ((rng.uniform(1, 2, shape),), {})))
    if kinds.get("derivation", True):

        @operation.derivation("x")
        def _(x, dy):
            yield "power rule on `x^-1`", -dy * x**-2.0
            yield "a power is a quotient", -dy / x**2

    return operation


def test_an_operation_of_the_user():
    found = derive(own_operation())
    assert [s.why for s in found.gradients[0].steps] == ["power rule on `x^-1`", "a power is a quotient", "the vjp"]
    assert "1. power rule on x⁻¹" in str(found)
    assert "return -dy / (x * x)" in str(found)
    with pytest.raises(ValueError, match=r"reciprocal has no sample .* add one with @reciprocal.sample"):
        derive(own_operation(sample=False))
    with pytest.raises(ValueError, match=r'reciprocal has no derivation.*@reciprocal.derivation\("x"\)'):
        derive(own_operation(derivation=False))


def test_numbers_are_not_rounded_into_a_pole():
    found = derive(own_operation(draw=lambda rng: ((np.array([0.004, -0.04, 0.5]),), {})))
    assert found.inputs[0].tolist() == [0.1, -0.1, 0.5]
    assert found.exact


def test_options_are_rounded_to_two_decimals_but_not_to_nothing():
    drawn = {"eps": 1e-5, "value": -1.2678, "axis": 1, "name": "x"}
    operation = own_operation(draw=lambda rng: ((np.ones(2),), drawn))
    plain, derivation = operation.reference, operation.derivations["x"]
    operation.reference = lambda x, **options: plain(x)
    operation.derivations["x"] = lambda x, dy, **options: derivation(x, dy=dy)
    found = derive(operation)
    assert found.options == {"eps": 1e-5, "value": -1.27, "axis": 1, "name": "x"}
    assert found.call == "reciprocal(x, eps=1e-05, value=-1.27, axis=1, name='x')"


def test_an_error_of_the_sample_itself_is_not_hidden():
    def draw(rng):
        raise ValueError("the sample's own mistake")

    with pytest.raises(ValueError, match="the sample's own mistake"):
        derive(own_operation(draw=draw))


def test_rounding_gives_way_where_the_derivation_does_not_hold_for_the_rounded_numbers():
    operation = own_operation(draw=lambda rng: ((np.array([0.26, 0.34]),), {}))
    whole = operation.derivations["x"]

    @operation.derivation("x")
    def _(x, dy):  # wrong at a tie, which rounding to one decimal makes
        for why, value in whole(x, dy=dy):
            yield why, value + (x[0] == x[1] or round(x[0], 1) == x[0])

    found = derive(operation)
    assert found.inputs[0].tolist() == [0.26, 0.34]
    assert found.exact
    assert found.largest_change <= 1e-12


def test_a_derivation_that_never_holds_is_shown_as_it_is():
    operation = own_operation()

    @operation.derivation("x")
    def _(x, dy):
        yield "wrong", dy

    found = derive(operation)
    assert not found.exact
    assert "differs from the step before by" in str(found)
    assert 'class="agreement bad"' in found._repr_html_()


def test_a_page():
    html = derivation_page(derive("softmax", shape=(2, 3)))
    assert html.startswith("<!doctype html>")
    assert "<title>softmax: its derivation</title>" in html
    assert html.count("<math") > 10


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([1.0, -2.5], ["1.0", "-2.5"]),
        ([1 / 3, 100 / 3], ["0.3333", "33.3333"]),
        ([0.0, 0.0], ["0", "0"]),
        ([1e-9, 2e-9], ["1.00000e-09", "2.00000e-09"]),
        ([123456789.0, 0.0], ["1.23457e+08", "0"]),
        ([np.inf, 1.5, -0.0], ["inf", "1.5", "0"]),
        ([np.nan, 0.25], ["nan", "0.25"]),
    ],
)
def test_how_numbers_are_written(values, texts):
    array = np.array(values)
    assert [number_format(array)(v) for v in array] == texts


def test_exact_numbers_keep_all_their_decimals():
    array = np.array([0.123456789, 1000.0])
    assert number_format(array, exact=True)(array[0]) == "0.123456789"
    assert plain_numbers(np.array([True, False])) == "[ True False]"
    assert plain_numbers([1, 2]) == "[1, 2]"
    assert plain_numbers(np.array([1.25, -3.0])) == "[ 1.25 -3.00]"


def test_matrices():
    html = matrices_html(np.array([[[1.0, -2.0]], [[0.0, np.nan]]]), caption="x")
    assert re.findall(r"<figcaption>(.*?)</figcaption>", html) == ["x [0]", "x [1]"]
    assert re.findall(r"<td(.*?)>(.*?)</td>", html) == [
        (' class="plus" style="--share: 15%"', "1"),
        (' class="minus" style="--share: 26%"', "−2"),
        ("", "0"),
        ("", "nan"),
    ]
    assert "7" in matrices_html(np.array(7))
    many = matrices_html(np.arange(20.0).reshape(20, 1, 1))
    assert re.findall(r"<figcaption>(.*?)</figcaption>", many) == [
        "[0]",
        "[1]",
        "[2]",
        "… 20 matrices",
        "[17]",
        "[18]",
        "[19]",
    ]
    assert re.findall(r"<td.*?>(.*?)</td>", many) == ["0", "1", "2", "17", "18", "19"]
    assert "no entries, shape (0, 2)" in matrices_html(np.zeros((0, 2)))


# ---------------------------------------------------------------------------------------------------------------------
# The check


def test_the_check_covers_every_differentiable_input():
    results = check_derivations(OPERATIONS, draws=2)
    assert all(results), [r for r in results if not r]
    covered = {(r.operation, r.input) for r in results}
    assert covered == {(name, parameter) for name in OPERATIONS for parameter in tg.registry[name].derivations}
    for r in results:
        assert r.steps >= 3
        assert r.draws >= 2
        assert r.largest_change <= 1e-12


STEPS = [(r.operation, r.input, step) for r in check_derivations(OPERATIONS, draws=2) for step in range(r.steps - 1)]


def spoiled(operation, name, number, spoil):
    """The operation with step `number` of one derivation changed by `spoil`."""
    copy = Operation(operation.reference, operation.name)
    copy.sample, copy.derivations = operation.sample, dict(operation.derivations)
    original = operation.derivations[name]

    def derivation(*inputs, **options):
        for i, (why, value) in enumerate(original(*inputs, **options)):
            if i == number:
                value = tuple(map(spoil, value)) if isinstance(value, tuple) else spoil(value)
            yield why, value

    copy.derivations[name] = derivation
    return copy


@pytest.mark.parametrize(("name", "parameter", "number"), STEPS)
def test_the_check_finds_every_perturbed_step(name, parameter, number):
    operation = spoiled(tg.registry[name], parameter, number, lambda value: value * (1 + 1e-9))
    results = check_derivations([operation], draws=3)
    faulty = [r for r in results if not r.ok]
    assert [r.input for r in faulty] == [parameter]
    assert re.findall(r"step (\d+) \(", faulty[0].fault) == [str(number + 1)]
    assert faulty[0].largest_change > 1e-12


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda value: value[..., :-1], r"step 2 \(.*\) has the shape \(2, 2\), its input \(2, 3\)"),
        (lambda value: value[0], r"step 2 \(.*\) has the shape \(3,\), its input \(2, 3\)"),
        (lambda value: value * np.nan, r"^step 2 \(.*\) differs by nan$"),
        (lambda value: np.where(value > 1e9, value, np.nan), "step 2"),
        (lambda value: value + np.inf, r"step 2 \(.*\) differs by inf"),
        (lambda value: -value, "step 2"),
        (lambda value: 1 / 0, "step 2 raises ZeroDivisionError: division by zero"),
    ],
)
def test_the_check_finds_steps_of_a_wrong_shape_nan_and_errors(spoil, fault):
    (result,) = [
        r for r in check_derivations([spoiled(tg.registry["rms_norm"], "x", 1, spoil)], draws=2) if r.input == "x"
    ]
    assert not result
    assert re.search(fault, result.fault), result.fault


def test_the_check_finds_a_wrong_vjp():
    operation = own_operation()
    operation.reference = lambda x: (1 / x, lambda dy: dy / (x * x))
    (result,) = check_derivations([operation], draws=2)
    assert result.fault.startswith("step 3 (the vjp) differs by")


def test_the_check_finds_what_is_missing():
    assert check_derivations([own_operation(sample=False)])[0].fault == "it has no sample to draw arguments from"
    (result,) = check_derivations([own_operation(derivation=False)], draws=1)
    assert (result.input, result.fault) == ("x", "it has no derivation")
    operation = own_operation()
    operation.parameters = ("x", "y")
    operation.derivation("y")(lambda x, y, dy: iter(()))
    assert [r.fault for r in check_derivations([operation], draws=1)] == ["", "no sample has a gradient for it"]
    operation = own_operation()
    operation.derivations["x"] = lambda x, dy: iter(())
    assert check_derivations([operation], draws=1)[0].fault == "its derivation has no steps"


def test_a_derivation_cannot_change_what_it_is_compared_with():
    operation = Operation(lambda x: (x + 0, lambda dy: dy), "same")
    operation.sample(lambda rng: ((rng.standard_normal(3),), {}))

    def derivation(x, dy):
        dy *= 2
        yield "wrong by a factor, as is now the dy that the vjp has returned", dy

    operation.derivation("x")(derivation)
    (result,) = check_derivations([operation], draws=1)
    assert re.fullmatch("step 1 raises ValueError: .*read-only", result.fault)


def test_draws_differ_and_are_counted():
    drawn = []

    def draw(rng, shape=(3,)):
        drawn.append(rng.uniform(1, 2, shape))
        return (drawn[-1],), {}

    (result,) = check_derivations([own_operation(draw=draw)], draws=4)
    assert result.draws == 4
    assert len({x.tobytes() for x in drawn}) == 4
    with pytest.raises(ValueError, match="0 draws"):
        check_derivations(draws=0)
