"""A model with a configuration, in and out of Hugging Face's files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from tinygrad_llm.nn import Module, unset
from tinygrad_llm.nn.packing import pack_parameters
from tinygrad_llm.weights import (
    SHARD,
    Checkpoint,
    Dtype,
    Kind,
    Layout,
    gather,
    open_checkpoint,
    scatter,
    write_folder,
    write_gguf,
)

MANY_LAYERS = 1000
"""More are not believed of a file with fewer tensors."""

SLACK = 2**20
"""A model may have twice the numbers of its file and so many more: then all that is missing can still be listed."""

LARGEST = 2**31 - 1
"""Of all whole numbers: positions are counted in 32 bits."""


class Pretrained(Module):
    """A model that is saved as a folder with ``config.json`` and ``model.safetensors``, as `transformers` has them.

    A subclass names its layout there, and its configuration, a dataclass that its constructor takes.
    """

    layout: ClassVar[Layout]
    config_type: ClassVar[type]
    config: Any

    def save_pretrained(self, path: str | Path, shard: int = SHARD, dtype: Dtype | None = None) -> None:
        """Write the folder `path`, which `from_pretrained` and `transformers` read: in files of at most `shard` bytes,
        unless one tensor has more, with the numbers as they are or as `dtype`."""
        tensors = scatter(self.layout, self.config, self.state_dict())
        write_folder(Path(path), self.layout.write_config(self.config), tensors, shard, dtype)

    def save_gguf(
        self,
        path: str | Path,
        kind: Kind = "F32",
        values: Mapping[str, Any] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Write the GGUF file `path`, which `from_pretrained` and llama.cpp read; see `write_gguf`."""
        tensors = scatter(self.layout, self.config, self.state_dict())
        write_gguf(Path(path), self.layout.write_config(self.config), tensors, kind, values, progress)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Self:
        """The model in a Hugging Face folder, as `save_pretrained`, ``tinygrad-llm train`` or others left it, or in a
        GGUF file. Its numbers are float32, or float64 if all of the file's are."""
        return cls.from_checkpoint(open_checkpoint(Path(path)))

    @classmethod
    def from_checkpoint(cls, stored: Checkpoint, packed: bool = False) -> Self:
        """The model in files that are open; `packed` as `pack_parameters` leaves it, to be used and not trained."""
        try:
            config = cls.read_config(stored)
            with unset(2 * _numbers(stored) + SLACK):
                model = cls(config)  # type: ignore[call-arg]
            if stored.tensors and all(tensor.dtype == "F64" for tensor in stored.tensors.values()):
                with np.errstate(invalid="ignore"):  # the matrices hold what was in memory, until they are read
                    model.astype(np.float64)
            if packed:
                pack_parameters(model, unset=True)
            model.load(stored)
        except (ValueError, MemoryError) as error:
            raise ValueError(f"{stored.path}: {error}") from error
        return model

    @classmethod
    def read_config(cls, stored: Checkpoint) -> Any:
        """The configuration. ValueError if it is another architecture's, or not believable."""
        if stored.model_type not in cls.layout.MODEL_TYPES:
            known = ", ".join(cls.layout.MODEL_TYPES)
            raise ValueError(f"holds a {stored.model_type!r} model, but {cls.__name__} is {known}")
        try:
            given = cls.layout.read_config(stored.config)
        except (TypeError, AttributeError) as error:
            raise ValueError(f"config.json: a setting is of the wrong type ({error})") from error
        for field in fields(cls.config_type):
            if field.name in given and field.default is not MISSING:
                given[field.name] = _of_kind(field.name, given[field.name], field.default)
        _check_sizes(given, stored)
        return cls.config_type(**given)

    def load(self, stored: Checkpoint) -> None:
        """Copy the tensors of a checkpoint of this model's configuration into the parameters."""
        own = dict(self.named_parameters())
        shapes = {name: parameter.shape for name, parameter in own.items()}
        for name, array in gather(self.layout, self.config, stored.tensors, shapes):
            own[name].data[...] = array
            own[name].grad = None


def _of_kind(name: str, value: Any, default: Any) -> Any:
    """The value as the type of the default; ValueError if it is of another."""
    if type(default) is float and type(value) is int and abs(value) < LARGEST:
        value = float(value)
    if default is not None and type(value) is not type(default):
        raise ValueError(f"config.json: what stands for {name} is {value!r}, not of type {type(default).__name__}")
    if type(value) is float and not math.isfinite(value):
        raise ValueError(f"config.json: what stands for {name} is {value!r}, which is not finite")
    return value


def _numbers(stored: Checkpoint) -> int:
    """How many numbers the tensors have together."""
    return sum(math.prod(tensor.shape) for tensor in stored.tensors.values())


def _check_sizes(given: Mapping[str, Any], stored: Checkpoint) -> None:
    """ValueError if a model of these sizes could not be that of the file: before memory is asked for."""
    largest = max((n for tensor in stored.tensors.values() for n in tensor.shape), default=0)
    names = "vocab_size", "channels", "feed_forward", "heads", "kv_heads", "head_channels"
    bounds = dict.fromkeys(names, largest)
    bounds["layers"] = max(MANY_LAYERS, len(stored.tensors))
    for name, bound in bounds.items():
        if (value := given.get(name, 0)) > bound:
            raise ValueError(
                f"config.json says {name} = {value:,}, but the file's {len(stored.tensors):,} tensors have at most "
                f"{largest:,} rows or columns"
            )
    for name, value in given.items():
        if type(value) is int and abs(value) > LARGEST:
            raise ValueError(f"config.json says {name} = {str(value)[:40]}; more than {LARGEST:,} is not believed")
