"""A plan: what training a model on a mesh of machines takes, whether it fits, and which knob to turn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

from tinygrad_llm.parallel.plan_ledger import rank_traffic
from tinygrad_llm.parallel.plan_memory import KINDS, RankMemory, all_memory
from tinygrad_llm.parallel.plan_models import ModelSizes
from tinygrad_llm.parallel.plan_setup import Machine, Recompute, Setup, check
from tinygrad_llm.parallel.plan_time import ASSUMED, StepTime, step_time
from tinygrad_llm.parallel.plan_traffic import Traffic


@dataclass(frozen=True)
class Plan:
    """All that is known before training begins."""

    model: ModelSizes
    setup: Setup
    machine: Machine
    memory: tuple[RankMemory, ...]
    """Of each place of the pipeline."""
    time: StepTime

    @property
    def fullest(self) -> RankMemory:
        """The place of the pipeline that needs most memory."""
        return max(self.memory, key=lambda rank: rank.total)

    @property
    def fits(self) -> bool:
        """Whether that is no more than a rank has."""
        return self.fullest.total <= self.machine.memory

    @property
    def traffic(self) -> list[Traffic]:
        """What a rank sends in a step, at the place of the pipeline that sends most."""
        places = [rank_traffic(self.model, self.setup, pp) for pp in range(self.setup.pp)]
        return max(places, key=lambda parts: sum(part.sent for part in parts))

    @property
    def step_tokens(self) -> int:
        """Tokens of a step, of all ranks."""
        return self.setup.sequences * self.setup.time

    @property
    def tokens_per_second(self) -> float:
        """Of all ranks."""
        return self.step_tokens / self.time.total

    @property
    def utilisation(self) -> float:
        """MFU, model FLOPs utilisation: those of the model, nothing done twice counted, over what the machines could
        do meanwhile. Source: Chowdhery et al. 2022, arXiv:2204.02311, appendix B."""
        done = self.model.step_operations(self.setup.sequences, self.setup.time)
        return done / (self.time.total * self.setup.ranks * self.machine.flops)

    def days(self, tokens: float) -> float:
        """For so many tokens."""
        return tokens / self.tokens_per_second / 86400

    def plain(self, tokens: float = 0.0) -> dict[str, Any]:
        """As JSON holds it."""
        found = {
            "model": asdict(self.model) | {"parameters": self.model.parameters},
            "setup": asdict(self.setup) | {"ranks": self.setup.ranks, "sequences": self.setup.sequences},
            "machine": asdict(self.machine),
            "memory": [asdict(rank) | {"total": rank.total} for rank in self.memory],
            "fits": self.fits,
            "traffic": [asdict(part) | {"sent": part.sent} for part in self.traffic],
            "seconds": asdict(self.time) | {"total": self.time.total},
            "assumed": ASSUMED,
            "tokens_per_second": self.tokens_per_second,
            "utilisation": self.utilisation,
        }
        return found | ({"days": self.days(tokens)} if tokens else {})


def make_plan(model: ModelSizes, setup: Setup, machine: Machine) -> Plan:
    """The plan. ValueError, in one line, if the model cannot be trained so."""
    check(model, setup)
    return Plan(model, setup, machine, tuple(all_memory(model, setup)), step_time(model, setup, machine))


def knobs(plan: Plan) -> Iterator[tuple[str, Plan]]:
    """What one change would make of a plan: those that are possible, each with its name."""
    setup = plan.setup
    changes: list[tuple[str, dict[str, Any]]] = []
    if setup.dp > 1 and setup.zero < 3:
        changes.append((f"--zero {setup.zero + 1}", {"zero": setup.zero + 1}))
    for other in get_args(Recompute):
        if replace(setup, recompute=other).recomputed != setup.recomputed:
            changes.append((f"--recompute {other}", {"recompute": other}))
    if setup.batch_size > 1:  # the same batch in more and smaller parts
        parts = next((n for n in (2, 3, 5, 7) if setup.batch_size % n == 0), setup.batch_size)
        more = {"batch_size": setup.batch_size // parts, "microbatches": setup.microbatches * parts}
        changes.append((f"--batch-size {more['batch_size']} --microbatches {more['microbatches']}", more))
    for name in ("tp", "pp"):
        for factor in (2, 4, 8):
            size = factor * getattr(setup, name)
            if setup.dp % factor == 0:  # the same ranks and the same batch, otherwise arranged
                more = {name: size, "dp": setup.dp // factor, "microbatches": setup.microbatches * factor}
                text = f"--{name} {size} --dp {more['dp']} --microbatches {more['microbatches']}"
                changes.append((text, more))
            elif setup.dp == 1 and factor == 2:
                changes.append((f"--{name} {size}, with {2 * setup.ranks} ranks", {name: size}))
    if setup.pp > 1 and setup.schedule in ("gpipe", "1f1b"):
        changes.append(("--schedule zb-h1", {"schedule": "zb-h1"}))
    if setup.pp > 1 and setup.schedule == "gpipe":
        changes.append(("--schedule 1f1b", {"schedule": "1f1b"}))
    for text, change in changes:
        try:
            yield text, make_plan(plan.model, replace(setup, **change), plan.machine)
        except ValueError:  # this one cannot be turned so far
            continue


def advice(plan: Plan) -> str:
    """Which knob to turn, in a sentence."""
    tried = list(knobs(plan))
    fitting = [(text, other) for text, other in tried if other.fits]
    text, best = max(fitting, key=lambda pair: _speed(pair[1]), default=("", plan))
    if plan.fits:
        if _speed(best) > 1.02 * _speed(plan):
            return f"it fits; {text} would be {_change(plan, best)}"
        return "it fits, and no single change makes it faster by more than 2 %"
    if fitting:
        return f"it does not fit; {text} would: {best.fullest.total / 1e9:.1f} GB, {_change(plan, best)}"
    largest = max(KINDS, key=lambda kind: getattr(plan.fullest, kind))
    path: list[str] = []
    now = plan
    while not now.fits and len(path) < 6:
        text, now_next = min(knobs(now), key=lambda pair: pair[1].fullest.total, default=("", now))
        if now_next.fullest.total >= now.fullest.total:
            break
        path.append(text)
        now = now_next
    if now.fits:
        return (
            f"it does not fit, mostly for its {largest}; {' then '.join(path)} would: {now.fullest.total / 1e9:.1f} GB"
        )
    return (
        f"it does not fit, mostly for its {largest}, nor after any change of one knob after the other: "
        f"more ranks (--tp, --pp, --dp with --zero 3) or more --memory"
    )


def _speed(plan: Plan) -> float:
    """Tokens per second of each rank: a change that needs more ranks must be worth them."""
    return plan.tokens_per_second / plan.setup.ranks


def _change(plan: Plan, other: Plan) -> str:
    ratio = _speed(other) / _speed(plan)
    each = " for each rank" if other.setup.ranks != plan.setup.ranks else ""
    return f"{100 * abs(ratio - 1):.0f} % {'faster' if ratio >= 1 else 'slower'}{each}"
