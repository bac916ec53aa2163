"""Which pair makes a token, where a file tells none or several.

Byte-pair encoding makes a token always in one and the same way. For the merges inside a token's bytes are chosen among
themselves as if the token stood alone, whatever stands around it: no merge has crossed its borders, or it would not be
made. So its pair is what byte-pair encoding of its own bytes comes to last, and every other pair that would give the
same bytes is never met. Ranks of tokens (tiktoken) and merges of pairs (Hugging Face) are therefore two ways to say the
same, and superfluous pairs, of which some files list all, may be left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

Pair = tuple[int, int]

_NEVER = 1 << 62


def last_pair(symbols: list[int], rank_of: Mapping[Pair, int], made: Sequence[int]) -> Pair | None:
    """The two symbols that are left before the last merge; None if merging ends with more.

    `symbols` (overwritten) are the ids of a token's single bytes, `made` is the id that the merge of each rank makes.
    """
    rank = rank_of.get
    ranks = [rank(pair, _NEVER) for pair in pairwise(symbols)]
    while len(symbols) > 2:
        best = min(ranks)
        if best == _NEVER:
            return None
        at = ranks.index(best)  # of equal ranks the leftmost
        new = made[best]
        symbols[at : at + 2] = [new]
        del ranks[at]
        if at:
            ranks[at - 1] = rank((symbols[at - 1], new), _NEVER)
        if at < len(ranks):
            ranks[at] = rank((new, symbols[at + 1]), _NEVER)
    return (symbols[0], symbols[1]) if len(symbols) == 2 else None


def pairs_of_ranks(tokens: dict[bytes, int]) -> tuple[list[Pair], bool]:
    """The merges of a vocabulary in which a lower id is merged first; and whether they make every token.

    A token that they do not make is found only where it is a whole word.
    """
    id_of_byte = _ids_of_bytes(tokens)
    rank_of: dict[Pair, int] = {}
    made = range(max(tokens.values(), default=0) + 1)  # here the rank of a merge is the id it makes
    unmade = []
    for token, number in sorted(tokens.items(), key=lambda item: item[1]):
        if len(token) > 1:
            pair = last_pair([id_of_byte[byte] for byte in token], rank_of, made)
            if pair is None or -1 in pair:  # two bytes, one without token
                unmade.append(token)
            else:
                rank_of[pair] = number
    _check_late_parts(unmade, tokens)
    return list(rank_of), not unmade


def _check_late_parts(unmade: list[bytes], tokens: dict[bytes, int]) -> None:
    """Raises ValueError for a token that is made of one with a higher rank: then pairs cannot say what ranks say."""
    for token in unmade:
        if any(token[place : place + 1] not in tokens for place in range(len(token))):
            continue  # it has a byte without token: nothing can make it
        parts = [token[place : place + 1] for place in range(len(token))]
        while len(parts) > 1:
            ranks = [tokens.get(a + b, _NEVER) for a, b in pairwise(parts)]
            if (best := min(ranks)) == _NEVER:
                break
            at = ranks.index(best)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
            if parts == [token]:
                raise ValueError(
                    f"rank {tokens[token]}: {token!r} is made only of tokens with higher ranks, "
                    "which is no byte-pair encoding that can be read here"
                )


def without_superfluous(tokens: dict[bytes, int], merges: list[Pair]) -> list[Pair]:
    """The merges without those that no text meets because another pair makes the same token.

    Files that were converted from ranks list, for each token, all pairs that would give its bytes: that of Llama 3 has
    280,147 pairs for 128,000 tokens.
    """
    id_of_byte = _ids_of_bytes(tokens)
    if len(merges) <= len(tokens) - 256 + id_of_byte.count(-1):
        return merges
    bytes_of = {number: token for token, number in tokens.items()}
    try:
        made = [tokens[bytes_of[a] + bytes_of[b]] for a, b in merges]
    except KeyError:
        return merges  # `Vocabulary` says which makes no token
    rank_of = {pair: rank for rank, pair in enumerate(merges)}
    pair_of: dict[int, Pair | None] = {}
    for number, count in Counter(made).items():
        if count > 1:
            pair_of[number] = last_pair([id_of_byte[byte] for byte in bytes_of[number]], rank_of, made)
    return [pair for pair, number in zip(merges, made, strict=True) if number not in pair_of or pair == pair_of[number]]


def _ids_of_bytes(tokens: dict[bytes, int]) -> list[int]:
    """The id of each of the 256 bytes; -1, which no merge has, for one without token."""
    return [tokens.get(bytes([byte]), -1) for byte in range(256)]
