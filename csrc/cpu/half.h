// IEEE half precision as an element type, converted to and from float32 vectors.
#pragma once

#include "simd.h"

namespace ISA_NAME {

struct Half {
  uint16_t bits;
};

static inline float from_half(uint16_t h) {
  const uint32_t magnitude = uint32_t(h & 0x7fff) << 13, sign = uint32_t(h & 0x8000) << 16;
  float x;
  __builtin_memcpy(&x, &magnitude, 4);
  x *= 5.192296858534828e33f;  // 2^112 is the difference of the exponent biases; this also handles subnormals
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  if (magnitude >= (0x7c00u << 13)) bits |= 0x7f800000;  // infinities and NaN
  bits |= sign;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}

static inline uint16_t to_half(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return sign | 0x7e00;
  if (bits >= 0x477ff000) return sign | 0x7c00;  // 65520 and above round to infinity
  if (bits < 0x38800000) {                       // below 2^-14: adding 0.5 leaves the rounded subnormal in the low bits
    float y;
    __builtin_memcpy(&y, &bits, 4);
    y += 0.5f;
    __builtin_memcpy(&bits, &y, 4);
    return sign | uint16_t(bits - 0x3f000000);
  }
  return sign | uint16_t((bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13);  // round to nearest, ties to even
}

#if defined(__AVX512F__)
// The masked conversions compile to the same instructions as the plain ones, whose definitions in GCC's headers read an
// uninitialized vector and so warn wherever they are inlined.
constexpr __mmask16 ALL_LANES = 0xffff;
#endif

static inline vf load(const Half* p) {
#if defined(__AVX512F__)
  __m256i h;
  __builtin_memcpy(&h, p, sizeof h);
  return (vf)_mm512_maskz_cvtph_ps(ALL_LANES, h);
#else
  vf v;
  for (int i = 0; i < W; i++) v[i] = from_half(p[i].bits);
  return v;
#endif
}

static inline void store(Half* p, vf v) {
#if defined(__AVX512F__)
  const __m256i h = _mm512_maskz_cvtps_ph(ALL_LANES, (__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __builtin_memcpy(p, &h, sizeof h);
#else
  for (int i = 0; i < W; i++) p[i].bits = to_half(v[i]);
#endif
}

}  // namespace ISA_NAME
