"""The compiler's settings: arithmetic, the cache, and what the user is told."""

import ast
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("tinygrad_llm.kernels.compiled", reason="no kernels here", exc_type=ImportError)

from tinygrad_llm.kernels import compiled as settings
from tinygrad_llm.kernels.compiled import compiled


def test_nan_and_infinity_are_not_assumed_away():
    @compiled
    def total(x):
        sum = x.dtype.type(0)
        for i in range(len(x)):
            sum += x[i]
        return sum

    x = np.ones(100, np.float32)
    assert total(x) == 100
    x[7] = np.inf
    assert total(x) == np.inf
    x[9] = np.nan
    assert np.isnan(total(x))


@pytest.mark.parametrize(
    "line",
    [
        "from tinygrad_llm.kernels.leaf import a",
        "from tinygrad_llm.kernels.leaf import (\n    a,\n)",
        "from tinygrad_llm.kernels import leaf",
        "from tinygrad_llm.kernels import leaf as tree  # a comment",
        "from tinygrad_llm.kernels import (\n    other,  # (a comment)\n    leaf,\n)",
        "def f():\n    from tinygrad_llm.kernels import other as b, leaf",
    ],
)
def test_a_fingerprint_changes_with_the_files_that_a_kernel_uses(line, tmp_path, monkeypatch):
    (tmp_path / "leaf.py").write_text("a = 1\n")
    (tmp_path / "user.py").write_text(f"import math\n{line}\nfrom tinygrad_llm import threads\n")
    (tmp_path / "other.py").write_text("b = 1\n")
    monkeypatch.setattr(settings, "__file__", str(tmp_path / "compiled.py"))

    def fingerprints():
        settings._fingerprint.cache_clear()
        return settings._fingerprint("user"), settings._fingerprint("other")

    try:
        before = fingerprints()
        assert fingerprints() == before
        (tmp_path / "leaf.py").write_text("a = 2\n")
        after = fingerprints()
    finally:
        settings._fingerprint.cache_clear()
    assert after[0] != before[0]
    assert after[1] == before[1]


def modules_imported(file):
    for node in ast.walk(ast.parse(file.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        paths = [f"{node.module}.{name}" for name in names] if isinstance(node, ast.ImportFrom) else names
        yield from (path.split(".")[2] for path in paths if path.startswith("tinygrad_llm.kernels."))


@pytest.mark.parametrize("file", sorted(Path(settings.__file__).parent.glob("*.py")), ids=lambda file: file.stem)
def test_all_modules_that_a_kernel_imports_are_found(file):
    assert set(settings._imported(file.read_text())) == set(modules_imported(file))


KERNEL = """
import sys
from tinygrad_llm.kernels import compiled as settings
settings.PATIENCE = 0
@settings.compiled
def first(x): return x + 1
@settings.compiled
def second(x): return x + 2
print(first(1) + second(1), sum(first.stats.cache_hits.values()))
"""


def run(file, **setting):
    environment = {**os.environ, **setting}
    result = subprocess.run([sys.executable, str(file)], env=environment, timeout=100, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.split(), result.stderr


def test_a_compiled_kernel_is_kept_and_the_user_is_told_once(tmp_path):
    file = tmp_path / "kernels.py"
    file.write_text(KERNEL)
    folder = str(tmp_path / "cache")
    numbers, told = run(file, NUMBA_CACHE_DIR=folder)
    assert numbers == ["5", "0"]
    assert told.count("compiling kernels") == 1
    assert "(once; the result is kept)" in told
    numbers, told = run(file, NUMBA_CACHE_DIR=folder)
    assert numbers == ["5", "1"]
    assert not told


def test_the_user_is_told_while_the_first_kernel_is_still_being_compiled(monkeypatch, capsys):
    told = threading.Event()
    monkeypatch.setattr(settings, "PATIENCE", 0.01)
    notice = settings._Notice()
    tell = notice._tell
    monkeypatch.setattr(notice, "_tell", lambda dispatcher: (tell(dispatcher), told.set()))
    compiling = SimpleNamespace(data={"dispatcher": SimpleNamespace(_cache=None)})
    notice.on_start(compiling)
    notice.on_start(compiling)  # a function that it calls
    notice.on_end(compiling)
    assert told.wait(60), "the compiling goes on"
    notice.on_end(compiling)
    timer = notice.timer
    notice.on_start(compiling)
    notice.on_end(compiling)
    assert notice.timer is timer, "once is enough"
    assert capsys.readouterr().err.count("compiling kernels for this processor (once; the result is kept) ...") == 1


def test_nobody_is_told_of_short_compiling(monkeypatch, capsys):
    monkeypatch.setattr(settings, "PATIENCE", 1000.0)
    notice = settings._Notice()
    compiling = SimpleNamespace(data={"dispatcher": SimpleNamespace(_cache=None)})
    for seconds in (1000.0, 999.9):
        notice.on_start(compiling)
        assert notice.timer.interval == pytest.approx(seconds, abs=0.05)
        assert notice.timer.daemon
        notice.on_end(compiling)
        assert notice.timer.finished.is_set(), "no thread goes on waiting"
        notice.seconds = 0.1
    assert capsys.readouterr().err == ""


def test_without_a_folder_to_write_to_kernels_are_compiled_each_time(tmp_path):
    file = tmp_path / "kernels.py"
    file.write_text(KERNEL)
    blocked = tmp_path / "blocked"
    for path in (blocked, tmp_path / "__pycache__"):
        path.write_text("a file, not a folder")
    for _ in range(2):
        numbers, told = run(file, NUMBA_CACHE_DIR=str(blocked), HOME=str(blocked), XDG_CACHE_HOME=str(blocked))
        assert numbers == ["5", "0"]
        assert "(at every start: no folder to keep the result in; set NUMBA_CACHE_DIR" in told
