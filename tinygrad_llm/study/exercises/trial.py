"""An attempt tried in a process of its own, with a time limit: it may loop for ever, exit, or crash.

The process runs `main`; what it finds comes back as JSON in a file, so that the student's own prints stay theirs.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import tinygrad_llm
from tinygrad_llm.operation import Operation
from tinygrad_llm.study.derivations.derivation import (
    Derivation,
    derive,
    draw_cotangent,
    gradient_name,
    sample_shape,
)
from tinygrad_llm.study.exercises.attempt import Attempt, Mistake, Problem, check_sample, describe, load, quiet
from tinygrad_llm.study.lookup import find_operation

TIME_LIMIT = 60.0  # seconds; attention, the slowest check, takes about two
SEEDS = range(2)
SMALL = 12  # entries that an example should not exceed, if it can be helped


@dataclass(frozen=True)
class Missing:
    """An input whose gradient is not right yet, and a small example of that: arguments to `example`."""

    input: str
    number: int
    shape: tuple[int, ...] | None
    mine: list[Any] | None = None
    """The student's gradient as nested lists, one for each array; None if there is none."""
    problem: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came of an attempt."""

    passed: bool = False
    unwritten: bool = False
    text: str = ""
    """What is wrong; or, if it passed, what is to be remarked."""
    draws: int = 0
    missing: tuple[Missing, ...] = field(default=())


def try_out(operation: Operation, path: Path, hint: bool = False, limit: float = TIME_LIMIT) -> Outcome:
    """Check the exercise at `path`, or with `hint` find the gradients that are not right yet."""
    with tempfile.TemporaryDirectory() as folder:
        result, trace = Path(folder, "outcome.json"), Path(folder, "trace.txt")
        # Ctrl-C reaches both processes: this one reports it, so the other simply ends
        program = f"import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); from {__name__} import main; main()"
        task = "hint" if hint else "check"
        command = [sys.executable, "-c", program, operation.name, str(path), folder, str(limit), task]
        try:
            status = subprocess.run(
                command, stdin=subprocess.DEVNULL, timeout=limit + 20, env=_environment()
            ).returncode
        except subprocess.TimeoutExpired:
            status = 1
        if result.exists():
            return _read(json.loads(result.read_text(encoding="utf-8")))
        stack = trace.read_text(encoding="utf-8", errors="replace") if trace.exists() else ""
        frame = re.search(rf'File "{re.escape(str(path))}", line (\d+) in (\S+)', stack)
        where = f": it was in line {frame[1]} of {path.name}, in {frame[2]}" if frame else ""
        if stack:
            return Outcome(text=f"stopped after {limit:g} seconds{where}. Does a loop never end?")
        return Outcome(text=f"the process that ran {path.name} ended by itself, with status {status}")


def _environment() -> dict[str, str]:
    """This process's, in which the other one finds this very package."""
    here = str(Path(tinygrad_llm.__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))}


def _read(found: dict[str, Any]) -> Outcome:
    missing = (Missing(**{**m, "shape": m["shape"] and tuple(m["shape"])}) for m in found.pop("missing"))
    return Outcome(**found, missing=tuple(missing))


def example(operation: Operation, missing: Missing) -> Derivation:
    """The small example on which a gradient was found not right: always the same numbers."""
    return derive(operation, missing.shape, missing.input, seed=0, sample=missing.number + 1)


# ---- In the process of its own ---------------------------------------------------------------------------------------


def main() -> None:
    """The program of that process: operation, file, folder for what it finds, seconds, and "check" or "hint"."""
    name, path, folder, limit, task = sys.argv[1:]
    with open(Path(folder, "trace.txt"), "w", encoding="utf-8") as trace:
        faulthandler.dump_traceback_later(float(limit), exit=True, file=trace)
        outcome = outcome_of(find_operation(name), Path(path), task == "hint")
        faulthandler.cancel_dump_traceback_later()
    partial = Path(folder, "partial")
    partial.write_text(json.dumps(asdict(outcome)), encoding="utf-8")
    partial.rename(Path(folder, "outcome.json"))


def outcome_of(operation: Operation, path: Path, hint: bool) -> Outcome:
    """Load and try the exercise at `path`, in this process."""
    try:
        attempt = load(operation, path)
        return _missing(attempt) if hint else _checked(attempt)
    except Mistake as mistake:
        return Outcome(unwritten=mistake.problem.unwritten, text=mistake.problem.text)


def _checked(attempt: Attempt) -> Outcome:
    """Every sample; what is wrong with the first that is not right."""
    count = len(attempt.operation.sample)
    failed = []
    for number in range(count):
        for seed in SEEDS:
            found = _wrong(attempt, number, seed)
            if found is not None:
                failed.append(found)
                break
        if failed and failed[-1].unwritten:
            return failed[-1]
    if not failed:
        return Outcome(passed=True, text="\n".join(attempt.notes), draws=count * len(SEEDS))
    if count == 1:
        return failed[0]
    kinds = f"This is the first of {len(failed)} kinds of arguments, out of {count}, for which it is not right."
    return Outcome(text=f"{failed[0].text}\n{kinds}")


def _wrong(attempt: Attempt, number: int, seed: int) -> Outcome | None:
    """What is wrong for one draw: first whether there are gradients of the right shapes, then gradcheck."""
    operation = attempt.operation
    rng = np.random.default_rng([seed, number])
    inputs, options = operation.sample.draw(rng, number)
    dy = draw_cotangent(rng, operation.reference(*inputs, **options)[0])
    call = f"called with {describe(operation, inputs, options)}"
    gradients = attempt.gradients(inputs, options, dy)
    problems = [g for g in gradients.values() if isinstance(g, Problem)]
    if problems:
        texts = dict.fromkeys(p.text for p in problems)
        if all(p.unwritten for p in problems):
            return Outcome(unwritten=True, text="\n".join(texts))
        right = [name for name, g in gradients.items() if not isinstance(g, Problem)]
        right = [gradient_name(operation, name) for name in right if attempt.is_right(name, inputs, options, dy)]
        return Outcome(text="\n".join([call, *texts, *(f"{name} is right" for name in right)]))
    try:
        with quiet():
            report = check_sample(operation, attempt.function, number, seed)
    except Exception as error:
        raise Mistake(attempt.problem(error)) from error
    return None if report else Outcome(text=f"{call}\n{report}")


def _missing(attempt: Attempt) -> Outcome:
    """For each input the first example on which its gradient is not right."""
    operation = attempt.operation
    names = [p for p in operation.parameters if p in operation.derivations]
    found = (_first_missing(attempt, name) for name in names)
    missing = tuple(m for m in found if m is not None)
    return Outcome(passed=not missing, missing=missing)


def _first_missing(attempt: Attempt, name: str) -> Missing | None:
    operation = attempt.operation
    for number in range(len(operation.sample)):
        for shape in _shapes(operation, number):
            tried = Missing(name, number, shape)
            try:
                shown = example(operation, tried)
            except ValueError:  # this sample has no such shape, or no such input
                continue
            mine = attempt.gradients(shown.inputs, shown.options, shown.dy)[name]
            if isinstance(mine, Problem):
                return Missing(name, number, shape, problem=mine.text)
            if not attempt.is_right(name, shown.inputs, shown.options, shown.dy):
                arrays = mine if isinstance(mine, tuple) else (mine,)
                return Missing(name, number, shape, mine=[np.asarray(a, float).tolist() for a in arrays])
    return None


def _shapes(operation: Operation, number: int) -> list[tuple[int, ...] | None]:
    """Shapes to draw an example in: with leading axes of size 1 if the usual one is large, and the usual one."""
    usual = sample_shape(operation, number) or ()
    small = (*(1 for _ in usual[:-2]), *usual[-2:])
    return [small, None] if np.prod(usual) > SMALL and small != usual else [None]
