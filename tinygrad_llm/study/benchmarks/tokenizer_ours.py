"""Our side of the tokenizer's cases."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_llm.backend import use_backend, why_no_kernels
from tinygrad_llm.study.benchmarks.cases import Case
from tinygrad_llm.study.benchmarks.job import Check, Job
from tinygrad_llm.study.benchmarks.tokenizer_cases import CALLS, LEARNED, documents, given
from tinygrad_llm.tokenizer import Tokenizer


def token_check(ids: Any) -> list[Check]:
    """That the tokens are the same, each of them: 48 bits of a hash of the ids, and a size of 0 for their error."""
    content = np.ascontiguousarray(ids, "<i8").tobytes()
    return [(0.0, float(int.from_bytes(hashlib.blake2b(content, digest_size=6).digest(), "little")))]


def ready(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer, once its kernels and their tables are there: else it waits for a longer text to make them."""
    with use_backend("numpy" if why_no_kernels() else "numba"):
        tokenizer.encode("a")
    return tokenizer


def copy_of(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer, which has seen no word yet."""
    vocabulary = tokenizer.vocabulary
    return ready(Tokenizer(vocabulary.tokens, vocabulary.merges, tokenizer.special_tokens, vocabulary.pattern))


def known(case: Case) -> tuple[str, Tokenizer]:
    """The text and the tokenizer of a case."""
    text, tokenizer = given(case)
    return text, ready(tokenizer)


def all_ids(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """The ids of a text in which the names of special tokens are text."""
    return tokenizer.encode(text, disallowed_special=())


def _encode(case: Case) -> Job:
    text, tokenizer = known(case)
    ids, size = all_ids(tokenizer, text), len(text.encode())
    return Job(lambda: all_ids(tokenizer, text), token_check(ids), moved=size + ids.nbytes, amount=size)


def _encode_anew(case: Case) -> Job:
    text, tokenizer = known(case)
    new: list[Tokenizer] = []
    ids, size = all_ids(tokenizer, text), len(text.encode())

    def before() -> None:
        new[:] = [copy_of(tokenizer)]

    return Job(lambda: all_ids(new[0], text), token_check(ids), before, 1, moved=size + ids.nbytes, amount=size)


def _encode_plainly(case: Case) -> Job:
    text, tokenizer = known(case)

    def run() -> np.ndarray:
        with use_backend("numpy"):
            return all_ids(tokenizer, text)

    return Job(run, token_check(run()), amount=len(text.encode()))


def _calls(case: Case) -> Job:
    text, tokenizer = known(case)
    begin = len(text) // 2
    short = text[begin : begin + case.sizes["length"]]
    encode = tokenizer.encode

    def run() -> None:
        for _ in range(CALLS):
            encode(short)

    return Job(run, token_check(encode(short)))


def _decode(case: Case) -> Job:
    text, tokenizer = known(case)
    ids, size = all_ids(tokenizer, text), len(text.encode())
    check = token_check(np.frombuffer(tokenizer.decode(ids).encode(), np.uint8))
    return Job(lambda: tokenizer.decode(ids), check, moved=size + ids.nbytes, amount=size)


def _batch(case: Case) -> Job:
    text, tokenizer = known(case)
    texts = documents(text)

    def run() -> list[np.ndarray]:
        return tokenizer.encode_batch(texts, disallowed_special=())

    return Job(run, token_check(np.concatenate(run())), amount=len(text.encode()))


def _learn(case: Case) -> Job:
    text, _ = given(case)

    def run() -> Tokenizer:
        return Tokenizer.train([text], LEARNED, "gpt2")

    count = float(run().vocab_size)
    return Job(run, [(0.0, count)], runs=1, amount=len(text.encode()))


def _build(case: Case) -> Job:
    _, tokenizer = given(case)
    return Job(lambda: copy_of(tokenizer), token_check(tokenizer.encode("a")), runs=1)


TOKENIZER_JOBS: dict[str, Callable[[Case], Job]] = {
    "encode": _encode,
    "encode anew": _encode_anew,
    "encode plainly": _encode_plainly,
    "calls": _calls,
    "decode ids": _decode,
    "batch": _batch,
    "learn": _learn,
    "build": _build,
}
