"""A conversation with a model that was tuned for it: its template, its history, and the keys and values kept."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinygrad_llm import random
from tinygrad_llm.generation.cache import KVCache
from tinygrad_llm.generation.sampling import Sampling, choose
from tinygrad_llm.generation.streaming import TextStream
from tinygrad_llm.models import Decoder
from tinygrad_llm.tape import Array, no_grad
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.tokenizer import ChatTemplate, Tokenizer

TURN_ENDS = "<|im_end|>", "<|eot_id|>", "<|end|>"
"""Special tokens that end an answer in some templates, besides what ends a text."""


def turn_ends(tokenizer: Tokenizer) -> dict[str, int]:
    """The special tokens after which an answer is over, with their ids."""
    return {
        name: number
        for name, number in tokenizer.special_tokens.items()
        if name in TURN_ENDS or number in tokenizer.end_ids
    }


class Conversation:
    """What was said, and the model's cache of it: an answer costs the new tokens only.

    When the conversation outgrows the model's context, its oldest turns are forgotten, but for what the system was told
    at first.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        sampling: Sampling,
        system: str = "",
        max_tokens: int = 512,
        seed: int = 0,
    ) -> None:
        """An answer has `max_tokens` or half the context at most, and less after a message that leaves less room.
        ValueError if the tokenizer has no chat template."""
        self.model, self.tokenizer, self.sampling = model.eval(), tokenizer, sampling
        self.max_tokens = min(max_tokens, model.config.context // 2)
        self.template = ChatTemplate.of(tokenizer)
        self.ends = {*tokenizer.end_ids, *turn_ends(tokenizer).values()}
        self.stream = random.stream(seed, "chat")
        self.first = [{"role": "system", "content": system}] if system else []
        self.reset()

    def reset(self) -> None:
        """Forget everything but the system's message."""
        self.messages = list(self.first)
        self.cache = KVCache(self.model.config, 1, self.model.dtype)
        self.held: list[int] = []  # the ids that it is of

    def answer(self, text: str) -> Iterator[str]:
        """Say `text`; yield the answer piece by piece, as whole characters.

        Whoever stops in the middle leaves an answer that ends there. ValueError, and nothing changed, if `text` alone
        is too long.
        """
        ids = self._prompt({"role": "user", "content": text})
        said = TextStream(self.tokenizer)
        self.messages.append({"role": "assistant", "content": ""})
        try:
            for token in self._tokens(ids):
                if token in self.ends:
                    break
                if piece := said.feed(token):
                    yield piece
            if piece := said.end():
                yield piece
        finally:
            self.messages[-1]["content"] = said.text

    def _prompt(self, message: dict[str, str]) -> Array:
        """The ids of the conversation with one more message, of which as few old turns are forgotten as must be."""
        room = self.model.config.context - self.max_tokens
        turns = self.messages[len(self.first) :]
        while len(ids := self.template.encode(self.tokenizer, [*self.first, *turns, message])) > room and turns:
            turns = turns[2:]
        if len(ids) > (context := self.model.config.context):
            raise ValueError(
                f"chat: the message has {len(ids)} tokens with what stands around it, and there is room for {context}"
            )
        self.messages = [*self.first, *turns, message]
        return ids

    def _tokens(self, ids: Array) -> Iterator[int]:
        """Up to `max_tokens` tokens after `ids`. Of these, the cache keeps what it holds already."""
        held = np.array(self.held[: len(ids) - 1])
        differs = np.flatnonzero(held != ids[: len(held)])
        kept = int(differs[0]) if len(differs) else len(held)
        history = [int(i) for i in ids]
        self.cache.cut(kept)
        self.held = history[:kept]
        for _ in range(min(self.max_tokens, self.model.config.context - len(ids) + 1)):
            with no_grad():
                x = self.model.hidden(np.array(history[self.cache.length :])[None], cache=self.cache)
                logits = self.model.head(Tensor(x.data[:, -1])).data[0]
            self.held = list(history)
            token = choose(logits[: self.tokenizer.vocab_size], self.sampling, history, self.stream.random())
            history.append(token)
            yield token
