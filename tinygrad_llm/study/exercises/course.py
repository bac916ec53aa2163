"""Exercises: write the vjp of an operation yourself, with a check that diagnoses and hints one step at a time."""

from __future__ import annotations

import os
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_llm.checking import Step
from tinygrad_llm.files import atomic_write
from tinygrad_llm.operation import Operation
from tinygrad_llm.study.derivations.derivation import Derivation, gradient_name
from tinygrad_llm.study.derivations.text_form import worth_showing
from tinygrad_llm.study.exercises.blanking import blanked
from tinygrad_llm.study.exercises.progress import PATH, Progress
from tinygrad_llm.study.exercises.trial import TIME_LIMIT, Missing, Outcome, example, try_out
from tinygrad_llm.study.lookup import UnknownOperation, find_operation, refuse_existing
from tinygrad_llm.study.notation.numbers import plain_numbers
from tinygrad_llm.study.notation.prose import first_formula, plain_sentence
from tinygrad_llm.tensor import registry

FOLDER = "exercises"
_TITLE = re.compile(r'"""Exercise: (\w+)\b')
WIDTH = 100

_HEAD = '''"""Exercise: {name}. Write its vjp, then run ``tinygrad-llm exercise check`` on this file.

The check says whether the gradients are right, and if not, what is likely wrong. With --hint it gives one more step of
the derivation each time, with --reveal the library's own lines. A gradient that costs something may be returned as a
function without arguments. Do not write to dy, to the inputs, or to what forward has computed: all are used again.
"""'''

_TEST = '''"""Checks {name}.py beside this file with random inputs and cotangents: run pytest here."""

import runpy
from pathlib import Path

import pytest

from tinygrad_llm import registry
from tinygrad_llm.study.exercises.attempt import check_sample

OPERATION = registry["{name}"]  # the library's own, for its samples: small legal arguments


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("sample", range(len(OPERATION.sample)))
def test_{name}(sample, seed):
    function = runpy.run_path(str(Path(__file__).with_name("{name}.py")))["{name}"]
    report = check_sample(OPERATION, function, sample, seed)
    assert report, f"\\n{{report}}"
'''


@dataclass(frozen=True)
class Verdict:
    """The answer to an attempt: true if it passed, and readable when printed."""

    passed: bool
    text: str

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__


def exercise(
    operation: str | Operation, folder: str | os.PathLike[str] = FOLDER, force: bool = False
) -> tuple[Path, Path]:
    """Write an operation's exercise and its test into `folder`; return their paths.

    Raises FileExistsError if one of them is there already, unless `force` is given: it may hold the student's work.
    """
    operation = find_operation(operation)
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; --dir needs a folder")
    path, test = folder / f"{operation.name}.py", folder / f"test_{operation.name}.py"
    progress = Progress(folder)
    content = {path: exercise_source(operation), test: _TEST.format(name=operation.name)}
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in content.items():
        if not (file.is_file() and file.read_bytes() == text.encode()):
            refuse_existing(file, force)
    for file, text in content.items():
        atomic_write(file, text.encode())
    progress.update(operation.name)
    return path, test


def exercise_source(operation: Operation) -> str:
    """The exercise's file: the operation as the library has it, but for what tells its gradient."""
    parts = blanked(operation)
    return "\n\n".join([_HEAD.format(name=operation.name), parts.imports, "\n" + parts.functions]) + "\n"


def check_exercise(path: str | os.PathLike[str], limit: float = TIME_LIMIT) -> Verdict:
    """Run an exercise against gradcheck, in a process of its own that may take `limit` seconds."""
    path, operation, progress = _opened(path)
    outcome = try_out(operation, path, limit=limit)
    if outcome.passed:
        try:
            progress.update(operation.name, done=True)
        except OSError as error:  # the answer is right all the same
            return Verdict(True, f"{_praise(operation, outcome, progress)}\nThis could not be written down: {error}")
        return Verdict(True, _praise(operation, outcome, progress))
    if outcome.unwritten:
        return Verdict(False, f"{operation.name}: {outcome.text}; start with --hint")
    return Verdict(False, f"{operation.name}: not right yet\n{outcome.text}")


def _praise(operation: Operation, outcome: Outcome, progress: Progress) -> str:
    *others, last = (gradient_name(operation, name) for name in operation.derivations)
    names = f"{', '.join(others)} and {last} are" if others else f"{last} is"
    lines = [f"{operation.name}: passed. {names} right in {outcome.draws} random draws.", *outcome.text.splitlines()]
    following = progress.next(operation.name)
    if following is None:
        return "\n".join([*lines, f"That was the last of the {progress.done} exercises."])
    folder = progress.path.parent
    where = "" if folder.name == FOLDER else f" --dir {quoted(folder)}"
    return "\n".join([*lines, f"Next on the path: tinygrad-llm exercise {following}{where}"])


def hint_exercise(path: str | os.PathLike[str], limit: float = TIME_LIMIT) -> Verdict:
    """The next step of the derivation of the first gradient that is not right yet, beside what the student has."""
    path, operation, progress = _opened(path)
    outcome = try_out(operation, path, hint=True, limit=limit)
    if outcome.passed:
        return Verdict(True, f"{operation.name}: all gradients are right already; check it without --hint")
    if not outcome.missing:
        return Verdict(False, f"{operation.name}: first this\n{outcome.text}")
    hints = progress.state(operation.name).hints
    todo = [_Hint.of(operation, missing, hints) for missing in outcome.missing]
    hint = next((h for h in todo if h.shown < len(h.steps)), todo[0])
    number = min(hint.shown + 1, len(hint.steps))
    progress.update(operation.name, hints={**hints, hint.key: number})
    name, step = gradient_name(operation, hint.missing.input), hint.steps[number - 1]
    sentence = textwrap.fill(plain_sentence(step.why), WIDTH, initial_indent="  ", subsequent_indent="  ")
    lines = [f"{name} of {operation.name}, step {number} of {len(hint.steps)}:", sentence, "", *_numbers(hint.example)]
    lines += _between(step)
    lines += _compared(name, step.value, hint.missing)
    others = [h for h in todo if h is not hint and h.shown < len(h.steps)]
    following = (
        f"--hint goes on with {gradient_name(operation, others[0].missing.input)}" if others else "--reveal shows it"
    )
    last = (
        "--hint gives the next step" if number < len(hint.steps) else f"that was the last step of {name}; {following}"
    )
    return Verdict(False, "\n".join([*lines, "", f"Write it down, then check; {last}."]))


@dataclass(frozen=True)
class _Hint:
    """The derivation of a gradient that is not right yet, and how many of its steps were shown."""

    missing: Missing
    example: Derivation
    steps: tuple[Step, ...]
    key: str
    shown: int

    @classmethod
    def of(cls, operation: Operation, missing: Missing, hints: dict[str, int]) -> _Hint:
        shown = example(operation, missing)
        key = _derivation_key(operation, missing, shown)
        return cls(missing, shown, shown.gradients[0].steps[:-1], key, hints.get(key, 0))  # the last is the vjp itself


def _derivation_key(operation: Operation, missing: Missing, shown: Derivation) -> str:
    """The input; with the sample's number where this sample has a derivation of its own (as gelu's two forms have)."""
    sentences = [step.why for step in shown.gradients[0].steps]
    for number in range(missing.number):
        try:
            other = example(operation, Missing(missing.input, number, None))
        except ValueError:
            continue
        if [step.why for step in other.gradients[0].steps] == sentences:
            return missing.input if number == 0 else f"{missing.input} {number}"
    return missing.input if missing.number == 0 else f"{missing.input} {missing.number}"


def _numbers(shown: Derivation) -> list[str]:
    """The example's inputs, options and cotangent."""
    lines = [f"An example: {shown.call}"]
    cotangents = shown.dy if isinstance(shown.dy, tuple) else (shown.dy,)
    values = shown.value if isinstance(shown.value, tuple) else (shown.value,)
    marks = [f"[{i}]" for i in range(len(values))] if len(values) > 1 else [""]
    outputs = {f"value{mark}": value for mark, value in zip(marks, values, strict=True)}
    given = [*shown.named_inputs, *shown.options.items()]
    given += [(f"dy{mark}", dy) for mark, dy in zip(marks, cotangents, strict=True)]
    for name, value in [*given[: -len(marks)], *outputs.items(), *given[-len(marks) :]]:
        if isinstance(value, np.ndarray | np.generic):
            lines += _array(name, np.asarray(value), shown.exact and name not in outputs)
        elif name not in shown.options:
            lines.append(f"  {name} = {value!r}")
    return lines


def _between(step: Step) -> list[str]:
    """What the step has given a name to on the way."""
    named = worth_showing(step)
    lines = [line for name, value in named.items() for line in _array(name, np.asarray(value))]
    return ["On the way:", *lines] if lines else []


def _compared(name: str, right: Any, missing: Missing) -> list[str]:
    """The gradient by this step, the student's, and the difference."""
    several = isinstance(right, tuple)
    lines = ["What this step gives:"]
    for i, value in enumerate(right if several else (right,)):
        label = f"{name}[{i}]" if several else name
        lines += _array(label, value)
        if missing.mine is not None:
            mine = np.asarray(missing.mine[i], float).reshape(value.shape)
            lines += _array(f"your {label}", mine) + _array("yours minus this", mine - value)
    if missing.mine is None:
        lines += [f"Yours: {missing.problem}"]
    return lines


def _array(name: str, value: Any, exact: bool = False) -> list[str]:
    first, *others = plain_numbers(value, WIDTH - len(name) - 5, exact).splitlines()
    margin = " " * (len(name) + 5)
    return [f"  {name} = {first}", *((margin + line).rstrip() for line in others)]


def reveal_exercise(path: str | os.PathLike[str]) -> str:
    """The lines of the library's vjp."""
    path, operation, progress = _opened(path)
    if not progress.state(operation.name).done:
        progress.update(operation.name, revealed=True)
    return blanked(operation).answer


def exercise_list(folder: str | os.PathLike[str] = FOLDER) -> str:
    """The path with a mark for each exercise."""
    progress = Progress(Path(folder))
    lines = []
    for family, names in PATH.items():
        lines.append(family)
        for name in names:
            mark = str(progress.state(name)) if name in progress.states else "open"
            formula = plain_sentence(f"`{first_formula(find_operation(name).__doc__ or '')}`")
            lines.append(f"  {name:22}{mark:24}{formula}")
    total = sum(map(len, PATH.values()))
    following = progress.next()
    where = "" if str(folder) == FOLDER else f" --dir {quoted(Path(folder))}"
    ending = f"Next: tinygrad-llm exercise {following}{where}" if following else "That is all of them."
    return "\n".join([*lines, "", f"{progress.done} of {total} done. {ending}"])


def quoted(path: Path) -> str:
    """A path as it can be typed."""
    return f'"{path}"' if " " in str(path) else str(path)


def _opened(path: str | os.PathLike[str]) -> tuple[Path, Operation, Progress]:
    """(path, its operation, the progress of its folder), or a ValueError if the file is not an exercise.

    An operation's name stands for its exercise in the usual folder.
    """
    path = Path(path)
    if not path.exists() and str(path) in registry:
        path = Path(FOLDER, f"{path}.py")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the file of one exercise, as in {path / 'softmax.py'}")
    if not path.exists():
        name = path.stem if path.stem in registry else "softmax"
        raise ValueError(f"{path} does not exist; write an exercise first, as with: tinygrad-llm exercise {name}")
    try:
        title = _TITLE.search(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        title = None
    if title is None:
        raise ValueError(
            f'{path} is not an exercise: none of its lines begins with """Exercise: and an operation\'s name'
        )
    try:
        operation = find_operation(title[1])
    except UnknownOperation as error:
        raise ValueError(f"{path}: {error}") from None
    return path.absolute(), operation, Progress(path.absolute().parent)
