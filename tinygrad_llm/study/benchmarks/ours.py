"""Our side of every case: references, kernels, the training step as it is, generation, the tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinygrad_llm.backend import use_backend
from tinygrad_llm.generation import Sampling, generate_tokens
from tinygrad_llm.memory import keep_freed_memory
from tinygrad_llm.models import GPT, Decoder, GPTConfig, Llama, LlamaConfig
from tinygrad_llm.nn import Parameter
from tinygrad_llm.nn.packing import pack_parameters
from tinygrad_llm.nn.quantized import Quantized, quantize
from tinygrad_llm.operation import Operation
from tinygrad_llm.optim import AdamW, clip_by_global_norm
from tinygrad_llm.parallel.ranks import OneProcess
from tinygrad_llm.study.benchmarks.cases import NEW_TOKENS, PROMPT, Case, training_operations
from tinygrad_llm.study.benchmarks.job import Job, arguments, batch, cotangent, fingerprint
from tinygrad_llm.study.benchmarks.pretrained import PRETRAINED_JOBS
from tinygrad_llm.study.benchmarks.tokenizer_ours import TOKENIZER_JOBS
from tinygrad_llm.study.lookup import find_operation
from tinygrad_llm.study.rungs.workloads import arrays_read, product_operations
from tinygrad_llm.tape import Array, no_grad, saved_arrays, sweep
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.training.config import TrainConfig
from tinygrad_llm.training.loop import training_step
from tinygrad_llm.training.pretraining import OneBatch

RATE, BETAS, EPS, DECAY, CLIP = 3e-4, (0.9, 0.95), 1e-8, 0.1, 1.0
"""Of AdamW and of the clipping, for all contestants."""
FIRST_STEPS = 3
"""Steps whose losses are compared before any is timed."""
PER_ELEMENT = {
    "add_layer_norm": (9, 12),
    "add_rms_norm": (6, 10),
    "bias_gelu": (11, 17),
    "cross_entropy": (5, 4),
    "geglu": (11, 18),
    "gelu": (10, 16),
    "gru_cell": (6, 5),
    "layer_norm": (8, 11),
    "log_softmax": (5, 4),
    "logsumexp": (4, 2),
    "lstm_cell": (5, 6),
    "rms_norm": (5, 9),
    "silu": (4, 7),
    "softmax": (5, 4),
    "swiglu": (5, 9),
}
"""Additions, multiplications, divisions, roots and exponentials for each element of the first input, (forward,
backward), beside matrix products; about one of each elsewhere. They place a kernel in the picture, no more: what is
done element by element is limited by memory."""


def start(contestant: str) -> None:
    """Settle who computes in this process."""
    keep_freed_memory()
    use_backend("numpy" if contestant == "reference" else "auto")


def job(case: Case) -> Job:
    """The work of a case."""
    return JOBS[case.kind](case)


# -- operations --------------------------------------------------------------------------------------------------------


def _operation(case: Case) -> Job:
    operation = find_operation(case.sizes["operation"])
    inputs, options = arguments(operation, case)
    value, vjp = operation.compute(*inputs, **options)
    values = value if isinstance(value, tuple) else (value,)
    dys = tuple(cotangent(v.shape) for v in values)
    gradients = _gradients(vjp(dys if isinstance(value, tuple) else dys[0]))
    gradients = {i: g for i, g in gradients.items() if isinstance(inputs[i], np.ndarray)}
    forward = sum(a.nbytes for a in arrays_read(operation, inputs, options)) + sum(v.nbytes for v in values)
    again = min(forward, _kept(vjp))  # what a backward pass reads once more, beside dy
    moved = forward + again + sum(v.nbytes for v in values) + sum(g.nbytes for g in gradients.values())
    backward = case.sizes["backward"]
    tensors = [Tensor(x, backward and i in gradients) if i in gradients else x for i, x in enumerate(inputs)]
    del value, vjp

    def run() -> tuple[Array, ...]:
        result = operation(*tensors, **options)
        outputs = result if isinstance(result, tuple) else (result,)
        if backward:
            for i in gradients:
                tensors[i].grad = None
            sweep(outputs, dys)
        return tuple(t.data for t in outputs)

    def evaluated() -> tuple[Array, ...]:
        with no_grad():
            return run()

    results = [*values, *(gradients.values() if backward else ())]
    return Job(
        run if backward else evaluated,
        [fingerprint(a) for a in results],
        operations=_operations(operation, inputs, options, values[0].shape, backward),
        moved=moved if backward else forward,
    )


def _gradients(found: Any) -> dict[int, Array]:
    """The gradients that there are, by the position of the input."""
    pairs = enumerate(found if isinstance(found, (tuple, list)) else (found,))
    return {i: np.asarray(g() if callable(g) else g) for i, g in pairs if g is not None}


def _kept(vjp: Callable[..., Any]) -> int:
    """Bytes of the arrays that a vjp holds, shared memory counted once."""
    return sum({a.__array_interface__["data"][0]: a.nbytes for a in saved_arrays(vjp)}.values())


def _operations(
    operation: Operation, inputs: list[Any], options: dict[str, Any], output: tuple[int, ...], backward: bool
) -> float:
    """Of matrix products, or else of work on each element."""
    products = product_operations(operation, inputs, options, output)
    elements = np.size(inputs[0])
    each = [
        count + elements * per for count, per in zip(products, PER_ELEMENT.get(operation.name, (1, 1)), strict=True)
    ]
    if products[0]:
        each = list(products)
    return float(sum(each)) if backward else float(each[0])


# -- optimisers --------------------------------------------------------------------------------------------------------


def parameter_shapes(case: Case) -> list[tuple[int, ...]]:
    """The shapes that are updated."""
    shapes = case.sizes["shapes"]
    if shapes != "GPT-2":
        return [tuple(shape) for shape in shapes]
    config = GPTConfig()
    c, width = config.channels, 4 * config.channels
    block = [(c, 3 * c), (3 * c,), (c, c), (c,), (c, width), (width,), (width, c), (c,), *[(c,)] * 4]
    return [(config.vocab_size, c), (config.context, c), (c,), (c,), *block * config.layers]


def weights_and_gradients(case: Case) -> Iterator[tuple[Array, Array]]:
    """Arrays of a size in which training has them; the gradients repeat, as numbers are slow to draw."""
    block = cotangent((1 << 20,))
    for shape in parameter_shapes(case):
        yield np.resize(block, shape) * np.float32(0.02), np.resize(block[::-1], shape)


def _parameters(case: Case) -> list[Parameter]:
    made = []
    for weight, gradient in weights_and_gradients(case):
        parameter = Parameter(weight, decay=weight.ndim == 2)
        parameter.grad = gradient
        made.append(parameter)
    return made


def _adamw(case: Case) -> Job:
    parameters = _parameters(case)
    named = [(f"p{i}", p) for i, p in enumerate(parameters)]
    optimizer = AdamW(named, RATE, BETAS, EPS, DECAY)
    optimizer.step()
    count = sum(p.size for p in parameters)
    checks = [fingerprint(p.data) for p in parameters[:4]]
    return Job(optimizer.step, checks, operations=13.0 * count, moved=7 * 4 * count)


def _clip(case: Case) -> Job:
    """Each time a little below the norm that there is, so that something is to be scaled."""
    parameters = _parameters(case)
    limit = [0.999 * clip_by_global_norm(parameters, 1e9)]

    def run() -> None:
        limit[0] = 0.999 * clip_by_global_norm(parameters, limit[0])

    checks = [(limit[0], limit[0])]
    run()
    checks += [fingerprint(p.grad) for p in parameters[:4]]
    count = sum(p.size for p in parameters)
    return Job(run, checks, operations=3.0 * count, moved=3 * 4 * count)


# -- models ------------------------------------------------------------------------------------------------------------


def model_and_config(case: Case) -> tuple[Decoder, Any]:
    """The model of a case, always with the same initial weights."""
    if case.sizes.get("model") == "Llama":
        llama = LlamaConfig(**case.sizes["config"])
        return Llama(llama), llama
    config = GPTConfig(**case.sizes["config"])
    return GPT(config), config


def _train(case: Case) -> Job:
    model, config = model_and_config(case)
    optimizer = AdamW(model.named_parameters(), RATE, BETAS, EPS, DECAY)
    settings = TrainConfig(steps=1, warmup=0, learning_rate=RATE, schedule="constant", clip=CLIP)
    ranks = OneProcess(optimizer)
    task = OneBatch(batch(case))

    def run() -> float:
        return training_step(model, ranks, task, 0, settings)[0]

    checks = [(loss, loss) for loss in (run() for _ in range(FIRST_STEPS))]
    return Job(run, checks, operations=training_operations(config, case.sizes["batch"], config.context))


def prompt(case: Case) -> Array:
    """The tokens from which generation starts."""
    return batch(Case("", "", "", {"config": {**case.sizes["config"], "context": PROMPT}, "batch": 1}, ()))[0][0]


def _decode(case: Case) -> Job:
    model = model_and_config(case)[0].eval()
    ids = prompt(case)
    with no_grad():
        checks = [fingerprint(model(ids[None]).data[0, -1])]
    count = weight_bytes(model) / 4
    if case.sizes["weights"] != "float32":
        checks = []  # fewer bits give other numbers
        quantize(model, case.sizes["weights"])
    else:
        pack_parameters(model)  # as `generate` does
    tokens: list[Iterator[Array]] = []

    def before() -> None:
        tokens[:] = [generate_tokens(model, [ids], Sampling(temperature=0))]
        next(tokens[0])

    return Job(lambda: next(tokens[0]), checks, before, NEW_TOKENS, 2.0 * count, weight_bytes(model))


def weight_bytes(model: Decoder) -> int:
    """Bytes of all weights that a token needs: of a tied embedding all rows, for the head, and of positions none."""
    weights = sum(parameter.data.nbytes for parameter in model.parameters())
    for module in model.modules():  # what is quantised is no parameter any more
        weights += sum(part.nbytes for part in vars(module).values() if isinstance(part, (Quantized, np.ndarray)))
    positions = getattr(model, "position_embedding", None)
    return weights - (0 if positions is None else positions.weight.data.nbytes)


JOBS: dict[str, Callable[[Case], Job]] = {
    "operation": _operation,
    "adamw": _adamw,
    "clip": _clip,
    "train": _train,
    "decode": _decode,
    **TOKENIZER_JOBS,
    **PRETRAINED_JOBS,
}
