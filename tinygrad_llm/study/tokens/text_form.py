"""A text's tokens and merges in a terminal; where there is no colour, with marks between the tokens."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from rich.text import Text

from tinygrad_llm.study.tokens.merges import Merger, Word
from tinygrad_llm.study.tokens.visible import LINE_FEED, pieces, shown
from tinygrad_llm.tokenizer import Tokenizer

COLOURS = ("black on bright_cyan", "black on bright_yellow", "black on bright_green", "black on bright_magenta")
MARK = "│"
"""Stands between two tokens where there is no colour."""

_MANY = 1 << 62


@dataclass(frozen=True)
class Limits:
    """How much is shown: tokens as text, tokens in the table, bytes of a token in it, words with their merges, bytes of
    a word whose merges are shown, and merges of one word."""

    text: int = 2000
    tokens: int = 40
    token_bytes: int = 24
    words: int = 12
    word_bytes: int = 256
    merges: int = 24


EVERYTHING = Limits(_MANY, _MANY, _MANY, _MANY, 1024, _MANY)
"""Without limits, but for the longest words: they have as many merges as bytes, each shown with the whole word."""


def running_text(tokenizer: Tokenizer, words: Sequence[Word], limits: Limits, colour: bool) -> Text:
    """The whole text, token after token in changing colours, or with marks between them."""
    text, tokens = Text(), [token for word in words for token in word.ids]
    for number, token in enumerate(tokens[: limits.text]):
        if number and not colour:
            text.append(MARK)
        style = COLOURS[number % len(COLOURS)] if colour else ""
        text.append_text(_token(tokenizer.token_bytes(token), style, breaks=True))
    text.rstrip()
    return text.append_text(_more(len(tokens) - limits.text, "tokens", "\n"))


def token_table(tokenizer: Tokenizer, words: Sequence[Word], limits: Limits) -> Iterator[Text]:
    """Id, bytes and text of each token, in the order of the text."""
    tokens = [(token, word.special) for word in words for token in word.ids]
    rows = [[Text(head, "bold") for head in ("id", "bytes", "text")]]
    for token, special in tokens[: limits.tokens]:
        data = tokenizer.token_bytes(token)
        kept = data[: limits.token_bytes]
        size, dots = (f" ... {len(data):,} bytes", " ...") if kept != data else ("", "")
        note = Text("  special token" if special else "", "dim")
        rows.append([Text(str(token)), Text(kept.hex(" ") + size), _token(kept) + Text(dots) + note])
    yield from columns(rows, right=[0])
    if more := _more(len(tokens) - limits.tokens, "tokens"):
        yield more


def merge_lists(tokenizer: Tokenizer, words: Sequence[Word], limits: Limits) -> Iterator[Text]:
    """For each different word of two bytes or more, how it is merged, or why it is not."""
    merger = Merger(tokenizer)
    different = [word for word in dict.fromkeys(words) if len(word.data) > 1 and not word.special]
    for word in different[: limits.words]:
        yield Text()
        yield from _merge_list(tokenizer, merger, word, limits)
    if more := _more(len(different) - limits.words, "words"):
        yield Text()
        yield more


def _merge_list(tokenizer: Tokenizer, merger: Merger, word: Word, limits: Limits) -> Iterator[Text]:
    """The word with its number of tokens; a line for each merge: rank, pair, and the word as it then stands."""
    tokens = f"{len(word.ids):,} token{'s' * (len(word.ids) != 1)}"
    if len(word.data) > limits.word_bytes:
        remedy = "" if len(word.data) > EVERYTHING.word_bytes else "; --all shows them"
        yield Text.assemble((shown(word.data[: limits.token_bytes]) + "...", "bold"), f"  {tokens}")
        yield Text(f"... its merges: the word has {len(word.data):,} bytes{remedy}", "dim")
        return
    name = shown(word.data), "bold"
    if merger.is_whole(word.data):
        yield Text.assemble(name, f"  {tokens}: a word of the vocabulary is looked up, not merged")
        return
    merges = merger.merges(word.data)
    yield Text.assemble(name, f"  {tokens}, {len(merges):,} merge{'s' * (len(merges) != 1)}")
    symbols = merger.symbols(word.data)
    rows = [[Text(""), Text(""), _symbols(tokenizer, symbols)]]
    for rank, at, made in merges[: limits.merges]:
        pair = Text(" + ").join(_token(tokenizer.token_bytes(token)) for token in symbols[at : at + 2])
        symbols[at : at + 2] = [made]
        rows.append([Text(str(rank)), pair, _symbols(tokenizer, symbols, at)])
    if merges:
        rows.insert(0, [Text(head, "dim") for head in ("rank", "merge", "word")])
        yield from columns(rows, right=[0])
    if more := _more(len(merges) - limits.merges, "merges"):
        yield more


def _symbols(tokenizer: Tokenizer, symbols: Sequence[int], new: int = -1) -> Text:
    """The word as it stands, in symbols; the one just made is green."""
    tokens = (_token(tokenizer.token_bytes(token), "bold green" * (at == new)) for at, token in enumerate(symbols))
    return Text(" ").join(tokens)


def _token(data: bytes, style: str = "", breaks: bool = False) -> Text:
    """The bytes of a token, made visible; `breaks`: a line feed also begins a new line."""
    text = Text(style=style)
    for kind, part in pieces(data):
        if breaks and kind == "sign":
            part = part.replace(LINE_FEED, LINE_FEED + "\n")
        text.append(part, "" if kind == "text" else "dim")
    return text


def _more(count: int, what: str, before: str = "") -> Text:
    return Text(f"{before}... {count:,} more {what}; --all shows them" if count > 0 else "", "dim")


def columns(rows: Sequence[Sequence[Text]], right: Collection[int]) -> Iterator[Text]:
    """Rows as aligned lines, never cut: the columns numbered in `right` end below each other, the others begin so."""
    widths = [max(cell.cell_len for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        line = Text()
        for number, (cell, width) in enumerate(zip(row, widths, strict=True)):
            gap = Text(" " * (width - cell.cell_len))
            for part in (gap, cell) if number in right else (cell, gap):
                line.append_text(part)
            line.append("  ")
        line.rstrip()
        yield line
