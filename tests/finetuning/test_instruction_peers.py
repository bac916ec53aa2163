"""Instruction tuning against torch and transformers: losses and gradients, masked and packed; templates and ids."""

import types

import numpy as np
import pytest

from tinygrad_llm.data.dialogues import Dialogue
from tinygrad_llm.finetuning.packing import packed_rows, padded_rows, shifted
from tinygrad_llm.finetuning.templates import encode_dialogues, with_template
from tinygrad_llm.models import GPTConfig, LlamaConfig, new_model
from tinygrad_llm.tokenizer import Tokenizer
from tinygrad_llm.weights import scatter

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[peers]'")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[peers]'")

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def one_thread():
    """So small arrays are not worth sharing out, least of all where other processes compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


TEXT = ["Below is an instruction that describes a task. ### Response: Say what the sky is, and the sea. "] * 3
TOKENIZER = with_template(Tokenizer.train(TEXT, 300), "chatml")
V = TOKENIZER.vocab_size


def said(*texts):
    return tuple({"role": "assistant" if n % 2 else "user", "content": text} for n, text in enumerate(texts))


DIALOGUES = [
    said("Say what the sky is", "blue"),
    said("and the sea", "It is green and blue.\n"),
    said("sky", "the sky", "sea", "and the sea, that is"),
    said("what is <|im_end|>", "a task"),
    said("x", "y"),
]
CASES = {"GPT2": GPTConfig(V, 160, 48, 2, 4), "Llama": LlamaConfig(V, 160, 48, 2, 4, 2, 96, rotary_base=500.0)}


def build(name, dtype, folder):
    """A model of ours whose parameters are all random, and the same one as transformers has it."""
    ours = new_model(CASES[name], 1).astype(dtype)
    rng = np.random.default_rng(0)
    for parameter in ours.parameters():
        parameter.data = (parameter.data + 0.1 * rng.standard_normal(parameter.shape)).astype(dtype)
    ours.save_pretrained(folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation="sdpa"
    ).eval()
    if dtype == "float64":
        in_double(theirs, ours)
    return ours, theirs


def in_double(theirs, ours):
    """transformers computes RMSNorm and angles in float32 even in a float64 model: do it in float64, with its own
    frequencies, which it has in float32 too."""

    def norm(self, x):
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)

    for module in theirs.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = types.MethodType(norm, module)
    rotary = getattr(getattr(theirs, "model", None), "rotary_emb", None)
    if rotary is None:
        return
    frequencies = rotary.inv_freq.double()

    def angles(self, x, position_ids, **_):
        turns = position_ids[..., None].double() * frequencies
        turns = torch.cat((turns, turns), dim=-1)
        return turns.cos(), turns.sin()

    rotary.forward = types.MethodType(angles, rotary)
    for block in ours.blocks:
        block.attention.frequencies = frequencies.numpy()


def labelled(messages):
    """ids and labels, written out: what an assistant says and the token that ends it, else -100."""
    start, end = TOKENIZER.special_tokens["<|im_start|>"], TOKENIZER.special_tokens["<|im_end|>"]

    def plain(text):
        return TOKENIZER.encode(text, disallowed_special=()).tolist()

    ids, labels = [], []
    for message in messages:
        head = [*plain("\n" if ids else ""), start, *plain(f"{message['role']}\n")]
        body = [*plain(message["content"]), end]
        ids += head + body
        labels += [-100] * len(head) + (body if message["role"] == "assistant" else [-100] * len(body))
    return torch.tensor([ids]), torch.tensor([labels])


def loss_alone(theirs):
    """The mean over all targets, from each example by itself."""
    total, count = 0, 0
    for messages in DIALOGUES:
        ids, labels = labelled(messages)
        total = total + torch.nn.functional.cross_entropy(theirs(ids).logits[0, :-1], labels[0, 1:], reduction="sum")
        count += int((labels[:, 1:] != -100).sum())
    return total / count


def loss_packed(theirs):
    """The same from one row, with a mask and positions made here."""
    pairs = [labelled(messages) for messages in DIALOGUES]
    ids = torch.cat([ids for ids, _ in pairs], 1)
    labels = torch.cat([labels for _, labels in pairs], 1)
    owner = torch.cat([torch.full((ids.shape[1],), n) for n, (ids, _) in enumerate(pairs)])
    positions = torch.cat([torch.arange(ids.shape[1]) for ids, _ in pairs])[None]
    seen = (owner[:, None] == owner) & torch.ones(len(owner), len(owner)).tril().bool()
    dtype = next(theirs.parameters()).dtype
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)[None, None]
    logits = theirs(ids, attention_mask=mask, position_ids=positions).logits
    labels = torch.where(positions == 0, -100, labels)
    return torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=-100)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-5)])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("their_loss", [loss_alone, loss_packed])
@pytest.mark.parametrize("packing", [True, False])
def test_losses_and_gradients_are_those_of_torch(name, dtype, tolerance, their_loss, packing, tmp_path):
    ours, theirs = build(name, dtype, tmp_path)
    encoded = encode_dialogues(TOKENIZER, [Dialogue(messages) for messages in DIALOGUES])
    inputs, targets = zip(*(shifted(one.ids, one.answers) for one in encoded), strict=True)
    rows = packed_rows(inputs, targets, 150, 999) if packing else padded_rows(inputs, targets)
    assert (rows.mask is None) != packing
    loss = ours.loss(rows.ids, rows.targets, reduction="sum", positions=rows.positions, mask=rows.mask)
    loss = loss * (1 / rows.counted)
    expected = their_loss(theirs)
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
    loss.backward()
    expected.backward()
    gradients = scatter(ours.layout, ours.config, {n: p.grad for n, p in ours.named_parameters()})
    peers = dict(theirs.named_parameters())
    assert peers.keys() == gradients.keys()
    for parameter, gradient in gradients.items():
        grad = peers[parameter].grad.numpy()
        assert gradient.shape == grad.shape
        assert np.abs(gradient - grad).max() <= tolerance * np.abs(grad).max(), parameter


@pytest.mark.parametrize("name", ["alpaca", "chatml"])
def test_transformers_finds_template_and_tokens_in_the_folder(name, tmp_path):
    chosen = with_template(Tokenizer.train(TEXT, 300), name)
    chosen.save(tmp_path / "tokenizer.json")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    given = {"role": "user", "content": "Add.\n\n1, 2", "instruction": "Add.", "input": "1, 2"}
    for messages in [*DIALOGUES[:3], (given, {"role": "assistant", "content": "3"})]:
        (encoded,) = encode_dialogues(chosen, [Dialogue(messages)])
        ids = theirs.apply_chat_template([*messages], tokenize=True, return_dict=False)
        prompt = theirs.apply_chat_template(
            [*messages[:-1]], tokenize=True, add_generation_prompt=True, return_dict=False
        )
        assert ids[: len(encoded.ids)] == encoded.ids.tolist()
        assert prompt == encoded.ids[: encoded.prompt].tolist()
    assert theirs.eos_token_id == encoded.ids[-1]
