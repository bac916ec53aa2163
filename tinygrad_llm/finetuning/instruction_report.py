"""What instruction tuning leaves to read: scores and answers before and after, and the lengths of the examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from tinygrad_llm.files import atomic_write
from tinygrad_llm.finetuning.labelled_data import short

if TYPE_CHECKING:
    from tinygrad_llm.finetuning.instruction_data import InstructionData

SHOWN = 10
"""Answers that are printed."""

MARK = "answer    "
"""Before each answer of a sample, which is one line."""


def tell_scores(before: dict[str, Any], after: dict[str, Any], console: Console) -> None:
    """The table of scores."""
    console.print(f"{'held-out prompts':<34}{'before':>12}{'after':>12}")
    rows = [("loss (nats per answer token)", "loss", "{:.3f}"), ("perplexity", "perplexity", "{:,.2f}")]
    if "exact_match" in after:
        rows += [("exact match", "exact_match", "{:.1%}"), ("  its standard error", "standard_error", "{:.1%}")]
        rows.append(("token F1", "token_f1", "{:.1%}"))
    for title, name, form in rows:
        console.print(f"{title:<34}{form.format(before[name]):>12}{form.format(after[name]):>12}")


def tell_answers(answers: Sequence[dict[str, Any]], console: Console) -> None:
    """Some answers before and after."""
    for one in answers[:SHOWN]:
        console.print(f"prompt      {short(one['prompt'], 100)}")
        console.print(f"  expected  {short(one['expected'], 100)}")
        console.print(f"  before    {short(one['before'], 100)}")
        console.print(f"  after     {short(one['after'], 100)}{'' if one['exact_match'] else '  (no exact match)'}")


def write_answers(answers: Sequence[dict[str, Any]], metrics: Sequence[dict[str, Any]], path: Path) -> None:
    """All answers; of the first prompts those that the samples of training have, too."""
    samples = [(row["step"], _answers_of(row["sample"])) for row in metrics if "sample" in row]
    parts = []
    for number, one in enumerate(answers):
        lines = [("prompt", one["prompt"]), ("expected", one["expected"]), ("before", one["before"])]
        lines += [(f"step {step}", some[number]) for step, some in samples if number < len(some)]
        lines.append(("after", one["after"]))
        width = max(len(name) for name, _ in lines)
        margin = "\n" + " " * (width + 2)
        parts.append("".join(f"{name:<{width}}  {margin.join(text.split(chr(10)))}\n" for name, text in lines))
    atomic_write(path, "\n".join(parts).encode("utf-8", "replace"))


def _answers_of(sample: str) -> list[str]:
    """The answers that a sample holds, in the order of the prompts."""
    return [line[len(MARK) :] for line in sample.split("\n") if line.startswith(MARK)]


def plot_lengths(data: InstructionData, path: Path) -> None:
    """How many examples have a prompt, an answer, and both together, of so many tokens; and where the context ends."""
    from matplotlib.figure import Figure  # slow to import, and only needed here

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    both = data.prompt_lengths + data.answer_lengths
    drawn = ("prompt", data.prompt_lengths), ("answer", data.answer_lengths), ("prompt and answer", both)
    for axis, (name, lengths) in zip(figure.subplots(1, 3), drawn, strict=True):
        low, high = int(lengths.min()), int(lengths.max())
        step = max(1, -(-(high - low + 1) // 40))
        axis.hist(lengths, bins=np.arange(low, high + step + 1, step) - 0.5, color="tab:blue")
        for share, style in ((50, "--"), (95, ":")):
            value = float(np.percentile(lengths, share))
            axis.axvline(value, color="tab:orange", linestyle=style, label=f"{share} % up to {value:,.0f}")
        if lengths is both and high > data.context:
            axis.axvline(data.context + 1, color="tab:red", label=f"longer ones are left out: {data.context:,}")
        axis.set(xlabel=f"tokens of {name}", ylabel="examples", title=f"longest: {high:,} tokens")
        axis.legend(fontsize="small")
        axis.grid(alpha=0.3)
    atomic_write(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))
