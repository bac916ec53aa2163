"""Examples from docstrings: what is taken, what is left out, and that nothing is on both sides."""

from collections import Counter

import pytest

from tinygrad_llm.data import DataError
from tinygrad_llm.data.corpus import Docstring
from tinygrad_llm.data.standard_library import (
    FUNCTION,
    OTHER,
    asked,
    contrast_examples,
    described,
    essence,
    first_paragraph,
    module_examples,
    names,
    question_examples,
)

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


def docstring(name, text, head="def"):
    return Docstring(name.rpartition(".")[0] or name, name, f"{head} {name}(x):", text)


def some(module, count, thing="thing"):
    return [docstring(f"{module}.f{n}", f"Return the {thing} number {NUMBERS[n]} here.") for n in range(count)]


@pytest.mark.parametrize(
    ("text", "module", "found"),
    [
        ("Parse an email.", "email", True),
        ("Parse E-Mails.", "email", False),
        ("An EmailMessage.", "email", True),
        ("Recompile this.", "re", False),
        ("A RE pattern.", "re", True),
        ("See re.compile.", "re", True),
        ("re_flags", "re", True),
        ("More.", "re", False),
        ("the abcs", "abc", False),
        ("an ast.AST", "ast", True),
        ("a last one", "ast", False),
    ],
)
def test_whether_a_text_names_its_module(text, module, found):
    assert names(text, module) is found


def test_a_paragraph_in_one_line_and_its_letters():
    assert first_paragraph("\n  Return it\n  as text.\n\nMore.") == "Return it as text."
    assert essence("Return 2 items, as Text_here!") == "return items as text here"


def test_the_largest_modules_without_their_names():
    texts = [
        *some("alpha", 12),
        *some("beta.inner", 8, "part"),
        *some("gamma", 4, "bit"),
        *some("_private", 12, "secret"),
        docstring("alpha.named", "Use the ALPHA channel of it."),
        docstring("alpha.short", "Too short."),
        docstring("alpha.again", "return the THING, number one (here)"),
        docstring("alpha.both", "The same text stands in two modules."),
        docstring("beta.both", "The same text stands in two modules!"),
        docstring("beta.long", "A first paragraph\nof two lines.\n\nAnd beta is named in another."),
    ]
    found = module_examples(2, 0, texts)
    together = found.training + found.held_out
    assert Counter(example["label"] for example in together) == {"alpha": 12, "beta": 9}
    assert {"text": "A first paragraph of two lines.", "label": "beta"} in together
    assert {"text": "Return the thing number one here.", "label": "alpha"} in together
    kept = [essence(example["text"]) for example in together]
    assert len(set(kept)) == len(kept)
    assert not any("same text" in text or "named" in text or "short" in text for text in kept)
    assert Counter(example["label"] for example in found.held_out) == {"alpha": 2, "beta": 2}
    assert found.notes[0] == "left out 1 docstrings that name their own module"
    assert found.notes[1].startswith("left out 2 ")
    assert found.notes[2] == "classes: alpha, beta"
    assert module_examples(2, 0, texts) == found
    assert module_examples(2, 1, texts).held_out != found.held_out
    with pytest.raises(DataError, match="in 3 modules, not in 4"):
        module_examples(4, 0, texts)


def test_what_can_be_asked_for():
    texts = [
        docstring("box", "A module of boxes.", "module"),
        docstring("box.open", "Open the box and look.\n\nAt length."),
        docstring("box.open", "Another one of that name."),
        docstring("box.open.inner", "Defined in a function, which nobody calls."),
        docstring("box._close", "Private, so nobody asks."),
        docstring("box.Box", "What holds the things.", "class"),
        docstring("box.Box.shake", "Shake it\nand hear."),
        docstring("box.Box.__len__", "How many there are in it."),
        docstring("box.Box.x", "short"),
        docstring("box.Box.y", "long " * 50),
        docstring("box.Box.lid", "Return what closes the box.", "async def"),
    ]
    assert [(item.name, item.line, item.is_function, item.module) for item in described(texts)] == [
        ("box", "A module of boxes.", False, "box"),
        ("box.open", "Open the box and look.", True, "box"),
        ("box.Box", "What holds the things.", False, "box"),
        ("box.Box.lid", "Return what closes the box.", True, "box"),
    ]
    for item in described(texts):
        forms = {asked(item, seed) for seed in range(40)}
        assert forms == {form.format(item.name) for form in (FUNCTION if item.is_function else OTHER)}


def test_questions_have_no_answer_on_both_sides():
    texts = [
        *some("alpha", 12),
        *some("beta", 12, "part"),
        docstring("beta.copy", "Return the thing: number ONE here."),
    ]
    found = question_examples(0, texts)
    lines = [{essence(example["output"]) for example in part} for part in found[:2]]
    assert not lines[0] & lines[1]
    assert len(found.training) + len(found.held_out) == 25
    assert len(lines[1]) == 2
    lines_of = {item.name: item.line for item in described(texts)}
    for example in found.training + found.held_out:
        (name,) = [name for name in lines_of if f"`{name}`" in example["instruction"]]
        assert example["output"] == lines_of[name]
    assert question_examples(0, texts) == found
    assert question_examples(1, texts) != found


def test_the_wrong_line_is_of_the_same_module_and_side():
    texts = [*some("alpha", 12), *some("beta", 12, "part"), docstring("beta.copy", "Return the part: number ONE here.")]
    texts.append(docstring("gamma.alone", "There is nothing beside this one."))
    found, questions = contrast_examples(0, texts), question_examples(0, texts)
    assert len(found.training) > 18
    assert found.notes == [
        f"left out {26 - len(found.training) - len(found.held_out)} lines that have no other beside them"
    ]
    for part, asked_part in zip(found[:2], questions[:2], strict=True):
        right = {example["instruction"]: example["output"] for example in asked_part}
        module_of = {line: ask.split("`")[1].split(".")[0] for ask, line in right.items()}
        for example in part:
            assert right[example["prompt"]] == example["chosen"]
            assert essence(example["rejected"]) != essence(example["chosen"])
            assert module_of[example["rejected"]] == module_of[example["chosen"]] != "gamma"
    assert len({example["rejected"] for example in found.training}) > 5
    assert contrast_examples(0, texts) == found


def test_the_real_library_can_be_used():
    found = module_examples(10)
    labels = {example["label"] for example in found.training}
    assert len(labels) == 10
    assert labels == {example["label"] for example in found.held_out}
    assert not any(names(example["text"], example["label"]) for example in found.training + found.held_out)
    texts = [{essence(example["text"]) for example in part} for part in found[:2]]
    assert not texts[0] & texts[1]
    assert len(found.held_out) > 100
