"""What a diagnosis is made from: the gradient that the tape gave beside the one that is right, and their surroundings.

Letters: K cotangents, one a row; m entries of all outputs together, n entries of the input x. With J the Jacobian
(m, n) and unit cotangents, ``right`` is J itself, and ``given`` the matrix that the vjp stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tinygrad_llm.tape import Array


@dataclass(frozen=True)
class Diagnosis:
    """The likely cause of a wrong gradient: a short stable `cause`, a sentence with the remedy, and the numbers."""

    cause: str
    text: str
    evidence: str

    def __str__(self) -> str:
        return f"{self.text}\n       evidence: {self.evidence}"


@dataclass(frozen=True)
class Evidence:
    """All that is known about the gradient of the input at `position`.

    `units` says that the cotangents are the unit vectors, in order (else they are random); `shaped` that the columns
    are the entries of x (else they are random directions, and only the size of things can be compared).
    """

    names: tuple[str, ...]
    inputs: tuple[Array, ...]
    position: int
    outputs: tuple[Array, ...]
    options: dict[str, Any]
    right: Array
    given: Array
    rtol: float
    noise: float
    units: bool
    shaped: bool
    attached: bool
    vjp: Callable[[Array], Array]
    jacobian: Callable[[int, tuple[Array, ...]], Array]
    """The numerical ``right`` for any input, at any point: ``jacobian(position, inputs)``."""

    @property
    def x(self) -> Array:
        return self.inputs[self.position]

    @property
    def name(self) -> str:
        return self.names[self.position]

    @cached_property
    def floor(self) -> float:
        """What counts as zero."""
        return 0.01 * self.rtol * float(np.abs(self.right).max(initial=0.0)) + self.noise

    @property
    def cotangents(self) -> tuple[Array, Array]:
        """Two random cotangents of all outputs, for the vjp."""
        rng = np.random.default_rng(1)
        size = sum(y.size for y in self.outputs)
        return rng.standard_normal(size), rng.standard_normal(size)

    @property
    def error(self) -> Array:
        return self.given - self.right

    @cached_property
    def wrong(self) -> Array:
        """(K, n): where given and right differ."""
        return ~self.near(self.given, self.right)

    @cached_property
    def wrong_entries(self) -> Array:
        """(n,): the entries of x whose gradient is wrong for some cotangent."""
        return self.wrong.sum(0) > 0

    @property
    def y(self) -> Array | None:
        """The output, if there is one only."""
        return self.outputs[0] if len(self.outputs) == 1 else None

    @property
    def elementwise(self) -> bool:
        """Whether each output depends on one entry of x, in `right` and in `given`."""
        counts = [(np.abs(a) > self.floor).sum(1).max(initial=0) for a in (self.right, self.given)]
        return self.units and self.shaped and self.x.size > 1 and max(counts) <= 1

    def near(self, a: Array, b: Array) -> Array:
        """Elementwise: equal to numerical precision."""
        with np.errstate(invalid="ignore"):
            return np.abs(a - b) <= 3 * self.rtol * np.maximum(np.abs(a), np.abs(b)) + 3 * self.floor

    def explains(self, prediction: Array) -> bool:
        """Whether a wrong vjp of which this is the matrix would have given exactly what was given."""
        return prediction.shape == self.given.shape and bool(self.near(prediction, self.given).all())

    def along(self, matrix: Array, axis: int) -> Array:
        """A (K, n) matrix as (K, rest, N): each row cut into the lines of x along `axis`, N entries long."""
        lines = np.moveaxis(matrix.reshape(len(matrix), *self.x.shape), axis + 1, -1)
        return lines.reshape(len(matrix), -1, self.x.shape[axis])

    def long_axes(self) -> list[int]:
        """The axes of x that have more than one entry, the last first."""
        return [a for a in reversed(range(self.x.ndim)) if self.x.shape[a] > 1] if self.shaped else []

    def axis_name(self, axis: int, ndim: int | None = None) -> str:
        return f"axis {axis - (self.x.ndim if ndim is None else ndim)}"

    def others(self) -> Iterator[tuple[int, str, Array]]:
        """(position, name, array) of the other floating-point inputs."""
        for i, (name, array) in enumerate(zip(self.names, self.inputs, strict=True)):
            if i != self.position and array.dtype.kind == "f":
                yield i, name, array

    def places(self, mask: Array, limit: int = 4) -> str:
        """The entries of x where `mask` (n,) holds, written as indices."""
        indices = [list(map(int, np.unravel_index(i, self.x.shape))) for i in np.flatnonzero(mask)]
        more = f" and {len(indices) - limit} more" if len(indices) > limit else ""
        return ", ".join(map(str, indices[:limit])) + more
