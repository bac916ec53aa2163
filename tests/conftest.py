"""hypothesis profiles: `dev` by default, `ci`, and `deep`; choose with ``pytest --hypothesis-profile=deep``."""

import os

from hypothesis import HealthCheck, Phase, settings

if "PYTEST_XDIST_WORKER" in os.environ:  # workers of `pytest -n` must not fight over the cores
    os.environ.setdefault("TINYGRAD_LLM_THREADS", "1")

# the only fixture under @given selects a backend, and nothing in it may differ from example to example
shared = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
settings.register_profile("dev", max_examples=10, **shared)
settings.register_profile("ci", max_examples=50, **shared)
settings.register_profile("deep", max_examples=1000, **shared)
# for benchmarks/mutation: the same few cases each time, and no search for the smallest of those that fail
few = {"max_examples": 5, "derandomize": True, "database": None, "phases": [Phase.explicit, Phase.generate]}
settings.register_profile("mutation", **few, **shared)
settings.load_profile("dev")
