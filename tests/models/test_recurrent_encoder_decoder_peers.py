"""The recurrent encoder-decoder against one that is put together of torch's layers: logits, loss and all gradients."""

from dataclasses import replace

import numpy as np
import pytest

from tinygrad_llm.models import RecurrentEncoderDecoder, RecurrentEncoderDecoderConfig

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[peers]'")

GRU = RecurrentEncoderDecoderConfig("gru", 11, 7, 6, 8, 2, pad_id=0, start_id=4, end_id=5)
CONFIGS = {
    "GRU": GRU,
    "GRU without attention": replace(GRU, attention=False),
    "GRU, one way": replace(GRU, bidirectional=False, layers=1),
    "LSTM": replace(GRU, kind="lstm"),
    "LSTM, one way, without attention": replace(GRU, kind="lstm", bidirectional=False, attention=False),
    "RNN": replace(GRU, kind="rnn"),
}


class Peer(torch.nn.Module):
    """The same model, written as one would with torch: packed sequences, bmm and softmax."""

    def __init__(self, config):
        super().__init__()
        self.c = c = config
        layer = getattr(torch.nn, c.kind.upper())
        ways = 2 if c.bidirectional else 1
        sizes = {"num_layers": c.layers, "batch_first": True}
        self.encoder_embedding = torch.nn.Embedding(c.vocab_size, c.channels)
        self.decoder_embedding = torch.nn.Embedding(c.decoder_vocab_size, c.channels)
        self.encoder = layer(c.channels, c.units // ways, bidirectional=c.bidirectional, **sizes)
        self.decoder = layer(c.channels, c.units, **sizes)
        self.query = torch.nn.Linear(c.units, c.units, bias=False)
        self.out = torch.nn.Linear(2 * c.units, c.units, bias=False)
        self.head = torch.nn.Linear(c.units, c.decoder_vocab_size)

    def forward(self, ids, outputs, lengths):
        c, total = self.c, ids.shape[1]
        pack, unpack = torch.nn.utils.rnn.pack_padded_sequence, torch.nn.utils.rnn.pad_packed_sequence
        packed = pack(self.encoder_embedding(ids), lengths, batch_first=True, enforce_sorted=False)
        memory, ends = self.encoder(packed)
        memory, _ = unpack(memory, batch_first=True, total_length=total)

        def joined(state):  # (L ways, B, F / ways) to (L, B, F)
            ways = 2 if c.bidirectional else 1
            parts = state.reshape(c.layers, ways, *state.shape[1:])
            return torch.cat([parts[:, way] for way in range(ways)], dim=-1).contiguous()

        ends = tuple(map(joined, ends)) if c.kind == "lstm" else joined(ends)
        h, _ = self.decoder(self.decoder_embedding(outputs), ends)
        if c.attention:
            scores = self.query(h) @ memory.transpose(1, 2)
            hidden = torch.arange(total)[None] >= lengths[:, None]
            weights = scores.masked_fill(hidden[:, None], -torch.inf).softmax(-1)
            h = torch.tanh(self.out(torch.cat([weights @ memory, h], dim=-1)))
        return self.head(h)


def pairs(ours, peer):
    """(name, our parameter, the peer's, whether one is the other transposed) for all of ours."""

    def tail(part):
        return {"weight_x": "weight_ih", "weight_h": "weight_hh", "bias": "bias_ih", "state_bias": "bias_hh"}[part]

    for name, parameter in ours.named_parameters():
        match name.split("."):
            case [half, "token_embedding", _]:
                yield name, parameter, getattr(peer, f"{half}_embedding").weight, False
            case [half, ("layers" | "backward_layers") as stack, number, part]:
                reverse = "_reverse" if stack == "backward_layers" else ""
                yield name, parameter, getattr(getattr(peer, half), f"{tail(part)}_l{number}{reverse}"), True
            case ["decoder", "attention", part, _]:
                yield name, parameter, getattr(peer, part).weight, True
            case ["lm_head", part]:
                yield name, parameter, getattr(peer.head, part), True


@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_logits_and_gradients_are_those_of_torch(config):
    rng = np.random.default_rng(0)
    model, peer = RecurrentEncoderDecoder(config).astype(np.float64), Peer(config).double()
    for name, parameter in peer.named_parameters():
        values = 0.5 * rng.standard_normal(parameter.shape)
        if "bias_hh" in name and config.kind != "gru":
            values = np.zeros(parameter.shape)  # it would only be added to the other
        parameter.data = torch.from_numpy(values)
    matched = list(pairs(model, peer))
    assert len(matched) == len(list(model.named_parameters()))
    for _, mine, its, turned in matched:
        values = its.detach().numpy()
        mine.data = np.ascontiguousarray(values.T if turned else values)
    ids, targets = rng.integers(0, 11, (4, 6)), rng.integers(0, 7, (4, 5))
    lengths = np.array([4, 6, 1, 4])
    targets[2, 3:] = -100
    mask = (np.arange(6) < lengths[:, None])[:, None, None]
    before = model.shifted(targets)

    logits = peer(torch.from_numpy(ids), torch.from_numpy(before), torch.from_numpy(lengths))
    found = model(ids, before, mask).data
    np.testing.assert_allclose(found, logits.detach().numpy(), rtol=1e-10, atol=1e-12)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).flatten())
    loss.backward()
    mine = model.loss(ids, targets, mask)
    mine.backward()
    assert mine.item() == pytest.approx(loss.item(), rel=1e-12)
    for name, parameter, its, turned in matched:
        expected = its.grad.numpy()
        expected = expected.T if turned else expected
        np.testing.assert_allclose(parameter.grad, expected, rtol=1e-10, atol=1e-12, err_msg=name)
