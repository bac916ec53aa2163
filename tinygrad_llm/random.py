"""Seeded, named streams of random numbers: the only source of chance in the project.

A stream is named, not shared: `stream(7, "batch", 120)` gives the same numbers whoever asks, in any order, in any
process and on any platform. So a resumed run, a second worker or a recomputed layer draws exactly what it should.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np

_TYPE_ERROR = "random stream: a name must be text or a whole number, got {!r} ({}); write it as text, e.g. str(value)"


def _encode(part: str | int) -> bytes:
    """Kind, length, content: without them 1 and "1", or ("ab", "c") and ("a", "bc"), would name one stream."""
    if isinstance(part, str):
        kind, content = b"s", part.encode("utf-8", "surrogatepass")
    else:
        try:
            kind, content = b"i", str(operator.index(part)).encode("ascii")
        except TypeError:
            raise TypeError(_TYPE_ERROR.format(part, type(part).__name__)) from None
    return kind + len(content).to_bytes(8, "little") + content


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """The generator called `names` under `seed`; a fresh one at each call, always at its beginning.

    Philox is counter-based (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): its 128-bit key alone
    selects one of 2^128 independent sequences. The key is BLAKE2b(seed, names). Raises TypeError for other names.
    """
    import hashlib  # it loads OpenSSL, which a program that draws nothing need not wait for

    digest = hashlib.blake2b(b"".join(map(_encode, (operator.index(seed), *names))), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


@dataclass
class _Scope:
    seed: int
    names: tuple[str | int, ...]
    count: int = 0


# One default for the whole process: draws made outside of any scope (a quick try in a shell) come from seed 0.
_current: ContextVar[_Scope] = ContextVar("random_scope", default=_Scope(0, ("default",)))  # noqa: B039 - shared on purpose

State = tuple[int, tuple[str | int, ...], int]


@contextmanager
def scope(seed: int, *names: str | int) -> Iterator[None]:
    """Inside `with scope(seed, "dropout", step):` every `next_stream` belongs to (seed, names) and is counted from 0.

    Scopes nest; each thread has its own. Outside of any scope a process-wide one with seed 0 is used.
    """
    token = _current.set(_Scope(seed, names))
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def within(*names: str | int) -> Iterator[None]:
    """A scope inside the current one, whose names are the outer ones and `names`, counted from 0.

    So what is drawn in a part of a model does not depend on which other parts have drawn before. With the result of
    `next_number` among the names, it differs from one pass through the model to the next.
    """
    current = _current.get()
    with scope(current.seed, *current.names, *names):
        yield


def next_number() -> int:
    """How many draws were made in the current scope so far; this counts as one."""
    current = _current.get()
    current.count += 1
    return current.count - 1


def next_stream(purpose: str) -> np.random.Generator:
    """`stream(seed, *names, purpose, n)` of the current scope, where n counts the draws made in it so far."""
    current = _current.get()
    return stream(current.seed, *current.names, purpose, next_number())


def get_state() -> State:
    """(seed, names, count) of the current scope; hand it to `replayed` to draw the same again (recomputation)."""
    current = _current.get()
    return current.seed, current.names, current.count


@contextmanager
def replayed(state: State) -> Iterator[None]:
    """Inside it, draws are those that followed `state`; afterwards the current scope goes on as if there were none."""
    token = _current.set(_Scope(*state))
    try:
        yield
    finally:
        _current.reset(token)
