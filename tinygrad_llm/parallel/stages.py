"""A model cut into the stages of a pipeline, and one step of it as one rank executes it.

The blocks are shared out in order. The first stage has the embeddings as well, the last one the final norm and the
head. A stage's input is what the one before has made, a leaf of a graph of its own; in backward its gradient goes back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tinygrad_llm.later import Later, put_off
from tinygrad_llm.models import GPT, Decoder, Llama
from tinygrad_llm.models.stage import Stage, StageEnd
from tinygrad_llm.nn import Module
from tinygrad_llm.parallel.communicator import LARGEST_TAG, Communicator, Solo
from tinygrad_llm.parallel.mesh import RanksError
from tinygrad_llm.parallel.placement import S, place
from tinygrad_llm.parallel.ranks import LossOf
from tinygrad_llm.parallel.schedules import Op, peer, rank_of, tag
from tinygrad_llm.parallel.sharing import Named
from tinygrad_llm.parallel.waiting import Handle
from tinygrad_llm.tape import Array
from tinygrad_llm.tensor import Tensor

TABLE_TAG = LARGEST_TAG
"""Of the values of a table that first and last stage share."""
MESSAGES = (LARGEST_TAG + 1) // 2
"""As many tags are for what goes from stage to stage; then come those of the gradients of that table."""

Key = tuple[int, int]
"""A stage and a microbatch."""


def head_tag(microbatch: int) -> int:
    """Of the gradient of a table that first and last stage share."""
    return MESSAGES + microbatch % (TABLE_TAG - MESSAGES)


def layers_of(stage: int, stages: int, layers: int) -> range:
    """The blocks of a stage: as many for each, or one more for the first ones, as the last one has the head as well."""
    each, more = divmod(layers, stages)
    begin = stage * each + min(stage, more)
    return range(begin, begin + each + (stage < more))


def staged(model: Module, stages: int) -> tuple[Decoder, list[list[Named]]]:
    """The model, and the parameters of each stage by their names. RanksError if it cannot be cut so."""
    if not isinstance(model, (GPT, Llama)):
        raise RanksError(f"--pp: a pipeline runs GPT and Llama, and this is a {type(model).__name__}; give --pp 1")
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    if frozen:
        raise RanksError(f"--pp: a pipeline trains all of a model, and {frozen[0]} is frozen; give --pp 1")
    layers = len(model.blocks)
    if layers < stages:
        raise RanksError(f"--pp: {stages} stages need as many layers, and the model has {layers}; take fewer stages")
    stage_of = {f"{layer}": stage for stage in range(stages) for layer in layers_of(stage, stages, layers)}
    found: list[list[Named]] = [[] for _ in range(stages)]
    for name, parameter in model.named_parameters():
        top, _, rest = name.partition(".")
        at_end = 0 if top.endswith("_embedding") else stages - 1
        found[stage_of[rest.partition(".")[0]] if top == "blocks" else at_end].append((name, parameter))
    return model, found


class Execution:
    """One step of one rank: the operations of a schedule, done one after the other.

    ``take(stage, microbatch)`` is called when all gradients of a stage's parameters are there for a microbatch. Where
    what goes from stage to stage is shared out by positions, `positions` are the ranks that have them.
    """

    def __init__(
        self,
        comm: Communicator,
        model: Decoder,
        stages: int,
        parameters: Mapping[int, Sequence[Tensor]],
        parts: Sequence[int],
        loss_of: LossOf,
        take: Callable[[int, int], None],
        positions: Communicator | None = None,
    ) -> None:
        self.comm, self.model, self.stages, self.parameters = comm, model, stages, parameters
        self.positions = positions or Solo()
        self.parts, self.loss_of, self.take = parts, loss_of, take
        self.losses: list[float] = []
        self.times: list[tuple[Op, float, float]] = []
        """When each operation was computed, without what it waited for, by the monotonic clock."""
        self._inputs: dict[Key, Tensor] = {}
        self._outputs: dict[Key, Tensor] = {}
        self._leaving: dict[Op, Array] = {}
        self._later: dict[Key, Later] = {}
        self._arriving: dict[Op, Handle] = {}
        self._sent: list[Handle] = []
        self._shapes: dict[int, tuple[int, ...]] = {}

    def run(self, ops: Sequence[Op]) -> list[float]:
        """The losses of the parts, if the last stage is here."""
        computes = {"F": self._forward, "B": self._backward, "I": self._backward, "W": self._weights}
        for op in ops:
            if op.kind in computes:
                arrived = self._arrived(op)
                start = time.monotonic()
                computes[op.kind](op, arrived)
                self.times.append((op, start, time.monotonic()))
            elif op in self._leaving:
                self._send(op)
            else:
                self._post(op)
            self.comm.progress()
        for handle in self._sent:
            handle.wait()
        return self.losses

    # ---- messages

    def _post(self, op: Op) -> None:
        """Say where a message may be put."""
        source, number = rank_of(peer(op).stage, self.comm.size), self._tag(op)
        shape = self._shape(op.microbatch)
        self._arriving[op] = self.comm.start_receive(shape, self.model.dtype, source, number, str(op))

    def _send(self, op: Op) -> None:
        to, number = rank_of(peer(op).stage, self.comm.size), self._tag(op)
        self._sent = [handle for handle in self._sent if not handle.finished]
        self._sent.append(self.comm.start_send(self._leaving.pop(op), to, number, str(op)))

    def _tag(self, op: Op) -> int:
        return tag(op, self.stages) % MESSAGES

    def _arrived(self, op: Op) -> Array | None:
        """What an operation waits for; None if that is nothing."""
        handle = self._arriving.pop(Op("RECV_F" if op.kind == "F" else "RECV_B", op.stage, op.microbatch), None)
        return None if handle is None or op.kind == "W" else handle.wait()

    # ---- what is computed

    def _forward(self, op: Op, arrived: Array | None) -> None:
        key = op.stage, op.microbatch
        leaf = None
        if arrived is not None:
            leaf = self._inputs[key] = place(Tensor(arrived, requires_grad=True), self.positions, S(1))
        y = self._outputs[key] = self._through(op, leaf)
        if op.stage == self.stages - 1:
            self.losses.append(y.item())
        else:
            self._leaving[Op("SEND_F", *key)] = y.data

    def _through(self, op: Op, leaf: Tensor | None) -> Tensor:
        """The stage's part of the loss of a microbatch: the loss itself, or what is for the next stage."""
        passes = 0

        def receive(_: Any) -> Tensor:
            nonlocal passes
            passes += 1
            if passes > 1:
                raise RanksError("--pp: this training goes through the model more than once for a loss; give --pp 1")
            assert leaf is not None
            return leaf

        layers = layers_of(op.stage, self.stages, self.model.config.layers)
        return self._run_stage(
            Stage(layers, receive if op.stage else None, op.stage == self.stages - 1), self.parts[op.microbatch]
        )

    def _run_stage(self, stage: Stage, part: int) -> Tensor:
        self.model.stage = stage
        try:
            return self.loss_of(part)
        except StageEnd as end:
            return end.x
        finally:
            self.model.stage = None

    def _shape(self, microbatch: int) -> tuple[int, ...]:
        """(B, T, C) of what goes from stage to stage, as its batch says; nothing is computed for it."""
        if microbatch not in self._shapes:

            def look(shape: tuple[int, ...]) -> Tensor:
                batch, time = shape
                self._shapes[microbatch] = (batch, time // self.positions.size, self.model.config.channels)
                raise StageEnd(Tensor(0.0))

            self._run_stage(Stage(range(0), look), self.parts[microbatch])
        return self._shapes[microbatch]

    def _backward(self, op: Op, arrived: Array | None) -> None:
        """The whole of it, or what others wait for."""
        key = op.stage, op.microbatch
        y = self._outputs.pop(key)
        if op.kind == "B":
            y.backward(arrived)
        else:
            with put_off(self.parameters[op.stage]) as self._later[key]:
                y.backward(arrived)
        if op.stage:
            leaf = self._inputs.pop(key)
            assert leaf.grad is not None
            self._leaving[Op("SEND_B", *key)] = leaf.grad
        if op.kind == "B":
            self.take(*key)

    def _weights(self, op: Op, _: Array | None) -> None:
        """The rest."""
        self._later.pop((op.stage, op.microbatch)).run()
        self.take(op.stage, op.microbatch)
