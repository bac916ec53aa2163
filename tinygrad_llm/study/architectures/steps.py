"""Time of a training step, forward and backward, against the length of its sequences."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from tinygrad_llm import random
from tinygrad_llm.memory import keep_freed_memory
from tinygrad_llm.models import Decoder, new_model
from tinygrad_llm.study.architectures.settings import Settings
from tinygrad_llm.tape import Array
from tinygrad_llm.training import TrainConfig
from tinygrad_llm.training.architectures import model_config


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step of `batch` sequences of `length` tokens, in each round."""

    model: str
    batch: int
    length: int
    rounds: tuple[float, ...]

    @property
    def per_token(self) -> float:
        """Seconds for a token: the median of the rounds over the tokens of a step."""
        return statistics.median(self.rounds) / (self.batch * self.length)


def batches(settings: Settings) -> list[tuple[int, int]]:
    """(B, T) of the steps that are timed: as many tokens in sequences of each length, then one sequence alone."""
    divided = [(max(1, settings.tokens // length), length) for length in settings.lengths]
    return list(dict.fromkeys([*divided, *((1, length) for length in settings.lengths)]))


def time_steps(
    settings: Settings, trainings: Mapping[str, TrainConfig], progress: Callable[[int, int | None], object]
) -> tuple[StepTime, ...]:
    """All steps of all models. The models take turns, so that whatever else the machine does meets them alike."""
    keep_freed_memory()
    models = {kind: _model(config, max(settings.lengths)) for kind, config in trainings.items()}
    found = []
    sizes = batches(settings)
    for done, (batch, length) in enumerate(sizes):
        progress(done, len(sizes))
        ids = random.stream(settings.seed, "timed step", batch, length).integers(
            0, settings.vocab_size, (batch, length + 1)
        )
        times = _take_turns([partial(_step, model, ids) for model in models.values()], settings.rounds)
        found += [StepTime(kind, batch, length, own) for kind, own in zip(models, times, strict=True)]
    progress(len(sizes), len(sizes))
    return tuple(found)


def _model(config: TrainConfig, context: int) -> Decoder:
    """As it is trained, with positions for the longest sequence."""
    model = new_model(replace(model_config(config, config.vocab_size), context=context), config.seed)
    assert isinstance(model, Decoder)
    return model


def _step(model: Decoder, ids: Array) -> None:
    model.zero_grad()
    model.loss(ids[:, :-1], ids[:, 1:]).backward()


def _take_turns(works: Sequence[Callable[[], None]], rounds: int) -> list[tuple[float, ...]]:
    """Seconds of each in each round, after one that is not counted; the order moves on by one from round to round."""
    times: list[list[float]] = [[] for _ in works]
    for number in range(rounds + 1):
        for place in range(len(works)):
            own = (place + number) % len(works)
            began = time.perf_counter()
            works[own]()
            times[own].append(time.perf_counter() - began)
    return [tuple(own[1:]) for own in times]
