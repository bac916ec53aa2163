"""What every decoder-only language model has: logits from ids, checks of positions, and weights in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt

from tinygrad_llm import ops
from tinygrad_llm.nn import Embedding, Linear, Module
from tinygrad_llm.nn.transformer import LayerCache
from tinygrad_llm.tape import Array
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.weights import load_arrays, save_arrays

FORMAT = 1
"""Version of the weight file; a file of another version is refused."""


class Cache(Protocol):
    """Keys and values of all layers, for the positions seen so far (see `tinygrad_llm.generation`)."""

    @property
    def length(self) -> int:
        """Positions held."""

    @property
    def layers(self) -> Sequence[LayerCache]:
        """One for each block."""


class Decoder(Module):
    """A decoder-only language model. ``model(ids)`` maps (B, T) token ids to (B, T, V) logits: at each position, scores
    for the token that follows. A subclass sets `config`, `token_embedding` and `lm_head`, and defines `hidden`."""

    architecture: ClassVar[str]
    """Its name in weight files."""
    config_type: ClassVar[type]
    config: Any
    token_embedding: Embedding
    lm_head: Linear | None = None
    """None if the head is the token embedding again (tied)."""

    def forward(
        self,
        ids: npt.ArrayLike,
        positions: npt.ArrayLike | None = None,
        mask: Array | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Logits (B, T, V) of ids (B, T).

        `positions` (B, T) default to 0, 1, 2 ..., counted on from what the cache holds; `mask` (B, 1, 1, S) is True
        where a key may be seen (False on padding).
        """
        return self.head(self.hidden(ids, positions, mask, cache))

    def hidden(
        self,
        ids: npt.ArrayLike,
        positions: npt.ArrayLike | None = None,
        mask: Array | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """The (B, T, C) vectors that the head turns into logits; arguments as for `forward`."""
        raise NotImplementedError(f"{type(self).__name__} defines no hidden()")

    def loss(
        self, ids: npt.ArrayLike, targets: npt.ArrayLike, ignore_index: int = -100, reduction: str = "mean"
    ) -> Tensor:
        """`ops.cross_entropy` of the logits of ids (B, T) at targets (B, T), of which never all are held at once."""
        x, options = self.hidden(ids), {"ignore_index": ignore_index, "reduction": reduction}
        weight = (self.token_embedding if self.lm_head is None else self.lm_head).weight
        if not isinstance(weight, Tensor):  # a quantised head makes logits, and nothing else
            return ops.cross_entropy(self.head(x), targets, **options)
        return ops.linear_cross_entropy(x, weight if self.lm_head is None else weight.T, targets, **options)

    def head(self, x: Tensor) -> Tensor:
        """Logits (..., V) of what `hidden` returns, or of some of its positions."""
        return self.token_embedding.head(x) if self.lm_head is None else self.lm_head(x)

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of what flows through the model."""
        return self.token_embedding.dtype

    def checked(
        self, ids: npt.ArrayLike, positions: npt.ArrayLike | None, cache: Cache | None
    ) -> tuple[Array, npt.ArrayLike]:
        """ids (B, T) and positions (T,) or (B, T) as arrays; ValueError if there are more than the context."""
        name, context = type(self).__name__, self.config.context
        ids = np.asarray(ids)
        if ids.ndim != 2:
            raise ValueError(f"{name}: ids must be (B, T), not of shape {ids.shape}; a single sequence is ids[None]")
        if positions is None:
            past = 0 if cache is None else cache.length
            end = past + ids.shape[1]
            if end > context:
                raise ValueError(f"{name}: {end} positions, but the model's context is {context}")
            return ids, np.arange(past, end)
        if np.max(positions, initial=0) >= context:
            raise ValueError(f"{name}: position {np.max(positions)}, but the model's context is {context}")
        return ids, positions

    def save_pretrained(self, path: str | Path) -> None:
        """Write ``model.safetensors``, sizes included, into the folder `path`."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        about = {"architecture": self.architecture, "format": FORMAT, "config": asdict(self.config)}
        save_arrays(folder / "model.safetensors", self.state_dict(), about)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Self:
        """The model in the folder `path`, as `save_pretrained` or ``tinygrad-llm train`` left it."""
        file = Path(path) / "model.safetensors"
        arrays, about = load_arrays(file)
        model = cls(cls._config_of(file, about))  # type: ignore[call-arg]
        if all(array.dtype == np.float64 for array in arrays.values()):
            model.astype(np.float64)
        try:
            model.load_state_dict(arrays)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        return model

    @classmethod
    def _config_of(cls, file: Path, about: dict[str, Any]) -> Any:
        if about.get("architecture") != cls.architecture or about.get("format") != FORMAT:
            raise ValueError(
                f"{file}: architecture {about.get('architecture')!r}, format {about.get('format')!r}; "
                f"this version reads architecture {cls.architecture!r}, format {FORMAT}"
            )
        try:
            return cls.config_type(**about["config"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"{file}: its configuration does not describe a {cls.__name__} ({error})") from error
