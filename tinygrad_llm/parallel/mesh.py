"""Ranks in a grid: data parallel x pipeline parallel x tensor parallel.

    rank = (dp * PP + pp) * TP + tp

so tensor parallel neighbours, who talk most, have neighbouring numbers and so, as a rule, one machine.
"""

from __future__ import annotations

from typing import NamedTuple

from tinygrad_llm.parallel.communicator import Communicator, Solo


class RanksError(ValueError):
    """The ranks are not what is needed: a mistake of who has started them."""


class Coordinates(NamedTuple):
    """Where a rank stands."""

    dp: int
    pp: int
    tp: int


class Mesh:
    """One rank's place in the grid, and its communicators `dp`, `pp` and `tp` along the axes."""

    def __init__(self, dp: int = 1, pp: int = 1, tp: int = 1, world: Communicator | None = None) -> None:
        self.world = world or Solo()
        self.sizes = Coordinates(dp, pp, tp)
        if min(self.sizes) < 1:
            raise RanksError(f"mesh: dp={dp}, pp={pp}, tp={tp}: each must be at least 1")
        if dp * pp * tp != self.world.size:
            raise RanksError(
                f"mesh: dp={dp} x pp={pp} x tp={tp} needs {dp * pp * tp} ranks, and there are {self.world.size}; "
                f"start it with: mpiexec -n {dp * pp * tp} ..."
            )
        self.coordinates = here = self.place(self.world.rank)
        self.dp = self.world.split("dp", here.pp * tp + here.tp, here.dp)
        self.pp = self.world.split("pp", here.dp * tp + here.tp, here.pp)
        self.tp = self.world.split("tp", here.dp * pp + here.pp, here.tp)

    @property
    def rank(self) -> int:
        """The number in the world."""
        return self.world.rank

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return self.world.size

    def place(self, rank: int) -> Coordinates:
        """Where a rank of the world stands."""
        rest, tp = divmod(rank, self.sizes.tp)
        return Coordinates(*divmod(rest, self.sizes.pp), tp)

    def rank_at(self, dp: int, pp: int, tp: int) -> int:
        """The rank of the world that stands there."""
        return (dp * self.sizes.pp + pp) * self.sizes.tp + tp
