"""Files that are either wholly written or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def atomic_write(path: Path, content: bytes | Callable[[Path], object]) -> None:
    """Write beside `path`, flush to disk, then rename: a kill at any moment leaves the old file or the new one.

    `content` is the bytes, or a function that writes a file at the path it is given.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content)
        sync(temporary)
        os.replace(temporary, path)
    except OSError as error:  # a full disk does not say where by itself
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Make the operating system put a file, or a folder's list of names, on the disk itself."""
    if path.is_dir() and os.name == "nt":  # Windows opens no folders; its rename is already durable
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
