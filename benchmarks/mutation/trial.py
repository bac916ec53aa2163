"""Trying mutants: the tests that can reach a file are run against each of its mutants, in a process of its own.

A `Worker` is a process that has collected the tests of one file. For each mutant it forks a child, which puts the
changed function in the place of the original and runs the tests; where that cannot be done (a decorator is gone, a
class or a constant changed, or the file belongs to the core) the child forgets the package and collects anew, which
takes half a second longer. Nothing is written to any file. A child that takes much longer than the unchanged program,
or much more memory, has found its mutant.
"""

from __future__ import annotations

import ast
import gc
import importlib.machinery
import json
import math
import os
import resource
import select
import signal
import sys
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import _hypothesis_pytestplugin
import hypothesis.extra.numpy  # noqa: F401  (what the workers need is loaded before they are forked)
import numpy  # noqa: F401
import pytest

MEMORY_LIMIT = 6 * 2**30
PATIENCE = 1800.0  # seconds for a child that uses no processor time
TOO_SLOW = 1.0  # seconds; the few tests that take longer, such as chains of 100,000 operations, are left out
MATRIX = "tests/ops/test_every_operation.py"
CORE = ("tape.py", "tensor.py", "operation.py", "locks.py")
CORE_TESTS = [f"tests/{name}.py" for name in ("test_tape", "test_tensor", "test_operation", "test_checking")]
CORE_TESTS += ["tests/study/test_graph.py", "tests/study/test_why.py"]


@dataclass
class Plan:
    """Which tests are run against the mutants of one file, in which order, and how long they may take."""

    files: list[str]
    modules: list[str]  # the ops whose rows of the matrix are run, by the module they are defined in
    seconds: dict[str, float] = field(default_factory=dict)  # of each test
    limit: float = 600.0  # seconds of processor time, which do not depend on what else the machine does


def plan(root: Path, module: str) -> Plan:
    """The tests of a file itself, then those of the files of ops that import it; for the core, its own."""
    package = root / "tinygrad_llm"
    if module in CORE:
        return Plan([f for f in CORE_TESTS if (root / f).exists()], [])
    names = sorted(f"ops/{p.name}" for p in (package / "ops").glob("*.py") if p.stem != "__init__")
    reached = _importers(package, module, names)
    own = [f"tests/ops/test_{Path(m).stem}.py" for m in reached]
    files = [*own[:1], MATRIX, *own[1:]]
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
    seconds: dict[str, float] = field(default_factory=dict)
    processor: float = 0.0


class Worker:
    """A process that tries the mutants of one file, one at a time."""

    alive: ClassVar[list[Worker]] = []

    def __init__(self, root: Path, module: str, plan: Plan) -> None:
        self.module = module
        requests, self._send = os.pipe()
        self.answers, answer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            for worker in (*self.alive, self):  # or the others would not notice that their pipes are closed
                os.close(worker._send)
                os.close(worker.answers)
            _serve(root, module, plan, requests, answer)
        os.close(requests)
        os.close(answer)
        self.alive.append(self)

    def start(self, source: str, in_derivation: bool = False) -> None:
        """Begin with a changed file; `in_derivation` says which tests are likely to notice."""
        _write(self._send, {"source": source, "in_derivation": in_derivation})

    def ready(self) -> bool:
        return bool(select.select([self.answers], [], [], 0)[0])

    def outcome(self) -> Outcome:
        """Waits for it."""
        answer = _read(self.answers)
        if answer is None:
            raise RuntimeError(f"{self.module}: its tests cannot be collected")
        return Outcome(**answer)

    def stop(self) -> None:
        self.alive.remove(self)
        os.close(self._send)
        os.close(self.answers)
        os.waitpid(self.pid, 0)


def wait(workers: list[Worker]) -> None:
    """Until one of them has an answer."""
    select.select([w.answers for w in workers], [], [])


def measured(root: Path, module: str) -> tuple[Plan, str]:
    """The plan for a file, and a line about it: the unchanged program must pass, and how long it takes is the limit."""
    result = plan(root, module)
    worker = Worker(root, module, result)
    worker.start((root / "tinygrad_llm" / module).read_text(encoding="utf-8"))
    outcome = worker.outcome()
    worker.stop()
    if outcome.killer is not None:
        raise RuntimeError(f"{module}: without any change {outcome.killer} fails")
    result.seconds = outcome.seconds
    result.limit = 10 + 5 * outcome.processor
    return result, f"{module}: {len(outcome.seconds)} tests, {outcome.processor:.1f} s unchanged"


# ---------------------------------------------------------------------------------------------------------------------
# In the worker


def _write(pipe: int, content: Any) -> None:
    data = json.dumps(content).encode() + b"\n"
    while data:
        data = data[os.write(pipe, data) :]


def _read(pipe: int) -> Any:
    """One message; None if there will be none."""
    data = b""
    while not data.endswith(b"\n"):
        chunk = os.read(pipe, 1 << 20)
        if not chunk:
            return None
        data += chunk
    return json.loads(data)


def _serve(root: Path, module: str, plan: Plan, requests: int, answers: int) -> None:
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        os.chdir(root)
        sys.path[:] = [str(root), *(p for p in sys.path if p)]
        _pytest(plan, _Server(root, module, plan, requests, answers))
    finally:
        os._exit(0)


def _pytest(plan: Plan, plugin: Any) -> None:
    options = [
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:unraisableexception",
        "--hypothesis-profile=mutation",
    ]
    pytest.main([*options, *plan.files], plugins=[plugin, _hypothesis_pytestplugin])


class _Server:
    """Instead of running the tests that pytest has collected, runs them again and again, in children."""

    def __init__(self, root: Path, module: str, plan: Plan, requests: int, answers: int) -> None:
        self.root, self.module, self.plan, self.requests, self.answers = root, module, plan, requests, answers

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        gc.freeze()  # what is loaded by now need not be searched for garbage again and again
        while (request := _read(self.requests)) is not None:
            _write(self.answers, self._tried(session, request))
        return True

    def _tried(self, session: pytest.Session, request: dict[str, Any]) -> dict[str, Any]:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._child(session, request, writing)
        os.close(writing)
        answer: Any = {"killer": "it waited for something"}
        if select.select([reading], [], [], PATIENCE)[0]:
            answer = _read(reading)
        os.close(reading)
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        if answer is None:
            late = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU
            answer = {"killer": f"no end after {self.plan.limit:.0f} s" if late else "the process died"}
        return answer

    def _child(self, session: pytest.Session, request: dict[str, Any], pipe: int) -> None:
        try:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(self.plan.limit), resource.RLIM_INFINITY))
            run = _Run(self.plan, request["in_derivation"], pipe)
            if self.module not in CORE and patched(self.module, request["source"]):
                session.config.pluginmanager.register(run)
                for item, following in run.chosen(session.items):
                    item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            else:
                _forget(self.root)
                sys.meta_path.insert(0, _Mutated(self.root, self.module, request["source"]))
                _pytest(self.plan, run)
                run.report("its tests cannot be collected")
            run.report(None)
        except Exception as error:
            _write(pipe, {"killer": f"it cannot be loaded: {error!r}"})
        finally:
            os._exit(0)


class _Run:
    """Chooses and sorts the tests, and ends the process when one of them has failed."""

    def __init__(self, plan: Plan, derivations_first: bool, pipe: int) -> None:
        self.plan, self.derivations_first, self.pipe = plan, derivations_first, pipe
        self.seconds: dict[str, float] = {}
        self.clock = time.process_time()

    def pytest_runtestloop(self, session: pytest.Session) -> None:
        for item, following in self.chosen(session.items):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        self.report(None)

    def chosen(self, items: list[pytest.Item]) -> Iterator[tuple[pytest.Item, pytest.Item | None]]:
        """Each test with the one after it: those of the file itself first, then those of the files that import it."""
        import tinygrad_llm

        ranked = []
        for item in items:
            rank = 0
            if item.nodeid.startswith(MATRIX):
                operation = tinygrad_llm.registry.get(item.callspec.params["name"])  # type: ignore[attr-defined]
                if operation is None or operation.__module__ not in self.plan.modules:
                    continue
                rank = self.plan.modules.index(operation.__module__)
            seconds = self.plan.seconds.get(item.nodeid, 0.0)
            if seconds <= TOO_SLOW:
                later = self.derivations_first and "test_derivation" not in item.name
                ranked.append(((later, seconds > TOO_SLOW / 2, rank), item))
        ordered = [item for _, item in sorted(ranked, key=lambda pair: pair[0])]
        return zip(ordered, [*ordered[1:], None], strict=True)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        before, self.clock = self.clock, time.process_time()
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + self.clock - before
        if report.failed:
            self.report(report.nodeid)

    def report(self, killer: str | None) -> None:
        """Tell the parent, and end at once."""
        _write(self.pipe, {"killer": killer, "seconds": self.seconds, "processor": time.process_time()})
        os._exit(0)


def patched(module: str, source: str) -> bool:
    """Put the functions and operations of a changed file in the place of those already loaded, if all can be.

    Others hold on to the old objects (``from ... import rows``), so these get the insides of the new ones.
    """
    from tinygrad_llm.operation import Operation
    from tinygrad_llm.tensor import registry

    loaded = sys.modules[_name(module)]
    old = dict(vars(loaded))
    exec(compile(source, str(loaded.__file__), "exec", dont_inherit=True), vars(loaded))
    for name, before in old.items():
        after = vars(loaded)[name]
        if before is after or name == "__builtins__":
            continue
        if type(before) is not type(after):
            return False
        if isinstance(after, Operation):
            vars(before).clear()
            vars(before).update(vars(after))
            registry[after.name] = before
        elif isinstance(after, types.FunctionType):
            before.__code__, before.__defaults__ = after.__code__, after.__defaults__
            before.__kwdefaults__ = after.__kwdefaults__
        elif before != after:
            return False
        vars(loaded)[name] = before
    return True


def _name(module: str) -> str:
    return f"tinygrad_llm.{module.removesuffix('.py').replace('/', '.')}"


def _forget(root: Path) -> None:
    """As if nothing of the repository had been imported."""
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(root)):
            del sys.modules[name]


class _Mutated(importlib.machinery.SourceFileLoader):
    """Finds and loads one module, from the mutated source instead of the file."""

    def __init__(self, root: Path, module: str, source: str) -> None:
        super().__init__(_name(module), str(root / "tinygrad_llm" / module))
        self.mutated = source

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self.name:
            return None
        return importlib.machinery.ModuleSpec(name, self, origin=self.path)

    def get_code(self, fullname: str) -> types.CodeType:
        return compile(self.mutated, self.path, "exec", dont_inherit=True)
