"""Text from ids that arrive one by one, as a model writes them."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable


class StreamDecoder:
    """Feed it ids; it returns the text that is certain by now, never half a character.

    A character may be spread over several tokens: its first bytes are kept back until the last has come. All returned
    texts joined, with `flush()` at the end, are exactly `Tokenizer.decode` of all the ids.
    """

    def __init__(self, decode_bytes: Callable[[Iterable[int]], bytes]) -> None:
        self._decode_bytes = decode_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, ids: int | Iterable[int]) -> str:
        """The further text that an id, or several, make certain; may be empty."""
        several = ids if isinstance(ids, Iterable) else [ids]
        return self._decoder.decode(self._decode_bytes(several))

    def flush(self) -> str:
        """What was kept back, at the end: "�" for an unfinished character. The decoder can then be used anew."""
        return self._decoder.decode(b"", final=True)
