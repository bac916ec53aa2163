"""Tables of texts with labels: files, faults, duplicates, the split."""

import csv
import json
from collections import Counter

import pytest

from tinygrad_llm.data import DataError
from tinygrad_llm.data.tables import (
    Example,
    check_learnable,
    distinct,
    read_table,
    read_texts,
    stratified_split,
    without_texts_of,
)

ROWS = [("good, very good", "pos"), ('he said "no"\nand left', "neg"), ("tab\there", "pos"), ("ünï 🙂", "neg")]
EXAMPLES = [Example(text, label) for text, label in ROWS]


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def as_csv(tmp_path, separator, rows=ROWS, columns=("text", "label"), name="t"):
    path = tmp_path / (name + {",": ".csv", "\t": ".tsv"}[separator])
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerows([columns, *rows])
    return path


@pytest.mark.parametrize("separator", [",", "\t"])
def test_quotes_separators_and_line_ends_in_fields(tmp_path, separator):
    table = read_table(as_csv(tmp_path, separator))
    assert table.examples == EXAMPLES
    assert (table.text_column, table.label_column, table.stripped) == ("text", "label", 0)
    assert table.labels == ["neg", "pos"]


def test_json_lines(tmp_path):
    lines = [json.dumps({"id": 7, "text": text, "label": label}) for text, label in ROWS]
    assert read_table(write(tmp_path / "t.jsonl", "\n\n".join(lines))).examples == EXAMPLES


@pytest.mark.parametrize("name", ["t.csv", "t.CSV"])
def test_byte_order_mark_and_windows_line_ends(tmp_path, name):
    path = write(tmp_path / name, "\ufefftext,label\r\na,x\r\n\r\nb,y\r\n")
    assert read_table(path).examples == [Example("a", "x"), Example("b", "y")]


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("v1,v2", ("v2", "v1")),
        ("Category,Message", ("Message", "Category")),
        ("target,id,sentence", ("sentence", "target")),
        (" class , CONTENT ", ("CONTENT", "class")),
        ("body,text,label", ("text", "label")),
        ("Text,text,LABEL,Label", ("Text", "LABEL")),
    ],
)
def test_columns_with_usual_names_are_found(tmp_path, header, found):
    count = header.count(",") + 1
    rows = [",".join(f"{letter}{i}" for i in range(count)) for letter in "aba"]
    table = read_table(write(tmp_path / "t.csv", "\n".join([header, *rows])))
    assert (table.text_column, table.label_column) == found


def test_columns_that_are_named_count_before_usual_ones(tmp_path):
    path = write(tmp_path / "t.csv", "text,label,mail,kind\na,b,c,d\na,b,e,f\nx,x,g,f\n")
    assert read_table(path, "mail", "kind").examples == [Example("c", "d"), Example("e", "f"), Example("g", "f")]


def test_a_missing_column_says_which_there_are(tmp_path):
    path = write(tmp_path / "t.csv", "mail,kind\na,b\nc,d\n")
    with pytest.raises(DataError, match=r"no column 'post'; there are 'mail', 'kind'"):
        read_table(path, "post")
    with pytest.raises(DataError, match=r"hold the text .*there are 'mail', 'kind'\. Name it with --text-column"):
        read_table(path)
    with pytest.raises(DataError, match=r"hold the label .*--label-column"):
        read_table(path, "mail")
    with pytest.raises(DataError, match="texts and of the labels"):
        read_table(path, "mail", "mail")
    many = write(tmp_path / "m.csv", ",".join(f"c{i}" for i in range(25)) + "\n" + ",".join("x" * 25))
    with pytest.raises(DataError, match=r"'c19', and 5 more"):
        read_table(many)


def test_stray_spaces_are_no_part_of_a_label(tmp_path):
    table = read_table(write(tmp_path / "t.csv", "text,label\na, x\nb,x\nc,y \nd,\ty\n"))
    assert [example.label for example in table.examples] == ["x", "x", "y", "y"]
    assert table.stripped == 3


def test_labels_that_are_numbers_are_in_their_order(tmp_path):
    lines = [json.dumps({"text": str(i), "label": value}) for i, value in enumerate([10, 9, -1, 10])]
    assert read_table(write(tmp_path / "t.jsonl", "\n".join(lines))).labels == ["-1", "9", "10"]
    lines = [json.dumps({"text": str(i), "label": value}) for i, value in enumerate([True, False, True])]
    assert read_table(write(tmp_path / "t.json", "\n".join(lines))).labels == ["false", "true"]


def test_all_faulty_rows_of_a_csv_are_told_with_the_lines_they_begin_in(tmp_path):
    path = write(tmp_path / "t.csv", 'text,label\n"a\nb",x\nc\n ,y\n"d"e,x\nf,\nh,i,j\nk,y\n"never\nclosed,x\n')
    with pytest.raises(DataError) as caught:
        read_table(path)
    lines = str(caught.value).split("\n")
    assert lines[0] == f"{path}: 6 faulty lines"
    assert lines[1] == "  line 4: has 1 fields, but the table has 2 columns"
    assert lines[2] == "  line 5: text is empty"
    assert lines[3].startswith("  line 6: broken quotes: ")
    assert lines[4:] == [
        "  line 7: label is empty",
        "  line 8: has 3 fields, but the table has 2 columns",
        "  line 10: a quote that begins here is never closed",
    ]


def test_all_faulty_lines_of_json_are_told(tmp_path):
    good = '{"text": "a", "label": "x"}'
    bad = ['{"text": 1, "label": "x"}', "[1]", '{"text": "b"', '{"label": "x"}', '{"text": "c", "label": 1.5}']
    path = write(tmp_path / "t.jsonl", "\n".join([good, *bad]))
    with pytest.raises(DataError) as caught:
        read_table(path)
    text = str(caught.value)
    assert "5 faulty lines" in text
    for part in (
        "line 2: text is 1, not text",
        "line 3: not a JSON object",
        "line 4: not JSON: ",
        "line 5: text is missing, not text",
        "line 6: label is 1.5, not text",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "text,label\n", "has no rows"),
        ("t.jsonl", "\n \n", "has no rows"),
        ("t.jsonl", "x\ny\n", "2 faulty lines"),
        ("t.csv", "text,text,label\na,b,c\n", "two columns are called 'text'"),
        ("t.txt", "text,label\na,x\nb,y\n", r"must end in one of \.csv"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, name, text, message):
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path / name, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text,label\na,x\nb,x\n", "column 'label' has one class only, 'x'; there is nothing to learn"),
        ("text,label\na,x\nb,y\nc,z\n", "all 3 labels in column 'label' differ"),
    ],
)
def test_what_nothing_can_be_learned_from_can_be_measured_with(tmp_path, text, message):
    path = write(tmp_path / "t.csv", text)
    table = read_table(path)
    with pytest.raises(DataError, match=message):
        check_learnable(path, table)


def test_a_folder_and_another_encoding_are_refused(tmp_path):
    with pytest.raises(DataError, match="a folder"):
        read_table(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(DataError, match=r"not UTF-8 text: .* at byte 12"):
        read_table(write(tmp_path / "t.csv", "text,label\na\xe9,x\nb,y\n", "latin-1"))


def test_long_fields_and_the_limit_of_the_csv_module(tmp_path):
    before = csv.field_size_limit(100_000)
    path = write(tmp_path / "t.csv", f"text,label\n{'a' * 200_000},x\nb,y\n")
    assert len(read_table(path).examples[0].text) == 200_000
    assert csv.field_size_limit(before) == 100_000


def test_columns_without_a_name_are_left_out(tmp_path):
    path = write(tmp_path / "t.csv", "v1,v2,,\nham,a,,\nspam,b,1,2\n")
    assert read_table(path).examples == [Example("a", "ham"), Example("b", "spam")]


def test_texts_without_labels(tmp_path):
    assert read_texts(write(tmp_path / "t.csv", "text\na\nb\n")) == ["a", "b"]
    assert read_texts(write(tmp_path / "t.jsonl", '{"mail": "a"}'), "mail") == ["a"]
    assert read_texts(write(tmp_path / "t.txt", "a, b\n\n c\n")) == ["a, b", " c"]
    with pytest.raises(DataError, match="line 2: text is empty"):
        read_texts(write(tmp_path / "e.csv", "text,x\n,x\nb,x\n"))


# ---- duplicates and the split


def test_each_text_is_kept_once_and_contradictions_not_at_all():
    examples = [*EXAMPLES, Example("a b", "x"), Example(" a\nb", "x"), Example("c", "x"), Example("c ", "y")]
    result = distinct([*examples, Example("c", "x")])
    assert result.examples == [*EXAMPLES, Example("a b", "x")]
    assert (result.repeated, result.contradicting) == (1, 3)


def test_no_held_out_text_is_trained_on():
    training = [Example("a b", "x"), Example("c", "y")]
    assert without_texts_of(training, [Example(" a  b", "y")]) == [Example("c", "y")]


def test_the_split_keeps_the_shares_of_the_labels():
    examples = [
        Example(f"{label} {i}", label) for label, n in {"a": 100, "b": 20, "c": 2, "d": 1}.items() for i in range(n)
    ]
    training, held_out = stratified_split(examples, 0.25, seed=3)
    assert Counter(example.label for example in held_out) == {"a": 25, "b": 5, "c": 1}
    assert Counter(example.label for example in training) == {"a": 75, "b": 15, "c": 1, "d": 1}
    assert sorted([*training, *held_out]) == sorted(examples)
    assert [examples.index(example) for example in held_out] == sorted(examples.index(e) for e in held_out)
    assert stratified_split(examples, 0.25, seed=3) == (training, held_out)
    assert stratified_split(examples, 0.25, seed=4)[1] != held_out
    assert [e.text for e in held_out if e.label == "a"] != [f"a {i}" for i in range(25)]
    alike = stratified_split([Example(f"{i}", label) for label in "ab" for i in range(50)], 0.2, seed=3)[1]
    assert [e.text for e in alike if e.label == "a"] != [e.text for e in alike if e.label == "b"]


def test_something_is_held_out_and_something_left():
    examples = [Example(f"{label}{i}", label) for label in "ab" for i in range(2)]
    for share in (0.01, 0.99):
        training, held_out = stratified_split(examples, share, 0)
        assert {e.label for e in training} == {e.label for e in held_out} == {"a", "b"}
    with pytest.raises(DataError, match="one example only"):
        stratified_split([Example("a", "x"), Example("b", "y")], 0.5, 0)
    with pytest.raises(ValueError, match="share 1"):
        stratified_split(examples, 1, 0)
