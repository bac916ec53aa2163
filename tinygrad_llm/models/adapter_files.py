"""An adapter in and out of files, as the library PEFT has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_llm.models.adapters import Part, Place, adapters, merge, places, put, trainable
from tinygrad_llm.models.decoder import Decoder
from tinygrad_llm.models.pretrained import Pretrained
from tinygrad_llm.nn import LoRALinear
from tinygrad_llm.nn.lora import shape_of
from tinygrad_llm.weights import gather, load_arrays, save_arrays, scatter
from tinygrad_llm.weights.adapters import (
    CONFIG,
    WEIGHTS,
    AdapterConfig,
    AdapterLayout,
    adapted_names,
    adapter_entries,
    read_adapter,
    short_names,
    write_adapter,
)
from tinygrad_llm.weights.stored import Stored


def save_adapter(model: Pretrained, folder: str | Path, base: str) -> None:
    """Write the adapter of a model, which PEFT reads too. `base` names the model beside which it was trained.

    ValueError if something else is trained, as a new head: the files have no place for it. See `MergedModel`.
    """
    found = [place for place in places(model) if isinstance(place.module, LoRALinear)]
    if not found:
        raise ValueError("LoRA: the model has no adapter to save")
    if besides := [name for name, _ in trainable(model) if not name.endswith((".lora_a", ".lora_b"))]:
        raise ValueError(f"LoRA: {', '.join(besides)} is trained besides, which the files of an adapter do not hold")
    one = found[0].module
    assert isinstance(one, LoRALinear)
    chosen = {place.name: _parts_of(place) for place in found}
    layout = _layout(model, found, chosen, one.rank)
    names = {f"{place.name}.{end}" for place in found for end in ("lora_a", "lora_b")}
    tensors = scatter(layout, None, {name: a for name, a in model.state_dict().items() if name in names})
    adapted = [part.theirs for parts in chosen.values() for part in parts]
    config = AdapterConfig(base, one.rank, one.alpha, one.dropout.p, short_names(adapted, _known(model)))
    turned = {entry.ours: entry.transposed for entry in model.layout.entries(model.config)}
    task = "CAUSAL_LM" if isinstance(model, Decoder) else None
    write_adapter(Path(folder), config, tensors, not turned[f"{found[0].name}.weight"], task)


def _parts_of(place: Place) -> tuple[Part, ...]:
    """Those that have an adapter."""
    module = place.module
    return tuple(p for p in place.parts if isinstance(module, LoRALinear) and p.columns in module.parts)


def _known(model: Pretrained) -> set[str]:
    """The names of all that has weights in Hugging Face's files; a BERT may have a pooler there that it lacks here."""
    entries = model.layout.entries(model.config)
    return {name.removesuffix(".weight") for entry in entries for name in entry.theirs} | {"pooler.dense"}


def _layout(
    model: Pretrained, found: Sequence[Place], chosen: Mapping[str, Sequence[Part]], rank: int
) -> AdapterLayout:
    """The tensors of an adapter beside the parts that are chosen of some places."""
    bare = getattr(model.config, "head", None) in ("none", "pooler")  # of a BERT's files: the encoder alone
    entries = [
        entry
        for place in found
        for entry in adapter_entries(
            place.name,
            [part.theirs for part in chosen[place.name]],
            rank,
            [stop - start for start, stop in (part.columns for part in chosen[place.name])],
        )
    ]
    return AdapterLayout("" if bare else model.layout.PREFIX, entries)


def load_adapter(model: Pretrained, folder: str | Path) -> None:
    """Put the adapter in a folder, ours or PEFT's, beside a model's linear maps, and freeze the model.

    ValueError, before anything is changed, that lists all tensors which do not fit the model.
    """
    if adapters(model):
        raise ValueError("LoRA: the model has an adapter already; merge it first")
    _load(model, Path(folder))
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.endswith((".lora_a", ".lora_b"))


def _load(model: Pretrained, folder: Path) -> AdapterConfig:
    """Attach what a folder holds, or fill the adapter that is there, which must be alike; nothing is frozen."""
    config, tensors = read_adapter(folder)
    try:
        arrays, found, chosen = _read(model, config, tensors)
        there = {name: (m.rank, m.alpha, m.parts) for name, m in adapters(model).items()}
        spans = {name: tuple(part.columns for part in parts) for name, parts in chosen.items()}
        if there and there != {name: (config.rank, config.alpha, each) for name, each in spans.items()}:
            raise ValueError("holds an adapter of another rank, alpha or other linear maps than the model's")
    except ValueError as error:
        raise ValueError(f"{folder / WEIGHTS}: {error}") from error
    put(found, config.rank, config.alpha, config.dropout, lambda place: chosen[place.name])
    for name, module in adapters(model).items():
        for end, parameter in (("lora_a", module.lora_a), ("lora_b", module.lora_b)):
            parameter.data = np.array(arrays[f"{name}.{end}"], parameter.dtype, order="C")
            parameter.grad = None
    return config


def _read(
    model: Pretrained, config: AdapterConfig, tensors: Mapping[str, Stored]
) -> tuple[dict[str, Any], list[Place], dict[str, tuple[Part, ...]]]:
    """The arrays by our names, the places they belong to, and the parts there."""
    prefix = model.layout.PREFIX
    bare = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    if len(bare) < len(tensors):
        raise ValueError(f"tensors stand twice, with {prefix!r} in their names and without")
    named, chosen = adapted_names(bare), {}
    for place in places(model):
        parts = tuple(p for p in place.parts if p.theirs in named or _is_target(p.theirs, config.targets, prefix))
        if parts:
            chosen[place.name] = parts
    if not chosen:
        some = ", ".join([*tensors][:3])
        raise ValueError(f"holds no adapter of a {type(model).__name__}; its tensors are {some} ...")
    found = [place for place in places(model) if place.name in chosen]
    layout = replace(_layout(model, found, chosen, config.rank), PREFIX="")
    shapes = {}
    for place in found:
        spans = [part.columns for part in chosen[place.name]]
        base = place.module.base if isinstance(place.module, LoRALinear) else place.module
        shapes[f"{place.name}.lora_a"] = (shape_of(base)[0], config.rank * len(spans))
        shapes[f"{place.name}.lora_b"] = (config.rank, sum(stop - start for start, stop in spans))
    return dict(gather(layout, None, bare, shapes)), found, chosen


def _is_target(name: str, targets: Sequence[str] | None, prefix: str) -> bool:
    return any(f".{prefix}{name}".endswith(f".{target}") for target in targets or ())


def merge_adapter(model: Pretrained, folder: str | Path) -> None:
    """Add the adapter in a folder to a model's weights: nothing is frozen, and no trace of it is left."""
    if adapters(model):
        raise ValueError("LoRA: the model has an adapter already; merge it first")
    _load(model, Path(folder))
    merge(model)


class AdapterAlone:
    """Saves the adapter of a model, and not what it stands beside; a `training.checkpoints.Saver`."""

    files = CONFIG, WEIGHTS

    def __init__(self, model: Pretrained, base: str) -> None:
        self.model, self.base = model, base

    def save(self, folder: Path) -> None:
        save_adapter(self.model, folder, self.base)

    def load(self, folder: Path) -> None:
        """Into the adapter that the model has, which must be of the same rank and maps."""
        _load(self.model, folder)


class MergedModel:
    """Saves the whole model with its adapter merged, for use, and beside it all that is trained, to go on from; a
    `training.checkpoints.Saver` for a model of which more than the adapter is trained, as a new head."""

    files = "config.json", "model.safetensors", "trained.safetensors"

    def __init__(self, model: Pretrained) -> None:
        self.model = model

    def save(self, folder: Path) -> None:
        save_arrays(folder / self.files[2], {name: p.data for name, p in trainable(self.model)}, {})
        unmerge = merge(self.model)
        try:
            self.model.save_pretrained(folder)
        finally:
            unmerge()

    def load(self, folder: Path) -> None:
        """Into what the model trains, which must be the same; the rest of it is as it always was."""
        arrays, own = load_arrays(folder / self.files[2])[0], dict(trainable(self.model))
        if {name: a.shape for name, a in arrays.items()} != {name: p.shape for name, p in own.items()}:
            raise ValueError(f"{folder / self.files[2]}: was trained with other settings than the model's")
        for name, parameter in own.items():
            parameter.data, parameter.grad = arrays[name].astype(parameter.dtype), None
