"""Files with a record in each line: all that is wrong with them is told at once."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from tinygrad_llm.data.document import DataError
from tinygrad_llm.data.files import read_documents

Record = TypeVar("Record")

SHOWN = 20
"""Faulty lines that are told at most."""


def read_records(path: str | PathLike[str], parse: Callable[[str], Record]) -> list[Record]:
    """What `parse` makes of each line of a UTF-8 file that is not blank.

    Where `parse` raises ValueError the line is faulty: DataError has the number of each such line, and the reason. Also
    for a file that is missing, empty or no text.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path}: a folder; give one file")
    records, faults = [], []
    text = "".join(document.text for document in read_documents(path))
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines would also cut at what a string may hold
        if not line.strip():
            continue
        try:
            records.append(parse(line))
        except ValueError as error:
            faults.append((number, str(error)))
    refuse_faulty(path, faults)
    if not records:
        raise DataError(f"{path}: all its lines are blank", "empty")
    return records


def refuse_faulty(path: Path, faults: Sequence[tuple[int, str]]) -> None:
    """DataError that lists (number of a line, what is wrong with it), unless there are none."""
    if not faults:
        return
    shown = [f"  line {number}: {fault}" for number, fault in faults[:SHOWN]]
    more = [f"  and {len(faults) - SHOWN:,} more"] if len(faults) > SHOWN else []
    count = "1 faulty line" if len(faults) == 1 else f"{len(faults):,} faulty lines"
    raise DataError("\n".join([f"{path}: {count}", *shown, *more]))


def json_value(line: str) -> Any:
    """The value of a line of JSON; ValueError if it is none."""
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise ValueError("not JSON that can be read: nested too deeply") from None


def text_value(value: Any, name: str) -> str:
    """`value`, if it is text; ValueError otherwise, and for half of a surrogate pair, which UTF-8 cannot write."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {_short(value)}, not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} has half of a surrogate pair, which is no character") from None
    return value


def number_value(value: Any, name: str) -> float:
    """`value`, if it is a finite number, as a float; ValueError otherwise."""
    try:
        number = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, OverflowError):  # a whole number may be larger than any float
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} is {_short(value)}, not a finite number")
    return number


def _short(value: Any) -> str:
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
