"""BERT and DistilBERT against transformers: what each head gives, every gradient, folders both ways."""

from dataclasses import replace

import numpy as np
import pytest

from tinygrad_llm import no_grad, ops
from tinygrad_llm.models import Bert, BertConfig, DistilBert, DistilBertConfig
from tinygrad_llm.weights import scatter

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[peers]'")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[peers]'")

pytestmark = pytest.mark.filterwarnings("ignore")

V = 89
SMALL = BertConfig(V, 24, 48, 2, 6, 80, norm_eps=1e-3)
LABELS = ("no", "yes", "perhaps")
CASES = {
    "BertForMaskedLM": SMALL,
    "BertForMaskedLM, odd heads and one token type": replace(SMALL, channels=45, heads=5, layers=3, token_types=1),
    "BertForSequenceClassification": replace(SMALL, head="classification", labels=LABELS),
    "BertForSequenceClassification, one head": replace(SMALL, head="classification", heads=1, feed_forward=17),
    "BertModel": replace(SMALL, head="pooler", token_types=3, norm_eps=1e-12),
    "DistilBertForMaskedLM": DistilBertConfig(V, 24, 48, 2, 4, 80),
    "DistilBertForSequenceClassification": DistilBertConfig(V, 24, 45, 1, 3, 64, head="classification", labels=LABELS),
    "DistilBertModel": DistilBertConfig(V, 24, 48, 3, 6, 80, head="none"),
}


def build(config, dtype):
    """A model of ours whose parameters are all random, gains and biases too."""
    rng = np.random.default_rng(0)
    model = (DistilBert if isinstance(config, DistilBertConfig) else Bert)(config).astype(dtype)
    for parameter in model.parameters():
        start = 1 if (parameter.data == 1).all() else 0  # of gains
        parameter.data = (start + 0.2 * rng.standard_normal(parameter.shape)).astype(dtype)
    return model.eval()


def opened_there(name, folder, dtype):
    """The model that transformers makes of the folder, all of whose tensors it must know and find."""
    theirs, info = getattr(transformers, name.split(",")[0]).from_pretrained(
        folder, dtype=getattr(torch, dtype), output_loading_info=True, attn_implementation="sdpa"
    )
    assert not any(info.values()), info
    assert theirs.config.architectures == [name.split(",")[0]]
    return theirs.eval()


def inputs_of(config):
    """ids (B, T), which of them are real, and token types or None. No id is 0, whose row transformers never trains."""
    rng = np.random.default_rng(1)
    ids = rng.integers(1, V, (4, 20))
    real = np.arange(20) < np.array([20, 13, 1, 19])[:, None]
    real[3, :2] = False  # padding before a text, too
    types = rng.integers(0, config.token_types, ids.shape) if config.token_types else None
    return ids, real, types


def run_there(theirs, ids, real, types):
    given = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(real).long()}
    return theirs(**given, **({} if types is None else {"token_type_ids": torch.tensor(types)}))


def close(ours, theirs, tolerance, what):
    """Relative to the largest value."""
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape, what
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max(), what


def loss_there(config, outputs, targets):
    """The loss that `Bert.loss` is, or of a model without one the squares of what it gives, weighted at random."""
    if config.head in ("masked_lm", "classification"):
        logits = outputs.logits.flatten(0, -2)
        return torch.nn.functional.cross_entropy(logits, torch.tensor(targets).flatten(), ignore_index=-100)
    parts = [outputs.last_hidden_state, *([outputs.pooler_output] if config.head == "pooler" else [])]
    return sum((part * torch.tensor(t)).sum() for part, t in zip(parts, targets, strict=False))


def targets_of(config, real, dtype):
    rng = np.random.default_rng(2)
    if config.head == "masked_lm":
        return np.where(real & (rng.random(real.shape) < 0.5), rng.integers(0, V, real.shape), -100)
    if config.head == "classification":
        return rng.integers(0, len(config.labels), len(real))
    hidden = rng.standard_normal((*real.shape, config.channels)) * real[..., None]
    return hidden.astype(dtype), rng.standard_normal((len(real), config.channels)).astype(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-4)])
@pytest.mark.parametrize("name", CASES)
def test_outputs_and_all_gradients_are_those_of_transformers(name, dtype, tolerance, tmp_path):
    config = CASES[name]
    ours = build(config, dtype)
    ours.save_pretrained(tmp_path)
    theirs = opened_there(name, tmp_path, dtype)
    ids, real, types = inputs_of(config)
    mask, expected = real[:, None, None], run_there(theirs, ids, real, types)
    targets = targets_of(config, real, dtype)
    if config.head in ("masked_lm", "classification"):
        logits, wanted = ours(ids, mask, types), expected.logits
        if config.head == "masked_lm":
            close(logits.data[real], wanted[torch.tensor(real)], tolerance, "logits")
        else:
            close(logits.data, wanted, tolerance, "logits")
        loss = ours.loss(ids, targets, mask, types)
    else:
        x = ours(ids, mask, types)
        close(x.data[real], expected.last_hidden_state[torch.tensor(real)], tolerance, "hidden")
        loss = (x * targets[0]).sum()
        if config.head == "pooler":
            close(ours.pooled(x).data, expected.pooler_output, tolerance, "pooled")
            loss = loss + (ours.pooled(x) * targets[1]).sum()
    loss_expected = loss_there(config, expected, targets)
    assert loss.item() == pytest.approx(loss_expected.item(), rel=tolerance)
    loss.backward()
    loss_expected.backward()
    gradients = scatter(ours.layout, config, {n: p.grad for n, p in ours.named_parameters()})
    peers = {n: p for n, p in theirs.named_parameters() if n != "cls.predictions.decoder.bias"}
    prefixed = {n if n in peers else n.removeprefix(ours.layout.PREFIX): g for n, g in gradients.items()}
    assert peers.keys() == prefixed.keys()
    for parameter, gradient in prefixed.items():
        if not parameter.endswith(("key.bias", "k_lin.bias")):
            close(gradient, peers[parameter].grad, tolerance, parameter)
        else:  # a constant added to the scores of a query changes nothing: zero, but for rounding
            largest = tolerance * np.abs(gradients[ours.layout.PREFIX + parameter_beside(parameter)]).max()
            assert max(np.abs(gradient).max(), peers[parameter].grad.abs().max().item()) <= largest, parameter


def parameter_beside(name):
    """The bias of the queries that belong to these keys."""
    return (
        name.removeprefix("bert.")
        .removeprefix("distilbert.")
        .replace("key.bias", "query.bias")
        .replace("k_lin", "q_lin")
    )


@pytest.mark.parametrize("name", CASES)
def test_what_transformers_writes_is_read_bit_for_bit(name, tmp_path):
    ours = build(CASES[name], "float32")
    ours.save_pretrained(tmp_path / "a")
    opened_there(name, tmp_path / "a", "float32").save_pretrained(tmp_path / "b")
    again = type(ours).from_pretrained(tmp_path / "b")
    assert again.config == ours.config
    for parameter, array in again.state_dict().items():
        np.testing.assert_array_equal(array, ours.state_dict()[parameter])
    again.save_pretrained(tmp_path / "c")
    theirs = opened_there(name, tmp_path / "c", "float32")
    ids, real, types = inputs_of(CASES[name])
    with torch.no_grad():
        expected = run_there(opened_there(name, tmp_path / "b", "float32"), ids, real, types)
        for a, b in zip(run_there(theirs, ids, real, types).to_tuple(), expected.to_tuple(), strict=True):
            assert torch.equal(a, b)


def test_a_new_model_of_theirs_and_its_dropout_and_labels(tmp_path):
    config = transformers.BertConfig(
        vocab_size=V, hidden_size=48, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32, num_labels=3
    )
    theirs = transformers.BertForSequenceClassification(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = Bert.from_pretrained(tmp_path).eval()
    assert ours.config == BertConfig(
        V, 512, 48, 1, 4, 32, dropout=0.1, head="classification", labels=("LABEL_0", "LABEL_1", "LABEL_2")
    )
    ids, real, types = inputs_of(SMALL)
    with no_grad(), torch.no_grad():
        close(ours(ids, real[:, None, None], types).data, run_there(theirs, ids, real, types).logits, 1e-4, "logits")


def test_pretraining_with_two_heads_is_read_as_a_masked_language_model(tmp_path):
    sizes = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    theirs = transformers.BertForPreTraining(transformers.BertConfig(vocab_size=V, **sizes)).eval()
    theirs.save_pretrained(tmp_path)
    ours = Bert.from_pretrained(tmp_path).eval()
    assert ours.config.head == "masked_lm"
    ids, real, types = inputs_of(SMALL)
    with no_grad(), torch.no_grad():
        expected = run_there(theirs, ids, real, types).prediction_logits[torch.tensor(real)]
        close(ours(ids, real[:, None, None], types).data[real], expected, 1e-4, "logits")


def test_a_model_without_a_pooler(tmp_path):
    sizes = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    theirs = transformers.BertModel(transformers.BertConfig(vocab_size=V, **sizes), add_pooling_layer=False)
    theirs.save_pretrained(tmp_path)
    ours = Bert.from_pretrained(tmp_path).eval()
    assert ours.config.head == "none"
    ids, real, types = inputs_of(SMALL)
    with no_grad(), torch.no_grad():
        expected = run_there(theirs.eval(), ids, real, types).last_hidden_state[torch.tensor(real)]
        close(ours(ids, real[:, None, None], types).data[real], expected, 1e-4, "hidden")


def test_the_exact_gelu_is_used():
    """The fit by tanh differs by up to 5e-4, which float32 would hide."""
    x = np.linspace(-3, 3, 50)[None, None]
    exact = torch.nn.functional.gelu(torch.tensor(x)).numpy()
    np.testing.assert_allclose(ops.bias_gelu(x, np.zeros(50), approximate=False).data, exact, rtol=1e-12, atol=1e-15)
