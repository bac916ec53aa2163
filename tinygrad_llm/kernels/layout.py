"""What kernels ask of the arrays they are given, and how they see them: as rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_llm.tape import Array

PIECE = 1 << 16
"""Elements below which a piece of elementwise work is not given to another thread."""

BLOCK = 64
"""Rows whose contributions to a parameter's gradient are added up before the blocks are: so the result does not depend
on the number of threads."""


def same_float(*arrays: Any) -> bool:
    """Whether all are arrays of one dtype, float32 or float64 in the machine's byte order; None counts as fitting."""
    given = [a for a in arrays if a is not None]
    dtypes = {a.dtype if isinstance(a, np.ndarray) else None for a in given}
    return dtypes <= {np.dtype(np.float32)} or dtypes <= {np.dtype(np.float64)}


def matrix(a: Array) -> Array:
    """(..., C) as a C-contiguous (N, C) array: a view, or a copy where the memory is in another order."""
    columns = a.shape[-1] if a.ndim else 1
    return np.ascontiguousarray(a).reshape(a.size // max(columns, 1), columns)


def least_rows(a: Array) -> int:
    """The fewest rows of ``matrix(a)`` that are worth a thread."""
    return max(1, PIECE // max(1, a.shape[-1]))


def least_blocks(a: Array) -> int:
    """The fewest blocks of rows of ``matrix(a)`` that are worth a thread."""
    return max(1, least_rows(a) // BLOCK)
