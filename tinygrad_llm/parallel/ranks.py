"""Who computes what of a training step: one process, or several that share it out.

The parts of a step (its passes, `accumulate` of them) are numbered. Each is computed by one rank, and their gradients
are added up by their numbers (see `optim.pairwise`): so the same settings give the same weights on any number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np

from tinygrad_llm.optim import Optimizer
from tinygrad_llm.optim.optimizer import squares_of
from tinygrad_llm.optim.pairwise import PairwiseSum, take_gradients
from tinygrad_llm.parallel.communicator import Communicator
from tinygrad_llm.tape import Array
from tinygrad_llm.tensor import Tensor

LossOf = Callable[[int], Tensor]
"""The loss of a part of the step, of which backward is not done yet."""


class Ranks(Protocol):
    """Those that share a training step, as one of them sees it."""

    def parts(self, count: int) -> Sequence[int]:
        """Which of so many parts this one computes."""

    def total(self, values: Iterable[int]) -> int:
        """The sum over the parts of all."""

    def run(self, parts: Sequence[int], loss_of: LossOf) -> list[float]:
        """Forward and backward of this one's parts; the gradients of all parts are added up. The losses of all."""

    def squares(self, left_out: Collection[str] = ()) -> Array:
        """``sum g^2`` of blocks of the gradients of all parameters, but for those with these names: whose sum does not
        depend on who computes it (see `optim.optimizer.exact_sum`)."""

    def update(self, rate: float, scale: float) -> None:
        """Update the weights from `scale` times the gradients."""

    def whole(self) -> AbstractContextManager[None]:
        """Within it, every rank has all weights; what is written to them stays."""

    def disband(self) -> None:
        """Training is over: leave the whole model with every rank, to be used without the others."""

    def state_dict(self) -> dict[str, Array]:
        """The optimizer's state, as one process would have it; every rank must ask."""

    def load_state_dict(self, arrays: Mapping[str, Array]) -> None:
        """Take from the state that one process would have what is this rank's."""

    @property
    def leads(self) -> bool:
        """Whether this rank shows progress and writes files."""

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on some rank."""

    def told(self, value: Any) -> Any:
        """The value of the rank that leads."""


def joined(comm: Communicator, values: Array) -> Array:
    """The numbers (N,) that each rank has, one after the other; it need not be as many."""
    return np.concatenate([np.zeros(0), *(np.array(one) for one in comm.gather_objects(values.tolist()))])


class OneProcess:
    """All in one."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.parameters = list(optimizer.parameters.values())

    def parts(self, count: int) -> Sequence[int]:
        return range(count)

    def total(self, values: Iterable[int]) -> int:
        return sum(values)

    def run(self, parts: Sequence[int], loss_of: LossOf) -> list[float]:
        self.optimizer.zero_grad()
        losses, sums = [], PairwiseSum()
        for part in parts:
            loss = loss_of(part)
            loss.backward()
            losses.append(loss.item())
            if len(parts) > 1:
                sums.add(take_gradients(self.parameters))
        for parameter, gradient in zip(self.parameters, sums.finish(), strict=False):  # nothing for a single part
            parameter.grad = gradient
        return losses

    def squares(self, left_out: Collection[str] = ()) -> Array:
        return squares_of((p for name, p in self.optimizer.parameters.items() if name not in left_out))

    def update(self, rate: float, scale: float) -> None:
        self.optimizer.step(rate, scale)

    def whole(self) -> AbstractContextManager[None]:
        return nullcontext()

    def disband(self) -> None:
        pass

    def state_dict(self) -> dict[str, Array]:
        return self.optimizer.state_dict()

    def load_state_dict(self, arrays: Mapping[str, Array]) -> None:
        self.optimizer.load_state_dict(arrays)

    leads = True

    def any(self, flag: bool) -> bool:
        return flag

    def told(self, value: Any) -> Any:
        return value
