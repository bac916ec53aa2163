"""Messages through MPI: arrays are sent from where they lie, and received where they shall lie.

mpi4py is not needed to import this file: the transport is given it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinygrad_llm.parallel.collectives import COLLECTIVE, DIRECT
from tinygrad_llm.parallel.waiting import Mismatch, Request
from tinygrad_llm.tape import Array


class _Sending:
    """A message to another rank. It holds on to the array."""

    def __init__(self, mpi: Any, request: Any, array: Array, peer: int) -> None:
        self.peer, self._mpi, self._request, self._array = peer, mpi, request, array

    def test(self) -> bool:
        return self._request.Test()


class _Receiving(_Sending):
    """A message from another rank."""

    def test(self) -> bool:
        status = self._mpi.Status()
        try:
            arrived = self._request.Test(status)
        except self._mpi.Exception as error:
            if error.Get_error_class() != self._mpi.ERR_TRUNCATE:
                raise
            raise Mismatch(self.peer, self._array.nbytes, "more") from None
        if arrived and (got := status.Get_count(self._mpi.BYTE)) != self._array.nbytes:
            raise Mismatch(self.peer, self._array.nbytes, str(got))
        return arrived


class MpiTransport:
    """A group of MPI's ranks; `mpi` is the module ``mpi4py.MPI``, `group` one of its communicators, for this only."""

    def __init__(self, mpi: Any, group: Any, world: Sequence[int] | None = None) -> None:
        self._mpi, self.rank = mpi, group.Get_rank()
        self.ranks = range(group.Get_size()) if world is None else world
        self._channels: dict[int, Any] = {COLLECTIVE: group, DIRECT: group.Dup()}

    def send(self, array: Array, to: int, tag: int, channel: int) -> Request:
        request = self._channels[channel].Isend([array, array.nbytes, self._mpi.BYTE], to, tag)
        return _Sending(self._mpi, request, array, self.ranks[to])

    def receive(self, array: Array, source: int, tag: int, channel: int) -> Request:
        request = self._channels[channel].Irecv([array, array.nbytes, self._mpi.BYTE], source, tag)
        return _Receiving(self._mpi, request, array, self.ranks[source])

    def among(self, members: Sequence[int]) -> MpiTransport:
        part = self._channels[COLLECTIVE].Split(members[0], members.index(self.rank))
        return MpiTransport(self._mpi, part, [self.ranks[m] for m in members])
