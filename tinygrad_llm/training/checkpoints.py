"""Checkpoints that survive a kill at any moment, and a resumed run that continues bit for bit.

A checkpoint is a folder ``checkpoints/step-00000250`` with the weights, the optimiser's state, and ``state.json`` that
holds the step and the SHA-256 of the others. It is written under another name, flushed to disk, then renamed: so a
folder with the right name is complete. The last two are kept, in case the disk damages one; and the best, if that is
what the run will keep.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tinygrad_llm.files import atomic_write, sync
from tinygrad_llm.models.pretrained import Pretrained
from tinygrad_llm.parallel.ranks import Ranks
from tinygrad_llm.tape import Array
from tinygrad_llm.weights import load_arrays, open_checkpoint, save_arrays

KEEP = 2
OPTIMIZER = "optimizer.safetensors"


class Saver(Protocol):
    """What of a model is saved: all of it, or what was trained."""

    @property
    def files(self) -> Sequence[str]:
        """The names of the files."""

    def save(self, folder: Path) -> None:
        """Write them."""

    def load(self, folder: Path) -> None:
        """Take the weights from them."""


class WholeModel:
    """Saves all of a model."""

    files = "config.json", "model.safetensors"

    def __init__(self, model: Pretrained) -> None:
        self.model = model

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)

    def load(self, folder: Path) -> None:
        self.model.load(open_checkpoint(folder))


def save_checkpoint(
    run: Path, step: int, saver: Saver, state: Mapping[str, Array], about: dict[str, Any], best: int = 0
) -> Path:
    """Save everything needed to go on after `step`, the optimizer's `state` too, and make its model the run's. The
    checkpoint of the step `best` is kept besides the last."""
    parent = run / "checkpoints"
    parent.mkdir(exist_ok=True)
    for leftover in parent.glob(".step-*.tmp"):
        shutil.rmtree(leftover)
    temporary, folder = parent / f".step-{step:08d}.tmp", folder_of(run, step)
    try:
        temporary.mkdir()
        _write(temporary, step, saver, state, about)
    except OSError:  # a full disk: do not leave it fuller
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(temporary, folder)
    sync(parent)
    publish(run, folder, saver)
    for old in _folders(run)[KEEP:]:
        if old != folder_of(run, best):
            shutil.rmtree(old)
    return folder


def folder_of(run: Path, step: int) -> Path:
    """Where the checkpoint after a step is."""
    return run / "checkpoints" / f"step-{step:08d}"


def _write(folder: Path, step: int, saver: Saver, state: Mapping[str, Array], about: dict[str, Any]) -> None:
    """The files of a checkpoint."""
    saver.save(folder)
    save_arrays(folder / OPTIMIZER, dict(state), {})
    digests = {name: _sha256(folder / name) for name in (*saver.files, OPTIMIZER)}
    told = {**about, "step": step, "sha256": digests}
    atomic_write(folder / "state.json", json.dumps({**told, "own_sha256": _seal(told)}, indent=2).encode())
    sync(folder)


def publish(run: Path, folder: Path, saver: Saver) -> None:
    """Make a checkpoint's model the run's."""
    for name in saver.files:
        atomic_write(run / name, functools.partial(shutil.copyfile, folder / name))


def load_checkpoint(
    run: Path, saver: Saver, ranks: Ranks, warn: Callable[[str], None] = lambda message: None
) -> dict[str, Any] | None:
    """Restore the newest sound checkpoint into the model and the optimizer; its state, or None if there is none.

    A damaged one is reported through `warn` and the one before is tried. If all are damaged: ValueError.
    """
    state = ranks.told(_newest(run, warn) if ranks.leads else None)
    if state is None:
        return None
    folder = folder_of(run, int(state["step"]))
    with ranks.whole():
        saver.load(folder)
    ranks.load_state_dict(load_arrays(folder / OPTIMIZER)[0])
    if ranks.leads:
        publish(run, folder, saver)
    return dict(state)


def _newest(run: Path, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """The state of the newest sound checkpoint; those that are not are removed, if there is one."""
    folders, damaged = _folders(run), []
    for folder in folders:
        try:
            state = verify(folder)
        except (ValueError, OSError) as error:
            warn(f"the checkpoint {folder.name} is damaged and was not used: {error}")
            damaged.append(folder)
            continue
        for each in damaged:  # else it would count among those that are kept
            shutil.rmtree(each)
        return state
    if folders:
        raise ValueError(f"{run}: none of its {len(folders)} checkpoints can be read; train again with another --out")
    return None


def known_tokenizer(run: Path) -> str | None:
    """The digest of the tokenizer that the run's checkpoints were trained with, if one of them can be read."""
    for folder in _folders(run):
        try:
            return str(verify(folder)["tokenizer"])
        except (ValueError, KeyError):
            continue
    return None


def verify(folder: Path) -> dict[str, Any]:
    """The checkpoint's state, if its files are those that were written; a ValueError names the one that is not."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        seal = state.pop("own_sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"state.json cannot be read ({error})") from error
    if seal != _seal(state):
        raise ValueError("state.json is not what was written (its SHA-256 differs)")
    for name, digest in state["sha256"].items():
        if not (folder / name).is_file():
            raise ValueError(f"{name} is missing")
        if _sha256(folder / name) != digest:
            raise ValueError(f"{name} is not what was written (its SHA-256 differs)")
    return state


def _seal(state: dict[str, Any]) -> str:
    """SHA-256 of the state itself."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _folders(run: Path) -> list[Path]:
    """Complete checkpoints, the newest first."""
    return sorted((run / "checkpoints").glob("step-" + 8 * "[0-9]"), reverse=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
