"""Text as it becomes certain while tokens arrive: whole characters, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from tinygrad_llm.tokenizer import Tokenizer


class TextStream:
    """Decodes the tokens of one sequence and ends it before the first of the `stop` strings."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        if any(not s for s in stop):
            raise ValueError("generate: a stop string must not be empty")
        self._decoder = tokenizer.stream_decoder()
        self._stop = tuple(stop)
        self._held = ""
        self.text = ""
        self.ended = False

    def feed(self, token: int) -> str:
        """Take one token; return the text that is now certain (often none)."""
        return self._release(self._held + self._decoder.feed(token))

    def end(self) -> str:
        """No more tokens come; return what was held back."""
        piece = self._release(self._held + self._decoder.flush())
        if not self.ended:
            piece += self._held
            self.text += self._held
            self.ended = True
        return piece

    def _release(self, pending: str) -> str:
        """Emit `pending` up to a stop string, or up to a tail that might still become one."""
        found = [at for at in map(pending.find, self._stop) if at >= 0]
        cut = min(found) if found else len(pending) - self._undecided(pending)
        self._held = pending[cut:]
        self.ended = bool(found)
        self.text += pending[:cut]
        return pending[:cut]

    def _undecided(self, pending: str) -> int:
        """Length of the longest tail of `pending` that begins a stop string."""
        longest = max((len(s) - 1 for s in self._stop), default=0)
        tails = range(min(longest, len(pending)), 0, -1)
        return next((n for n in tails if any(s.startswith(pending[-n:]) for s in self._stop)), 0)
