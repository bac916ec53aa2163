"""Recurrent layers, stacked, against torch's: outputs, states and all gradients."""

import numpy as np
import pytest

from tinygrad_llm import Tensor
from tinygrad_llm.nn.recurrent import LAYERS

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[peers]'")


@pytest.mark.parametrize("kind", LAYERS)
def test_outputs_states_and_gradients_are_those_of_torch(kind):
    rng = np.random.default_rng(0)
    theirs = getattr(torch.nn, kind.upper())(5, 7, num_layers=2, batch_first=True, dtype=torch.float64)
    ours = [LAYERS[kind](inputs, 7).astype(np.float64) for inputs in (5, 7)]
    pairs = []
    with torch.no_grad():
        for number, layer in enumerate(ours):
            names = [f"{part}_l{number}" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            peers = [getattr(theirs, name) for name in names]
            if kind != "gru":
                peers[3].zero_()  # it would only be added to the other
            mine = [layer.weight_x, layer.weight_h, layer.bias, *([layer.state_bias] if kind == "gru" else [])]
            for parameter, peer in zip(mine, peers, strict=False):
                parameter.data = np.ascontiguousarray(peer.numpy().T)
                pairs.append((parameter, peer))
    x, arrays = rng.standard_normal((3, 6, 5)), 2 if kind == "lstm" else 1
    first = [rng.standard_normal((2, 3, 7)) for _ in range(arrays)]
    xs, states = Tensor(x, requires_grad=True), [Tensor(a, requires_grad=True) for a in first]
    y, ends = xs, []
    for number, layer in enumerate(ours):
        y, end = layer(y, tuple(state[number] for state in states))
        ends.append(end)
    tx = torch.tensor(x, requires_grad=True)
    ts = [torch.tensor(a, requires_grad=True) for a in first]
    ty, tends = theirs(tx, tuple(ts) if arrays == 2 else ts[0])
    tends = tends if arrays == 2 else (tends,)

    def close(mine, peer):
        np.testing.assert_allclose(mine, peer.detach().numpy(), rtol=1e-10, atol=1e-12)

    close(y.data, ty)
    for place, tend in enumerate(tends):
        close(np.stack([end[place].data for end in ends]), tend)
    dy, dends = rng.standard_normal(y.shape), [rng.standard_normal((2, 3, 7)) for _ in range(arrays)]
    total, peer_total = (y * dy).sum(), (ty * torch.tensor(dy)).sum()
    for place, d in enumerate(dends):
        for number in range(2):
            total = total + (ends[number][place] * d[number]).sum()
        peer_total = peer_total + (tends[place] * torch.tensor(d)).sum()
    total.backward()
    peer_total.backward()
    close(xs.grad, tx.grad)
    for mine, peer in zip(states, ts, strict=True):
        close(mine.grad, peer.grad)
    for parameter, peer in pairs:
        close(parameter.grad.T, peer.grad)
