"""How many bytes a token covers, file by file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from rich.text import Text

from tinygrad_llm.data.files import Errors, read_documents
from tinygrad_llm.study.tokens.text_form import columns
from tinygrad_llm.study.tokens.visible import printed
from tinygrad_llm.tokenizer import Tokenizer


class Counts(NamedTuple):
    """The UTF-8 bytes of a file's text, and how many tokens it has by each tokenizer."""

    name: str
    size: int
    tokens: tuple[int, ...]

    @property
    def rates(self) -> list[float]:
        """Bytes per token."""
        return [self.size / count for count in self.tokens]


def count_files(
    paths: Sequence[Path],
    tokenizers: Sequence[Tokenizer],
    skipped: Counter[str],
    errors: Errors = "strict",
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> list[Counts]:
    """The counts of each file, and of each text file below a folder; the largest first.

    Texts are those that training reads (see `read_documents`): without byte-order mark, with line ends "\\n", the
    longest in pieces of about a million characters. `skipped` counts files of folders that are no text, `errors` says
    what becomes of bytes that are not UTF-8, and `progress` gets the bytes done and the bytes of all files.
    Raises DataError as `read_documents` does.
    """
    found: list[Counts] = []
    total, done = sum(map(_bytes_below, paths)), 0
    for path in paths:
        for name, parts in groupby(read_documents(path, skipped, errors=errors), key=lambda document: document.name):
            size, tokens = 0, [0] * len(tokenizers)
            for text in (part.text for part in parts):
                for number, tokenizer in enumerate(tokenizers):
                    tokens[number] += len(tokenizer.encode(text, disallowed_special=()))
                size += len(text.encode("utf-8"))
                progress(min(done + size, total), total)
            done += size
            found.append(Counts(_label(path, name, len(paths)), size, tuple(tokens)))
    return sorted(found, key=lambda counts: -counts.size)


def _bytes_below(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _label(path: Path, name: str, paths: int) -> str:
    if path.is_dir():
        return printed(name if paths == 1 else f"{path.as_posix()}/{name}")
    return printed(str(path))


def whole(counts: Sequence[Counts]) -> Counts:
    """All files together."""
    tokens = zip(*(c.tokens for c in counts), strict=True)
    return Counts("all files", sum(c.size for c in counts), tuple(map(sum, tokens)))


def compression_table(counts: Sequence[Counts], labels: Sequence[str], limit: int) -> Iterator[Text]:
    """A line for each of the first `limit` files, then all together; the best of several tokenizers is green."""
    heads = [Text(head, "bold") for head in ("file", "bytes", *("tokens", "bytes/token") * len(labels))]
    rows = [heads]
    if len(labels) > 1:
        names = [Text(part) for label in labels for part in (label, "")]
        rows.insert(0, [Text(), Text(), *names])
    rows += [_row(c) for c in counts[:limit]]
    if rest := counts[limit:]:
        rows.append(_row(whole(rest)._replace(name=f"... {len(rest):,} smaller (--all shows them)")))
    if len(counts) > 1:
        rows.append(_row(whole(counts)))
    yield from columns(rows, right=range(1, len(heads)))


def _row(counts: Counts) -> list[Text]:
    row, best = [Text(counts.name), Text(f"{counts.size:,}")], max(counts.rates)
    for tokens, rate in zip(counts.tokens, counts.rates, strict=True):
        wins = len(counts.tokens) > 1 and rate == best
        row += [Text(f"{tokens:,}"), Text(f"{rate:.3f}", "green" if wins else "")]
    return row
