"""Ctrl-C and SIGTERM ask the loop to stop after the step it is in; a second Ctrl-C stops at once."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Self


class StopRequest:
    """``with StopRequest() as stop:`` turns the first signal into ``stop.requested``."""

    def __init__(self) -> None:
        self.received: int | None = None

    @property
    def requested(self) -> bool:
        return self.received is not None

    @property
    def status(self) -> int:
        """The exit status: 130 after Ctrl-C, 0 after SIGTERM, whose sender only asked for an orderly end."""
        return 130 if self.received == signal.SIGINT else 0

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        os.write(2, b"\nstopping after this step ...\n")  # print() is not safe inside a signal handler
