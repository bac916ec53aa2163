"""Speculative decoding: a small model runs ahead, and the large one checks all that it proposed in one pass.

Reading the weights of a large model takes as long for five tokens as for one. So the draft proposes k tokens, each from
its own distribution q; the model computes its distributions p at all k positions together, and one more. A proposal x
is accepted with probability ``min(1, p(x) / q(x))``. At the first that is refused a token is drawn from what p has more
than q, ``max(0, p - q)`` divided by its sum; if none is, from the p after the last. What comes out has exactly the
distribution p, whatever q is. For a token x::

    P(x) = q(x) min(1, p(x)/q(x)) + P(refused) max(0, p(x) - q(x)) / sum_z max(0, p(z) - q(z))

The first term is ``min(p(x), q(x))``. A proposal is refused with probability ``1 - sum_z min(p(z), q(z))``, which is
``sum_z max(0, p(z) - q(z))``, since ``p = min(p, q) + max(0, p - q)`` adds up to 1. So the second term is
``max(0, p(x) - q(x))``, and both together are p(x).

Sources: Leviathan et al. 2023, arXiv:2211.17192, algorithm 1 and appendix A.1; Chen et al. 2023, arXiv:2302.01318.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tinygrad_llm import random
from tinygrad_llm.generation.cache import KVCache
from tinygrad_llm.generation.sampling import Sampling, adjusted, draw_from, probabilities
from tinygrad_llm.models import Decoder
from tinygrad_llm.tape import Array, no_grad
from tinygrad_llm.tensor import Tensor


class SpeculativeDecoding:
    """Tokens after one prompt, without end: iterate over it. `proposed` and `accepted` count the draft's tokens.

    With temperature 0 these are the tokens that the model alone would take. Like `generate_tokens`, it goes on from the
    last ``context // 2`` tokens when the model's context is full; where only the draft's is, the draft is left out.
    """

    def __init__(
        self,
        model: Decoder,
        draft: Decoder,
        prompt: Sequence[int] | Array,
        sampling: Sampling | None = None,
        seed: int = 0,
        ahead: int = 4,
        vocab_size: int | None = None,
    ) -> None:
        """`ahead` tokens are proposed at a time; ids from `vocab_size` on are never chosen."""
        if model.config.vocab_size != draft.config.vocab_size:
            raise ValueError(
                f"speculative decoding: the model has {model.config.vocab_size} tokens and the draft "
                f"{draft.config.vocab_size}; both must have the same tokenizer"
            )
        if ahead < 1:
            raise ValueError(f"speculative decoding: ahead={ahead} must be at least 1")
        if not 0 < len(prompt) <= model.config.context:
            raise ValueError(
                f"speculative decoding: a prompt of {len(prompt)} tokens; the model takes 1 to {model.config.context}"
            )
        self.model, self.draft, self.sampling = model.eval(), draft.eval(), sampling or Sampling()
        self.ahead, self.vocab_size = ahead, vocab_size
        self.history = [int(i) for i in prompt]
        self.proposed = self.accepted = 0
        self._stream = random.stream(seed, "speculative")
        self._forget(len(self.history))

    def _forget(self, keep: int) -> None:
        """Go on from the last `keep` tokens."""
        self._window = self.history[-keep:]
        self._cache = KVCache(self.model.config, 1, self.model.dtype)
        self._draft_cache = KVCache(self.draft.config, 1, self.draft.dtype)

    def __iter__(self) -> Iterator[int]:
        while True:
            if len(self._window) > self.model.config.context:
                self._forget(self.model.config.context // 2)
            for token in self._round():
                self.history.append(token)
                self._window.append(token)
                yield token

    def _round(self) -> list[int]:
        """The tokens of one pass of the model: at least one."""
        tokens, guesses = self._propose()
        places = self._logits(self.model, self._cache, [*self._window, *tokens], len(tokens) + 1)
        found: list[int] = []
        for token, q, logits in zip(tokens, guesses, places, strict=False):
            p = self._distribution(logits, found)
            if self._stream.random() * q[token] >= p[token]:
                more = np.maximum(p - q, 0)
                found.append(draw_from(more if more.any() else p, self._stream.random()))
                break
            found.append(token)
            self.accepted += 1
        else:
            found.append(draw_from(self._distribution(places[-1], found), self._stream.random()))
        self._cache.cut(len(self._window) + len(found) - 1)  # the last token has been through neither model
        self._draft_cache.cut(len(self._window) + len(found) - 1)
        return found

    def _propose(self) -> tuple[list[int], list[Array]]:
        """The draft's tokens, and the distribution that each was drawn from."""
        room = min(self.model.config.context, self.draft.config.context) - len(self._window)
        tokens: list[int] = []
        guesses: list[Array] = []
        for _ in range(min(self.ahead, room)):
            (logits,) = self._logits(self.draft, self._draft_cache, [*self._window, *tokens], 1)
            guesses.append(self._distribution(logits, tokens))
            tokens.append(draw_from(guesses[-1], self._stream.random()))
        self.proposed += len(tokens)
        return tokens, guesses

    def _distribution(self, logits: Array, found: Sequence[int]) -> Array:
        """The probabilities of the next token after the history and the tokens found since."""
        return probabilities(adjusted(logits[: self.vocab_size], self.sampling, [*self.history, *found]))

    def _logits(self, model: Decoder, cache: KVCache, ids: Sequence[int], count: int) -> Array:
        """Logits (count, V) at the last positions of ids, of which those in the cache are not computed again."""
        with no_grad():
            x = model.hidden(np.array(ids[cache.length :])[None], cache=cache)
            return model.head(Tensor(x.data[:, -count:])).data[0]
