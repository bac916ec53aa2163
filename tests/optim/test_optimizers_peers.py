"""SGD, Adam and AdamW follow torch's own step for step."""

import numpy as np
import pytest

from tinygrad_llm.nn import Parameter
from tinygrad_llm.optim import SGD, Adam, AdamW

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[peers]'")

CASES = {
    "sgd": (lambda n: SGD(n, 0.05), lambda p: torch.optim.SGD(p, 0.05)),
    "momentum": (lambda n: SGD(n, 0.05, momentum=0.9), lambda p: torch.optim.SGD(p, 0.05, momentum=0.9)),
    "nesterov, decay": (
        lambda n: SGD(n, 0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
    ),
    "adam": (lambda n: Adam(n, 0.01), lambda p: torch.optim.Adam(p, 0.01)),
    "adamw": (
        lambda n: AdamW(n, 0.01, betas=(0.9, 0.95), weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, 0.01, betas=(0.9, 0.95), weight_decay=0.1),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_hundred_steps_are_those_of_torch(case):
    ours, theirs = CASES[case]
    rng = np.random.default_rng(0)
    start, target = rng.standard_normal((5, 4)), rng.standard_normal((5, 4))
    mine, peer = Parameter(start.copy(), decay=True), torch.nn.Parameter(torch.from_numpy(start.copy()))
    own, other = ours([("w", mine)]), theirs([peer])
    for _ in range(100):
        noise = rng.standard_normal((5, 4))
        mine.grad = 2 * (mine.data - target) + noise
        peer.grad = 2 * (peer.data - torch.from_numpy(target)) + torch.from_numpy(noise)
        own.step()
        other.step()
        np.testing.assert_allclose(mine.data, peer.detach().numpy(), rtol=1e-6, atol=1e-6)
