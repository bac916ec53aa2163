"""Conversations as text and as ids: ChatML, and the Jinja template that comes with a model.

A conversation is a list of messages, ``{"role": "user", "content": "Hello"}``. A template makes one text of it, in
which special tokens tell who speaks, and where a message ends. What a user writes is a stranger's text: "<|im_end|>" in
a message must not end it. So `ChatTemplate.encode` never looks for special tokens in what messages say:

1. In all texts of the conversation each character that stands in the name of any special token is replaced by a
   stand-in: a character that nothing else here uses.
2. The template is rendered with these texts. It may move them, cut white space off, repeat them.
3. The names of special tokens are looked for in the result. Whatever is found, the template wrote itself, for texts
   of messages no longer have a character that could be part of a name.
4. Between the names, stand-ins become the characters they stand for, and what results is encoded as ordinary text: in
   one piece with the template's own words, so that the ids are those of the whole text.

Plain words (letters, digits, _ and -) outside of what is said are left as they are, because templates compare them
(a role, the type of a tool). A template may put signs around a role, as in "<|" + role + "|>": whoever chooses roles is
trusted. A template that looks for marks inside of messages (as some do for "</think>") does not find those that are
names of special tokens.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinygrad_llm.tokenizer.special_names import any_of

if TYPE_CHECKING:
    from tinygrad_llm.tokenizer.bpe import Tokenizer

Message = Mapping[str, Any]

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""OpenAI's ChatML, which many models were tuned with."""

_SAID = "content", "text", "instruction", "input"
"""Keys of what is said, where a plain word is hidden too."""

_PLAIN_WORD = re.compile(r"[A-Za-z0-9_-]*")
_STAND_INS = range(0x100000, 0x10FFFE)  # for private use: no text means anything by them


class Answered(NamedTuple):
    """A conversation as ids (n,), int32, and which of them (n,), boolean, are answers."""

    ids: np.ndarray
    answers: np.ndarray


class ChatTemplate:
    """A template, compiled; and the names of special tokens that it may ask for, as `bos_token`."""

    def __init__(self, source: str = CHATML, names: Mapping[str, str] | None = None) -> None:
        """`source` is Jinja, run in a sandbox: it may come from a stranger, too. Raises ValueError if it is none."""
        from jinja2 import TemplateSyntaxError  # slow to import, and only needed here

        self.source, self.names = source, dict(names or {})
        try:
            self._template = _environment().from_string(source)
        except TemplateSyntaxError as error:
            raise ValueError(f"chat template, line {error.lineno}: {error.message}") from None

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> ChatTemplate:
        """The template that came with a tokenizer; ChatML if none did, but its special tokens are there.

        Raises ValueError if neither is so.
        """
        conventions = tokenizer.conventions
        source = conventions.chat_template
        if source is None:
            if not {"<|im_start|>", "<|im_end|>"} <= tokenizer.special_tokens.keys():
                raise ValueError(
                    "this tokenizer came without a chat template, and lacks the special tokens <|im_start|> and "
                    "<|im_end|> of ChatML: its model was not made for conversations"
                )
            source = CHATML
        name_of = {number: name for name, number in tokenizer.special_tokens.items()}
        ids = {"bos_token": conventions.bos_id, "eos_token": conventions.eos_id}
        return cls(source, {key: name_of[number] for key, number in ids.items() if number in name_of})

    def render(self, messages: Iterable[Message], add_generation_prompt: bool = True, **variables: Any) -> str:
        """The conversation as one text; `add_generation_prompt` begins the assistant's answer at its end.

        `variables` are what the template may ask for besides, as `tools`. To have ids, use `encode`: in this text a
        special token can no longer be told from a message that has its name. Raises ValueError if the template refuses
        the conversation or fails.
        """
        return self._render(_checked(messages), variables, add_generation_prompt)

    def encode(
        self,
        tokenizer: Tokenizer,
        messages: Iterable[Message],
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> np.ndarray:
        """The ids of the conversation, int32; only what the template itself writes becomes a special token.

        Raises ValueError as `render`, and for a lone surrogate in a message.
        """
        conversation = _checked(messages)
        hiding = _Hiding(tokenizer, self.source, [conversation, variables])
        given = hiding.hidden(conversation), hiding.hidden(variables)
        return hiding.ids(self._render(*given, add_generation_prompt))

    def encode_answers(
        self, tokenizer: Tokenizer, messages: Iterable[Message], ends: Collection[str], **variables: Any
    ) -> Answered:
        """The ids of a conversation, and which of them are answers: what an assistant says, and the token that ends it.

        An answer begins where the template, given what was said before, asks for one (`add_generation_prompt`), and
        ends with the next of the special tokens `ends`; with the last one the ids end too. It is encoded by itself, as
        it will be written: token by token after the ids that `encode` gives for what stands before it. An earlier
        answer that the template does not repeat as it was said (some leave out what was thought) does not count as one.
        Raises ValueError as `encode`, and if the last answer is not found, or nothing ends it.
        """
        conversation = _checked(messages)
        hiding = _Hiding(tokenizer, self.source, [conversation, variables])
        said, others = hiding.hidden(conversation), hiding.hidden(variables)
        whole = self._render(said, others, False)
        parts: list[np.ndarray] = []
        lengths: list[int] = []
        done = 0
        for number, message in enumerate(conversation):
            if message["role"] != "assistant":
                continue
            before = self._render(said[:number], others, True)
            fits = len(before) >= done and whole.startswith(before)
            end = hiding.end_of(ends, whole, len(before))
            if fits and end:
                parts += [hiding.ids(whole[done : len(before)]), hiding.ids(whole[len(before) : end])]
                lengths += [len(parts[-2]), len(parts[-1])]
                done = end
            elif number == len(conversation) - 1:
                fault = "nothing ends the answer" if fits else "the answer does not stand where one is asked for"
                raise ValueError(f"chat template: {fault}, so that it cannot be learned")
        if not parts:
            raise ValueError("chat template: no assistant says anything in this conversation")
        return Answered(np.concatenate(parts), np.repeat(np.arange(len(lengths)) % 2 == 1, lengths))

    def _render(self, messages: Any, variables: Mapping[str, Any], add_generation_prompt: bool) -> str:
        from jinja2 import TemplateError

        values = {"tools": None, "documents": None, **self.names, **variables}
        try:
            return self._template.render(messages=messages, add_generation_prompt=add_generation_prompt, **values)
        except TemplateError as error:
            raise ValueError(f"chat template: {error.message or type(error).__name__}") from None
        except (TypeError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
            raise ValueError(f"chat template: {type(error).__name__}: {error}") from None


class _Hiding:
    """Stand-ins for the texts of one conversation, and the way back from what a template made of them."""

    def __init__(self, tokenizer: Tokenizer, source: str, given: Any) -> None:
        names = list(tokenizer.special_tokens)
        self.tokenizer, self.pattern = tokenizer, any_of(frozenset(names)) if names else None
        self.table = _stand_ins(names, [source, *_texts(given), *_keys(given)])
        self.back = {ord(stand_in): chr(code) for code, stand_in in self.table.items()}
        for key in _keys(given):
            if self.pattern is not None and (found := self.pattern.search(key)):
                raise ValueError(
                    f"the key {key!r} holds the special token {found[0]!r}; keys are not to be a stranger's"
                )

    def hidden(self, value: Any) -> Any:
        """The value with each text in it hidden."""
        return _replaced(value, self._hide)

    def _hide(self, text: str, is_content: bool) -> str:
        named = self.pattern is not None and self.pattern.search(text) is not None
        return text if not (is_content or named) and _PLAIN_WORD.fullmatch(text) else text.translate(self.table)

    def ids(self, text: str) -> np.ndarray:
        """Of a text that the template made, or of a part of it that cuts no name."""
        parts = []
        for piece in self.pattern.split(text) if self.pattern else [text]:
            if piece in self.tokenizer.special_tokens:
                parts.append(np.array([self.tokenizer.special_tokens[piece]], np.int32))
            elif piece:
                parts.append(self.tokenizer.encode(piece.translate(self.back), disallowed_special=()))
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)

    def end_of(self, names: Collection[str], text: str, begin: int) -> int:
        """The place after the first of some special tokens from `begin` on; 0 if there is none."""
        found = any_of(frozenset(names)).search(text, begin) if names else None
        return found.end() if found else 0


def _environment() -> Any:
    """Jinja as `transformers` sets it up, so that the same templates give the same text."""
    from jinja2 import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.nodes import Scope
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, indent: int | None = None, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent, **options)  # jinja2's own escapes for HTML

    class Generation(Extension):
        """``{% generation %}`` marks what an assistant said, for training; it writes nothing."""

        tags = {"generation"}  # noqa: RUF012 (so jinja2 wants it)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    extensions = [loopcontrols, Generation]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment


def _checked(messages: Iterable[Message]) -> list[dict[str, Any]]:
    listed = isinstance(messages, Iterable) and not isinstance(messages, str | Mapping)
    conversation = list(messages) if listed else []
    if not listed or not all(isinstance(message, Mapping) for message in conversation):
        raise TypeError('a conversation is a list of messages, [{"role": "user", "content": "..."}]')
    for number, message in enumerate(conversation):
        role = message.get("role")
        if not isinstance(role, str) or not role or not _PLAIN_WORD.fullmatch(role):
            raise ValueError(f"message {number} has the role {role!r}, not a plain word as user or assistant")
        if message.get("content") is None and not message.get("tool_calls"):
            raise ValueError(f"message {number} has no content")
    return [dict(message) for message in conversation]


def _texts(value: Any) -> list[str]:
    """All texts anywhere in a value, without the keys of tables."""
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, Sequence) else ()
    return [text for item in items for text in _texts(item)]


def _keys(value: Any) -> list[str]:
    """The keys of all tables anywhere in a value."""
    if isinstance(value, str):
        return []
    own = [str(key) for key in value] if isinstance(value, Mapping) else []
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, Sequence) else ()
    return own + [key for item in items for key in _keys(item)]


def _replaced(value: Any, hide: Any, is_content: bool = False) -> Any:
    """The value with each text in it hidden."""
    if isinstance(value, str):
        return hide(value, is_content)
    if isinstance(value, Mapping):
        return {key: _replaced(item, hide, key in _SAID) for key, item in value.items()}
    return [_replaced(item, hide, is_content) for item in value] if isinstance(value, Sequence) else value


def _stand_ins(names: Iterable[str], texts: Iterable[str]) -> dict[int, str]:
    """For each character of the names one that stands in no text; white space stays, for templates cut it off."""
    used = set().union(*texts) if texts else set()
    free = (chr(code) for code in _STAND_INS if chr(code) not in used)
    characters = sorted({char for name in names for char in name if not char.isspace() or name.isspace()})
    return {ord(char): next(free) for char in characters}
