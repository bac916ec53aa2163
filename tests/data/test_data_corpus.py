"""The default corpus: whatever the interpreter has, never a fixed size."""

import sys

import pytest

from tinygrad_llm.data import DataError, default_corpus
from tinygrad_llm.data.corpus import default_corpus as corpus_of

SOURCE = '''"""A module about things.

    More about them.
"""
class Thing(Base, metaclass=Meta):
    """A thing."""
    def method(self, size=3, *, name: str = "x", **rest):
        """Return the method's result, which is explained here at some length so that it counts as long."""
        def inner():
            "Inside."
    async def wait(self): "Wait."
    def silent(self): pass
if True:
    def conditional(): "Defined under a condition."
try:
    def tried(): "Tried."
except ImportError:
    def tried(): "Tried in another way."
def copied():
    """Return the method's result, which is explained here at some length so that it counts as long."""
def empty(): "   "
def broken(): "half a pair: \\ud800"
'''

EXPECTED = """module abc:
    A module about things.

    More about them.

class abc.Thing(Base):
    A thing.

def abc.Thing.method(self, size=3, *, name: str='x', **rest):
    Return the method's result, which is explained here at some length so that it counts as long.

def abc.Thing.method.inner():
    Inside.

async def abc.Thing.wait(self):
    Wait.

def abc.conditional():
    Defined under a condition.

def abc.tried():
    Tried.

def abc.tried():
    Tried in another way.

def abc.broken():
    half a pair: ?
"""


@pytest.fixture
def without_topics(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)  # importing it now raises ImportError


def write(path, text, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", **options)


def test_this_interpreters_own_corpus():
    documents = default_corpus()
    names = [document.name for document in documents]
    assert len(set(names)) == len(names)
    assert sum(len(document.text) for document in documents) > 100_000
    assert documents == default_corpus()
    text = next(document.text for document in documents if document.name == "module mailbox")
    assert text.startswith("module mailbox:\n    Read/write support")
    assert "\ndef mailbox.MH.remove_folder(self, folder):\n    Delete the named folder" in text
    for document in documents:
        document.text.encode("utf-8")
        assert document.text.strip()
        assert document.text.endswith("\n")


def test_headings_docstrings_and_what_is_left_out(tmp_path, without_topics):
    write(tmp_path / "abc.py", SOURCE)
    write(tmp_path / "bisect.py", "this is not Python")
    write(tmp_path / "csv.py", "x = 1")  # no docstring
    write(tmp_path / "not_of_the_library.py", '"""Foreign."""')
    write(tmp_path / "json" / "__init__.py", '"""JSON."""')
    write(tmp_path / "json" / "tool.py", '"""Its tool."""')
    write(tmp_path / "json" / "tests" / "one.py", '"""A test."""')
    (tmp_path / "calendar.py").write_bytes(b'# coding: latin-1\n"""\xe9t\xe9"""')
    (tmp_path / "cmd.py").write_bytes(b'"""\xff"""')
    documents = {document.name: document.text for document in corpus_of(tmp_path)}
    assert documents == {
        "module abc": EXPECTED,
        "module calendar": "module calendar:\n    été\n",
        "module json": "module json:\n    JSON.\n",
        "module json.tool": "module json.tool:\n    Its tool.\n",
    }


def test_a_long_docstring_is_kept_only_where_it_first_stands(tmp_path, without_topics):
    long, short = "A sentence that is long enough to be noticed when it comes a second time.", "Return self."
    for name in ("abc", "csv"):
        write(tmp_path / f"{name}.py", f'"""About {name}."""\ndef f(): "{long}"\ndef g(): "{short}"\n')
    first, second = corpus_of(tmp_path)
    assert long in first.text
    assert long not in second.text
    assert short in first.text
    assert short in second.text


def test_topics_alone_are_enough(tmp_path):
    pytest.importorskip("pydoc_data.topics", reason="this Python comes without pydoc_data")
    documents = corpus_of(tmp_path)
    assert all(document.name.startswith("topic ") for document in documents)
    assert [document.name for document in documents] == sorted(document.name for document in documents)


def test_a_python_without_any_documentation_is_told_to_bring_a_text(tmp_path, without_topics):
    with pytest.raises(DataError, match="--data FILE"):
        corpus_of(tmp_path / "no-such-folder")
