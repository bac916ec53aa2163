"""The book of all gradients: complete, well-formed, cross-linked, and never written over anything unasked."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm.operation import Operation
from tinygrad_llm.study.derivations.book import ORDER, families, index_html, worked_example, write_book

OPERATIONS = sorted(name for name, o in tg.registry.items() if o.__module__.startswith("tinygrad_llm."))
VOID = {"meta", "br", "mspace"}


class Reader(HTMLParser):
    """Collects links, anchors and text, and checks that every element is closed where it should be."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.anchors, self.external = [], [], set(), []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if "id" in attributes:
            assert attributes["id"] not in self.anchors
            self.anchors.add(attributes["id"])
        if "href" in attributes:
            self.links.append(attributes["href"])
        self.external += [attributes[a] for a in ("src", "srcset", "data") if a in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shelf") / "new" / "book"
    begun = []
    files = write_book(folder, advance=begun.append)
    assert sorted(f.stem for f in files) == sorted(["index", *tg.registry])
    assert sorted(begun) == sorted(tg.registry)
    return folder


def read(folder, name):
    return (folder / f"{name}.html").read_text(encoding="utf-8")


def test_every_link_leads_somewhere(folder):
    readers = {path.name: Reader(path.read_text(encoding="utf-8")) for path in folder.iterdir()}
    for name, reader in readers.items():
        assert not reader.external, name
        for link in reader.links:
            if link.startswith("http"):
                assert re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{4,5}", link)
                continue
            target, _, anchor = link.partition("#")
            assert target in readers, f"{name} links to {link}"
            if anchor:
                assert anchor in readers[target].anchors


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_page_of_an_operation(folder, name):
    html, operation = read(folder, name), tg.registry[name]
    assert f"<title>{name}: its gradient</title>" in html
    assert f"<h1>{name}</h1>" in html
    for heading in ("The numbers", "The forward pass", "The vjp", "The derivation as code"):
        assert f">{heading}</h2>" in html
    assert "equal to the step before" in html
    assert "differs from the step before" not in html
    derived = html[html.index("The derivation as code") :]
    assert derived.count('<pre class="source">') == len(operation.derivations)
    prose = re.sub(r"<pre.*?</pre>|<style>.*?</style>", "", html, flags=re.DOTALL)
    assert "`" not in prose
    assert "&lt;math" not in html
    assert html.count(f'href="{name}.html"') == 0, "a page does not link to itself"


def test_pages_are_read_in_order(folder):
    order = [operation.name for family in families() for operation in family.operations]
    for before, name, after in zip(order, order[1:], order[2:], strict=False):
        html = read(folder, name)
        assert html.count(f'href="{before}.html" rel="prev"') == 2
        assert html.count(f'href="{after}.html" rel="next"') == 2
    assert 'rel="prev"' not in read(folder, order[0])
    assert 'rel="next"' not in read(folder, order[-1])


def test_operations_and_papers_that_a_docstring_mentions_are_linked(folder):
    assert '<a href="layer_norm.html"><code>layer_norm</code></a> without the mean' in read(folder, "rms_norm")
    assert '<a href="https://arxiv.org/abs/1607.06450">arXiv:1607.06450</a>' in read(folder, "layer_norm")


def test_examples_show_gradients_that_are_not_all_zero():
    for name in OPERATIONS:
        for gradient in worked_example(tg.registry[name]).gradients:
            assert any(np.any(v) for v in gradient.result), name
    assert "seed 0" in worked_example(tg.registry["tanh"]).notes[0]


def test_the_index(folder):
    html = read(folder, "index")
    for name in OPERATIONS:
        assert f'<a href="{name}.html"><code>{name}</code></a>' in html
    assert html.count('class="formula"><math') == len(tg.registry)
    titles = re.findall(r'<h2 id="(\w+)">(.*?)</h2>', html)
    assert [key for key, _ in titles[1 : 1 + len(ORDER)]] == list(ORDER)
    assert ("softmaxes", "Softmaxes") in titles
    assert ("regularization", "Dropout") in titles


def test_families_hold_every_operation_once_and_know_their_modules():
    named = [operation for family in families() for operation in family.operations]
    assert sorted(o.name for o in named) == sorted(tg.registry)
    modules = {o.__module__ for o in tg.registry.values() if o.__module__.startswith("tinygrad_llm.ops.")}
    assert {f"tinygrad_llm.ops.{key}" for key in ORDER} == modules


def test_an_operation_of_the_user_has_a_page_too(monkeypatch, tmp_path):
    def bare(x):
        """Without formula, sample or derivation: <b>."""
        return x, lambda dy: dy

    operation = Operation(bare)
    monkeypatch.setitem(tg.registry, "bare", operation)
    for name in OPERATIONS[2:]:
        monkeypatch.delitem(tg.registry, name)
    write_book(tmp_path)
    html = read(tmp_path, "bare")
    assert "derivation: &lt;b&gt;." in html
    assert "The numbers" not in html
    assert families()[-1].operations == (operation,)
    assert "bare.html" in index_html(families())


def test_what_exists_is_replaced_only_when_asked(folder, tmp_path, monkeypatch):
    for name in OPERATIONS[2:]:
        monkeypatch.delitem(tg.registry, name)
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match=r"is not empty; choose another folder, or .* with --force"):
        write_book(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    write_book(tmp_path, force=True)
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert read(tmp_path, "index").startswith("<!doctype html>")
    with pytest.raises(ValueError, match="is a file; give the name of a folder"):
        write_book(tmp_path / "notes.txt", force=True)


def test_an_empty_folder_is_taken(tmp_path, monkeypatch):
    for name in OPERATIONS[2:]:
        monkeypatch.delitem(tg.registry, name)
    assert len(write_book(tmp_path)) == 3
