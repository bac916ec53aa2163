"""Files with a record in each line."""

import json

import pytest

from tinygrad_llm.data import DataError, json_value, number_value, read_records, text_value
from tinygrad_llm.data.records import SHOWN


def test_each_line_that_is_not_blank_is_a_record(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text('[1]\n\n  \n{"a": "x\u2028y"}\r\n3', encoding="utf-8")  # U+2028 is no end of a line here
    assert read_records(path, json_value) == [[1], {"a": "x\u2028y"}, 3]


def test_all_faulty_lines_are_told_at_once_with_their_numbers(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text("1\n\nx\n2\n{\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"2 faulty lines\n  line 3: not JSON: .* at character 1\n  line 5: not JSON"):
        read_records(path, json_value)


def test_of_many_faulty_lines_only_some_are_shown(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text("x\n" * (SHOWN + 5), encoding="utf-8")
    with pytest.raises(DataError, match=f"{SHOWN + 5} faulty lines") as caught:
        read_records(path, json_value)
    lines = str(caught.value).split("\n")
    assert len(lines) == SHOWN + 2
    assert lines[-1] == "  and 5 more"


def test_a_value_nested_too_deeply_is_no_crash(tmp_path):
    path = tmp_path / "deep.jsonl"
    path.write_text("[" * 200_000, encoding="utf-8")
    with pytest.raises(DataError, match="line 1: not JSON that can be read: nested too deeply"):
        read_records(path, json_value)


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "empty"), (b"\n \n", "all its lines are blank"), (b"\xff\xfe", "UTF-8")]
)
def test_a_file_without_records(tmp_path, content, message):
    path = tmp_path / "none.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_records(path, json_value)


def test_a_folder_and_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="a folder; give one file"):
        read_records(tmp_path, json_value)
    with pytest.raises((DataError, OSError), match=r"none\.jsonl"):
        read_records(tmp_path / "none.jsonl", json_value)


@pytest.mark.parametrize("value", [3, None, ["x"], "\ud800"])
def test_what_is_no_text(value):
    with pytest.raises(ValueError, match=r"^it (is|has)"):
        text_value(value, "it")


@pytest.mark.parametrize("value", ["3", None, True, float("nan"), float("inf"), 10**400, [1]])
def test_what_is_no_number(value):
    with pytest.raises(ValueError, match="not a finite number"):
        number_value(value, "it")


def test_a_number_is_a_float():
    assert type(number_value(json.loads("3"), "it")) is float
