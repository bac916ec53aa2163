"""Generation: the cache changes nothing, nor does the batch; streaming and stop strings."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import ops
from tinygrad_llm.generation import KVCache, Sampling, generate_text, generate_tokens
from tinygrad_llm.generation.cache import attend_last
from tinygrad_llm.generation.streaming import TextStream
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.tape import no_grad
from tinygrad_llm.tokenizer import Tokenizer

TEXT = "the cat sat on the mat. the dog sat on the log. déjà vu 🙂 " * 20


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([TEXT], 280)


@pytest.fixture(scope="module")
def model(tokenizer):
    config = GPTConfig(vocab_size=tokenizer.vocab_size, context=12, channels=16, layers=2, heads=2)
    network = GPT(config, seed=1).astype(np.float64)
    rng = np.random.default_rng(0)
    for parameter in network.parameters():  # an untrained model would be all but uniform
        parameter.data += 0.2 * rng.standard_normal(parameter.shape)
    return network


def test_the_cache_gives_the_same_logits_to_1e10(model):
    ids = np.random.default_rng(0).integers(0, 280, (2, 9))
    with no_grad():
        whole = model(ids).data
        cache = KVCache(model.config, 2, np.float64)
        parts = [model(ids[:, a:b], cache=cache).data for a, b in [(0, 4), (4, 5), (5, 9)]]
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, rtol=0, atol=1e-10 * np.abs(whole).max())
    assert cache.length == 9


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.sampled_from([1.0, 1e4]), st.integers(0, 2**32 - 1))
def test_one_query_attends_as_many_do(kv_heads, group, length, size, seed):
    rng = np.random.default_rng(seed)
    q = size * rng.standard_normal((2, kv_heads * group, 1, 4))
    keys, values = rng.standard_normal((2, 2, kv_heads, length, 4))
    expected = ops.attention.reference(q, keys, values, causal=True)[0][:, :, 0]
    np.testing.assert_allclose(attend_last(q[:, :, 0], keys, values), expected, rtol=0, atol=1e-11)


def test_a_full_cache_is_refused(model):
    cache = KVCache(model.config, 1, np.float64)
    with no_grad():
        model(np.zeros((1, 12), int), cache=cache)
        with pytest.raises(ValueError, match="13 positions, but"):
            model(np.zeros((1, 1), int), cache=cache)
    with pytest.raises(ValueError, match="room for 12"):
        cache.layers[0].extend(np.zeros((1, 2, 1, 8)), np.zeros((1, 2, 1, 8)))


def test_the_cache_is_refused_while_gradients_are_recorded(model):
    with pytest.raises(RuntimeError, match=r"the KV cache passes no gradients; use it under no_grad\(\)"):
        model(np.zeros((1, 2), int), cache=KVCache(model.config, 1, np.float64))


@pytest.mark.parametrize("count", [5, 40])
def test_tokens_are_the_same_with_and_without_the_cache_also_beyond_the_context(model, count):
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10]]
    cached = list(islice(generate_tokens(model, prompts, seed=3), count))
    plain = list(islice(generate_tokens(model, prompts, seed=3, use_cache=False), count))
    np.testing.assert_array_equal(cached, plain)


def test_a_prompt_gives_the_same_tokens_alone_and_in_a_batch_of_other_lengths(model):
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]
    greedy = Sampling(temperature=0)
    together = np.array(list(islice(generate_tokens(model, prompts, greedy), 6)))
    for row, prompt in enumerate(prompts):
        alone = np.array(list(islice(generate_tokens(model, [prompt], greedy), 6)))
        np.testing.assert_array_equal(together[:, row], alone[:, 0])


def test_greedy_takes_the_likeliest_of_the_whole_sequence(model):
    prompt = [1, 2, 3]
    for token in islice(generate_tokens(model, [prompt], Sampling(temperature=0)), 5):
        with no_grad():
            assert token[0] == model(np.array([prompt])).data[0, -1].argmax()
        prompt = [*prompt, int(token[0])]


def test_the_seed_decides(model):
    first, same, other = (np.array(list(islice(generate_tokens(model, [[1]], seed=s), 20))) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_each_row_draws_from_its_own_stream(model):
    def rows(prompts):
        return np.array(list(islice(generate_tokens(model, prompts, seed=1), 10))).T

    twins = rows([[1], [1]])
    assert not np.array_equal(twins[0], twins[1])
    # the second row is the same beside other rows, and beside more of them
    np.testing.assert_array_equal(rows([[7], [1], [9]])[1], twins[1])
    np.testing.assert_array_equal(rows([[1]])[0], twins[0])


@pytest.mark.parametrize(
    ("prompts", "message"),
    [([[]], "prompt 0 is empty"), ([[1], [0] * 13], "prompt 1 has 13 tokens"), ([[280]], "outside 0..279")],
)
def test_prompts_that_do_not_fit_are_refused(model, prompts, message):
    with pytest.raises(ValueError, match=message):
        next(generate_tokens(model, prompts))


def test_text_is_streamed_as_it_is_returned(model, tokenizer):
    pieces: list[list[str]] = [[], []]
    texts = generate_text(model, tokenizer, ["the", ""], 30, seed=2, on_text=lambda row, text: pieces[row].append(text))
    assert ["".join(p) for p in pieces] == texts
    assert texts[0]
    assert generate_text(model, tokenizer, ["the"], 0) == [""]
    with pytest.raises(ValueError, match="max_tokens=-1"):
        generate_text(model, tokenizer, ["the"], -1)


def test_a_stop_string_cuts_the_text_of_its_row_only(model, tokenizer):
    def texts(**options):
        return generate_text(model, tokenizer, ["the", "a"], 40, seed=2, **options)

    first, second = texts()
    stop = next(first[i : i + 3] for i in range(3, len(first) - 3) if first[i : i + 3] not in second)
    assert texts(stop=["never said", stop]) == [first[: first.index(stop)], second]


def test_no_token_is_drawn_after_every_row_has_stopped(model, tokenizer, monkeypatch):
    from tinygrad_llm.generation import decoding

    drawn = []

    def counted(*arguments):
        for tokens in generate_tokens(*arguments):
            drawn.append(tokens)
            yield tokens

    monkeypatch.setattr(decoding, "generate_tokens", counted)
    (whole,) = generate_text(model, tokenizer, ["the"], 40, seed=2)
    assert len(drawn) == 40
    drawn.clear()
    generate_text(model, tokenizer, ["the"], 40, seed=2, stop=[whole[3]])
    assert len(drawn) < 40


def test_a_document_separator_ends_the_text(tokenizer):
    class Ends(GPT):
        """Says "a", then the separator, for ever."""

        def hidden(self, ids, positions=None, mask=None, cache=None):
            x = super().hidden(ids, positions, mask, None)
            last = np.asarray(ids)[:, -1]
            x.data[:] = 0
            x.data[:, -1, 0] = np.where(last == LETTER, 1.0, -1.0)
            return x

    LETTER = int(tokenizer.encode("a")[0])
    ends = Ends(GPTConfig(vocab_size=tokenizer.vocab_size, context=12, channels=4, layers=1, heads=1))
    table = ends.token_embedding.weight.data
    table[:] = 0
    table[tokenizer.separator_id, 0], table[LETTER, 0] = 1.0, -1.0
    assert generate_text(ends, tokenizer, ["b"], 9, Sampling(temperature=0), use_cache=False) == ["a"]


@given(st.data())
def test_streaming_never_shows_a_part_of_a_stop_string_nor_half_a_character(tokenizer, data):
    text = data.draw(st.text("ab🙂é ", max_size=30))
    stop = data.draw(st.lists(st.text("ab🙂é", min_size=1, max_size=4), max_size=3))
    stream = TextStream(tokenizer, stop)
    shown = ""
    for token in tokenizer.encode(text):
        if stream.ended:
            break
        shown += stream.feed(int(token))
        assert text.startswith(shown)
    if not stream.ended:
        shown += stream.end()
    cuts = [at for at in map(text.find, stop) if at >= 0]
    assert shown == stream.text == text[: min(cuts, default=len(text))]


def test_an_empty_stop_string_is_refused(tokenizer):
    with pytest.raises(ValueError, match="must not be empty"):
        TextStream(tokenizer, [""])
