"""What ranks say to each other: NumPy arrays in and out.

A sum is ordered: each rank receives its chunk of every array, adds them up two and two by the numbers of the ranks (see
`optim.pairwise`), and sends the sum to all. These are the bytes that a ring would send, and the same bits come out with
any MPI, every time, on every rank; and they are those of one process that adds up the same arrays.

Everything can also be begun (``start_...``) and waited for later. All ranks of a communicator must begin the same
operations in the same order. What is pending goes on in `progress`, and while anything else is waited for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tinygrad_llm.parallel import collectives
from tinygrad_llm.parallel.collectives import DIRECT, Exchange, Transport, chunk_bounds, largest, ordered_sum
from tinygrad_llm.parallel.ledger import Ledger
from tinygrad_llm.parallel.waiting import Engine, Handle, Mismatch, Request, Stages
from tinygrad_llm.tape import Array

LARGEST_TAG = 32767
"""What every MPI allows; and so many operations may be under way at once."""


class Communicator:
    """One rank among those along an axis of the mesh: "world", "dp", "pp" or "tp".

    Errors name the operation, its label and the engine's `where`, the axis, the ranks (by their numbers in the world),
    dtype and shape. `checked` compares operation, dtype and shape among the ranks before each operation.
    """

    def __init__(self, transport: Transport, axis: str, ledger: Ledger, engine: Engine, checked: bool = False) -> None:
        self.rank, self.ranks, self.size = transport.rank, tuple(transport.ranks), len(transport.ranks)
        self.axis, self.ledger, self.engine, self.checked = axis, ledger, engine, checked
        self._transport = transport
        self._operations = 0

    def __repr__(self) -> str:
        return f"<rank {self.rank} of {self.size} over {self.axis}, ranks {list(self.ranks)}>"

    def split(self, axis: str, color: int, key: int) -> Communicator:
        """Those that gave the same color, in the order of their keys. All ranks must call it."""
        given = self.gather_objects([color, key])
        members = sorted((k, rank) for rank, (c, k) in enumerate(given) if c == color)
        part = self._transport.among([rank for _, rank in members])
        return Communicator(part, axis, self.ledger, self.engine, self.checked)

    # -- all ranks; of a single one the result may be the very array that was given ------------------------------------
    def start_all_reduce(self, array: Array, label: str = "") -> Handle:
        """Begin `all_reduce`."""
        return self._start("all_reduce", array, label, lambda x, a: collectives.all_reduce(x, a, ordered_sum))

    def all_reduce(self, array: Array, label: str = "") -> Array:
        """The sum over the ranks, on every rank; any shape."""
        return self.start_all_reduce(array, label).wait()

    def max(self, array: Array, label: str = "") -> Array:
        """The largest of each element over the ranks, on every rank; any shape."""
        return self._start("max", array, label, lambda x, a: collectives.all_reduce(x, a, largest)).wait()

    def start_reduce_scatter(self, array: Array, label: str = "") -> Handle:
        """Begin `reduce_scatter`."""
        self._check_rows("reduce_scatter", array)
        return self._start("reduce_scatter", array, label, lambda x, a: collectives.reduce_chunks(x, a, ordered_sum))

    def reduce_scatter(self, array: Array, label: str = "") -> Array:
        """This rank's chunk of the sum over the ranks: those rows that `chunk_bounds` gives it."""
        return self.start_reduce_scatter(array, label).wait()

    def start_all_gather(self, array: Array, length: int | None = None, label: str = "") -> Handle:
        """Begin `all_gather`."""
        self._check_rows("all_gather", array)
        bounds = chunk_bounds(self.size * len(array) if length is None else length, self.size)
        own = bounds[self.rank].stop - bounds[self.rank].start
        if len(array) != own:
            about = self._about("all_gather", array, label)
            raise ValueError(f"{about()}: of {length} rows, rank {self.rank} has {own}, and not {len(array)}")
        same = f"{array.dtype}, rows of {array.shape[1:]}, {bounds[-1].stop} of them"
        return self._start("all_gather", array, label, lambda x, a: collectives.gather_chunks(x, a, bounds), same)

    def all_gather(self, array: Array, length: int | None = None, label: str = "") -> Array:
        """The chunks of all ranks one after the other, on every rank.

        All have as many rows; or `length` says how many there are together, and each rank has its chunk of them.
        """
        return self.start_all_gather(array, length, label).wait()

    def all_to_all(self, array: Array, label: str = "") -> Array:
        """Chunk s of this rank's rows goes to rank s; what comes from ranks 0, 1, ... is joined in this order."""
        self._check_rows("all_to_all", array)
        return self._start("all_to_all", array, label, collectives.all_to_all).wait()

    def broadcast(self, array: Array, root: int = 0, label: str = "") -> Array:
        """The array of rank `root`, on every rank; the others give one of its shape and dtype."""
        self._check_peer("broadcast", root)
        return self._start("broadcast", array, label, lambda x, a: collectives.broadcast(x, a, root)).wait()

    def gather_objects(self, value: Any) -> list[Any]:
        """What each rank gave: numbers, texts, lists and dictionaries, as JSON has them. For small things."""
        text = json.dumps(value).encode()
        texts = self._start("gather_objects", np.empty(0), "", lambda x, _: collectives.gather_texts(x, text)).wait()
        return [json.loads(found) for found in texts]

    def any(self, flag: bool) -> bool:
        """Whether at least one rank says so, on every rank."""
        return bool(self._start("any", np.array([flag], bool), "", collectives.gather_rows).wait().any())

    def barrier(self, label: str = "") -> None:
        """Wait until all ranks are here."""
        self.start_barrier(label).wait()

    def start_barrier(self, label: str = "") -> Handle:
        """Begin `barrier`."""
        return self._start("barrier", np.empty(0, bool), label, collectives.gather_rows)

    # -- from one rank to another --------------------------------------------------------------------------------------
    def start_send(self, array: Array, to: int, tag: int = 0, label: str = "") -> Handle:
        """Begin to send to rank `to`. Messages of one tag between two ranks arrive in the order they were sent."""
        self._check_peer("send", to, tag)
        array = np.asarray(array, order="C")

        def begin() -> Request:
            self.ledger["send", self.axis].bytes += array.nbytes
            return self._transport.send(array, to, tag, DIRECT)

        return self._handle("send", self._about("send", array, label), _one(begin, None))

    def send(self, array: Array, to: int, tag: int = 0, label: str = "") -> None:
        """Return when the array may be written to again, which may be only when rank `to` receives it."""
        self.start_send(array, to, tag, label).wait()

    def start_receive(
        self, shape: tuple[int, ...], dtype: npt.DTypeLike, source: int, tag: int = 0, label: str = ""
    ) -> Handle:
        """Begin to receive an array of this shape and dtype from rank `source`."""
        self._check_peer("receive", source, tag)
        array = np.empty(shape, dtype)

        def begin() -> Request:
            return self._transport.receive(array, source, tag, DIRECT)

        return self._handle("receive", self._about("receive", array, label), _one(begin, array))

    def receive(
        self, shape: tuple[int, ...], dtype: npt.DTypeLike, source: int, tag: int = 0, label: str = ""
    ) -> Array:
        """An array of this shape and dtype from rank `source`."""
        return self.start_receive(shape, dtype, source, tag, label).wait()

    def progress(self) -> None:
        """Let what is pending go on, over all axes. Call it now and then while computing: nothing moves by itself."""
        self.engine.progress()

    # ------------------------------------------------------------------------------------------------------------------
    def _start(
        self,
        operation: str,
        array: Array,
        label: str,
        algorithm: Callable[[Exchange, Array], Stages],
        same: str | None = None,
    ) -> Handle:
        array = np.asarray(array, order="C")
        about = self._about(operation, array, label)
        self._operations += 1
        tag = self._operations % LARGEST_TAG

        def stages() -> Stages:
            if self.checked:
                shape = f"{array.dtype} {array.shape}" if same is None else same
                yield from self._compare(f"{operation} of {shape}", about, tag)
            return (yield from algorithm(Exchange(self._transport, tag, self.ledger[operation, self.axis]), array))

        return self._handle(operation, about, stages())

    def _handle(self, operation: str, about: Callable[[], str], stages: Stages) -> Handle:
        def explain(error: Mismatch) -> Exception:
            return ValueError(
                f"{about()}: rank {error.peer} sent {error.got} bytes where {error.expected} were expected; all ranks "
                "must call the same operations in the same order, with arrays of the same shape and dtype"
            )

        return Handle(self.engine, about, stages, self.ledger[operation, self.axis], explain)

    def _compare(self, call: str, about: Callable[[], str], tag: int) -> Stages:
        """Whether all ranks are in the same call."""
        x = Exchange(self._transport, tag, self.ledger["check", self.axis])
        text = np.zeros(CALL, np.uint8)
        encoded = call.encode()[:CALL]
        text[: len(encoded)] = np.frombuffer(encoded, np.uint8)
        rows = yield from collectives.gather_rows(x, text)
        calls = [bytes(row).rstrip(b"\0").decode(errors="replace") for row in rows.reshape(-1, CALL)]
        if len(set(calls)) > 1:
            found = "; ".join(f"rank {rank}: {other}" for rank, other in zip(self.ranks, calls, strict=True))
            raise ValueError(f"{about()}: the ranks are not in the same call: {found}")

    def _about(self, operation: str, array: Array, label: str) -> Callable[[], str]:
        """What errors and the watchdog call this: few ask."""
        where, dtype, shape = self.engine.where, array.dtype, array.shape

        def about() -> str:
            inside = ", ".join(part for part in (label, where) if part)
            called = f"{operation}({inside})" if inside else operation
            return f"{called} over {self.axis}, ranks {list(self.ranks)}, {dtype} {shape}"

        return about

    def _check_rows(self, operation: str, array: Array) -> None:
        if not np.ndim(array):
            raise ValueError(f"{operation} over {self.axis}: a single number has no rows; give an array with an axis")

    def _check_peer(self, operation: str, peer: int, tag: int | None = None) -> None:
        if not 0 <= peer < self.size or (tag is not None and peer == self.rank):
            others = f"the ranks 0 to {self.size - 1}" if tag is None else f"the others of {self.size} ranks"
            raise ValueError(f"{operation} over {self.axis}: {peer} is not among {others}, seen from rank {self.rank}")
        if tag is not None and not 0 <= tag <= LARGEST_TAG:
            raise ValueError(f"{operation} over {self.axis}: the tag {tag} is not from 0 to {LARGEST_TAG}")


CALL = 160
"""Bytes of a call's description that ranks compare."""


def _one(begin: Callable[[], Request], result: Any) -> Stages:
    yield [begin()]
    return result


class _Alone:
    """A group of one: nobody to send to."""

    rank = 0

    def __init__(self, number: int = 0) -> None:
        self.ranks: Sequence[int] = (number,)

    def among(self, members: Sequence[int]) -> Transport:
        return self

    def send(self, array: Array, to: int, tag: int, channel: int) -> Request:
        raise NotImplementedError("a single rank has nobody to send to")

    receive = send


class Solo(Communicator):
    """A single process: every sum is what it is given, and MPI is not needed."""

    def __init__(self, axis: str = "world", ledger: Ledger | None = None, engine: Engine | None = None) -> None:
        super().__init__(_Alone(), axis, ledger or Ledger(), engine or Engine(polite=False))
