"""Files of preferences."""

import json

import pytest

from tinygrad_llm.data import DataError
from tinygrad_llm.data.dialogues import split_dialogues, without_prompts_of
from tinygrad_llm.data.preferences import (
    distinct_preferences,
    preference_of,
    read_preferences,
    without_contradictions,
)


def pair(prompt="Say cat", chosen="cat", rejected="dog"):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def lines(path, *records):
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records), encoding="utf-8")
    return path


def test_a_prompt_is_text_or_messages(tmp_path):
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Say cat"},
    ]
    found = read_preferences(lines(tmp_path / "p.jsonl", pair(), pair(messages)))
    assert (found.empty, found.equal) == ([], [])
    text, conversation = found.pairs
    assert text.prompt == ({"role": "user", "content": "Say cat"},)
    assert list(conversation.prompt) == messages
    for one in found.pairs:
        assert (one.chosen.answer, one.rejected.answer) == ("cat", "dog")
        assert one.chosen.prompt == one.rejected.prompt == one.prompt


def test_a_json_list_will_do(tmp_path):
    file = tmp_path / "p.json"
    file.write_text(json.dumps([pair(), pair("Say dog", "dog", "cat")], indent=2), encoding="utf-8")
    assert [one.chosen.answer for one in read_preferences(file).pairs] == ["cat", "dog"]


def test_what_teaches_nothing_is_left_out(tmp_path):
    records = pair(), pair(chosen=" \n"), pair(rejected=""), pair(chosen="a  b", rejected="a b\n"), pair(chosen="a b")
    found = read_preferences(lines(tmp_path / "p.jsonl", *records))
    assert [one.chosen.answer for one in found.pairs] == ["cat", "a b"]
    assert found.empty == [2, 3]
    assert found.equal == [4]


def test_all_faulty_lines_are_told(tmp_path):
    user = {"role": "user", "content": "Hi"}
    wrong = [
        ({"chosen": "a", "rejected": "b"}, "prompt is missing, not text"),
        ({"prompt": "a", "rejected": "b"}, "chosen is missing, not text"),
        ({"prompt": "a", "chosen": "b"}, "rejected is missing, not text"),
        (pair(chosen=["cat"]), r"chosen is ['cat'], not text"),
        (pair(prompt=" "), "message 1 is empty"),
        (pair(prompt=[]), "the first message, or that after the system's, is not the user's"),
        (pair(prompt=[user, {"role": "assistant", "content": "x"}]), "message 3 is the assistant's again"),
        (pair(prompt=[{"role": "tool", "content": "x"}]), "message 1 has the role 'tool'"),
        ('{"prompt": "a", "chosen" "b"}', "not JSON: "),
        ("[1, 2", "not a JSON object"),
        ('"text"', "not a JSON object"),
    ]
    path = lines(tmp_path / "p.jsonl", pair(), *(record for record, _ in wrong))
    with pytest.raises(DataError) as error:
        read_preferences(path)
    told = str(error.value).split("\n")
    assert told[0] == f"{path}: {len(wrong)} faulty lines"
    for number, ((_, message), line) in enumerate(zip(wrong, told[1:], strict=True), 2):
        assert line.startswith(f"  line {number}: ")
        assert message in line or number == 11  # broken JSON has a message of its own


def test_a_file_without_pairs(tmp_path):
    with pytest.raises(DataError, match="no pairs but 1 with an empty answer and 2 with equal answers"):
        read_preferences(lines(tmp_path / "p.jsonl", pair(chosen=""), pair(chosen="dog"), pair(rejected="cat")))
    with pytest.raises(DataError, match="no pairs"):
        read_preferences(lines(tmp_path / "list.json", "[]"))
    with pytest.raises(DataError, match="folder"):
        read_preferences(tmp_path)


def test_each_pair_once_and_each_prompt_on_one_side():
    pairs = [preference_of(pair(f"Say {n % 12}", f"{n % 12}", f"wrong {n % 24}")) for n in range(48)]
    distinct = distinct_preferences(pairs)
    assert len(distinct) == 24
    assert distinct == pairs[:24]
    swapped = preference_of(pair("Say 0", "wrong 0", "0"))
    assert len(distinct_preferences([pairs[0], swapped])) == 2
    training, held_out = split_dialogues(distinct, 0.25, 7)
    assert (len(training), len(held_out)) == (18, 6)
    asked = [{one.chosen.asked for one in part} for part in (training, held_out)]
    assert not asked[0] & asked[1]
    assert split_dialogues(distinct, 0.25, 7) == (training, held_out)
    assert split_dialogues(distinct, 0.25, 8) != (training, held_out)
    assert without_prompts_of(distinct, held_out) == training


def test_pairs_that_contradict_each_other_are_left_out():
    given = pair("q", "a", "b"), pair("q", "b", "a"), pair("q", "a", "c"), pair("r", "b", "a")
    one, other, third, elsewhere = map(preference_of, given)
    assert without_contradictions([one, other, third, elsewhere]) == [third, elsewhere]
