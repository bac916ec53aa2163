"""WordPiece (Schuster and Nakajima 2012), the tokenizer of BERT: words cut into the longest known pieces.

Text is cleaned, put into small letters without accents (where the model wants that), and cut at white space and at each
punctuation mark. Each word then gives, from the left, the longest piece that is in the vocabulary; pieces that do not
begin a word are written with "##". A word that cannot be made so is one "[UNK]". Unlike with byte-pair encoding the
text does not come back: case, accents and spaces are lost.

Classes of characters are those of this Python's `unicodedata`, so they may differ from Hugging Face's (Unicode 8) on
characters that few texts have and no vocabulary knows.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from tinygrad_llm.files import atomic_write
from tinygrad_llm.tokenizer.formats.checks import check_ids, field, read_json
from tinygrad_llm.tokenizer.special_names import Names, cut_at_names
from tinygrad_llm.tokenizer.unicode_text import check_text

CONTINUED = "##"  # before a piece that does not begin a word
_CACHED_WORDS = 100_000
_REQUIRED = ("[UNK]", "[CLS]", "[SEP]")
_SPECIAL = (*_REQUIRED, "[PAD]", "[MASK]")


class Normalization(NamedTuple):
    """What is done to a text before it is cut; `strip_accents` None means: if `lowercase`."""

    lowercase: bool = True
    strip_accents: bool | None = None
    handle_chinese_chars: bool = True


class WordPieceTokenizer:
    """A vocabulary of pieces, and BERT's way to come from text to them."""

    FILE: ClassVar[str] = "vocab.txt"
    """Its name in the folder of a model."""

    def __init__(
        self,
        vocabulary: Iterable[str],
        normalization: Normalization = Normalization(),  # noqa: B008 (it cannot be changed)
        longest_word: int = 100,
    ) -> None:
        """`vocabulary` in the order of the ids. A word of more than `longest_word` characters becomes "[UNK]".

        Raises ValueError for a piece that stands twice, and if [UNK], [CLS] or [SEP] is missing.
        """
        self.pieces = list(vocabulary)
        self.ids = {piece: number for number, piece in enumerate(self.pieces)}
        if len(self.ids) < len(self.pieces):
            twice = next(piece for number, piece in enumerate(self.pieces) if self.ids[piece] != number)
            raise ValueError(f"{twice!r} stands twice in the vocabulary")
        if missing := [name for name in _REQUIRED if name not in self.ids]:
            raise ValueError(f"{missing[0]} is missing: no vocabulary of BERT's")
        self.normalization, self.longest_word = normalization, longest_word
        self.special_tokens = {name: self.ids[name] for name in _SPECIAL if name in self.ids}
        self._longest_piece = max(map(len, self.pieces))
        accents = normalization.lowercase if normalization.strip_accents is None else normalization.strip_accents
        self._strip_accents = accents
        self._cleaned = _Table(_clean_with_chinese if normalization.handle_chinese_chars else _clean)
        self._folded = _Table(lambda char: _fold(char, normalization.lowercase, accents))
        self._known: dict[str, list[int]] = {}

    # ---- files

    @classmethod
    def load(cls, path: str | PathLike[str]) -> WordPieceTokenizer:
        """Read a `vocab.txt`, a `tokenizer.json`, or a folder that has one of them.

        Beside a vocab.txt, `tokenizer_config.json` says whether letters are made small. Raises ValueError that names
        the file and the fault.
        """
        file = Path(path)
        if file.is_dir():
            file = file / ("tokenizer.json" if (file / "tokenizer.json").exists() else "vocab.txt")
        try:
            return cls._from_json(read_json(file)) if file.suffix == ".json" else cls._from_lines(file)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None

    @classmethod
    def _from_lines(cls, file: Path) -> WordPieceTokenizer:
        try:
            lines = file.read_bytes().decode("utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"no UTF-8 at byte {error.start}") from None
        if not lines[-1]:
            del lines[-1]
        beside = file.with_name("tokenizer_config.json")
        config = read_json(beside) if beside.is_file() else {}
        if not isinstance(config, dict):
            raise ValueError(f"{beside.name} beside it is a {type(config).__name__}, but must be a table")
        normalization = Normalization(
            bool(config.get("do_lower_case", True)),
            config.get("strip_accents"),
            bool(config.get("tokenize_chinese_chars", True)),
        )
        return cls([line.removesuffix("\r") for line in lines], normalization)

    @classmethod
    def _from_json(cls, content: Any) -> WordPieceTokenizer:
        model = field(content, "model", dict)
        if model.get("type", "WordPiece") != "WordPiece":
            raise ValueError(f"model type {model['type']!r}, but this reads WordPiece; Tokenizer.load reads BPE")
        if model.get("continuing_subword_prefix", CONTINUED) != CONTINUED or model.get("unk_token") != "[UNK]":
            raise ValueError('the pieces are not written in BERT\'s way, with "##" and "[UNK]"')
        vocab = field(model, "vocab", dict)
        check_ids(vocab)
        pieces = sorted(vocab, key=vocab.__getitem__)
        if pieces and vocab[pieces[-1]] != len(pieces) - 1:
            missing = next(number for number, piece in enumerate(pieces) if vocab[piece] != number)
            raise ValueError(f"the id {missing} belongs to no piece")
        match content.get("normalizer"), content.get("pre_tokenizer"):
            case {"type": "BertNormalizer", "clean_text": True} as found, {"type": "BertPreTokenizer"}:
                normalization = Normalization(
                    bool(found.get("lowercase", True)),
                    found.get("strip_accents"),
                    bool(found.get("handle_chinese_chars", True)),
                )
            case normalizer, pre_tokenizer:
                raise ValueError(
                    f"normalizer {json.dumps(normalizer)[:100]} and pre_tokenizer {json.dumps(pre_tokenizer)[:100]} "
                    "are not BERT's (BertNormalizer with clean_text, BertPreTokenizer)"
                )
        longest = field({"max_input_chars_per_word": 100} | model, "max_input_chars_per_word", int)
        return cls(pieces, normalization, longest)

    def save(self, path: str | PathLike[str]) -> None:
        """Write a vocab.txt and, beside it, the tokenizer_config.json that says how text is normalized."""
        file = Path(path)
        normalization = self.normalization
        config = {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": normalization.lowercase,
            "strip_accents": normalization.strip_accents,
            "tokenize_chinese_chars": normalization.handle_chinese_chars,
        }
        atomic_write(file, "".join(piece + "\n" for piece in self.pieces).encode("utf-8"))
        text = json.dumps(config, indent=1) + "\n"
        atomic_write(file.with_name("tokenizer_config.json"), text.encode("utf-8"))

    # ---- text to ids

    def encode(
        self,
        text: str,
        pair: str | None = None,
        allowed_special: Names = frozenset(),
        disallowed_special: Names = "all",
    ) -> np.ndarray:
        """The ids, int32: ``[CLS] text [SEP]``, or ``[CLS] text [SEP] pair [SEP]``.

        The name of a special token, as "[MASK]", in a text is an error, unless it is among `allowed_special`; with
        `disallowed_special=()` it is ordinary text: as in `Tokenizer.encode`. Raises ValueError for that, for a name
        that is no special token, and for a lone surrogate.
        """
        return self.encode_with_types(text, pair, allowed_special, disallowed_special)[0]

    def encode_with_types(
        self,
        text: str,
        pair: str | None = None,
        allowed_special: Names = frozenset(),
        disallowed_special: Names = "all",
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ids, and their token types: 0 up to the first [SEP], 1 for the pair and its [SEP]."""
        begin, end = self.ids["[CLS]"], self.ids["[SEP]"]
        first = [begin, *self._encode(text, allowed_special, disallowed_special), end]
        second = [] if pair is None else [*self._encode(pair, allowed_special, disallowed_special), end]
        types = [0] * len(first) + [1] * len(second)
        return np.array(first + second, np.int32), np.array(types, np.int32)

    def _encode(self, text: str, allowed_special: Names, disallowed_special: Names) -> list[int]:
        if not isinstance(text, str):
            raise TypeError(f"encode: {type(text).__name__} is no text; decode bytes before, as UTF-8")
        check_text(text)
        parts, allowed = cut_at_names(text, self.special_tokens, allowed_special, disallowed_special)
        ids: list[int] = []
        for part in parts:
            if part in allowed:
                ids.append(self.special_tokens[part])
            else:
                for word in self._normalized(part).split():
                    ids += self._known.get(word) or self._encode_word(word)
        return ids

    def _normalized(self, text: str) -> str:
        """The text with spaces around all that is a word of its own."""
        if not text.isascii():
            text = text.translate(self._cleaned)
            if self._strip_accents:
                text = unicodedata.normalize("NFD", text)
        return text.translate(self._folded)

    def _encode_word(self, word: str) -> list[int]:
        pieces = self._longest_pieces(word) if len(word) <= self.longest_word else None
        ids = [self.ids["[UNK]"]] if pieces is None else pieces
        if len(word) <= self.longest_word:
            if len(self._known) >= _CACHED_WORDS:
                self._known.clear()
            self._known[word] = ids
        return ids

    def _longest_pieces(self, word: str) -> list[int] | None:
        begin, prefix, ids = 0, "", []
        while begin < len(word):
            for end in range(min(len(word), begin + self._longest_piece), begin, -1):
                number = self.ids.get(prefix + word[begin:end])
                if number is not None:
                    break
            else:
                return None
            ids.append(number)
            begin, prefix = end, CONTINUED
        return ids

    # ---- ids to text

    def decode(self, ids: Iterable[int]) -> str:
        """The pieces, joined to words with one space between them. Raises ValueError for an unknown id."""
        words: list[str] = []
        for number in ids:
            if not 0 <= number < len(self.pieces):
                raise ValueError(f"id {number} is not in this vocabulary (ids 0 to {len(self.pieces) - 1})")
            piece = self.pieces[number]
            if piece.startswith(CONTINUED) and words:
                words[-1] += piece.removeprefix(CONTINUED)
            else:
                words.append(piece)
        return " ".join(words)

    @property
    def vocab_size(self) -> int:
        """The number of ids."""
        return len(self.pieces)

    def __repr__(self) -> str:
        return f"WordPieceTokenizer(vocab_size={self.vocab_size}, {self.normalization})"


# ---- characters


class _Table(dict[int, str]):
    """For `str.translate`: what a character becomes, found out when it is first met."""

    def __init__(self, become: Callable[[str], str]) -> None:
        self._become = become

    def __missing__(self, code: int) -> str:
        result = self[code] = self._become(chr(code))
        return result


def _clean(char: str) -> str:
    """Control, format and private characters vanish, but for those that are white space."""
    if char in "\t\n\r":
        return " "
    return "" if unicodedata.category(char) in ("Cc", "Cf", "Co") or char == "\ufffd" else char


def _clean_with_chinese(char: str) -> str:
    return f" {char} " if _is_chinese(char) else _clean(char)


# The blocks of CJK ideographs, as BERT lists them
_CHINESE = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


def _is_chinese(char: str) -> bool:
    return any(low <= ord(char) <= high for low, high in _CHINESE)


def _fold(char: str, lowercase: bool, strip_accents: bool) -> str:
    """A cleaned character without accents, small; a punctuation mark becomes a word of its own."""
    if strip_accents and unicodedata.category(char) == "Mn":
        return ""
    if _is_punctuation(char):
        return f" {char} "
    return _clean(char.lower() if lowercase else char)


def _is_punctuation(char: str) -> bool:
    """All signs of ASCII count, among them $, + and ~, which are none in Unicode."""
    ascii_sign = char.isascii() and char.isprintable() and not char.isalnum() and char != " "
    return ascii_sign or unicodedata.category(char).startswith("P")
