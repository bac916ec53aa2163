"""What ``tinygrad-llm plan --measure`` shows: our own training step, predicted from its pieces and measured whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.parallel.plan_memory import rank_parameters
from tinygrad_llm.parallel.plan_models import ModelSizes
from tinygrad_llm.parallel.plan_own import OwnMachine, activation_bytes, predict_step, saved_bytes
from tinygrad_llm.parallel.plan_report import amount, count, duration
from tinygrad_llm.parallel.plan_setup import FLOAT32, Setup
from tinygrad_llm.study.calibration import measure_for, measure_link, measure_step
from tinygrad_llm.threads import thread_count

TRAINED = GPTConfig(vocab_size=4096, context=64, channels=96, layers=4, heads=3)
"""The model of ``tinygrad-llm train`` without arguments."""
BATCH = 16
"""And its sequences for a pass."""


def measured_lines(config: GPTConfig, batch: int, say: Callable[[str], object]) -> Iterator[str]:
    """The report, line by line; `say` is told what is being measured."""
    sizes, setup = ModelSizes.of(config), Setup(config.context, batch_size=batch, precision=FLOAT32)
    yield (
        f"model       GPT, L={config.layers} C={config.channels} H={config.heads} V={config.vocab_size}: "
        f"{count(sizes.parameters)} parameters, {batch} sequences of {config.context}, float32, AdamW"
    )
    threads = thread_count()
    say(f"measuring the pieces of a step with {threads} thread{'s' * (threads > 1)}")
    machine = measure_for(config, batch, threads)
    yield f"machine     {_machine(machine)}, {threads} thread{'s' * (threads > 1)}"
    parts = predict_step(sizes, setup, machine)
    say("measuring a step")
    took, model = measure_step(config, batch, 2.0)
    yield ""
    yield from _step("one process", parts, setup)
    more = 100 * (sum(parts.values()) / took - 1)
    yield f"  measured {duration(took)}: the prediction is {abs(more):.0f} % {'more' if more > 0 else 'less'}"
    yield ""
    yield from _activations(model, sizes, setup)
    yield ""
    yield from _two_ranks(config, batch, threads, say)


def _machine(machine: OwnMachine) -> str:
    return (
        f"{amount(machine.gemm, 'FLOP/s')} in large products, {amount(machine.memory, 'B/s')} of memory, "
        f"{amount(machine.stream, 'B/s')} between products, {duration(machine.layer)} of calls in a layer"
    )


def _step(title: str, parts: dict[str, float], setup: Setup) -> Iterator[str]:
    total = sum(parts.values())
    speed = setup.sequences * setup.time / total
    yield f"{title}: {duration(total)} a step predicted, {count(speed)} tokens/s"
    for name, seconds in parts.items():
        yield f"  {name:<24} {duration(seconds):>9} {100 * seconds / total:6.1f} %"


def _activations(model: GPT, sizes: ModelSizes, setup: Setup) -> Iterator[str]:
    """What the tape holds after a forward pass, beside the formula."""
    shape = (setup.batch_size, setup.time + 1)
    ids = np.random.default_rng(0).integers(0, sizes.vocab_size, shape)
    found = saved_bytes(model.loss(ids[:, :-1], ids[:, 1:]), model)
    formula = activation_bytes(sizes, setup)
    yield f"activations: {amount(found, 'B')} are kept for backward; by the formula {amount(formula, 'B')}"


def _two_ranks(config: GPTConfig, batch: int, threads: int, say: Callable[[str], object]) -> Iterator[str]:
    """The same batch on two ranks of half the threads each."""
    if batch < 2:
        yield "two ranks: not predicted, as one sequence cannot be shared out"
        return
    each = max(1, threads // 2)
    sizes = ModelSizes.of(config)
    setup = Setup(config.context, dp=2, batch_size=batch // 2, precision=FLOAT32)
    try:
        say("measuring messages between two ranks")
        latency, link = measure_link(4 * rank_parameters(sizes, setup, 0))
    except RuntimeError as error:
        yield f"two ranks: not predicted: {error}"
        return
    say(f"measuring the pieces of a rank's step with {each} thread{'s' * (each > 1)}")
    machine = replace(measure_for(config, batch // 2, each), latency=latency, link=link)
    title = f"two ranks, {each} thread{'s' * (each > 1)} and {batch // 2} sequences each"
    yield from _step(title, predict_step(sizes, setup, machine), setup)
    yield f"  ({duration(latency)} and {amount(link, 'B/s')} for a message; nothing of it hidden)"
