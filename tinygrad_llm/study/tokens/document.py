"""A page that steps through the merges of a word: one file, without a network (its sources are in ``assets/``)."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from tinygrad_llm.study.page import json_in_script, page, templates
from tinygrad_llm.study.tokens.merges import Merger, Word, words_of
from tinygrad_llm.study.tokens.visible import pieces
from tinygrad_llm.tokenizer import PATTERNS, Tokenizer

WORDS = 4000
"""Words of the text that a page holds; each is an element of it."""
WORD_BYTES = 512
"""Bytes of the longest word that can be stepped through."""

TITLE = "How a text becomes tokens"


def tokens_page(tokenizer: Tokenizer, text: str, special: bool = False) -> str:
    """The page of a text: its tokens in colours, and of each word, when it is chosen, the merges one by one.

    `special` as in `words_of`. Raises ValueError for an empty text and for a lone surrogate.
    """
    words = words_of(tokenizer, text, special)
    if not words:
        raise ValueError("the text is empty: there is nothing to step through")
    body = (
        templates()
        .from_string(_asset("tokens.html"))
        .render(
            title=TITLE,
            words=len(words),
            left_out=max(0, len(words) - WORDS),
            tokens=sum(len(word.ids) for word in words),
            size=len(text.encode("utf-8")),
            vocabulary=tokenizer.vocab_size,
            pattern=tokenizer.pattern if tokenizer.pattern in PATTERNS else "",
            data=json_in_script(page_data(tokenizer, words[:WORDS])),
            script=Markup(_asset("tokens.js")),
        )
    )
    return page(TITLE, Markup(body), _asset("tokens.css"))


def page_data(tokenizer: Tokenizer, words: Sequence[Word]) -> dict[str, Any]:
    """What the page's script reads.

    `text` numbers the word at each place of the text; `words` are the different words; `tokens` gives to each id that
    occurs its bytes (hexadecimal) and its visible pieces.
    """
    merger, different = Merger(tokenizer), list(dict.fromkeys(words))
    number_of = {word: number for number, word in enumerate(different)}
    packed = [_packed(merger, word) for word in different]
    ids = {token for word in packed for token in (*word["start"], *word["ids"], *(m[2] for m in word["merges"]))}
    return {
        "text": [number_of[word] for word in words],
        "words": packed,
        "tokens": {token: _token(tokenizer.token_bytes(token)) for token in sorted(ids)},
    }


def _packed(merger: Merger, word: Word) -> dict[str, Any]:
    """A word: `shown` its visible pieces, `start` its single bytes, `ranks` those of their pairs, `ids` its tokens.

    Of each of its `merges` the place, the rank, the id made, and the ranks of the new token with the symbol before and
    with the one after: so every step can be told from the one before.
    """
    kind = _kind(merger, word)
    stepped = kind in ("merged", "whole")
    start = merger.symbols(word.data) if stepped else []
    symbols, merges = list(start), []
    for rank, at, made in merger.merges(word.data) if stepped else ():
        symbols[at : at + 2] = [made]
        beside = [merger.rank(*symbols[i : i + 2]) if 0 <= i < len(symbols) - 1 else None for i in (at - 1, at)]
        merges.append([at, rank, made, *beside])
    return {
        "kind": kind,
        "ids": list(word.ids),
        "start": start,
        "ranks": [merger.rank(*pair) for pair in pairwise(start)],
        "merges": merges,
        "shown": _pieces(word.data),
    }


def _kind(merger: Merger, word: Word) -> str:
    if word.special:
        return "special"
    if len(word.data) > WORD_BYTES:
        return "long"
    return "whole" if len(word.data) > 1 and merger.is_whole(word.data) else "merged"


def _token(data: bytes) -> list[Any]:
    return [data.hex(" "), _pieces(data)]


def _pieces(data: bytes) -> list[list[str]]:
    return [[kind[0], shown] for kind, shown in pieces(data)]


def _asset(name: str) -> str:
    return importlib.resources.files("tinygrad_llm.study.tokens").joinpath("assets", name).read_text(encoding="utf-8")
