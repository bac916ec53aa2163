"""Instructions and conversations from files: every form, every fault with its line, no prompt on both sides."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.data import DataError
from tinygrad_llm.data.dialogues import (
    Dialogue,
    distinct_dialogues,
    plain_messages,
    read_dialogues,
    split_dialogues,
    without_prompts_of,
)


def user(text):
    return {"role": "user", "content": text}


def said(text):
    return {"role": "assistant", "content": text}


def dialogue(prompt, answer):
    return Dialogue((user(prompt), said(answer)))


def read(tmp_path, text, name="data.json"):
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return read_dialogues(file)


ALPACA = {"instruction": "Add.", "input": "1 and 2", "output": "3"}
BARE = {"instruction": "Greet.", "input": "", "output": "Hello."}
PAIR = {"prompt": "Why?", "completion": " Because."}
CHAT = {"messages": [{"role": "system", "content": "Be kind."}, user("Hi"), said("Ho"), user("And?"), said("No.")]}

FORMS = [
    (
        ALPACA,
        [{"role": "user", "content": "Add.\n\n1 and 2", "instruction": "Add.", "input": "1 and 2"}, said("3")],
    ),
    (BARE, [user("Greet."), said("Hello.")]),
    ({"instruction": "Greet.", "output": "Hello."}, [user("Greet."), said("Hello.")]),
    ({"instruction": "Greet.", "input": None, "output": "Hello."}, [user("Greet."), said("Hello.")]),
    ({**BARE, "input": " \n", "text": "unused"}, [user("Greet."), said("Hello.")]),
    (PAIR, [user("Why?"), said(" Because.")]),
    (CHAT, CHAT["messages"]),
    ({"messages": [{**user("Hi"), "name": "x"}, said("Ho")]}, [user("Hi"), said("Ho")]),
]


@pytest.mark.parametrize(("record", "messages"), FORMS)
@pytest.mark.parametrize("lines", [True, False])
def test_each_form_as_a_list_and_as_lines(tmp_path, record, messages, lines):
    text = json.dumps(record) + "\n\n" if lines else json.dumps([record], indent=2)
    found = read(tmp_path, text)
    assert found.dialogues == [Dialogue(tuple(messages))]
    assert found.empty == []
    assert found.dialogues[0].answer == messages[-1]["content"]
    assert found.dialogues[0].asked == messages[-2]["content"]
    assert found.dialogues[0].prompt == tuple(messages[:-1])


def test_a_file_may_mix_forms(tmp_path):
    found = read(tmp_path, json.dumps([ALPACA, PAIR, CHAT, BARE]))
    assert found.form == "instruction and output, prompt and completion, messages"
    assert len(found.dialogues) == 4


@given(st.lists(st.sampled_from([ALPACA, BARE, PAIR, CHAT]), min_size=1, max_size=5), st.sampled_from([None, 0, 3]))
def test_a_list_is_read_however_it_is_written(tmp_path_factory, records, indent):
    file = tmp_path_factory.mktemp("data") / "data.json"
    file.write_text(f" \n\n[ {json.dumps(records, indent=indent)[1:-1]} \n]\n\n", encoding="utf-8")
    lines = file.with_suffix(".jsonl")
    lines.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    assert read_dialogues(file).dialogues == read_dialogues(lines).dialogues
    assert len(read_dialogues(file).dialogues) == len(records)


FAULTS = [
    ({"question": "x", "answer": "y"}, "has neither messages, nor instruction and output, nor prompt and completion"),
    ({"question": "x", "answer": "y"}, "its keys are 'question', 'answer'"),
    ({}, "its keys are none"),
    ({"instruction": "x"}, "output is missing, not text"),
    ({"instruction": "x", "output": 3}, "output is 3, not text"),
    ({"instruction": "x", "input": ["y"], "output": "z"}, "input is ['y'], not text"),
    ({"instruction": " \t", "output": "y"}, "instruction is empty"),
    ({"instruction": None, "output": "y"}, "instruction is missing, not text"),
    ({"prompt": "", "completion": "y"}, "prompt is empty"),
    ({"prompt": "x"}, "completion is missing, not text"),
    ({"prompt": "x", "completion": "\ud800"}, "half of a surrogate pair"),
    ([], "not a JSON object"),
    ({"messages": []}, "messages is not a list of messages"),
    ({"messages": "hi"}, "messages is not a list of messages"),
    ({"messages": ["hi"]}, "message 1 is not a JSON object"),
    ({"messages": [{"content": "hi"}]}, "the role of message 1 is missing"),
    ({"messages": [{"role": "user"}]}, "the content of message 1 is missing"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "message 1 has the role 'tool', not system"),
    ({"messages": [user("a"), said("b"), {"role": "system", "content": "x"}]}, "message 3 is the system's"),
    ({"messages": [said("a")]}, "is not the user's"),
    ({"messages": [{"role": "system", "content": "x"}]}, "is not the user's"),
    ({"messages": [user("a"), user("b"), said("c")]}, "message 2 is the user's again"),
    (
        {"messages": [{"role": "system", "content": ""}, user("a"), said("b"), said("c")]},
        "message 4 is the assistant's again",
    ),
    ({"messages": [user("a"), said("b"), user("c")]}, "the last message is the user's; there is no answer"),
    ({"messages": [user("a"), said("b"), user(" "), said("c")]}, "message 3 is empty"),
]


@pytest.mark.parametrize(("record", "fault"), FAULTS)
def test_a_faulty_object_is_told_with_its_line(tmp_path, record, fault):
    with pytest.raises(DataError) as caught:
        read(tmp_path, "\n".join(map(json.dumps, [BARE, record, PAIR])))
    assert "1 faulty line\n  line 2: " in str(caught.value)
    assert fault in str(caught.value)
    with pytest.raises(DataError) as caught:
        read(tmp_path, "[\n" + ",\n".join(map(json.dumps, [BARE, record, PAIR])) + "\n]")
    assert "1 faulty line\n  line 3: " in str(caught.value)
    assert fault in str(caught.value)


def test_all_faults_are_told_at_once(tmp_path):
    lines = [json.dumps(BARE), "{broken", json.dumps({"instruction": "x"}), "", "[1]", json.dumps(PAIR), '"text"']
    with pytest.raises(DataError) as caught:
        read(tmp_path, "\n".join(lines))
    assert str(caught.value).split("\n")[0].endswith("4 faulty lines")
    told = [line.strip().split(": ")[0] for line in str(caught.value).split("\n")[1:]]
    assert told == ["line 2", "line 3", "line 5", "line 7"]


@pytest.mark.parametrize(
    ("text", "line", "fault"),
    [
        ('[\n{"instruction": "a", "output": "b"},\n{"instruction": "a" "output": "b"}\n]', 3, "delimiter"),
        ('[{"instruction": "a", "output": "b"},\n\n]', 3, "Expecting value at character 1"),
        ('[{"instruction": "a", "output": "b"}\n\n{}]', 3, "a comma or the end of the list is missing"),
        ('[{"instruction": "a", "output": "b"}', 1, "a comma or the end of the list is missing"),
        ('[{"instruction": "a", "output": "b"}]\n]', 1, "something stands after the end"),
        ('[{"instruction": "a", "output": "b"}, ', 1, "Expecting value"),
        ('[{"instruction": "a", "output": "b}]', 1, "Unterminated string"),
        ("[" * 100_000, 1, "nested too deeply"),
    ],
)
def test_a_list_that_is_broken(tmp_path, text, line, fault):
    with pytest.raises(DataError) as caught:
        read(tmp_path, text)
    assert f"  line {line}: not JSON" in str(caught.value)
    assert fault in str(caught.value)


@pytest.mark.parametrize("text", ["[]", " [\n ] \n"])
def test_an_empty_list(tmp_path, text):
    with pytest.raises(DataError, match="has no examples"):
        read(tmp_path, text)


def test_what_is_no_file_of_examples(tmp_path):
    with pytest.raises(DataError, match="a folder; give one file"):
        read_dialogues(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        read_dialogues(tmp_path / "none.json")
    with pytest.raises(DataError, match="empty"):
        read(tmp_path, "")


def test_empty_answers_are_left_out_and_counted(tmp_path):
    records = [BARE, {**ALPACA, "output": " \n"}, PAIR, {"prompt": "x", "completion": ""}]
    records.append({"messages": [user("a"), said(""), user("b"), said("c")]})
    found = read(tmp_path, "\n".join(map(json.dumps, records)))
    assert [d.answer for d in found.dialogues] == ["Hello.", " Because."]
    assert found.empty == [2, 4, 5]
    with pytest.raises(DataError, match="all 1 answers are empty"):
        read(tmp_path, json.dumps([{**BARE, "output": ""}]))


# ---- training and held-out


def test_repetitions_are_taken_out_and_other_answers_kept():
    some = [dialogue("a", "x"), dialogue("b", "x"), dialogue("a  ", "x"), dialogue("a", "y"), dialogue("a", "x")]
    assert distinct_dialogues(some) == [some[0], some[1], some[3]]
    assert plain_messages(dialogue("a\n b ", "x").messages) == plain_messages(dialogue("a b", "x").messages)
    assert plain_messages([user("a")]) != plain_messages([said("a")])


def test_a_prompt_is_never_on_both_sides():
    some = [dialogue(f"prompt {n % 10}", f"answer {n}") for n in range(40)]
    training, held_out = split_dialogues(some, 0.3, seed=1)
    assert len(held_out) == 12
    assert sorted(d.answer for d in training + held_out) == sorted(d.answer for d in some)
    assert not {d.asked for d in training} & {d.asked for d in held_out}
    assert held_out == [d for d in some if d in held_out]
    assert split_dialogues(some, 0.3, seed=1) == (training, held_out)
    assert split_dialogues(some, 0.3, seed=2) != (training, held_out)
    assert without_prompts_of(some, held_out) == training
    assert len(without_prompts_of(some, [dialogue(" prompt  3", "z")])) == 36


@pytest.mark.parametrize(("share", "count"), [(0.001, 1), (0.5, 2), (0.999, 2)])
def test_at_least_one_prompt_on_each_side(share, count):
    training, held_out = split_dialogues([dialogue(str(n), "x") for n in range(3)], share, 0)
    assert (len(training), len(held_out)) == (3 - count, count)


def test_what_begins_alike_is_on_one_side():
    """Each answer of a conversation is learned, and so is that to a prompt which is held out alone."""
    alone = [dialogue(f"q{n}", "a") for n in range(20)]
    longer = [Dialogue((user(f"q{n}"), said("a"), user("r"), said("b"))) for n in range(20)]
    training, held_out = split_dialogues([*alone, *longer], 0.3, seed=1)
    assert len(held_out) == 12
    assert {d.messages[0]["content"] for d in training}.isdisjoint(d.messages[0]["content"] for d in held_out)
    assert without_prompts_of(longer, [alone[3]]) == [*longer[:3], *longer[4:]]
    told = Dialogue(({"role": "system", "content": "Be short."}, user("q3"), said("a")))
    assert without_prompts_of([told], [alone[3]]) == [told], "it is another prompt"


def test_one_prompt_cannot_be_divided():
    with pytest.raises(DataError, match="only one prompt"):
        split_dialogues([dialogue("a", "x"), dialogue("a", "y")], 0.5, 0)
