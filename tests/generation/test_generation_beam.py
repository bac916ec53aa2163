"""Outputs of encoder-decoder models: greedy, sampled, and by beam search, which is held against exhaustive search."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import random
from tinygrad_llm.generation import Sampling, beam, beam_search, choose, generate_outputs
from tinygrad_llm.generation.beam import Hypothesis, largest, penalized
from tinygrad_llm.models.t5 import T5, T5Config
from tinygrad_llm.tape import no_grad

START, END = 0, 1


class Table:
    """A model whose next logits are any function of the input and the output so far. Its state are the outputs."""

    def __init__(self, vocab=4, spread=1.5, seed=0):
        self.vocab, self.spread, self.seed, self.steps, self.rows = vocab, spread, seed, 0, []

    def logits(self, given, prefix):
        return self.spread * random.stream(self.seed, *given, "then", *prefix).standard_normal(self.vocab)

    def start(self, inputs):
        return [(tuple(one), ()) for one in inputs]

    def step(self, ids, state):
        assert len(ids) == len(state)
        self.steps, self.rows = self.steps + 1, [*self.rows, len(ids)]
        state[:] = [(one, (*prefix, int(i))) for (one, prefix), i in zip(state, ids, strict=True)]
        return np.array([self.logits(one, prefix[1:]) for one, prefix in state])

    def reorder(self, state, rows):
        return [state[row] for row in rows]

    def log_probability(self, given, ids):
        total = 0.0
        for n, token in enumerate(ids):
            logits = self.logits(given, ids[:n])
            total += logits[token] - math.log(math.fsum(np.exp(logits)))
        return total

    def everything(self, given, max_tokens, penalty):
        """All outputs there are, as (score, ids, ended), the best first."""
        others = [i for i in range(self.vocab) if i != END]
        found = []
        for length in range(max_tokens + 1):
            for ids in itertools.product(others, repeat=length):
                whole = ids if length == max_tokens else (*ids, END)
                total = self.log_probability(given, whole)
                found.append((total / ((5 + len(whole)) / 6) ** penalty, list(ids), length < max_tokens))
        return sorted(found, reverse=True)


def by_hand(model, given, width, max_tokens, penalty=0.0):
    """Beam search of one input, with all that is live and all that has ended in lists; nothing stops it early."""
    live, found = [(0.0, ())], []
    for _ in range(max_tokens):
        longer = [(model.log_probability(given, (*ids, i)), (*ids, i)) for _, ids in live for i in range(model.vocab)]
        kept = sorted(longer, reverse=True)[: width - len(found)]
        found += [(total, ids) for total, ids in kept if ids[-1] == END]
        live = [(total, ids) for total, ids in kept if ids[-1] != END]
    scored = [(penalized(total, len(ids), penalty), [i for i in ids if i != END]) for total, ids in found + live]
    return sorted(scored, reverse=True)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.6, 2.0, -0.5]), st.sampled_from([0.3, 1.5, 4.0]))
def test_as_wide_as_there_are_outputs_it_is_exhaustive(seed, penalty, spread):
    model, max_tokens = Table(seed=seed, spread=spread), 4
    for n_best in (1, 7):
        results = beam_search(model, [[5], [6, 2]], 4**4, max_tokens, START, END, penalty, n_best=n_best)
        for one, found in zip([(5,), (6, 2)], results, strict=True):
            expected = model.everything(one, max_tokens, penalty)[:n_best]
            assert [h.ids for h in found] == [ids for _, ids, _ in expected]
            assert [h.ended for h in found] == [ended for _, _, ended in expected]
            np.testing.assert_allclose([h.score for h in found], [score for score, _, _ in expected], rtol=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.sampled_from([0.0, 0.6, 2.0]), st.integers(1, 6))
def test_narrower_it_is_what_a_beam_of_that_width_finds(seed, width, penalty, max_tokens):
    model = Table(seed=seed, vocab=5)
    inputs = [(3,), (4, 4), (2,)]
    results = beam_search(model, inputs, width, max_tokens, START, END, penalty, n_best=width)
    for one, found in zip(inputs, results, strict=True):
        expected = by_hand(model, one, width, max_tokens, penalty)
        assert [h.ids for h in found] == [ids for _, ids in expected]
        np.testing.assert_allclose([h.score for h in found], [score for score, _ in expected], rtol=1e-12)


@given(st.integers(0, 2**32 - 1))
def test_width_one_is_greedy(seed):
    model, inputs = Table(seed=seed, vocab=6), [(2,), (3, 5), (4,), (5,)]
    found = [h.ids for (h,) in beam_search(model, inputs, 1, 9, START, END, 1.0)]
    assert found == generate_outputs(model, inputs, 9, START, END, Sampling(temperature=0))
    expected = []
    for one in inputs:
        ids = []
        while len(ids) < 9 and (token := int(model.logits(one, ids).argmax())) != END:
            ids.append(token)
        expected.append(ids)
    assert found == expected


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.6, 2.0, -1.0]), st.integers(1, 3))
def test_stopping_early_changes_no_result(seed, penalty, n_best):
    given_ = [(2,), (3,)]
    early, whole = Table(seed=seed), Table(seed=seed)
    found = beam_search(early, given_, 6, 8, START, END, penalty, n_best)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beam._Search, "_decided", lambda self: False)
        assert beam_search(whole, given_, 6, 8, START, END, penalty, n_best) == found
    assert sum(early.rows) <= sum(whole.rows)


def test_it_stops_as_soon_as_nothing_better_can_come():
    class Sure(Table):
        def logits(self, given, prefix):
            return np.log([1e-9, 0.6, 0.3, 0.1]) if not prefix else np.log([0.1, 0.3, 0.3, 0.3])

    model = Sure()
    assert [h.ids for h in beam_search(model, [[2]], 3, 50, START, END)[0]] == [[]]
    assert model.steps == 1  # the end with 0.6 at once; nothing that begins with 0.3 can be more probable
    model = Sure()
    best = beam_search(model, [[2]], 3, 50, START, END, length_penalty=3.0)[0][0]
    assert model.steps > 1  # a long output is judged more mildly
    assert best.score >= math.log(0.6) - 1e-8


def test_scores_and_probabilities_are_those_of_the_outputs():
    model = Table(seed=3, vocab=5)
    for found in beam_search(model, [[2], [3]], 8, 5, START, END, 0.7, n_best=8):
        assert len(found) == 8
        assert {h.ended for h in found} <= {True, False}
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
    for one, found in zip([(2,), (3,)], beam_search(model, [[2], [3]], 8, 5, START, END, 0.7, 8), strict=True):
        for h in found:
            whole = (*h.ids, END) if h.ended else h.ids
            assert len(whole) <= 5
            assert h.log_probability == pytest.approx(model.log_probability(one, tuple(whole)), rel=1e-12)
            assert h.score == pytest.approx(h.log_probability / ((5 + len(whole)) / 6) ** 0.7, rel=1e-12)


def test_inputs_that_are_done_cost_no_more_steps():
    class Soon(Table):
        def logits(self, given, prefix):
            ends = 20.0 if len(prefix) >= given[0] else -20.0
            return np.array([0.0, ends, 1.0, 0.5])

    model = Soon()
    found = beam_search(model, [[1], [4]], 1, 10, START, END)
    assert [len(h.ids) for (h,) in found] == [1, 4]
    assert model.rows == [2, 2, 1, 1, 1]
    model = Soon()
    assert [len(ids) for ids in generate_outputs(model, [[1], [4]], 10, START, END)] == [1, 4]
    assert model.rows == [2, 2, 1, 1, 1]


def test_ids_beyond_the_vocabulary_are_never_chosen():
    model = Table(vocab=9, seed=1)
    for h in beam_search(model, [[2]], 5, 6, START, END, n_best=5, vocab_size=4)[0]:
        assert max(h.ids, default=0) < 4
    outputs = generate_outputs(model, [[2], [3]], 20, START, END, seed=2, vocab_size=4)
    assert max(map(max, outputs)) < 4


def test_fewer_are_returned_where_there_are_no_more():
    class Narrow(Table):
        def logits(self, given, prefix):
            return np.array([-np.inf, 0.0, 0.0, -np.inf])  # two tokens are possible

    found = beam_search(Narrow(), [[2]], 10, 2, START, END, n_best=10)[0]
    assert sorted(h.ids for h in found) == [[], [2], [2, 2]]
    assert [h.log_probability for h in found] == pytest.approx([-math.log(2), -math.log(4), -math.log(4)])


def test_the_largest_are_in_order_and_the_first_of_equal_ones():
    values = np.array([1.0, 3.0, -np.inf, 3.0, 2.0, 3.0])
    assert largest(values, 2).tolist() == [1, 3]
    assert largest(values, 4).tolist() == [1, 3, 5, 4]
    assert largest(values, 9).tolist() == [1, 3, 5, 4, 0]


def test_sampled_outputs_are_drawn_from_streams_of_their_own():
    model, sampling = Table(vocab=6, seed=4), Sampling(temperature=0.9, top_k=4)
    inputs = [(2,), (3, 4), (5,)]
    seen = []
    outputs = generate_outputs(model, inputs, 12, START, END, sampling, 7, on_token=lambda *pair: seen.append(pair))
    for b, (one, ids) in enumerate(zip(inputs, outputs, strict=True)):
        stream, expected = random.stream(7, "generate", b), []
        for _ in range(12):
            token = choose(model.logits(one, expected), sampling, expected, stream.random())
            if token == END:
                break
            expected.append(token)
        assert ids == expected
        assert [token for row, token in seen if row == b] == ids
    assert len({len(ids) for ids in outputs}) > 1
    assert generate_outputs(model, inputs, 12, START, END, sampling, 8) != outputs


def test_mistakes_are_named():
    model = Table()
    with pytest.raises(ValueError, match="width=0 and n_best=1 must be at least 1"):
        beam_search(model, [[2]], 0, 5, START, END)
    with pytest.raises(ValueError, match="width=2 and n_best=3 must be at least 1, and n_best at most width"):
        beam_search(model, [[2]], 2, 5, START, END, n_best=3)
    with pytest.raises(ValueError, match="max_tokens=0 must be at least 1"):
        beam_search(model, [[2]], 2, 0, START, END)
    with pytest.raises(ValueError, match="max_tokens=-1 must not be negative"):
        generate_outputs(model, [[2]], -1, START, END)
    broken = Table(spread=math.nan)
    with pytest.raises(ValueError, match="logits are not finite"):
        beam_search(broken, [[2]], 2, 5, START, END)
    with pytest.raises(ValueError, match="logits are not finite"):
        generate_outputs(broken, [[2]], 5, START, END)
    assert beam_search(model, [], 2, 5, START, END) == []
    assert generate_outputs(model, [], 5, START, END) == []
    assert generate_outputs(model, [[2]], 0, START, END) == [[]]


# ---------------------------------------------------------------------------------------------------------------------
# T5, with its caches and without them


class Uncached:
    """A T5 that computes everything anew at each step: inputs one by one without padding, outputs whole."""

    def __init__(self, model):
        self.model = model

    def start(self, inputs):
        return [(list(one), []) for one in inputs]

    def step(self, ids, state):
        state[:] = [(one, [*prefix, int(i)]) for (one, prefix), i in zip(state, ids, strict=True)]
        with no_grad():
            return np.array([self.model([one], [prefix]).data[0, -1] for one, prefix in state])

    def reorder(self, state, rows):
        return [state[row] for row in rows]


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def t5(request):
    config = T5Config(23, 16, 2, 3, 5, 20, decoder_layers=3, buckets=8, max_distance=9, tied=request.param, dropout=0.3)
    model = T5(config, seed=3).astype(np.float64)
    for parameter in model.parameters():
        parameter.data += 0.25 * random.stream(0, "more").standard_normal(parameter.shape)
    return model


INPUTS = [[5, 6, 7, 8, 9, 10, 11], [3], [12, 13, 14, 2]]


def test_cached_logits_are_those_without_a_cache_through_any_reordering(t5):
    rng, plain = np.random.default_rng(0), Uncached(t5)
    state, whole = t5.start(INPUTS), plain.start(INPUTS)
    ids = np.zeros(3, int)
    for rows in ([0, 1, 2], [0, 0, 1, 2, 2], [4, 0, 2, 1, 1], [0, 1, 2, 3, 4], [3, 1], [1, 0, 0]):
        cached, expected = t5.step(ids, state), plain.step(ids, whole)
        np.testing.assert_allclose(cached, expected, rtol=0, atol=1e-10 * np.abs(expected).max())
        state, whole = t5.reorder(state, np.array(rows)), plain.reorder(whole, rows)
        ids = rng.integers(0, 23, len(rows))


def test_cached_outputs_are_those_without_a_cache(t5):
    for sampling in (Sampling(temperature=0), Sampling(temperature=1.2)):
        cached = generate_outputs(t5, INPUTS, 12, START, END, sampling, 2)
        assert cached == generate_outputs(Uncached(t5), INPUTS, 12, START, END, sampling, 2)
    cached = beam_search(t5, INPUTS, 4, 10, START, END, 0.6, n_best=3)
    plain = beam_search(Uncached(t5), INPUTS, 4, 10, START, END, 0.6, n_best=3)
    for some, others in zip(cached, plain, strict=True):
        assert [h.ids for h in some] == [h.ids for h in others]
        np.testing.assert_allclose([h.score for h in some], [h.score for h in others], rtol=1e-10)


def test_in_float32_the_cache_changes_no_choice_and_logits_by_1e5(t5):
    single = T5(t5.config).astype(np.float32)
    single.load_state_dict(t5.state_dict())
    plain = Uncached(single.eval())
    state, whole, ids = single.start(INPUTS), plain.start(INPUTS), np.zeros(3, int)
    for _ in range(10):
        cached, expected = single.step(ids, state), plain.step(ids, whole)
        assert cached.dtype == np.float32
        np.testing.assert_allclose(cached, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        np.testing.assert_array_equal(cached.argmax(-1), expected.argmax(-1))
        ids = cached.argmax(-1)


def test_an_output_is_the_same_alone_and_in_a_batch(t5):
    together = beam_search(t5, INPUTS, 3, 8, START, END)
    for one, found in zip(INPUTS, together, strict=True):
        ((alone,),) = beam_search(t5, [one], 3, 8, START, END)
        assert isinstance(alone, Hypothesis)
        assert alone.ids == found[0].ids
        assert alone.score == pytest.approx(found[0].score, rel=1e-10)
