"""why: the paths add up to the entry, name the right consumers, and the local derivatives are the true ones."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm import Tensor, ops
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.study.graph import Use, graph_of
from tinygrad_llm.study.local import local_terms

RNG = np.random.default_rng(0)


def leaf(*shape):
    return Tensor(RNG.standard_normal(shape), requires_grad=True)


def probed(tensor):
    """A scalar that depends on every entry of `tensor` in a different way."""
    return (tensor * RNG.standard_normal(tensor.shape)).sum()


def assert_adds_up(found, tensor, index):
    assert found.entry.gradient == tensor.grad[index]
    scale = math.fsum(abs(t.product) for p in found.entry.paths for t in p.terms) + abs(found.entry.gradient)
    assert abs(found.difference) <= 1e-12 * scale
    assert found.difference == found.total - found.entry.gradient
    check_levels(found.entry)


def check_levels(entry):
    """At every level that was taken apart, the terms add up to the entry."""
    if entry.paths:
        size = sum(abs(t.product) for p in entry.paths for t in p.terms) + 1e-300
        assert abs(entry.total - entry.gradient) <= 1e-12 * (size + abs(entry.gradient))
    for path in entry.paths:
        for term in path.terms:
            assert term.because.gradient == term.upstream
            check_levels(term.because)


def test_a_diamond_shows_every_path():
    x = leaf(2)
    y = x * x + x
    y.sum().backward()
    found = tg.study.why(x, 1, depth=5)
    assert_adds_up(found, x, (1,))
    assert [(p.operation, p.parameter) for p in found.entry.paths] == [("mul", "x"), ("mul", "y"), ("add", "y")]
    assert [p.total for p in found.entry.paths] == [x.data[1], x.data[1], 1.0]
    assert [t.local for p in found.entry.paths for t in p.terms] == [x.data[1], x.data[1], 1.0]
    last = found.entry.paths[0].terms[0].because.paths[0].terms[0].because.paths[0].terms[0].because
    assert last.given
    assert last.operation == "sum"
    assert not found.entry.given


def test_a_broadcast_add_sums_over_the_copies():
    x, bias = leaf(3, 4), leaf(4)
    probed(x + bias).backward()
    found = tg.study.why(bias, 2, terms=5)
    assert_adds_up(found, bias, (2,))
    (path,) = found.entry.paths
    assert sorted(t.index for t in path.terms) == [(0, 2), (1, 2), (2, 2)]
    assert all(t.local == 1 for t in path.terms)


def test_a_repeated_embedding_index_sums_over_its_places():
    weight = leaf(5, 3)
    probed(ops.embedding(weight, np.array([[1, 4, 1], [0, 1, 2]]))).backward()
    found = tg.study.why(weight, (1, 2))
    assert_adds_up(found, weight, (1, 2))
    assert sorted(t.index for t in found.entry.paths[0].terms) == [(0, 0, 2), (0, 2, 2), (1, 1, 2)]
    untouched = tg.study.why(weight, (3, 0))
    assert untouched.entry.paths == ()
    assert untouched.entry.gradient == 0
    assert "no path from it carries a gradient" in str(untouched)


def test_layer_norm_shows_the_whole_row():
    x, gain, bias = leaf(2, 3, 5), leaf(5), leaf(5)
    probed(ops.layer_norm(x, gain, bias)).backward()
    found = tg.study.why(x, (1, 0, 3), terms=5)
    assert_adds_up(found, x, (1, 0, 3))
    assert sorted(t.index for t in found.entry.paths[0].terms) == [(1, 0, c) for c in range(5)]
    for tensor, index in ((gain, (4,)), (bias, (0,))):
        assert_adds_up(tg.study.why(tensor, index), tensor, index)


def test_the_largest_terms_are_shown_and_the_others_summed():
    x = leaf(2, 6)
    probed(ops.softmax(x)).backward()
    everything = tg.study.why(x, (0, 1), terms=6).entry.paths[0]
    few = tg.study.why(x, (0, 1), terms=2).entry.paths[0]
    assert few.terms[0].product == everything.terms[0].product
    assert few.others == 4
    assert few.others_total == pytest.approx(math.fsum(t.product for t in everything.terms[2:]), rel=1e-12)
    sizes = [abs(t.product) for t in everything.terms]
    assert sizes == sorted(sizes, reverse=True)


def test_attention_reaches_all_queries_that_see_the_key():
    q, k, v = leaf(1, 2, 4, 3), leaf(1, 2, 4, 3), leaf(1, 2, 4, 3)
    probed(ops.attention(q, k, v, causal=True)).backward()
    for tensor in (q, k, v):
        assert_adds_up(tg.study.why(tensor, (0, 1, 2, 1), terms=100), tensor, (0, 1, 2, 1))
    indexes = {t.index for t in tg.study.why(v, (0, 1, 2, 1), terms=100).entry.paths[0].terms}
    assert indexes == {(0, 1, 2, 1), (0, 1, 3, 1)}, "causal: queries 2 and 3 see key 2, and only this channel"


@given(seed=st.integers(0, 2**32 - 1))
def test_a_whole_gpt(seed):
    rng = np.random.default_rng(seed)
    model = GPT(GPTConfig(vocab_size=7, context=6, channels=8, layers=2, heads=2, init_std=0.3), seed=1)
    model.astype(np.float64)
    ids = rng.integers(0, 7, (2, 6))
    ops.cross_entropy(model(ids[:, :-1]), ids[:, 1:]).backward()
    parameters = list(model.named_parameters())
    for number in rng.permutation(len(parameters))[:5]:
        name, parameter = parameters[number]
        index = tuple(int(rng.integers(n)) for n in parameter.shape)
        found = tg.study.why(parameter, index, depth=2, terms=4)
        assert_adds_up(found, parameter, index)
        assert found.entry.name == f"model.{name}"


def test_depth():
    x = leaf(3)
    y = (x.exp() * 2.0).tanh()
    y.sum().backward()

    def levels(entry):
        return 1 + max((levels(t.because) for p in entry.paths for t in p.terms), default=-1) if entry.paths else 0

    assert [levels(tg.study.why(x, 0, depth=d).entry) for d in (1, 2, 3, 4, 9)] == [1, 2, 3, 4, 4]


def test_a_term_is_taken_apart_as_deep_as_asked_though_met_before_at_the_end():
    """The consumer `z` of x is met first with no depth left, then again with one."""
    x = leaf(1)
    z = x * 2.0
    w = z * 3.0
    (w + z).sum().backward()
    found = tg.study.why(x, 0, depth=3)
    (path,) = found.entry.paths
    assert {p.operation for p in path.terms[0].because.paths} == {"mul", "add"}
    for p in path.terms[0].because.paths:
        assert p.terms[0].because.paths, p.operation


def test_an_intermediate_value_and_several_outputs():
    x = leaf(2, 6)
    a, b = ops.split(x.exp(), 2, axis=-1)
    c = a * b
    probed(c).backward()
    found = tg.study.why(x, (0, 4))
    assert_adds_up(found, x, (0, 4))
    (term,) = found.entry.paths[0].terms[0].because.paths[0].terms
    assert (term.output, term.index) == ("b", (0, 1))
    middle = tg.study.why(b, (0, 1))
    assert middle.entry.gradient == term.upstream
    assert middle.entry.name == "b"
    assert middle.entry.value == b.data[0, 1]


def test_before_backward_the_output_is_named():
    x = leaf(3)
    y = probed(x.exp())
    found = tg.study.why(x, -1, of=y)
    y.backward()
    assert found.entry.gradient == x.grad[2]
    assert found.entry.index == (2,)
    with pytest.raises(ValueError, match="needs a cotangent"):
        tg.study.why(x, 0, of=x.exp())


def test_the_output_may_be_any_of_several():
    x = leaf(2)
    _, second = ops.split(x.exp(), 2)
    found = tg.study.why(x, 1, of=second)
    assert found.entry.gradient == np.exp(x.data[1])
    assert tg.study.why(x, 0, of=second).entry.gradient == 0


def test_a_given_cotangent_is_where_it_ends():
    x = leaf(3)
    dy = RNG.standard_normal(3)
    y = x.exp()
    y.backward(dy)
    (path,) = tg.study.why(x, 1).entry.paths
    assert path.terms[0].upstream == dy[1]
    assert path.terms[0].because.given
    assert tg.study.why(y, 1).entry.given


def test_it_prints_as_a_tree_that_adds_up():
    x = Tensor(np.array([3.0, 2.0]), requires_grad=True)
    y = x * x + x
    y.sum().backward()
    text = str(tg.study.why(x, 0))
    assert text.startswith("x[0] = 3, gradient 7: from 3 uses, 3 + 3 + 1\n")
    assert "├── 3 × 1 = 3  ∂mul[0]/∂x[0] × gradient of mul[0], through mul, as its input y  (explained above)" in text
    assert "∂sum/∂y[0] × gradient of sum (where backward() began)" in text
    x = Tensor(np.array([3.0, 1.0, 2.0]), requires_grad=True)
    (x.sum() - x * 2.0).backward(np.ones(3))
    text2 = str(tg.study.why(x, 0, terms=2))
    assert text2.startswith("x[0] = 3, gradient 1: from 2 uses, 3 - 2\n")
    assert "1  from 1 smaller term\n" in text2
    assert "2  from 2 smaller terms\n" in str(tg.study.why(x, 0, terms=1))
    assert text.endswith("all paths add up to 7; the entry of the gradient is 7; difference 0.0e+00")


def test_ten_terms_of_one_use_are_not_called_a_path():
    x = Tensor(np.array(2.0), requires_grad=True)
    (x * np.arange(1.0, 11.0)).sum().backward()
    assert str(tg.study.why(x)).startswith("x = 2, gradient 55: from one use\n")


def test_one_number_has_no_index():
    x = leaf()
    x.exp().backward()
    for index in (0, (9,), (1, 2)):
        with pytest.raises(ValueError, match=r"of a Tensor that is one number: it has no axes; leave the index out"):
            tg.study.why(x, index)


def test_a_sum_of_too_many_terms_still_adds_up():
    x = Tensor(np.array(1.5), requires_grad=True)
    with tg.keep_graph():
        probed(x * np.ones(3000)).backward()
    found = tg.study.why(x, depth=1)
    assert found.entry.paths[0].rest != 0
    assert abs(found.difference) <= 1e-12 * 3000
    assert "from terms too many to be taken apart" in str(found)


def test_html_holds_the_same_and_escapes_names():
    x = leaf(2)
    probed(x.exp() * x).backward()
    html = tg.study.why(x, 0, names={"<b>": x})._repr_html_()
    assert "&lt;b&gt;[0]" in html
    assert "<b>" not in html
    assert html.count("<details") == html.count("</details>") >= 2


class TestMistakes:
    def test_a_number_instead_of_a_tensor(self):
        x = leaf(2)
        x.sum().backward()
        with pytest.raises(TypeError, match=r"a float64 does not know where it came from.*why\(t, \(2, 5\)\)"):
            tg.study.why(x.grad[0])

    @pytest.mark.parametrize("index", [(), 0, (0, 0, 0)])
    def test_too_few_or_many_indexes(self, index):
        x = leaf(2, 2)
        x.sum().backward()
        with pytest.raises(
            ValueError, match=r"not one entry of a Tensor of shape \(2, 2\); give 2 whole numbers, as in \[0, 0\]"
        ):
            tg.study.why(x, index)

    def test_an_index_outside_and_a_slice(self):
        x = leaf(2, 2)
        x.sum().backward()
        with pytest.raises(ValueError, match="index 2 is outside axis 1, which has 2 entries"):
            tg.study.why(x, (0, 2))
        with pytest.raises(TypeError, match="the index of axis 1 is slice"):
            tg.study.why(x, (0, slice(None)))

    def test_depth_and_terms(self):
        x = leaf(2)
        x.sum().backward()
        for options in ({"depth": 0}, {"depth": 201}, {"terms": 0}):
            with pytest.raises(ValueError, match="depth is from 1 to 200, and terms at least 1"):
                tg.study.why(x, 0, **options)

    def test_no_backward(self):
        with pytest.raises(ValueError, match=r"no backward\(\) has reached this Tensor yet"):
            tg.study.why(leaf(2), 0)

    def test_an_output_that_does_not_depend_on_it(self):
        x, y = leaf(2), leaf(2)
        with pytest.raises(ValueError, match="the output does not depend on it"):
            tg.study.why(x, 0, of=y.sum())

    def test_gradients_added_up_over_two_backwards(self):
        x = leaf(2)
        x.exp().sum().backward()
        x.exp().sum().backward()
        with pytest.raises(ValueError, match=r"the last graph alone gives .*zero_grad\(\)"):
            tg.study.why(x, 0)

    def test_arrays_changed_since(self):
        x = leaf(2)
        (x * x).sum().backward()
        x.data[0] += 1
        with pytest.raises(ValueError, match="arrays were changed since"):
            tg.study.why(x, 0)

    def test_arrays_changed_a_little_since(self):
        x = leaf(2)
        (x * x).sum().backward()
        x.data[0] *= 1 + 1e-9
        with pytest.raises(ValueError, match="arrays were changed since"):
            tg.study.why(x, 0)

    def test_a_graph_too_large_to_be_remembered(self):
        x = leaf(100, 100)
        x.exp().sum().backward()
        with pytest.raises(ValueError, match=r"too large to be kept.*with tg.keep_graph\(\)"):
            tg.study.why(x, (0, 0))
        x.zero_grad()
        with tg.keep_graph():
            x.exp().sum().backward()
        assert_adds_up(tg.study.why(x, (7, 8)), x, (7, 8))


@given(seed=st.integers(0, 2**32 - 1), name=st.sampled_from(sorted(tg.registry)))
def test_local_terms_are_the_jacobians_column(seed, name):
    """For any operation: the terms are dy_i J_ij, all of them, with J from unit cotangents one by one."""
    operation = tg.registry[name]
    rng = np.random.default_rng(seed)
    inputs, options = operation.sample(rng) if len(operation.sample) else ((np.ones(2),), {})
    positions = [i for i, x in enumerate(inputs) if isinstance(x, np.ndarray) and x.dtype.kind == "f" and x.size]
    leaves = {i: Tensor(inputs[i], requires_grad=True) for i in positions}
    outputs = operation(*(leaves.get(i, x) for i, x in enumerate(inputs)), **options)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    node = outputs[0].node
    dys = [rng.standard_normal(t.shape) for t in outputs]
    for edge in node.edges:
        if name == "attention" and edge.position == 3:
            continue  # a mask that is added receives no gradient
        index = tuple(int(rng.integers(n)) for n in edge.shape)
        terms, rest = local_terms(Use(node, edge), index, dys)
        assert rest == 0
        found = {(t.output, t.index): t.local for t in terms}
        for number, t in enumerate(outputs):
            for place in np.ndindex(t.shape):
                unit = [np.zeros_like(o.data) for o in outputs]
                unit[number][place] = 1.0
                local = node.gradients(node.vjp, unit, [edge])[0][index]
                assert found.get((number, place), 0.0) == local
        assert all(t.upstream == dys[t.output][t.index] for t in terms)


def test_what_was_not_taken_apart_is_summed():
    x = leaf(4, 8)
    y = x.sum()
    heavy = np.ones((4, 8))
    heavy[2, 5] = 1e6
    out = probed(y * Tensor(heavy))
    graph = graph_of(out)
    (use,) = graph.value(y).uses
    cotangents = graph.cotangents[use.node.order]
    everything, nothing = local_terms(use, (), cotangents)
    some, rest = local_terms(use, (), cotangents, probes=20)
    assert nothing == 0
    assert 0 < len(some) < len(everything) == 32
    assert (2, 5) in {t.index for t in some}, "the heaviest block is halved first"
    total = math.fsum(t.product for t in everything)
    assert math.fsum([rest, *(t.product for t in some)]) == pytest.approx(total, rel=1e-12)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_an_infinite_derivative_is_shown_where_it_is_and_nowhere_else():
    x = Tensor(np.array([0.0, 1.0, 2.0]), requires_grad=True)
    x.log().sum().backward()
    found = tg.study.why(x, 0)
    (path,) = found.entry.paths
    assert [(t.index, t.local, t.upstream) for t in path.terms] == [((0,), math.inf, 1.0)]
    assert (found.total, found.difference, path.others) == (math.inf, 0.0, 0)
    (path,) = tg.study.why(x, 2).entry.paths
    assert [(t.index, t.local) for t in path.terms] == [((2,), 0.5)]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_infinities_of_both_signs_and_sums_that_overflow_are_added_as_numpy_does():
    x = Tensor(np.ones(2), requires_grad=True)
    (x * np.inf + x * -np.inf).sum().backward()
    found = tg.study.why(x, 0)
    assert [path.total for path in found.entry.paths] == [math.inf, -math.inf]
    assert "all paths add up to nan; the entry of the gradient is nan" in str(found)
    x = Tensor(np.ones(2), requires_grad=True)
    (x * 1e308 + x * 1e308).sum().backward()
    assert tg.study.why(x, 0).total == math.inf
