"""Tensor parallel: every matrix of a GPT or Llama cut among ranks, each of which has some heads and some channels.

    residual stream    norm   enter   column linear         heads, gelu       row linear    reduce
    x  (replicated) -> h   -> h_r  -> h_r W[:, own columns] -> own channels -> (..) W[own rows, :] -> sum over ranks

The first matrix of attention and of the feed-forward network is cut by columns, so what lies between the two needs
nothing of other ranks; the second by rows, so that the products of the ranks add up. That is one all-reduce forward
for each pair, and one backward, where `enter` adds up the cotangents. The token embedding, which may be the head as
well, is cut by rows of the vocabulary. Norms, and biases that are added to a sum, are replicated.

With `sequence`, what lies between the pairs (norms, dropout, the stream itself) is shared out too, by positions: what
leaves a norm is gathered, and the sum is scattered. Those are the same bytes, and 1/n of the memory. Sources: Shoeybi
et al. 2019, arXiv:1909.08053; Korthikanti et al. 2022, arXiv:2205.05198.

`CutModel` puts modules that know of the ranks into a model, and takes them out again: so the model code is that of one
process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tinygrad_llm import ops
from tinygrad_llm.models import GPT, Llama
from tinygrad_llm.models.llama import GatedMLP, RotaryAttention
from tinygrad_llm.nn import Dropout, Embedding, LayerNorm, Linear, Module, Norm, Parameter, RMSNorm
from tinygrad_llm.nn.lora import linear_of
from tinygrad_llm.parallel.collectives import chunk_bounds
from tinygrad_llm.parallel.communication_ops import enter, gather, reduce, scatter_sum, split
from tinygrad_llm.parallel.communicator import Communicator
from tinygrad_llm.parallel.mesh import RanksError
from tinygrad_llm.parallel.placement import S, V, place
from tinygrad_llm.parallel.vocabulary import own_columns, shared_cross_entropy
from tinygrad_llm.tape import Array
from tinygrad_llm.tensor import Tensor

TIME = -2
"""The dim of positions in (B, T, C)."""


class Cut(NamedTuple):
    """How an array lies on the ranks: each has its chunk of every section along `dim`.

    The columns of ``W_qkv`` have three sections, of queries, keys and values.
    """

    dim: int
    sections: tuple[int, ...]

    def part(self, array: Array, comm: Communicator) -> Array:
        """What this rank has of it, in memory of its own."""
        pieces = np.split(array, np.cumsum(self.sections)[:-1], self.dim)
        own = [chunk_bounds(size, comm.size)[comm.rank] for size in self.sections]
        taken = [piece.take(range(o.start, o.stop), self.dim) for piece, o in zip(pieces, own, strict=True)]
        return np.ascontiguousarray(np.concatenate(taken, self.dim))

    def join(self, part: Array, comm: Communicator) -> Array:
        """The whole array; every rank must ask."""
        own = [chunk_bounds(size, comm.size)[comm.rank] for size in self.sections]
        pieces = np.split(np.moveaxis(part, self.dim, 0), np.cumsum([o.stop - o.start for o in own])[:-1])
        found = [comm.all_gather(piece, size) for piece, size in zip(pieces, self.sections, strict=True)]
        return np.ascontiguousarray(np.moveaxis(np.concatenate(found), 0, self.dim))


class Stream(NamedTuple):
    """The residual stream between the pairs of matrices: replicated, or shared out by positions."""

    comm: Communicator
    sequence: bool

    def leave(self, x: Tensor) -> Tensor:
        """x for matrices cut by columns."""
        return gather(x, self.comm, dim=TIME) if self.sequence else enter(x, self.comm)

    def join(self, x: Tensor) -> Tensor:
        """The sum of what the ranks have."""
        return scatter_sum(x, self.comm, dim=TIME) if self.sequence else reduce(x, self.comm)

    def own(self, x: Tensor) -> Tensor:
        """This rank's positions of x, of which all have the same."""
        return split(x, self.comm, dim=TIME) if self.sequence else x

    def scales(self, parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Replicated parameters that meet the stream."""
        return tuple(enter(p, self.comm) if self.sequence else p for p in parameters)


# ---- modules that know of the ranks, with the replicated parameters of those they stand for


class Leaving(Norm):
    """A norm of the stream, from which matrices cut by columns go on."""

    stream: Stream

    def __init__(self, norm: Norm, stream: Stream) -> None:
        vars(self).update(vars(norm), stream=stream)

    def forward(self, x: Tensor) -> Tensor:
        return self.stream.leave(super().forward(x))

    def add(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        total, normed = super().add(x, y)
        return total, self.stream.leave(normed)

    def scales(self) -> tuple[Tensor, ...]:
        return self.stream.scales(super().scales())


class LeavingLayerNorm(Leaving, LayerNorm):
    """A LayerNorm of the stream."""


class LeavingRMSNorm(Leaving, RMSNorm):
    """An RMSNorm of the stream."""


class HeadRMSNorm(RMSNorm):
    """The norm of each query or key: its gain is replicated, and the heads are not."""

    comm: Communicator

    def __init__(self, norm: RMSNorm, stream: Stream) -> None:
        vars(self).update(vars(norm), comm=stream.comm)

    def scales(self) -> tuple[Tensor, ...]:
        return (enter(self.gain, self.comm),)


class RowLinear(Linear):
    """``y = sum over ranks of x_r W[own rows, :]``, and then the bias, once."""

    def __init__(self, linear: Linear, weight: Parameter, stream: Stream) -> None:
        self.weight, self.bias, self.stream = weight, linear.bias, stream

    def forward(self, x: Tensor, add_bias: bool = True) -> Tensor:
        y = self.stream.join(ops.linear(x, self.weight))
        return y if self.bias is None or not add_bias else ops.add(y, *self.stream.scales([self.bias]))


class VocabularyEmbedding(Embedding):
    """The rows of some ids: what the ranks find adds up. As a head, it has the logits of these ids."""

    def __init__(self, embedding: Embedding, weight: Parameter, stream: Stream) -> None:
        self.weight, self.stream, self.vocabulary = weight, stream, len(embedding.weight.data)

    def forward(self, ids: npt.ArrayLike) -> Tensor:
        ids, own = np.asarray(ids), own_columns(self.vocabulary, self.stream.comm)
        if ids.size and not 0 <= ids.min() <= ids.max() < self.vocabulary:
            raise IndexError(f"embedding: ids reach from {ids.min()} to {ids.max()}, not 0 to {self.vocabulary - 1}")
        here = (ids >= own.start) & (ids < own.stop)
        found = super().forward(np.where(here, ids - own.start, 0))
        return self.stream.join(found * here[..., None].astype(self.dtype))

    def head(self, x: Tensor) -> Tensor:
        raise RanksError("--tp: the ranks have logits of different tokens, and this training needs all; give --tp 1")

    def head_loss(self, x: Tensor, targets: Array, **options: Any) -> Tensor:
        return _loss(ops.matmul(x, self.weight.T), self.stream.comm, self.vocabulary, targets, options)


class VocabularyLinear(Linear):
    """A head that is a matrix of its own, cut by columns."""

    bias = None

    def __init__(self, linear: Linear, weight: Parameter, stream: Stream) -> None:
        self.weight, self.stream, self.vocabulary = weight, stream, linear.weight.shape[1]

    forward = VocabularyEmbedding.head  # type: ignore[assignment]

    def head_loss(self, x: Tensor, targets: Array, **options: Any) -> Tensor:
        return _loss(ops.linear(x, self.weight), self.stream.comm, self.vocabulary, targets, options)


def _loss(logits: Tensor, comm: Communicator, vocabulary: int, targets: Array, options: dict[str, Any]) -> Tensor:
    loss: Tensor = shared_cross_entropy(logits, comm, vocabulary=vocabulary, targets=targets, **options)
    return loss


class OwnPositions(Embedding):
    """An embedding of positions, of which the stream has a part."""

    def __init__(self, embedding: Embedding, stream: Stream) -> None:
        self.weight, self.stream = embedding.weight, stream

    def forward(self, ids: npt.ArrayLike) -> Tensor:
        return self.stream.own(super().forward(ids))


class PartDropout(Dropout):
    """This rank's part of what one process would draw for all positions."""

    def __init__(self, dropout: Dropout, stream: Stream) -> None:
        super().__init__(dropout.p)
        self.comm = stream.comm

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        *batch, time, channels = x.shape
        factors = super().forward(Tensor(np.ones((*batch, time * self.comm.size, channels), x.dtype)))
        own = chunk_bounds(time * self.comm.size, self.comm.size)[self.comm.rank]
        return x * factors.data[..., own, :]


# ---- a model, cut


class CutModel:
    """A GPT or Llama that is put together from parts, and can be whole again.

    `parts` are (parameter of the whole model, this rank's part of it, how it is cut), by name. Those that are
    replicated are the same parameter in both, and not among them. It begins cut.
    """

    def __init__(self, model: Module, comm: Communicator, sequence: bool) -> None:
        self.comm, self.stream = comm, Stream(comm, sequence)
        self.swaps: list[tuple[Any, str, Any, Any]] = []
        """(owner, attribute, as one process has it, as this rank has it)"""
        self.parts: dict[str, tuple[Parameter, Parameter, Cut]] = {}
        self._found: list[tuple[Parameter, Parameter, Cut]] = []
        _check(model, comm.size)
        assert isinstance(model, (GPT, Llama))
        names = {id(p): name for name, p in model.named_parameters()}
        self._cut_ends(model)
        for block in model.blocks:
            self._cut_block(block)
        for whole, part, how in self._found:
            self.parts[names[id(whole)]] = whole, part, how
        self.put_in()

    def put_in(self) -> None:
        """Let the model compute this rank's part; the whole parameters have no values."""
        for whole, _, _ in self.parts.values():
            whole.data = np.broadcast_to(whole.dtype.type(np.nan), whole.shape)
        for owner, name, _, mine in self.swaps:
            setattr(owner, name, mine)

    def take_out(self) -> None:
        """Let the model be that of one process, with the values that the ranks have; every rank must call it."""
        for whole, part, how in self.parts.values():
            whole.data = how.join(part.data, self.comm)
        for owner, name, plain, _ in self.swaps:
            setattr(owner, name, plain)

    def keep(self) -> None:
        """Take over what was written to the whole model."""
        for whole, part, how in self.parts.values():
            part.data[...] = how.part(whole.data, self.comm)

    def _swap(self, owner: Any, name: str, mine: Any) -> None:
        self.swaps.append((owner, name, getattr(owner, name), mine))

    def _part(self, whole: Parameter, how: Cut) -> Parameter:
        part = Parameter(how.part(whole.data, self.comm), whole.decay)
        place(part, self.comm, S(how.dim) if len(how.sections) == 1 else V)
        self._found.append((whole, part, how))
        return part

    def _columns(self, owner: Any, name: str, *sections: int) -> None:
        linear: Linear = getattr(owner, name)
        sections = sections or (linear.weight.shape[1],)
        bias = None if linear.bias is None else self._part(linear.bias, Cut(0, sections))
        mine = linear_of(np.empty((0, 0), np.float32), bias)
        mine.weight = self._part(linear.weight, Cut(1, sections))
        self._swap(owner, name, mine)

    def _rows(self, owner: Any, name: str) -> None:
        linear: Linear = getattr(owner, name)
        weight = self._part(linear.weight, Cut(0, (linear.weight.shape[0],)))
        self._swap(owner, name, RowLinear(linear, weight, self.stream))

    def _cut_norm(self, owner: Any, name: str) -> None:
        norm = getattr(owner, name)
        kind = LeavingLayerNorm if isinstance(norm, LayerNorm) else LeavingRMSNorm
        self._swap(owner, name, kind(norm, self.stream))

    def _cut_dropout(self, owner: Any) -> None:
        if self.stream.sequence:
            self._swap(owner, "dropout", PartDropout(owner.dropout, self.stream))

    def _cut_ends(self, model: GPT | Llama) -> None:
        """Embeddings, the last norm, the head."""
        table = model.token_embedding
        weight = self._part(table.weight, Cut(0, (len(table.weight.data),)))
        self._swap(model, "token_embedding", VocabularyEmbedding(table, weight, self.stream))
        if isinstance(model, GPT):
            self._swap(model, "position_embedding", OwnPositions(model.position_embedding, self.stream))
            self._cut_dropout(model)
        self._cut_norm(model, "final_norm")
        if model.lm_head is not None:
            columns = self._part(model.lm_head.weight, Cut(1, (model.lm_head.weight.shape[1],)))
            self._swap(model, "lm_head", VocabularyLinear(model.lm_head, columns, self.stream))

    def _cut_block(self, block: Any) -> None:
        attention, mlp = block.attention, block.mlp
        self._cut_norm(block, "attention_norm")
        self._cut_norm(block, "mlp_norm")
        for name in ("heads", "kv_heads") if isinstance(attention, RotaryAttention) else ("heads",):
            self._swap(attention, name, getattr(attention, name) // self.comm.size)
        width = attention.qkv.weight.shape[1]
        queries = attention.out.weight.shape[0]
        self._columns(attention, "qkv", queries, (width - queries) // 2, (width - queries) // 2)
        self._rows(attention, "out")
        if isinstance(mlp, GatedMLP):
            self._columns(mlp, "gate")
            if attention.q_norm is not None:
                for name in ("q_norm", "k_norm"):
                    self._swap(attention, name, HeadRMSNorm(getattr(attention, name), self.stream))
        else:
            self._cut_dropout(attention)
            self._cut_dropout(mlp)
        self._columns(mlp, "up")
        self._rows(mlp, "down")


def _check(model: Module, ranks: int) -> None:
    """RanksError if the model cannot be cut among so many."""
    if not isinstance(model, (GPT, Llama)):
        raise RanksError(f"--tp: tensor parallel runs GPT and Llama, and this is a {type(model).__name__}; give --tp 1")
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    if frozen:
        raise RanksError(f"--tp: tensor parallel trains all of a model, and {frozen[0]} is frozen; give --tp 1")
    config = model.config
    for what, count in {"heads": config.heads, "key and value heads": config.kv_heads}.items():
        if count % ranks:
            raise RanksError(f"--tp {ranks}: {count} {what} cannot be shared out evenly; give a --tp that divides them")
