"""The names of special tokens inside a text: where they are allowed, where they are refused."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Literal

Names = Collection[str] | Literal["all"]


@lru_cache(maxsize=16)
def any_of(names: frozenset[str]) -> re.Pattern[str]:
    """Matches any of the names, the longest where several fit; as a group, so that `split` returns them too."""
    return re.compile("(" + "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)) + ")")


def allowed_names(names: Names, special_tokens: Mapping[str, int]) -> set[str]:
    """The names as a set. Raises ValueError for a single text, and for a name that is no special token."""
    if names == "all":
        return set(special_tokens)
    if isinstance(names, str):
        raise ValueError(f'allowed_special={names!r} is a text; pass a set, {{{names!r}}}, or "all"')
    if unknown := set(names) - set(special_tokens):
        raise ValueError(f"allowed_special: {sorted(unknown)} are not among {sorted(special_tokens)}")
    return set(names)


def refuse_names(text: str, disallowed: set[str]) -> None:
    """Raises ValueError for a text that has one of the names."""
    if disallowed and (found := any_of(frozenset(disallowed)).search(text)):
        raise ValueError(
            f"text has the special token {found[0]!r} at position {found.start()}; to encode it as such, pass "
            f"allowed_special={{{found[0]!r}}}; to encode it as ordinary text, pass disallowed_special=()"
        )


def cut_at_names(
    text: str, special_tokens: Mapping[str, int], allowed_special: Names, disallowed_special: Names
) -> tuple[list[str], set[str]]:
    """The text cut before and after each allowed name, and the allowed names. Raises ValueError for the others."""
    allowed = allowed_names(allowed_special, special_tokens)
    refuse_names(text, set(special_tokens if disallowed_special == "all" else disallowed_special) - allowed)
    return (any_of(frozenset(allowed)).split(text) if allowed else [text]), allowed
