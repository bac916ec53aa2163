"""``tinygrad-llm generate``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from tinygrad_llm.cli.arguments import Threads, use_threads
from tinygrad_llm.cli.console import plain_console
from tinygrad_llm.generation import Sampling, generate_text
from tinygrad_llm.generation.filling import fill_gaps, unmasked
from tinygrad_llm.generation.loading import Loaded, find_model, load_network, load_pretrained
from tinygrad_llm.generation.pronunciation import pronounce
from tinygrad_llm.memory import keep_freed_memory
from tinygrad_llm.models import T5, Bert, RecurrentEncoderDecoder
from tinygrad_llm.tokenizer import Tokenizer
from tinygrad_llm.training import WeightKind, load_run, rounded


@dataclass(frozen=True, kw_only=True)
class TextSampling(Sampling):
    """`Sampling` with defaults that suit text: each option by itself leaves the others as they are."""

    temperature: float = 0.8
    """Divides the logits: below 1 safer, above 1 wilder, 0 always takes the likeliest token."""
    top_p: float = 0.95
    """Keep the likeliest tokens that together reach this probability."""


def generate(
    model: str,
    *,
    prompt: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = ("",),
    max_tokens: Annotated[int, Parameter(validator=Number(gte=0))] = 200,
    seed: int = 0,
    beams: Annotated[int, Parameter(validator=Number(gte=0))] = 0,
    stop: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = (),
    cache: bool = True,
    draft: str | None = None,
    weights: WeightKind = "float32",
    threads: Threads = None,
    sampling: Annotated[TextSampling, Parameter(name="*")] = TextSampling(),
) -> int:
    """Continue a prompt with a trained model, or fill the gaps in it.

    A t5 fills the gaps <1>, <2> ... of a prompt, a bert puts words in the place of each [MASK], and g2p says how the
    words of a prompt are spoken.

    Parameters
    ----------
    model
        Folder that tinygrad-llm train wrote, Hugging Face folder, GGUF file, or smollm2 or g2p for the package's model.
    prompt
        Text to continue; given several times, all are continued as one batch. Empty: the beginning of a document.
    max_tokens
        Tokens to add at most.
    seed
        Decides the draws: the same seed gives the same text.
    beams
        For a t5 and g2p: search for the most probable answer with a beam so wide, instead of sampling.
    stop
        End before this text; may be given several times.
    cache
        Keep keys and values of earlier tokens; without it, the same text takes longer.
    draft
        A smaller model with the same tokenizer, which runs ahead: faster where it guesses well, and the same text at
        temperature 0, or else text of the same distribution.
    weights
        Bits of a weight: fewer are faster, and change the text a little (int8) or more (int4).
    """
    use_threads(threads)
    keep_freed_memory()
    if find_model(model).suffix == ".npz":
        print(_spoken(model, prompt, max_tokens, beams))
        return 0
    loaded = load_pretrained(model, packed=weights == "float32")
    if isinstance(loaded.model, (T5, Bert)):
        for text in prompt:
            print(_filled(loaded, text, max_tokens, sampling, seed, beams))
        return 0
    network, tokenizer = rounded(loaded, weights, plain_console(stderr=True))
    runner = None
    if draft is not None:
        runner, its_own = load_run(draft)
        if its_own.digest != tokenizer.digest:
            raise ValueError(f"{draft}: has another tokenizer than {model}; a draft needs the same")
    single = len(prompt) == 1

    def show(row: int, text: str) -> None:
        if single:
            sys.stdout.write(text)
            sys.stdout.flush()

    show(0, prompt[0])
    texts = generate_text(network, tokenizer, prompt, max_tokens, sampling, seed, cache, stop, show, runner)
    if single:
        print()
    else:
        for number, (start, text) in enumerate(zip(prompt, texts, strict=True)):
            print(f"--- {number} ---\n{start}{text}")
    return 0


def _spoken(name: str, prompts: tuple[str, ...], max_tokens: int, beams: int) -> str:
    """A line of phonemes for each prompt, two spaces between its words. The likeliest, without sampling."""
    model = load_network(find_model(name))
    assert isinstance(model, RecurrentEncoderDecoder)
    if not any(prompt.split() for prompt in prompts):
        raise ValueError(f"{name}: there are no words to speak; give some with --prompt")
    spoken = (pronounce(model, prompt.split(), max_tokens, beams) for prompt in prompts)
    return "\n".join("  ".join(" ".join(phonemes) for phonemes in words) for words in spoken)


def _filled(loaded: Loaded, text: str, max_tokens: int, sampling: Sampling, seed: int, beams: int) -> str:
    """What a model says to a text that it does not go on with."""
    model, tokenizer = loaded.model, loaded.tokenizer
    if isinstance(model, Bert):
        return unmasked(model, tokenizer, text)
    assert isinstance(model, T5)
    assert isinstance(tokenizer, Tokenizer)
    return fill_gaps(model, tokenizer, text, max_tokens, sampling, seed, beams)
