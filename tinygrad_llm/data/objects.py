"""Files of JSON objects: a list of them, or one in each line. All that is wrong with them is told at once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from tinygrad_llm.data.document import DataError
from tinygrad_llm.data.files import read_documents
from tinygrad_llm.data.records import json_value, refuse_faulty

Record = TypeVar("Record")

_SPACE = re.compile(r"[ \t\n\r]*")


def read_objects(path: str | PathLike[str], parse: Callable[[dict[str, Any]], Record]) -> list[tuple[int, Record]]:
    """(the line that it begins in, what `parse` makes of it) of each object of a UTF-8 file.

    Where `parse` raises ValueError the object is faulty: DataError has the line of each such one, of broken JSON and of
    what is no object, and the reason. Also for a file that is missing, empty or no text.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path}: a folder; give one file")
    records, faults = [], []
    for line, value in _objects("".join(document.text for document in read_documents(path))):
        try:
            if isinstance(value, str):
                raise ValueError(value)
            records.append((line, parse(value)))
        except ValueError as error:
            faults.append((line, str(error)))
    refuse_faulty(path, faults)
    return records


def _objects(text: str) -> Iterator[tuple[int, Any]]:
    """(line that it begins in, object or what is wrong) of all that a list or the lines hold."""
    if text.lstrip()[:1] == "[":
        yield from _listed(text)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, _object(json_value(line))
            except ValueError as error:
                yield number, str(error)


def _listed(text: str) -> Iterator[tuple[int, Any]]:
    """The items of a JSON list. What comes after broken JSON cannot be read."""
    decoder, line, counted = json.JSONDecoder(), 1, 0
    at = _after_space(text, text.index("[") + 1)
    while text[at : at + 1] != "]" or counted:  # a comma before the end is a fault
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            yield error.lineno, f"not JSON: {error.msg} at character {error.colno}"
            return
        except RecursionError:
            yield line, "not JSON that can be read: nested too deeply"
            return
        yield line, _object(value)
        at = _after_space(text, end)
        if text[at : at + 1] != ",":
            break
        at = _after_space(text, at + 1)
    line += text.count("\n", counted, at)
    if text[at : at + 1] != "]":
        yield line, "not JSON: a comma or the end of the list is missing"
    elif text[at + 1 :].strip():
        yield line, "not JSON: something stands after the end of the list"


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _object(value: Any) -> Any:
    """The value if it is an object, or what is wrong with it."""
    return value if isinstance(value, dict) else "not a JSON object, which is written in braces"
