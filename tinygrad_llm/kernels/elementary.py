"""exp, tanh and their like as polynomials, which vectorise inside loops, for float32 and float64.

LLVM does not vectorise the C library's functions, so these are made of what it does vectorise: additions,
multiplications, divisions, comparisons and shifts of bits. `exp` and the others take a float32 or a float64 and return
the same; a function whose name ends in 32 or 64 is for that type only. They are called from compiled functions.

All exponentials begin alike: ``e^x = 2^n e^r`` with ``n = round(x / ln 2)``, so that ``|r| <= ln 2 / 2``, where a
polynomial is accurate. ln 2 is subtracted in two parts, the first of which has few digits, so that n times it is exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core import types
from numba.extending import overload

from tinygrad_llm.kernels.compiled import compiled

INLINE: Any = {"forceinline": True, "error_model": "numpy", "fastmath": {"contract"}}
"""What `compiled(inline=True)` asks for, for functions that are chosen by type."""


LOG2_E = 1.4426950408889634

SHIFT32, SHIFT64 = np.float32(1.5 * 2**23), 1.5 * 2.0**52
"""Added to a small number, they leave no digits behind the point: so it is rounded, and its last bits are a whole
number. Unlike a conversion to int64, every processor has that for vectors."""


def number(value, like):
    """`value` as a number of the type of `like`: in compiled code a plain 0.5 is a float64, and spreads."""
    return type(like)(value)


@overload(number, jit_options=INLINE)
def _number(value, like):
    kind = np.float32 if like == types.float32 else np.float64
    return lambda value, like: kind(value)


@compiled(inline=True)
def reduced32(x):
    """(n, e^r - 1) of a float32: a polynomial of degree 7, with coefficients fitted (Moshier's Cephes, expf)."""
    n = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    r = x - n * np.float32(0.693359375)
    r = r - n * np.float32(-2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    return n, p * r * r + r


@compiled(inline=True)
def reduced64(x):
    """(n, e^r - 1) of a float64: Taylor's polynomial of degree 13, with the coefficients 1/k!."""
    n = np.floor(x * 1.4426950408889634 + 0.5)
    r = x - n * 0.6931471803691238
    r = r - n * 1.9082149292705877e-10
    p = 1.6059043836821613e-10
    p = p * r + 2.08767569878681e-09
    p = p * r + 2.505210838544172e-08
    p = p * r + 2.755731922398589e-07
    p = p * r + 2.7557319223985893e-06
    p = p * r + 2.48015873015873e-05
    p = p * r + 0.0001984126984126984
    p = p * r + 0.001388888888888889
    p = p * r + 0.008333333333333333
    p = p * r + 0.041666666666666664
    p = p * r + 0.16666666666666666
    p = p * r + 0.5
    return n, p * r * r + r


@compiled(inline=True)
def power32(n):
    """``2^n`` for a whole float32 n from -126 to 127: the bits of its exponent."""
    return np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@compiled(inline=True)
def power64(n):
    """``2^n`` for a whole float64 n from -1022 to 1023."""
    bits = np.float64(n + SHIFT64).view(np.int64) + np.int64(1023)
    return np.int64(bits << np.int64(52)).view(np.float64)


@compiled(inline=True)
def exp32(x):
    """exp of a float32; relative error 9e-8.

    The factor ``2^n`` is n added to the exponent's bits. Beyond 88.7228 the result is infinite, and below -87.3, where
    float32 would lose digits, it is 0. NaN stays NaN.
    """
    n, m = reduced32(min(max(x, np.float32(-87.3)), np.float32(88.72283)))
    y = np.int32(np.float32(m + np.float32(1.0)).view(np.int32) + (np.int32(n) << np.int32(23))).view(np.float32)
    y = np.float32(0.0) if x < np.float32(-87.3) else y
    y = np.float32(np.inf) if x > np.float32(88.72283) else y
    return y if x == x else x


@compiled(inline=True)
def exp64(x):
    """exp of a float64; relative error 2e-16 wherever the result has all its digits. NaN stays NaN.

    The factor ``2^n`` comes in two halves, each of which is representable. So the result overflows to infinity and
    underflows, through the numbers of fewer digits, to 0 where it should.
    """
    n, m = reduced64(min(max(x, -746.0), 710.0))
    half = np.floor(n * 0.5)
    y = (m + 1.0) * power64(half) * power64(n - half)
    return y if x == x else x


def exp(x):
    """``e^x``: `exp32` or `exp64`."""
    raise NotImplementedError


@overload(exp, jit_options=INLINE)
def _exp(x):
    return (lambda x: exp32(x)) if x == types.float32 else (lambda x: exp64(x))


def expm1(x):
    """``e^x - 1`` for ``|x| <= 80``, accurate also near 0: there n is 0, and no 1 is added and subtracted again."""
    raise NotImplementedError


@overload(expm1, jit_options=INLINE)
def _expm1(x):
    def single(x):
        n, m = reduced32(x)
        return m * power32(n) + (power32(n) - np.float32(1.0))

    def double(x):
        n, m = reduced64(x)
        return m * power64(n) + (power64(n) - 1.0)

    return single if x == types.float32 else double


@compiled(inline=True)
def exp2_32(t):
    t = min(max(t, np.float32(-127.0)), np.float32(128.0))
    shifted = np.float32(t + SHIFT32)
    f = t - (shifted - SHIFT32)
    p = np.float32(1.545316295e-4)
    p = p * f + np.float32(1.339086336e-3)
    p = p * f + np.float32(9.618082557e-3)
    p = p * f + np.float32(5.550357114e-2)
    p = p * f + np.float32(2.402265076e-1)
    p = p * f + np.float32(6.931471880e-1)
    p = np.float32(p * f + np.float32(1.0))
    return np.int32(p.view(np.int32) + (shifted.view(np.int32) << np.int32(23))).view(np.float32)


@compiled(inline=True)
def exp2_64(t):
    t = min(max(t, -1023.0), 1024.0)
    shifted = np.float64(t + SHIFT64)
    f = t - (shifted - SHIFT64)
    p = 2.5729324177362305e-11
    p = p * f + 4.4558179083360645e-10
    p = p * f + 7.0548973041554995e-09
    p = p * f + 1.0178055708773941e-07
    p = p * f + 1.3215486808705563e-06
    p = p * f + 1.5252733841556773e-05
    p = p * f + 0.00015403530393370734
    p = p * f + 0.001333355814640647
    p = p * f + 0.00961812910762848
    p = p * f + 0.055504108664821625
    p = p * f + 0.24022650695910072
    p = p * f + 0.6931471805599453
    p = np.float64(p * f + 1.0)
    return np.int64(p.view(np.int64) + (shifted.view(np.int64) << np.int64(52))).view(np.float64)


def exp2(t):
    """``2^t`` in fewer instructions than `exp`: ``2^n 2^f`` with ``n = round(t)`` and a polynomial of ``f = t - n``.

    Relative error 1e-7 in float32, 2e-16 in float64. Beyond the ends of the range of the type the result is exactly 0
    or infinite: there t is replaced by -127 or 128 (-1023 or 1024), so that f is 0, and n added to the exponent's bits
    gives all bits 0, or those of infinity. Within 1 of the lower end there are fewer right digits. NaN is not kept.
    """
    raise NotImplementedError


@overload(exp2, jit_options=INLINE)
def _exp2(t):
    return (lambda t: exp2_32(t)) if t == types.float32 else (lambda t: exp2_64(t))


@compiled(inline=True)
def falling(t):
    """``1 / (1 + 2^t)``: the sigmoid of ``-t ln 2``. As for `exp2`, NaN is not kept."""
    return number(1.0, t) / (number(1.0, t) + exp2(t))


@compiled(inline=True)
def tanh(x):
    """``t / (t + 2)`` with ``t = e^(2x) - 1``; relative error 2e-7 in float32, 4e-16 in float64, also near 0.

    Beyond 20 it is +-1 in both types.
    """
    t = expm1(number(2.0, x) * min(max(x, number(-20.0, x)), number(20.0, x)))
    y = t / (t + number(2.0, x))
    return y if x == x else x


@compiled(inline=True)
def sigmoid(x):
    """``1 / (1 + e^-x)``. For very negative x the exponential is large or infinite, and the result small or 0."""
    return number(1.0, x) / (number(1.0, x) + exp(-x))


@compiled(inline=True)
def softplus(x):
    """``log(1 + e^x) = max(x, 0) + log(1 + e)`` with ``e = e^-|x|``."""
    e = exp(-abs(x))
    z = e / (e + number(2.0, x))
    return max(x, number(0.0, x)) + number(2.0, x) * z * atanh_series(z * z)


def atanh_series(square):
    """``atanh(z) / z = 1 + z^2/3 + z^4/5 + ...`` of ``z^2 <= 1/9``. ``log(1 + e)`` is 2 atanh(z) with z = e/(e + 2)."""
    raise NotImplementedError


@overload(atanh_series, jit_options=INLINE)
def _atanh_series(square):
    kind, terms = (np.float32, 7) if square == types.float32 else (np.float64, 16)

    def series(square):
        p = kind(0)
        for k in range(terms):
            p = p * square + kind(1) / kind(2 * (terms - k) - 1)
        return p

    return series


@compiled(inline=True)
def normal_tail32(w):
    p = np.float32(-1.213322202e-4)
    p = p * w + np.float32(1.985937737e-4)
    p = p * w + np.float32(1.571040633e-3)
    p = p * w - np.float32(3.525141460e-3)
    p = p * w - np.float32(7.528407083e-3)
    p = p * w + np.float32(6.040661006e-2)
    p = p * w - np.float32(1.865228156e-1)
    p = p * w + np.float32(3.871366814e-1)
    p = p * w - np.float32(6.078966134e-1)
    return p * w + np.float32(7.552851384e-1)


@compiled(inline=True)
def normal_tail64(w):
    p = -9.512991024047347e-10
    p = p * w + 1.0768241006920988e-10
    p = p * w + 1.390350496575988e-08
    p = p * w + 1.4468530167047007e-08
    p = p * w - 7.63984192563988e-08
    p = p * w - 1.5411646334002175e-07
    p = p * w + 2.637443650566312e-07
    p = p * w + 1.019696831151206e-06
    p = p * w - 6.25193110588506e-07
    p = p * w - 5.91884478718702e-06
    p = p * w + 7.15037346304297e-07
    p = p * w + 3.514416799822778e-05
    p = p * w - 1.9078762382182562e-06
    p = p * w - 0.0002310948161145127
    p = p * w + 0.0001333442557794809
    p = p * w + 0.0016308184416757216
    p = p * w - 0.003479692362423222
    p = p * w - 0.007540188965582072
    p = p * w + 0.06039657489070879
    p = p * w - 0.1865218579596944
    p = p * w + 0.3871374007422187
    p = p * w - 0.6078966419718917
    return p * w + 0.7552851304157515


def normal_tail(w):
    """The polynomial in `normal`: interpolated at Chebyshev's points for arguments up to 14.2 (float64: 38.6)."""
    raise NotImplementedError


@overload(normal_tail, jit_options=INLINE)
def _normal_tail(w):
    return (lambda w: normal_tail32(w)) if w == types.float32 else (lambda w: normal_tail64(w))


@compiled(inline=True)
def normal(x):
    """``(P, e^(-x^2/2))``: the distribution function of the standard normal, and its density times sqrt(2 pi).

    For a >= 0, ``P(-a) = e^(-a^2/2) h(a)``, where h decreases slowly, from 1/2 and in the end as 1/a: it is
    ``polynomial(w) / (a + 4)`` with ``w = (a - 4) / (a + 4)``, which maps all a to -1 .. 1. ``P(a) = 1 - P(-a)``.
    Relative error, beside that of x^2/2 in the exponent: 4e-7 in float32, 2e-15 in float64.
    NaN is not kept.
    """
    e = exp2(x * x * number(-0.5 * LOG2_E, x))
    a = min(abs(x), number(40.0, x))
    shrink = number(1.0, x) / (a + number(4.0, x))
    tail = e * normal_tail((a - number(4.0, x)) * shrink) * shrink
    return (tail if x < number(0.0, x) else number(1.0, x) - tail), e
