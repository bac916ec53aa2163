"""Answers to many prompts at once are those to each by itself."""

import numpy as np
import pytest

import tinygrad_llm.generation.answers as answers_module
from tinygrad_llm.generation.answers import answer_prompts
from tinygrad_llm.generation.cache import KVCache
from tinygrad_llm.models import GPT, GPTConfig, Llama, LlamaConfig, Recurrent, RecurrentConfig

V = 23
MODELS = {
    "gpt": lambda: GPT(GPTConfig(V, 20, 16, 2, 2, init_std=0.5), seed=2),
    "llama": lambda: Llama(LlamaConfig(V, 20, 16, 2, 4, 2, 24, init_std=0.5), seed=2),
    "gru": lambda: Recurrent(RecurrentConfig("gru", V, 20, 16, 16, 2, init_std=0.9), seed=2),
}


def prompts_of(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, V, length) for length in lengths]


def alone(model, prompt, ends, max_tokens, vocab_size):
    """Greedy, without a cache."""
    ids = prompt.tolist()
    for _ in range(min(max_tokens, 20 - len(prompt) + 1)):
        token = int(model(np.array([ids])).data[0, -1, :vocab_size].argmax())
        if token in ends:
            break
        ids.append(token)
    return ids[len(prompt) :]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("max_tokens", [0, 1, 7])
def test_each_is_that_of_its_prompt_alone(name, rows, max_tokens, monkeypatch):
    monkeypatch.setattr(answers_module, "ROWS", rows)
    model = MODELS[name]().astype(np.float64)
    prompts, told = prompts_of([3, 9, 1, 9, 12, 2, 5]), []
    ends = {alone(model, prompts[0], (), 3, 19)[-1], alone(model, prompts[4], (), 1, 19)[-1]}
    found = answer_prompts(model, prompts, ends, max_tokens, 19, lambda *done: told.append(done))
    expected = [alone(model, prompt, ends, max_tokens, 19) for prompt in prompts]
    assert found == expected
    assert told == [(min(n, 7), 7) for n in range(rows, 7 + rows, rows)]
    if max_tokens == 7:
        assert len({len(answer) for answer in found}) > 1
        assert all(token < 19 for answer in found for token in answer)


def test_an_answer_ends_where_the_context_does():
    model = MODELS["llama"]().astype(np.float64)
    prompts = prompts_of([20, 18])
    assert [len(a) for a in answer_prompts(model, prompts[:1], (), 50, V)] == [1]
    assert [len(a) for a in answer_prompts(model, prompts[1:], (), 50, V)] == [3]
    found = answer_prompts(model, prompts, (), 50, V)
    assert found == [alone(model, prompt, (), 50, V) for prompt in prompts]
    with pytest.raises(ValueError, match="prompt 0 has 21 tokens, the model's context is 20"):
        answer_prompts(model, prompts_of([21]), (), 5, V)


def test_memory_is_bounded(monkeypatch):
    shapes = []
    made = KVCache.__init__

    def watched(self, config, batch, dtype=np.float32, length=0):
        made(self, config, batch, dtype, length)
        shapes.append(self.layers[0].keys.shape)

    monkeypatch.setattr(KVCache, "__init__", watched)
    monkeypatch.setattr(answers_module, "TOKENS", 24)
    model = MODELS["llama"]()
    answer_prompts(model, prompts_of([4, 2, 2, 4, 9]), (), 4, V)
    assert [(shape[0], shape[2]) for shape in shapes] == [(1, 12), (3, 7), (1, 5)]


def test_the_model_stays_as_it_was():
    model = MODELS["gpt"]().train()
    answer_prompts(model, prompts_of([3]), (), 2, V)
    assert model.training
    assert not answer_prompts(model.eval(), [], (), 2, V)
    assert not model.training
