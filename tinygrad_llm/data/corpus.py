"""The default corpus: the Python documentation that comes with the running interpreter. No file, no network.

Two sources, about 2.2 million characters together:

* `pydoc_data.topics`, the text behind `help("if")`: one document per topic.
* the docstrings of the standard library: one document per module. Each docstring stands indented under a heading such
  as `def mailbox.MH.remove_folder(self, folder):`, in the order of the source, as `help(mailbox)` would print it.

One document per module and not per docstring, because a model's window then holds neighbours (a class, its methods)
and not a dozen strangers; because the full name in each heading is a promise that the text after it can keep; and
because a whole module can be held out for validation, whose docstrings are much alike among themselves.
"""

from __future__ import annotations

import ast
import inspect
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from tinygrad_llm.data.document import DataError, Document

# Not documentation of something one can use, or the same sentence a hundred times (the codecs of `encodings`).
_LEFT_OUT = {
    "__pycache__",
    "encodings",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "test",
    "tests",
    "turtledemo",
    "site-packages",
}

# A docstring of at least this length is kept only where it first occurs; short ones ("Return self.") are just language.
_LONG = 64


def default_corpus(library: Path | None = None) -> list[Document]:
    """The documents of this interpreter, in the same order each time (topics, then modules, each by name).

    `library` is the folder of the standard library's sources; the running interpreter's own if None.
    Takes about three seconds. Raises DataError if this interpreter has neither topics nor sources.
    """
    library = Path(sysconfig.get_path("stdlib")) if library is None else library
    documents = [*_topics(), *_modules(library)]
    if not documents:
        raise DataError(
            f"this Python has no documentation to train on (no pydoc_data.topics, no source files in {library}); "
            "train on a text of your own with --data FILE"
        )
    return documents


def _topics() -> Iterator[Document]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions leave it out
        return
    for name in sorted(topics):
        yield Document(f"topic {name}", topics[name].strip() + "\n")


def _modules(library: Path) -> Iterator[Document]:
    seen: set[str] = set()
    for module, found in groupby(library_docstrings(library), key=lambda each: each.module):
        entries = [each for each in found if _is_new(each.text, seen)]
        if entries:
            yield Document(f"module {module}", "\n".join(f"{each.heading}\n{_indented(each.text)}" for each in entries))


class Docstring(NamedTuple):
    """A docstring of the standard library: `name` is the full name of what it says something about."""

    module: str
    name: str
    heading: str
    text: str


def library_docstrings(library: Path | None = None) -> Iterator[Docstring]:
    """All of them, module by module in the order of their names, and in the order of the source.

    `library` as for `default_corpus`. None at all from an interpreter without sources.
    """
    for module, path in _sources(Path(sysconfig.get_path("stdlib")) if library is None else library):
        try:
            with warnings.catch_warnings():  # an old escape sequence in some source is not the user's business
                warnings.simplefilter("ignore")
                tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue  # unreadable, or a template that is not Python: one module less
        for name, heading, text in _entries(tree, module):
            yield Docstring(module, name, heading, text)


def _sources(library: Path) -> Iterator[tuple[str, Path]]:
    """(name, file) of each module. Only names the interpreter calls its own: site-packages lies in the same folder."""
    for top in sorted(sys.stdlib_module_names - _LEFT_OUT):
        if (library / f"{top}.py").is_file():
            yield top, library / f"{top}.py"
        folder = library / top
        for path in sorted(folder.rglob("*.py")) if folder.is_dir() else ():
            parts = path.relative_to(library).with_suffix("").parts
            if not _LEFT_OUT.intersection(parts):
                yield ".".join(part for part in parts if part != "__init__"), path


def _entries(node: ast.AST, name: str) -> Iterator[tuple[str, str, str]]:
    """(full name, heading, docstring) of a module, class or function and of all that is defined inside it."""
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        docstring = ast.get_docstring(node, clean=False)
        if docstring and (text := inspect.cleandoc(docstring).strip()):
            yield name, _heading(node, name), text
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _entries(child, f"{name}.{child.name}")
        elif isinstance(child, (ast.If, ast.Try, ast.With, ast.excepthandler)):  # defined under a condition
            yield from _entries(child, name)


def _heading(node: ast.AST, name: str) -> str:
    match node:
        case ast.ClassDef(bases=bases):
            listed = ", ".join(map(ast.unparse, bases))
            return f"class {name}({listed}):" if listed else f"class {name}:"
        case ast.FunctionDef(args=arguments):
            return f"def {name}({ast.unparse(arguments)}):"
        case ast.AsyncFunctionDef(args=arguments):
            return f"async def {name}({ast.unparse(arguments)}):"
    return f"module {name}:"


def _is_new(text: str, seen: set[str]) -> bool:
    if len(text) < _LONG:
        return True
    if text in seen:
        return False
    seen.add(text)
    return True


def _indented(text: str) -> str:
    """Four spaces before each line, none before an empty one or at a line's end; a lone surrogate becomes "?"."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(f"    {line.rstrip()}".rstrip() + "\n" for line in text.splitlines())
