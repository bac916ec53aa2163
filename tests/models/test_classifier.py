"""Classifiers on decoders and encoders: pooling, padding, heads, folders."""

from dataclasses import replace

import numpy as np
import pytest

from tinygrad_llm.models import (
    T5,
    Bert,
    BertConfig,
    DistilBertConfig,
    GPTConfig,
    LlamaConfig,
    RecurrentConfig,
    T5Config,
    load_model,
    new_model,
)
from tinygrad_llm.models.classifier import Classifier, ClassifierConfig, classes_of, make_classifier

V = 31
LABELS = ("no", "yes", "perhaps")
BODIES = {
    "GPT": GPTConfig(V, 12, 12, 2, 3),
    "Llama": LlamaConfig(V, 12, 12, 2, 3, 1, 20),
    "untied Llama": LlamaConfig(V, 12, 12, 2, 3, 1, 20, tied=False),
    "LSTM": RecurrentConfig("lstm", V, 12, 8, 12, 2, tied=False),
    "BERT": BertConfig(V, 12, 12, 2, 3, 20, norm_eps=1e-3),
    "DistilBERT": DistilBertConfig(V, 12, 12, 2, 3, 20, head="none"),
}
DECODERS = [name for name in BODIES if "BERT" not in name]
CASES = [(name, "last") for name in DECODERS] + [(name, "mean") for name in BODIES]


def build(name, pooling, padding=0):
    """A classifier whose parameters are all random, in float64."""
    model = make_classifier(new_model(BODIES[name], 1), LABELS, pooling, padding, seed=2).astype(np.float64).eval()
    rng = np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.2 * rng.standard_normal(parameter.shape)
    return model


IDS = np.random.default_rng(1).integers(1, V, (4, 9))
LENGTHS = np.array([9, 4, 1, 8])
MASK = (np.arange(9) < LENGTHS[:, None])[:, None, None]


@pytest.mark.parametrize(("name", "pooling"), CASES)
def test_padding_changes_nothing(name, pooling):
    model = build(name, pooling)
    together = model(IDS, MASK).data
    assert together.shape == (4, 3)
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(together[row], model(IDS[row : row + 1, :length]).data[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "pooling"), CASES)
def test_the_pooled_vector_is_that_of_the_last_token_or_the_mean(name, pooling):
    model = build(name, pooling)
    for row, length in enumerate(LENGTHS):
        x = model.body.hidden(IDS[row : row + 1, :length]).data[0]
        expected = x[-1] if pooling == "last" else x.mean(axis=0)
        np.testing.assert_allclose(model.pooled(IDS, MASK).data[row], expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(model(IDS, MASK).data, model.pooled(IDS, MASK).data @ model.score.weight.data)


@pytest.mark.parametrize(("name", "pooling"), CASES)
def test_the_loss_sums_over_texts_and_its_gradient_reaches_every_parameter(name, pooling):
    model, targets = build(name, pooling), np.array([2, 0, 1, 1])
    logits = model(IDS, MASK).data
    expected = -(logits - np.log(np.exp(logits).sum(1, keepdims=True)))[range(4), targets]
    loss = model.loss(IDS, targets, MASK, reduction="sum")
    np.testing.assert_allclose(loss.item(), expected.sum())
    np.testing.assert_allclose(model.loss(IDS, targets, MASK).item(), expected.mean())
    loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not np.any(p.grad)] == []


@pytest.mark.parametrize(("name", "pooling"), CASES)
def test_a_folder_holds_all_of_it(name, pooling, tmp_path):
    model = build(name, pooling, padding=3)
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    assert type(again) is Classifier
    assert again.config == model.config
    assert (again.config.labels, again.config.pooling, again.config.padding) == (LABELS, pooling, 3)
    np.testing.assert_array_equal(again.eval()(IDS, MASK).data, model(IDS, MASK).data)
    assert classes_of(again) == LABELS


@pytest.mark.parametrize("padding", [-1, 0])
def test_without_padding_there_is_none_in_the_folder(tmp_path, padding):
    build("GPT", "last", padding).save_pretrained(tmp_path)
    assert load_model(tmp_path).config.padding == padding


@pytest.mark.parametrize(("given", "replaced"), [("3", '"3"'), ("3", "-2"), ("3", "true")])
def test_a_padding_that_is_no_token_is_refused(given, replaced, tmp_path):
    build("GPT", "last", padding=3).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace(f'"pad_token_id": {given}', f'"pad_token_id": {replaced}'))
    with pytest.raises(ValueError, match="pad_token_id"):
        load_model(tmp_path)


def test_more_than_one_problem_type_is_not_known(tmp_path):
    build("GPT", "last").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"architectures"', '"problem_type": "regression",\n "architectures"'))
    with pytest.raises(ValueError, match="problem_type = 'regression'"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", DECODERS)
def test_it_is_built_on_the_model_that_is_given(name):
    model = new_model(BODIES[name], 1)
    before = dict(model.state_dict())
    made = make_classifier(model, LABELS)
    assert made.config.pooling == "last"
    for parameter, array in made.body.state_dict().items():
        assert array is before[parameter]
    assert {n for n in before if f"body.{n}" not in made.state_dict()} <= {"lm_head.weight"}
    assert made.score.weight.data.std() == pytest.approx(0.02, rel=0.5)
    assert np.array_equal(made.score.weight.data, make_classifier(new_model(BODIES[name]), LABELS).score.weight.data)
    other = make_classifier(new_model(BODIES[name]), LABELS, seed=1)
    assert not np.array_equal(made.score.weight.data, other.score.weight.data)
    assert len(made.blocks) == 2


def test_an_encoder_is_pooled_by_its_pooler_or_else_by_the_mean():
    with_pooler = new_model(replace(BODIES["BERT"], head="pooler"), 1)
    before = dict(with_pooler.state_dict())
    made = make_classifier(with_pooler, LABELS)
    assert type(made) is Bert
    assert classes_of(made) == made.config.labels == LABELS
    assert all(made.state_dict()[name] is array for name, array in before.items())
    assert made(IDS, MASK).shape == (4, 3)
    assert type(make_classifier(new_model(BODIES["BERT"]), LABELS)) is Classifier
    new_pooler = make_classifier(new_model(BODIES["BERT"]), LABELS, "first")
    assert new_pooler.pooler is not None
    assert new_pooler.masked_lm_head is None


@pytest.mark.parametrize(("name", "pooling"), [("GPT", "last"), ("BERT", "mean"), ("BERT", "first")])
def test_a_classifier_into_the_same_labels_keeps_its_head_and_another_gets_a_new_one(name, pooling):
    model = make_classifier(new_model(BODIES[name]), LABELS, pooling)
    assert make_classifier(model, LABELS, pooling) is model
    assert make_classifier(model, list(LABELS)) is model
    other = make_classifier(model, ("a", "b"), pooling)
    assert classes_of(other) == ("a", "b")
    assert other(IDS, MASK).shape == (4, 2)
    if pooling == "last":
        assert make_classifier(other, ("a", "b"), "mean").config.pooling == "mean"


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(ValueError, match="T5 reads and writes"):
        make_classifier(T5(T5Config(V, 8, 12, 1, 1, 2, 20)), LABELS)
    with pytest.raises(ValueError, match="pooling first"):
        make_classifier(new_model(BODIES["GPT"]), LABELS, "first")
    with pytest.raises(ValueError, match="take pooling='mean'"):
        make_classifier(new_model(BODIES["BERT"]), LABELS, "last")
    with pytest.raises(ValueError, match="pooling='max'"):
        ClassifierConfig(BODIES["GPT"], LABELS, "max")
    with pytest.raises(ValueError, match="each once"):
        ClassifierConfig(BODIES["GPT"], ("a", "a"))
    with pytest.raises(ValueError, match="GGUF has no place"):
        build("GPT", "last").save_gguf(tmp_path / "x.gguf")
    new_model(BODIES["GPT"]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no Classifier"):
        Classifier.from_pretrained(tmp_path)
    assert classes_of(load_model(tmp_path)) == ()
    assert classes_of(new_model(BODIES["BERT"])) == ()


HOLE = MASK & (np.arange(9) != 2)


@pytest.mark.parametrize("mask", [MASK[:, :, :, :8], MASK[:, :, :, ::-1], np.zeros_like(MASK), HOLE])
def test_padding_elsewhere_than_on_the_right_is_refused(mask):
    with pytest.raises(ValueError, match="False after its end"):
        build("GPT", "last")(IDS, mask)


def test_new_model_makes_one_of_its_configuration():
    model = new_model(ClassifierConfig(BODIES["Llama"], LABELS, "mean", 5), 3)
    assert isinstance(model, Classifier)
    assert (model.config.vocab_size, model.config.context, model.config.channels) == (V, 12, 12)
    assert new_model(ClassifierConfig(BODIES["LSTM"], LABELS)).config.channels == 12
    assert model.dtype == np.float32
