"""An operation's own source with the vjp taken out: from this an exercise is made, so that it cannot drift.

The functions that hold the vjps are copied: the operation's forward, and where this only chooses among others (as gelu
does), those too. In each the body of the vjp is replaced by what it must return. Everything else that they use is
imported. The docstring loses the sentences that tell the gradient (`told.py`).
"""

from __future__ import annotations

import ast
import dis
import inspect
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType

from tinygrad_llm.operation import Operation
from tinygrad_llm.study.exercises.task import task
from tinygrad_llm.study.exercises.told import without_gradients
from tinygrad_llm.study.notation.prose import vjps
from tinygrad_llm.tensor import registry

MISSING = "write the vjp"
"""What the exception of a blank vjp says."""


@dataclass(frozen=True)
class Blanks:
    """Source in which the vjps are blanked, and what was there."""

    imports: str
    functions: str
    answers: tuple[str, ...]
    """The lines of each vjp, dedented, in the order of the blanks."""
    answer_imports: str
    """Helper functions that only this operation's vjp uses, and so are part of the answer; may be empty."""

    @property
    def answer(self) -> str:
        """The library's vjp, with what it needs."""
        return "\n\n".join(filter(None, [self.answer_imports, *self.answers]))


def blanked(operation: Operation) -> Blanks:
    """The source of `operation` with its vjps blanked.

    Raises ValueError if they cannot be found: no sample leads to them, or they are not functions written in a file.
    """
    module = inspect.getmodule(operation.reference)
    codes = [getattr(vjp, "__code__", None) for vjp in vjps(operation)]
    if not codes or None in codes:
        why = "no sample leads to its vjp" if not codes else "its vjp is not a function with a source"
        raise ValueError(f"{operation.name}: no exercise can be made of it, because {why}")
    try:
        source = inspect.getsource(module or operation.reference)
    except (OSError, TypeError):
        raise ValueError(f"{operation.name}: its source is not in a file, so no exercise can be made of it") from None
    editor = _Editor(operation, source, [code for code in codes if code is not None])
    functions = "\n\n\n".join(map(editor.function, editor.holders))
    names = _Names(operation, editor)
    return Blanks(names.imports(), functions, tuple(map(editor.answer, editor.blanks)), names.answer_imports())


class _Editor:
    """The syntax tree of an operation's module, and the places in it that are copied and blanked."""

    def __init__(self, operation: Operation, source: str, codes: list[CodeType]) -> None:
        self.operation, self.lines = operation, source.splitlines()
        self.tree = ast.parse(source)
        self.blanks: list[ast.FunctionDef | ast.Lambda] = []
        self.holders: list[ast.FunctionDef] = []
        reference = operation.reference.__code__.co_firstlineno
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef):
                found = list(_vjps_in(node, codes))
                if found or _first_line(node) == reference:
                    self.holders.append(node)
                    self.blanks += found

    def function(self, node: ast.FunctionDef) -> str:
        """A function of the module without decorators, its vjps blanked and its docstring cut."""
        lines = list(self.lines)
        inside = [b for b in self.blanks if node.lineno <= b.lineno <= (node.end_lineno or b.lineno)]
        for blank in [b for b in inside if isinstance(b, ast.FunctionDef)][::-1]:
            lines[blank.lineno - 1 : self._end(blank)] = self._stub(blank.name, blank.args, " " * blank.col_offset)
        for statement in _statements(node)[::-1]:
            self._name_lambdas(lines, statement, [b for b in inside if isinstance(b, ast.Lambda)])
        added = len(lines) - len(self.lines)
        first = node.body[0]
        start, end = node.lineno - 1, (node.end_lineno or node.lineno) + added
        text = lines[start:end]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            doc = without_gradients(first.value.value)
            doc = doc.replace("the file's docstring", f"the docstring of {self.operation.__module__}")
            text[first.lineno - 1 - start : (first.end_lineno or first.lineno) - start] = _quoted(doc)
        if _first_line(node) == self.operation.reference.__code__.co_firstlineno:
            text[0] = text[0].replace(f"def {node.name}(", f"def {self.operation.name}(")
        return "\n".join(text).rstrip()

    def _name_lambdas(self, lines: list[str], statement: ast.stmt, blanks: list[ast.Lambda]) -> None:
        """Put blank functions in front of a simple statement, and their names in the place of its lambdas."""
        stubs: list[str] = []
        for node in [b for b in blanks if b in ast.walk(statement)][::-1]:
            row, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
            name = f"vjp_{self.blanks.index(node) + 1}" if len(self.blanks) > 1 else "vjp"
            head, tail = lines[row].encode()[: node.col_offset], lines[last].encode()[node.end_col_offset :]
            lines[row : last + 1] = [head.decode() + name + tail.decode()]
            stubs = [*self._stub(name, node.args, " " * statement.col_offset), "", *stubs]
        lines[statement.lineno - 1 : statement.lineno - 1] = stubs

    def _stub(self, name: str, arguments: ast.arguments, indent: str) -> list[str]:
        inner = indent + "    "
        comments = [f"{inner}# {line}" for text in task(self.operation) for line in textwrap.wrap(text, 100)]
        body = [*comments, f'{inner}raise NotImplementedError("{MISSING}")']
        return [f"{indent}def {name}({ast.unparse(arguments)}):", *body]

    def _end(self, node: ast.FunctionDef) -> int:
        """The last line of a function, with the comments at its end."""
        end = node.end_lineno or node.lineno
        while end < len(self.lines):
            following = self.lines[end]
            if not (following.strip().startswith("#") and len(following) - len(following.lstrip()) > node.col_offset):
                break
            end += 1
        return end

    def answer(self, node: ast.FunctionDef | ast.Lambda) -> str:
        """The lines of one vjp as they stand in the file."""
        if isinstance(node, ast.FunctionDef):
            return textwrap.dedent("\n".join(self.lines[node.lineno - 1 : self._end(node)]))
        return f"def vjp({ast.unparse(node.args)}):\n    return {ast.unparse(node.body)}"


def _vjps_in(holder: ast.FunctionDef, codes: list[CodeType]) -> Iterator[ast.FunctionDef | ast.Lambda]:
    """The vjps in a function, in the order of the file: those of `codes`, and others of the same name."""
    places = {(code.co_firstlineno, code.co_name) for code in codes}
    inside = sorted(
        (n for n in ast.walk(holder) if isinstance(n, ast.FunctionDef | ast.Lambda)),
        key=lambda n: (n.lineno, n.col_offset),
    )
    names = {n.name for n in inside if isinstance(n, ast.FunctionDef) and (n.lineno, n.name) in places}
    parameters = [tuple(code.co_varnames[: code.co_argcount]) for code in codes]
    for node in inside:
        if isinstance(node, ast.FunctionDef):
            found = node.name in names
        else:  # of several lambdas in a line, the one with these parameters
            found = (node.lineno, "<lambda>") in places and tuple(a.arg for a in node.args.args) in parameters
        if found:
            yield node


def _statements(function: ast.FunctionDef) -> list[ast.stmt]:
    """The statements inside a function that have none inside themselves, in the order of the file."""
    found = [n for n in ast.walk(function) if isinstance(n, ast.stmt) and not hasattr(n, "body")]
    return sorted(found, key=lambda n: (n.lineno, n.col_offset))


def _first_line(node: ast.FunctionDef) -> int:
    return min([node.lineno, *(d.lineno for d in node.decorator_list)])


def _quoted(doc: str) -> list[str]:
    text = textwrap.indent(doc.replace("\\", "\\\\"), "    ")
    lines = ('    """' + text.lstrip()).splitlines()
    return [lines[0] + '"""'] if len(lines) == 1 else [*lines, '    """']


# ---------------------------------------------------------------------------------------------------------------------
# Imports


@dataclass(frozen=True, order=True)
class _Import:
    """``from module import name as bound``, or ``import name as bound`` where there is no module."""

    module: str
    name: str
    bound: str

    def __str__(self) -> str:
        return self.name if self.name == self.bound else f"{self.name} as {self.bound}"


class _Names:
    """The global names that an operation's forward and its vjp use, and where they come from."""

    def __init__(self, operation: Operation, editor: _Editor) -> None:
        self.operation, self.known = operation, operation.reference.__globals__
        held = {node.name for node in editor.holders}
        functions = [operation.reference, *(self.known[n] for n in held if inspect.isfunction(self.known.get(n)))]
        blanks = {(node.lineno, getattr(node, "name", "<lambda>")) for node in editor.blanks}
        everything = set().union(*(_globals(f.__code__, set()) for f in functions)) - held
        self.forward = set().union(*(_globals(f.__code__, blanks) for f in functions)) - held
        self.answer = {name for name in everything - self.forward if self._only_here(name)}
        self.shared = everything - self.forward - self.answer
        self.imported = dict(_imports_of(editor.tree))

    def _only_here(self, name: str) -> bool:
        """Whether `name` is a function of the operation's module that no other operation uses."""
        thing = self.known.get(name)
        if getattr(thing, "__module__", None) != self.operation.__module__:
            return False
        others = (o.reference for o in registry.values() if o.reference is not self.operation.reference)
        return not any(r.__globals__.get(name) is thing and name in _globals(r.__code__, set()) for r in others)

    def imports(self) -> str:
        numpy = _Import("", "numpy", "np")
        return _written({numpy, *self._found(self.forward | self.shared)})

    def answer_imports(self) -> str:
        return _written(self._found(self.answer))

    def _found(self, names: set[str]) -> set[_Import]:
        here = self.operation.__module__
        return {self.imported.get(n, _Import(here, n, n)) for n in names if n in self.known}  # others are built in


def _globals(code: CodeType, without: set[tuple[int, str]]) -> set[str]:
    """The global names that a function and those inside it load, without the functions at some places."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
    for inner in code.co_consts:
        if isinstance(inner, CodeType) and (inner.co_firstlineno, inner.co_name) not in without:
            names |= _globals(inner, without)
    return names


def _imports_of(tree: ast.Module) -> Iterator[tuple[str, _Import]]:
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                bound = alias.asname or alias.name
                yield bound, _Import(module, alias.name, bound)


def _written(imports: set[_Import]) -> str:
    """Import statements in three groups: Python's own, other packages, this one."""
    groups: tuple[list[str], ...] = ([], [], [])
    for module in sorted({i.module or i.name for i in imports}):
        names = sorted(i for i in imports if module in (i.module, i.name))
        top = module.partition(".")[0]
        group = groups[0 if top in sys.stdlib_module_names else 2 if top == "tinygrad_llm" else 1]
        group += [f"import {i}" for i in names if not i.module]
        group += [f"from {module} import " + ", ".join(str(i) for i in names if i.module)] * any(
            i.module for i in names
        )
    return "\n\n".join("\n".join(group) for group in groups if group)
