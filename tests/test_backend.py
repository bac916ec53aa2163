"""Who computes: references, kernels, and where kernels are looked for."""

import os
import subprocess
import sys

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm import backend
from tinygrad_llm.backend import SMALL, Kernel, largest, part_of, twinned


@pytest.fixture(autouse=True)
def auto():
    """The usual backend, whatever the environment says."""
    with tg.use_backend("auto"):
        yield


def test_a_plain_function_may_have_a_twin():
    @twinned
    def total(x):
        return x.sum()

    x = np.ones(3)
    assert total(x) == 3

    @total.kernel
    def _(x):
        return -1.0

    assert total(x) == -1
    with tg.use_backend("numpy"):
        assert total(x) == 3
    assert total.__name__ == "total"


def test_small_arrays_do_not_load_a_module_of_kernels(monkeypatch):
    loaded = []
    monkeypatch.setattr(backend, "_load", loaded.append)
    slot = Kernel("tinygrad_llm.ops.nothing")
    with tg.use_backend("auto"):
        assert slot.run((np.ones(SMALL - 1), 3.0), {}) is NotImplemented
        assert not loaded
        assert slot.run((2, [np.ones(SMALL)]), {}) is NotImplemented
    assert loaded == ["tinygrad_llm.kernels.nothing"]
    assert not slot
    assert loaded == ["tinygrad_llm.kernels.nothing"], "a module is looked for once"


def test_every_size_goes_to_the_kernel_if_it_was_asked_for(monkeypatch):
    loaded = []
    monkeypatch.setattr(backend, "_load", loaded.append)
    monkeypatch.setattr(backend, "why_no_kernels", lambda: "")
    with tg.use_backend("numpy"):
        Kernel("tinygrad_llm.ops.nothing").run((np.ones(SMALL),), {})
    assert not loaded
    with tg.use_backend("numba"):
        Kernel("tinygrad_llm.ops.nothing").run((np.ones(1),), {})
    assert loaded


def test_the_kernels_of_a_users_own_operation_are_not_looked_for_and_serve_every_size():
    slot = Kernel("their_module.ops")
    assert not slot
    slot(lambda x: x + 1)
    with tg.use_backend("auto"):
        assert slot.run((1,), {}) == 2


def test_the_largest_array_counts():
    assert largest((np.ones(3), [np.ones((4, 5)), 7], "text")) == 20
    assert largest(()) == 0


@pytest.mark.parametrize(
    "setting",
    [
        {"NUMBA_DISABLE_JIT": "1"},
        {"MISSING": "numba"},
        {"MISSING": "tinygrad_llm.kernels"},
        {"MISSING": "tinygrad_llm.kernels.norms"},
        {"TINYGRAD_LLM_BACKEND": "numpy"},
    ],
    ids=str,
)
def test_without_kernels_numpy_computes(setting):
    code = """
import os, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        missing = os.environ.get("MISSING")
        if missing and (name == missing or name.startswith(missing + ".")):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
import numpy as np
import tinygrad_llm as tg
x = tg.Tensor(np.ones((4, 1000), np.float32), requires_grad=True)
tg.ops.layer_norm(x, np.ones(1000, np.float32), np.zeros(1000, np.float32)).sum().backward()
raise SystemExit("tinygrad_llm.kernels.norms" in sys.modules)
"""
    environment = {**os.environ, **setting}
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=60).returncode == 0


def from_environment(monkeypatch, value):
    monkeypatch.setattr(backend, "_backend", None)
    monkeypatch.setenv("TINYGRAD_LLM_BACKEND", value)
    return backend.chosen_backend


def test_the_environment_chooses_when_it_is_first_needed(monkeypatch):
    assert from_environment(monkeypatch, "numpy")() == "numpy"
    monkeypatch.setenv("TINYGRAD_LLM_BACKEND", "nonsense")
    assert backend.chosen_backend() == "numpy", "the first call settles it"
    assert from_environment(monkeypatch, "")() == "auto"


def test_nonsense_in_the_environment_is_an_error_of_every_call_until_it_is_settled(monkeypatch):
    chosen = from_environment(monkeypatch, "nonsense")
    for call in (chosen, chosen, lambda: Kernel("their_module.ops").run((), {})):
        with pytest.raises(ValueError, match="TINYGRAD_LLM_BACKEND='nonsense': expected one of auto, numpy, numba"):
            call()
    with tg.use_backend("numpy"):
        assert chosen() == "numpy"


def test_kernels_that_were_asked_for_and_cannot_be_had_are_an_error(monkeypatch):
    monkeypatch.setattr(backend, "why_no_kernels", lambda: "the reason")
    with pytest.raises(ValueError, match="use_backend: 'numba' cannot be had here: the reason; 'auto' does without"):
        tg.use_backend("numba")
    assert backend.chosen_backend() == "auto", "nothing has changed"
    with pytest.raises(ValueError, match="TINYGRAD_LLM_BACKEND: 'numba' cannot be had here: the reason"):
        from_environment(monkeypatch, "numba")()
    with tg.use_backend("auto"), tg.use_backend("numpy"):
        assert backend.chosen_backend() == "numpy"


def test_the_reason_is_that_of_the_import(monkeypatch):
    monkeypatch.setitem(sys.modules, "tinygrad_llm.kernels.compiled", None)
    assert "tinygrad_llm.kernels.compiled" in backend.why_no_kernels()
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "tinygrad_llm.kernels.compiled", sys)
    assert backend.why_no_kernels() == ""


def test_the_kernel_of_a_whole_computes_its_parts():
    used = []
    kernel = Kernel()
    kernel._small, kernel._module = 10, ""

    @kernel
    def _(x):
        used.append(x.size)
        return x

    small = np.ones(3)
    with tg.use_backend("auto"):
        assert kernel.run((small,), {}) is NotImplemented
        with part_of(10):
            assert kernel.run((small,), {}) is small
            with part_of(9):
                assert kernel.run((small,), {}) is NotImplemented
        assert kernel.run((small,), {}) is NotImplemented
    with tg.use_backend("numpy"), part_of(99):
        assert kernel.run((small,), {}) is NotImplemented
    assert used == [3]
