"""LoRA on a whole model: which linear maps get an adapter, what is trained, and merging.

An adapter is what `nn.LoRALinear` trains, of all linear maps that have one. The model it stands beside is frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any, NamedTuple, Self

import numpy as np

from tinygrad_llm import random
from tinygrad_llm.models.pretrained import Pretrained
from tinygrad_llm.nn import Linear, LoRALinear, Module, Parameter, QuantizedLinear
from tinygrad_llm.nn.lora import shape_of

EVERY = "all"
"""The target that is every linear map of the blocks."""


@dataclass(frozen=True)
class LoRASettings:
    """What an adapter is: `rank` r, the update's factor `alpha` / r, `targets`, and the share `dropout` of its inputs
    that is zeroed in training. With r = 0 there is none.

    A target is the name of a linear map of a block: up, down, q, k, v ... as `Place` has them; its name in Hugging
    Face's files: q_proj, c_attn ...; a pattern with ``*``, ``?`` or ``[...]`` of its whole name, as in
    ``blocks.2?.mlp.*``; or `EVERY`.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = (EVERY,)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ValueError(f"LoRA: r={self.rank} must be at least 0")
        if not 0 < self.alpha < 1e6:
            raise ValueError(f"LoRA: alpha={self.alpha} must be positive")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"LoRA: dropout={self.dropout} must be at least 0 and less than 1")
        if not self.targets:
            raise ValueError("LoRA: targets must name at least one linear map")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Settings from ``r=8,alpha=16,targets=q+v,dropout=0``: in any order, and only r is needed.

        alpha is 2 r, and targets are `EVERY`, unless they are given. Targets may also be parted by commas.
        """
        given: dict[str, str] = {}
        last = ""
        for item in text.split(","):
            name, equals, value = (piece.strip() for piece in item.partition("="))
            if not equals and last == "targets" and name:
                given["targets"] += f"+{name}"
                continue
            if name not in ("r", "alpha", "targets", "dropout") or not value or name in given:
                raise ValueError(
                    f"LoRA: {item.strip()!r} in {text!r}: give r, alpha, targets and dropout, each once, as in "
                    "r=8,alpha=16,targets=q+v,dropout=0"
                )
            given[name], last = value, name
        if "r" not in given:
            raise ValueError(f"LoRA: {text!r} has no r, the rank, as in r=8,alpha=16,targets=q+v")
        rank = _number(int, "r", given["r"])
        alpha = _number(float, "alpha", given["alpha"]) if "alpha" in given else 2.0 * (rank or 1)
        targets = tuple(dict.fromkeys(name.strip() for name in given.get("targets", EVERY).split("+") if name.strip()))
        return cls(rank, alpha, targets, _number(float, "dropout", given.get("dropout", "0")))


def _number(kind: type[Any], name: str, text: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise ValueError(f"LoRA: {name}={text!r} must be {what}") from None


class Part(NamedTuple):
    """A linear map, or some of its columns, as Hugging Face's files know it."""

    label: str
    """What we call it: q, k, v, out, up ..."""
    theirs: str
    """Its name in Hugging Face's files, as layers.0.self_attn.q_proj."""
    columns: tuple[int, int]


class Place(NamedTuple):
    """A linear map of a block, and the parts that may have an adapter each."""

    name: str
    """As blocks.0.attention.qkv."""
    parent: Module
    attribute: str
    parts: tuple[Part, ...]

    @property
    def module(self) -> Linear | QuantizedLinear | LoRALinear:
        """What stands there."""
        found: Linear | QuantizedLinear | LoRALinear = getattr(self.parent, self.attribute)
        return found

    def whole_name(self, part: Part) -> str:
        """As blocks.0.attention.q."""
        return f"{self.name.rpartition('.')[0]}.{part.label}"

    def selected(self, targets: Sequence[str]) -> tuple[Part, ...]:
        """The parts that the targets mean."""
        return tuple(part for part in self.parts if any(self._is(target, part) for target in targets))

    def _is(self, target: str, part: Part) -> bool:
        names = EVERY, part.label, part.theirs.rpartition(".")[2]
        return target in names or fnmatchcase(self.whole_name(part), target)


def places(model: Pretrained) -> list[Place]:
    """The linear maps of a model's blocks. ValueError if it has none, as a recurrent one."""
    entries = {entry.ours: entry for entry in model.layout.entries(model.config)}
    found = []
    for name, parent, attribute in _linear_maps(model, ""):
        entry = entries.get(f"{name}.weight")
        if entry is None or "blocks." not in name:
            continue
        module = getattr(parent, attribute)
        whole = shape_of(module.base if isinstance(module, LoRALinear) else module)[1]
        edges = np.cumsum([0, *(entry.widths or (whole,))]).tolist()
        labels = attribute if len(entry.theirs) > 1 else (attribute,)
        triples = zip(labels, entry.theirs, pairwise(edges), strict=True)
        parts = tuple(Part(label, tensor.removesuffix(".weight"), span) for label, tensor, span in triples)
        found.append(Place(name, parent, attribute, parts))
    if not found:
        raise ValueError(f"LoRA: a {type(model).__name__} has no blocks with linear maps for adapters to stand beside")
    return found


def _linear_maps(module: Module, prefix: str) -> Iterator[tuple[str, Module, str]]:
    """(name, parent, attribute) of all below a module."""
    for name, child in module.children():
        if isinstance(child, Linear | QuantizedLinear | LoRALinear):
            yield prefix + name, module, name
        else:
            yield from _linear_maps(child, f"{prefix}{name}.")


def adapters(model: Pretrained) -> dict[str, LoRALinear]:
    """Those of a model, by the name of the linear map that each stands beside."""
    return {name: getattr(parent, part) for name, parent, part in _linear_maps(model, "") if _adapted(parent, part)}


def _adapted(parent: Module, attribute: str) -> bool:
    return isinstance(getattr(parent, attribute), LoRALinear)


# -- attaching ---------------------------------------------------------------------------------------------------------


def attach(model: Pretrained, settings: LoRASettings, seed: int = 0, besides: Sequence[str] = ()) -> None:
    """Freeze the model, and put an adapter beside the linear maps that the settings name.

    What is frozen has ``requires_grad`` False; parameters whose names begin with one of `besides`, as a new head's, are
    trained as they were. ValueError, before anything is changed, for targets that the model does not have.
    """
    if adapters(model):
        raise ValueError("LoRA: the model has an adapter already; merge it first")
    found = places(model)
    for target in settings.targets:
        if not any(place.selected([target]) for place in found):
            raise ValueError(f"LoRA: the model has no {target!r}; {known_targets(found)}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad = parameter.requires_grad and name.startswith(tuple(besides))
    if settings.rank:
        put(found, settings.rank, settings.alpha, settings.dropout, lambda p: p.selected(settings.targets), seed)


def known_targets(found: Sequence[Place]) -> str:
    """A sentence that lists what may be named."""
    labels = dict.fromkeys(part.label for place in found for part in place.parts)
    first = found[0].whole_name(found[0].parts[0])
    return f"known are {', '.join(labels)}, {EVERY}, and patterns of names such as {first}"


def put(
    found: Sequence[Place],
    rank: int,
    alpha: float,
    dropout: float,
    select: Callable[[Place], Sequence[Part]],
    seed: int = 0,
) -> None:
    """An adapter beside the parts that are selected of some places, where there is none yet."""
    for place in found:
        if (parts := select(place)) and not isinstance(place.module, LoRALinear):
            with random.scope(seed, "lora", place.name):
                made = LoRALinear(place.module, rank, alpha, [part.columns for part in parts], dropout)
            setattr(place.parent, place.attribute, made.train(place.module.training))


def trainable(model: Module) -> list[tuple[str, Parameter]]:
    """(name, parameter) of what is trained: for the optimiser."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


class Sizes(NamedTuple):
    """Numbers of a model, and the memory they take."""

    trained: int
    trained_bytes: int
    frozen: int
    frozen_bytes: int


def sizes(model: Module) -> Sizes:
    """How much of a model is trained. Weights in fewer bits count, as frozen ones, once for each weight."""
    trained = [p for _, p in trainable(model)]
    frozen = [p for p in model.parameters() if not p.requires_grad]
    small = [m for m in model.modules() if isinstance(m, QuantizedLinear)]
    return Sizes(
        sum(p.size for p in trained),
        sum(p.data.nbytes for p in trained),
        sum(p.size for p in frozen) + sum(m.inputs * len(m.weight.values) for m in small),
        sum(p.data.nbytes for p in frozen) + sum(m.weight.nbytes for m in small),
    )


# -- merging -----------------------------------------------------------------------------------------------------------


def merge(model: Pretrained) -> Callable[[], None]:
    """Add every adapter to the weights it stands beside: the model is as if it had never had one, and as fast.

    Returns the function that takes it back. That holds the linear maps as they were, and puts them in their places
    again: so the weights are the same, bit for bit. Who drops it gives that memory up.
    """
    before = [(parent, name, getattr(parent, name)) for _, parent, name in _linear_maps(model, "")]
    before = [(parent, name, module) for parent, name, module in before if isinstance(module, LoRALinear)]
    for parent, name, module in before:
        setattr(parent, name, module.merged())

    def unmerge() -> None:
        for parent, name, module in before:
            setattr(parent, name, module)

    return unmerge
