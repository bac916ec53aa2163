"""What is measured: each case is plain data, so that every worker process can build the same work from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from typing import Any

from tinygrad_llm.models import GPTConfig
from tinygrad_llm.operation import Operation
from tinygrad_llm.study.rungs.workloads import SHAPES
from tinygrad_llm.tensor import registry

Shape = tuple[int, ...]
GROUPS = ("kernels", "train", "decode", "tokenizer", "pretrained")

MEMORY_BOUND = (2048, 1536)
"""Shape of elementwise work: 12.6 MB of float32 an array."""
RECURRENT = ((16, 64, 128), (8, 128, 256))
"""Shapes of sequences for recurrent networks, with as many units as channels."""
LARGE_SHAPES: dict[str, tuple[Shape, ...]] = {
    "attention": (
        (4, 12, 64, 64),
        (4, 12, 256, 64),
        (2, 12, 512, 64),
        (1, 12, 1024, 64),
        (1, 8, 2048, 64),
        (1, 4, 4096, 64),
    ),
    "add_layer_norm": (MEMORY_BOUND,),
    "add_rms_norm": (MEMORY_BOUND,),
    "cross_entropy": ((256, 50257),),
    "embedding": ((50257, 768),),
    "gru": RECURRENT,
    "layer_norm": (MEMORY_BOUND,),
    "linear": ((2048, 768),),
    "linear_cross_entropy": ((256, 768),),
    "lstm": RECURRENT,
    "matmul": ((1024, 1024),),
    "rms_norm": (MEMORY_BOUND,),
    "rnn": RECURRENT,
    "self_attention": ((8, 64, 1536), (4, 256, 1536), (2, 1024, 1536)),
}
"""Shapes of the first input, where the ladder's or the one above would be too small or not telling."""


@dataclass(frozen=True)
class Case:
    """One row. `kind` says how it is built, `sizes` with what numbers; `amount` of `unit` are done in each run."""

    group: str
    name: str
    kind: str
    sizes: dict[str, Any]
    contestants: tuple[str, ...]
    amount: float = 1.0
    unit: str = ""

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


@dataclass(frozen=True)
class TrainSizes:
    """One training step: the model, and B sequences of T tokens."""

    name: str
    config: dict[str, int]
    batch: int


def gpt_sizes(layers: int, channels: int, heads: int, time: int, vocabulary: int) -> dict[str, int]:
    """The arguments of a GPTConfig."""
    return {"vocab_size": vocabulary, "context": time, "channels": channels, "layers": layers, "heads": heads}


TRAINED = (
    TrainSizes("4 layers, C=128, H=4, T=64, B=12, V=65", gpt_sizes(4, 128, 4, 64, 65), 12),
    TrainSizes("6 layers, C=384, H=6, T=256, B=8, V=65", gpt_sizes(6, 384, 6, 256, 65), 8),
    TrainSizes("GPT-2 124M, T=64, B=4, V=50257", gpt_sizes(12, 768, 12, 64, 50257), 4),
    TrainSizes("GPT-2 124M, T=256, B=1, V=50257", gpt_sizes(12, 768, 12, 256, 50257), 1),
)
LLAMA = {
    "vocab_size": 49152,
    "context": 512,
    "channels": 576,
    "layers": 30,
    "heads": 9,
    "kv_heads": 3,
    "feed_forward": 1536,
}
DECODED = {"GPT-2 124M": ("GPT", gpt_sizes(12, 768, 12, 512, 50257)), "Llama 135M": ("Llama", LLAMA)}
"""The models that generate, with a smaller context than they might have: only what is there is read."""
PROMPT, NEW_TOKENS = 64, 16
"""Tokens before those that are timed, and how many are timed in one turn."""
UPDATED = {"10 M": [[2500, 2000], [2000, 2500]], "124 M": "GPT-2"}
"""Parameters that an optimiser updates: shapes, or those of GPT-2's smallest model."""


def cases(group: str, only: str = "", against: tuple[str, ...] = (), text: str = "") -> list[Case]:
    """The cases of a group that `only` fits; the tokenizer's are of a file of text, if one is named."""
    if group == "tokenizer":
        from tinygrad_llm.study.benchmarks.tokenizer_cases import tokenizer_cases  # it needs Case

        found = tokenizer_cases(against, text)
    elif group == "pretrained":
        from tinygrad_llm.study.benchmarks.pretrained import pretrained_cases  # the same

        found = pretrained_cases(against)
    else:
        found = {"kernels": _kernels, "train": _train, "decode": _decode}[group](against)
    return [case for case in found if fits(only, group, case.name)]


def fits(only: str, group: str, name: str) -> bool:
    """Whether ``group: name``, as it is shown, contains `only`, in which ``*`` stands for anything."""
    return fnmatch(f"{group}: {name}".lower(), f"*{only.lower()}*")


def _kernels(against: tuple[str, ...]) -> Iterator[Case]:
    contestants = ("reference", "kernel", *(name for name in against if name == "torch"))
    for name, operation in sorted(registry.items()):
        if not operation.kernel:
            continue
        for shape in shapes_of(operation):
            for backward in (False, True):
                title = f"{name} {shape}{' + backward' if backward else ''}"
                sizes = {"operation": name, "shape": list(shape), "backward": backward}
                yield Case("kernels", title, "operation", sizes, contestants)
    for title, shapes in UPDATED.items():
        yield Case("kernels", f"AdamW, {title}", "adamw", {"shapes": shapes}, contestants)
    yield Case("kernels", "clip by global norm, 124 M", "clip", {"shapes": UPDATED["124 M"]}, contestants)


def shapes_of(operation: Operation) -> tuple[Shape, ...]:
    """Shapes of the first input at which an operation is measured."""
    return LARGE_SHAPES.get(operation.name) or (SHAPES.get(operation.name, MEMORY_BOUND),)


def _train(against: tuple[str, ...]) -> Iterator[Case]:
    peers = ("torch", "torch.compile") if "torch" in against else ()
    for sizes in TRAINED:
        tokens = sizes.batch * sizes.config["context"]
        body = {"config": sizes.config, "batch": sizes.batch}
        yield Case("train", sizes.name, "train", body, ("ours", *peers), tokens, "tokens")


def _decode(against: tuple[str, ...]) -> Iterator[Case]:
    peers = tuple(name for name in against if name == "torch")
    for name, (model, config) in DECODED.items():
        for weights in ("float32", "int8", "int4"):
            sizes = {"model": model, "config": config, "weights": weights}
            others = peers if weights == "float32" else ("float32",)
            yield Case("decode", f"{name}, {weights}", "decode", sizes, ("ours", *others), 1, "tokens")


# -- what the work cannot do without -----------------------------------------------------------------------------------


def training_operations(config: GPTConfig, batch: int, time: int) -> float:
    """Floating-point operations of the matrix products of a training step: of the model, not of what is run.

    ``6 P B T`` with P the parameters in matrix products, the tied head included: a multiplication and an addition
    forward and twice that backward; and ``12 L C T B T / 2`` for attention, ``Q K^T`` and its product with V, of which
    the causal half counts. Source: Chowdhery et al. 2022, arXiv:2204.02311, appendix B.
    """
    c, width = config.channels, config.feed_forward or 4 * config.channels
    products = config.layers * (4 * c * c + 2 * c * width) + config.vocab_size * c
    tokens = batch * time
    return 6.0 * products * tokens + 12.0 * config.layers * c * time * tokens / 2
