"""``tinygrad-llm dataset``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console

from tinygrad_llm.cli.console import plain_console
from tinygrad_llm.data.conversations import conversation_examples
from tinygrad_llm.data.example_sets import ExampleSet, write_examples
from tinygrad_llm.data.general_questions import ASKED
from tinygrad_llm.data.inflections import inflection_examples, wrong_inflection_examples
from tinygrad_llm.data.standard_library import contrast_examples, module_examples, question_examples
from tinygrad_llm.files import atomic_write
from tinygrad_llm.finetuning.rehearsal import rehearsal_examples
from tinygrad_llm.generation.loading import load_pretrained
from tinygrad_llm.study.lookup import refuse_existing
from tinygrad_llm.training.progress import counting, waiting

Name = Literal["docstrings", "questions", "inflections", "conversations", "preferences", "rehearsal"]

KINDS = {"docstrings": "classify", "preferences": "dpo"}
"""What the others are not for: finetune instruct."""

CLASSES, SHOWN = 10, 3


def dataset(
    name: Name,
    *,
    out: Path,
    held_out: Path | None = None,
    classes: Annotated[int | None, Parameter(validator=Number(gte=2), show_default=False)] = None,
    of: Annotated[Literal["questions", "inflections"] | None, Parameter(show_default=False)] = None,
    model: Annotated[str, Parameter(show_default=False)] = "",
    seed: int = 0,
    force: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Write examples to fine-tune on, as JSON lines, from what is on the machine: answers that can be checked.

    docstrings: text of the standard library, and the module it is from. questions: what something of it does, and the
    first line of its docstring. inflections (package lemminflect): past tenses, plurals ..., with one right answer.
    conversations (package chatterbot-corpus): what is said in turns. preferences: a question, a right and a wrong
    answer. rehearsal: what a model answers to questions of all kinds, to be learned along with other examples so that
    it does not forget how to; and other questions, to see whether it does.

    Parameters
    ----------
    name
        What the examples are.
    out
        File of the examples to train on.
    held_out
        File of others to measure with; by default beside it, as questions-held-out.jsonl beside questions.jsonl. Of
        rehearsal, of questions: keep-questions.txt beside keep.jsonl.
    classes
        docstrings: of so many modules, those that have the most; by default 10.
    of
        preferences: of questions, where the wrong answer is the line of something else, or of inflections, where it is
        a wrong form, as "goed"; by default questions.
    model
        rehearsal: whose answers; a folder, a GGUF file, or smollm2.
    seed
        Decides what is chosen, and what is held out.
    force
        Replace files that exist.
    """
    if classes is not None and name != "docstrings":
        raise ValueError(f"--classes is for docstrings, not for {name}; leave it out")
    if of is not None and name != "preferences":
        raise ValueError(f"--of is for preferences, not for {name}; leave it out")
    if bool(model) != (name == "rehearsal"):
        raise ValueError("--model is for rehearsal, which needs it: a folder, a GGUF file, or smollm2")
    ending = "questions.txt" if model else f"held-out{out.suffix}"
    measured = held_out or out.with_name(f"{out.stem}-{ending}")
    if measured.absolute() == out.absolute():
        raise ValueError(f"{out}: the examples that are held out need a file of their own")
    for file in (out, measured):
        refuse_existing(file, force)
    console = plain_console()
    if model:
        _rehearsal(model, out, measured, console)
        return 0
    with waiting(plain_console(stderr=True), f"making {name}"):
        found = _made(name, classes or CLASSES, of or "questions", seed)
    for file, examples in ((out, found.training), (measured, found.held_out)):
        write_examples(file, examples)
    for note in found.notes:
        console.print(note)
    console.print(
        f"wrote {out}: {len(found.training):,} examples to train on; {measured}: {len(found.held_out):,} more"
    )
    _show(found.training, console)
    kind, files = KINDS.get(name, "instruct"), (shlex.quote(str(file)) for file in (out, measured))
    console.print("next  tinygrad-llm finetune {} MODEL --data {} --validation-data {}".format(kind, *files))
    return 0


def _rehearsal(model: str, out: Path, questions: Path, console: Console) -> None:
    """Write a model's answers to the questions that are rehearsed, and others that are not."""
    with counting(plain_console(stderr=True), f"asking {model}") as progress:
        found = rehearsal_examples(load_pretrained(model), progress)
    write_examples(out, found)
    atomic_write(questions, "".join(f"{question}\n" for question in ASKED).encode())
    console.print(f"wrote {out}: {len(found):,} answers of the model; {questions}: {len(ASKED)} questions more")
    _show(found, console)
    files = shlex.quote(str(out)), shlex.quote(str(questions))
    console.print(
        "next  tinygrad-llm finetune instruct {} --data FILE --rehearsal {} --questions {}".format(model, *files)
    )


def _show(examples: Sequence[dict[str, Any]], console: Console) -> None:
    for example in examples[:SHOWN]:
        console.print(f"  {json.dumps(example, ensure_ascii=False)}")


def _made(name: Name, classes: int, of: str, seed: int) -> ExampleSet:
    match name:
        case "docstrings":
            return module_examples(classes, seed)
        case "questions":
            return question_examples(seed)
        case "inflections":
            return inflection_examples(seed)
        case "conversations":
            return conversation_examples(seed)
    return wrong_inflection_examples(seed) if of == "inflections" else contrast_examples(seed)
