"""T5: the encoder-decoder transformer, with relative positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tinygrad_llm import random
from tinygrad_llm.models.encoder_decoder import EncoderDecoderModel
from tinygrad_llm.models.pretrained import MANY_LAYERS
from tinygrad_llm.models.t5_stacks import LayerState, T5Decoder, T5Encoder
from tinygrad_llm.nn import Dropout, Embedding, Linear
from tinygrad_llm.tape import Array, no_grad
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.weights import Checkpoint, Layout, t5


@dataclass(frozen=True)
class T5Config:
    """Sizes of a T5. The defaults are those of the small one of version 1.0, 60 million parameters.

    In brackets the name in Hugging Face's configuration: V `vocab_size`, C `channels` (d_model), L `layers`
    (num_layers) of the encoder, `decoder_layers` (num_decoder_layers; as many if 0), H `heads` (num_heads) of D
    `head_channels` (d_kv), whatever C is, F `feed_forward` (d_ff). Distances of positions fall into `buckets`
    (relative_attention_num_buckets) up to `max_distance` (relative_attention_max_distance). `gated`: the feed-forward
    network has a gate (feed_forward_proj), as in version 1.1. `tied`: the head is the token embedding again, whose
    logits are then scaled by ``C^-0.5``; in 1.1 it is a matrix of its own. `dropout` (dropout_rate) acts on the
    embeddings, on what each part adds to the residual stream, inside feed-forward networks and after the last norms,
    not inside attention. All initial values are multiplied by `init_factor` (initializer_factor). `start_id`
    (decoder_start_token_id) is what every output begins after, `end_id` (eos_token_id) what it ends with, `pad_id`
    (pad_token_id) what fills up shorter inputs.
    """

    vocab_size: int = 32128
    channels: int = 512
    layers: int = 6
    heads: int = 8
    head_channels: int = 64
    feed_forward: int = 2048
    decoder_layers: int = 0
    buckets: int = 32
    max_distance: int = 128
    gated: bool = False
    tied: bool = True
    dropout: float = 0.0
    norm_eps: float = 1e-6
    init_factor: float = 1.0
    pad_id: int = 0
    start_id: int = 0
    end_id: int = 1

    def __post_init__(self) -> None:
        for name in ("vocab_size", "channels", "layers", "heads", "head_channels", "feed_forward"):
            if getattr(self, name) < 1:
                raise ValueError(f"T5Config: {name}={getattr(self, name)} must be at least 1")
        if self.decoder_layers < 0:
            raise ValueError(f"T5Config: decoder_layers={self.decoder_layers} must not be negative (0: as many)")
        if self.buckets < 4:
            raise ValueError(f"T5Config: buckets={self.buckets} must be at least 4: two for each direction")
        if self.max_distance <= self.buckets // 2:
            raise ValueError(
                f"T5Config: max_distance={self.max_distance} must be above buckets / 2 = {self.buckets // 2}"
            )
        for name in ("norm_eps", "init_factor"):
            if not getattr(self, name) > 0:
                raise ValueError(f"T5Config: {name}={getattr(self, name)} must be positive")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"T5Config: dropout={self.dropout} must be at least 0 and less than 1")
        for name in ("pad_id", "start_id", "end_id"):
            if not 0 <= getattr(self, name) < self.vocab_size:
                raise ValueError(f"T5Config: {name}={getattr(self, name)} is outside 0..{self.vocab_size - 1}")


@dataclass
class T5State:
    """Of N outputs that are being generated: what the next step needs of the encoder's output and of their past."""

    layers: list[LayerState]
    mask: Array
    """(N, 1, 1, S), True where the input is no padding."""
    sources: Array
    """(N,): which of the inputs each belongs to."""


class T5(EncoderDecoderModel):
    """Token embeddings, which both stacks share, an encoder, a decoder and a head. Linear maps have no biases.

    The inputs see each other; the outputs see the inputs, and what is before them. Source: Raffel et al. 2020,
    arXiv:1910.10683.
    """

    layout: ClassVar[Layout] = t5
    config_type = T5Config

    def __init__(self, config: T5Config, seed: int = 0) -> None:
        self.config = config
        with random.scope(seed, "embeddings"):
            self.token_embedding = Embedding(config.vocab_size, config.channels, config.init_factor)
        self.encoder = T5Encoder(config, seed)
        self.decoder = T5Decoder(config, seed)
        self.dropout = Dropout(config.dropout)
        self.lm_head: Linear | None = None
        if not config.tied:
            with random.scope(seed, "head"):
                std = config.init_factor * config.channels**-0.5
                self.lm_head = Linear(config.channels, config.vocab_size, bias=False, std=std)

    def encode(self, ids: npt.ArrayLike, mask: Array | None = None) -> Tensor:
        """The inputs (B, S) as vectors (B, S, C), which the decoder attends to."""
        return self.dropout(self.encoder(self._embedded("ids", ids), mask))

    def decode(self, decoder_ids: npt.ArrayLike, memory: Tensor, mask: Array | None = None) -> Tensor:
        """The (B, T, C) vectors that the head turns into logits; `memory` is what `encode` returned."""
        x = self._embedded("decoder_ids", decoder_ids)
        self.check_pairs(len(memory), len(x))
        return self.dropout(self.decoder(x, memory, mask))

    def _embedded(self, name: str, ids: npt.ArrayLike) -> Tensor:
        return self.dropout(self.token_embedding(self.checked(name, ids)))

    def head(self, x: Tensor) -> Tensor:
        """Logits (..., V) of what `decode` returns."""
        return self.token_embedding.head(x * self._tied_scale) if self.lm_head is None else self.lm_head(x)

    @property
    def _tied_scale(self) -> float:
        return self.config.channels**-0.5

    def loss_of(self, x: Tensor, targets: npt.ArrayLike, **options: Any) -> Tensor:
        if self.lm_head is None:
            return self.token_embedding.head_loss(x * self._tied_scale, np.asarray(targets), **options)
        return self.lm_head.head_loss(x, np.asarray(targets), **options)

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of what flows through the model."""
        return self.token_embedding.dtype

    # -- generation: the protocol of `tinygrad_llm.generation.beam` ------------------------------------------------
    def start(self, inputs: Sequence[Sequence[int] | Array]) -> T5State:
        """Encode inputs of any lengths, once: the decoder's keys and values of them are kept."""
        ids, mask = self.padded(inputs)
        self.eval()
        with no_grad():
            memory = self.encode(ids, mask)
            pairs = [block.cross_attention.keys_and_values(memory) for block in self.decoder.blocks]
        return T5State([LayerState(k.data, v.data) for k, v in pairs], mask, np.arange(len(ids)))

    def step(self, ids: npt.ArrayLike, state: T5State) -> Array:
        """Logits (N, V) for what follows one more token of each output, ids (N,); `state` takes note of it."""
        with no_grad():
            x = self._embedded("decoder_ids", np.asarray(ids)[:, None])
            return self.head(self.decoder.resumed(x, state.layers, state.mask)).data[:, 0]

    def reorder(self, state: T5State, rows: npt.ArrayLike) -> T5State:
        """The state of some of its outputs, of which one may be taken several times. The old one is used up."""
        rows = np.asarray(rows)
        sources = state.sources[rows]
        same = np.array_equal(sources, state.sources)  # then what belongs to the inputs stays where it is
        layers = []
        for old in state.layers:
            cross = old.cross_keys, old.cross_values
            new = LayerState(*(cross if same else (a[rows] for a in cross)))
            new.keys, new.values = old.keys[rows], old.values[rows]
            layers.append(new)
        return T5State(layers, state.mask if same else state.mask[rows], sources)

    # -- files -----------------------------------------------------------------------------------------------------
    @classmethod
    def read_config(cls, stored: Checkpoint) -> T5Config:
        config = super().read_config(stored)
        if config.decoder_layers > max(MANY_LAYERS, len(stored.tensors)):
            raise ValueError(
                f"config.json says decoder_layers = {config.decoder_layers:,}, but there are only "
                f"{len(stored.tensors):,} tensors"
            )
        return config

    def load(self, stored: Checkpoint) -> None:
        tensors, name = stored.tensors, "lm_head.weight"
        if not self.config.tied and name not in tensors and stored.config.get("tie_word_embeddings", True):
            # transformers 5 leaves out a head that equals the embedding, though its logits are not scaled
            tensors = {**tensors, name: tensors["shared.weight"]} if "shared.weight" in tensors else tensors
        super().load(stored._replace(tensors=tensors))
