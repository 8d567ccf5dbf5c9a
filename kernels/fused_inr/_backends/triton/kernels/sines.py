"""Sines and cosines of float32 angles: range reduction in float32, then the hardware instruction.

Triton's own `tl.sin` compiles to a call that keeps a table in local memory for huge angles. Here an angle a becomes
r = a - 2 pi k, k = round(a / 2 pi), by two fused multiply-adds with 2 pi = 201 / 32 + rest (Cody and Waite, 1980: the
first product is exact for |k| < 2^16), and the instruction sees |r| <= pi only.

Larger angles are first reduced exactly, in integer arithmetic (Payne and Hanek, 1983), behind a per-thread branch.

Errors against float64. The reduction, measured in Triton's interpreter, whose multiply-adds round twice: absolute
1.5e-7 for |a| <= 100, 2.2e-7 for |a| <= 10,000 and 1.3e-6 for |a| <= FAR; 3e-7 beyond. The instruction adds up to
2^-20.9 = 5.1e-7 on NVIDIA GPUs (the PTX manual's bound for |r| <= pi; not measured).
"""

import triton
import triton.language as tl
from triton import knobs
from triton.language.target_info import is_cuda, is_hip

INTERPRETED = tl.constexpr(bool(knobs.runtime.interpret))


FAR = tl.constexpr(1e5)  # radians


@triton.jit
def _word(index, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, D: tl.constexpr, E: tl.constexpr):
    """Return the constant with an index from 0 to 4, as a 64-bit integer."""
    early = tl.where(index == 0, tl.cast(A, tl.uint64), tl.cast(B, tl.uint64))
    late = tl.where(
        index == 2, tl.cast(C, tl.uint64), tl.where(index == 3, tl.cast(D, tl.uint64), tl.cast(E, tl.uint64))
    )
    return tl.where(index < 2, early, late)


@triton.jit
def _without_turns(a):
    """Return the angle in -pi ... pi that differs from a by whole turns, for |a| >= 2^-9; NaN for infinities.

    The fraction of a in turns, of which 40 bits are exact, is the product of its mantissa with the 64 bits of
    1 / (2 pi) that are neither whole turns nor too small to matter.
    """
    bits = a.to(tl.int32, bitcast=True)
    exponent = ((bits >> 23) & 0xFF) - 118  # of the last bit of the mantissa, plus 32
    index, shift = exponent >> 5, (exponent & 31).to(tl.uint64)
    first = _word(index, 0, 0x28BE60DB, 0x9391054A, 0x7F09D5F4, 0x7D4D3770)
    second = _word(index, 0x28BE60DB, 0x9391054A, 0x7F09D5F4, 0x7D4D3770, 0x36D8A566)
    third = _word(index, 0x9391054A, 0x7F09D5F4, 0x7D4D3770, 0x36D8A566, 0x4F10E410)
    window = (((first << 32) | second) << shift) | ((third << shift) >> 32)
    turns = (((bits & 0x7FFFFF) | 0x800000).to(tl.uint64) * window).to(tl.int64, bitcast=True)
    r = turns.to(tl.float32) * 3.40612158008654e-19  # 2 pi / 2^64
    return tl.where(exponent == 137, a - a, tl.where(a < 0.0, -r, r))


@triton.jit
def _near_element(a):
    r = a
    if tl.abs(a) > FAR:
        r = _without_turns(a)
    return r


@triton.jit
def _near(a):
    """Return a, or its difference from whole turns if it is beyond FAR."""
    if INTERPRETED:  # which has no map_elementwise
        r = tl.where(tl.abs(a) > FAR, _without_turns(a), a)
    else:
        r = tl.map_elementwise(_near_element, a)
    return r


@triton.jit
def reduced(a):
    """Return a - 2 pi round(a / 2 pi), in -pi ... pi, of a float32 tensor."""
    a = _near(a)
    # Adding and subtracting 1.5 * 2^23 rounds to an integer, half to even, for |a / 2 pi| < 2^22.
    k = (a * 0.15915494309189535 + 12582912.0) - 12582912.0
    r = tl.fma(k, -6.28125, a)
    return tl.fma(k, -0.0019353071795864769, r)


@triton.jit
def _sine_of_reduced(r):
    if INTERPRETED:
        y = tl.sin(r)
    elif is_cuda():
        y = tl.inline_asm_elementwise("sin.approx.ftz.f32 $0, $1;", "=f,f", [r], tl.float32, is_pure=True, pack=1)
    else:
        tl.static_assert(is_hip())
        turns = r * 0.15915494309189535  # the unit of AMD's instruction, whose result the next one cannot use yet
        y = tl.inline_asm_elementwise("v_sin_f32 $0, $1\ns_nop 0", "=v,v", [turns], tl.float32, is_pure=True, pack=1)
    return y


@triton.jit
def _cosine_of_reduced(r):
    if INTERPRETED:
        y = tl.cos(r)
    elif is_cuda():
        y = tl.inline_asm_elementwise("cos.approx.ftz.f32 $0, $1;", "=f,f", [r], tl.float32, is_pure=True, pack=1)
    else:
        tl.static_assert(is_hip())
        turns = r * 0.15915494309189535
        y = tl.inline_asm_elementwise("v_cos_f32 $0, $1\ns_nop 0", "=v,v", [turns], tl.float32, is_pure=True, pack=1)
    return y


@triton.jit
def sine(a):
    """Return sin(a) of a float32 tensor of angles in radians."""
    return _sine_of_reduced(reduced(a))


@triton.jit
def cosine(a):
    """Return cos(a) of a float32 tensor of angles in radians."""
    return _cosine_of_reduced(reduced(a))


@triton.jit
def sine_cosine(a):
    """Return (sin(a), cos(a)) of a float32 tensor of angles in radians, reduced once."""
    r = reduced(a)
    return _sine_of_reduced(r), _cosine_of_reduced(r)
