"""Byte-level byte-pair encoding: text to ids and back, without loss, for any text at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from os import PathLike
from typing import Any, ClassVar

import numpy as np

from tinygrad_llm.tokenizer import formats
from tinygrad_llm.tokenizer.alphabet import BYTE_OF_CHARACTER, BYTE_ORDER
from tinygrad_llm.tokenizer.decoding import TokenTable, join_tokens, unknown
from tinygrad_llm.tokenizer.formats.parts import Conventions, Parts
from tinygrad_llm.tokenizer.preparing import encoder_for
from tinygrad_llm.tokenizer.pretokenize import PATTERNS, compile_pattern, pattern_text
from tinygrad_llm.tokenizer.special_names import Names, allowed_names, cut_at_names, refuse_names
from tinygrad_llm.tokenizer.streaming import StreamDecoder
from tinygrad_llm.tokenizer.trainer import Learned, Pair, Progress, learn_merges
from tinygrad_llm.tokenizer.vocabulary import Vocabulary, check_range
from tinygrad_llm.tokenizer.word_counts import count_words

DOCUMENT_SEPARATOR = "<|endoftext|>"

_SHORT = 64  # ids up to which joining bytes is faster than arrays
_FEW = 4  # names up to which looking for one after the other is faster than for any of them


class Tokenizer:
    """A vocabulary (bytes of each token), the merges in order, the special tokens and the pattern that cuts words.

    Made by `Tokenizer.train` or `Tokenizer.load`. Ids of a trained one, as in Hugging Face's trainer: special tokens,
    then the 256 bytes in `alphabet.BYTE_ORDER`, then the merges in the order they were learned.
    """

    FILE: ClassVar[str] = "tokenizer.json"
    """Its name in the folder of a model."""

    def __init__(
        self,
        tokens: Mapping[bytes, int],
        merges: Iterable[Pair],
        special_tokens: Mapping[str, int],
        pattern: str,
        whole_words: bool = False,
        normal_form: str = "",
        conventions: Conventions = Conventions(),  # noqa: B008 (it cannot be changed)
    ) -> None:
        """`whole_words`, `normal_form`: see `Vocabulary`; `conventions`: what a model expects around its text.

        Raises ValueError for an id used twice, a merge of unknown tokens, a pattern that is none.
        """
        if pattern not in PATTERNS:
            compile_pattern(pattern)
        self.vocabulary = Vocabulary(dict(tokens), list(merges), pattern, whole_words, normal_form)
        self.special_tokens = dict(special_tokens)
        self.conventions = conventions
        self._bytes = self.vocabulary.bytes_of | {number: name.encode() for name, number in special_tokens.items()}
        self._check_special_tokens()
        self._names = list(special_tokens) if len(special_tokens) <= _FEW else []
        self._encoder = encoder_for(self.vocabulary)

    def _check_special_tokens(self) -> None:
        if len(self._bytes) < len(self.vocabulary.tokens) + len(self.special_tokens):
            raise ValueError("the vocabulary gives one id to two tokens")
        check_range(self.special_tokens.values())
        for name in self.special_tokens:
            if not name or self._is_ordinary(name):
                raise ValueError(f"special token {name!r} is an ordinary token too; choose a rarer name, as <|name|>")

    def _is_ordinary(self, name: str) -> bool:
        """Whether a name is a token already, as text or as it stands in a file, where both kinds share one table."""
        written = bytes(BYTE_OF_CHARACTER[char] for char in name) if set(name) <= BYTE_OF_CHARACTER.keys() else b""
        return name.encode() in self.vocabulary.tokens or written in self.vocabulary.tokens

    @property
    def pattern(self) -> str:
        """The name of the pattern that cuts text into words, or its regular expression."""
        return self.vocabulary.pattern

    @property
    def merges(self) -> list[Pair]:
        """The pairs of ids in the order in which they are merged."""
        return self.vocabulary.merges

    # ---- making one

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        pattern: str = "own",
        special_tokens: Iterable[str] = (DOCUMENT_SEPARATOR,),
        progress: Progress | None = None,
        min_count: int = 1,
        explain: Callable[[Learned], None] | None = None,
    ) -> Tokenizer:
        """Learn a vocabulary of `vocab_size` tokens from texts, which are read once, one after the other.

        `pattern` is one of `PATTERNS` or a regular expression (see `pretokenize`). Special tokens get ids 0, 1, ...;
        their names are ordinary text in `texts`. `progress(done, total)` counts merges. If the texts have no pair left
        to merge that stands in them `min_count` times, the vocabulary stays smaller: compare `vocab_size` of the
        result. `explain` is given what each merge did. The merges are those of Hugging Face's BpeTrainer (see
        `trainer` for ties), whose `min_frequency` is `min_count`.
        Raises ValueError if vocab_size < 256 + the number of special tokens, or for a text with a lone surrogate.
        """
        names = [special_tokens] if isinstance(special_tokens, str) else list(special_tokens)
        if len(set(names)) < len(names):
            raise ValueError(f"special_tokens {names} holds a name twice")
        first = len(names) + 256
        if vocab_size < first:
            raise ValueError(
                f"vocab_size {vocab_size} is too small: 256 bytes and {len(names)} special tokens need at least {first}"
            )
        token_of = {len(names) + place: bytes([byte]) for place, byte in enumerate(BYTE_ORDER)}
        id_of_byte = [0] * 256
        for number, token in token_of.items():
            id_of_byte[token[0]] = number
        words = count_words(texts, pattern)
        learned = learn_merges(words, id_of_byte, first, vocab_size - first, progress, min_count)
        if explain:
            explain(learned)
        for number, (a, b) in enumerate(learned.pairs, first):
            token_of[number] = token_of[a] + token_of[b]
        tokens = {token: number for number, token in token_of.items()}
        assert len(tokens) == len(token_of), "two merges made the same token"
        return cls(tokens, learned.pairs, {name: number for number, name in enumerate(names)}, pattern)

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        pattern: str | None = None,
        special_tokens: Mapping[str, int] | None = None,
    ) -> Tokenizer:
        """Read a tokenizer.json, GPT-2's encoder.json and vocab.bpe, .tiktoken ranks, a GGUF file, or a folder.

        See `formats`. `pattern` and `special_tokens` (name to id) are for files that do not hold them. Raises
        ValueError that names the file and the fault.
        """
        parts = formats.load(path, pattern, special_tokens)
        try:
            return cls(*parts)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def save(self, path: str | PathLike[str]) -> None:
        """Write it, in the format that the name stands for: see `formats`.

        A tokenizer.json holds everything; Hugging Face's `Tokenizer.from_file` reads it too, with the same ids.
        Written beside and renamed: a crash leaves the old file whole.
        """
        formats.save(path, self._parts)

    def gguf_values(self, rows: int) -> dict[str, Any]:
        """What stands for it in the GGUF file of a model with `rows` tokens. Raises ValueError if that cannot be said
        there."""
        return formats.gguf_tokens.values_of(self._parts, rows)

    @property
    def _parts(self) -> Parts:
        vocabulary = self.vocabulary
        return Parts(
            vocabulary.tokens,
            vocabulary.merges,
            self.special_tokens,
            vocabulary.pattern,
            vocabulary.whole_words,
            vocabulary.normal_form,
            self.conventions,
        )

    # ---- text to ids

    def encode(
        self,
        text: str,
        allowed_special: Names = frozenset(),
        disallowed_special: Names = "all",
    ) -> np.ndarray:
        """The text's ids, int32.

        The name of a special token inside the text may come from a stranger, so as in tiktoken it is an error by
        default. `allowed_special` (a set of names, or "all") are encoded to their ids; `disallowed_special=()` takes
        all others for ordinary text. Raises ValueError for that, for a name that is no special token, and for a lone
        surrogate.
        """
        try:
            if allowed_special or disallowed_special != "all":
                return self._encode_with(text, allowed_special, disallowed_special)
            self._refuse_all_names(text)
            return self._encoder.encode(text)
        except (AttributeError, TypeError):
            if isinstance(text, str):
                raise
            raise TypeError(f"encode: {type(text).__name__} is no text; decode bytes before, as UTF-8") from None

    def encode_batch(
        self,
        texts: Iterable[str],
        allowed_special: Names = frozenset(),
        disallowed_special: Names = "all",
    ) -> list[np.ndarray]:
        """The ids of each text, int32, as `encode` gives them; large batches are shared out among the threads.

        The ids of several texts may lie in one piece of memory: keep one, and all of them stay. Raises as `encode`, and
        TypeError for a single text.
        """
        if isinstance(texts, str):
            raise TypeError("encode_batch: texts is one string; write [text], or encode(text)")
        texts = list(texts)
        for text in texts:
            if not isinstance(text, str):
                raise TypeError(f"encode_batch: {type(text).__name__} is no text; decode bytes before, as UTF-8")
        if allowed_names(allowed_special, self.special_tokens):
            return [self._encode_with(text, allowed_special, disallowed_special) for text in texts]
        for text in texts:
            if disallowed_special == "all":
                self._refuse_all_names(text)
            else:
                refuse_names(text, set(disallowed_special))
        return self._encoder.encode_batch(texts)

    def _refuse_all_names(self, text: str) -> None:
        """Raises ValueError for a text that has the name of a special token."""
        for name in self._names:
            if name in text:
                refuse_names(text, set(self.special_tokens))
        if len(self.special_tokens) > _FEW:
            refuse_names(text, set(self.special_tokens))

    def _encode_with(self, text: str, allowed_special: Names, disallowed: Names) -> np.ndarray:
        pieces, allowed = cut_at_names(text, self.special_tokens, allowed_special, disallowed)
        parts = [
            np.array([self.special_tokens[piece]], np.int32) if piece in allowed else self._encoder.encode(piece)
            for piece in pieces
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    # ---- ids to text

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of the ids, joined; a special token gives its name. Raises ValueError for an unknown id."""
        return bytes(self._join(ids))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; bytes that are not UTF-8 (a character cut in two) become "�"."""
        return str(self._join(ids), "utf-8", errors="replace")

    def _join(self, ids: Iterable[int]) -> bytes | memoryview:
        if isinstance(ids, list) and len(ids) > _SHORT:
            ids = np.array(ids)
        if isinstance(ids, np.ndarray):
            if ids.size > _SHORT and ids.dtype.kind in "iu":
                table = self._table
                return join_tokens(ids.ravel(), table.data, table.begins, table.sizes).data
            ids = ids.ravel().tolist()
        try:
            return b"".join([self._bytes[number] for number in ids])
        except KeyError as error:
            raise ValueError(unknown(error.args[0], self.vocab_size)) from None

    @cached_property
    def _table(self) -> TokenTable:
        return TokenTable(self._bytes)

    def stream_decoder(self) -> StreamDecoder:
        """A decoder to be fed with ids one by one."""
        return StreamDecoder(self.decode_bytes)

    # ---- facts

    @cached_property
    def vocab_size(self) -> int:
        """The highest id + 1: the number of rows an embedding needs."""
        return max(self._bytes) + 1

    @property
    def separator_id(self) -> int:
        """The id of `<|endoftext|>`, which stands before each document. Raises ValueError if there is none."""
        if DOCUMENT_SEPARATOR not in self.special_tokens:
            raise ValueError(f"this tokenizer has no {DOCUMENT_SEPARATOR}; train it with that special token")
        return self.special_tokens[DOCUMENT_SEPARATOR]

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """The ids after which a text is over: that of `<|endoftext|>`, and the `eos_id` of the model's conventions."""
        ids = self.special_tokens.get(DOCUMENT_SEPARATOR), self.conventions.eos_id
        return frozenset(number for number in ids if number is not None)

    @property
    def start_ids(self) -> tuple[int, ...]:
        """The ids that a text begins with where nothing else stands before it. Raises ValueError if there are none."""
        if self.conventions.before:
            return self.conventions.before
        if DOCUMENT_SEPARATOR not in self.special_tokens and self.conventions.bos_id is not None:
            return (self.conventions.bos_id,)
        return (self.separator_id,)

    def with_conventions(self, conventions: Conventions, special_tokens: dict[str, int] | None = None) -> Tokenizer:
        """The same vocabulary with other conventions, and other special tokens if some are given."""
        v, names = self.vocabulary, self.special_tokens if special_tokens is None else special_tokens
        return Tokenizer(v.tokens, v.merges, names, v.pattern, v.whole_words, v.normal_form, conventions)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token. Raises ValueError for an unknown id."""
        return self.decode_bytes([token_id])

    def count_bytes(self, ids: np.ndarray) -> int:
        """UTF-8 bytes of the text in `ids`; special tokens are no text and count 0. For bits per byte."""
        return int(self._lengths[np.asarray(ids)].sum())

    @cached_property
    def _lengths(self) -> np.ndarray:
        lengths = np.maximum(self._table.sizes, 0)
        lengths[list(self.special_tokens.values())] = 0
        return lengths

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hexadecimal) of all that decides the ids: tokens, merges, special tokens, pattern.

        A checkpoint stores it: two tokenizers with the same digest give the same ids. Unlike the file, it does not
        depend on how the JSON is written.
        """
        content = [
            pattern_text(self.pattern),
            sorted(self.special_tokens.items()),
            sorted((number, token.hex()) for token, number in self.vocabulary.tokens.items()),
            self.merges,
        ]
        if self.vocabulary.whole_words:
            content.append("whole words")
        if self.vocabulary.normal_form:
            content.append(self.vocabulary.normal_form)
        return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode("utf-8")).hexdigest()

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[Any, ...]]:
        """Copies and pickles are made anew: the encoder has memory that only its own numbers point to."""
        v = self.vocabulary
        given = v.tokens, v.merges, self.special_tokens, v.pattern, v.whole_words, v.normal_form, self.conventions
        return type(self), given

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.vocab_size}, merges={len(self.merges)}, pattern={self.pattern!r})"
