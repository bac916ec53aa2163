"""The recurrent encoder-decoder, with and without attention: how sequences were turned into others before T5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from tinygrad_llm import random
from tinygrad_llm.models.encoder_decoder import EncoderDecoderModel
from tinygrad_llm.models.recurrent_stacks import Encoded, RecurrentDecoder, RecurrentEncoder
from tinygrad_llm.nn import Linear
from tinygrad_llm.nn.recurrent import LAYERS
from tinygrad_llm.tape import Array, no_grad
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.weights import Layout, recurrent_encoder_decoder


@dataclass(frozen=True)
class RecurrentEncoderDecoderConfig:
    """Sizes of a recurrent encoder-decoder: C channels of the embeddings, F units in each of L layers of both halves.

    `kind` is rnn, lstm or gru. Inputs are of `vocab_size` tokens, outputs of `decoder_vocab_size`, as many if 0.
    `bidirectional`: half of the encoder's units read the input from its end. `attention`: the decoder looks at all
    states of the encoder, instead of having only the last. `dropout` acts on the embeddings, on what each layer hands
    on and on what attention finds. Every output begins after `start_id` and ends with `end_id`; `pad_id` fills up what
    is shorter, on both sides.
    """

    kind: str = "gru"
    vocab_size: int = 64
    decoder_vocab_size: int = 0
    channels: int = 128
    units: int = 256
    layers: int = 1
    bidirectional: bool = True
    attention: bool = True
    dropout: float = 0.0
    init_std: float = 0.1
    pad_id: int = 0
    start_id: int = 1
    end_id: int = 2

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.decoder_vocab_size == 0:
            object.__setattr__(self, "decoder_vocab_size", self.vocab_size)
        if self.kind not in LAYERS:
            raise ValueError(f"{name}: kind={self.kind!r} must be one of {', '.join(LAYERS)}")
        for size in ("vocab_size", "decoder_vocab_size", "channels", "units", "layers"):
            if getattr(self, size) < 1:
                raise ValueError(f"{name}: {size}={getattr(self, size)} must be at least 1")
        if self.bidirectional and self.units % 2:
            raise ValueError(f"{name}: units={self.units} must be even: half of them for each direction")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"{name}: dropout={self.dropout} must be at least 0 and less than 1")
        if not self.init_std > 0:
            raise ValueError(f"{name}: init_std={self.init_std} must be positive")
        least = min(self.vocab_size, self.decoder_vocab_size)
        for token, count in (
            ("pad_id", least),
            ("start_id", self.decoder_vocab_size),
            ("end_id", self.decoder_vocab_size),
        ):
            if not 0 <= getattr(self, token) < count:
                raise ValueError(f"{name}: {token}={getattr(self, token)} is outside 0..{count - 1}")


@dataclass
class RecurrentState:
    """Of N outputs that are being generated: what was encoded of their inputs, with the decoder's states as they are
    now, and the mask (N, 1, 1, S), True where the input is no padding."""

    encoded: Encoded
    mask: Array


class RecurrentEncoderDecoder(EncoderDecoderModel):
    """A recurrent encoder, a recurrent decoder that goes on with its last states, and a head.

    Source: Sutskever et al. 2014, arXiv:1409.3215; Cho et al. 2014, arXiv:1406.1078; with attention: Bahdanau et al.
    2014, arXiv:1409.0473; Luong et al. 2015, arXiv:1508.04025.
    """

    layout: ClassVar[Layout] = recurrent_encoder_decoder
    config_type: ClassVar[type] = RecurrentEncoderDecoderConfig

    def __init__(self, config: RecurrentEncoderDecoderConfig, seed: int = 0) -> None:
        self.config = config
        self.encoder = RecurrentEncoder(config, seed)
        self.decoder = RecurrentDecoder(config, seed)
        with random.scope(seed, "head"):
            self.lm_head = Linear(config.units, config.decoder_vocab_size, std=config.units**-0.5)

    def encode(self, ids: npt.ArrayLike, mask: Array | None = None) -> Encoded:
        """The encoder's states after each token of the inputs (B, S), and its last ones. Padding, where the mask
        (B, 1, 1, S) is False, may only follow a text."""
        ids = self.checked("ids", ids)
        if mask is None:
            return self.encoder(ids, np.full(len(ids), ids.shape[1]))
        if np.shape(mask) != (expected := (len(ids), 1, 1, ids.shape[1])):
            raise ValueError(f"RecurrentEncoderDecoder: the mask must be {expected}, not {np.shape(mask)}")
        real = np.asarray(mask, bool)[:, 0, 0]
        lengths = real.sum(axis=1)
        if not np.array_equal(real, np.arange(ids.shape[1]) < lengths[:, None]):
            raise ValueError("RecurrentEncoderDecoder: a mask may hide padding at the end of an input only")
        return self.encoder(ids, lengths)

    def decode(self, decoder_ids: npt.ArrayLike, memory: Encoded, mask: Array | None = None) -> Tensor:
        decoder_ids = self.checked("decoder_ids", decoder_ids)
        self.check_pairs(len(memory.memory), len(decoder_ids))
        return self.decoder(decoder_ids, memory, mask)[0]

    def head(self, x: Tensor) -> Tensor:
        return self.lm_head(x)

    def alignments(self, ids: npt.ArrayLike, decoder_ids: npt.ArrayLike, mask: Array | None = None) -> Array:
        """(B, T, S): how much of its attention each place of the outputs gives to each place of the inputs."""
        if self.decoder.attention is None:
            raise ValueError("RecurrentEncoderDecoder: a model without attention has no alignments")
        with no_grad():
            encoded = self.encode(ids, mask)
            h, _ = self.decoder.run(self.checked("decoder_ids", decoder_ids), encoded.states)
            return self.decoder.attention.weights(h, encoded.memory, mask).data

    # -- generation: the protocol of `tinygrad_llm.generation.beam` ------------------------------------------------
    def start(self, inputs: Sequence[Sequence[int] | Array]) -> RecurrentState:
        """Encode inputs of any lengths, once."""
        ids, mask = self.padded(inputs)
        self.eval()
        with no_grad():
            return RecurrentState(self.encode(ids, mask), mask)

    def step(self, ids: npt.ArrayLike, state: RecurrentState) -> Array:
        """Logits (N, V) for what follows one more token of each output, ids (N,); `state` takes note of it."""
        with no_grad():
            x, last = self.decoder(np.asarray(ids)[:, None], state.encoded, state.mask)
            state.encoded = state.encoded._replace(states=last)
            return self.head(x).data[:, 0]

    def reorder(self, state: RecurrentState, rows: npt.ArrayLike) -> RecurrentState:
        """The state of some of its outputs, of which one may be taken several times."""
        rows = np.asarray(rows)
        memory, layers = state.encoded
        states = [tuple(Tensor(array.data[rows]) for array in layer) for layer in layers]
        return RecurrentState(Encoded(Tensor(memory.data[rows]), states), state.mask[rows])
