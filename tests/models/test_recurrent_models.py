"""Recurrent language models: states, truncated backpropagation through time, padding, files."""

from itertools import islice

import numpy as np
import pytest

from tinygrad_llm import no_grad, ops
from tinygrad_llm.generation import Sampling, generate_tokens
from tinygrad_llm.models import GPT, GPTConfig, Recurrent, RecurrentConfig, load_model
from tinygrad_llm.models.recurrent import detached
from tinygrad_llm.optim import AdamW

KINDS = "rnn", "lstm", "gru"


def build(kind, **options):
    return Recurrent(RecurrentConfig(**{"kind": kind, **SIZES, **options}), seed=3)


SIZES = {"vocab_size": 23, "context": 12, "channels": 8, "units": 8, "layers": 2, "init_std": 0.5}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"tied": False, "units": 6}])
def test_shapes_count_and_folders(kind, options, tmp_path):
    model = build(kind, **options)
    units, gates = options.get("units", 8), {"rnn": 1, "lstm": 4, "gru": 3}[kind]
    biases = 2 if kind == "gru" else 1
    layers = sum(gates * units * (inputs + units + biases) for inputs in (8, units))
    assert model.parameter_count() == 23 * 8 + layers + (units * 23 if options else 0)
    ids = np.arange(10).reshape(2, 5)
    assert model(ids).shape == (2, 5, 23)
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    assert again.config == model.config
    np.testing.assert_array_equal(again(ids).data, model(ids).data)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_in_pieces_with_the_state_handed_on_is_the_text_as_a_whole(kind):
    model = build(kind).astype(np.float64)
    ids = np.random.default_rng(0).integers(0, 23, (3, 12))
    whole, ends = model.run(ids, [])
    first, states = model.run(ids[:, :5], [])
    second, last = model.run(ids[:, 5:], states)
    np.testing.assert_allclose(np.concatenate([first.data, second.data], axis=1), whole.data, rtol=1e-12)
    for one, other in zip(ends, last, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a.data, b.data, rtol=1e-12)


def gradients(model):
    found = {name: parameter.grad.copy() for name, parameter in model.named_parameters()}
    model.zero_grad()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_backpropagation_through_time_is_cut_off_where_states_are_detached_and_only_there(kind):
    model = build(kind).astype(np.float64)
    rng = np.random.default_rng(0)
    ids, targets = rng.integers(0, 23, (2, 2, 8))

    def loss(x, targets):
        return ops.cross_entropy(model.head(x), targets, reduction="sum")

    loss(model.run(ids, [])[0], targets).backward()
    whole = gradients(model)
    first, states = model.run(ids[:, :4], [])
    (loss(first, targets[:, :4]) + loss(model.run(ids[:, 4:], states)[0], targets[:, 4:])).backward()
    joined = gradients(model)
    first, states = model.run(ids[:, :4], [])
    (loss(first, targets[:, :4]) + loss(model.run(ids[:, 4:], detached(states))[0], targets[:, 4:])).backward()
    truncated = gradients(model)
    for name in whole:
        np.testing.assert_allclose(joined[name], whole[name], rtol=1e-9, atol=1e-12)
    recurrent = [name for name in whole if name.startswith("recurrent")]
    assert all(not np.allclose(truncated[name], whole[name], rtol=1e-3) for name in recurrent)


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_are_learned_with_what_was_before_them(kind):
    text = np.tile([0, 1, 0, 2], 61)  # what follows 0 depends on what was before it
    pieces = [(text[None, k : k + 2], text[None, k + 1 : k + 3]) for k in range(0, 240, 2)]

    def learned(hand_on):
        model, states, losses = build(kind, vocab_size=3, layers=1, init_std=1.0), [], []
        optimizer = AdamW(list(model.named_parameters()), 2e-2)
        for ids, targets in pieces * 2:
            x, states = model.run(ids, hand_on(states))
            loss = ops.cross_entropy(model.head(x), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step(2e-2)
            losses.append(loss.item())
        return np.mean(losses[-20:])

    assert learned(detached) < 0.1
    assert learned(lambda states: []) > 0.9 * np.log(2) / 2  # it can only guess every other token


@pytest.mark.parametrize("kind", KINDS)
def test_generation_with_the_state_is_generation_without_for_unequal_prompts(kind):
    model, prompts = build(kind), [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10]]
    for sampling in (Sampling(temperature=0), Sampling()):
        cached = list(islice(generate_tokens(model, prompts, sampling, seed=3), 6))
        plain = list(islice(generate_tokens(model, prompts, sampling, seed=3, use_cache=False), 6))
        np.testing.assert_array_equal(cached, plain)
        for row, prompt in enumerate(prompts):
            alone = list(islice(generate_tokens(model, [prompt], Sampling(temperature=0)), 6))
            if sampling.temperature == 0:
                np.testing.assert_array_equal(np.array(cached)[:, row], np.array(alone)[:, 0])


def test_padding_changes_no_state():
    model = build("lstm")
    ids = np.random.default_rng(0).integers(0, 23, (3, 7))
    real = np.arange(7) >= np.array([2, 0, 5])[:, None]
    with no_grad():
        cache = model.new_cache(3)
        padded = model(ids, mask=real[:, None, None], cache=cache).data
        for row, begin in enumerate((2, 0, 5)):
            x, last = model.run(ids[row : row + 1, begin:], [])
            np.testing.assert_allclose(padded[row, begin:], model.head(x).data[0], rtol=1e-5, atol=1e-6)
            for kept, state in zip(cache.layers, last, strict=True):
                np.testing.assert_allclose(kept[1].data[row], state[1].data[0], rtol=1e-5, atol=1e-6)


def test_what_a_mask_cannot_mean_is_refused():
    model, ids = build("gru"), np.zeros((1, 4), int)
    with pytest.raises(RuntimeError, match="a mask is for generation"):
        model(ids, mask=np.ones((1, 1, 1, 4), bool))
    with no_grad(), pytest.raises(ValueError, match="padding on the left"):
        model(ids, mask=np.array([True, False, True, True])[None, None, None])
    with pytest.raises(ValueError, match=r"ids must be \(B, T\), not of shape \(4,\)"):
        model(ids[0])


def test_an_lstm_begins_by_remembering():
    bias = build("lstm").recurrent[0].bias.data
    np.testing.assert_array_equal(bias, np.repeat([0, 1, 0, 0], 8))


def test_dropout_acts_in_training_only():
    model = build("gru", dropout=0.5)
    ids = np.arange(5)[None]
    assert not np.array_equal(model(ids).data, model(ids).data)
    model.eval()
    np.testing.assert_array_equal(model(ids).data, build("gru")(ids).data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "lstn"}, "kind='lstn' must be one of rnn, lstm, gru"),
        ({"units": 9}, "a tied head needs units=9 to be channels=8"),
        ({"layers": 0}, "layers=0 must be at least 1"),
        ({"dropout": 1.0}, "dropout=1.0 must be"),
        ({"init_std": 0.0}, "init_std=0.0 must be positive"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RecurrentConfig(**{**SIZES, **options})


def test_another_architecture_is_refused(tmp_path):
    GPT(GPTConfig(23, 8, 8, 1, 1)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a 'gpt2' model, but Recurrent is tinygrad_llm_recurrent"):
        Recurrent.from_pretrained(tmp_path)
