"""Gaps and masks in a text, and what a T5 and a BERT put there."""

import numpy as np
import pytest

from tinygrad_llm import no_grad
from tinygrad_llm.generation import Sampling
from tinygrad_llm.generation.filling import fill_gaps, fill_masks, ids_with_gaps, text_with_gaps, unmasked
from tinygrad_llm.models import T5, Bert, BertConfig, T5Config
from tinygrad_llm.tokenizer import Tokenizer, WordPieceTokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["return the length of the list " * 20], 280)


def make_t5(tokenizer, gaps=3):
    last = tokenizer.vocab_size
    config = T5Config(last + 1 + gaps, 16, 2, 2, 8, 24, pad_id=last, start_id=last, end_id=last)
    model = T5(config, seed=2)
    rng = np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.data = rng.normal(0, 0.4, parameter.shape).astype(np.float32)
    return model


def test_a_text_with_gaps_comes_back(tokenizer):
    text = "return <1>the list<3> of"
    ids = ids_with_gaps(text, tokenizer, tokenizer.vocab_size + 4)
    assert (ids == tokenizer.vocab_size + 3).sum() == 1
    assert (ids == tokenizer.vocab_size + 1).sum() == 1
    assert text_with_gaps(ids, tokenizer, tokenizer.vocab_size + 4) == text


@pytest.mark.parametrize("gap", ["<0>", "<4>"])
def test_a_gap_that_the_model_lacks_is_named(gap, tokenizer):
    with pytest.raises(ValueError, match=f"the text has the gap {gap}, but this model knows <1> to <3> only"):
        ids_with_gaps(f"a {gap} b", tokenizer, tokenizer.vocab_size + 4)


def test_the_most_probable_answer_is_at_least_as_probable_as_the_greedy_one(tokenizer):
    model = make_t5(tokenizer)

    def log_probability(answer):
        config = model.config
        targets = [*ids_with_gaps(answer, tokenizer, config.vocab_size), config.end_id][:6]
        ids = [*ids_with_gaps("the <1> list", tokenizer, config.vocab_size), config.end_id]
        with no_grad():
            return -model.loss(np.array([ids]), np.array([targets]), reduction="sum").item()

    greedy = fill_gaps(model, tokenizer, "the <1> list", 6, Sampling(temperature=0))
    wide = fill_gaps(model, tokenizer, "the <1> list", 6, beams=8)
    assert greedy == fill_gaps(model, tokenizer, "the <1> list", 6, beams=1)
    assert log_probability(wide) >= log_probability(greedy) - 1e-5


def make_bert(vocab_size, **options):
    model = Bert(BertConfig(vocab_size, 16, 16, 2, 2, 24, **options), seed=1)
    rng = np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.data = rng.normal(0, 0.4, parameter.shape).astype(np.float32)
    return model.eval()


def test_each_mask_becomes_the_likeliest_token(tokenizer):
    mask_id = tokenizer.vocab_size
    model = make_bert(mask_id + 1)
    text = "return the [MASK] of the[MASK]"
    ids = [*tokenizer.encode("return the "), mask_id, *tokenizer.encode(" of the"), mask_id]
    with no_grad():
        likeliest = model(np.array([ids])).data[0, :, :mask_id].argmax(-1)
    expected = [number if number != mask_id else likeliest[place] for place, number in enumerate(ids)]
    assert unmasked(model, tokenizer, text) == tokenizer.decode(expected)
    np.testing.assert_array_equal(fill_masks(model, np.array([ids]), mask_id)[0], expected)


def test_pieces_of_words_are_found_too():
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "list", "of"]
    model = make_bert(len(pieces))
    answer = unmasked(model, WordPieceTokenizer(pieces), "The [MASK] of")
    assert answer.startswith("the ")
    assert answer.endswith(" of")
    assert "[MASK]" not in answer


def test_what_cannot_be_filled_is_refused(tokenizer):
    model = make_bert(tokenizer.vocab_size + 1)
    with pytest.raises(ValueError, match=r"the text has no \[MASK\]"):
        unmasked(model, tokenizer, "return the list")
    with pytest.raises(ValueError, match="tokens, but the model's context is 16"):
        unmasked(model, tokenizer, "[MASK] list, and it is very long indeed")
    with pytest.raises(ValueError, match="no head that finds hidden words"):
        unmasked(make_bert(280, head="none"), tokenizer, "[MASK]")
