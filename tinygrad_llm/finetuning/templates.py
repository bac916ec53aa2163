"""How an instruction and its answer are written, and which of its tokens are to be learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from rich.console import Console

from tinygrad_llm.data.dialogues import Dialogue
from tinygrad_llm.generation.chat import turn_ends
from tinygrad_llm.generation.loading import Loaded
from tinygrad_llm.models import Decoder
from tinygrad_llm.tape import Array
from tinygrad_llm.tokenizer import ChatTemplate, Tokenizer
from tinygrad_llm.tokenizer.chat_templates import CHATML
from tinygrad_llm.training.runs import decoder_of

if TYPE_CHECKING:
    from tinygrad_llm.finetuning.dpo_config import DpoConfig
    from tinygrad_llm.finetuning.instruct_config import InstructConfig

TemplateName = Literal["auto", "own", "alpaca", "chatml"]

ALPACA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}"
    "{% else %}Below is an instruction that describes a task"
    "{% if messages[0]['input'] %}, paired with an input that provides further context{% endif %}. "
    "Write a response that appropriately completes the request.{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}"
    "{{ '\n\n### Instruction:\n' }}"
    "{% if message['input'] %}{{ message['instruction'] + '\n\n### Input:\n' + message['input'] }}"
    "{% else %}{{ message['content'] }}{% endif %}"
    "{% elif message['role'] == 'assistant' %}{{ '\n\n### Response:\n' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\n### Response:\n' }}{% endif %}"
)
"""Alpaca's two prompts, with and without an input, and further turns in the same way; a system's message stands in the
place of the first sentences. It needs no special tokens but those that begin and end a text. Source: Taori et al. 2023,
https://github.com/tatsu-lab/stanford_alpaca, with the line end before the answer that alpaca-lora has."""

CHATML_TOKENS = "<|im_start|>", "<|im_end|>"


class Encoded(NamedTuple):
    """A dialogue as ids (n,), which of them are answers (n,), and how many stand before the last answer."""

    ids: Array
    answers: Array
    prompt: int


def has_template(tokenizer: Tokenizer) -> bool:
    """Whether it came with a chat template, or with the special tokens of ChatML."""
    return tokenizer.conventions.chat_template is not None or set(CHATML_TOKENS) <= tokenizer.special_tokens.keys()


def with_template(tokenizer: Tokenizer, name: TemplateName) -> Tokenizer:
    """A tokenizer to which the template belongs, so that it is saved and found with it.

    own: the one that came with it; alpaca; chatml, whose tokens are added if they are missing; auto: its own if there
    is one, else alpaca. ValueError if there is none of its own.
    """
    if name == "own" or (name == "auto" and has_template(tokenizer)):
        if not has_template(tokenizer):
            raise ValueError("--template own: the model came without a chat template; take alpaca or chatml")
        return tokenizer
    conventions, names = tokenizer.conventions, dict(tokenizer.special_tokens)
    if name == "chatml":
        for number, token in enumerate(token for token in CHATML_TOKENS if token not in tokenizer.special_tokens):
            names[token] = tokenizer.vocab_size + number
        conventions = conventions._replace(chat_template=CHATML, eos_id=names["<|im_end|>"])
    else:
        ends = min(tokenizer.end_ids, default=None) if conventions.eos_id is None else conventions.eos_id
        if ends is None:
            raise ValueError("--template alpaca: the tokenizer has no token that ends a text; take chatml")
        starts = conventions.bos_id if conventions.bos_id is not None else tokenizer.start_ids[0]
        conventions = conventions._replace(chat_template=ALPACA, eos_id=ends, bos_id=starts)
    return tokenizer.with_conventions(conventions, names)


def fitted_decoder(config: InstructConfig | DpoConfig, loaded: Loaded) -> tuple[Decoder, Tokenizer, int]:
    """The model, a tokenizer to which the template belongs, and the count of tokens that were added for it to both.

    ValueError for a model that writes no text, for a context that it does not have, and for tokens to be added to a
    model of which they could not be trained.
    """
    model, known = decoder_of(loaded)
    if config.context > model.config.context:
        raise ValueError(f"--context {config.context:,}: the model takes {model.config.context:,} tokens")
    tokenizer = with_template(known, config.template)
    if added := tokenizer.vocab_size - known.vocab_size:
        if config.lora or config.blocks != -1:
            raise ValueError(
                f"--template {config.template} adds tokens to this model, which only the training of all weights can "
                "teach it; leave out --lora and --blocks, or take --template alpaca"
            )
        model.add_tokens(known.vocab_size, added)
    return model, tokenizer, added


def tell_template(tokenizer: Tokenizer, added: int, console: Console) -> None:
    """What a prompt looks like."""
    example = ChatTemplate.of(tokenizer).render([{"role": "user", "content": "..."}])
    console.print(f"template    {example!r}" + (f"; {added} tokens are added to the model" if added else ""))


def encode_dialogues(
    tokenizer: Tokenizer,
    dialogues: Sequence[Dialogue],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Encoded]:
    """Each as the tokenizer's template writes it. ValueError if the template fails."""
    template, ends = ChatTemplate.of(tokenizer), frozenset(turn_ends(tokenizer))
    encoded = []
    for number, dialogue in enumerate(dialogues, 1):
        ids, answers = template.encode_answers(tokenizer, dialogue.messages, ends)
        encoded.append(Encoded(ids, answers, int(np.flatnonzero(~answers)[-1]) + 1))
        progress(number, len(dialogues))
    return encoded
