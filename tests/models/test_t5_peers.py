"""T5 against transformers' T5ForConditionalGeneration: buckets, logits, the gradient of every parameter, folders."""

import numpy as np
import pytest

from tinygrad_llm.generation import beam_search
from tinygrad_llm.models.t5 import T5, T5Config
from tinygrad_llm.nn.relative_positions import relative_buckets
from tinygrad_llm.tape import no_grad
from tinygrad_llm.weights import gather, t5
from tinygrad_llm.weights.stored import Stored

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[peers]'")
pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[peers]'")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

SIZES = {
    "vocab_size": 61,
    "d_model": 24,
    "d_kv": 5,  # 4 heads of 5 are not 24
    "d_ff": 40,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "dropout_rate": 0.0,
    "layer_norm_epsilon": 1e-3,
    "decoder_start_token_id": 0,
}


def ours_of(json, theirs):
    """Our T5 with the weights of theirs, as their folder would give them."""
    config = T5Config(**t5.read_config(json))
    values = {name: p.detach().numpy() for name, p in theirs.named_parameters()}
    model = T5(config).astype(next(iter(values.values())).dtype)
    model.load_state_dict(as_ours(model, values))
    return model


def as_ours(model, values):
    """Arrays by their names (weights or gradients), by ours."""
    if model.lm_head is None:
        values = {name: a for name, a in values.items() if name != "lm_head.weight"}
    tensors = {name: Stored("F64", a.shape, lambda a=a: a) for name, a in values.items()}
    shapes = {name: p.shape for name, p in model.named_parameters()}
    return dict(gather(t5, model.config, tensors, shapes))


def theirs_of(tied, gated, dtype="float32", layers=2, decoder_layers=2, seed=0):
    """(config.json, model) with random weights; untied the hard way, as transformers 5 does not."""
    from transformers import T5Config as TheirConfig
    from transformers import T5ForConditionalGeneration

    sizes = {**SIZES, "num_layers": layers, "num_decoder_layers": decoder_layers}
    sizes["feed_forward_proj"] = "gated-gelu" if gated else "relu"
    config = TheirConfig(**sizes, tie_word_embeddings=tied)
    model = T5ForConditionalGeneration(config).to(getattr(torch, dtype)).eval()
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(0.4 * rng.standard_normal(parameter.shape)))
        if not tied:
            head = 0.4 * rng.standard_normal((61, 24))
            model.lm_head.weight = torch.nn.Parameter(torch.from_numpy(head).to(getattr(torch, dtype)))
    return config.to_dict(), model


@pytest.fixture
def norms_in_full(monkeypatch):
    """transformers computes the norms of a float64 model in float32; here in float64, to compare to more digits."""
    from transformers.models.t5.modeling_t5 import T5LayerNorm

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))

    monkeypatch.setattr(T5LayerNorm, "forward", forward)


def drawn(rng, padded):
    """ids (B, S), mask (B, S) of what is no padding, targets (B, T) some of which do not count."""
    ids, targets = rng.integers(2, 61, (3, 17)), rng.integers(2, 61, (3, 14))
    mask = np.ones(ids.shape, bool)
    if padded:
        mask[0, 6:], mask[1, :4], targets[2, 9:] = False, False, -100  # behind one, before another
        ids[~mask] = 0
    return ids, mask, targets


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-4)])
@pytest.mark.parametrize(
    ("tied", "gated", "padded", "layers"),
    [
        (True, False, False, (2, 2)),
        (True, True, True, (1, 3)),
        (False, False, True, (2, 1)),
        (False, True, True, (2, 2)),
    ],
)
def test_logits_and_gradients_are_those_of_transformers(norms_in_full, dtype, tolerance, tied, gated, padded, layers):
    json, theirs = theirs_of(tied, gated, dtype, *layers)
    ours = ours_of(json, theirs)
    ids, mask, targets = drawn(np.random.default_rng(1), padded)
    expected = theirs(
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.from_numpy(mask.astype(int)),
        labels=torch.from_numpy(targets),
    )
    given = mask[:, None, None] if padded else None
    logits = ours(ids, ours.shifted(targets), given)
    close(logits.data, expected.logits.detach().numpy(), tolerance)
    loss = ours.loss(ids, targets, given)
    assert loss.item() == pytest.approx(expected.loss.item(), rel=tolerance)
    loss.backward()
    expected.loss.backward()
    gradients = as_ours(ours, {name: p.grad.numpy() for name, p in theirs.named_parameters()})
    for name, parameter in ours.named_parameters():
        close(parameter.grad, gradients[name], tolerance, name)


def close(ours, theirs, tolerance, what="logits"):
    """Relative to the largest value."""
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max(), what


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (8, 12), (4, 3), (7, 20), (64, 1000)])
def test_buckets_are_those_of_transformers(bidirectional, buckets, max_distance):
    from transformers.models.t5.modeling_t5 import T5Attention

    distances = np.arange(-3000, 3001)
    expected = T5Attention._relative_position_bucket(torch.from_numpy(distances), bidirectional, buckets, max_distance)
    np.testing.assert_array_equal(relative_buckets(distances, buckets, max_distance, bidirectional), expected.numpy())


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("tied", [True, False])
def test_folders_are_read_by_both(tmp_path, tied, gated):
    from transformers import T5ForConditionalGeneration

    _, theirs = theirs_of(tied, gated)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = T5.from_pretrained(tmp_path / "theirs")
    assert (ours.config.tied, ours.config.gated, ours.config.decoder_layers) == (tied, gated, 0)
    ours.save_pretrained(tmp_path / "ours")
    again = T5ForConditionalGeneration.from_pretrained(tmp_path / "ours").eval()
    assert T5.from_pretrained(tmp_path / "ours").config == ours.config
    ids, _, targets = drawn(np.random.default_rng(2), False)
    given = {"input_ids": torch.from_numpy(ids), "decoder_input_ids": torch.from_numpy(targets)}
    with no_grad(), torch.no_grad():
        expected = theirs(**given).logits.numpy()
        np.testing.assert_array_equal(again(**given).logits.numpy(), expected)
        close(ours(ids, targets).data, expected, 1e-4)


def test_a_head_that_equals_the_embedding_and_is_not_scaled(tmp_path):
    """What transformers 5 makes of tie_word_embeddings=False: it is tied, but its logits are not scaled."""
    from transformers import T5Config as TheirConfig
    from transformers import T5ForConditionalGeneration

    theirs = T5ForConditionalGeneration(TheirConfig(**SIZES, tie_word_embeddings=False)).eval()
    assert theirs.lm_head.weight is theirs.shared.weight
    theirs.save_pretrained(tmp_path)
    ours = T5.from_pretrained(tmp_path)
    assert not ours.config.tied
    ids, _, targets = drawn(np.random.default_rng(3), False)
    with torch.no_grad():
        expected = theirs(input_ids=torch.from_numpy(ids), decoder_input_ids=torch.from_numpy(targets)).logits.numpy()
    close(ours(ids, targets).data, expected, 1e-4)


def test_greedy_generation_is_that_of_transformers():
    _, theirs = theirs_of(True, True, seed=5)
    json, _ = theirs_of(True, True)
    ours = ours_of(json, theirs)
    ids, mask, _ = drawn(np.random.default_rng(4), True)
    ids[1], mask[1] = np.roll(ids[1], -4), np.roll(mask[1], -4)
    made = theirs.generate(
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.from_numpy(mask.astype(int)),
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=61,
    )
    state = ours.start([row[seen] for row, seen in zip(ids, mask, strict=True)])
    tokens = np.zeros((3, 1), int)
    for _ in range(12):
        tokens = np.concatenate([tokens, ours.step(tokens[:, -1], state).argmax(-1)[:, None]], axis=1)
    np.testing.assert_array_equal(tokens, made.numpy())


@pytest.mark.parametrize("seed", [0, 1])
def test_beam_search_finds_what_transformers_finds(seed):
    _, theirs = theirs_of(True, False, seed=seed)
    json, _ = theirs_of(True, False)
    ours = ours_of(json, theirs)
    ids = np.random.default_rng(seed).integers(2, 61, (3, 9))
    made = theirs.generate(
        input_ids=torch.from_numpy(ids),
        max_new_tokens=10,
        do_sample=False,
        num_beams=4,
        length_penalty=0.0,
        early_stopping="never",
        return_dict_in_generate=True,
        output_scores=True,
    )
    for row, ((found,), expected) in enumerate(zip(beam_search(ours, ids, 4, 10, 0, 1), made.sequences, strict=True)):
        assert [*found.ids, 1][:10] == expected[1 : 2 + len(found.ids)].tolist()[:10]
        assert found.score == pytest.approx(made.sequences_scores[row].item(), rel=1e-4)
