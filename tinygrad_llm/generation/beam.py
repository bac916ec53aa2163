"""Beam search, for whatever makes an output token by token from an input: the protocol, and the search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from tinygrad_llm.tape import Array

State = TypeVar("State")


class EncoderDecoder(Protocol[State]):
    """What generation asks of a model that makes an output sequence from an input sequence. `models.T5` is one.

    A state is the model's own: nobody looks into it. It stands for N outputs that grow together, at first one for each
    input. No method records gradients.
    """

    def start(self, inputs: Sequence[Sequence[int] | Array]) -> State:
        """Encode the inputs, ids of any lengths. The state of as many outputs, in their order, all still empty."""

    def step(self, ids: Array, state: State) -> Array:
        """Logits (N, V) for what follows, after one more token of each output, ids (N,). The state, which is changed,
        takes note of the tokens. The first tokens are those that every output begins after."""

    def reorder(self, state: State, rows: Array) -> State:
        """The state of the outputs `rows`: some may be left out, and some taken several times. The old state is not
        used again."""


class Hypothesis(NamedTuple):
    """An output that beam search found."""

    ids: list[int]
    """Its tokens, without the one that it begins after and the one that ends it."""
    log_probability: float
    """Of all its tokens, the end included, in nats."""
    score: float
    """The log-probability with the length penalty."""
    ended: bool
    """Whether it came to its end, or was cut off after so many tokens."""


def penalized(log_probability: float, length: int, penalty: float) -> float:
    """``log_probability / ((5 + length) / 6)^penalty``: each token makes an output less probable, and a penalty above
    0 makes up for it. 0 does nothing. Source: Wu et al. 2016, arXiv:1609.08144, equation 14."""
    return log_probability / ((5 + length) / 6) ** penalty


class _Search:
    """The beam of one input. `live` holds (log-probability, ids) of the outputs that go on."""

    def __init__(self, width: int, max_tokens: int, penalty: float, wanted: int) -> None:
        self.width, self.max_tokens, self.penalty, self.wanted = width, max_tokens, penalty, wanted
        self.live: list[tuple[float, list[int]]] = [(0.0, [])]
        self.found: list[Hypothesis] = []

    def advance(self, log_probabilities: Array, end_id: int) -> list[tuple[int, int]]:
        """Go on by a token, (n, V) log-probabilities of which are given for the n live outputs.

        Keeps the most probable of all n V continuations, as many as the beam is wide without those that have ended.
        Returns (which live output it continues, token) of each that is now live.
        """
        totals = (np.array([total for total, _ in self.live])[:, None] + log_probabilities).ravel()
        before, self.live = self.live, []
        steps = []
        for place in largest(totals, self.width - len(self.found)):
            row, token = divmod(int(place), log_probabilities.shape[1])
            total, ids = float(totals[place]), before[row][1]
            if token == end_id:
                self._finish(total, ids, True)
            else:
                self.live.append((total, [*ids, token]))
                steps.append((row, token))
        if self.live and len(self.live[0][1]) == self.max_tokens:
            for total, ids in self.live:
                self._finish(total, ids, False)
            self.live = []
        elif self._decided():
            self.live = []
        return steps if self.live else []

    def _finish(self, total: float, ids: list[int], ended: bool) -> None:
        score = penalized(total, len(ids) + ended, self.penalty)
        self.found.append(Hypothesis(ids, total, score, ended))

    def _decided(self) -> bool:
        """Whether nothing that is live can come to be among the best that are wanted.

        A log-probability can only fall. With a penalty above 0 the best that can become of it is to stay what it is up
        to the greatest length; otherwise, to end at once.
        """
        if not self.live or len(self.found) < self.wanted:
            return False
        length = self.max_tokens if self.penalty > 0 else len(self.live[0][1]) + 1
        hope = penalized(max(total for total, _ in self.live), length, self.penalty)
        return sorted((h.score for h in self.found), reverse=True)[self.wanted - 1] >= hope

    def best(self) -> list[Hypothesis]:
        """The best that were found, the best first."""
        return sorted(self.found, key=lambda h: -h.score)[: self.wanted]


def beam_search(
    model: EncoderDecoder[Any],
    inputs: Sequence[Sequence[int] | Array],
    width: int,
    max_tokens: int,
    start_id: int,
    end_id: int,
    length_penalty: float = 0.0,
    n_best: int = 1,
    vocab_size: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[list[Hypothesis]]:
    """For each input the `n_best` outputs that a beam of `width` finds, the best first.

    At each step the `width` most probable of all continuations of the live outputs stay. An output that ends, with
    `end_id`, keeps its place in the beam, which so becomes narrower; those that reach `max_tokens` are cut off there.
    Outputs are compared by their log-probability divided by a length penalty (see `penalized`). An input is done when
    its beam is full of ends, or as soon as no live output can still come to be among the best: that stop changes no
    result. With width 1 this is greedy generation; as wide as there are outputs, it finds the best of all. Ids from
    `vocab_size` on are never chosen. `progress` is told the number of steps done. Where there are no more, fewer than
    `n_best` are returned. Cost: a step of the model for at most ``width B`` outputs for each token.
    """
    if width < 1 or not 1 <= n_best <= width:
        raise ValueError(f"beam search: width={width} and n_best={n_best} must be at least 1, and n_best at most width")
    if max_tokens < 1:
        raise ValueError(f"beam search: max_tokens={max_tokens} must be at least 1")
    if not len(inputs):
        return []
    searches = [_Search(width, max_tokens, length_penalty, n_best) for _ in inputs]
    state, ids = model.start(inputs), np.full(len(inputs), start_id)
    for done in range(1, max_tokens + 1):
        log_probabilities = log_softmax(model.step(ids, state)[:, :vocab_size])
        rows, tokens, low = [], [], 0
        for search in searches:
            high = low + len(search.live)
            if high > low:
                for row, token in search.advance(log_probabilities[low:high], end_id):
                    rows.append(low + row)
                    tokens.append(token)
            low = high
        progress(done)
        if not rows:
            break
        state, ids = model.reorder(state, np.array(rows)), np.array(tokens)
    return [search.best() for search in searches]


def log_softmax(logits: Array) -> Array:
    """In float64. ValueError for logits that are not finite where they are largest."""
    top = logits.max(-1, keepdims=True)
    if not np.isfinite(top).all():
        raise ValueError("generate: the model's logits are not finite: its weights are damaged, or training diverged")
    shifted = np.subtract(logits, top, dtype=np.float64)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def largest(values: Array, count: int) -> Array:
    """Where the `count` largest values stand, the largest first; of equal ones the first. Never where -inf stands."""
    places = np.flatnonzero(values > -np.inf)
    if count < len(places):
        border = np.partition(values[places], -count)[-count]
        places = places[values[places] >= border]
    return places[np.argsort(-values[places], kind="stable")][:count]
