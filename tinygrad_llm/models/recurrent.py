"""Recurrent language models: what stood where the transformer stands now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tinygrad_llm import random
from tinygrad_llm.models.decoder import Cache, Decoder
from tinygrad_llm.nn import Dropout, Embedding, Linear
from tinygrad_llm.nn.recurrent import LAYERS, RecurrentLayer, State
from tinygrad_llm.tape import Array, grad_enabled
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.weights import Layout, recurrent


@dataclass(frozen=True)
class RecurrentConfig:
    """Sizes of a recurrent language model: V tokens, C channels of the embeddings, F units in each of L layers.

    `kind` is rnn, lstm or gru. `context` is how many tokens it is trained on at a time; nothing else bounds it. `tied`:
    the head is the token embedding again, for which the units must be as many as the channels. `dropout` acts on the
    embeddings and on what each layer hands on (Zaremba et al. 2014, arXiv:1409.2329).
    """

    kind: str = "lstm"
    vocab_size: int = 4096
    context: int = 64
    channels: int = 256
    units: int = 256
    layers: int = 2
    dropout: float = 0.0
    tied: bool = True
    init_std: float = 0.02

    def __post_init__(self) -> None:
        if self.kind not in LAYERS:
            raise ValueError(f"RecurrentConfig: kind={self.kind!r} must be one of {', '.join(LAYERS)}")
        for name in ("vocab_size", "context", "channels", "units", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"RecurrentConfig: {name}={getattr(self, name)} must be at least 1")
        if self.tied and self.units != self.channels:
            raise ValueError(f"RecurrentConfig: a tied head needs units={self.units} to be channels={self.channels}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"RecurrentConfig: dropout={self.dropout} must be at least 0 and less than 1")
        if not self.init_std > 0:
            raise ValueError(f"RecurrentConfig: init_std={self.init_std} must be positive")


class RecurrentCache:
    """What all layers remember after the positions seen so far: as much after a thousand as after one."""

    def __init__(self) -> None:
        self.length = 0
        self.layers: list[State] = []


class Recurrent(Decoder):
    """Token embeddings, L recurrent layers, and a head. ``model(ids)`` maps (B, T) ids to (B, T, V) logits.

    Positions enter by the order of the steps alone. Source: Mikolov et al. 2010; Zaremba et al. 2014, arXiv:1409.2329.
    """

    layout: ClassVar[Layout] = recurrent
    config_type: ClassVar[type] = RecurrentConfig

    def __init__(self, config: RecurrentConfig, seed: int = 0) -> None:
        self.config = config
        with random.scope(seed, "embeddings"):
            self.token_embedding = Embedding(config.vocab_size, config.channels, config.init_std)
        self.dropout = Dropout(config.dropout)
        self.recurrent: list[RecurrentLayer] = []
        for layer in range(config.layers):
            with random.scope(seed, "layer", layer):
                self.recurrent.append(LAYERS[config.kind](config.units if layer else config.channels, config.units))
        if not config.tied:
            with random.scope(seed, "head"):
                self.lm_head = Linear(config.units, config.vocab_size, bias=False, std=config.init_std)

    def new_cache(self, batch: int) -> RecurrentCache:
        """For generation: the state takes the place of keys and values."""
        return RecurrentCache()

    def hidden(
        self,
        ids: npt.ArrayLike,
        positions: npt.ArrayLike | None = None,
        mask: Array | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """As of every `Decoder`; positions have no meaning here, and a mask may only hide padding on the left."""
        ids = np.asarray(ids)
        if ids.ndim != 2:
            raise ValueError(f"Recurrent: ids must be (B, T), not of shape {ids.shape}; a single sequence is ids[None]")
        states = cache.layers if isinstance(cache, RecurrentCache) else []
        if mask is None or ids.shape[1] == 1:
            x, last = self.run(ids, states)
        else:
            x, last = self._padded(ids, np.asarray(mask)[:, 0, 0, -ids.shape[1] :], states)
        if isinstance(cache, RecurrentCache):
            cache.length, cache.layers = cache.length + ids.shape[1], last
        return x

    def run(self, ids: npt.ArrayLike, states: list[State]) -> tuple[Tensor, list[State]]:
        """The (B, T, F) vectors after all layers, which begin with the states given or with zeros, and their last ones.

        States that are handed from one piece of a text to the next, without their graph, are truncated backpropagation
        through time (Williams and Peng 1990): see `detached`.
        """
        x, last = self.dropout(self.token_embedding(ids)), []
        for number, layer in enumerate(self.recurrent):
            x, state = layer(x, states[number] if states else None)
            x = self.dropout(x)
            last.append(state)
        return x, last

    def _padded(self, ids: Array, real: Array, states: list[State]) -> tuple[Tensor, list[State]]:
        """Rows with padding on the left, which must not change a state: those with as much of it go together."""
        if grad_enabled():
            raise RuntimeError("Recurrent: a mask is for generation, under no_grad(); train on texts of one length")
        padding = real.argmax(axis=1)
        if states or not np.array_equal(real, np.arange(ids.shape[1]) >= padding[:, None]):
            raise ValueError("Recurrent: a mask may hide padding on the left of a text only, and where the text begins")
        x: Any = None
        last: list[list[Array]] = []
        for begin in np.unique(padding):
            rows = np.flatnonzero(padding == begin)
            part, ends = self.run(ids[rows, begin:], [])
            if x is None:
                x = np.zeros((*ids.shape, part.shape[-1]), part.dtype)
                last = [[np.empty((len(ids), *a.shape[1:]), a.dtype) for a in state] for state in ends]
            x[rows, begin:] = part.data
            for kept, state in zip(last, ends, strict=True):
                for array, end in zip(kept, state, strict=True):
                    array[rows] = end.data
        return Tensor(x), [tuple(map(Tensor, state)) for state in last]


def detached(states: list[State]) -> list[State]:
    """The states without their graph: no gradient goes further back. A text is learned from piece by piece so::

    states = []
    for ids, targets in pieces:
        x, states = model.run(ids, detached(states))
        ops.cross_entropy(model.head(x), targets).backward()
        ... a step of the optimizer ...
    """
    return [tuple(Tensor(array.data) for array in state) for state in states]
