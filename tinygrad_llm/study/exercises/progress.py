"""The path of the exercises, from add to attention, and how far a student has come on it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tinygrad_llm.files import atomic_write

PATH: dict[str, tuple[str, ...]] = {
    "Arithmetic": ("add", "sub", "neg", "mul", "div", "power"),
    "Moving values": ("reshape", "transpose", "pad", "split", "concatenate", "stack"),
    "Functions of one number": ("exp", "log", "sqrt", "tanh", "sigmoid", "softplus", "silu", "gelu"),
    "Kinks and masks": ("relu", "abs", "clip", "where", "dropout"),
    "Reductions": ("sum", "mean", "max"),
    "Picking by index": ("getitem", "embedding"),
    "Products": ("matmul", "linear", "einsum", "lora", "quantized_linear"),
    "Softmaxes and their loss": ("logsumexp", "softmax", "log_softmax", "cross_entropy", "linear_cross_entropy"),
    "Preferences": ("dpo_loss",),
    "Normalisation": ("rms_norm", "layer_norm", "add_rms_norm", "add_layer_norm"),
    "Feed-forward networks": ("bias_gelu", "swiglu", "geglu"),
    "Recurrent networks": ("lstm_cell", "gru_cell", "rnn", "lstm", "gru"),
    "Attention": ("rotary", "attention", "biased_attention", "self_attention"),
}
"""The operations in the order in which their gradients are best studied: each needs only what came before."""

FILE = "progress.json"


@dataclass(frozen=True)
class State:
    """How far one exercise has come. `hints` counts the steps shown, by gradient."""

    done: bool = False
    revealed: bool = False
    hints: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        count = sum(self.hints.values())
        hints = f"{count} hint{'' if count == 1 else 's'}" if count else ""
        if self.done:
            return "done" + (" after revealing" if self.revealed else f" with {hints}" if hints else "")
        return "revealed" if self.revealed else "started" + (f", {hints}" if hints else "")


class Progress:
    """The states of the exercises in one folder, kept in its progress.json."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.states = _read(self.path)

    def state(self, name: str) -> State:
        return self.states.get(name, State())

    def update(self, name: str, **changes: Any) -> State:
        """Change the state of one exercise, and write the file, which another check may have changed meanwhile."""
        self.states = _read(self.path)
        self.states[name] = replace(self.state(name), **changes)
        content = {"exercises": {n: asdict(state) for n, state in self.states.items()}}
        atomic_write(self.path, (json.dumps(content, indent=2) + "\n").encode())
        return self.states[name]

    def next(self, after: str | None = None) -> str | None:
        """The first exercise of the path that is not done, behind `after` if there is one; None if all are done."""
        names = [name for family in PATH.values() for name in family]
        start = names.index(after) + 1 if after in names else 0
        return next((name for name in names[start:] + names[:start] if not self.state(name).done), None)

    @property
    def done(self) -> int:
        """How many exercises are done."""
        return sum(state.done for state in self.states.values())


def _read(path: Path) -> dict[str, State]:
    if not path.exists():
        return {}
    try:
        exercises = json.loads(path.read_text(encoding="utf-8"))["exercises"]
        return {str(name): _state(found) for name, found in exercises.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} does not hold the progress of exercises ({type(error).__name__}: {error}); it was left as it is: "
            "repair it, or move it away to begin anew"
        ) from error


def _state(found: dict[str, Any]) -> State:
    state = State(**found)
    counts = state.hints.values()
    if not (isinstance(state.done, bool) and isinstance(state.revealed, bool)):
        raise TypeError("done and revealed are true or false")
    if not all(isinstance(n, int) and n >= 0 for n in counts):
        raise TypeError("hints are counted in whole numbers")
    return state
