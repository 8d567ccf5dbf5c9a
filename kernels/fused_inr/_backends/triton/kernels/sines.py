"""Sines and cosines of float32 angles: range reduction in float32, then the hardware instruction.

Triton's own `tl.sin` compiles to a call that keeps a table in local memory for huge angles. Here an angle a becomes
r = a - 2 pi k, k = round(a / 2 pi), by two fused multiply-adds with 2 pi = 201 / 32 + rest (Cody and Waite, 1980: the
first product is exact for |k| < 2^16), and the instruction sees |r| <= pi only.

Errors against float64. The reduction, measured in Triton's interpreter, whose multiply-adds round twice: absolute
1.5e-7 for |a| <= 100, 2.2e-7 for |a| <= 10,000 and 4.5e-6 for |a| <= 400,000; beyond, an angle's own spacing in float32
exceeds 0.03. The instruction adds up to 2^-20.9 = 5.1e-7 on NVIDIA GPUs (the PTX manual's bound for |r| <= pi; not
measured).
"""

import triton
import triton.language as tl
from triton import knobs
from triton.language.target_info import is_cuda, is_hip

INTERPRETED = tl.constexpr(bool(knobs.runtime.interpret))


@triton.jit
def reduced(a):
    """Return a - 2 pi round(a / 2 pi), in -pi ... pi, of a float32 tensor."""
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
