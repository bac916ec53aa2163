"""Cutting text into words before byte-pair encoding: merges never cross a word's border.

Each pattern is a list of alternatives, tried in order at each position, that together match every character.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

# GPT-2 (Radford et al. 2019): English contractions; letters, digits, or other signs, each with one space in front;
# white space, leaving the last space of a run to the word that follows it.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# GPT-4 ("cl100k"): contractions in either case; letters may bring one sign with them (".name", "_x", " word"); digits
# in groups of up to 3; signs bring the line feeds after them; line feeds end a run of white space.
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Ours, the default. Three simple rules, for prose and code alike:
# 1. letters (with their accents), and any one sign before them: " word", ".name", "_x", "(self", a line feed;
# 2. digits in groups of up to 3, so that no number needs a token of its own;
# 3. signs, with one space before them and the white space after them (".\n\n   "), whose last space goes to the word.
# Why: on modules of the default corpus held out from training, with 1,024 / 4,096 / 8,192 tokens, a token covers
# 2.71 / 3.88 / 4.29 bytes; with GPT-4's pattern 2.62 / 3.68 / 4.04, with GPT-2's 2.61 / 3.59 / 3.91. A bigram model
# over 8,192 tokens needs 1.981 bits per byte, with GPT-4's pattern 1.988, with GPT-2's 1.994.
OWN = r"[^\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+|\p{N}{1,3}| ?[^\s\p{L}\p{M}\p{N}]+(?:\s+(?!\S))?|\s+(?!\S)|\s+"

PATTERNS: dict[str, str] = {"gpt2": GPT2, "cl100k": CL100K, "own": OWN}


def pattern_text(pattern: str) -> str:
    """The regular expression of a named pattern ("gpt2", "cl100k", "own"); any other text is one itself."""
    return PATTERNS.get(pattern, pattern)


@lru_cache(maxsize=16)
def compile_pattern(pattern: str) -> Any:
    """The compiled pattern. Raises ValueError for one that is not valid, or that has capturing groups."""
    import regex  # type: ignore[import-untyped]  # not at the top: `import tinygrad_llm` stays light

    try:
        compiled = regex.compile(pattern_text(pattern))
    except regex.error as error:
        names = ", ".join(PATTERNS)
        raise ValueError(f"pattern {pattern!r} is neither a name ({names}) nor a regular expression: {error}") from None
    if compiled.groups:
        raise ValueError(f"pattern {pattern!r} has a capturing group; write (?:...) instead of (...)")
    return compiled


def split_words(compiled: Any, text: str) -> list[str]:
    """The words of the text, in order; joined they are the text again.

    Characters that a user's own pattern does not match become words too (whole runs of them), as in Hugging Face's
    `Split(behavior="isolated")`: nothing is ever lost.
    """
    words: list[str] = compiled.findall(text)
    if sum(map(len, words)) == len(text):
        return words
    words, end = [], 0
    for match in compiled.finditer(text):
        words += [text[end : match.start()], match.group()]
        end = match.end()
    return [word for word in [*words, text[end:]] if word]
