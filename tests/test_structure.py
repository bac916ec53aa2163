"""The house rules that a machine can check: imports point one way, names are one thing, files stay short."""

import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import tinygrad_llm

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tinygrad_llm"


def test_imports_point_one_way():
    code = "import sys; from importlinter.cli import lint_imports_command as c; sys.exit(c())"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def modules():
    names = [m.name for m in pkgutil.walk_packages(tinygrad_llm.__path__, "tinygrad_llm.")]
    if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":  # kernels refuse to be imported then
        names = [name for name in names if not name.startswith("tinygrad_llm.kernels.")]
    return [importlib.import_module(name) for name in names if not name.endswith("__main__")]


def test_no_public_name_is_both_a_module_and_a_function():
    packages = [tinygrad_llm, *(m for m in modules() if hasattr(m, "__path__"))]
    for package in packages:
        for name in getattr(package, "__all__", []):
            found = getattr(package, name)
            if isinstance(found, ModuleType):
                continue
            assert not (Path(package.__path__[0]) / f"{name}.py").exists(), f"{package.__name__}.{name}"


def test_everything_that_is_exported_exists_and_is_sorted():
    for module in modules():
        for name in getattr(module, "__all__", []):
            assert hasattr(module, name), f"{module.__name__} exports {name}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_are_short_and_say_what_they_are(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    assert text.startswith('"""')


def test_the_package_carries_its_types():
    assert (PACKAGE / "py.typed").exists()
