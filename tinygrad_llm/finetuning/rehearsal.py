"""What a model says before it is tuned, to be learned along with new examples so that it goes on saying it.

A model that learns short answers to some questions soon gives such answers to all. Its own answers to others, among the
examples, hold it: at first they have no gradient to speak of, as they are what it says anyway. Source: Robins 1995,
"Catastrophic Forgetting, Rehearsal and Pseudorehearsal".
"""

from __future__ import annotations

from collections.abc import Callable

from tinygrad_llm.data import DataError
from tinygrad_llm.data.general_questions import REHEARSED
from tinygrad_llm.generation.answers import answer_prompts
from tinygrad_llm.generation.chat import turn_ends
from tinygrad_llm.generation.loading import Loaded
from tinygrad_llm.tokenizer import ChatTemplate
from tinygrad_llm.training.runs import decoder_of

TOKENS = 64
"""Of an answer, at most: of one that does not end by then, the whole sentences are kept."""


def rehearsal_examples(
    loaded: Loaded, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[dict[str, str]]:
    """{instruction, output}: the questions REHEARSED, and the model's likeliest answers; without those that have no
    whole sentence. ValueError for a model that writes no text or has no chat template; DataError if none is left."""
    model, tokenizer = decoder_of(loaded)
    template, ends = ChatTemplate.of(tokenizer), frozenset(turn_ends(tokenizer).values())
    prompts = [template.encode(tokenizer, [{"role": "user", "content": asked}]) for asked in REHEARSED]
    found = answer_prompts(model.eval(), prompts, ends, TOKENS, tokenizer.vocab_size, progress)
    answers = [tokenizer.decode(ids) if len(ids) < TOKENS else whole_sentences(tokenizer.decode(ids)) for ids in found]
    examples = [{"instruction": q, "output": a.strip()} for q, a in zip(REHEARSED, answers, strict=True) if a.strip()]
    if not examples:
        raise DataError(f"{loaded.path}: the model ended no sentence in {TOKENS} tokens, asked {len(REHEARSED)} times")
    return examples


def whole_sentences(text: str) -> str:
    """The text up to the end of its last sentence; nothing if it has none."""
    return text[: max(text.rfind(end) + 1 for end in (". ", "! ", "? ", ".\n"))]
