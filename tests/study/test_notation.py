"""The house notation: every formula in the code is in it, and reads well in each of its forms."""

import re
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm.operation import Operation
from tinygrad_llm.study.notation import prose as notation
from tinygrad_llm.study.notation.formulas import parse
from tinygrad_llm.study.notation.typesetting import house, latex, mathml, terminal

OPERATIONS = sorted(name for name, o in tg.registry.items() if o.__module__.startswith("tinygrad_llm."))

FORMS = [
    (
        "dx_j = sum_i g_i ∂xhat_i/∂x_j",
        "dxⱼ = Σᵢ gᵢ ∂x̂ᵢ/∂xⱼ",
        r"{{dx}}_{j} = \sum_{i}\,{g}_{i}\,\frac{\partial {\hat{x}}_{i}}{\partial {x}_{j}}",
    ),
    ("(a + b) / (c d)", "(a + b) / (c d)", r"\frac{a + b}{c\,d}"),
    ("a b / c", "a b / c", r"\frac{a\,b}{c}"),
    ("a b/c d", "a b/c d", r"a\,\frac{b}{c}\,d"),
    ("a / b / c", "a / b / c", r"\frac{\frac{a}{b}}{c}"),
    ("e^y_j", "e^yⱼ", r"{e}^{{y}_{j}}"),
    ("e^x^2", "e^x²", r"{e}^{{x}^{2}}"),
    ("y_i^2", "yᵢ²", r"{{y}_{i}}^{2}"),
    ("e^(-x^2/2)", "e^(−x²/2)", r"{e}^{{-{x}^{2}/2}}"),
    ("e^-x + x^(y-1)", "e⁻ˣ + xʸ⁻¹", r"{e}^{{-x}} + {x}^{y - 1}"),
    ("k^T q", "kᵀ q", r"{k}^{T}\,q"),
    ("delta_ij eps", "δᵢⱼ ε", r"{\delta}_{ij}\,\varepsilon"),
    ("dW_vc", "dW_vc", r"{{dW}}_{vc}"),
    ("p_(target)", "p_(target)", r"{p}_{\text{target}}"),
    ("label_smoothing / V", "label_smoothing / V", r"\frac{\text{label_smoothing}}{V}"),
    ("[ids_n = v] dy_n", "[idsₙ = v] dyₙ", r"\left[{\text{ids}}_{n} = v\right]\,{{dy}}_{n}"),
    ("1/cosh^2 u", "1/cosh² u", r"\frac{1}{{\text{cosh}}^{2}\,u}"),
    ("sqrt(2 pi) + sqrt(x)", "√(2 π) + √x", r"\sqrt{2\,\pi} + \sqrt{x}"),
    ("low <= x >= -|x| > 0", "low ≤ x ≥ −|x| > 0", r"\text{low} \le  x \ge  {-\left|x\right|} > 0"),
    ("z_k = sum_(j in k) x_j", "zₖ = Σ_(j ∈ k) xⱼ", r"{z}_{k} = \sum_{j \in  k}\,{x}_{j}"),
    ("q_t . k_s - u'", "qₜ · kₛ − u′", r"{q}_{t}\cdot {k}_{s} - {u}'"),
    ("f(x, y) (a) 3.7e-44", "f(x, y) (a) 3.7·10⁻⁴⁴", r"f\left(x, y\right)\,\left(a\right)\,3.7\cdot 10^{-44}"),
    ("|x| |y|", "|x| |y|", r"\left|x\right|\,\left|y\right|"),
    ("gx gain rstd dgain", "gx gain rstd dgain", r"{gx}\,\text{gain}\;\text{rstd}\,{d\text{gain}}"),
    ("sum dgain / k!", "Σ dgain / k!", r"\sum\,\frac{{d\text{gain}}}{{k}!}"),
    ("(1/s) sum_i e^x_i + b", "(1/s) Σᵢ e^xᵢ + b", None),
    ("∂log p_v/∂x_j = inf", "∂log pᵥ/∂xⱼ = ∞", None),
]


def documented():
    """(where, formula) for each formula in the docstrings of the operations and of their modules."""
    docs = {name: tg.registry[name].__doc__ for name in OPERATIONS}
    docs |= {o.__module__: sys.modules[o.__module__].__doc__ for o in map(tg.registry.get, OPERATIONS)}
    for where, doc in docs.items():
        for formula in notation.docstring_formulas(doc):
            yield where, formula


@pytest.mark.parametrize(("text", "plain", "tex"), FORMS, ids=[text for text, _, _ in FORMS])
def test_the_three_forms(text, plain, tex):
    tree = parse(text)
    assert parse(house(tree)) == tree
    assert house(tree).replace(" ", "") == text.replace(" ", "")
    assert terminal(tree) == plain
    if tex is not None:
        assert latex(tree) == tex


@pytest.mark.parametrize(("where", "formula"), list(documented()))
def test_formulas_of_docstrings_are_in_the_notation(where, formula):
    check(formula)


def derived():
    """The formulas in every sentence that a derivation of a sample yields."""
    found = {}
    for name in OPERATIONS:
        operation = tg.registry[name]
        for number in range(len(operation.sample)):
            rng = np.random.default_rng(0)
            inputs, options = operation.sample.draw(rng, number)
            value = operation.reference(*inputs, **options)[0]
            dy = tuple(map(np.ones_like, value)) if isinstance(value, tuple) else np.ones(np.shape(value))
            for parameter, derivation in operation.derivations.items():
                given = {} if operation.variadic else dict(zip(operation.parameters, inputs, strict=False))
                if not operation.variadic and parameter not in given:
                    continue
                forms = derivation(*inputs if operation.variadic else (), **given, dy=dy, **options)
                found |= {(name, parameter, why): None for why, _ in forms}
    return list(found)


@pytest.mark.parametrize(("name", "parameter", "why"), derived())
def test_formulas_of_derivations_are_in_the_notation(name, parameter, why):
    assert why.count("`") % 2 == 0
    for formula in notation.sentence_formulas(why):
        check(formula)
    outside = "".join(why.split("`")[::2])
    assert not re.search(r"[=∂^_<>]", outside), "a formula without backticks"


def check(formula):
    tree = parse(formula)
    assert parse(house(tree)) == tree
    assert house(tree).replace(" ", "") == formula.replace(" ", "")
    assert terminal(tree)
    assert ET.fromstring(mathml(formula)).tag.endswith("math")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x + ", "expected a name, a number or a bracket, found 'the end' (column 4)"),
        ("(x", "expected ), found 'the end'"),
        ("x; y", "';' is not in the notation (column 2)"),
        ("x) y", "did not expect ')'"),
        ("x where y", "'where' is a word of the text"),
        ("[a, b)", "expected ], found ')'"),
        ("", "found 'the end' (column 1)"),
    ],
)
def test_what_is_not_a_formula_is_shown_with_its_place(text, why):
    with pytest.raises(ValueError, match="formula") as error:
        parse(text)
    assert why in str(error.value)


@pytest.mark.parametrize("code", ['einsum("ij->i", x)', "np.add.at", "x @ y", "x[::2]", 'random.stream(key, "a b")'])
def test_code_is_told_from_formulas(code):
    assert notation.is_code(code)
    assert notation.docstring_formulas(f"See ``{code}`` or ``x = 0.5``.") == ["x = 0.5"]
    assert notation.plain_sentence(f"as `{code}` does") == f"as {code} does"


@pytest.mark.parametrize("formula", ["u' = 2", "q_t . k_s", "erf' v = e^(-v^2)", "p' + q'"])
def test_formulas_are_not_taken_for_code(formula):
    assert not notation.is_code(formula)


def test_sentences():
    text = "divide by `s^2`: `p_i < 1` & so on"
    assert notation.sentence_formulas(text) == ["s^2", "p_i < 1"]
    assert notation.plain_sentence(text) == "divide by s²: pᵢ < 1 & so on"
    html = notation.html_sentence(text)
    assert html.count("<math") == 2
    assert "&amp; so on" in html
    assert "`" not in html
    assert notation.html_sentence("<b> and `np.add`") == "&lt;b&gt; and <code>np.add</code>"


def test_no_line_ends_between_a_formula_and_what_touches_it():
    def shape(html):
        return re.sub("<math.*?</math>", "M", str(html))

    wrapped = '<span class="kept">{}</span>'.format
    for text, expected in [
        ("has `y = 0`. Its", f"has {wrapped('M.')} Its"),
        ("(`x`, or `y`)", f"{wrapped('(M,')} or {wrapped('M)')}"),
        ("(`x` or `y` or (`z`))", f"{wrapped('(M')} or M or {wrapped('(M))')}"),
        ("`x` is `y`", "M is M"),
    ]:
        assert shape(notation.html_sentence(text)) == expected
        assert shape(notation.docstring_html(text.replace("`", "``"))) == f"<p>{expected}</p>"


def test_what_a_user_quotes_and_is_not_a_formula_is_shown_as_it_is():
    assert notation.plain_sentence("by `x +` and `x**2`") == "by x + and x**2"
    assert notation.html_sentence("by `x +`") == "by <code>x +</code>"


DOC = """``y = x``, as in `softmax` and `axis`; see arXiv:1607.06450. With g < 1::

    a = b,   c = "d"
    e = f

the end.

Another paragraph.
"""


def test_docstrings():
    assert notation.docstring_formulas(DOC) == ["y = x", "a = b", "e = f"]
    html = notation.docstring_html(DOC, {"softmax": "softmax.html"})
    assert '<a href="softmax.html"><code>softmax</code></a> and <code>axis</code>' in html
    assert '<a href="https://arxiv.org/abs/1607.06450">arXiv:1607.06450</a>. With g &lt; 1:</p>' in html
    assert html.count('display="block"') == 2
    assert "<code>c = &#34;d&#34;</code>" in html
    assert html.count("<p>") == 3
    assert notation.plain_docstring(DOC).split("\n\n") == [
        "y = x, as in softmax and axis; see arXiv:1607.06450. With g < 1:",
        '    a = b\n    c = "d"\n    e = f',
        "the end.",
        "Another paragraph.",
    ]
    assert notation.first_formula("the ``sum\n  of`` ``x``") == "sum of"
    assert notation.first_formula("none") == ""


def test_sources():
    layer_norm = tg.registry["layer_norm"]
    assert notation.vjp_source(layer_norm).startswith("def vjp(dy):\n    def dx():\n        g = dy * gain")
    forward = notation.forward_source(layer_norm)
    assert forward.startswith("@op\ndef layer_norm(x, gain, bias, eps=1e-5):\n    check_channels(")
    assert "def vjp" not in forward
    assert '"""' not in forward
    assert forward.endswith("y += bias\n\n    return y, vjp")
    assert "# centred; divided" in forward


def test_the_formula_that_leads_stands_by_itself():
    html = notation.docstring_html("``y =\n  x``: the identity.\n\nMore.", lead=True)
    assert html.startswith('<div class="lead-formula"><math')
    assert html.endswith("</div>\n<p>the identity.</p>\n<p>More.</p>")
    for doc in ("``x @ y`` is code.", "The ``y = x``."):
        assert "lead-formula" not in notation.docstring_html(doc, lead=True)


def test_a_comment_below_the_docstring_stays_in_the_source():
    def own(x):
        """Not shown.

        Nor this.
        """
        # shown
        y = x + 0
        return y, lambda dy: dy

    source = notation.forward_source(Operation(own))
    assert source == "def own(x):\n    # shown\n    y = x + 0\n    return y, lambda dy: dy"
    assert notation.vjp_source(Operation(own)) == "# no sample: the vjp is inside the forward function"


def test_sources_of_an_operation_with_two_forms():
    gelu = tg.registry["gelu"]
    assert notation.vjp_source(gelu).count("def vjp(dy):") == 2
    assert [line for line in notation.forward_source(gelu).splitlines() if line.startswith("def ")] == [
        "def gelu(x, approximate=True):",
        "def _gelu_tanh(x):",
        "def _gelu_erf(x):",
    ]


def test_source_that_python_does_not_know():
    scope = {}
    exec("def typed(): pass", scope)
    assert notation.source_of(scope["typed"]) == "# the source of typed is not in a file"


def test_highlight():
    html = notation.highlight("x < 1  # <b>")
    assert html.startswith('<pre class="source">')
    assert "&lt;" in html
    assert "<b>" not in html
