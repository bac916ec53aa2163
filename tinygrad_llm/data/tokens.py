"""Token files: a corpus as one row of ids on the disk, and the batches drawn from it.

The row is `<|endoftext|>` document `<|endoftext|>` document ... : a separator before each document, so that a model
given only a separator begins a document, and so that each token of text has something before it to be predicted from.

This row is also the packing: a window of T + 1 ids may begin anywhere, and hold the end of one document and the
beginning of the next. No id is padding, so no arithmetic is wasted. Attention is not cut at the separators; the model
learns what they mean (as GPT-2 and GPT-3 did).

The file: 512 bytes of header (JSON, filled up with spaces, readable with any pager), then the ids, little-endian, in 2
bytes each if all ids of the vocabulary fit, else in 4.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from tinygrad_llm.data.document import DataError, Document
from tinygrad_llm.files import atomic_write

if TYPE_CHECKING:
    from tinygrad_llm.tokenizer import Tokenizer

IGNORE = -100  # a target that is not counted
_HEADER = 512
_FORMAT = "tinygrad_llm tokens 1"

Batch = tuple[np.ndarray, np.ndarray]


def write_tokens(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    path: str | PathLike[str],
    progress: Callable[[int], None] | None = None,
) -> TokenFile:
    """Encode the documents one by one into a token file, and open it.

    Memory: one document (or part of one) and its ids. The name of a special token in a text is ordinary text.
    `progress(bytes)` is told the bytes of text done so far. Written beside and renamed: a crash leaves the old file.
    Raises DataError if there is no text, OSError if the file cannot be written (on Windows: while it is open).
    """
    target = Path(path)

    def write(beside: Path) -> None:
        with open(beside, "wb") as file:
            header = _write_body(file, documents, tokenizer, progress)
            if not header["bytes"]:
                raise DataError(f"{target}: no text to write", "empty")
            file.seek(0)
            file.write(json.dumps(header).encode("ascii").ljust(_HEADER - 1) + b"\n")

    atomic_write(target, write)
    return TokenFile(target)


def _write_body(
    file: IO[bytes], documents: Iterable[Document], tokenizer: Tokenizer, progress: Callable[[int], None] | None
) -> dict[str, Any]:
    dtype = "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"
    tokens = size = count = 0
    digest = hashlib.blake2b(digest_size=32)
    previous = None
    separator = np.array([tokenizer.separator_id])
    file.write(b" " * _HEADER)
    for document in documents:
        ids = tokenizer.encode(document.text, disallowed_special=())
        if document.part == 0 or document.name != previous:  # a document begins, or its beginning was left out
            ids = np.concatenate([separator, ids])
            previous = document.name
            count += 1
        content = ids.astype(dtype).tobytes()
        digest.update(content)
        file.write(content)
        tokens += len(ids)
        size += len(document.text.encode("utf-8"))
        if progress:
            progress(size)
    return {
        "format": _FORMAT,
        "dtype": dtype,
        "tokens": tokens,
        "bytes": size,
        "documents": count,
        "vocab_size": tokenizer.vocab_size,
        "tokenizer": tokenizer.digest,
        "digest": digest.hexdigest(),
    }


class TokenFile:
    """A token file, mapped into memory: opening it costs one reading, and it may be larger than memory.

    `ids` are the ids, `n_bytes` the UTF-8 bytes of the text they stand for (separators not counted; for bits per
    byte), `n_documents`, `vocab_size` and `tokenizer_digest` what it was made from and with, `digest` a BLAKE2b hash of
    the ids, which is checked at opening.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        """Raises DataError if the file is no token file, or was cut short or changed."""
        self.path = Path(path)
        try:
            with open(self.path, "rb") as file:
                header = json.loads(file.read(_HEADER).decode("ascii"))
            if header["format"] != _FORMAT:
                raise KeyError("format")
            self.n_bytes: int = header["bytes"]
            self.n_documents: int = header["documents"]
            self.vocab_size: int = header["vocab_size"]
            self.tokenizer_digest: str = header["tokenizer"]
            self.digest: str = header["digest"]
            dtype, tokens = np.dtype(header["dtype"]), header["tokens"]
        except (KeyError, TypeError, ValueError):
            raise DataError(
                f"{self.path}: not a token file of this version; write it again with write_tokens"
            ) from None
        size, expected = self.path.stat().st_size, _HEADER + tokens * dtype.itemsize
        if size != expected:
            raise DataError(
                f"{self.path}: {size} bytes, but {tokens} tokens need {expected}; the file was cut or changed"
            )
        with open(self.path, "rb") as file:
            file.seek(_HEADER)
            if hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest() != self.digest:
                raise DataError(f"{self.path}: its ids are not those that were written (their hash differs)")
        self.ids = np.asarray(np.memmap(self.path, dtype=dtype, mode="r", offset=_HEADER, shape=(tokens,)))

    def __len__(self) -> int:
        """The number of ids, separators included."""
        return len(self.ids)

    def batch(self, batch_size: int, context: int, generator: np.random.Generator) -> Batch:
        """`batch_size` windows that begin anywhere, all places equally likely: inputs and targets, int64 (B, T).

        targets[b, t] is the id after inputs[b, t]. T = context, or less if the file is shorter: its length - 1.
        """
        length = self._window(batch_size, context)
        begins = generator.integers(0, len(self) - length, size=batch_size)
        rows = self.ids[begins[:, None] + np.arange(length + 1)].astype(np.int64)
        return rows[:, :-1].copy(), rows[:, 1:].copy()

    def windows(self, context: int, batch_size: int, stride: int = 0) -> Iterator[Batch]:
        """The whole file for evaluation: each id but the first is a target exactly once.

        A window begins `stride` ids after the one before; of its targets those that the one before had are IGNORE
        (-100), so that each has at least ``context - stride`` ids before it, unless it is in the first window. With
        stride 0, windows follow each other without overlap. `batch_size` at a time: int64 (B, T), fewer rows in the
        last batch. The last window is filled up with id 0 as input and IGNORE as target. With the sum of losses over
        all targets in nats, bits per byte = sum / ln 2 / n_bytes. (This includes predicting the separators between
        documents: that is part of predicting the text.)
        """
        length = self._window(batch_size, context)
        if not 0 <= stride <= context:
            raise ValueError(f"stride {stride} must be at least 1 and at most the context, {context}")
        stride = min(stride or length, length)
        targets, column = len(self) - 1, np.arange(length)
        begins = np.arange(0, targets - length + stride, stride)
        for low in range(0, len(begins), batch_size):
            begin = begins[low : low + batch_size, None]
            places = begin + column
            inside, seen = places < targets, (begin > 0) & (column < length - stride)
            places = np.minimum(places, targets - 1)
            inputs, following = self.ids[places].astype(np.int64), self.ids[places + 1].astype(np.int64)
            yield np.where(inside, inputs, 0), np.where(inside & ~seen, following, IGNORE)

    def _window(self, batch_size: int, context: int) -> int:
        if batch_size < 1 or context < 1:
            raise ValueError(f"batch_size {batch_size} and context {context} must be at least 1")
        if len(self) < 2:
            raise DataError(f"{self.path}: {len(self)} token(s), but at least 2 are needed: one to predict from one")
        return min(context, len(self) - 1)
