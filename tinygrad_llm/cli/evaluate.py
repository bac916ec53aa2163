"""``tinygrad-llm eval``."""

from __future__ import annotations

from pathlib import Path

from tinygrad_llm.cli.arguments import Threads, use_threads
from tinygrad_llm.cli.console import plain_console
from tinygrad_llm.generation.loading import load_pretrained
from tinygrad_llm.training import WeightKind, evaluate_text, rounded


def evaluate(model: Path, *, data: str = "", weights: WeightKind = "float32", threads: Threads = None) -> int:
    """Measure a trained model: loss, perplexity and bits per byte.

    Parameters
    ----------
    model
        Folder that tinygrad-llm train wrote.
    data
        File or folder of UTF-8 text; by default the text that the run held out.
    weights
        Bits of a weight: what `generate` would lose by fewer of them.
    """
    use_threads(threads)
    console, loaded = plain_console(stderr=True), load_pretrained(model)
    network, tokenizer = rounded(loaded, weights, console)
    measured = evaluate_text(loaded.path, network, tokenizer, data, console)
    for name, value in measured.items():
        print(f"{name:<16} {value:,.4f}" if isinstance(value, float) else f"{name:<16} {value:,}")
    return 0
