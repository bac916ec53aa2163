"""Module: names, counts, modes, state; and the layers' formulas."""

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm import Tensor, nn, random


class Pair(nn.Module):
    def __init__(self):
        self.first = nn.Linear(2, 3)
        self.rest = [nn.Linear(3, 3, bias=False), nn.LayerNorm(3)]
        self.tied = self.first

    def forward(self, x):
        return self.rest[1](self.rest[0](self.first(x)))


def test_parameters_are_named_by_path_and_tied_ones_appear_once():
    names = [name for name, _ in Pair().named_parameters()]
    assert names == ["first.weight", "first.bias", "rest.0.weight", "rest.1.gain", "rest.1.bias"]
    assert Pair().parameter_count() == 6 + 3 + 9 + 3 + 3


def test_tree_lists_parts_with_shapes_and_counts():
    lines = repr(Pair()).splitlines()
    assert lines[0].split() == ["Pair", "24"]
    assert lines[1].split() == ["first:", "Linear", "weight", "(2,", "3),", "bias", "(3,)", "9"]
    assert lines[2].startswith("  rest.0: Linear")


def test_train_and_eval_reach_every_part():
    model = Pair().eval()
    assert not any(part.training for part in model.modules())
    assert all(part.training for part in model.train().modules())


def test_state_goes_out_and_in():
    with random.scope(1):
        source, target = Pair(), Pair()
    assert not np.array_equal(source.first.weight.data, target.first.weight.data)
    target.load_state_dict(source.state_dict())
    for name, array in source.state_dict().items():
        np.testing.assert_array_equal(target.state_dict()[name], array)
        assert not np.may_share_memory(target.state_dict()[name], array)


def test_loading_state_forgets_gradients_of_the_old_values():
    model = Pair()
    model(Tensor(np.ones((1, 2), np.float32))).sum().backward()
    assert model.first.weight.grad is not None
    model.load_state_dict(model.state_dict())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_parameters_and_modules_are_found_in_lists_dicts_and_lists_of_lists():
    def number(value):
        return nn.Parameter(np.array([value]))

    class Nested(nn.Module):
        def __init__(self):
            self.single = number(0.0)
            self.several = [number(1.0), (number(2.0), [number(3.0)])]
            self.by_name = {"a": number(4.0), "inner": {"b": [number(5.0)]}}
            self.layers = {"norms": [nn.RMSNorm(1), nn.RMSNorm(1)]}
            self.other = ["text", 7, None]

    model = Nested()
    assert {name: p.item() for name, p in model.named_parameters()} == {
        "single": 0.0,
        "several.0": 1.0,
        "several.1.0": 2.0,
        "several.1.1.0": 3.0,
        "by_name.a": 4.0,
        "by_name.inner.b.0": 5.0,
        "layers.norms.0.gain": 1.0,
        "layers.norms.1.gain": 1.0,
    }
    assert [name for name, _ in model.children()] == ["layers.norms.0", "layers.norms.1"]
    model.eval()
    assert not any(norm.training for norm in model.layers["norms"])


def test_everything_that_does_not_fit_is_listed_together_and_nothing_is_loaded():
    model = Pair()
    before = model.first.weight.data.copy()
    state = model.state_dict()
    state["first.weight"] = np.zeros((3, 2), np.float32)
    state["extra"] = state.pop("rest.1.gain")
    state["rest.1.bias"] = np.zeros(3, np.int64)
    with pytest.raises(ValueError, match="do not fit") as caught:
        model.load_state_dict(state)
    message = str(caught.value)
    assert "missing: rest.1.gain (3,)" in message
    assert "unexpected: extra (3,)" in message
    assert "first.weight is (2, 3) in the model, (3, 2) in the file" in message
    assert "rest.1.bias has dtype int64" in message
    np.testing.assert_array_equal(model.first.weight.data, before)


def test_the_same_scope_gives_the_same_initial_values():
    models = []
    for _ in range(2):
        with random.scope(3, "model"):
            models.append(Pair())
    np.testing.assert_array_equal(models[0].rest[0].weight.data, models[1].rest[0].weight.data)


def test_only_matrices_of_linear_maps_decay():
    decaying = {name for name, p in Pair().named_parameters() if p.decay}
    assert decaying == {"first.weight", "rest.0.weight"}
    assert not nn.Embedding(3, 2).weight.decay


def test_layers_compute_their_formula():
    x = np.random.default_rng(0).standard_normal((2, 5, 4)).astype(np.float32)
    linear = nn.Linear(4, 3)
    linear.bias.data[:] = [1, 2, 3]
    np.testing.assert_allclose(linear(Tensor(x)).data, x @ linear.weight.data + [1, 2, 3], rtol=1e-5, atol=1e-6)
    normed = nn.LayerNorm(4)(Tensor(x)).data
    np.testing.assert_allclose(normed.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(normed.std(-1), 1, atol=1e-3)
    scaled = nn.RMSNorm(4)(Tensor(x)).data
    np.testing.assert_allclose((scaled**2).mean(-1), 1, atol=1e-3)
    table = nn.Embedding(7, 4)
    np.testing.assert_array_equal(table([[1, 6]]).data, table.weight.data[[[1, 6]]])


def test_dropout_drops_only_in_training_and_repeats_in_the_same_scope():
    layer = nn.Dropout(0.25)
    x = Tensor(np.ones(10_000))
    with random.scope(0, "a"):
        first, second = layer(x).data, layer(x).data
    with random.scope(0, "a"):
        again = layer(x).data
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)
    assert set(np.unique(first)) == {0.0, 1 / 0.75}
    assert abs((first == 0).mean() - 0.25) < 0.03
    assert layer.eval()(x) is x
    with pytest.raises(ValueError, match="p=1"):
        nn.Dropout(1)


def test_attention_is_causal():
    with random.scope(0):
        layer = nn.CausalSelfAttention(8, 2).astype(np.float64)
    rng = np.random.default_rng(0)
    x = Tensor(rng.standard_normal((1, 5, 8)), requires_grad=True)
    cotangent = np.zeros((1, 5, 8))
    cotangent[0, 2] = rng.standard_normal(8)
    layer(x).backward(cotangent)
    touched = np.abs(x.grad[0]).sum(-1) > 0
    assert touched.tolist() == [True, True, True, False, False]
    with pytest.raises(ValueError, match="8 channels cannot be split evenly over 3 heads"):
        nn.CausalSelfAttention(8, 3)


def test_attention_is_the_mean_of_earlier_values_weighted_by_query_and_key():
    with random.scope(0):
        layer = nn.CausalSelfAttention(6, 2, std=0.8, residual_std=0.8).astype(np.float64)
    rng = np.random.default_rng(0)
    for bias in (layer.qkv.bias, layer.out.bias):
        bias.data += rng.standard_normal(bias.shape)
    x = rng.standard_normal((2, 4, 6))
    q, k, v = np.moveaxis((x @ layer.qkv.weight.data + layer.qkv.bias.data).reshape(2, 4, 3, 2, 3), 2, 0)
    y = np.zeros((2, 4, 2, 3))
    for b, t, h in np.ndindex(2, 4, 2):
        weights = np.exp([q[b, t, h] @ k[b, s, h] / np.sqrt(3) for s in range(t + 1)])
        y[b, t, h] = sum(weights[s] / weights.sum() * v[b, s, h] for s in range(t + 1))
    expected = y.reshape(2, 4, 6) @ layer.out.weight.data + layer.out.bias.data
    np.testing.assert_allclose(layer(Tensor(x)).data, expected, rtol=1e-10)


def test_a_module_without_forward_says_so():
    class Empty(nn.Module):
        pass

    with pytest.raises(NotImplementedError, match="Empty defines no forward"):
        Empty()(1)


def test_a_block_passes_gradcheck():
    with random.scope(0):
        block = nn.Block(6, 2, 12, layers=1).astype(np.float64)
    x = np.random.default_rng(0).standard_normal((2, 3, 6))
    assert tg.gradcheck(block, x)
