"""GPT: shapes, initial values, gradients of every parameter, files."""

import math
from contextlib import contextmanager

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm import Tensor, ops
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.weights.safetensors_file import write_safetensors

SMALL = GPTConfig(vocab_size=11, context=8, channels=6, layers=2, heads=2)
IDS = np.random.default_rng(0).integers(0, 11, (2, 5))


def test_logits_have_one_row_per_position():
    assert GPT(SMALL)(IDS).shape == (2, 5, 11)


def test_gpt2_has_the_published_number_of_parameters():
    # 124,439,808: Radford et al. 2019 as distributed; computed from the sizes without building the arrays
    c, layers = GPTConfig(), 12
    block = 12 * c.channels**2 + 13 * c.channels
    total = (c.vocab_size + c.context) * c.channels + layers * block + 2 * c.channels
    assert total == 124_439_808
    s = SMALL
    block = 12 * s.channels**2 + 13 * s.channels
    assert GPT(s).parameter_count() == (s.vocab_size + s.context) * s.channels + s.layers * block + 2 * s.channels


def test_initial_values_follow_gpt2():
    model = GPT(GPTConfig(vocab_size=500, context=64, channels=128, layers=8, heads=4))
    block = model.blocks[3]
    assert block.mlp.up.weight.data.std() == pytest.approx(0.02, rel=0.02)
    assert model.token_embedding.weight.data.std() == pytest.approx(0.02, rel=0.02)
    for residual in (block.attention.out, block.mlp.down):
        assert residual.weight.data.std() == pytest.approx(0.02 / math.sqrt(16), rel=0.03)
    # so an untrained model knows nothing: its loss is that of a uniform guess
    ids = np.random.default_rng(0).integers(0, 500, (4, 33))
    loss = ops.cross_entropy(model(ids[:, :-1]), ids[:, 1:]).item()
    assert loss == pytest.approx(math.log(500), abs=0.1)


def test_the_seed_decides_the_initial_values_of_each_layer():
    first, same, other = GPT(SMALL, 1), GPT(SMALL, 1), GPT(SMALL, 2)
    for name, array in first.state_dict().items():
        np.testing.assert_array_equal(array, same.state_dict()[name])
    assert not np.array_equal(first.token_embedding.weight.data, other.token_embedding.weight.data)
    assert not np.array_equal(first.blocks[0].mlp.up.weight.data, first.blocks[1].mlp.up.weight.data)


def test_every_parameter_passes_gradcheck():
    model = GPT(GPTConfig(vocab_size=11, context=5, channels=4, layers=2, heads=2), seed=3).astype(np.float64)
    rng = np.random.default_rng(1)
    named = dict(model.named_parameters())
    for parameter in named.values():  # away from the initial zeros and ones
        parameter.data += 0.3 * rng.standard_normal(parameter.shape)
    targets = rng.integers(0, 11, (2, 5))
    targets[0, 1] = -100

    def loss(*tensors):
        with parameters_replaced(model, dict(zip(named, tensors, strict=True))):
            return ops.cross_entropy(model(IDS), targets)

    report = tg.gradcheck(loss, *(p.data for p in named.values()), names=list(named))
    assert report, report
    assert len(report.inputs) == len(named)


@contextmanager
def parameters_replaced(model, tensors):
    """The model with other Tensors in the place of its parameters."""
    kept = []
    for name, tensor in tensors.items():
        *path, last = name.split(".")
        owner = model
        for part in path:
            owner = owner[int(part)] if part.isdigit() else getattr(owner, part)
        kept.append((owner, last, getattr(owner, last)))
        setattr(owner, last, tensor)
    try:
        yield
    finally:
        for owner, last, parameter in kept:
            setattr(owner, last, parameter)


def test_the_head_is_the_token_embedding():
    model = GPT(SMALL)
    ops.cross_entropy(model(IDS), IDS).backward()
    unused = sorted(set(range(11)) - set(IDS.ravel().tolist()))
    # rows of tokens that are not in the input still receive a gradient: through the head
    assert np.abs(model.token_embedding.weight.grad[unused]).sum() > 0


def test_recomputing_blocks_gives_the_same_gradients():
    plain, again = GPT(SMALL), GPT(SMALL)
    again.blocks = [_Recomputed(block) for block in again.blocks]
    for model in (plain, again):
        ops.cross_entropy(model(IDS), IDS).backward()
    for left, right in zip(plain.parameters(), again.parameters(), strict=True):
        np.testing.assert_array_equal(left.grad, right.grad)


class _Recomputed(tg.nn.Module):
    def __init__(self, block):
        self.block = block

    def forward(self, x, mask, cache):
        return tg.checkpoint(self.block, x)


def test_ids_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"9 positions, but the model's context is 8"):
        GPT(SMALL)(np.zeros((1, 9), int))
    with pytest.raises(ValueError, match=r"ids must be \(B, T\), not of shape \(5,\)"):
        GPT(SMALL)(np.zeros(5, int))
    with pytest.raises(IndexError, match="11"):
        GPT(SMALL)(np.full((1, 2), 11))


def test_given_positions_are_used_and_those_beyond_the_context_are_refused():
    model = GPT(SMALL)
    shifted = model(IDS, positions=np.arange(3, 8)).data
    assert not np.array_equal(shifted, model(IDS).data)
    np.testing.assert_array_equal(model(IDS, positions=np.arange(5)).data, model(IDS).data)
    with pytest.raises(ValueError, match="GPT: position 8, but the model's context is 8"):
        model(IDS, positions=np.arange(4, 9))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 4}, "channels=6 is not a multiple of heads=4"),
        ({"layers": 0}, "layers=0 must be at least 1"),
        ({"dropout": 1.0}, "dropout=1.0 must be"),
        ({"feed_forward": -1}, "feed_forward=-1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        GPTConfig(**{"vocab_size": 11, "context": 8, "channels": 6, "layers": 2, "heads": 2, **change})


def test_a_saved_model_is_the_same_when_loaded_and_saves_to_the_same_bytes(tmp_path):
    model = GPT(SMALL, seed=5)
    model.save_pretrained(tmp_path / "a")
    loaded = GPT.from_pretrained(tmp_path / "a")
    assert loaded.config == SMALL
    np.testing.assert_array_equal(model(IDS).data, loaded(IDS).data)
    loaded.save_pretrained(tmp_path / "b")
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_loaded_model_has_the_dtype_it_was_saved_in(tmp_path, dtype):
    model = GPT(SMALL).astype(dtype)
    model.final_norm.gain.data += dtype(1e-3)
    model.save_pretrained(tmp_path)
    loaded = GPT.from_pretrained(tmp_path)
    for name, array in loaded.state_dict().items():
        assert array.dtype == dtype
        np.testing.assert_array_equal(array, model.state_dict()[name])


def test_files_that_are_not_such_a_model_are_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    with pytest.raises(FileNotFoundError, match="no such file"):
        GPT.from_pretrained(tmp_path)
    GPT(SMALL).save_pretrained(tmp_path)
    whole = file.read_bytes()
    for damaged in (b"", b"hello", whole[: len(whole) // 2], whole[:-1]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="not a readable safetensors file"):
            GPT.from_pretrained(tmp_path)
    write_safetensors(file, {"a": np.zeros(11)}, {})
    with pytest.raises(ValueError, match=r"(?s)the tensors do not fit.*missing: h.0.*unexpected: a \(11,\)"):
        GPT.from_pretrained(tmp_path)
    file.write_bytes(whole)
    config = (tmp_path / "config.json").read_text()
    for old, new, message in [
        ('"gpt2"', '"llama"', "holds a 'llama' model, but GPT is gpt2"),
        ('"n_layer": 2', '"n_layer": 3', r"missing: h.2.attn.c_attn.bias \(18,\)"),
        ('"n_embd": 6', '"n_embd": 6000', "says channels = 6,000, but the file's"),
        ('"n_embd": 6', '"n_embd": "6"', "what stands for channels is '6'"),
        ('"gelu_new"', '"relu"', "has activation_function = 'relu'"),
    ]:
        assert old in config
        (tmp_path / "config.json").write_text(config.replace(old, new))
        with pytest.raises(ValueError, match=message):
            GPT.from_pretrained(tmp_path)


def test_dropout_acts_in_training_only():
    model = GPT(GPTConfig(vocab_size=11, context=8, channels=6, layers=2, heads=2, dropout=0.5))
    assert not np.array_equal(model(IDS).data, model(IDS).data)
    model.eval()
    np.testing.assert_array_equal(model(IDS).data, model(IDS).data)


@pytest.mark.parametrize(
    "place", [lambda m: m.dropout, lambda m: m.blocks[1].attention.dropout, lambda m: m.blocks[1].mlp.dropout]
)
def test_dropout_acts_on_the_embeddings_and_on_the_output_of_each_part(place):
    model = GPT(SMALL)
    without = model(IDS).data
    place(model).p = 0.5
    assert not np.array_equal(model(IDS).data, without)
    np.testing.assert_array_equal(model.eval()(IDS).data, without)


def test_the_configured_dropout_reaches_every_place():
    model = GPT(GPTConfig(vocab_size=11, context=8, channels=6, layers=2, heads=2, dropout=0.25))
    layers = [part for part in model.modules() if isinstance(part, tg.nn.Dropout)]
    assert [layer.p for layer in layers] == [0.25] * (1 + 2 * 2)


def test_overfitting_one_batch():
    from tinygrad_llm.optim import AdamW

    model = GPT(GPTConfig(vocab_size=31, context=16, channels=32, layers=2, heads=4))
    optimizer = AdamW(model.named_parameters(), lr=3e-3, weight_decay=0.0)
    ids = np.random.default_rng(0).integers(0, 31, (4, 17))
    for _ in range(200):
        optimizer.zero_grad()
        loss = ops.cross_entropy(model(ids[:, :-1]), ids[:, 1:])
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01


def test_a_tensor_may_be_given_as_ids():
    assert GPT(SMALL)(Tensor(IDS)).shape == (2, 5, 11)
