"""The merges of a vocabulary as they were learned."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from rich.text import Text

from tinygrad_llm.study.tokens.text_form import columns
from tinygrad_llm.study.tokens.visible import shown
from tinygrad_llm.tokenizer import Tokenizer
from tinygrad_llm.tokenizer.trainer import Learned

HEADS = "rank", "merge", "token", "count", "saves", "bytes/token"


def learned_table(tokenizer: Tokenizer, learned: Learned, most: int) -> Iterator[Text]:
    """A line for each of the first `most` merges: the two parts, the token that they make, how often the pair stood in
    the text, the share of all tokens that the merge saved, and how many bytes a token covers after it."""
    rows = [[Text(head, "bold") for head in HEADS]]
    left = learned.symbols
    merges = zip(learned.pairs, learned.counts, learned.saved, strict=True)
    for rank, (pair, count, saved) in enumerate(islice(merges, most)):
        one, other = (tokenizer.token_bytes(token) for token in pair)
        share, left = saved / left, left - saved
        cells = str(rank), f"{shown(one)} + {shown(other)}", shown(one + other), f"{count:,}"
        rows.append([*map(Text, cells), Text(f"{share:.2%}"), Text(f"{learned.symbols / left:.3f}")])
        rows[-1][2].stylize("bold green")
    yield from columns(rows, right=(0, 3, 4, 5))
    if (more := len(learned.pairs) - most) > 0:
        yield Text(f"... {more:,} more merges; --explain {len(learned.pairs)} shows them", "dim")
