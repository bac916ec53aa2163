"""What a comparison found, for people: a short table in the terminal, and the words of the README."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tinygrad_llm.study.architectures.results import Comparison
from tinygrad_llm.study.benchmarks.results import HAD
from tinygrad_llm.study.rungs.report import digits

NAMES = {"gpt": "GPT", "lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}
"""As they are written."""


def tables(found: Comparison) -> RenderableType:
    """The three experiments, a table each, and what they were measured on."""
    return Group(
        Text("loss at equal parameters, on the same text", style="bold"),
        _table(*loss_cells(found)),
        Text("a training step's forward and backward pass, microseconds a token", style="bold"),
        _table(*step_cells(found)),
        Text("the gradient k tokens back, beside that 1 token back", style="bold"),
        _table(*reach_cells(found)),
        Text("\n".join(remarks(found)), style="dim"),
    )


def _table(header: Sequence[str], body: Sequence[Sequence[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, title in enumerate(header):
        table.add_column(title, justify="right" if number else "left")
    for row in body:
        table.add_row(*row)
    return table


def loss_cells(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows: what was trained, and how far it came."""
    header = ["", "parameters", "layers", "width", "tokens", "seconds", "held-out loss"]
    body = [
        [
            NAMES[model],
            f"{curve.parameters:,}",
            str(curve.layers),
            str(curve.channels),
            f"{curve.tokens[-1]:,}",
            f"{curve.seconds[-1]:.1f}",
            f"{curve.losses[-1]:.3f}",
        ]
        for model, curve in found.curves.items()
    ]
    return header, body


def step_cells(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows: the shortest, a middle and the longest length, with many sequences and with one."""
    lengths = found.settings.lengths
    chosen = list(dict.fromkeys((lengths[0], lengths[len(lengths) // 2], lengths[-1])))
    many = [(max(1, found.settings.tokens // length), length) for length in chosen]
    sizes = list(dict.fromkeys([*many, *((1, length) for length in chosen)]))
    header = ["", *(f"B={batch} T={length}" for batch, length in sizes)]
    return header, [
        [NAMES[model], *(digits(1e6 * found.step(model, *size).per_token) for size in sizes)] for model in found.models
    ]


def reach_cells(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows: some distances, before and after training."""
    last = found.settings.context - 1
    distances = [k for k in (4, 16, 64) if k < last] + [last]
    header = ["", "", *(f"k={k}" for k in distances)]
    return header, [
        [
            NAMES[model] if not trained else "",
            "trained" if trained else "untrained",
            *(f"{found.reach(model, trained).kept(k):.1e}" for k in distances),
        ]
        for model in found.models
        for trained in (False, True)
    ]


def markdown(found: Comparison) -> str:
    """A line of the README for each experiment."""
    curves = sorted(found.curves.items(), key=lambda item: item[1].losses[-1])
    lengths, last = found.settings.lengths, found.settings.context - 1

    def micro(model: str, length: int) -> str:
        return digits(1e6 * found.step(model, 1, length).per_token)

    losses = (f"{NAMES[model]} {curve.losses[-1]:.2f} in {curve.seconds[-1]:.0f} s" for model, curve in curves)
    times = (f"{NAMES[model]} {micro(model, lengths[0])} to {micro(model, lengths[-1])} µs" for model in found.models)
    reaches = (f"{NAMES[model]} {found.reach(model, True).kept(last):.1g}" for model in found.models)
    tokens, parameters = curves[0][1].tokens[-1], curves[0][1].parameters
    return (
        f"- Held-out loss after {tokens:,} tokens, with {parameters / 1e6:.2f} million parameters each: "
        f"{', '.join(losses)}.\n"
        f"- Time for a token in a training step of one sequence, as the sequence grows from {lengths[0]:,} to "
        f"{lengths[-1]:,} tokens: {', '.join(times)}.\n"
        f"- Gradient {last} tokens back, in parts of that 1 token back, after training: {', '.join(reaches)}.\n"
    )


def remarks(found: Comparison) -> list[str]:
    """The machine, the versions, and whether the machine had other work to do."""
    settings = found.settings
    threads = f"{found.threads} thread{'s' if found.threads > 1 else ''}"
    lines = [
        f"{found.processor}, {threads}, Python {found.versions['python']}, NumPy {found.versions['numpy']}, "
        f"{found.made[:10]}; T={settings.context}, B={settings.batch_size}, V={settings.vocab_size:,}; "
        f"medians of {settings.rounds} rounds and of {settings.sequences} sequences"
    ]
    if found.had < HAD:
        lines.append(
            f"the machine was busy: we had {found.had:.0%} of the processor time that we could use; "
            "do not trust the times"
        )
    return lines
