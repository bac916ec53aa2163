"""Other people's tokenizers, with our vocabulary: the same text, and the same ids.

Those that return lists of numbers are measured as they are: to make an array of a list takes as long again.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygrad_llm.study.benchmarks.cases import Case
from tinygrad_llm.study.benchmarks.job import Job
from tinygrad_llm.study.benchmarks.tokenizer_cases import CALLS, LEARNED, documents, given
from tinygrad_llm.study.benchmarks.tokenizer_ours import token_check
from tinygrad_llm.tokenizer import Tokenizer
from tinygrad_llm.tokenizer.pretokenize import pattern_text

TOKENIZER_PEERS = ("tiktoken", "tokenizers", "gigatoken", "rustbpe", "bpeasy")


class Peer(NamedTuple):
    """A peer's tokenizer: to encode one text and several, and to decode; `own` gives our id for each of its ids."""

    encode: Callable[[str], Sequence[int]]
    batch: Callable[[list[str]], Any]
    decode: Callable[[Any], str | bytes]
    own: np.ndarray

    def check(self, ids: Any) -> list[tuple[float, float]]:
        """That they are ours."""
        return token_check(self.own[np.asarray(ids, np.int64)])


def official_pattern() -> str:
    """GPT-2's pattern as tiktoken writes it, which is its fastest form."""
    try:
        return str(importlib.import_module("tiktoken_ext.openai_public").r50k_pat_str)
    except (ImportError, AttributeError):
        return pattern_text("gpt2")


def tiktoken_peer(module: Any, tokenizer: Tokenizer) -> Peer:
    """tiktoken takes an id for a rank: single bytes first, then the merges in their order."""
    vocabulary = tokenizer.vocabulary
    own = [*sorted(vocabulary.tokens[bytes([byte])] for byte in range(256)), *vocabulary.made]
    ranks = {vocabulary.bytes_of[number]: rank for rank, number in enumerate(own)}
    made = module.Encoding("ours", pat_str=official_pattern(), mergeable_ranks=ranks, special_tokens={})
    return Peer(made.encode_ordinary, made.encode_ordinary_batch, made.decode, np.array(own))


def file_peer(name: str, module: Any, tokenizer: Tokenizer) -> Peer:
    """Those that read a tokenizer.json."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "tokenizer.json")
        tokenizer.save(path)
        made = module.Tokenizer(path) if name == "gigatoken" else module.Tokenizer.from_file(path)
    own = np.arange(tokenizer.vocab_size)
    if name == "tokenizers":
        return Peer(lambda text: made.encode(text).ids, made.encode_batch, made.decode, own)
    return Peer(made.encode, made.encode_batch, made.decode, own)


def make(name: str, case: Case) -> Peer:
    """The peer's tokenizer for a case."""
    _, tokenizer = given(case)
    module = importlib.import_module(name)
    return tiktoken_peer(module, tokenizer) if name == "tiktoken" else file_peer(name, module, tokenizer)


def _encode(name: str, case: Case) -> Job:
    text, peer = given(case)[0], make(name, case)
    return Job(lambda: peer.encode(text), peer.check(peer.encode(text)))


def _encode_anew(name: str, case: Case) -> Job:
    text, first = given(case)[0], make(name, case)
    new: list[Peer] = []

    def before() -> None:
        new[:] = [make(name, case)]
        new[0].encode("a")

    return Job(lambda: new[0].encode(text), first.check(first.encode(text)), before, 1)


def _calls(name: str, case: Case) -> Job:
    text, peer = given(case)[0], make(name, case)
    begin = len(text) // 2
    short, encode = text[begin : begin + case.sizes["length"]], peer.encode

    def run() -> None:
        for _ in range(CALLS):
            encode(short)

    return Job(run, peer.check(encode(short)))


def _decode(name: str, case: Case) -> Job:
    text, peer = given(case)[0], make(name, case)
    ids = peer.encode(text)
    decoded = peer.decode(ids)  # gigatoken returns bytes
    decoded = decoded if isinstance(decoded, bytes) else decoded.encode()
    return Job(lambda: peer.decode(ids), token_check(np.frombuffer(decoded, np.uint8)))


def _batch(name: str, case: Case) -> Job:
    text, peer = given(case)[0], make(name, case)
    texts = documents(text)
    return Job(lambda: peer.batch(texts), peer.check(np.concatenate([np.asarray(ids) for ids in peer.batch(texts)])))


def _build(name: str, case: Case) -> Job:
    vocabulary = given(case)[1]
    module = importlib.import_module(name)
    ranks = vocabulary.vocabulary.tokens

    def run() -> Any:
        made = module.Encoding("ours", pat_str=official_pattern(), mergeable_ranks=ranks, special_tokens={})
        made.encode_ordinary("a")
        return made

    peer = tiktoken_peer(module, vocabulary)
    return Job(run, peer.check(peer.encode("a")), runs=1)


def _learn(name: str, case: Case) -> Job:
    text, module = given(case)[0], importlib.import_module(name)
    run = LEARNING[name]
    return Job(lambda: run(module, text), [(0.0, float(run(module, text)))], runs=1)


def _learn_tokenizers(module: Any, text: str) -> int:
    made = module.Tokenizer(module.models.BPE())
    made.pre_tokenizer = module.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = module.pre_tokenizers.ByteLevel.alphabet()
    specials = ["<|endoftext|>"]
    trainer = module.trainers.BpeTrainer(
        vocab_size=LEARNED, show_progress=False, special_tokens=specials, initial_alphabet=alphabet
    )
    made.train_from_iterator([text], trainer)
    return int(made.get_vocab_size())


def _learn_rustbpe(module: Any, text: str) -> int:
    made = module.Tokenizer()
    made.train_from_iterator(iter([text]), LEARNED - 1, pattern=official_pattern())
    return int(made.vocab_size) + 1  # it has no special token


def _learn_bpeasy(module: Any, text: str) -> int:
    return len(module.train_bpe(iter([text]), official_pattern(), 128, LEARNED - 1)) + 1


LEARNING: dict[str, Callable[[Any, str], int]] = {
    "tokenizers": _learn_tokenizers,
    "rustbpe": _learn_rustbpe,
    "bpeasy": _learn_bpeasy,
}
JOBS: dict[str, Callable[[str, Case], Job]] = {
    "encode": _encode,
    "encode anew": _encode_anew,
    "calls": _calls,
    "decode ids": _decode,
    "batch": _batch,
    "build": _build,
    "learn": _learn,
}


def tokenizer_job(name: str, case: Case) -> Job:
    """The peer's work of a case."""
    return JOBS[case.kind](name, case)
