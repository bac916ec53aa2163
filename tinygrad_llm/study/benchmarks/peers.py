"""Other people's side of every case: exactly the same work in PyTorch, tiktoken and Hugging Face's tokenizers.

They are imported by name and only in a worker process of their own, when they are asked for: the package never needs
them, and none of them shares a process with our threads.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_llm.operation import Operation
from tinygrad_llm.study.benchmarks.cases import NEW_TOKENS, Case
from tinygrad_llm.study.benchmarks.job import Job, arguments, batch, cotangent, fingerprint
from tinygrad_llm.study.benchmarks.ours import (
    BETAS,
    CLIP,
    DECAY,
    EPS,
    FIRST_STEPS,
    RATE,
    model_and_config,
    prompt,
    weights_and_gradients,
)
from tinygrad_llm.study.benchmarks.pretrained import llama_cpp_job
from tinygrad_llm.study.benchmarks.tokenizer_peers import TOKENIZER_PEERS, tokenizer_job
from tinygrad_llm.study.benchmarks.torch_models import torch_model
from tinygrad_llm.study.lookup import find_operation
from tinygrad_llm.threads import thread_count

PEERS = ("torch", *TOKENIZER_PEERS, "xllamacpp")
DECLARED = ("torch", "tiktoken", "tokenizers")
"""Those that the extra `peers` installs."""


class NoEqual(ValueError):
    """The peer has no equal of this case."""


def chosen_peers(names: tuple[str, ...]) -> tuple[str, ...]:
    """The peers of these names; of "all", those that are installed.

    Raises ValueError for a peer that is unknown or not installed.
    """
    if names == ("all",):
        return tuple(name for name in PEERS if importlib.util.find_spec(name))
    for name in names:
        if name not in PEERS:
            raise ValueError(f"--against {name}: unknown; expected all, or some of {', '.join(PEERS)}")
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"--against {name}: it is not installed here; {remedy(name)}")
    return names


def remedy(name: str) -> str:
    """How to install a peer."""
    return "pip install '.[peers]' (in a clone)" if name in DECLARED else f"pip install {name}"


def start(contestant: str) -> None:
    """Load the peer, and give it as many threads as we have."""
    module = importlib.import_module(contestant.partition(".")[0])
    if contestant.startswith("torch"):
        module.set_num_threads(thread_count())


def job(contestant: str, case: Case) -> Job:
    """The work of a case. Raises NoEqual if the peer has no equal of it."""
    if contestant.startswith("torch"):
        compiled = contestant == "torch.compile"
        return TORCH[case.kind](importlib.import_module("torch"), case, compiled)
    if contestant == "xllamacpp":
        return llama_cpp_job(importlib.import_module("xllamacpp"), case)
    return tokenizer_job(contestant, case)


# -- operations and optimisers -----------------------------------------------------------------------------------------


def torch_operations(torch: Any) -> dict[str, Callable[..., Any]]:
    """Our operations as PyTorch has them, with the same inputs; memory layouts too, but see `own_layout`."""
    f = torch.nn.functional

    def attention(q: Any, k: Any, v: Any, causal: bool = False) -> Any:
        return f.scaled_dot_product_attention(q, k, v, is_causal=causal)

    def self_attention(qkv: Any, heads: int, causal: bool = False) -> Any:
        b, t, width = qkv.shape
        q, k, v = (part.view(b, t, heads, -1).transpose(1, 2) for part in qkv.split(width // 3, 2))
        return attention(q, k, v, causal).transpose(1, 2).reshape(b, t, width // 3)

    def normed(s: Any, gain: Any, bias: Any = None, eps: float = 1e-5) -> Any:
        if bias is None:
            return f.rms_norm(s, s.shape[-1:], gain, eps)
        return f.layer_norm(s, s.shape[-1:], gain, bias, eps)

    def lstm_cell(gates: Any, c: Any) -> Any:
        i, forget, g, o = gates.chunk(4, -1)
        c = forget.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    def gru_cell(x_gates: Any, h_gates: Any, h: Any) -> Any:
        (x_r, x_z, x_n), (h_r, h_z, h_n) = x_gates.chunk(3, -1), h_gates.chunk(3, -1)
        n, z = (x_n + (x_r + h_r).sigmoid() * h_n).tanh(), (x_z + h_z).sigmoid()
        return n + z * (h - n)

    def recurrent(function: Any) -> Any:
        def run(x: Any, h: Any, *rest: Any) -> Any:
            *cells, weight_x, weight_h = (t for t in rest if t.ndim == 2)
            biases = [t for t in rest if t.ndim == 1]
            biases += [torch.zeros_like(biases[0])] * (2 - len(biases))  # it adds a second one in any case
            start = (h[None], cells[0][None]) if cells else h[None]
            layer = [weight_x.T, weight_h.T, *biases]
            y, *last = function(x, start, layer, True, 1, 0.0, True, False, True)
            return (y, *(t[0] for t in last))

        return run

    return {
        "add_layer_norm": lambda x, residual, gain, bias: (s := x + residual, normed(s, gain, bias)),
        "add_rms_norm": lambda x, residual, gain: (s := x + residual, normed(s, gain)),
        "attention": attention,
        "bias_gelu": lambda x, bias: f.gelu(x + bias, approximate="tanh"),
        "cross_entropy": lambda x, targets: f.cross_entropy(x, targets),
        "einsum": lambda *xs, subscripts: torch.einsum(subscripts, *xs),
        "embedding": lambda weight, ids: f.embedding(ids, weight),
        "exp": torch.exp,
        "geglu": lambda gate, up: f.gelu(gate, approximate="tanh") * up,
        "gelu": lambda x, approximate=True: f.gelu(x, approximate="tanh" if approximate else "none"),
        "getitem": lambda x, index: x[index],
        "gru": recurrent(torch.gru),
        "gru_cell": gru_cell,
        "layer_norm": normed,
        "linear": lambda x, weight, bias=None: f.linear(x, weight.T, bias),
        "linear_cross_entropy": lambda x, weight, targets: f.cross_entropy(f.linear(x, weight), targets),
        "log_softmax": lambda x, axis=-1: torch.log_softmax(x, axis),
        "logsumexp": lambda x, axis=-1, keepdims=False: torch.logsumexp(x, axis, keepdims),
        "lstm": recurrent(torch.lstm),
        "lstm_cell": lstm_cell,
        "matmul": torch.matmul,
        "relu": torch.relu,
        "rms_norm": lambda x, gain: normed(x, gain),
        "rnn": recurrent(torch.rnn_tanh),
        "self_attention": self_attention,
        "sigmoid": torch.sigmoid,
        "silu": f.silu,
        "softmax": lambda x, axis=-1: torch.softmax(x, axis),
        "softplus": f.softplus,
        "swiglu": lambda gate, up: f.silu(gate) * up,
        "tanh": torch.tanh,
    }


def own_layout(operation: Operation, inputs: list[Any]) -> list[Any]:
    """The inputs, with the weights of a recurrent network as PyTorch keeps them: their transposes are contiguous.

    In our layout its LSTM would copy them in each call.
    """
    if operation.name not in ("gru", "lstm", "rnn"):
        return inputs
    pairs = zip(operation.parameters, inputs, strict=True)
    return [np.asfortranarray(x) if name in ("weight_x", "weight_h") else x for name, x in pairs]


def _tensor(torch: Any, x: Any, requires_grad: bool = False) -> Any:
    """An array as a tensor of its own memory; anything else as it is."""
    if not isinstance(x, np.ndarray):
        return x
    tensor = torch.from_numpy(x.copy(order="K"))
    return tensor.requires_grad_(requires_grad and tensor.is_floating_point())


def _operation(torch: Any, case: Case, compiled: bool) -> Job:
    operation = find_operation(case.sizes["operation"])
    function = torch_operations(torch).get(operation.name)
    if function is None:
        raise NoEqual(f"torch has no equal of {operation.name} here")
    inputs, options = arguments(operation, case)
    backward = case.sizes["backward"]
    tensors = [_tensor(torch, x, backward) for x in own_layout(operation, inputs)]
    options = {name: _tensor(torch, x) for name, x in options.items()}
    leaves = [t for t in tensors if isinstance(t, torch.Tensor) and t.requires_grad]

    def outputs() -> tuple[Any, ...]:
        y = function(*tensors, **options)
        return y if isinstance(y, tuple) else (y,)

    with torch.no_grad():
        dys = [torch.from_numpy(cotangent(tuple(y.shape))).reshape(y.shape) for y in outputs()]

    def run() -> tuple[Any, ...]:
        if not backward:
            with torch.no_grad():
                return outputs()
        for leaf in leaves:
            leaf.grad = None
        ys = outputs()
        torch.autograd.backward(ys, dys)
        return ys

    results = [*run(), *(leaf.grad for leaf in leaves)]
    return Job(run, [fingerprint(t.detach().numpy()) for t in results])


def _parameters(torch: Any, case: Case) -> list[Any]:
    made = []
    for weight, gradient in weights_and_gradients(case):
        parameter = torch.nn.Parameter(torch.from_numpy(weight))
        parameter.grad = torch.from_numpy(gradient)
        made.append(parameter)
    return made


def _optimizer(torch: Any, parameters: list[Any], decay: Callable[[Any], bool]) -> Any:
    groups = [
        {"params": [p for p in parameters if decay(p)], "weight_decay": DECAY},
        {"params": [p for p in parameters if not decay(p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=RATE, betas=BETAS, eps=EPS, fused=True)


def _adamw(torch: Any, case: Case, compiled: bool) -> Job:
    parameters = _parameters(torch, case)
    optimizer = _optimizer(torch, parameters, lambda p: p.ndim == 2)
    optimizer.step()
    return Job(optimizer.step, [fingerprint(p.detach().numpy()) for p in parameters[:4]])


def _clip(torch: Any, case: Case, compiled: bool) -> Job:
    parameters = _parameters(torch, case)
    clip = torch.nn.utils.clip_grad_norm_
    limit = [0.999 * float(clip(parameters, 1e9))]

    def run() -> None:
        limit[0] = 0.999 * float(clip(parameters, limit[0]))

    checks = [(limit[0], limit[0])]
    run()
    return Job(run, checks + [fingerprint(p.grad.numpy()) for p in parameters[:4]])


# -- models ------------------------------------------------------------------------------------------------------------


def _train(torch: Any, case: Case, compiled: bool) -> Job:
    f = torch.nn.functional
    model = torch_model(torch, *model_and_config(case))
    linear = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Linear)}
    parameters = list(model.parameters())
    optimizer = _optimizer(torch, parameters, lambda p: id(p) in linear)
    inputs, targets = (torch.from_numpy(np.ascontiguousarray(a)) for a in batch(case))

    def loss_of(inputs: Any, targets: Any) -> Any:
        logits = model(inputs)
        return f.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))

    function = torch.compile(loss_of) if compiled else loss_of

    def run() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = function(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        return float(loss.item())

    return Job(run, [(loss, loss) for loss in (run() for _ in range(FIRST_STEPS))])


def _decode(torch: Any, case: Case, compiled: bool) -> Job:
    model = torch_model(torch, *model_and_config(case)).eval()
    ids = torch.from_numpy(np.ascontiguousarray(prompt(case)))[None]
    caches = model.caches()
    state: dict[str, Any] = {}

    def forward(tokens: Any, past: int) -> Any:
        with torch.inference_mode():
            x = model.hidden(tokens, caches, past)[:, -1]
            logits = torch.nn.functional.linear(x, model.token_embedding.weight)
            state.update(past=past + tokens.shape[1], token=logits.argmax(-1, keepdim=True))
            return logits

    checks = [fingerprint(forward(ids, 0)[0].numpy())]
    return Job(lambda: forward(state["token"], state["past"]), checks, lambda: forward(ids, 0), NEW_TOKENS)


TORCH: dict[str, Callable[[Any, Case, bool], Job]] = {
    "operation": _operation,
    "adamw": _adamw,
    "clip": _clip,
    "train": _train,
    "decode": _decode,
}
