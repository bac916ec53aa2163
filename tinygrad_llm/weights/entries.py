"""Name maps: which tensors of a file make which parameters of ours, in a form that is read in both directions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from tinygrad_llm.tape import Array
from tinygrad_llm.weights.stored import Stored


class Entry(NamedTuple):
    """A parameter of ours, and the tensors of the file that it is made of, side by side along its last axis."""

    ours: str
    theirs: tuple[str, ...]
    transposed: bool = False
    """Whether the file has the weights of linear maps as (out, in)."""
    widths: tuple[int, ...] = ()
    """Of each tensor along our last axis, if there are several."""


class Layout(Protocol):
    """How Hugging Face writes an architecture: one module of this room for each."""

    MODEL_TYPES: tuple[str, ...]
    """What `model_type` in config.json may be."""
    PREFIX: str
    """Which names may have or lack, as the file is of a model with a head or of the body alone."""
    OUTSIDE: tuple[str, ...]
    """What the names that never have the prefix begin with."""
    IGNORED: str
    """A regular expression of names that hold no parameters, but what can be computed."""

    def read_config(self, json: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of our configuration. ValueError for what our model cannot do."""

    def write_config(self, config: Any) -> dict[str, Any]:
        """What config.json says of our configuration."""

    def entries(self, config: Any) -> Sequence[Entry]:
        """All parameters of a model of this configuration. Names are without the prefix."""

    def copies(self, config: Any) -> Mapping[str, str]:
        """Tensors that a file may hold twice, as they are used in two places (tied): name to name."""


def bare_names(tensors: Mapping[str, Stored], layout: Layout) -> dict[str, Stored]:
    """The tensors by their names without the prefix, and without those to ignore."""
    bare: dict[str, Stored] = {}
    for name, tensor in tensors.items():
        short = name.removeprefix(layout.PREFIX)
        if re.fullmatch(layout.IGNORED, short):
            continue
        if short in bare:
            raise ValueError(f"{short} stands twice, with {layout.PREFIX!r} before it and without")
        bare[short] = tensor
    return bare


def gather(
    layout: Layout, config: Any, tensors: Mapping[str, Stored], shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, Array]]:
    """(name, array) of each of our parameters, whose shapes are given.

    ValueError, before anything is read, that lists all tensors which are missing, left over or of another shape or kind
    than they should; and one at the first tensor whose numbers are not finite, or whose two copies differ.
    """
    tensors = bare_names(tensors, layout)
    entries, copies = layout.entries(config), layout.copies(config)
    if {entry.ours for entry in entries} != shapes.keys():
        raise AssertionError(
            f"the name map does not fit the model: {sorted({e.ours for e in entries} ^ shapes.keys())}"
        )
    wanted = {name: shape for entry in entries for name, shape in parts_of(entry, shapes[entry.ours])}
    wanted |= {copy: wanted[name] for copy, name in copies.items() if copy in tensors}
    if problems := sorted(_misfits(wanted, tensors)):
        raise ValueError("the tensors do not fit the configuration:\n  " + "\n  ".join(problems))
    for copy, name in copies.items():
        if copy in tensors and not np.array_equal(tensors[copy].read(), tensors[name].read()):
            raise ValueError(f"{copy} and {name} should be the same, as config.json ties them, but they differ")
    return _read(entries, tensors)


def _misfits(wanted: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Stored]) -> Iterator[str]:
    yield from (f"missing: {name} {shape}" for name, shape in wanted.items() if name not in tensors)
    for name, tensor in tensors.items():
        if name not in wanted:
            yield f"unexpected: {name} {tensor.shape}"
        elif tensor.shape != wanted[name]:
            yield f"mismatched: {name} should be {wanted[name]}, and is {tensor.shape} in the file"
        elif tensor.dtype[0] in "IUB" and tensor.dtype != "BF16":
            yield f"mismatched: {name} has dtype {tensor.dtype}, which is not floating-point"


def parts_of(entry: Entry, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, shape) of the tensors that a parameter of that shape is made of."""
    widths = entry.widths or shape[-1:]
    if len(widths) != len(entry.theirs) or sum(widths) != shape[-1]:
        raise AssertionError(f"the name map gives {entry.ours} {shape} the widths {widths}")
    for name, width in zip(entry.theirs, widths, strict=True):
        part = (*shape[:-1], width)
        yield name, part[::-1] if entry.transposed else part


def _read(entries: Iterable[Entry], tensors: Mapping[str, Stored]) -> Iterator[tuple[str, Array]]:
    for entry in entries:
        parts = [tensors[name].read() for name in entry.theirs]
        for name, part in zip(entry.theirs, parts, strict=True):
            if not np.isfinite(part).all():
                raise ValueError(f"{name} holds numbers that are not finite: the file is damaged, or training diverged")
        turned = [part.T if entry.transposed else part for part in parts]
        yield entry.ours, turned[0] if len(turned) == 1 else np.concatenate(turned, axis=-1)


def scatter(layout: Layout, config: Any, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The tensors that a file has for our parameters: `gather` backwards."""
    tensors = {}
    for entry in layout.entries(config):
        array = arrays[entry.ours]
        cuts = np.cumsum(entry.widths or array.shape[-1:])[:-1]
        for name, part in zip(entry.theirs, np.split(array, cuts, axis=-1), strict=True):
            outside = name.startswith(layout.OUTSIDE)
            tensors[name if outside else layout.PREFIX + name] = part.T if entry.transposed else part
    return tensors
