"""Training a tokenizer with progress that can be seen."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable

from rich.console import Console

from tinygrad_llm.tokenizer import Tokenizer
from tinygrad_llm.tokenizer.trainer import Learned
from tinygrad_llm.training.progress import counting


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    pattern: str,
    console: Console,
    size: int | None = None,
    min_count: int = 1,
    explain: Callable[[Learned], None] | None = None,
) -> Tokenizer:
    """`Tokenizer.train` with progress; says so if the text is too small for the wanted vocabulary.

    `size`: the bytes of all texts, where they are known.
    """
    with contextlib.ExitStack() as bars:
        progress: list[Callable[[int, int | None], None]] = []

        def learned(done: int, total: int) -> None:
            if not progress:  # two bars cannot be shown at once, and this one begins when the other has ended
                progress.append(bars.enter_context(counting(console, "learning the vocabulary")))
            progress[0](done, total)

        counted = bars.enter_context(contextlib.closing(_counted(texts, size, console)))
        tokenizer = Tokenizer.train(
            counted, vocab_size, pattern, progress=learned, min_count=min_count, explain=explain
        )
    if tokenizer.vocab_size < vocab_size:
        often = f" that stand in it {min_count} times" if min_count > 1 else ""
        console.print(
            f"tokenizer   the text has no more pairs to merge{often}: {tokenizer.vocab_size} tokens, not {vocab_size}"
        )
    return tokenizer


def _counted(texts: Iterable[str], size: int | None, console: Console) -> Generator[str, None, None]:
    """The texts, while a bar shows how many of their bytes have been taken."""
    with counting(console, "counting words") as progress:
        done = 0
        for text in texts:
            yield text
            done += len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
            progress(done if size is None else min(done, size), size)
