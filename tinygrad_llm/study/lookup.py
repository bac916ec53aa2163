"""Finding an operation by its name, and a place to write to: what the study commands share."""

from __future__ import annotations

import difflib
import errno
import os
from pathlib import Path

from tinygrad_llm.operation import Operation
from tinygrad_llm.tensor import registry


class UnknownOperation(ValueError):
    """No operation of that name is registered."""


def find_operation(operation: str | Operation) -> Operation:
    """The registered operation of that name; an operation is returned as it is, registered or not.

    Raises UnknownOperation, with the names that are nearest, and TypeError for anything else.
    """
    if isinstance(operation, Operation):
        return operation
    if not isinstance(operation, str):
        raise TypeError(f"expected an operation or its name, not {type(operation).__name__}: {operation!r}")
    if operation in registry:
        return registry[operation]
    near = difflib.get_close_matches(operation.lower(), registry, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(sorted(registry))}"
    raise UnknownOperation(f"unknown operation {operation!r}; {hint}")


def refuse_existing(path: str | os.PathLike[str], force: bool = False) -> Path:
    """`path`, if a file may be written there: its folder exists, and nothing is there yet, or `force` is given.

    Raises FileExistsError for an existing file without `force`, PermissionError for a folder that this user may not
    write to, and ValueError for a missing one and for a folder in the place of the file.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the name of a file")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{path}: the folder {path.parent} does not exist; make it first")
    if path.exists() and not force:
        raise FileExistsError(f"{path} exists already; choose another name, or replace it with --force")
    if not os.access(path.absolute().parent, os.W_OK):  # also to replace a file: it is written beside the old one
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return path
