"""BERT: every head against its formulas, padding, gradients, dropout, weights in a folder, what is refused."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from tinygrad_llm.models import GPT, Bert, BertConfig, DistilBert, DistilBertConfig, load_model, new_model
from tinygrad_llm.tape import no_grad
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.weights import open_checkpoint, write_folder

LABELS = ("no", "yes", "perhaps")
SMALL = BertConfig(29, 12, 24, 2, 3, 20, norm_eps=1e-3)
CLASSES = replace(SMALL, head="classification", labels=LABELS, token_types=3)
POOLER = replace(SMALL, head="pooler", heads=4)
BODY = replace(SMALL, head="none")
DISTILLED = DistilBertConfig(29, 12, 24, 2, 4, 20)
DISTILLED_CLASSES = replace(DISTILLED, head="classification", labels=LABELS)
DISTILLED_BODY = replace(DISTILLED, head="none")
ALL = [SMALL, CLASSES, POOLER, BODY, DISTILLED, DISTILLED_CLASSES, DISTILLED_BODY]


def build(config, seed=0):
    """A model in float64 whose parameters are all far from their initial values."""
    model = new_model(config, seed).astype(np.float64)
    rng = np.random.default_rng(seed)
    for parameter in model.parameters():
        parameter.data += 0.3 * rng.standard_normal(parameter.shape)
    return model.eval()


def drawn(config, seed=0, shape=(3, 9)):
    """ids, mask and token types."""
    rng = np.random.default_rng(seed)
    real = np.arange(shape[1]) < np.array([shape[1], 4, 1])[:, None]
    types = rng.integers(0, config.token_types, shape) if config.token_types else None
    return rng.integers(0, 29, shape), real[:, None, None], types


def by_hand(model, ids, mask, types):
    """(hidden, pooled or None, what the head gives) by the formulas of the paper, one head of attention at a time."""
    config, p = model.config, model.state_dict()

    def linear(x, name):
        return x @ p[f"{name}.weight"] + p[f"{name}.bias"]

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        variance = (centred**2).mean(-1, keepdims=True)
        return p[f"{name}.gain"] * centred / np.sqrt(variance + config.norm_eps) + p[f"{name}.bias"]

    def gelu(x):
        return x * np.vectorize(lambda each: (1 + math.erf(each / math.sqrt(2))) / 2)(x)

    def softmax(scores):
        e = np.where(mask[:, 0], np.exp(scores), 0)
        return e / e.sum(-1, keepdims=True)

    x = p["token_embedding.weight"][ids] + p["position_embedding.weight"][: ids.shape[1]]
    if types is not None:
        x = x + p["token_type_embedding.weight"][types]
    x = norm(x, "embedding_norm")
    for layer in range(config.layers):
        q, k, v = np.split(linear(x, f"blocks.{layer}.attention.qkv"), 3, axis=-1)
        width = config.channels // config.heads
        heads = [slice(h * width, (h + 1) * width) for h in range(config.heads)]
        found = [softmax(q[..., h] @ k[..., h].swapaxes(1, 2) / math.sqrt(width)) @ v[..., h] for h in heads]
        attended = linear(np.concatenate(found, -1), f"blocks.{layer}.attention.out")
        x = norm(x + attended, f"blocks.{layer}.attention_norm")
        inside = gelu(linear(x, f"blocks.{layer}.mlp.up"))
        x = norm(x + linear(inside, f"blocks.{layer}.mlp.down"), f"blocks.{layer}.mlp_norm")
    pooled = None
    if "pooler.weight" in p:
        first = linear(x[:, 0], "pooler")
        pooled = np.maximum(first, 0) if isinstance(config, DistilBertConfig) else np.tanh(first)
    if config.head == "masked_lm":
        inside = norm(gelu(linear(x, "masked_lm_head.transform")), "masked_lm_head.norm")
        return x, pooled, inside @ p["token_embedding.weight"].T + p["masked_lm_head.bias"]
    return x, pooled, linear(pooled, "classifier") if config.head == "classification" else x


@pytest.mark.parametrize("config", ALL)
def test_every_head_is_that_of_its_formulas(config):
    model = build(config)
    ids, mask, types = drawn(config)
    hidden, pooled, expected = by_hand(model, ids, mask, types)
    shapes = {"masked_lm": (3, 9, 29), "classification": (3, 3)}
    with no_grad():
        x, y = model.hidden(ids, mask, types), model(ids, mask, types)
        assert y.shape == shapes.get(config.head, (3, 9, 24))
        np.testing.assert_allclose(x.data, hidden, rtol=0, atol=1e-12 * np.abs(hidden).max())
        np.testing.assert_allclose(y.data, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
        if pooled is not None:
            np.testing.assert_allclose(model.pooled(x).data, pooled, rtol=0, atol=1e-12)


def test_token_types_are_zero_unless_given():
    model = build(SMALL)
    ids = drawn(SMALL)[0]
    np.testing.assert_array_equal(model(ids).data, model(ids, token_types=np.zeros_like(ids)).data)
    assert np.abs(model(ids).data - model(ids, token_types=np.ones_like(ids)).data).max() > 1e-3


@pytest.mark.parametrize("config", [SMALL, CLASSES, DISTILLED])
def test_padding_changes_nothing(config):
    model = build(config)
    ids, mask, types = drawn(config)
    changed = np.where(mask[:, 0, 0], ids, (ids + 1) % 29)
    whole = model(ids, mask, types).data
    if config.head == "classification":
        np.testing.assert_array_equal(whole, model(changed, mask, types).data)
        return
    real = mask[:, 0, 0]
    np.testing.assert_array_equal(whole[real], model(changed, mask, types).data[real])
    alone = model(ids[1:2, :4], None, None if types is None else types[1:2, :4]).data
    np.testing.assert_allclose(whole[1, :4], alone[0], rtol=0, atol=1e-12 * np.abs(alone).max())
    assert np.abs(model(changed, None, types).data[real] - whole[real]).max() > 1e-3


def test_every_position_sees_all():
    model = build(SMALL)
    ids = drawn(SMALL)[0][:1]
    changed = ids.copy()
    changed[0, 4] += 1
    assert (model(ids).data != model(changed).data).any(-1).all()


def losses(model, config):
    ids, mask, types = drawn(config)
    rng = np.random.default_rng(3)
    if config.head == "classification":
        return model.loss(ids, np.array([2, 0, -100]), mask, types)
    if config.head == "masked_lm":
        targets = np.where(mask[:, 0, 0] & (rng.random(ids.shape) < 0.6), rng.integers(0, 29, ids.shape), -100)
        return model.loss(ids, targets, mask, types)
    x = model(ids, mask, types)
    y = x if config.head == "none" else model.pooled(x)
    return (y * rng.standard_normal(y.shape)).sum()


@pytest.mark.parametrize("config", ALL)
def test_gradients_of_all_parameters(config):
    model, rng = build(replace(config, layers=1)), np.random.default_rng(2)
    model.zero_grad()
    losses(model, config).backward()
    with no_grad():
        for name, parameter in model.named_parameters():  # central differences in a random direction
            direction = rng.standard_normal(parameter.shape)
            there, step, ends = parameter.data, 1e-5, []
            for sign in (1, -1):
                parameter.data = there + sign * step * direction
                ends.append(losses(model, config).item())
            parameter.data = there
            slope = (parameter.grad * direction).sum()
            assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope, rel=1e-5, abs=1e-8), name


def test_the_loss_counts_targets_only():
    model = build(SMALL)
    ids, mask, types = drawn(SMALL)
    targets = np.full(ids.shape, -100)
    targets[0, 2], targets[1, 3] = 5, 7
    logits = model(ids, mask, types).data
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -(logs[0, 2, 5] + logs[1, 3, 7])
    assert model.loss(ids, targets, mask, types, reduction="sum").item() == pytest.approx(expected, rel=1e-12)
    assert model.loss(ids, targets, mask, types).item() == pytest.approx(expected / 2, rel=1e-12)
    other = np.where(targets == -100, 0, targets)
    assert model.loss(ids, other, mask, types, ignore_index=0).item() == pytest.approx(expected / 2, rel=1e-12)
    model, three = build(CLASSES), drawn(CLASSES)
    logits = model(*three).data
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    loss = model.loss(three[0], np.array([2, 1, 0]), *three[1:], ignore_index=1)
    assert loss.item() == pytest.approx(-(logs[0, 2] + logs[2, 0]) / 2, rel=1e-12)


def test_dropout_is_drawn_in_training_only_and_everywhere():
    model = Bert(replace(CLASSES, dropout=0.5))
    ids, mask, types = drawn(CLASSES)
    still = model.eval()(ids, mask, types).data
    np.testing.assert_array_equal(model(ids, mask, types).data, still)
    np.testing.assert_array_equal(Bert(CLASSES)(ids, mask, types).data, still)
    model.train()
    assert not np.array_equal(model(ids, mask, types).data, still)
    parts = [model.dropout, *(part.dropout for block in model.blocks for part in (block.attention, block.mlp))]
    for part in parts:
        assert part.p == 0.5
        for other in parts:
            other.training = other is part
        assert not np.array_equal(model(ids, mask, types).data, still)
    still = model.eval().hidden(ids, mask, types).data
    model.dropout.training = True
    assert not np.array_equal(model.hidden(ids, mask, types).data, still)  # of the embeddings
    model.classifier = lambda pooled: pooled
    assert 0.2 < (model(ids, mask, types).data == 0).mean() < 0.8  # what the classifier is given


def test_initial_values():
    model = Bert(BertConfig(400, 100, 120, 2, 4, 250, init_std=0.05, head="classification"))
    tables = [model.token_embedding, model.position_embedding]
    block = model.blocks[1]
    for part in [*tables, block.attention.qkv, block.attention.out, block.mlp.up, block.mlp.down, model.pooler]:
        assert part.weight.data.std() == pytest.approx(0.05, rel=0.05)
    for part in (model.token_type_embedding, model.classifier):  # 240 numbers each
        assert part.weight.data.std() == pytest.approx(0.05, rel=0.25)
    assert not np.array_equal(block.mlp.up.weight.data, model.blocks[0].mlp.up.weight.data)
    head = Bert(BertConfig(40, 10, 120, 1, 4, 250, init_std=0.05)).masked_lm_head
    assert head.transform.weight.data.std() == pytest.approx(0.05, rel=0.05)
    assert not head.bias.data.any()


def test_the_default_is_the_base_model():
    channels, layer = 768, 12 * 768 * 768 + 13 * 768
    embeddings = (30522 + 512 + 2 + 2) * channels
    head = channels * channels + 3 * channels + 30522
    assert embeddings + 12 * layer + head == 109_514_298
    small = Bert(SMALL)
    layer = 4 * 24 * 24 + 4 * 24 + 2 * 24 * 20 + 20 + 24 + 4 * 24
    assert small.parameter_count() == (29 + 12 + 2 + 2) * 24 + 2 * layer + 24 * 24 + 3 * 24 + 29
    config = BertConfig()
    assert (config.layers, config.channels, config.heads, config.norm_eps, config.head) == (
        12,
        768,
        12,
        1e-12,
        "masked_lm",
    )


# -- folders -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", ALL)
def test_saved_and_loaded_it_is_the_same(tmp_path, config):
    model = build(config)
    assert type(model) is (DistilBert if isinstance(config, DistilBertConfig) else Bert)
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path).eval()
    assert type(again) is type(model)
    assert again.config == config
    given = drawn(config)
    np.testing.assert_array_equal(again(*given).data, model(*given).data)
    with pytest.raises(ValueError, match="but GPT is gpt2"):
        GPT.from_pretrained(tmp_path)


def changed_folder(tmp_path, config, change, rename=lambda name: name, extra=None):
    """The folder of a model, with its config.json, names or tensors changed."""
    new_model(config).save_pretrained(tmp_path)
    stored = open_checkpoint(tmp_path)
    tensors = {rename(name): np.array(tensor.read()) for name, tensor in stored.tensors.items()}
    write_folder(tmp_path, {**stored.config, **change}, {**tensors, **(extra or {})})
    return tmp_path


def test_names_without_the_prefix_are_read(tmp_path):
    folder = changed_folder(tmp_path, POOLER, {}, lambda name: name.removeprefix("bert."))
    assert "embeddings.word_embeddings.weight" in open_checkpoint(folder).tensors
    np.testing.assert_array_equal(Bert.from_pretrained(folder)([[1, 2]]).data, Bert(POOLER)([[1, 2]]).data)


def test_the_oldest_files_are_read(tmp_path):
    """As the published bert-base-uncased: norms with gamma and beta, a pooler and a second head in the file."""

    def old(name):
        return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

    extra = {
        "bert.pooler.dense.weight": np.ones((24, 24), np.float32),
        "bert.pooler.dense.bias": np.ones(24, np.float32),
        "cls.seq_relationship.weight": np.ones((2, 24), np.float32),
        "cls.seq_relationship.bias": np.ones(2, np.float32),
        "bert.embeddings.position_ids": np.arange(12)[None],
    }
    folder = changed_folder(tmp_path, SMALL, {"architectures": ["BertForPreTraining"]}, old, extra)
    assert any(name.endswith("gamma") for name in open_checkpoint(folder).tensors)
    again = Bert.from_pretrained(folder)
    assert again.config == SMALL
    np.testing.assert_array_equal(again([[1, 2]]).data, Bert(SMALL)([[1, 2]]).data)


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (SMALL, ["cls.predictions.decoder.weight", "cls.predictions.decoder.bias"]),
        (DISTILLED, ["vocab_projector.weight"]),
    ],
)
def test_copies_of_tied_weights_must_be_equal(tmp_path, config, names):
    table, bias = new_model(config).token_embedding.weight.data, np.zeros(29, np.float32)
    extra = {name: bias if name.endswith("bias") else table for name in names}
    load_model(changed_folder(tmp_path, config, {}, extra=extra))
    for name in names:
        wrong = {**extra, name: extra[name] + 1}
        with pytest.raises(ValueError, match=f"{name} and .* should be the same"):
            load_model(changed_folder(tmp_path, config, {}, extra=wrong))


def test_a_file_without_a_pooler_is_of_a_model_without_one(tmp_path):
    new_model(BODY).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["architectures"] == ["BertModel"]
    assert Bert.from_pretrained(tmp_path).config.head == "none"


def test_config_json_says_the_dropout_everywhere(tmp_path):
    for config, names in [
        (replace(CLASSES, dropout=0.25), ["hidden_dropout_prob"]),
        (replace(DISTILLED_CLASSES, dropout=0.25), ["dropout", "seq_classif_dropout"]),
    ]:
        new_model(config).save_pretrained(tmp_path)
        json_of = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
        assert [json_of[name] for name in names] == [0.25] * len(names)
        assert json_of.get("attention_probs_dropout_prob", json_of.get("attention_dropout")) == 0
        assert load_model(tmp_path).config == config


def test_labels_are_kept_in_the_order_of_their_numbers(tmp_path):
    names = {str(number): f"class {number}" for number in reversed(range(12))}
    config = replace(CLASSES, labels=tuple(f"class {number}" for number in range(12)))
    assert Bert.from_pretrained(changed_folder(tmp_path, config, {"id2label": names})).config == config


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (SMALL, {"hidden_act": "relu"}, "hidden_act = 'relu'; this model has 'gelu'"),
        (SMALL, {"position_embedding_type": "relative_key"}, "position_embedding_type = 'relative_key'"),
        (SMALL, {"is_decoder": True}, "is_decoder = True"),
        (SMALL, {"add_cross_attention": True}, "add_cross_attention = True"),
        (SMALL, {"tie_word_embeddings": False}, "tie_word_embeddings = False"),
        (SMALL, {"architectures": ["BertForTokenClassification"]}, "known are BertModel, BertForMaskedLM"),
        (SMALL, {"architectures": ["BertForMaskedLM", "BertModel"]}, "architectures = "),
        (SMALL, {"architectures": "BertModel"}, "architectures = 'BertModel'"),
        (SMALL, {"architectures": [["BertModel"]]}, "architectures = "),
        (CLASSES, {"problem_type": "regression"}, "problem_type = 'regression'"),
        (CLASSES, {"id2label": {"0": "a", "2": "b"}}, "not the names of classes 0, 1, 2"),
        (CLASSES, {"id2label": ["a", "b"]}, "not the names of classes 0, 1, 2"),
        (CLASSES, {"id2label": {"0": "a"}}, "mismatched: classifier.bias should be"),
        (CLASSES, {"architectures": ["BertForMaskedLM"]}, r"missing: cls.predictions.bias \(29,\)"),
        (SMALL, {"type_vocab_size": 0}, "token_types=0 must be at least 1"),
        (SMALL, {"num_attention_heads": 7}, "channels=24 is not a multiple of heads=7"),
        (SMALL, {"max_position_embeddings": 13}, r"should be \(13, 24\), and is \(12, 24\)"),
        (SMALL, {"max_position_embeddings": 10**15}, "says context = 1000000000000000; more than"),
        (SMALL, {"num_hidden_layers": 10**9}, "layers = 1,000,000,000"),
        (SMALL, {"layer_norm_eps": "small"}, "norm_eps is 'small', not of type float"),
        (DISTILLED, {"activation": "relu"}, "activation = 'relu'"),
        (DISTILLED, {"architectures": ["BertForMaskedLM"]}, "known are DistilBertModel"),
    ],
)
def test_folders_that_are_not_what_they_say_are_refused(tmp_path, config, change, message):
    folder = changed_folder(tmp_path, config, change)
    with pytest.raises(ValueError, match=message):
        load_model(folder)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 0}, "BertConfig: layers=0 must be at least 1"),
        ({"feed_forward": 0}, "feed_forward=0 must be at least 1"),
        ({"token_types": 0}, "token_types=0 must be at least 1"),
        ({"heads": 5}, "channels=24 is not a multiple of heads=5"),
        ({"norm_eps": 0.0}, "norm_eps=0.0 must be positive"),
        ({"init_std": -1.0}, "init_std=-1.0 must be positive"),
        ({"dropout": 1.0}, "dropout=1.0 must be at least 0 and less than 1"),
        ({"head": "two"}, "head='two' must be one of none, pooler, masked_lm, classification"),
        ({"labels": ()}, "labels must name at least one class"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


@pytest.mark.parametrize("change", [{"token_types": 1}, {"head": "pooler"}, {"norm_eps": 1e-5}])
def test_what_distilbert_has_not_is_refused(change):
    with pytest.raises(ValueError, match="DistilBERT has no token types, no pooler, and norm_eps=1e-12"):
        replace(DISTILLED, **change)


def test_arguments_that_do_not_fit_are_refused():
    model, ids = Bert(SMALL), np.zeros((2, 5), int)
    with pytest.raises(ValueError, match=r"Bert: ids must be \(B, T\), not of shape \(3,\)"):
        model([1, 2, 3])
    with pytest.raises(ValueError, match="Bert: 13 positions, but the model's context is 12"):
        model(np.zeros((1, 13), int))
    with pytest.raises(ValueError, match=r"mask must be \(B, 1, 1, T\) \(2, 1, 1, 5\), not \(2, 5\)"):
        model(ids, np.ones((2, 5), bool))
    with pytest.raises(IndexError, match="id 29 is outside"):
        model([[29]])
    with pytest.raises(ValueError, match=r"targets \(2, 4\) must be of the shape of ids"):
        model.loss(ids, np.zeros((2, 4), int))
    with pytest.raises(ValueError, match="head='masked_lm' has no pooler"):
        model.pooled(Tensor(np.zeros((1, 2, 24))))
    with pytest.raises(ValueError, match="head='pooler' has no loss"):
        Bert(POOLER).loss(ids, ids)
    with pytest.raises(ValueError, match="DistilBert: this model has no token types"):
        DistilBert(DISTILLED)(ids, token_types=ids)
    model(np.zeros((1, 12), int))
