"""Speculative decoding keeps the distribution, and at temperature 0 every token."""

from itertools import islice, product

import numpy as np
import pytest

from tinygrad_llm import no_grad
from tinygrad_llm.generation import Sampling, generate_tokens
from tinygrad_llm.generation.sampling import adjusted, probabilities
from tinygrad_llm.generation.speculative import SpeculativeDecoding
from tinygrad_llm.models import GPT, GPTConfig, Llama, LlamaConfig, Recurrent, RecurrentConfig

V = 4


def target(vocab_size=V, context=24):
    return Llama(LlamaConfig(vocab_size, context, 16, 2, 2, 1, 24, init_std=0.7), seed=1)


def other(vocab_size=V, context=24):
    return GPT(GPTConfig(vocab_size, context, 8, 1, 2, init_std=0.7), seed=2)


def exact(model, prompt, sampling, length):
    """The probability of each continuation of that length, from the definition."""
    found = {}
    for tokens in product(range(V), repeat=length):
        probability = 1.0
        for place, token in enumerate(tokens):
            history = [*prompt, *tokens[:place]]
            with no_grad():
                logits = model(np.array([history])).data[0, -1]
            probability *= probabilities(adjusted(logits, sampling, history))[token]
        found[tokens] = probability
    return found


QUANTILE = {63: 103.44}
"""Of the chi-square distribution: 99.9 % lie below, by degrees of freedom (tables of Abramowitz and Stegun, 26.8)."""


@pytest.mark.parametrize("ahead", [1, 4])
@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(temperature=0.7, repetition_penalty=1.5), Sampling(temperature=1.3, top_k=3, min_p=0.02)],
)
def test_three_tokens_have_the_distribution_of_the_model_alone(ahead, sampling):
    model, draft, prompt, draws = target(), other(), [1, 3, 0], 600
    expected = exact(model, prompt, sampling, 3)
    assert sum(expected.values()) == pytest.approx(1)
    counts = dict.fromkeys(expected, 0)
    for seed in range(draws):
        counts[tuple(islice(SpeculativeDecoding(model, draft, prompt, sampling, seed, ahead), 3))] += 1
    # impossible ones never, and those expected less than 5 times together, as the test wants
    assert all(counts[tokens] == 0 for tokens, probability in expected.items() if probability == 0)
    often = [tokens for tokens, probability in expected.items() if probability * draws >= 5]
    pairs = [(counts[tokens], draws * expected[tokens]) for tokens in often]
    rest = draws - sum(e for _, e in pairs)
    if rest >= 5:
        pairs.append((draws - sum(c for c, _ in pairs), rest))
    statistic = sum((count - e) ** 2 / e for count, e in pairs)
    freedom = len(pairs) - 1
    bound = freedom * (1 - 2 / (9 * freedom) + 3.0902 * (2 / (9 * freedom)) ** 0.5) ** 3  # Wilson and Hilferty 1931
    assert statistic < bound


def test_the_bound_is_that_of_the_tables():
    assert pytest.approx(QUANTILE[63], rel=1e-3) == 63 * (1 - 2 / 567 + 3.0902 * (2 / 567) ** 0.5) ** 3


def test_a_wrong_rule_would_be_noticed():
    """The check above can fail: if every proposal were accepted, tokens would have the draft's distribution."""
    model, draft, prompt, draws = target(), other(), [1, 3, 0], 600
    one, two = exact(model, prompt, Sampling(), 1), exact(draft, prompt, Sampling(), 1)
    assert sum((one[t] - two[t]) ** 2 / one[t] for t in one) * draws > QUANTILE[63]


@pytest.mark.parametrize("penalty", [1.0, 1.7])
@pytest.mark.parametrize("ahead", [1, 3, 30])
def test_without_chance_all_tokens_are_those_of_the_model_alone_beyond_its_context_too(ahead, penalty):
    model, greedy = target(17), Sampling(temperature=0, repetition_penalty=penalty)
    alone = [int(tokens[0]) for tokens in islice(generate_tokens(model, [[1, 2, 3]], greedy), 60)]
    for draft in (other(17), other(17, context=10), model):
        assert list(islice(SpeculativeDecoding(model, draft, [1, 2, 3], greedy, ahead=ahead), 60)) == alone


def test_a_draft_that_is_the_model_is_always_believed():
    model = target(17)
    decoding = SpeculativeDecoding(model, model, [1, 2], Sampling(top_p=0.9), ahead=3)
    assert len(list(islice(decoding, 16))) == 16
    assert decoding.proposed == decoding.accepted == 12  # four passes of 3 + 1 tokens


def test_a_draft_that_knows_nothing_is_mostly_refused():
    decoding = SpeculativeDecoding(target(17), other(17), [1, 2], Sampling(temperature=0.2), ahead=3)
    list(islice(decoding, 16))
    assert 0 <= decoding.accepted < decoding.proposed


def test_only_new_tokens_go_through_the_models(monkeypatch):
    model, draft, widths = target(17), other(17), []
    hidden = Llama.hidden
    monkeypatch.setattr(Llama, "hidden", lambda self, ids, **o: widths.append(ids.shape[1]) or hidden(self, ids, **o))
    list(islice(SpeculativeDecoding(model, draft, [1, 2, 3, 4, 5], ahead=2), 12))
    assert widths[0] == 7
    assert set(widths[1:]) == {3}


def test_the_same_seed_gives_the_same_tokens_and_ids_beyond_the_tokenizer_none():
    def tokens(seed, vocab_size=None):
        return list(islice(SpeculativeDecoding(target(17), other(17), [1], seed=seed, vocab_size=vocab_size), 20))

    assert tokens(1) == tokens(1) != tokens(2)
    assert max(tokens(1, 5)) < 5


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="RecurrentConfig has no keys and values to keep"):
        SpeculativeDecoding(target(17), Recurrent(RecurrentConfig("gru", 17, 24, 8, 8)), [1])
    with pytest.raises(ValueError, match="the model has 17 tokens and the draft 4"):
        SpeculativeDecoding(target(17), other(4), [1])
    with pytest.raises(ValueError, match="ahead=0 must be at least 1"):
        SpeculativeDecoding(target(), other(), [1], ahead=0)
    for prompt in ([], [1] * 25):
        with pytest.raises(ValueError, match=r"a prompt of .* the model takes 1 to 24"):
            SpeculativeDecoding(target(), other(), prompt)
