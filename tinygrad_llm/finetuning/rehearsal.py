"""What a model says before it is tuned, to be learned along with new examples so that it goes on saying it.

A model that learns short answers to some questions soon gives such answers to all. Its own answers to others, among the
examples, hold it: at first they have no gradient to speak of, as they are what it says anyway. Source: Robins 1995,
"Catastrophic Forgetting, Rehearsal and Pseudorehearsal".
"""

from __future__ import annotations

from collections.abc import Callable

from tinygrad_llm.data import DataError
from tinygrad_llm.data.example_sets import ExampleSet, divided
from tinygrad_llm.generation.answers import answer_prompts
from tinygrad_llm.generation.chat import turn_ends
from tinygrad_llm.generation.loading import Loaded
from tinygrad_llm.tokenizer import ChatTemplate
from tinygrad_llm.training.runs import decoder_of

TOKENS = 64
"""Of an answer, at most: of one that does not end by then, the whole sentences are kept."""

SHARE = 0.1
"""Of the questions that are held out."""

SUBJECTS = (
    *(
        "the moon",
        "bread",
        "a bicycle",
        "the heart",
        "rain",
        "a library",
        "music",
        "gravity",
        "a bank",
        "salt",
        "sleep",
    ),
    *("a computer", "the sun", "coffee", "a bridge", "a map", "the ocean", "winter", "a garden", "a newspaper", "gold"),
    *("a thermometer", "democracy", "a river", "a volcano", "friendship", "electricity", "a clock", "a novel", "honey"),
)
ASKED = (
    "What is {}?",
    "Tell me something about {}.",
    "Write a sentence about {}.",
)


def rehearsal_questions() -> list[str]:
    """Questions about things that everybody knows."""
    return [asked.format(subject) for subject in SUBJECTS for asked in ASKED]


def rehearsal_examples(
    loaded: Loaded, seed: int = 0, progress: Callable[[int, int], None] = lambda done, total: None
) -> ExampleSet:
    """{instruction, output}: general questions, and the likeliest answer of the model. ValueError for a model that
    writes no text or has no chat template; DataError if it ends hardly any sentence."""
    model, tokenizer = decoder_of(loaded)
    template, ends = ChatTemplate.of(tokenizer), frozenset(turn_ends(tokenizer).values())
    questions = rehearsal_questions()
    prompts = [template.encode(tokenizer, [{"role": "user", "content": asked}]) for asked in questions]
    found = answer_prompts(model.eval(), prompts, ends, TOKENS, tokenizer.vocab_size, progress)
    answers = [tokenizer.decode(ids) if len(ids) < TOKENS else whole_sentences(tokenizer.decode(ids)) for ids in found]
    examples = [{"instruction": q, "output": a.strip()} for q, a in zip(questions, answers, strict=True) if a.strip()]
    if len(examples) < 2:
        raise DataError(f"{loaded.path}: the model ended {len(examples)} sentences, asked {len(questions)} questions")
    training, held_out = divided(examples, [example["instruction"] for example in examples], SHARE, seed)
    left = len(questions) - len(examples)
    note = f"the model's own answers; left out are {left} without a whole sentence in {TOKENS} tokens"
    return ExampleSet(training, held_out, [note])


def whole_sentences(text: str) -> str:
    """The text up to the end of its last sentence; nothing if it has none."""
    return text[: max(text.rfind(end) + 1 for end in (". ", "! ", "? ", ".\n"))]
