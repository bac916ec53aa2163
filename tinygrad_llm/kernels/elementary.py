"""exp, tanh and their like as polynomials, which vectorise inside loops, for float32 and float64."""

from __future__ import annotations

import numpy as np

from tinygrad_llm.kernels.compiled import compiled


@compiled(inline=True)
def exp32(x):
    """exp of a float32: ``2^n exp(r)`` with ``n = round(x / ln 2)`` and ``|r| <= ln 2 / 2``; relative error 1e-7.

    exp(r) is a polynomial of degree 7, close to Taylor's, with coefficients fitted to that interval (Moshier's Cephes
    library, expf). ln 2 is subtracted in two parts, the first of which has few digits, so that ``n ln2`` is exact. A
    factor of ``2^n`` is n added to the exponent's bits. Beyond 88.7228 the result is infinite, and below -87.3, where
    float32 would lose digits, it is 0. NaN stays NaN.
    """
    clamped = min(max(x, np.float32(-87.3)), np.float32(88.72283))
    n = np.floor(clamped * np.float32(1.44269504) + np.float32(0.5))
    r = clamped - n * np.float32(0.693359375)
    r = r - n * np.float32(-2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1.0)
    y = np.int32(np.float32(p).view(np.int32) + (np.int32(n) << np.int32(23))).view(np.float32)
    y = np.float32(0.0) if x < np.float32(-87.3) else y
    y = np.float32(np.inf) if x > np.float32(88.72283) else y
    return y if x == x else x
