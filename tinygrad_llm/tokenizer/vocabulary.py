"""All that decides the ids of ordinary text."""

from __future__ import annotations

from collections.abc import Collection

from tinygrad_llm.tokenizer.trainer import Pair

MOST_IDS = 1 << 31
"""Ids are int32."""


class Vocabulary:
    """The bytes of each token and its id, the merges in order, and how text is cut into words.

    `tokens` gives each token's id, `merges` the pairs of ids in the order in which they are merged, `pattern` the name
    or the regular expression of `pretokenize`. `whole_words`: a word that is a token is not merged but looked up, even
    where merging would lead elsewhere (`ignore_merges` in a tokenizer.json; tiktoken does so too). `normal_form`: "NFC"
    if text is brought into that normal form before.

    `bytes_of` gives the bytes of each id, `made` the id that each merge makes, `absent` the single bytes without token:
    see `preparing`.
    """

    def __init__(
        self,
        tokens: dict[bytes, int],
        merges: list[Pair],
        pattern: str,
        whole_words: bool = False,
        normal_form: str = "",
    ) -> None:
        """Raises ValueError for no tokens, an id used twice or out of range, an impossible merge, a wrong form."""
        self.tokens, self.merges, self.pattern, self.whole_words = tokens, merges, pattern, whole_words
        self.normal_form = normal_form
        if normal_form not in ("", "NFC"):
            raise ValueError(f'normal_form {normal_form!r} is neither "" nor "NFC"')
        self.bytes_of = {number: token for token, number in tokens.items()}
        if not tokens:
            raise ValueError("the vocabulary is empty")
        self.absent = bytes(byte for byte in range(256) if bytes([byte]) not in tokens)
        if len(self.bytes_of) < len(tokens):
            raise ValueError("the vocabulary gives one id to two tokens")
        check_range(self.bytes_of)
        try:
            self.made = [tokens[self.bytes_of[a] + self.bytes_of[b]] for a, b in merges]
        except KeyError:
            self._name_the_fault()

    def _name_the_fault(self) -> None:
        for rank, (a, b) in enumerate(self.merges):
            if a not in self.bytes_of or b not in self.bytes_of:
                raise ValueError(f"merge {rank} joins ids {a} and {b}, which are not both ordinary tokens")
            if (joined := self.bytes_of[a] + self.bytes_of[b]) not in self.tokens:
                raise ValueError(f"merge {rank} makes {joined!r}, which is not in the vocabulary")


def check_range(ids: Collection[int]) -> None:
    """Raises ValueError for an id that is negative, or no int32."""
    if (lowest := min(ids, default=0)) < 0:
        raise ValueError(f"the vocabulary has the negative id {lowest}")
    if (highest := max(ids, default=0)) >= MOST_IDS:
        raise ValueError(f"the vocabulary has the id {highest}; the highest that is possible is {MOST_IDS - 1}")
