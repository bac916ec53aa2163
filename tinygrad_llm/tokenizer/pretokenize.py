"""Cutting text into words before byte-pair encoding: merges never cross a word's border.

Each pattern is a list of alternatives, tried in order at each position, that together match every character. In them

    \\p{L}       a letter: of these \\p{Lu} capital, \\p{Ll} small, \\p{Lt} with a capital first part,
                \\p{Lm} and \\p{Lo} without case
    \\p{M}       a mark: an accent that follows its letter
    \\p{N}       a number
    \\s, \\S      white space, anything else
    (?i:...)    ignores case
    " ?"        in front: a word may begin with one space, so that "word" and " word" are two tokens
    \\s+(?!\\S)   white space without its last character, which is left to the word that follows;
                all of it at the end of a text
    ++ ?+ *+    a plus sign after a repetition forbids to give back what it took;
                here this saves time, and changes no word

For the patterns that have a name the classes are those of Unicode 16.0 (`unicode_classes`).
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from tinygrad_llm.tokenizer.unicode_classes import class_of

# Ours, the default. Three simple rules, for prose and code alike.
# Why: on modules of the default corpus held out from training, with 1,024 / 4,096 / 8,192 tokens, a token covers
# 2.71 / 3.88 / 4.29 bytes; with GPT-4's pattern 2.62 / 3.68 / 4.04, with GPT-2's 2.61 / 3.59 / 3.91. A bigram model
# over 8,192 tokens needs 1.981 bits per byte, with GPT-4's pattern 1.988, with GPT-2's 1.994.
OWN = (
    r"[^\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+"  # letters with their accents, and any one sign before them: " word", ".name"
    r"|\p{N}{1,3}"  # digits in groups of up to 3, so that no number needs a token of its own
    r"| ?[^\s\p{L}\p{M}\p{N}]+(?:\s+(?!\S))?"  # signs, and the white space after them (".\n\n   ") but its last
    r"|\s+(?!\S)"  # white space but its last
    r"|\s+"  # that last one, where no word takes it
)

# GPT-2 (Radford et al. 2019)
GPT2 = (
    r"'s|'t|'re|'ve|'m|'ll|'d"  # English contractions, in small letters only
    r"| ?\p{L}+"  # letters; accents that are marks end them
    r"| ?\p{N}+"  # numbers of any length
    r"| ?[^\s\p{L}\p{N}]+"  # other signs, marks among them
    r"|\s+(?!\S)"  # white space but its last
    r"|\s+"  # that last one
)

# SmolLM (Hugging Face 2024). There it is two steps: each number becomes a word, then GPT-2's pattern cuts each of the
# texts between them. So a text ends before a number, and white space there is left whole. This is both in one.
# (The first step knows numbers from another table. In tokenizers 0.23 it has the 13 that came with Unicode 17.0, too.)
SMOLLM = (
    r"\p{N}"  # each number is a word; no space joins it
    r"|'s|'t|'re|'ve|'m|'ll|'d"
    r"| ?\p{L}+"
    r"| ?[^\s\p{L}\p{N}]+"
    r"|\s+(?![^\s\p{N}])"  # white space: all of it before a digit or the end, else all but its last
    r"|\s+"
)

# GPT-3.5 and GPT-4 (OpenAI 2023), as tiktoken 0.14 writes it
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)"  # English contractions; the long s "ſ", too, is an s if case is ignored
    r"|[^\r\n\p{L}\p{N}]?+\p{L}++"  # letters, and any one sign before them: ".name", "_x", "\tword"
    r"|\p{N}{1,3}+"  # numbers in groups of up to 3
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*+"  # signs, and the line feeds after them
    r"|\s++$"  # white space at the end of the text
    r"|\s*[\r\n]"  # white space up to its last line feed
    r"|\s+(?!\S)"  # white space but its last
    r"|\s"  # that last one
)

# Llama 3 (Meta 2024), as files of Hugging Face write it: an older form of cl100k, whose words it gives, except that
# white space at the end of the text is cut after its last line feed.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Qwen 2 and 2.5 (Alibaba 2024): llama3 with each digit a word
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

# GPT-4o (OpenAI 2024). A word of letters may bring one sign with it, and a contraction.
O200K = (
    # capitals, then small letters: "Word", "word"; what has no case (marks, too) may stand anywhere
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    # capitals that no small letter follows: "WORD"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*"  # signs, and the line feeds and slashes after them
    r"|\s*[\r\n]+"  # white space up to its last line feed
    r"|\s+(?!\S)"
    r"|\s+"
)

PATTERNS: dict[str, str] = {
    "own": OWN,
    "gpt2": GPT2,
    "smollm": SMOLLM,
    "cl100k": CL100K,
    "llama3": LLAMA3,
    "qwen2": QWEN2,
    "o200k": O200K,
}

# the same words in another spelling: tiktoken's of GPT-2, and cl100k for engines that take `{1,3}+` for `(?:{1,3})+`
_GPT2_OF_TIKTOKEN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
_CL100K_OF_HUGGING_FACE = CL100K.replace("{1,3}+", "{1,3}")

_NAMES = {text: name for name, text in PATTERNS.items()}
_NAMES |= {_GPT2_OF_TIKTOKEN: "gpt2", _CL100K_OF_HUGGING_FACE: "cl100k"}


def pattern_text(pattern: str) -> str:
    """The regular expression of a named pattern (one of `PATTERNS`); any other text is one itself."""
    return PATTERNS.get(pattern, pattern)


def hugging_face_text(pattern: str) -> str:
    """The regular expression to write for Hugging Face's `Split`, whose engine reads a few signs otherwise.

    Files of theirs have `smollm` in two steps, which give the same words: `Digits` with `individual_digits`, then
    `ByteLevel` with GPT-2's pattern, which is built in.
    """
    return _CL100K_OF_HUGGING_FACE if pattern_name(pattern) == "cl100k" else pattern_text(pattern)


def pattern_name(pattern: str) -> str:
    """The name of a pattern that is given by its text, in any of the spellings known; else the argument itself."""
    return _NAMES.get(pattern, pattern)


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
    """The words of the text, in order; joined they are the text again. `compiled` comes from `compile_pattern`.

    A named pattern cuts by the classes of Unicode 16.0, a pattern of the user's own by those of the package `regex`.
    Characters that a user's own pattern does not match become words too (whole runs of them), as in Hugging Face's
    `Split(behavior="isolated")`: nothing is ever lost.
    """
    if compiled.pattern in _NAMES and not text.isascii():
        sizes = map(len, compiled.findall(_stand_ins(text)))
        return [text[begin:end] for begin, end in pairwise(accumulate(sizes, initial=0))]
    words: list[str] = compiled.findall(text)
    if sum(map(len, words)) == len(text):
        return words
    words, end = [], 0
    for match in compiled.finditer(text):
        words += [text[end : match.start()], match.group()]
        end = match.end()
    return [word for word in [*words, text[end:]] if word]


# For each of unicode_classes.CLASSES a character whose class never changes from one version of Unicode to another: a
# capital, a small letter, one of title case, two without case, an accent, a superscript 2, a no-break space, a sign.
_STAND_IN = np.array([ord(char) for char in "\u00c0\u00e0\u01c5\u02b0\u05d0\u0301\u00b2\u00a0\u00d7"], np.uint32)
_LONG_S = ord(
    "\u017f"
)  # "ſ": the one letter outside ASCII that a named pattern reaches, as an s without regard to case


def _stand_ins(text: str) -> str:
    """The text with each character outside ASCII replaced by one of its class in Unicode 16.0.

    So `regex`, which holds another version, finds the borders of this one.
    """
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))
    kept = (codes < 0x80) | (codes == _LONG_S)
    return np.where(kept, codes, _STAND_IN[class_of(codes)]).astype("<u4").tobytes().decode("utf-32-le")
