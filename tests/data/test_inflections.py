"""Questions after forms of words, from a table laid out as that of the package, and from the package itself."""

import gzip
from collections import Counter
from importlib.metadata import PackageNotFoundError, distribution

import pytest

import tinygrad_llm.data.inflections as module
from tinygrad_llm.data import DataError, Document
from tinygrad_llm.data.inflections import (
    ANSWERS,
    QUESTIONS,
    Inflection,
    answered,
    chosen_inflections,
    common_words,
    inflection_examples,
    read_inflections,
    wrong_inflection_examples,
)

TABLE = """Aaron,noun,Aarons/Aaron
box,noun,boxes
burn,verb,burned/burnt,burnt,burning,burns
cat,noun,cats
fly,verb,flew,flown,flying,flies
go,verb,went,gone,going,goes
happy,adj,happier,happiest
happily,adv,,
make,verb,made,,making,makes
red,adj,redder,reddest
sheep,noun,sheep
vice-chair,noun,vice-chairs
wide,adj,wider,widest
wooden,adj,,
walk,verb,walked,,walking,walks
electroencephalogram,noun,electroencephalograms
"""


@pytest.fixture
def table(tmp_path):
    file = tmp_path / "table.csv.gz"
    file.write_bytes(gzip.compress(TABLE.encode()))
    return file


def test_the_table_is_read(table):
    found = {(each.word, each.kind): each for each in read_inflections(table)}
    assert {word for word, _ in found} == {"box", "cat", "fly", "happy", "make", "red", "wide", "walk"}
    verbs = ("past tense", "past participle", "present participle", "third person")
    assert [found["fly", kind].right for kind in verbs] == ["flew", "flown", "flying", "flies"]
    assert [found["make", kind].right for kind in verbs] == ["made", "made", "making", "makes"]
    assert found["happy", "comparative"].right == "happier"
    assert found["happy", "superlative"].right == "happiest"
    assert found["box", "plural"].right == "boxes"
    assert len(found) == 3 * 4 + 2 + 3 * 2


@pytest.mark.parametrize(
    ("word", "kind", "wrong"),
    [
        ("fly", "past tense", {"flyed", "flown", "flying", "flies", "flied"}),
        ("fly", "third person", {"flys", "flyes", "flew", "flown", "flying"}),
        ("make", "past tense", {"makeed", "making", "makes"}),
        ("walk", "past participle", {"walkked", "walking", "walks"}),
        ("happy", "comparative", {"happyer", "happiest"}),
        ("red", "comparative", {"reder", "reddest"}),
        ("wide", "superlative", {"wideest", "wider"}),
        ("box", "plural", {"boxs"}),
        ("cat", "plural", {"cates"}),
    ],
)
def test_wrong_forms_are_those_of_a_rule_without_its_exceptions(table, word, kind, wrong):
    (each,) = [each for each in read_inflections(table) if (each.word, each.kind) == (word, kind)]
    assert set(each.wrong) == wrong
    assert len(each.wrong) == len(wrong)


def many(kinds):
    return [Inflection(f"{kind[:2]}{n}", kind, "right", ("wrong", "worse")) for kind in kinds for n in range(400)]


def test_words_are_chosen_by_chance_and_are_on_one_side(monkeypatch, tmp_path):
    both = [each._replace(word=f"w{n % 500}") for n, each in enumerate(many(QUESTIONS))]
    monkeypatch.setattr(module, "read_inflections", lambda path: both)
    training, held_out = chosen_inflections(0, tmp_path, 250, 150)
    words = [{each.word for each in part} for part in (training, held_out)]
    assert [len(part) for part in words] == [250, 150]
    assert not words[0] & words[1]
    counts = Counter(each.kind for each in training + held_out)
    assert set(counts) == set(QUESTIONS)
    assert min(counts.values()) > 30
    assert chosen_inflections(0, tmp_path, 250, 150) == (training, held_out)
    assert chosen_inflections(1, tmp_path, 250, 150)[0] != training
    with pytest.raises(DataError, match="500 words with one right form; 501 are needed"):
        chosen_inflections(0, tmp_path, 300, 201)


def test_examples_ask_for_the_form(monkeypatch, table):
    monkeypatch.setattr(module, "table_file", lambda: table)
    chosen = {(each.word, each.kind): each for each in read_inflections(table)}
    some = list(chosen.values())
    monkeypatch.setattr(module, "chosen_inflections", lambda seed, words: (some[:14], some[14:]))
    monkeypatch.setattr(module, "common_words", frozenset)
    found, pairs = inflection_examples(3), wrong_inflection_examples(3)
    for part, other, given in zip(found[:2], pairs[:2], (some[:14], some[14:]), strict=True):
        for example, pair, each in zip(part, other, given, strict=True):
            assert example["instruction"] in [form.format(each.word) for form in QUESTIONS[each.kind]]
            assert example == {"instruction": pair["prompt"], "output": pair["chosen"]}
            assert example["output"] == answered(each, each.right)
            assert pair["rejected"] in [answered(each, form) for form in each.wrong]
    assert inflection_examples(3) == found
    assert inflection_examples(4) != found
    assert len(some[5].wrong) > 2
    rejected = {answered(some[5], form) for form in some[5].wrong}
    assert {wrong_inflection_examples(seed).training[5]["rejected"] for seed in range(60)} == rejected


def test_answers_say_what_is_asked_for():
    said = {kind: answered(Inflection("word", kind, "x", ()), "x") for kind in QUESTIONS}
    assert said["past tense"] == "I x"
    assert said["plural"] == "two x"
    assert all(form.endswith(" {}") for form in ANSWERS.values()), "after a space"
    assert all(" {}" in form for forms in QUESTIONS.values() for form in forms), "after a space"


def test_only_words_that_are_known_are_chosen(table):
    words = sorted({each.word for each in read_inflections(table)})[::2]
    training, held_out = chosen_inflections(0, table, 2, 1, words)
    assert {each.word for each in training + held_out} <= set(words)
    with pytest.raises(DataError, match="1 words with one right form; 3 are needed"):
        chosen_inflections(0, table, 2, 1, words[:1])


def test_common_words_are_those_of_the_documentation(monkeypatch):
    texts = ["Write it twice: write, and write", "An aardvark reads, who reads", "reads"]
    monkeypatch.setattr(module, "default_corpus", lambda: [Document(str(n), text) for n, text in enumerate(texts)])
    assert common_words() == {"reads"}, "of three occurrences, and no capital counts"


def test_a_package_that_is_missing_is_named(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("tinygrad_llm.data.packages.distribution", missing)
    with pytest.raises(FileNotFoundError) as error:
        inflection_examples()
    assert str(error.value).split("\n") == [
        "inflections: the package lemminflect is not installed. To have it:",
        "  pip install --no-deps lemminflect==0.2.3",
    ]


def test_the_package_itself():
    try:
        distribution("lemminflect")
    except PackageNotFoundError:
        pytest.skip("lemminflect is not installed: pip install --no-deps lemminflect==0.2.3")
    found, pairs = inflection_examples(), wrong_inflection_examples()
    assert [len(part) for part in found[:2]] == [len(part) for part in pairs[:2]] == [500, 200]
    words = [{each.word for each in part} for part in chosen_inflections(0, words=common_words())]
    assert [len(part) for part in words] == [500, 200]
    assert not words[0] & words[1]
    assert all(pair["chosen"] != pair["rejected"] for part in pairs[:2] for pair in part)
    rights = {(each.word, each.kind): each for each in read_inflections(module.table_file())}
    assert rights["write", "past participle"].right == "written"
    assert rights["child", "plural"].right == "children"
    assert "childs" in rights["child", "plural"].wrong
    assert all(each.wrong for each in rights.values())
