"""Trying a mutant: the tests that can reach its file are run against it, in a process forked for it alone.

The parent has imported pytest, hypothesis and NumPy, but nothing of the package; so a child starts at once, and imports
the package afresh, with the mutant in the place of its file. Nothing is written to a file. A child that takes much
longer than the unchanged program, or much more memory, has found its mutant.
"""

from __future__ import annotations

import ast
import importlib.machinery
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any

import _hypothesis_pytestplugin
import hypothesis.extra.numpy  # noqa: F401  (what a child needs is loaded before it is forked)
import numpy  # noqa: F401
import pytest

MEMORY_LIMIT = 6 * 2**30
MATRIX = "tests/ops/test_every_operation.py"
CORE = ("tape.py", "tensor.py", "operation.py")
CORE_TESTS = ["tests/test_tape.py", "tests/test_tensor.py", "tests/test_operation.py", "tests/test_checking.py"]


@dataclass
class Plan:
    """Which tests are run against the mutants of one file, in which order, and how long they may take."""

    files: list[str]
    modules: list[str]  # the ops whose rows of the matrix are run, by the module they are defined in
    seconds: dict[str, float] = field(default_factory=dict)
    limit: float = 600.0


def plan(root: Path, module: str) -> Plan:
    """The tests of a file itself, then those of the files of ops that import it; for the core, everything."""
    package = root / "tinygrad_llm"
    names = sorted(f"ops/{p.name}" for p in (package / "ops").glob("*.py") if p.stem != "__init__")
    reached = names if module in CORE else _importers(package, module, names)
    own = [f"tests/ops/test_{Path(m).stem}.py" for m in reached]
    files = [*(CORE_TESTS if module in CORE else []), *own[:1], MATRIX, *own[1:]]
    return Plan([f for f in files if (root / f).exists()], [f"tinygrad_llm.ops.{Path(m).stem}" for m in reached])


def _importers(package: Path, module: str, names: list[str]) -> list[str]:
    """`module`, and all files of ops that import it or one of its importers."""
    uses = {}
    for name in names:
        tree = ast.parse((package / name).read_text(encoding="utf-8"))
        imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
        uses[name] = {f"ops/{m.rpartition('.')[2]}.py" for m in imported if m.startswith("tinygrad_llm.ops.")}
    reached = [module]
    for known in reached:
        reached += [name for name in names if known in uses[name] and name not in reached]
    return reached


@dataclass
class Outcome:
    """`killer` is the first test that failed, or how else the mutant was found; None if it survived."""

    killer: str | None
    seconds: dict[str, float]


class Trial:
    """A child process at work on one mutant."""

    def __init__(self, root: Path, module: str, source: str | None, plan: Plan) -> None:
        reading, writing = os.pipe()
        self.began, self.plan, self.pipe = time.monotonic(), plan, reading
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reading)
            _child(root, module, source, plan, writing)
        os.close(writing)
        self.received = b""

    def outcome(self) -> Outcome | None:
        """None while the child is running."""
        late = time.monotonic() - self.began > self.plan.limit
        if late:
            os.kill(self.pid, signal.SIGKILL)
        else:
            chunk = os.read(self.pipe, 1 << 20)
            self.received += chunk
            if chunk:
                return None
        os.close(self.pipe)
        os.waitpid(self.pid, 0)
        if late:
            return Outcome(f"no end after {self.plan.limit:.0f} s", {})
        if not self.received:
            return Outcome("the process died", {})
        return Outcome(**json.loads(self.received))


def wait(trials: list[Trial]) -> None:
    """Until one of them has something to say, or a second has passed."""
    select.select([t.pipe for t in trials], [], [], 1.0)


def _child(root: Path, module: str, source: str | None, plan: Plan, pipe: int) -> None:
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
        os.chdir(root)
        sys.path[:] = [str(root), *(p for p in sys.path if p)]
        if source is not None:
            sys.meta_path.insert(0, _Mutated(root, module, source))
        watcher = _Watcher(plan)
        sys.modules["libcst"] = None  # type: ignore[assignment]  # or hypothesis takes a second to write a patch
        options = ["-x", "-q", "--tb=no", "-p", "no:cacheprovider", "--hypothesis-profile=mutation"]
        status = pytest.main([*options, *plan.files], plugins=[watcher, _hypothesis_pytestplugin])
        if status and watcher.failed is None:
            watcher.failed = "collection"
        os.write(pipe, json.dumps({"killer": watcher.failed, "seconds": watcher.seconds}).encode())
    finally:
        os._exit(0)


class _Watcher:
    """Chooses and sorts the tests, and sees what becomes of them."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.failed: str | None = None
        self.seconds: dict[str, float] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        import tinygrad_llm

        def rank(item: pytest.Item) -> Any:
            name = getattr(item, "callspec", None) and item.callspec.params.get("name")
            if not item.nodeid.startswith(MATRIX):
                module = 0
            else:
                module = self.plan.modules.index(tinygrad_llm.registry[name].__module__)
            slow = self.plan.seconds.get(item.nodeid, 0.0) > 0.5
            return slow, module

        def wanted(item: pytest.Item) -> bool:
            if not item.nodeid.startswith(MATRIX):
                return True
            operation = tinygrad_llm.registry.get(item.callspec.params["name"])
            return operation is not None and operation.__module__ in self.plan.modules

        items[:] = sorted(filter(wanted, items), key=rank)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed and self.failed is None:
            self.failed = report.nodeid


class _Mutated(importlib.machinery.SourceFileLoader):
    """Finds and loads one module, from the mutated source instead of the file."""

    def __init__(self, root: Path, module: str, source: str) -> None:
        name = f"tinygrad_llm.{module.removesuffix('.py').replace('/', '.')}"
        super().__init__(name, str(root / "tinygrad_llm" / module))
        self.mutated = source

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self.name:
            return None
        return importlib.machinery.ModuleSpec(name, self, origin=self.path)

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.mutated, self.path, "exec", dont_inherit=True)


def measure(root: Path, module: str, plan: Plan, report: Callable[[str], None]) -> None:
    """Run the unchanged program once: the tests must pass, and how long they take sets the limit."""
    began = time.monotonic()
    trial = Trial(root, module, None, plan)
    while (outcome := trial.outcome()) is None:
        wait([trial])
    if outcome.killer is not None:
        raise RuntimeError(f"{module}: without any change {outcome.killer} fails")
    plan.seconds = outcome.seconds
    plan.limit = 20 + 10 * (time.monotonic() - began)
    report(f"{module}: {len(outcome.seconds)} tests, {time.monotonic() - began:.1f} s unchanged")
