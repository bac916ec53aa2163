"""What a tokenizer is made of, whatever file it stands in."""

from __future__ import annotations

from typing import NamedTuple


class Conventions(NamedTuple):
    """What a model expects around its text. Encoding adds none of it by itself.

    `before` and `after` are the ids it saw before and after each text in training: a model like Llama 3 wants
    ``[*before, *tokenizer.encode(text), *after]``. `bos_id` and `eos_id` are the ids that begin and end a sequence,
    `chat_template` is the Jinja text that makes one text of a conversation (see `chat_templates`).
    """

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    bos_id: int | None = None
    eos_id: int | None = None
    chat_template: str | None = None


class Parts(NamedTuple):
    """What a tokenizer is made of: the arguments of `Tokenizer`."""

    tokens: dict[bytes, int]
    merges: list[tuple[int, int]]
    special_tokens: dict[str, int]
    pattern: str
    whole_words: bool = False
    normal_form: str = ""
    conventions: Conventions = Conventions()


class Given(NamedTuple):
    """What the caller of `Tokenizer.load` says of a file that cannot say it itself."""

    pattern: str | None = None
    special_tokens: dict[str, int] | None = None
