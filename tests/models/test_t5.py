"""T5: shapes, positions, what sees what, padding, gradients, the loss, weights in a folder, what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tinygrad_llm import Tensor, ops
from tinygrad_llm.models import GPT, T5, T5Config, load_model
from tinygrad_llm.nn import Dropout, RMSNorm, quantize
from tinygrad_llm.nn.relative_positions import RelativeBias, relative_buckets
from tinygrad_llm.optim import AdamW
from tinygrad_llm.tape import no_grad
from tinygrad_llm.weights import open_checkpoint, write_folder

SMALL = T5Config(29, 20, 2, 3, 5, 24, decoder_layers=1, buckets=8, max_distance=10)
GATED = replace(SMALL, gated=True, tied=False, decoder_layers=0, heads=2)


def build(config, seed=0):
    """A model in float64 whose parameters are all far from their initial values."""
    model = T5(config, seed).astype(np.float64)
    rng = np.random.default_rng(seed)
    for parameter in model.parameters():
        parameter.data += 0.3 * rng.standard_normal(parameter.shape)
    return model


def drawn(seed=0, batch=2, sources=7, targets=5):
    rng = np.random.default_rng(seed)
    return rng.integers(2, 29, (batch, sources)), rng.integers(2, 29, (batch, targets))


@pytest.mark.parametrize("config", [SMALL, GATED])
def test_shapes_names_and_count(config):
    model = T5(config)
    assert model(*drawn()).shape == (2, 5, 29)
    inner = config.heads * 5
    attention, mlp = 4 * 20 * inner + 20, (3 if config.gated else 2) * 20 * 24 + 20
    encoder, decoder = 2 * (attention + mlp), (config.decoder_layers or 2) * (2 * attention + mlp)
    tables, norms = 2 * 8 * config.heads, 2 * 20
    assert model.parameter_count() == 29 * 20 * (1 if config.tied else 2) + encoder + decoder + tables + norms
    names = dict(model.named_parameters())
    assert {"encoder.blocks.1.attention.q.weight", "decoder.blocks.0.cross_attention.kv.weight"} <= names.keys()
    assert names["encoder.position_bias.weight"].shape == (8, config.heads)
    assert ("lm_head.weight" in names, "encoder.blocks.0.mlp.gate.weight" in names) == (not config.tied, config.gated)


def test_the_default_is_the_small_model_of_60_million():
    attention, mlp, config = 4 * 512 * 512 + 512, 2 * 512 * 2048 + 512, T5Config()
    assert 32128 * 512 + 6 * (attention + mlp) + 6 * (2 * attention + mlp) + 2 * 32 * 8 + 2 * 512 == 60_506_624
    assert (config.layers, config.channels, config.heads, config.head_channels) == (6, 512, 8, 64)


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_initial_values_have_the_spread_that_each_part_needs(factor):
    model = T5(T5Config(200, 120, 2, 4, 12, 250, gated=True, tied=False, init_factor=factor))
    block = model.decoder.blocks[1]
    for weight, std in [
        (model.token_embedding.weight, 1),
        (block.attention.q.weight, (120 * 12) ** -0.5),
        (block.cross_attention.kv.weight, 120**-0.5),
        (block.attention.out.weight, 48**-0.5),
        (block.mlp.gate.weight, 120**-0.5),
        (block.mlp.up.weight, 120**-0.5),
        (block.mlp.down.weight, 250**-0.5),
        (model.lm_head.weight, 120**-0.5),
        (model.encoder.position_bias.weight, 120**-0.5),
    ]:
        assert weight.data.std() == pytest.approx(factor * std, rel=0.15)
    matrices = [p.data for p in model.parameters() if p.ndim == 2]
    assert len({m.flat[0] for m in matrices}) == len(matrices)  # no two are drawn from one stream
    assert not np.array_equal(model.token_embedding.weight.data, T5(model.config, seed=1).token_embedding.weight.data)


# -- relative positions ------------------------------------------------------------------------------------------------


def test_buckets_are_single_distances_and_then_ever_wider():
    assert relative_buckets(np.arange(-10, 3), 8, 16, False).tolist() == [6, 6, 6, 5, 5, 4, 4, 3, 2, 1, 0, 0, 0]
    assert relative_buckets(np.arange(-5, 6), 8, 16, True).tolist() == [2, 2, 2, 2, 1, 0, 5, 6, 6, 6, 6]
    both = relative_buckets(np.array([-1000, -6, 6, 1000]), 8, 16, True)
    assert both.tolist() == [3, 3, 7, 7]
    powers = -np.array([15, 16, 31, 32, 63, 64, 127, 128, 10**6])  # borders that float64 would also meet
    assert relative_buckets(powers, 32, 128, True).tolist() == [9, 10, 11, 12, 13, 14, 15, 15, 15]


@pytest.mark.parametrize(("queries", "keys"), [(4, 4), (1, 5), (2, 6), (5, 2), (1, 1)])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_bias_of_a_query_and_a_key_is_that_of_their_distance(queries, keys, bidirectional):
    table = RelativeBias(8, 12, 3, bidirectional, 1.0).astype(np.float64)
    bias = table(queries, keys).data
    assert bias.shape == (1, 3, queries, keys)
    for t in range(queries):
        for s in range(keys):
            distance = np.array(s - (keys - queries + t))
            row = table.weight.data[relative_buckets(distance, 8, 12, bidirectional)]
            np.testing.assert_array_equal(bias[0, :, t, s], row)


def test_only_the_distance_of_tokens_counts_in_the_encoder():
    model, (ids, _) = build(SMALL), drawn(sources=4)
    shifted = np.concatenate([np.zeros((2, 3), int), ids], axis=1)
    mask = (np.arange(7) >= 3)[None, None, None]
    np.testing.assert_allclose(model.encode(shifted, mask).data[:, 3:], model.encode(ids).data, rtol=0, atol=1e-12)
    turned = model.encode(ids[:, ::-1]).data[:, ::-1]
    assert np.abs(turned - model.encode(ids).data).max() > 1e-3  # the order counts


def by_hand(model, ids, outputs):
    """Logits of one input and one output, from the weights and NumPy alone."""
    w, c = {name: p.data for name, p in model.named_parameters()}, model.config

    def norm(x, name):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + c.norm_eps) * w[f"{name}.gain"]

    def attend(name, x, memory, added):
        k, v = np.split(memory @ w[f"{name}.kv.weight"], 2, axis=-1)
        q, k, v = (a.reshape(len(a), c.heads, -1).swapaxes(0, 1) for a in (x @ w[f"{name}.q.weight"], k, v))
        p = np.exp(q @ k.swapaxes(1, 2) + added)
        y = p / p.sum(-1, keepdims=True) @ v
        return y.swapaxes(0, 1).reshape(len(x), -1) @ w[f"{name}.out.weight"]

    def bias(stack, length, bidirectional):
        distances = np.arange(length) - np.arange(length)[:, None]
        table = w[f"{stack}.position_bias.weight"][
            relative_buckets(distances, c.buckets, c.max_distance, bidirectional)
        ]
        return table.transpose(2, 0, 1) + (0 if bidirectional else np.where(distances > 0, -np.inf, 0))

    def mlp(name, x):
        up = x @ w[f"{name}.up.weight"]
        gate = ops.gelu(x @ w[f"{name}.gate.weight"]).data * up if c.gated else np.maximum(up, 0)
        return gate @ w[f"{name}.down.weight"]

    def stack(name, x, added, memory):
        layers = c.layers if memory is None else c.decoder_layers or c.layers
        for block in (f"{name}.blocks.{layer}" for layer in range(layers)):
            h = norm(x, f"{block}.attention_norm")
            x = x + attend(f"{block}.attention", h, h, added)
            if memory is not None:
                x = x + attend(f"{block}.cross_attention", norm(x, f"{block}.cross_attention_norm"), memory, 0)
            x = x + mlp(f"{block}.mlp", norm(x, f"{block}.mlp_norm"))
        return norm(x, f"{name}.final_norm")

    table = w["token_embedding.weight"]
    memory = stack("encoder", table[ids], bias("encoder", len(ids), True), None)
    y = stack("decoder", table[outputs], bias("decoder", len(outputs), False), memory)
    return y @ table.T / np.sqrt(c.channels) if c.tied else y @ w["lm_head.weight"]


@pytest.mark.parametrize("config", [SMALL, GATED])
def test_it_is_what_the_paper_says(config):
    model, (ids, outputs) = build(config), drawn()
    logits = model(ids, outputs).data
    for row in range(2):
        np.testing.assert_allclose(logits[row], by_hand(model, ids[row], outputs[row]), rtol=0, atol=1e-10)


# -- what sees what ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [SMALL, GATED])
def test_an_output_sees_all_inputs_and_no_later_output(config):
    model, (ids, outputs) = build(config), drawn()
    first = model(ids, outputs).data
    changed = outputs.copy()
    changed[:, 3] = (outputs[:, 3] + 1) % 29
    second = model(ids, changed).data
    np.testing.assert_array_equal(first[:, :3], second[:, :3])
    assert (first[:, 3:] != second[:, 3:]).any(-1).all()
    for place in (0, 6):
        other = ids.copy()
        other[:, place] = (ids[:, place] + 1) % 29
        assert (model(other, outputs).data != first).any(-1).all()


def test_padding_changes_nothing():
    model, (ids, outputs) = build(SMALL), drawn()
    padded, mask = model.padded([ids[0], ids[1, :4], ids[0, :1]])
    assert padded.tolist() == [list(ids[0]), [*ids[1, :4], 0, 0, 0], [ids[0, 0], 0, 0, 0, 0, 0, 0]]
    assert mask.shape == (3, 1, 1, 7)
    assert mask.sum(-1).ravel().tolist() == [7, 4, 1]
    together = model(padded, outputs[[0, 1, 0]], mask).data
    for row, (one, output) in enumerate([(ids[0], outputs[0]), (ids[1, :4], outputs[1]), (ids[0, :1], outputs[0])]):
        np.testing.assert_allclose(together[row], model(one[None], output[None]).data[0], rtol=0, atol=1e-12)


def test_the_parts_are_what_they_are_called():
    model = build(replace(SMALL, norm_eps=0.25))
    assert {part.eps for part in model.modules() if isinstance(part, RMSNorm)} == {0.25}
    x, mlp, gated = np.random.default_rng(0).standard_normal((1, 2, 20)), model.encoder.blocks[0].mlp, build(GATED)
    expected = np.maximum(x @ mlp.up.weight.data, 0) @ mlp.down.weight.data
    np.testing.assert_allclose(mlp(Tensor(x)).data, expected, rtol=1e-12, atol=1e-12)
    mlp = gated.encoder.blocks[0].mlp
    gate = ops.gelu(x @ mlp.gate.weight.data).data
    expected = (gate * (x @ mlp.up.weight.data)) @ mlp.down.weight.data
    np.testing.assert_allclose(mlp(Tensor(x)).data, expected, rtol=1e-12, atol=1e-12)
    table, head = model.token_embedding.weight.data, gated.lm_head.weight.data
    np.testing.assert_allclose(model.head(Tensor(x)).data, x @ table.T / np.sqrt(20), rtol=1e-12)
    np.testing.assert_allclose(gated.head(Tensor(x)).data, x @ head, rtol=1e-12)


def test_dropout_is_in_training_only():
    model, (ids, outputs) = build(replace(SMALL, dropout=0.5)), drawn()
    plain = build(SMALL)
    np.testing.assert_array_equal(model.eval()(ids, outputs).data, plain(ids, outputs).data)
    model.train()
    assert np.abs(model(ids, outputs).data - model(ids, outputs).data).max() > 0
    assert {part.p for part in model.modules() if hasattr(part, "p")} == {0.5}
    zeros = (model.encode(ids).data == 0).mean()
    assert 0.3 < zeros < 0.7  # of what the encoder returns, too


def test_dropout_is_in_all_places(monkeypatch):
    model, (ids, outputs), seen = build(SMALL), drawn(), []
    monkeypatch.setattr(Dropout, "forward", lambda self, x: seen.append(x.shape[1:]) or x)
    model(ids, outputs)
    ends, inside = 2, 1  # of each stack, and of each feed-forward network
    assert seen.count((7, 20)) == ends + 2 * 2
    assert seen.count((5, 20)) == ends + 3
    assert (seen.count((7, 24)), seen.count((5, 24))) == (2 * inside, inside)


# -- the loss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [SMALL, GATED])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_is_that_of_the_shifted_targets(config, reduction):
    model, (ids, targets) = build(replace(config, start_id=3, pad_id=4)), drawn()
    targets[0, 3:] = -100
    mask = np.ones((2, 1, 1, 7), bool)
    mask[1, ..., 5:] = False
    before = np.array([[3, *targets[0, :3], 4], [3, *targets[1, :4]]])
    np.testing.assert_array_equal(model.shifted(targets), before)
    expected = ops.cross_entropy(model(ids, before, mask), targets, reduction=reduction).item()
    assert model.loss(ids, targets, mask, reduction=reduction).item() == pytest.approx(expected, rel=1e-12)
    other = np.where(targets == -100, -1, targets)
    loss = model.loss(ids, other, mask, ignore_index=-1, reduction=reduction)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("config", [SMALL, GATED])
def test_gradients_of_all_parameters(config):
    model = build(replace(config, vocab_size=7, channels=8, feed_forward=6, layers=1))
    rng = np.random.default_rng(2)
    ids, targets = rng.integers(0, 7, (2, 2, 4))
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0]], bool)[:, None, None]
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


def test_it_learns_to_copy():
    model = T5(T5Config(12, 32, 1, 2, 16, 64, buckets=8, max_distance=16))
    optimizer = AdamW(list(model.named_parameters()), 3e-3)
    rng, losses = np.random.default_rng(0), []
    for _ in range(200):
        ids = rng.integers(2, 12, (16, 5))
        optimizer.zero_grad()
        loss = model.loss(ids, ids)
        loss.backward()
        optimizer.step(3e-3)
        losses.append(loss.item())
    assert losses[0] > np.log(10)  # that of not knowing which of ten
    assert np.mean(losses[-10:]) < 0.6 * np.log(10)


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("config", [SMALL, GATED])
def test_quantised_weights_give_nearly_the_same_logits(config, kind):
    model, (ids, outputs) = T5(replace(config, channels=64, feed_forward=128)), drawn()
    with no_grad():
        expected, loss = model(ids, outputs).data, model.loss(ids, outputs).item()
        quantize(model, kind)
        found = model(ids, outputs).data
        assert 0 < np.abs(found - expected).max() < (0.1 if kind == "int8" else 1.0) * np.abs(expected).max()
        assert model.loss(ids, outputs).item() == pytest.approx(loss, rel=0.05 if kind == "int8" else 0.5)
        first = model.step(outputs[:, 0], model.start(ids))
        np.testing.assert_allclose(first, found[:, 0], rtol=0, atol=1e-2)  # few rows are rounded, too


def test_what_belongs_to_the_inputs_is_not_copied_without_need():
    model, (ids, _) = T5(SMALL), drawn(batch=3)
    state = model.start(ids)
    model.step([0, 0, 0], state)
    wider = model.reorder(state, [0, 0, 1, 1, 2])
    again = model.reorder(wider, [1, 0, 3, 3, 4])  # every row from one of the same input
    assert again.layers[0].cross_keys is wider.layers[0].cross_keys
    assert again.mask is wider.mask
    fewer = model.reorder(again, [0, 4])
    np.testing.assert_array_equal(fewer.layers[0].cross_keys, state.layers[0].cross_keys[[0, 2]])
    assert fewer.sources.tolist() == [0, 2]


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [SMALL, GATED, replace(SMALL, dropout=0.2, pad_id=3, start_id=4, end_id=5)])
def test_saved_and_loaded_it_is_the_same(tmp_path, config):
    model, (ids, outputs) = T5(config, seed=4), drawn()
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert isinstance(loaded, T5)
    assert loaded.config == config
    np.testing.assert_array_equal(loaded.eval()(ids, outputs).data, model.eval()(ids, outputs).data)
    with pytest.raises(ValueError, match="holds a 't5' model, but GPT is gpt2"):
        GPT.from_pretrained(tmp_path)
    stored = open_checkpoint(tmp_path)
    assert stored.config["tie_word_embeddings"] == stored.config["scale_decoder_outputs"] == config.tied
    assert ("lm_head.weight" in stored.tensors) != config.tied
    assert {n for n in stored.tensors if "relative" in n} == {
        f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight" for stack in ("encoder", "decoder")
    }


def test_the_names_and_shapes_in_a_file_are_those_of_transformers(tmp_path):
    def attention(place, name):
        names = {f"{place}.{name}.{x}.weight": (15, 20) for x in "qkv"}
        return names | {f"{place}.{name}.o.weight": (20, 15), f"{place}.layer_norm.weight": (20,)}

    def mlp(place, *ups):
        names = {f"{place}.DenseReluDense.{x}.weight": (24, 20) for x in ups}
        return names | {f"{place}.DenseReluDense.wo.weight": (20, 24), f"{place}.layer_norm.weight": (20,)}

    for gated, ups in ((False, ["wi"]), (True, ["wi_0", "wi_1"])):
        model = T5(replace(SMALL, layers=1, gated=gated, tied=False))
        model.save_pretrained(tmp_path)
        stored = open_checkpoint(tmp_path)
        encoder, decoder = "encoder.block.0.layer", "decoder.block.0.layer"
        assert {name: tensor.shape for name, tensor in stored.tensors.items()} == {
            "shared.weight": (29, 20),
            "lm_head.weight": (29, 20),
            **attention(f"{encoder}.0", "SelfAttention"),
            f"{encoder}.0.SelfAttention.relative_attention_bias.weight": (8, 3),
            **mlp(f"{encoder}.1", *ups),
            "encoder.final_layer_norm.weight": (20,),
            **attention(f"{decoder}.0", "SelfAttention"),
            f"{decoder}.0.SelfAttention.relative_attention_bias.weight": (8, 3),
            **attention(f"{decoder}.1", "EncDecAttention"),
            **mlp(f"{decoder}.2", *ups),
            "decoder.final_layer_norm.weight": (20,),
        }
        k, v = np.split(model.decoder.blocks[0].cross_attention.kv.weight.data, 2, axis=1)
        np.testing.assert_array_equal(stored.tensors[f"{decoder}.1.EncDecAttention.k.weight"].read(), k.T)
        np.testing.assert_array_equal(stored.tensors[f"{decoder}.1.EncDecAttention.v.weight"].read(), v.T)
        if gated:
            gate = model.encoder.blocks[0].mlp.gate.weight.data
            np.testing.assert_array_equal(stored.tensors[f"{encoder}.1.DenseReluDense.wi_0.weight"].read(), gate.T)


def test_copies_of_the_embedding_in_old_files_must_be_the_same(tmp_path):
    model = T5(SMALL)
    model.save_pretrained(tmp_path)
    tensors = {name: t.read() for name, t in open_checkpoint(tmp_path).tensors.items()}
    table = tensors["shared.weight"]
    old = {f"{stack}.embed_tokens.weight": table for stack in ("encoder", "decoder")} | {"lm_head.weight": table}
    unused = {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": np.zeros((8, 3), np.float32)}
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    write_folder(tmp_path, config, tensors | old | unused)
    np.testing.assert_array_equal(T5.from_pretrained(tmp_path).token_embedding.weight.data, table)
    write_folder(tmp_path, config, tensors | old | {"encoder.embed_tokens.weight": table + 1})
    with pytest.raises(ValueError, match=r"encoder.embed_tokens.weight and shared.weight should be the same"):
        T5.from_pretrained(tmp_path)


def changed_config(path, **changes):
    found = json.loads((path / "config.json").read_text(encoding="utf-8"))
    kept = {name: value for name, value in {**found, **changes}.items() if value != "left out"}
    (path / "config.json").write_text(json.dumps(kept), encoding="utf-8")


def test_what_config_json_leaves_out_is_as_in_transformers(tmp_path):
    T5(replace(SMALL, buckets=32, max_distance=128, decoder_layers=0)).save_pretrained(tmp_path)
    names = ("dropout_rate", "layer_norm_epsilon", "initializer_factor", "pad_token_id", "decoder_start_token_id")
    names += ("eos_token_id", "relative_attention_num_buckets", "relative_attention_max_distance", "num_decoder_layers")
    names += ("feed_forward_proj", "tie_word_embeddings", "scale_decoder_outputs", "is_encoder_decoder")
    changed_config(tmp_path, **dict.fromkeys(names, "left out"))
    config = T5.from_pretrained(tmp_path).config
    assert config == replace(SMALL, buckets=32, max_distance=128, decoder_layers=0, dropout=0.1)


def test_an_untied_head_is_told_by_either_setting(tmp_path):
    T5(GATED).save_pretrained(tmp_path)
    for tie, scale in [(False, "left out"), (False, False), (True, False), ("left out", False)]:
        changed_config(tmp_path, tie_word_embeddings=tie, scale_decoder_outputs=scale)
        assert not T5.from_pretrained(tmp_path).config.tied
    changed_config(tmp_path, tie_word_embeddings=True, scale_decoder_outputs=True)
    with pytest.raises(ValueError, match=r"lm_head.weight and shared.weight should be the same"):
        T5.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj = 'gated-silu'"),
        ({"is_encoder_decoder": False}, "is_encoder_decoder = False"),
        ({"num_decoder_layers": 10**9}, "decoder_layers = 1,000,000,000, but there are only"),
        ({"num_decoder_layers": 2}, r"missing: decoder.block.1.layer.0.SelfAttention.k.weight \(15, 20\)"),
        ({"d_kv": 4}, r"mismatched: decoder.block.0.layer.0.SelfAttention.k.weight should be \(12, 20\)"),
        ({"eos_token_id": [1, 2]}, r"end_id is \[1, 2\], not of type int"),
        ({"tie_word_embeddings": False}, "missing: lm_head.weight"),
        ({"d_model": "left out"}, "config.json lacks d_model"),
    ],
)
def test_folders_that_are_not_what_they_say_are_refused(tmp_path, changes, message):
    T5(SMALL).save_pretrained(tmp_path)
    changed_config(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        T5.from_pretrained(tmp_path)


# -- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 0}, "heads=0 must be at least 1"),
        ({"head_channels": 0}, "head_channels=0 must be at least 1"),
        ({"decoder_layers": -1}, "decoder_layers=-1 must not be negative"),
        ({"buckets": 3}, "buckets=3 must be at least 4"),
        ({"max_distance": 4}, "max_distance=4 must be above buckets / 2 = 4"),
        ({"norm_eps": 0.0}, "norm_eps=0.0 must be positive"),
        ({"init_factor": -1.0}, "init_factor=-1.0 must be positive"),
        ({"dropout": 1.0}, "dropout=1.0 must be at least 0 and less than 1"),
        ({"end_id": 29}, r"end_id=29 is outside 0..28"),
        ({"pad_id": -1}, "pad_id=-1 is outside"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


@pytest.mark.parametrize(("batch", "sources", "targets"), [(0, 3, 2), (2, 0, 3), (2, 3, 0)])
def test_sizes_of_nothing(batch, sources, targets):
    model = build(SMALL)
    ids, outputs = np.zeros((batch, sources), int), np.zeros((batch, targets), int)
    assert model(ids, outputs).shape == (batch, targets, 29)
    loss = model.loss(ids, outputs)
    assert np.isfinite(loss.item())
    loss.backward()


def test_ids_that_do_not_fit_are_refused():
    model, (ids, outputs) = T5(SMALL), drawn()
    with pytest.raises(ValueError, match=r"T5: ids must be \(B, T\), not of shape \(7,\)"):
        model(ids[0], outputs)
    with pytest.raises(ValueError, match=r"T5: decoder_ids must be \(B, T\), not of shape \(5,\)"):
        model(ids, outputs[0])
    with pytest.raises(ValueError, match="T5: 2 inputs and 1 outputs; there must be one output for each"):
        model(ids, outputs[:1])
    with pytest.raises(ValueError, match=r"T5: targets must be \(B, T\), not of shape \(5,\)"):
        model.loss(ids, outputs[0])
    with pytest.raises(ValueError, match="T5: input 1 is empty; give at least one token"):
        model.start([[1, 2], []])
    with pytest.raises(IndexError, match="id 29 is outside the vocabulary"):
        model(ids, outputs + 29 - outputs)
