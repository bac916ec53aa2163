"""The recurrent encoder-decoder: what it computes, padding, gradients, generation, alignments, files, refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tinygrad_llm import Tensor, no_grad, ops, use_backend
from tinygrad_llm.generation import Sampling, beam_search, generate_outputs
from tinygrad_llm.models import GPT, RecurrentEncoderDecoder, RecurrentEncoderDecoderConfig, load_model
from tinygrad_llm.nn import Dropout, quantize
from tinygrad_llm.optim import AdamW
from tinygrad_llm.weights import open_checkpoint

GRU = RecurrentEncoderDecoderConfig("gru", 11, 7, 6, 8, 2, pad_id=3, start_id=4, end_id=5)
LSTM = replace(GRU, kind="lstm", layers=1)
RNN = replace(GRU, kind="rnn", bidirectional=False)
PLAIN = replace(GRU, bidirectional=False, attention=False)
CONFIGS = {"GRU": GRU, "LSTM": LSTM, "RNN": RNN, "no attention": PLAIN, "LSTM, two layers": replace(LSTM, layers=2)}
EVERY = pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))


def build(config, seed=0):
    """A model in float64 whose parameters are all far from their initial values."""
    model = RecurrentEncoderDecoder(config, seed).astype(np.float64)
    rng = np.random.default_rng(seed)
    for parameter in model.parameters():
        parameter.data += 0.3 * rng.standard_normal(parameter.shape)
    return model


def drawn(batch=2, sources=5, targets=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 11, (batch, sources)), rng.integers(0, 7, (batch, targets))


def masked(*lengths):
    return (np.arange(max(lengths)) < np.array(lengths)[:, None])[:, None, None]


@EVERY
def test_shapes_names_and_count(config):
    model, gates = RecurrentEncoderDecoder(config), {"rnn": 1, "gru": 3, "lstm": 4}[config.kind]
    biases = 2 if config.kind == "gru" else 1

    def layers(units):
        inputs = [6] + [8] * (config.layers - 1)
        return sum(gates * units * (each + units + biases) for each in inputs)

    assert model(*drawn()).shape == (2, 4, 7)
    encoder = 2 * layers(4) if config.bidirectional else layers(8)
    attention = 8 * 8 + 16 * 8 if config.attention else 0
    assert model.parameter_count() == 6 * (11 + 7) + encoder + layers(8) + attention + 8 * 7 + 7
    values = [p.data for p in model.parameters() if p.ndim == 2]
    assert len({a.flat[0] for a in values}) == len(values)  # no two are drawn from one stream
    other = RecurrentEncoderDecoder(config, seed=1)
    assert not np.array_equal(values[0], other.encoder.token_embedding.weight.data)


def test_initial_values_have_the_spread_that_each_part_needs():
    model = RecurrentEncoderDecoder(RecurrentEncoderDecoderConfig("lstm", 200, 150, 90, 120, init_std=0.25))
    for weight, std in [
        (model.encoder.token_embedding.weight, 0.25),
        (model.decoder.token_embedding.weight, 0.25),
        (model.decoder.attention.query.weight, 120**-0.5),
        (model.decoder.attention.out.weight, 240**-0.5),
        (model.lm_head.weight, 120**-0.5),
    ]:
        assert weight.data.std() == pytest.approx(std, rel=0.1)


def test_outputs_are_of_as_many_tokens_as_inputs_unless_they_say_otherwise():
    assert RecurrentEncoderDecoderConfig(vocab_size=9).decoder_vocab_size == 9


# -- what it computes --------------------------------------------------------------------------------------------------


def one_way(layer, x, state=None):
    """A layer, token by token: (its outputs (S, F), its last state)."""
    outputs = []
    for row in x:
        y, state = layer(Tensor(row[None, None]), state)
        outputs.append(y.data[0, 0])
    return np.array(outputs), state


def by_hand(model, ids, outputs):
    """Logits of one input and one output, token by token."""
    c, w = model.config, {name: p.data for name, p in model.named_parameters()}
    x, ends = w["encoder.token_embedding.weight"][ids], []
    for number, layer in enumerate(model.encoder.layers):
        y, end = one_way(layer, x)
        if c.bidirectional:
            other, its_end = one_way(model.encoder.backward_layers[number], x[::-1])
            y = np.concatenate([y, other[::-1]], axis=1)
            end = [Tensor(np.concatenate([a.data, b.data], axis=1)) for a, b in zip(end, its_end, strict=True)]
        x = y
        ends.append(tuple(end))
    h = w["decoder.token_embedding.weight"][outputs]
    for layer, end in zip(model.decoder.layers, ends, strict=True):
        h, _ = one_way(layer, h, end)
    weights = None
    if c.attention:
        p = np.exp(h @ w["decoder.attention.query.weight"] @ x.T)
        weights = p / p.sum(axis=1, keepdims=True)
        h = np.tanh(np.concatenate([weights @ x, h], axis=1) @ w["decoder.attention.out.weight"])
    return h @ w["lm_head.weight"] + w["lm_head.bias"], weights


@EVERY
def test_it_is_what_the_papers_say(config):
    model, (ids, outputs) = build(config), drawn()
    logits = model(ids, outputs).data
    for row in range(2):
        expected, weights = by_hand(model, ids[row], outputs[row])
        np.testing.assert_allclose(logits[row], expected, rtol=0, atol=1e-12)
        if config.attention:
            np.testing.assert_allclose(model.alignments(ids, outputs)[row], weights, rtol=0, atol=1e-12)


@EVERY
def test_an_output_sees_all_inputs_and_no_later_output(config):
    model, (ids, outputs) = build(config), drawn()
    first = model(ids, outputs).data
    changed = outputs.copy()
    changed[:, 2] = (outputs[:, 2] + 1) % 7
    second = model(ids, changed).data
    np.testing.assert_array_equal(first[:, :2], second[:, :2])
    assert (first[:, 2:] != second[:, 2:]).any(-1).all()
    for place in (0, 4):
        other = ids.copy()
        other[:, place] = (ids[:, place] + 1) % 11
        assert (model(other, outputs).data != first).any(-1).all()


@EVERY
def test_padding_changes_nothing(config):
    model, (ids, outputs) = build(config), drawn(batch=5, sources=6)
    lengths = [4, 6, 2, 4, 1]
    inputs = [row[:n] for row, n in zip(ids, lengths, strict=True)]
    padded, mask = model.padded(inputs)
    assert (padded == 3).sum() >= 30 - sum(lengths)
    together = model(padded, outputs, mask).data
    noise = np.where(mask[:, 0, 0], padded, (padded + 1) % 11)
    np.testing.assert_array_equal(model(noise, outputs, mask).data, together)
    wider = model(np.pad(padded, ((0, 0), (0, 2))), outputs, np.pad(mask, ((0, 0), (0, 0), (0, 0), (0, 2)))).data
    np.testing.assert_allclose(wider, together, rtol=0, atol=1e-12)  # a place that is padding in every row
    for row, (one, output) in enumerate(zip(inputs, outputs, strict=True)):
        np.testing.assert_allclose(together[row], model(one[None], output[None]).data[0], rtol=0, atol=1e-12)
        if config.attention:
            weights = model.alignments(padded, outputs, mask)[row]
            np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-12)
            assert not weights[:, lengths[row] :].any()


# -- the loss and its gradients --------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_is_that_of_the_shifted_targets(config, reduction):
    model, (ids, targets) = build(config), drawn()
    targets[0, 2:] = -100
    mask = masked(5, 3)
    before = np.array([[4, *targets[0, :2], 3], [4, *targets[1, :3]]])
    np.testing.assert_array_equal(model.shifted(targets), before)
    expected = ops.cross_entropy(model(ids, before, mask), targets, reduction=reduction).item()
    assert model.loss(ids, targets, mask, reduction=reduction).item() == pytest.approx(expected, rel=1e-12)
    other = np.where(targets == -100, -1, targets)
    loss = model.loss(ids, other, mask, ignore_index=-1, reduction=reduction)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@EVERY
@pytest.mark.parametrize("lengths", [(4, 4, 4), (2, 4, 2), (3, 3, 3)])
def test_gradients_of_all_parameters(config, lengths):
    model, rng = build(config), np.random.default_rng(2)
    ids, targets = rng.integers(0, 11, (3, 4)), rng.integers(0, 7, (3, 3))
    targets[1, 2] = -100
    mask = (np.arange(4) < np.array(lengths)[:, None])[:, None, None]
    model.loss(ids, targets, mask).backward()
    with no_grad():
        for name, parameter in model.named_parameters():  # central differences in a random direction
            direction, there, ends = rng.standard_normal(parameter.shape), parameter.data, []
            for sign in (1, -1):
                parameter.data = there + sign * 1e-5 * direction
                ends.append(model.loss(ids, targets, mask).item())
            parameter.data = there
            slope = (parameter.grad * direction).sum()
            assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(slope, rel=1e-5, abs=1e-9), name


@pytest.mark.parametrize("config", [GRU, PLAIN])
def test_dropout_is_in_training_only_and_in_all_places(config, monkeypatch):
    model, (ids, outputs) = build(replace(config, dropout=0.5)), drawn()
    np.testing.assert_array_equal(model.eval()(ids, outputs).data, build(config)(ids, outputs).data)
    model.train()
    assert (model(ids, outputs).data != model(ids, outputs).data).any()
    assert {part.p for part in model.modules() if isinstance(part, Dropout)} == {0.5}
    seen = []
    monkeypatch.setattr(Dropout, "forward", lambda self, x: seen.append(x.shape[1:]) or x)
    model(ids, outputs)
    after_attention = 1 if config.attention else 0
    assert sorted(seen) == sorted([(5, 6), (5, 8), (5, 8), (4, 6), (4, 8), (4, 8)] + after_attention * [(4, 8)])


@EVERY
def test_kernels_and_plain_numpy_agree(config):
    pytest.importorskip("tinygrad_llm.kernels.compiled", exc_type=ImportError, reason="there is no Numba compiler")
    model, found = build(config), []
    ids, targets = drawn(batch=7, sources=6)
    mask = masked(6, 3, 3, 1, 6, 2, 3)
    for backend in ("numba", "numpy"):
        with use_backend(backend):
            model.zero_grad()
            loss = model.loss(ids, targets, mask)
            loss.backward()
            found.append({"loss": loss.data} | {name: p.grad for name, p in model.named_parameters()})
    for name, value in found[0].items():
        np.testing.assert_allclose(value, found[1][name], rtol=1e-10, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_quantised_weights_give_nearly_the_same_logits(kind):
    model, (ids, outputs) = RecurrentEncoderDecoder(replace(GRU, units=64, channels=64)), drawn()
    with no_grad():
        expected, loss = model(ids, outputs).data, model.loss(ids, outputs).item()
        quantize(model, kind)
        found = model(ids, outputs).data
        assert 0 < np.abs(found - expected).max() < (0.03 if kind == "int8" else 0.3) * np.abs(expected).max()
        assert model.loss(ids, outputs).item() == pytest.approx(loss, rel=0.01 if kind == "int8" else 0.1)
        first = model.step(outputs[:, 0], model.start(ids))
        np.testing.assert_allclose(first, found[:, 0], rtol=0, atol=1e-2)


def test_it_learns_to_reverse():
    config = RecurrentEncoderDecoderConfig("gru", 10, channels=16, units=32)
    model = RecurrentEncoderDecoder(config)
    optimizer = AdamW(list(model.named_parameters()), 1e-2)
    rng = np.random.default_rng(0)
    for _ in range(150):
        ids = rng.integers(3, 10, (32, 4))
        optimizer.zero_grad()
        model.loss(ids, np.pad(ids[:, ::-1], ((0, 0), (0, 1)), constant_values=2)).backward()
        optimizer.step(1e-2)
    inputs = rng.integers(3, 10, (50, 4))
    outputs = generate_outputs(model, inputs, 10, 1, 2, Sampling(temperature=0))
    assert np.mean([out == list(one[::-1]) for one, out in zip(inputs, outputs, strict=True)]) > 0.8


# -- generation ------------------------------------------------------------------------------------------------------


@EVERY
def test_step_by_step_the_logits_are_those_of_the_whole(config):
    model, (ids, outputs) = build(replace(config, dropout=0.3)).eval(), drawn(batch=3)
    inputs = [ids[0], ids[1, :2], ids[2, :4]]
    padded, mask = model.padded(inputs)
    expected = model(padded, outputs, mask).data
    model.train()
    state = model.start(inputs)
    for t in range(4):
        np.testing.assert_allclose(model.step(outputs[:, t], state), expected[:, t], rtol=0, atol=1e-12)
    state, rows = model.start(inputs), np.arange(3)
    for t, turn in enumerate(([2, 0, 0, 1], [3, 1, 0, 0], [0, 2])):
        found = model.step(outputs[rows, t], state)
        np.testing.assert_allclose(found, expected[rows, t], rtol=0, atol=1e-12)
        state, rows = model.reorder(state, turn), rows[turn]
    np.testing.assert_allclose(model.step(outputs[rows, 3], state), expected[rows, 3], rtol=0, atol=1e-12)
    assert not any(array.requires_grad for layer in state.encoded.states for array in layer)


def uncached(model, one, ids):
    """Logits for what follows an output, computed from its begin."""
    with no_grad():
        return model(np.asarray(one)[None], np.array([[model.config.start_id, *ids]])).data[0, -1]


@EVERY
def test_outputs_are_those_without_a_state(config):
    model, inputs = build(config), [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10], [2, 2]]
    outputs = generate_outputs(model, inputs, 8, config.start_id, config.end_id, Sampling(temperature=0))
    for one, found in zip(inputs, outputs, strict=True):
        expected = []
        while len(expected) < 8 and (token := int(uncached(model, one, expected).argmax())) != config.end_id:
            expected.append(token)
        assert found == expected


@EVERY
def test_beam_search_finds_outputs_of_the_probability_that_the_model_gives_them(config):
    model, inputs = build(config), [[1, 2, 3], [4]]
    results = beam_search(model, inputs, 7**3, 3, config.start_id, config.end_id, n_best=5)
    for one, found in zip(inputs, results, strict=True):
        for hypothesis in found:
            whole = [*hypothesis.ids, *([config.end_id] if hypothesis.ended else [])]
            total = sum(
                ops.log_softmax(Tensor(uncached(model, one, whole[:n]))).data[token] for n, token in enumerate(whole)
            )
            assert hypothesis.log_probability == pytest.approx(total, rel=1e-12)
        greedy = generate_outputs(model, [one], 3, config.start_id, config.end_id, Sampling(temperature=0))[0]
        narrow = beam_search(model, [one], 1, 3, config.start_id, config.end_id)[0][0]
        assert narrow.ids == greedy
        assert found[0].log_probability >= narrow.log_probability - 1e-12


# -- files -----------------------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_saved_and_loaded_it_is_the_same(tmp_path, config, dtype):
    config = replace(config, dropout=0.25, init_std=0.5)
    model, (ids, outputs) = build(config).astype(dtype), drawn()
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert isinstance(loaded, RecurrentEncoderDecoder)
    assert loaded.config == config
    assert set(open_checkpoint(tmp_path).tensors) == {name for name, _ in model.named_parameters()}
    expected = model.eval()(ids, outputs).data
    assert expected.dtype == dtype
    np.testing.assert_array_equal(loaded.eval()(ids, outputs).data, expected)
    with pytest.raises(ValueError, match="holds a 'tinygrad_llm_recurrent_encoder_decoder' model, but GPT is gpt2"):
        GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"units": 12}, r"mismatched: decoder.layers.0.bias should be \(36,\), and is \(24,\)"),
        ({"bidirectional": False}, "unexpected: encoder.backward_layers.0.bias"),
        ({"attention": False}, "unexpected: decoder.attention.out.weight"),
        ({"layers": 3}, r"missing: decoder.layers.2.bias \(24,\)"),
        ({"kind": "lstm"}, "unexpected: decoder.layers.0.state_bias"),
        ({"units": 10**6}, "more numbers than the file could hold"),
        ({"layers": 10**9}, "layers = 1,000,000,000"),
        ({"attention": 1}, "attention is 1, not of type bool"),
        ({"kind": None}, "config.json lacks kind"),
    ],
)
def test_folders_that_are_not_what_they_say_are_refused(tmp_path, changes, message):
    RecurrentEncoderDecoder(GRU).save_pretrained(tmp_path)
    found = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(found | changes), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path)


# -- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "grn"}, "kind='grn' must be one of rnn, lstm, gru"),
        ({"units": 0}, "units=0 must be at least 1"),
        ({"decoder_vocab_size": -1}, "decoder_vocab_size=-1 must be at least 1"),
        ({"units": 7}, "units=7 must be even"),
        ({"dropout": 1.0}, "dropout=1.0 must be at least 0 and less than 1"),
        ({"init_std": 0.0}, "init_std=0.0 must be positive"),
        ({"pad_id": 7}, r"pad_id=7 is outside 0..6"),
        ({"decoder_vocab_size": 20, "pad_id": 11}, r"pad_id=11 is outside 0..10"),
        ({"start_id": -1}, r"start_id=-1 is outside 0..6"),
        ({"end_id": 7}, r"end_id=7 is outside 0..6"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(GRU, **change)


@pytest.mark.parametrize("config", [GRU, LSTM, PLAIN])
@pytest.mark.parametrize(("batch", "sources", "targets"), [(0, 3, 2), (2, 0, 3), (2, 3, 0)])
def test_sizes_of_nothing(config, batch, sources, targets):
    model = build(config)
    ids, outputs = np.zeros((batch, sources), int), np.zeros((batch, targets), int)
    assert model(ids, outputs, np.ones((batch, 1, 1, sources), bool)).shape == (batch, targets, 7)
    loss = model.loss(ids, outputs)
    assert np.isfinite(loss.item())
    loss.backward()


def test_ids_and_masks_that_do_not_fit_are_refused():
    model, (ids, outputs) = RecurrentEncoderDecoder(GRU), drawn()
    name = "RecurrentEncoderDecoder"
    with pytest.raises(ValueError, match=rf"{name}: ids must be \(B, T\), not of shape \(5,\)"):
        model(ids[0], outputs)
    with pytest.raises(ValueError, match=rf"{name}: decoder_ids must be \(B, T\), not of shape \(4,\)"):
        model(ids, outputs[0])
    with pytest.raises(ValueError, match=f"{name}: 2 inputs and 1 outputs; there must be one output for each"):
        model(ids, outputs[:1])
    with pytest.raises(ValueError, match=f"{name}: input 1 is empty; give at least one token"):
        model.start([[1, 2], []])
    with pytest.raises(ValueError, match="may hide padding at the end of an input only"):
        model(ids, outputs, ~masked(5, 2))
    with pytest.raises(ValueError, match=r"the mask must be \(2, 1, 1, 5\), not \(2, 1, 1, 4\)"):
        model(ids, outputs, masked(4, 2))
    with pytest.raises(IndexError, match="id 11 is outside the vocabulary"):
        model(ids + 11 - ids, outputs)
    with pytest.raises(ValueError, match="without attention has no alignments"):
        RecurrentEncoderDecoder(PLAIN).alignments(ids, outputs)
