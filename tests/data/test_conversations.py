"""Conversations from files laid out as those of the package, and from the package itself."""

import sys
from importlib.metadata import PackageNotFoundError, distribution

import pytest

from tinygrad_llm.data import DataError
from tinygrad_llm.data.conversations import conversation_examples

HEAD = "categories:\n- some\nconversations:\n"


@pytest.fixture
def folder(tmp_path):
    pytest.importorskip("yaml", reason="pyyaml is not installed: pip install pyyaml")
    first = [f"- - Question {n}\n  - Answer {n}\n" for n in range(10)]
    first += ["- - question 1\n  - Another answer\n", "- - Question 2\n  - Answer  2\n"]
    second = [
        "- - Hello\n  - Hi\n  - How are you?\n  - Fine\n  - Good\n",
        '- - "Is it: so?"\n  - |\n    Yes.\n\n    It is.\n',
        "- - Nobody answers\n",
        "- - 1\n  - 2\n",
        "- unlisted\n",
    ]
    (tmp_path / "b.yml").write_text(HEAD + "".join(second), encoding="utf-8")
    (tmp_path / "a.yml").write_text(HEAD + "".join(first), encoding="utf-8")
    (tmp_path / "c.txt").write_text("no YAML", encoding="utf-8")
    return tmp_path


def said(example):
    return [message["content"] for message in example["messages"]]


def test_turns_become_messages(folder):
    found = conversation_examples(0, folder)
    examples = found.training + found.held_out
    assert len(examples) == 13
    for example in examples:
        assert [message["role"] for message in example["messages"]] == ["user", "assistant"] * (len(said(example)) // 2)
    together = [said(example) for example in examples]
    assert ["Hello", "Hi", "How are you?", "Fine"] in together
    assert ["Is it: so?", "Yes.\n\nIt is."] in together
    assert ["Question 1", "Answer 1"] in together
    assert found.notes == [
        "left out 1 repetitions",
        "left out 1 last words that nobody answers, and 3 that are no conversations",
    ]


def test_a_question_is_on_one_side_with_all_its_answers(folder):
    sides = set()
    for seed in range(30):
        found = conversation_examples(seed, folder)
        asked = [{said(example)[0].lower() for example in part} for part in found[:2]]
        assert not asked[0] & asked[1]
        sides.add("question 1" in asked[1])
        assert conversation_examples(seed, folder) == found
    assert sides == {True, False}


@pytest.mark.parametrize("text", ["a: [", "categories:\n- x\n", "- - a\n  - b\n", "conversations: 3\n"])
def test_a_file_that_cannot_be_read(folder, text):
    (folder / "bad.yml").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"bad\.yml: has no conversations that can be read"):
        conversation_examples(0, folder)


def test_packages_that_are_missing_are_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(FileNotFoundError, match="pip install pyyaml"):
        conversation_examples(0, folder)

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("tinygrad_llm.data.packages.distribution", missing)
    with pytest.raises(FileNotFoundError) as error:
        conversation_examples()
    assert "pip install --no-deps chatterbot-corpus==1.3.3 && pip install pyyaml" in str(error.value)


def test_the_package_itself():
    pytest.importorskip("yaml", reason="pyyaml is not installed: pip install pyyaml")
    try:
        distribution("chatterbot-corpus")
    except PackageNotFoundError:
        pytest.skip("chatterbot-corpus is not installed: pip install --no-deps chatterbot-corpus==1.3.3")
    found = conversation_examples()
    assert len(found.training) > 500
    assert len(found.held_out) > 50
    asked = [{said(example)[0].lower() for example in part} for part in found[:2]]
    assert not asked[0] & asked[1]
