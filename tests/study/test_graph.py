"""The graph that study reads: complete, with the tape's own gradients, and not used up by the reading."""

import gc
import weakref

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm import Tensor, ops
from tinygrad_llm.study.graph import graph_behind, graph_of, module_path
from tinygrad_llm.study.tiny import tiny_step

RNG = np.random.default_rng(3)


@pytest.fixture(scope="module")
def step():
    return tiny_step(warmup=3)


def test_every_gradient_is_the_tapes(step):
    graph = graph_of(step.loss)
    for name, parameter in step.model.named_parameters():
        value = graph.value(parameter)
        np.testing.assert_array_equal(value.gradient, parameter.grad)
        assert value.name == name
        assert value.operation == "leaf"
        assert value.data is parameter.data


def test_values_know_their_makers_their_modules_and_their_uses(step):
    graph = graph_of(step.loss, {"loss": step.loss, "logits": step.logits})
    assert graph.value(step.loss).name == "loss"
    logits = graph.value(step.logits)
    assert (logits.name, logits.operation, logits.path) == ("logits", "matmul", ("GPT",))
    assert [use.node.name for use in logits.uses] == ["cross_entropy"]
    assert logits.uses[0].parameter == "logits"
    paths = {value.path for value in graph.values.values() if value.operation == "bias_gelu"}
    assert paths == {("GPT", "blocks.0", "mlp"), ("GPT", "blocks.1", "mlp")}
    names = [value.name for value in graph.values.values() if value.operation == "self_attention"]
    assert names == ["self_attention_1", "self_attention_2"]
    assert [n.order for n in graph.nodes] == sorted(n.order for n in graph.nodes)


def test_what_arrives_is_the_sum_of_what_was_sent(step):
    graph = graph_of(step.loss)
    for value in graph.values.values():
        if value.uses:
            sent = sum(graph.sent[use.node.order, use.edge.position] for use in value.uses)
            np.testing.assert_allclose(value.gradient, sent, rtol=1e-12, atol=1e-15)


def test_reading_before_backward_leaves_the_graph_usable():
    x = Tensor(RNG.standard_normal(4), requires_grad=True)
    loss = (x.exp() * x).sum()
    before = graph_of(loss).value(x).gradient
    assert x.grad is None
    loss.backward()
    np.testing.assert_array_equal(x.grad, before)
    np.testing.assert_array_equal(graph_of(loss).value(x).gradient, before)
    np.testing.assert_array_equal(graph_behind(x).value(x).gradient, before)


def test_a_second_backward_is_still_refused():
    x = Tensor(RNG.standard_normal(4), requires_grad=True)
    loss = x.exp().sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="already freed"):
        loss.backward()


def test_an_output_that_is_not_used_has_no_gradient():
    x = Tensor(RNG.standard_normal(6), requires_grad=True)
    first, second = ops.split(x, 2)
    graph = graph_of(first.sum())
    assert graph.value(second).gradient is None
    np.testing.assert_array_equal(graph.value(x).gradient, [1, 1, 1, 0, 0, 0])


def test_small_operations_are_remembered_and_large_ones_only_on_request():
    small = Tensor(np.ones(4), requires_grad=True).exp()
    assert small.node.memory.values[0] is small.data
    assert small.node.memory.callers == ()
    large = Tensor(np.ones(10_000), requires_grad=True)
    assert large.exp().node.memory is None
    with tg.keep_graph():
        kept = large.exp()
    assert kept.node.memory.values[0] is kept.data
    boundary = Tensor(np.ones(4096), requires_grad=True)  # 32 KiB in, 32 KiB out
    assert boundary.exp().node.memory is not None
    assert Tensor(np.ones(4097), requires_grad=True).exp().node.memory is None


def test_a_leaf_forgets_a_graph_that_was_not_wholly_remembered():
    x = Tensor(np.ones(4), requires_grad=True)
    x.sum().backward()
    assert x.origin
    y = x * 2.0 + np.ones((10_000, 4))
    y.sum().backward()
    assert x.origin == ()
    x.sum().backward()
    x.zero_grad()
    assert x.origin == ()
    with pytest.raises(ValueError, match="no backward"):
        graph_behind(x)


def test_the_options_and_arguments_are_remembered():
    x = Tensor(np.ones((2, 3)), requires_grad=True)
    node = ops.sum(x, axis=1, keepdims=True).node
    assert node.memory.options == {"axis": 1, "keepdims": True}
    assert node.memory.arrays[0] is x.data


def test_a_graph_goes_when_nobody_holds_it():
    x = Tensor(np.ones(3), requires_grad=True)
    y = x.exp()
    gone = weakref.ref(y)
    y.sum().backward()
    del y
    x.zero_grad()
    gc.collect()
    assert gone() is None


def test_checkpoint_under_keep_graph_is_seen_through():
    x = Tensor(RNG.standard_normal(3), requires_grad=True)

    def function(t):
        return (t.exp() * t).tanh()

    hidden = tg.checkpoint(function, x)
    assert hidden.node.name == "checkpoint"
    assert hidden.node.memory is None
    with pytest.raises(ValueError, match=r"'checkpoint'.*was not remembered"):
        graph_of(hidden.sum())
    with tg.keep_graph():
        seen = tg.checkpoint(function, x)
    assert seen.node.name == "tanh"
    np.testing.assert_array_equal(seen.data, hidden.data)


def test_a_graph_needs_an_operation():
    with pytest.raises(ValueError, match="it has no graph"):
        graph_of(Tensor(np.ones(3), requires_grad=True))


def test_names_of_modules_and_variables():
    from tinygrad_llm.nn import Linear

    layer = Linear(2, 3)
    x = Tensor(np.ones((1, 2), np.float32), requires_grad=True)
    y = layer(x)
    loss = y.sum()
    graph = graph_of(loss, {"layer": layer, "x": x, "y": y, "other": 3})
    assert [v.name for v in graph.values.values()] == ["x", "layer.weight", "layer.bias", "y", "sum"]
    assert y.node.memory.callers == (), "modules are noted under keep_graph only"
    with tg.keep_graph():
        z = layer(x).sum()
    assert [module_path(n.memory) for n in graph_of(z).nodes] == [("Linear",), ()]


def test_the_tiny_gpt_learns():
    assert tiny_step().loss.item() < 0.3 < tiny_step(warmup=0).loss.item()
