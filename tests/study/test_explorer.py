"""The explorer's data: every number in the page is that of the arrays, and the local derivatives add up."""

import base64
import itertools
import json
import re

import numpy as np
import pytest

import tinygrad_llm as tg
import tinygrad_llm.study.explorer.document as explorer_module
from tinygrad_llm import ops
from tinygrad_llm.nn import Linear
from tinygrad_llm.operation import Operation
from tinygrad_llm.optim import SGD
from tinygrad_llm.study.explorer.algebra import DENSE, Derivations
from tinygrad_llm.study.explorer.anatomy import CROWD, anatomy
from tinygrad_llm.study.explorer.document import explore
from tinygrad_llm.study.explorer.jacobians import local_jacobians
from tinygrad_llm.study.explorer.packing import Store, kept_shape
from tinygrad_llm.study.graph import graph_of
from tinygrad_llm.study.tiny import tiny_step
from tinygrad_llm.tensor import Tensor

TYPES = {"f8": np.float64, "f4": np.float32, "i4": np.int32, "u1": np.uint8}


def page_data(html):
    """What the page's script reads."""
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert len(found) == 1
    return json.loads(found[0])


def unpack(packed):
    """An array of the page."""
    flat = np.frombuffer(base64.b64decode(packed["data"]), TYPES[packed["type"]])
    return flat.reshape(packed.get("kept", packed["shape"]))


def array(data, number):
    return unpack(data["arrays"][number])


def value_named(data, name):
    (found,) = [value for value in data["values"] if value["name"] == name]
    return found


def data_of(loss, **names):
    return anatomy(graph_of(loss, names), (), "a test")


def rng():
    return np.random.default_rng(1)


@pytest.fixture(scope="module")
def step():
    return tiny_step()


@pytest.fixture(scope="module")
def data(step):
    page = explore(step.loss, names={"logits": step.logits, "loss": step.loss}, words=step.words)
    return page_data(page.html)


# ---------------------------------------------------------------------------------------------------------------------
# Numbers


def test_every_value_and_gradient_is_in_the_page(step, data):
    graph = graph_of(step.loss)
    assert len(data["values"]) == len(graph.values)
    for value, packed in zip(graph.values.values(), data["values"], strict=True):
        np.testing.assert_array_equal(array(data, packed["array"]), value.data)
        np.testing.assert_array_equal(array(data, packed["gradient"]), value.gradient)


def test_parameters_have_their_gradients(step, data):
    for name, parameter in step.model.named_parameters():
        value = value_named(data, name)
        np.testing.assert_array_equal(array(data, value["gradient"]), parameter.grad)


def contributions(data, value):
    """What each consumer sends back, from its local derivatives; an array for each use."""
    for use in value["uses"]:
        starts, places, local = (array(data, n) for n in data["jacobians"][use["jacobian"]])
        outputs = [data["values"][n] for n in data["boxes"][use["box"]]["values"]]
        upstream = np.concatenate([array(data, o["gradient"]).ravel() for o in outputs])
        products = local * upstream[places]
        shape = data["arrays"][value["array"]]["shape"]
        yield use, np.array([products[a:b].sum() for a, b in itertools.pairwise(starts)]).reshape(shape)


def test_local_derivatives_times_upstream_gradients_add_up_to_every_gradient(data):
    seen = 0
    for value in data["values"]:
        gradient = array(data, value["gradient"])
        parts = list(contributions(data, value))
        for use, part in parts:
            np.testing.assert_allclose(part, array(data, use["sent"]), rtol=0, atol=1e-12)
        if parts:
            np.testing.assert_allclose(sum(part for _, part in parts), gradient, rtol=0, atol=1e-12)
            seen += 1
    assert seen == len(data["values"]) - 1  # all but the loss


def test_a_local_jacobian_is_that_of_the_operation():
    x, y = Tensor(rng().standard_normal((3, 2)), True), Tensor(rng().standard_normal((2, 4)), True)
    z = ops.matmul(x, y)
    graph = graph_of(ops.sum(z * z))
    jacobian = local_jacobians(graph)[z.node.order, 0]
    dense = np.zeros((12, 6))
    for column in range(6):
        span = slice(jacobian.starts[column], jacobian.starts[column + 1])
        dense[jacobian.places[span], column] = jacobian.local[span]
    np.testing.assert_array_equal(dense, np.kron(np.eye(3), y.data.T))


def test_jacobians_keep_within_their_budgets():
    x = Tensor(rng().standard_normal(20), True)
    y, z = x.tanh(), x.softmax()
    graph = graph_of(ops.sum(y * z))
    everything = local_jacobians(graph)
    assert len(everything) == 5
    of_softmax, of_tanh = (z.node.order, 0), (y.node.order, 0)
    assert everything[of_softmax].local.size == 400
    assert of_softmax not in local_jacobians(graph, terms=399)
    assert of_tanh in local_jacobians(graph, terms=399)
    assert len(local_jacobians(graph, runs=40)) == 2  # of the sum (1 run) and the tanh (20)
    assert len(local_jacobians(graph, runs=41)) == 3


def test_an_operation_with_several_outputs_counts_them_one_after_the_other():
    x = Tensor(rng().standard_normal(6), True)
    a, b = ops.split(x, 2)
    data = data_of(ops.sum(a * 2.0) + ops.sum(b * 3.0), x=x)
    ((_, part),) = contributions(data, value_named(data, "x"))
    np.testing.assert_allclose(part, [2, 2, 2, 3, 3, 3], rtol=1e-15)


def test_derivations_are_run_with_the_nodes_own_numbers(step, data):
    graph = graph_of(step.loss)
    checked = 0
    for node, box in zip(graph.nodes, [b for b in data["boxes"] if b["op"]], strict=True):
        assert box["op"] == node.name
        for edge, algebra in zip(node.edges, box["algebra"], strict=True):
            assert algebra["input"] == node.input_name(edge.position)
            for _, number, change in algebra["steps"]:
                sent = graph.sent[node.order, edge.position]
                np.testing.assert_allclose(array(data, number), sent, rtol=0, atol=1e-12)
                assert change < 1e-12
                checked += 1
    assert checked > 200
    assert all("<math" in text or "vjp" in text or text.isascii() for text in data["texts"])


def test_derivations_of_operations_with_many_inputs_and_of_outputs_without_a_gradient():
    a, b = Tensor(rng().standard_normal(2), True), Tensor(rng().standard_normal(3), True)
    joined = ops.concatenate(a, b * 2.0)
    first, _ = ops.split(ops.concatenate(joined, Tensor(np.ones(1), True)), 2)
    dy = rng().standard_normal(3)
    data = data_of((first * dy).sum(), a=a, b=b)
    boxes = {box["name"]: box for box in data["boxes"]}
    for name, expected in {"concatenate_1": [dy[:2], [dy[2], 0, 0]], "split": [[*dy, 0, 0, 0]]}.items():
        for algebra, gradient in zip(boxes[name]["algebra"], expected, strict=True):
            assert len(algebra["steps"]) > 1
            for _, number, _ in algebra["steps"]:
                np.testing.assert_allclose(array(data, number), gradient, rtol=1e-12)
    unused = data["values"][boxes["split"]["values"][1]]
    assert "gradient" not in unused
    assert unused["uses"] == []


def test_attention_patterns_are_those_of_the_inputs(data):
    boxes = [box for box in data["boxes"] if "attention" in box]
    assert len(boxes) == 2
    for box in boxes:
        qkv = array(data, data["values"][box["inputs"][0]["value"]]["array"])
        q, k, v = qkv.reshape(*qkv.shape[:2], 3, 2, 4).transpose(2, 0, 3, 1, 4)
        scores = np.where(np.tri(10, dtype=bool), q @ k.swapaxes(-1, -2) / 2, -np.inf)  # D = 4
        p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        np.testing.assert_allclose(array(data, box["attention"]["p"]), p, rtol=1e-12)
        dy = array(data, data["values"][box["values"][0]]["gradient"])
        dp = np.einsum("bthd,bhsd->bhts", dy.reshape(*dy.shape[:2], 2, 4), v)
        np.testing.assert_allclose(array(data, box["attention"]["dp"]), dp, rtol=0, atol=1e-13)
        ds = p * (dp - (p * dp).sum(-1, keepdims=True))
        np.testing.assert_allclose(array(data, box["attention"]["ds"]), ds, rtol=0, atol=1e-13)
        dq = array(data, data["values"][box["inputs"][0]["value"]]["gradient"])[:, :, :8].reshape(*dy.shape[:2], 2, 4)
        np.testing.assert_allclose(np.einsum("bhts,bhsd->bthd", ds, k) / 2, dq, rtol=0, atol=1e-13)


def test_attention_with_a_mask_and_shared_heads():
    q = Tensor(rng().standard_normal((2, 4, 3, 2)), True)
    k, v = (Tensor(rng().standard_normal((2, 2, 3, 2)), True) for _ in range(2))
    mask = rng().random((2, 1, 3, 3)) < 0.6
    data = data_of(ops.sum(ops.attention(q, k, v, mask=mask, scale=0.3) * rng().standard_normal((2, 4, 3, 2))))
    (box,) = [b for b in data["boxes"] if b["op"] == "attention"]
    p = array(data, box["attention"]["p"])
    assert p.shape == (2, 4, 3, 3)
    repeated = np.repeat(v.data, 2, axis=1)
    np.testing.assert_allclose(p @ repeated, array(data, data["values"][box["values"][0]]["array"]), rtol=1e-12)


def test_attention_with_a_bias():
    q, k, v, bias = (Tensor(rng().standard_normal((1, 2, 3, 3)), True) for _ in range(4))
    data = data_of(ops.sum(ops.biased_attention(q, k, v, bias, causal=True) * rng().standard_normal((1, 2, 3, 3))))
    (box,) = [b for b in data["boxes"] if b["op"] == "biased_attention"]
    y = array(data, data["values"][box["values"][0]]["array"])
    np.testing.assert_allclose(array(data, box["attention"]["p"]) @ v.data, y, rtol=1e-12)


# ---------------------------------------------------------------------------------------------------------------------
# What stands around the numbers


def test_groups_are_the_modules(step, data):
    def path(group):
        return () if group == 0 else (*path(data["groups"][group]["parent"]), data["groups"][group]["name"])

    where = {box["name"]: path(box["group"]) for box in data["boxes"]}
    assert where["linear_4"] == ("GPT", "blocks.0", "mlp", "down")
    assert where["blocks.0.mlp.down.weight"] == ("GPT", "blocks.0", "mlp", "down")
    assert where["token_embedding.weight"] == ("GPT", "token_embedding")
    assert where["loss"] == ()
    assert {g["title"] for g in data["groups"]} >= {"GPT", "Block", "MLP", "CausalSelfAttention", "Linear"}


def test_boxes_come_after_what_they_use_and_have_addresses_of_their_own(data):
    for number, box in enumerate(data["boxes"]):
        for given in box["inputs"]:
            if "value" in given:
                assert data["values"][given["value"]]["box"] < number
    x, y = Tensor([1.0], True), Tensor([2.0], True)
    addresses = [box["address"] for box in data_of((x * y).sum())["boxes"]]
    assert addresses == ["leaf~1", "leaf~2", "mul", "sum"]


def test_a_module_that_is_called_twice_is_two_groups():
    layer = Linear(2, 2)
    layer.astype(np.float64)
    with tg.keep_graph():
        loss = layer(layer(Tensor(rng().standard_normal((3, 2)), True))).sum()
    data = data_of(loss)
    assert [g["name"] for g in data["groups"]] == ["", "Linear", "Linear"]
    linears = [box for box in data["boxes"] if box["op"] == "linear"]
    assert [box["group"] for box in linears] == [1, 2]


def test_axes_are_known_where_the_operations_say_so(data):
    axes = {value["name"]: tuple(value["axes"]) for value in data["values"]}
    assert axes["token_embedding.weight"] == ("vocabulary", "channel")
    assert axes["position_embedding.weight"] == ("row", "channel")
    assert axes["embedding_1"] == axes["add_2"] == axes["bias_gelu_1"] == ("batch", "token", "channel")
    assert axes["self_attention_1"] == ("batch", "token", "channel")
    assert axes["transpose"] == ("channel", "vocabulary")
    assert axes["logits"] == ("batch", "token", "vocabulary")
    assert axes["loss"] == ()


def test_axes_of_heads():
    table = Tensor(rng().standard_normal((5, 4)), True)
    ids = np.array([[0, 1, 2], [3, 4, 0]])
    heads = ops.embedding(table, ids).reshape(2, 3, 2, 2).transpose(0, 2, 1, 3)
    y = ops.attention(heads, heads, heads).transpose(0, 2, 1, 3).reshape(2, 3, 4)
    axes = {value["name"]: tuple(value["axes"]) for value in data_of(ops.sum(y), ids=ids)["values"]}
    assert axes["reshape_1"] == ("batch", "token", "head", "channel")
    assert axes["transpose_1"] == axes["attention"] == ("batch", "head", "token", "channel")
    assert axes["reshape_2"] == ("batch", "token", "channel")


@pytest.mark.parametrize(("name", "gates", "states", "biases"), [("rnn", 1, 1, 1), ("lstm", 4, 2, 1), ("gru", 3, 1, 2)])
def test_axes_of_recurrent_networks(name, gates, states, biases):
    table, ids = Tensor(rng().standard_normal((5, 4)), True), np.array([[0, 1, 2], [3, 4, 0]])
    shapes = [(2, 3)] * states + [(4, 3 * gates), (3, 3 * gates)] + [(3 * gates,)] * biases
    given = [Tensor(rng().standard_normal(shape), True) for shape in shapes]
    y, *last = tg.registry[name](ops.embedding(table, ids), *given)
    loss = ops.sum(y) + ops.sum(last[-1])
    names = {"y": y, "end": last[-1], "weight": given[states], "bias": given[-1]}
    axes = {value["name"]: tuple(value["axes"]) for value in data_of(loss, **names)["values"]}
    assert axes["y"] == ("batch", "token", "channel")
    assert axes["end"] == ("batch", "channel")
    assert axes["weight"] == ("input", "output")
    assert axes["bias"] == ("channel",)


def test_axes_of_recurrent_cells():
    wide, narrow = (Tensor(rng().standard_normal((5, width)), True) for width in (12, 9))
    ids, unknown = np.array([0, 3]), Tensor(rng().standard_normal((2, 9)), True)
    h, c = ops.lstm_cell(ops.embedding(wide, ids), np.zeros((2, 3)))
    after = ops.gru_cell(ops.embedding(narrow, ids), unknown, c)
    data = data_of(ops.sum(after) + ops.sum(h), h=h, c=c, after=after)
    axes = {value["name"]: tuple(value["axes"]) for value in data["values"]}
    assert axes["h"] == axes["c"] == axes["after"] == ("token", "channel")


def test_axes_that_are_not_known_are_not_guessed():
    table = Tensor(rng().standard_normal((5, 4)), True)
    x = ops.embedding(table, np.array([[0, 1, 2], [3, 4, 0]]))
    data = data_of(ops.sum(x[::-1] * 2.0) + ops.sum(x.reshape(6, 4)), x=x)
    axes = {value["name"]: tuple(value["axes"]) for value in data["values"]}
    assert axes["x"] == ("batch", "token", "channel")
    assert axes["getitem"] == ("", "", "")
    assert axes["reshape"] == ("", "")


def test_the_story_tells_what_is_read_and_predicted(step, data):
    story = data["story"]
    logits = step.logits.data
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert story["loss"] == step.loss.item()
    assert story["ids"] == step.ids.tolist()
    assert story["targets"] == step.targets.tolist()
    np.testing.assert_allclose(story["chosen"][0], p[0, np.arange(10), step.targets[0]], rtol=1e-12)
    np.testing.assert_allclose(-np.log(story["chosen"]).mean(), step.loss.item(), rtol=1e-12)
    for t in range(10):
        assert story["best"][0][t][0] == p[0, t].argmax()
        np.testing.assert_allclose(story["likely"][0][t], np.sort(p[0, t])[::-1][:4], rtol=1e-12)
    assert data["values"][story["value"]]["name"] == "logits"
    assert data["words"] == list(step.words)


def test_a_story_of_flat_logits_with_ignored_targets():
    table = Tensor(rng().standard_normal((4, 3)), True)
    ids = np.array([[0, 1, 2], [3, 2, 1]])
    x = ops.embedding(table, ids).reshape(6, 3)
    targets = np.array([1, 2, -100, 0, 0, 2])
    story = data_of(ops.cross_entropy(x, targets))["story"]
    assert story["ids"] == ids.tolist()
    assert story["targets"] == [[1, 2, -1], [0, 0, 2]]
    assert story["chosen"][0][2] is None
    assert story["shape"] == [2, 3, 3]


def test_no_story_without_a_cross_entropy():
    assert data_of(Tensor([1.0, 2.0], True).sum())["story"] is None


def test_sources_and_formulas_are_there(data):
    linear = data["operations"]["layer_norm"]
    assert "<math" in linear["doc"]
    assert "vjp" in linear["vjp"]
    assert "rstd" in linear["forward"]
    assert set(data["operations"]) == {box["op"] for box in data["boxes"]} - {""}


# ---------------------------------------------------------------------------------------------------------------------
# Any graph


def test_before_and_after_backward_and_a_given_cotangent():
    x = Tensor(rng().standard_normal((2, 3)), True)
    y = x.exp()
    dy = rng().standard_normal((2, 3))
    with pytest.raises(ValueError, match="needs a cotangent"):
        explore(y)
    y.backward(dy)
    data = page_data(explore(y).html)
    np.testing.assert_array_equal(array(data, value_named(data, "x")["gradient"]), dy * np.exp(x.data))
    loss = Tensor([2.0], True).exp().sum()
    before = page_data(explore(loss).html)
    loss.backward()
    after = page_data(explore(loss).html)
    assert before == after


def test_names_come_from_the_caller():
    weight = Tensor(rng().standard_normal(3), True)
    hidden = weight.tanh()
    loss = hidden.sum()
    data = page_data(explore(loss).html)
    assert [box["name"] for box in data["boxes"]] == ["weight", "hidden", "loss"]


def test_hostile_names_are_only_text():
    x = Tensor([1.0], True)
    names = {"</script><b>": x, "words": 3}
    html = explore(x.sum(), names=names, words=["</script><script>alert(1)"], title="</title><i>&").html
    data = page_data(html)
    assert data["boxes"][0]["name"] == "</script><b>"
    assert data["words"] == ["</script><script>alert(1)"]
    assert html.count("</script>") == 2
    assert html.count("</title>") == 1
    assert not set("<>&") & set(html.split('id="data">')[1].split("</script>")[0])


def test_nan_and_infinities_stay_what_they_are():
    x = Tensor([1.0, np.nan, np.inf, -np.inf, 0.0], True)
    data = data_of((x * x).sum(), x=x)
    packed = data["arrays"][value_named(data, "x")["array"]]
    np.testing.assert_array_equal(unpack(packed), x.data)
    assert (packed["nan"], packed["inf"], packed["zeros"], packed["low"], packed["high"]) == (1, 2, 1, 0, 1)
    json.dumps(data, allow_nan=False)


@pytest.mark.parametrize(
    ("values", "kind", "low"),
    [
        (np.array(2.5), "f8", 2.5),
        (np.zeros((0, 3)), "f8", None),
        (np.float32([[1, -2]]), "f4", -2),
        (np.float16([0.5]), "f4", 0.5),
        (np.array([True, False]), "u1", 0),
        (np.array([-3, 2**40]), "f8", -3),
        (np.array([[-3, 2**30]]), "i4", -3),
        (np.arange(32.0).reshape(2, 2, 2, 2, 2)[..., ::-1], "f8", 0),
        (np.array([1e300, -1e300]), "f8", -1e300),
    ],
)
def test_every_kind_of_array_is_packed(values, kind, low):
    store = Store()
    (packed,) = (store.add(values), store.packed())[1]
    assert packed["type"] == kind
    np.testing.assert_array_equal(unpack(packed), values)
    assert packed["shape"] == list(values.shape)
    assert packed["dtype"] == str(values.dtype)
    assert packed["low"] == low
    expected = np.sqrt((values.astype(np.longdouble) ** 2).mean()) if values.size else 0
    np.testing.assert_allclose(packed["rms"], float(expected), rtol=1e-12)
    assert packed["top"] == np.abs(values.astype(float)).max(initial=0)


def test_large_arrays_are_cropped_and_say_so():
    store = Store(entries=1000)
    large, small = rng().standard_normal((50, 40)), rng().standard_normal(30)
    for a in (large, small, large):
        store.add(a)
    store.add(rng().standard_normal(3000), whole=True)
    packed = store.packed()
    assert len(packed) == 3
    rows, columns = packed[0]["kept"]
    assert rows * columns <= 1000
    np.testing.assert_array_equal(unpack(packed[0]), large[:rows, :columns])
    assert packed[0]["top"] == np.abs(large).max()
    np.testing.assert_array_equal(unpack(packed[1]), small)
    assert "kept" not in packed[1]
    assert len(unpack(packed[2])) == 3000
    assert kept_shape((), 1) == ()
    assert kept_shape((0, 5), 1) == (0, 5)
    assert kept_shape((3, 100), 150) == (3, 50)
    assert kept_shape((7,), 5) == (4,)
    assert kept_shape((8, 3, 100), 600) == (2, 3, 100)
    assert kept_shape((8, 3, 100), 299) == (1, 3, 50)


def test_the_budget_is_used():
    store = Store(entries=1000)
    for size in (100, 700, 3000):
        store.add(np.arange(size))
    assert store.limit() == 450
    assert Store().limit() == 1


def test_derivations_that_cannot_be_run_say_why():
    def reference(x):
        """No formula: ``( (``."""
        return x * 2, lambda dy: dy * 2

    without, failing = Operation(reference, "without"), tg.op(reference)
    try:

        @failing.derivation("x")
        def _(x, dy):
            yield "a `` bad ( formula", 1 / 0

        x = Tensor(rng().standard_normal(3), True)
        data = data_of((without(x) + failing(x) + x.softmax()).sum())
        notes = {b["op"]: b["algebra"][0].get("note", "") for b in data["boxes"] if b["op"]}
        assert "No derivation is attached" in notes["without"]
        assert "stopped: ZeroDivisionError" in notes["reference"]
        assert notes["softmax"] == ""
    finally:
        del tg.registry["reference"]


def test_large_derivations_are_left_out():
    x = Tensor(rng().standard_normal(500), True)
    graph = graph_of(x.softmax().sum())
    assert DENSE < 500 * 500
    data = anatomy(graph, (), "")
    assert "250,000 entries" in data["boxes"][1]["algebra"][0]["note"]
    assert len(data["boxes"][2]["algebra"][0]["steps"]) > 1  # the sum, whose Jacobian is one row
    logits = Tensor(rng().standard_normal((3, 300)), True)
    data = data_of(ops.cross_entropy(logits, np.array([0, 1, 2])))
    assert "270,000 entries" in data["boxes"][1]["algebra"][0]["note"]
    full = Derivations(graph, Store(), entries=0)
    assert "the page is full" in full.of(graph.nodes[1])[0]["note"]


def test_a_long_graph_is_folded_into_few_parts():
    y = Tensor(rng().standard_normal(2), True)
    for _ in range(2500):
        y = y.tanh()
    data = data_of(y.sum())
    children = [0] * len(data["groups"])
    for box in data["boxes"]:
        children[box["group"]] += 1
    for group in data["groups"][1:]:
        children[group["parent"]] += 1
    assert max(children) == 51  # 2502 boxes, and 50^2 < 2502 <= 51^2
    assert children[0] == 50  # the last group is not full
    sizes = [sum(box["group"] == g for box in data["boxes"]) for g in range(len(data["groups"]))]
    assert [s for s in sizes if s] == [51] * 49 + [3]
    assert sum(box["op"] != "" for box in data["boxes"]) == 2501


def test_a_crowd_begins_above_its_limit():
    y = Tensor(rng().standard_normal(2), True)
    for _ in range(CROWD - 2):
        y = y.tanh()
    assert len(data_of(y[0])["groups"]) == 1  # 48 parts
    assert len(data_of(y.tanh()[0])["groups"]) == 8  # 49 parts, in groups of 7


def test_a_graph_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(explorer_module, "OPERATIONS", 3)
    x = Tensor([1.0], True)
    assert explore(x.tanh().tanh().sum()).operations == 3
    with pytest.raises(ValueError, match=r"has 4 operations, and at most 3 can be drawn; explore a smaller model"):
        explore(x.tanh().tanh().tanh().sum())


def test_arrays_that_were_changed_since_are_refused():
    layer = Linear(3, 2)
    loss = layer(Tensor(rng().standard_normal((4, 3)))).tanh().sum()
    loss.backward()
    assert explore(loss).operations == 3
    SGD(layer.named_parameters(), lr=1e-2).step()
    with pytest.raises(ValueError, match="an input of 'linear' has been changed since the forward pass"):
        explore(loss)


def test_operations_that_draw_random_numbers_are_no_change():
    def noisy(x):
        return x + np.random.default_rng().standard_normal(x.shape), lambda dy: dy

    x = Tensor([1.0, np.nan, np.inf], True)
    assert explore(Operation(noisy)(x).sum()).operations == 2


def test_what_has_no_graph_is_refused():
    with pytest.raises(ValueError, match="it has no graph"):
        explore(Tensor([1.0]))
    with pytest.raises(TypeError, match="not float"):
        explore(1.0)


def test_saving(tmp_path):
    x = Tensor([1.0], True)
    page = explore(x.sum(), tmp_path / "a.html")
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == page.html
    assert page.save(tmp_path / "b.html") == tmp_path / "b.html"
    for again in (lambda: page.save(tmp_path / "a.html"), lambda: explore(x.sum(), tmp_path / "a.html")):
        with pytest.raises(FileExistsError, match="exists already"):
            again()
    (tmp_path / "a.html").write_text("", encoding="utf-8")
    page.save(tmp_path / "a.html", force=True)
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == page.html
    with pytest.raises(ValueError, match="does not exist"):
        page.save(tmp_path / "no" / "a.html")
    assert repr(page) == "<Explorer: operations 1, leaves 1; save(path) writes it as one page>"


def test_in_a_notebook_it_is_a_frame():
    html = explore(Tensor([1.0], True).sum())._repr_html_()
    assert html.startswith("<iframe")
    assert "<script" not in html
    assert "&lt;script" in html


def test_the_page_needs_no_network(data, step):
    html = explore(step.loss).html
    assert "default-src 'none'" in html
    outside = html.replace("https://arxiv.org", "").replace("http://www.w3.org/1998/Math/MathML", "")
    outside = outside.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://", outside)
