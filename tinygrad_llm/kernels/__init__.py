"""The fast twins of operations, file for file: `kernels/norms.py` is to `ops/norms.py` what compiled is to plain.

Nothing imports this folder; `tinygrad_llm.backend` looks here for the twin of a function when it is first needed.
Delete the folder and everything still works, only slower.

The form of a kernel. A compiled function ``name(low, high, ...)`` works on a range of independent rows and writes into
arrays that it is given; `threads.run` shares the range out. Around it stands plain Python with the signature of the
reference: it declines (``return NotImplemented``) what the loops do not handle, allocates, and returns the value and
the vjp. What makes the loops fast (all measured):

- A row is sliced first, ``r = x[i]``, and indexed from 0: with an offset in the index, LLVM does not vectorise.
- ``error_model="numpy"``: the test for a zero divisor would stop vectorisation too.
- Sums are allowed to be reordered (`compiled`), so that they are added eight or sixteen at a time.
- `exp` and `tanh` are polynomials (`kernels/elementary.py`), since LLVM does not vectorise those of the C library.
"""
