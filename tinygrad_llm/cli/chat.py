"""``tinygrad-llm chat``."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from tinygrad_llm.cli.arguments import Threads, use_threads
from tinygrad_llm.cli.console import plain_console
from tinygrad_llm.generation import Sampling
from tinygrad_llm.generation.chat import Conversation
from tinygrad_llm.generation.loading import load_pretrained
from tinygrad_llm.memory import keep_freed_memory
from tinygrad_llm.training import WeightKind, rounded

HELP = "/reset begins anew, /exit or Ctrl-D ends, Ctrl-C stops an answer"


@dataclass(frozen=True, kw_only=True)
class ChatSampling(Sampling):
    """`Sampling` with defaults that suit a small model's answers."""

    temperature: float = 0.5
    """Divides the logits: below 1 safer, above 1 wilder, 0 always takes the likeliest token."""
    top_p: float = 0.9
    """Keep the likeliest tokens that together reach this probability."""


def chat(
    model: str,
    *,
    system: str = "",
    max_tokens: Annotated[int, Parameter(validator=Number(gte=1))] = 512,
    seed: int = 0,
    weights: WeightKind = "float32",
    threads: Threads = None,
    sampling: Annotated[ChatSampling, Parameter(name="*")] = ChatSampling(),
) -> int:
    """Talk with a model that was tuned for conversations.

    Reads one message a line, from the keyboard or from a file; "/reset" begins anew, "/exit" ends. Ctrl-C stops an
    answer and not the program.

    Parameters
    ----------
    model
        Hugging Face folder, GGUF file, or smollm2 for the package's model.
    system
        What the model is told before the conversation.
    max_tokens
        Tokens of an answer at most.
    seed
        Decides the draws: the same seed and the same messages give the same answers.
    weights
        Bits of a weight: fewer are faster, and change the text a little (int8) or more (int4).
    """
    use_threads(threads)
    keep_freed_memory()
    console = plain_console(stderr=True)
    network, tokenizer = rounded(load_pretrained(model, packed=weights == "float32"), weights, console)
    conversation = Conversation(network, tokenizer, sampling, system, max_tokens, seed)
    typed = sys.stdin.isatty()
    if typed:
        with contextlib.suppress(ImportError):  # Windows has none
            import readline  # noqa: F401 - arrow keys and earlier messages

        console.print(HELP)
    while (text := _message(typed)) is not None:
        if text == "/exit":
            break
        if text == "/reset":
            conversation.reset()
            console.print("(a new conversation)")
        elif text.startswith("/"):
            console.print(f"unknown command {text.split()[0]}; {HELP}")
        elif text:
            _answer(conversation, text)
    return 0


def _message(typed: bool) -> str | None:
    """The next line, without white space around it; None at the end."""
    try:
        if typed:
            return input("> ").strip()
        line = sys.stdin.readline()
        return line.strip() if line else None
    except EOFError:
        print()
        return None


def _answer(conversation: Conversation, text: str) -> None:
    """Print the answer as it comes; Ctrl-C stops it."""
    try:
        for piece in conversation.answer(text):
            sys.stdout.write(piece)
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stdout.write(" [stopped]")
    except ValueError as error:  # a message that is too long is no reason to end
        plain_console(stderr=True).print(str(error))
    print()
