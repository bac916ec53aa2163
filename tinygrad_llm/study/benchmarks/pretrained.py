"""A real model, SmolLM2 of 135 million parameters, beside llama.cpp: tokens read and tokens written in a second.

llama.cpp reads the package's own file, whose weights have 4 bits (Q4_1), in all rows; ours has as many bits as a row
says. Both read the same text, and write as many tokens, each the most probable one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import numpy as np

from tinygrad_llm.generation import KVCache, Sampling, generate_tokens
from tinygrad_llm.generation.loading import PACKAGES, find_model, load_pretrained
from tinygrad_llm.nn.packing import pack_parameters
from tinygrad_llm.nn.quantized import quantize
from tinygrad_llm.study.benchmarks.cases import Case
from tinygrad_llm.study.benchmarks.job import Job
from tinygrad_llm.tape import no_grad
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.threads import thread_count

MODEL = "smollm2"
READ = "The quick brown fox jumps over the lazy dog. " * 45
"""A text to read: 451 tokens."""
BEGINNING, WRITTEN = "Once upon a time there was a king", 64
"""A text to go on with, and by how many tokens."""


def pretrained_cases(against: tuple[str, ...]) -> Iterator[Case]:
    """The cases, if the model is installed."""
    try:
        for package in (PACKAGES[MODEL].name, PACKAGES[MODEL].needs):
            distribution(package)
    except PackageNotFoundError:
        return
    others = tuple(name for name in against if name == "xllamacpp")
    for weights in ("float32", "int8", "int4"):
        for kind, amount in (("read", token_count()), ("write", WRITTEN)):
            sizes = {"weights": weights}
            yield Case(
                "pretrained", f"SmolLM2 135M, {kind}, {weights}", kind, sizes, ("ours", *others), amount, "tokens"
            )


def token_count() -> int:
    """Tokens of the text that is read."""
    from tinygrad_llm.generation.loading import load_tokenizer

    tokenizer = load_tokenizer(find_model(MODEL))
    assert tokenizer is not None
    return len(tokenizer.encode(READ))


def _model(case: Case) -> tuple[Any, Any]:
    """The model with its weights as `generate` has them, and its tokenizer."""
    loaded = load_pretrained(MODEL)
    if case.sizes["weights"] == "float32":
        pack_parameters(loaded.model)
    else:
        quantize(loaded.model, case.sizes["weights"])
    return loaded.model.eval(), loaded.tokenizer


def _read(case: Case) -> Job:
    model, tokenizer = _model(case)
    ids = np.asarray(tokenizer.encode(READ))

    def run() -> None:
        with no_grad():
            x = model.hidden(ids[None], cache=KVCache(model.config, 1))
            model.head(Tensor(x.data[:, -1]))

    return Job(run, amount=len(ids))


def _write(case: Case) -> Job:
    model, tokenizer = _model(case)
    ids = np.asarray(tokenizer.encode(BEGINNING))

    def run() -> None:
        tokens = generate_tokens(model, [ids], Sampling(temperature=0))
        for _ in range(WRITTEN):
            next(tokens)

    return Job(run, amount=WRITTEN)


PRETRAINED_JOBS: dict[str, Callable[[Case], Job]] = {"read": _read, "write": _write}


def llama_cpp_job(module: Any, case: Case) -> Job:
    """The same by llama.cpp, through package xllamacpp, on the weights as they are in the file."""
    parameters = module.CommonParams()
    parameters.model.path = str(find_model(MODEL))
    parameters.n_ctx, parameters.n_parallel, parameters.warmup = 2048, 1, True
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = thread_count()
    server = module.Server(parameters)
    prompt, count = (READ, 1) if case.kind == "read" else (BEGINNING, WRITTEN)
    asked = {"prompt": prompt, "n_predict": count, "temperature": 0, "cache_prompt": False, "ignore_eos": True}

    def run() -> None:
        answer = server.handle_completions(asked)
        done = (json.loads(answer) if isinstance(answer, str) else answer)["timings"]
        if done["predicted_n"] != count or done["prompt_n"] < (case.kind == "read") * case.amount:
            raise ValueError(f"llama.cpp read {done['prompt_n']} tokens and wrote {done['predicted_n']}")

    return Job(run)
