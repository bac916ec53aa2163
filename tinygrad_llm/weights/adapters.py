"""LoRA adapters as the library PEFT writes them: ``adapter_config.json`` and ``adapter_model.safetensors``.

A tensor is called ``base_model.model.`` + the linear map's name in the model that was adapted + ``.lora_A.weight``,
(r, in), or ``.lora_B.weight``, (out, r): each the transpose of ours. PEFT knows queries, keys and values as three maps
where the model's own files have them so, whatever they are here; see `Entry`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tinygrad_llm.files import atomic_write
from tinygrad_llm.tape import Array
from tinygrad_llm.weights.entries import Entry
from tinygrad_llm.weights.folders import PICKLE
from tinygrad_llm.weights.safetensors_file import open_safetensors, write_safetensors
from tinygrad_llm.weights.stored import Stored

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

PREFIX = "base_model.model."
"""Of all tensors' names."""

A, B = ".lora_A.weight", ".lora_B.weight"
"""How they end."""

LARGEST = 1 << 20
"""A rank or an alpha beyond it is not believed."""

IRRELEVANT = {
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "fan_in_fan_out",
    "inference_mode",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "target_modules",
    "task_type",
}
"""Settings that are read here, or change nothing in what an adapter computes."""

NEUTRAL: dict[str, tuple[Any, ...]] = {"bias": ("none",), "init_lora_weights": (True, False, "gaussian")}
"""What other settings must be: one of these, or else nothing: null, false, empty. Some ways to begin, as PiSSA's,
change the weights of the model beside the adapter."""


class AdapterConfig(NamedTuple):
    """What adapter_config.json says."""

    base: str
    """The model that was adapted: a name or a path."""
    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...] | None
    """The linear maps by name, or by the end of it; None if the file has a regular expression instead."""


def read_adapter(folder: Path) -> tuple[AdapterConfig, dict[str, Stored]]:
    """The settings, and the tensors by their names without the prefix. FileNotFoundError or ValueError that names file
    and fault: what this LoRA has no counterpart of is refused by name."""
    config = read_adapter_config(folder)
    if not (folder / WEIGHTS).is_file() and (pickled := sorted(folder.glob("adapter_model.bin"))):
        raise ValueError(f"{pickled[0]}: {PICKLE}")
    tensors = open_safetensors(folder / WEIGHTS)
    if odd := [name for name in tensors if not name.startswith(PREFIX)]:
        raise ValueError(f"{folder / WEIGHTS}: {odd[0]!r} does not begin with {PREFIX}, as names of PEFT's do")
    return config, {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}


def read_adapter_config(folder: Path) -> AdapterConfig:
    """The settings alone."""
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    try:
        return _parsed(given)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _parsed(given: Any) -> AdapterConfig:
    if not isinstance(given, dict):
        raise ValueError("not a JSON object")
    if given.get("peft_type") != "LORA":
        raise ValueError(f"peft_type is {_short(given.get('peft_type'))}; only LORA is known here")
    for name, value in given.items():
        if name not in IRRELEVANT and not _is_neutral(name, value):
            raise ValueError(f"{name} = {_short(value)} is unknown here: this LoRA has nothing that corresponds to it")
    base, rank = given.get("base_model_name_or_path"), given.get("r")
    if not isinstance(base, str) or not base:
        raise ValueError(f"base_model_name_or_path is {_short(base)}, which names no model")
    if type(rank) is not int or not 1 <= rank <= LARGEST:
        raise ValueError(f"r is {_short(rank)}, which is no rank")
    alpha, dropout = _number(given, "lora_alpha"), _number(given, "lora_dropout", 0.0)
    if alpha == 0 or not 0 <= dropout < 1:
        raise ValueError(f"lora_alpha = {alpha} must not be 0, and lora_dropout = {dropout} must be in [0, 1)")
    return AdapterConfig(base, rank, alpha, dropout, _targets(given.get("target_modules")))


def _is_neutral(name: str, value: Any) -> bool:
    if name in NEUTRAL:
        return any(type(value) is type(known) and value == known for known in NEUTRAL[name])
    return value is None or value is False or value in ({}, [], "")


def _number(given: Mapping[str, Any], name: str, default: float | None = None) -> float:
    value = given.get(name, default)
    if type(value) not in (int, float) or not math.isfinite(value) or abs(value) > LARGEST:
        raise ValueError(f"{name} is {_short(value)}, which should be a number")
    return float(value)


def _targets(given: Any) -> tuple[str, ...] | None:
    if isinstance(given, str):
        return None
    if isinstance(given, list) and given and all(isinstance(name, str) and name for name in given):
        return tuple(given)
    raise ValueError(f"target_modules is {_short(given)}, which should be a list of names")


def _short(value: Any) -> str:
    return repr(value)[:60]


# ---------------------------------------------------------------------------------------------------------------------


def write_adapter(
    folder: Path, config: AdapterConfig, tensors: Mapping[str, Array], fan_in_fan_out: bool, task: str | None
) -> None:
    """Write both files, each wholly or not at all. `fan_in_fan_out`: whether the model's own files have the weights of
    linear maps as (in, out); `task` is PEFT's name of what the model is for."""
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / WEIGHTS, {PREFIX + name: array for name, array in tensors.items()}, {"format": "pt"})
    value = {
        "peft_type": "LORA",
        "task_type": task,
        "base_model_name_or_path": config.base,
        "r": config.rank,
        "lora_alpha": int(config.alpha) if config.alpha == int(config.alpha) else config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": sorted(config.targets or ()),
        "fan_in_fan_out": fan_in_fan_out,
        "bias": "none",
        "inference_mode": True,
        "init_lora_weights": True,
    }
    atomic_write(folder / CONFIG, (json.dumps(value, indent=2) + "\n").encode())


@dataclass
class AdapterLayout:
    """The `Layout` of an adapter's tensors, for `gather` and `scatter`."""

    PREFIX: str
    found: Sequence[Entry]
    OUTSIDE: tuple[str, ...] = ()
    IGNORED: str = r"(?!)"  # nothing
    MODEL_TYPES: tuple[str, ...] = ()

    def entries(self, config: Any) -> Sequence[Entry]:
        return self.found

    def copies(self, config: Any) -> dict[str, str]:
        return {}

    def read_config(self, json: Mapping[str, Any]) -> dict[str, Any]:
        raise NotImplementedError("an adapter has no configuration of a model")

    def write_config(self, config: Any) -> dict[str, Any]:
        raise NotImplementedError("an adapter has no configuration of a model")


def adapter_entries(ours: str, theirs: Sequence[str], rank: int, widths: Sequence[int]) -> list[Entry]:
    """A and B of one `LoRALinear`, whose parts they know by the names `theirs`."""
    return [
        Entry(f"{ours}.lora_a", tuple(name + A for name in theirs), True, (rank,) * len(theirs)),
        Entry(f"{ours}.lora_b", tuple(name + B for name in theirs), True, tuple(widths)),
    ]


def adapted_names(tensors: Iterable[str]) -> set[str]:
    """The linear maps to which the tensors of these names belong."""
    return {name[: -len(end)] for name in tensors for end in (A, B) if name.endswith(end)}


def short_names(adapted: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    """How PEFT is told of the maps `adapted`, of all that are `known`: it takes every map whose name ends as told.

    The last word of a name, or what follows the number of the layer, if that means none but these; else the whole name.
    """
    adapted, known = set(adapted), set(known)
    found = set()
    for name in adapted:
        last, in_layer = name.rpartition(".")[2], re.split(r"\.\d+\.", name)[-1]
        meant = (end for end in (last, in_layer) if all(n in adapted for n in known if f".{n}".endswith(f".{end}")))
        found.add(next(meant, name))
    return tuple(sorted(found))
