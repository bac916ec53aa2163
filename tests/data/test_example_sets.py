"""What sets of examples have in common: the division by groups, and the files."""

import json

import pytest

from tinygrad_llm.data import DataError
from tinygrad_llm.data.example_sets import divided, write_examples


def test_a_group_is_on_one_side():
    items = list(range(60))
    groups = [item % 20 for item in items]
    training, held_out = divided(items, groups, 0.25, 3)
    assert sorted(training + held_out) == items
    assert training == sorted(training)
    assert held_out == sorted(held_out)
    assert len(held_out) == 15
    assert not {item % 20 for item in training} & {item % 20 for item in held_out}
    assert divided(items, groups, 0.25, 3) == (training, held_out)
    assert divided(items, groups, 0.25, 4) != (training, held_out)


def test_each_side_has_a_group():
    assert [len(part) for part in divided("ab", "ab", 0.01, 0)] == [1, 1]
    assert [len(part) for part in divided("ab", "ab", 0.99, 0)] == [1, 1]
    for few in ("", "aa"):
        with pytest.raises(DataError, match="at least two are needed"):
            divided(few, few, 0.5, 0)


def test_a_file_of_json_lines(tmp_path):
    examples = [{"text": "a\nb", "label": "é"}, {"text": "half a pair: \ud800", "label": "x"}]
    write_examples(tmp_path / "a.jsonl", examples)
    lines = (tmp_path / "a.jsonl").read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    assert [json.loads(line) for line in lines] == [examples[0], {"text": "half a pair: ?", "label": "x"}]
    assert "é" in lines[0]
