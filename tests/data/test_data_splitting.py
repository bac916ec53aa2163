"""Nothing of the validation text may be in the training text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.data import DataError, Document, TextFiles, default_corpus, split
from tinygrad_llm.data.splitting import PARAGRAPH

# few different paragraphs, long and short, in changing indentation: many documents share some
long = st.sampled_from([f"paragraph {i} " * 6 for i in range(6)])
paragraph = long | st.sampled_from(["short", "Return self.", "  indented\n  lines", ""])
document_text = st.lists(paragraph, min_size=1, max_size=5).map("\n\n".join) | st.text(max_size=20)


def plain(text):
    return " ".join(text.split())


def long_paragraphs(documents):
    found = (plain(p) for document in documents for p in re.split(r"\n[ \t]*\n", document.text))
    return {p for p in found if len(p) >= PARAGRAPH}


def long_runs(documents):
    """From each line that is not empty, the shortest run of such lines with 64 characters or more."""
    found = set()
    for document in documents:
        lines = [plain(line) for line in document.text.split("\n") if line.strip()]
        for begin in range(len(lines)):
            runs = (" ".join(lines[begin:end]) for end in range(begin + 1, len(lines) + 1))
            found.add(next((run for run in runs if len(run) >= PARAGRAPH), ""))
    return found - {""}


def split_or_message(documents, seed, fraction):
    try:
        return tuple(map(list, split(documents, seed, fraction))), ""
    except DataError as error:
        return None, str(error)


@given(texts=st.lists(document_text, min_size=2, max_size=25), seed=st.integers(0, 5), fraction=st.floats(0.05, 0.5))
def test_no_document_and_no_long_paragraph_is_on_both_sides(texts, seed, fraction):
    documents = [Document(f"d{i}", text) for i, text in enumerate(texts)]
    sides, message = split_or_message(documents, seed, fraction)
    if message:
        assert "part is empty after splitting" in message
        return
    training, validation = sides
    assert not long_paragraphs(training) & long_paragraphs(validation)
    assert not {plain(d.text) for d in training} & {plain(d.text) for d in validation}
    assert not long_runs(training) & long_runs(validation)
    total = sum(map(len, texts))
    assert sum(len(d.text) for d in training) >= total * (1 - fraction) - 1000  # all that was not held out
    shared = {d.name for d in training} & {d.name for d in validation}
    assert len(shared) <= 1  # only one that was cut at a place
    again = split(documents, seed, fraction)
    assert (list(again.training), list(again.validation)) == (training, validation)


@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=25), fraction=st.floats(0.05, 0.5))
def test_documents_that_differ_can_always_be_split(sizes, fraction):
    sentence = "Sentence {} of document {} is unlike any other. "
    texts = ["".join(sentence.format(j, i) for j in range(size)) for i, size in enumerate(sizes)]
    documents = [Document(f"d{i}", text) for i, text in enumerate(texts)]
    training, validation = map(list, split(documents, fraction=fraction))
    assert training
    assert validation
    kept = sum(len(d.text) for d in [*training, *validation])
    assert kept == sum(len(d.text) for d in documents)  # nothing is common, so nothing is left out


def test_whole_documents_are_held_out_by_seed():
    documents = [Document(f"d{i}", f"text number {i} " * (5 + i % 3)) for i in range(200)]
    size = sum(len(d.text) for d in documents)
    sides = [split(documents, seed) for seed in (0, 1)]
    for training, validation in sides:
        assert sorted([*training, *validation], key=lambda d: d.name) == sorted(documents, key=lambda d: d.name)
        assert 0.05 * size <= sum(len(d.text) for d in validation) <= 0.1 * size
    assert list(sides[0].validation) != list(sides[1].validation)
    assert list(sides[0].validation) == list(split(documents[::-1], 0).validation)[::-1]  # the order does not matter


def test_a_licence_at_the_head_of_every_file_is_left_only_in_the_training_text():
    licence = "Permission is granted to read this text as often as anyone could wish to."
    own = "This paragraph belongs to document {} alone, and it is long enough to stay."
    documents = [Document(f"d{i}", f"{licence}\n\n{own.format(i)}\n") for i in range(30)]
    training, validation = split(documents)
    assert all(licence in d.text for d in training)
    assert len(list(validation)) == 3
    for document in validation:
        assert document.text.strip() == own.format(document.name[1:])


@pytest.mark.parametrize("line", ["a line that everyone has, number {}, long enough to be known by itself", "line {}"])
@pytest.mark.parametrize("end", ["\n", "\n\n"])
def test_documents_equal_but_for_their_first_lines_share_no_lines(line, end):
    own = "the first line of document {} is its own, and it is long enough to stay"
    body = end.join(line.format(i) for i in range(200))
    documents = [Document(f"d{i}", f"{own.format(i)}{end}{body}") for i in range(20)]
    training, validation = split(documents)
    assert [d.text.strip() for d in validation] == [own.format(d.name[1:]) for d in validation]
    assert all(body in d.text for d in training)
    with pytest.raises(DataError, match="validation part is empty"):
        split([Document(f"d{i}", f"{i}{end}{body}") for i in range(20)])


def test_what_is_left_of_a_document_is_no_training_document_either():
    licence = "Permission is granted to read this text as often as anyone could wish to."
    longer = [Document(f"longer {i}", f"{licence}\n\nnote {i}") for i in range(50)]
    shorter = [Document(f"shorter {i}", f"note {i}") for i in range(200)]
    training, validation = split(longer + shorter)
    assert {plain(d.text) for d in validation}
    assert not {plain(d.text) for d in training} & {plain(d.text) for d in validation}


def test_documents_that_are_all_the_same_cannot_be_split():
    with pytest.raises(DataError, match="validation part is empty"):
        split([Document(f"d{i}", "the same text") for i in range(30)])


def test_parts_of_a_document_stay_together():
    documents = [Document(f"d{i}", f"part {part} of {i} ", part) for i in range(30) for part in range(3)]
    training, validation = split(documents)
    assert len({d.name for d in validation}) * 3 == len(list(validation)) > 0
    assert not {d.name for d in training} & {d.name for d in validation}


@given(lines=st.lists(st.text("abc ", min_size=1, max_size=20), min_size=1, max_size=30), fraction=st.floats(0.05, 0.5))
def test_the_end_of_a_single_text_is_held_out(lines, fraction):
    text = "\n".join(lines)
    sides, message = split_or_message([Document("text", text)], 0, fraction)
    if message:
        assert f"part is empty after splitting {len(text)} characters" in message
        assert len(text.strip()) < 2 or len(text) * fraction < 20
        return
    training, validation = sides
    assert "".join(d.text for d in [*training, *validation]) == text


def test_a_few_lines_are_cut_between_lines_one_line_between_words_one_word_anywhere():
    def both(text):
        return tuple("".join(d.text for d in side) for side in split([Document("text", text)]))

    lines = [f"line number {i}\n" for i in range(10)]
    assert both("".join(lines)) == ("".join(lines[:9]), lines[9])
    assert both("a title\n" + "word " * 20 + "end") == ("a title\n" + "word " * 18, "word " * 2 + "end")
    assert both("x" * 20) == ("x" * 18, "x" * 2)
    for text in ("", "x", " \n "):
        with pytest.raises(DataError, match="part is empty"):
            both(text)


def test_a_long_file_in_parts_is_cut_once(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(f"this is line {i} of the text\n" for i in range(1000)), encoding="utf-8")
    files = TextFiles(path, piece=2000)
    training, validation = map(list, split(files, fraction=0.2))
    assert "".join(d.text for d in [*training, *validation]) == path.read_text(encoding="utf-8")
    assert validation[0].text.startswith("this is line 8")
    assert training[-1].part <= validation[0].part


def test_the_default_corpus_does_not_leak():
    training, validation = split(default_corpus())
    assert not long_paragraphs(training) & long_paragraphs(validation)
    assert not {d.name for d in training} & {d.name for d in validation}
    assert not long_runs(validation) & long_runs(training)
    sizes = [sum(len(d.text) for d in side) for side in (training, validation)]
    assert 0.03 < sizes[1] / sum(sizes) <= 0.1


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="fraction 1 is not between 0 and 1"):
        split([Document("a", "text")], fraction=1)
    with pytest.raises(TypeError, match="pass a list or TextFiles"):
        split(iter([Document("a", "text")]))
