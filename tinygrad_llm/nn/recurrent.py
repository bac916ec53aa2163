"""Recurrent layers over whole sequences: RNN, LSTM and GRU, as `ops.rnn`, `ops.lstm` and `ops.gru` compute them."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from tinygrad_llm import ops
from tinygrad_llm.nn.layers import normal
from tinygrad_llm.nn.module import Module, Parameter
from tinygrad_llm.tensor import Tensor

State = tuple[Tensor, ...]
"""What a layer remembers between steps, arrays (B, F): h, and c of an LSTM."""


class RecurrentLayer(Module):
    """x (B, T, C) to all states y (B, T, F), and the last state. Both weights start normal with ``1/sqrt(inputs)``.

    A state that is not given is zero.
    """

    gates: ClassVar[int]
    """Gates of each unit."""
    arrays: ClassVar[int] = 1
    """Arrays of a state."""

    def __init__(self, channels: int, units: int) -> None:
        self.weight_x = Parameter(normal((channels, self.gates * units), 1 / math.sqrt(channels)), decay=True)
        self.weight_h = Parameter(normal((units, self.gates * units), 1 / math.sqrt(units)), decay=True)
        self.bias = Parameter(np.zeros(self.gates * units, np.float32))
        self.units = units

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        if state is None:
            zero = Tensor(np.zeros((x.shape[0], self.units), x.dtype))
            state = (zero,) * self.arrays
        y, *last = self.run(x, state)
        return y, tuple(last)

    def run(self, x: Tensor, state: State) -> tuple[Tensor, ...]:
        """(y, the last state ...)."""
        raise NotImplementedError(f"{type(self).__name__} defines no run()")


class RNN(RecurrentLayer):
    """The plain recurrent network (Elman 1990)."""

    gates = 1

    def run(self, x: Tensor, state: State) -> tuple[Tensor, ...]:
        return ops.rnn(x, *state, self.weight_x, self.weight_h, self.bias)


class LSTM(RecurrentLayer):
    """Long short-term memory (Hochreiter and Schmidhuber 1997). Its forget gates start with a bias of 1, so that it
    begins by remembering (Jozefowicz et al. 2015, section 2.2)."""

    gates, arrays = 4, 2

    def __init__(self, channels: int, units: int) -> None:
        super().__init__(channels, units)
        self.bias.data[units : 2 * units] = 1

    def run(self, x: Tensor, state: State) -> tuple[Tensor, ...]:
        return ops.lstm(x, *state, self.weight_x, self.weight_h, self.bias)


class GRU(RecurrentLayer):
    """Gated recurrent units (Cho et al. 2014, arXiv:1406.1078), with a second bias that the reset gate multiplies."""

    gates = 3

    def __init__(self, channels: int, units: int) -> None:
        super().__init__(channels, units)
        self.state_bias = Parameter(np.zeros(self.gates * units, np.float32))

    def run(self, x: Tensor, state: State) -> tuple[Tensor, ...]:
        return ops.gru(x, *state, self.weight_x, self.weight_h, self.bias, self.state_bias)


LAYERS: dict[str, type[RecurrentLayer]] = {"rnn": RNN, "lstm": LSTM, "gru": GRU}
