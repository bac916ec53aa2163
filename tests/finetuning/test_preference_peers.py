"""Learning from preferences against torch and transformers: log-probabilities, the loss, all gradients."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import tinygrad_llm.finetuning.likelihoods as likelihoods
from tinygrad_llm import ops
from tinygrad_llm.finetuning.dpo_config import DpoConfig
from tinygrad_llm.finetuning.preferences import prepare_preferences
from tinygrad_llm.generation.loading import Loaded
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.tokenizer import Tokenizer
from tinygrad_llm.weights import scatter

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[peers]'")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[peers]'")

pytestmark = pytest.mark.filterwarnings("ignore")

TOKENIZER = Tokenizer.train(["Say what the sky is, and the sea. It is green and blue. "] * 3, 300)
PAIRS = [
    ("Say what the sky is", "blue", "It is green, and the sea"),
    ("and the sea", "It is green and blue.", "what"),
    ("sky", "the sky, the sky", "sea"),
    ("what the sea is", "x", "y"),
    ("Say", "is", "and it is"),
]


@pytest.fixture(autouse=True)
def one_thread():
    """So small arrays are not worth sharing out, least of all where other processes compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def moved(model, dtype):
    """The model with other weights, as after some training."""
    rng = np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.data = (parameter.data + 0.05 * rng.standard_normal(parameter.shape)).astype(dtype)
    return model


def their_log_probabilities(theirs, sequences):
    """Each answer by itself, without padding, from all logits."""
    found = []
    for ids, targets in sequences:
        logits = theirs(torch.tensor(ids[None]).long()).logits[0]
        losses = torch.nn.functional.cross_entropy(
            logits, torch.tensor(targets).long(), ignore_index=-100, reduction="sum"
        )
        found.append(-losses)
    return torch.stack(found)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-5)])
@pytest.mark.parametrize(("smoothing", "step"), [(0.0, 4096), (0.2, 9)])
def test_log_probabilities_loss_and_gradients_are_those_of_torch(
    dtype, tolerance, smoothing, step, tmp_path, monkeypatch
):
    monkeypatch.setattr(likelihoods, "rows_at_once", lambda model: step)
    data = tmp_path / "pairs.jsonl"
    rows = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in PAIRS]
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    model = GPT(GPTConfig(TOKENIZER.vocab_size + 2, 96, 48, 2, 4, init_std=0.2), seed=1).astype(dtype)
    config = DpoConfig(
        model="base", data=str(data), template="chatml", validation_share=0.2, batch_size=4, beta=0.4,
        label_smoothing=smoothing,
    )  # fmt: skip
    console = Console(file=io.StringIO())
    task = prepare_preferences(config, Loaded(Path("base"), model, TOKENIZER), console)
    model.save_pretrained(tmp_path / "before")
    task.begin(task.measure_before(console))
    moved(model, dtype).save_pretrained(tmp_path / "after")
    reference, policy = (
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=getattr(torch, dtype)).eval()
        for name in ("before", "after")
    )

    pairs = task.data.training.sequences
    with torch.no_grad():
        known = torch.stack([their_log_probabilities(reference, both) for both in pairs])
    np.testing.assert_allclose(task.reference[0], known.numpy(), rtol=tolerance)
    given = torch.stack([their_log_probabilities(policy, both) for both in pairs])
    gained = given - known
    h = 0.4 * (gained[:, 0] - gained[:, 1])
    assert (h.abs() > 0.01).all()
    logsigmoid = torch.nn.functional.logsigmoid
    expected = (-(1 - smoothing) * logsigmoid(h) - smoothing * logsigmoid(-h)).sum()
    expected.backward()

    batch = task.batch(0, 0)
    assert batch.targets == len(pairs) == 4
    loss = task.loss(model, batch)
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
    loss.backward()
    gradients = scatter(model.layout, model.config, {n: p.grad for n, p in model.named_parameters()})
    peers = dict(policy.named_parameters())
    assert peers.keys() == gradients.keys()
    for parameter, gradient in gradients.items():
        grad = peers[parameter].grad.numpy()
        assert np.abs(gradient - grad).max() <= tolerance * np.abs(grad).max(), parameter


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_operation_is_that_of_torch_at_large_margins_too(smoothing):
    rng = np.random.default_rng(1)
    arrays = rng.uniform(-40, 0, (4, 64)) * np.repeat([1, 100.0], 32)
    ours = [Tensor(array, requires_grad=number < 2) for number, array in enumerate(arrays)]
    loss = ops.dpo_loss(*ours, beta=0.7, label_smoothing=smoothing)
    loss.backward()
    theirs = [torch.tensor(array, requires_grad=number < 2) for number, array in enumerate(arrays)]
    h = 0.7 * ((theirs[0] - theirs[2]) - (theirs[1] - theirs[3]))
    logsigmoid = torch.nn.functional.logsigmoid
    expected = (-(1 - smoothing) * logsigmoid(h) - smoothing * logsigmoid(-h)).mean()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    for own, other in zip(ours[:2], theirs[:2], strict=True):
        np.testing.assert_allclose(own.grad, other.grad.numpy(), rtol=1e-10, atol=1e-18)
