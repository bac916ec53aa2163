"""The two halves of a recurrent encoder-decoder, and the attention of one to the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tinygrad_llm import ops, random
from tinygrad_llm.nn import Dropout, Embedding, Linear, Module
from tinygrad_llm.nn.recurrent import LAYERS, RecurrentLayer, State
from tinygrad_llm.tape import Array
from tinygrad_llm.tensor import Tensor


class Encoded(NamedTuple):
    """What an encoder makes of its inputs."""

    memory: Tensor
    """(B, S, F): the state after each token, zeros at padding."""
    states: list[State]
    """Of each layer, (B, F): after the last token."""


class RecurrentEncoder(Module):
    """Token embeddings and L recurrent layers over an input, all from its begin to its end, or half of the units of
    each layer from its end to its begin (bidirectional: Schuster and Paliwal 1997)."""

    def __init__(self, config: Any, seed: int) -> None:
        with random.scope(seed, "encoder"):
            self.token_embedding = Embedding(config.vocab_size, config.channels, config.init_std)
        self.layers: list[RecurrentLayer] = []
        self.backward_layers: list[RecurrentLayer] = []
        units = config.units // 2 if config.bidirectional else config.units
        for number in range(config.layers):
            channels = config.units if number else config.channels
            with random.scope(seed, "encoder", number):
                self.layers.append(LAYERS[config.kind](channels, units))
                if config.bidirectional:
                    self.backward_layers.append(LAYERS[config.kind](channels, units))
        self.dropout = Dropout(config.dropout)

    def forward(self, ids: Array, lengths: Array) -> Encoded:
        """ids (B, S), of which only so many at the begin of each row are no padding.

        Rows of one length go together, so that no state ever meets padding: batches of about equal lengths are fastest.
        """
        groups = [np.flatnonzero(lengths == length) for length in np.unique(lengths)]
        if len(groups) < 2:
            encoded = self.run(ids[:, : lengths.max(initial=0)])
            return encoded._replace(memory=filled_up(encoded.memory, ids.shape[1]))
        parts = [self.run(ids[rows, : lengths[rows[0]]]) for rows in groups]
        back = np.argsort(np.concatenate(groups))
        memory = ops.concatenate(*(filled_up(part.memory, ids.shape[1]) for part in parts))[back]
        states = [
            tuple(ops.concatenate(*arrays)[back] for arrays in zip(*layer, strict=True))
            for layer in zip(*(part.states for part in parts), strict=True)
        ]
        return Encoded(memory, states)

    def run(self, ids: Array) -> Encoded:
        """ids (B, S) without padding."""
        x, states = self.dropout(self.token_embedding(ids)), []
        for number, layer in enumerate(self.layers):
            y, state = layer(x)
            if self.backward_layers:
                reverse, last = self.backward_layers[number](x[:, ::-1])
                y = ops.concatenate(y, reverse[:, ::-1], axis=-1)
                state = tuple(ops.concatenate(*pair, axis=-1) for pair in zip(state, last, strict=True))
            x = self.dropout(y)
            states.append(state)
        return Encoded(x, states)


def filled_up(x: Tensor, length: int) -> Tensor:
    """x (B, S, F) with zeros behind it, (B, length, F)."""
    missing = length - x.shape[1]
    return ops.pad(x, ((0, 0), (0, missing), (0, 0))) if missing else x


class LuongAttention(Module):
    """What a decoder finds at the places of the input that fit its state, and its state, in one vector::

        score_ts = h_t W_query . m_s    p_t = softmax(score_t)    c_t = sum_s p_ts m_s    y_t = tanh([c_t, h_t] W_out)

    Shapes: h and y (B, T, F), memory m (B, S, F), p (B, T, S). It is the score called "general", with global attention.
    The result is not fed into the next step, so that all steps of a known output attend at once. Source: Luong et al.
    2015, arXiv:1508.04025, equations 5 to 8; Bahdanau et al. 2014, arXiv:1409.0473 is the first of its kind.
    """

    def __init__(self, units: int) -> None:
        self.query = Linear(units, units, bias=False, std=units**-0.5)
        self.out = Linear(2 * units, units, bias=False, std=(2 * units) ** -0.5)

    def forward(self, h: Tensor, memory: Tensor, mask: Array | None = None) -> Tensor:
        """y; the mask (B, 1, 1, S) is False at padding."""
        return ops.tanh(self.out(ops.concatenate(self.find(h, memory, memory, mask), h, axis=-1)))

    def find(self, h: Tensor, memory: Tensor, values: Any, mask: Array | None = None) -> Tensor:
        """(B, T, X): the mean of values (B, S, X), weighted by p."""
        return ops.attention(self.query(h)[:, None], memory[:, None], values[:, None], mask=mask, scale=1.0)[:, 0]

    def weights(self, h: Tensor, memory: Tensor, mask: Array | None = None) -> Tensor:
        """p (B, T, S): the values whose weighted mean is the weights are the rows of the identity."""
        batch, places, _ = memory.shape
        identity = np.broadcast_to(np.eye(places, dtype=memory.dtype), (batch, places, places))
        return self.find(h, memory, identity, mask)


class RecurrentDecoder(Module):
    """Token embeddings and L recurrent layers over an output, which begin with the states that the encoder ended with,
    and attention to what was encoded, if there is any."""

    def __init__(self, config: Any, seed: int) -> None:
        with random.scope(seed, "decoder"):
            self.token_embedding = Embedding(config.decoder_vocab_size, config.channels, config.init_std)
        self.layers: list[RecurrentLayer] = []
        for number in range(config.layers):
            with random.scope(seed, "decoder", number):
                self.layers.append(LAYERS[config.kind](config.units if number else config.channels, config.units))
        self.attention: LuongAttention | None = None
        if config.attention:
            with random.scope(seed, "attention"):
                self.attention = LuongAttention(config.units)
        self.dropout = Dropout(config.dropout)

    def forward(self, ids: Array, encoded: Encoded, mask: Array | None) -> tuple[Tensor, list[State]]:
        """The (B, T, F) vectors for the head after outputs ids (B, T), and the last states."""
        h, last = self.run(ids, encoded.states)
        return h if self.attention is None else self.dropout(self.attention(h, encoded.memory, mask)), last

    def run(self, ids: Array, states: Sequence[State]) -> tuple[Tensor, list[State]]:
        """The (B, T, F) states after each token, and the last ones of all layers."""
        x, last = self.dropout(self.token_embedding(ids)), []
        for layer, state in zip(self.layers, states, strict=True):
            x, end = layer(x, state)
            x = self.dropout(x)
            last.append(end)
        return x, last
