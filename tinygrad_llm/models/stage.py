"""A part of a decoder that runs by itself: some blocks that stand next to each other, as a stage of a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tinygrad_llm.tensor import Tensor


@dataclass(frozen=True)
class Stage:
    """Which blocks run. The first stage embeds the ids as well; the last has the final norm and the head."""

    layers: range
    receive: Callable[[tuple[int, ...]], Tensor] | None = None
    """Called with the shape (B, T) of the ids: what the stage before has made, (B, T, C). None for the first."""
    last: bool = False


class StageEnd(Exception):
    """Raised where a stage ends that is not the last: `x` is for the next one, and there is no loss here."""

    def __init__(self, x: Tensor) -> None:
        super().__init__("a stage of a pipeline has no result of its own")
        self.x = x
