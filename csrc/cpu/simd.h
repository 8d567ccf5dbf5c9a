// Vectors of the widest size that the compiler's flags allow, and sine and cosine on them.
#pragma once

#include <stdint.h>

#include "support.h"

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace ISA_NAME {

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float vf __attribute__((vector_size(W * 4)));
typedef int32_t vi __attribute__((vector_size(W * 4)));
typedef uint32_t vu __attribute__((vector_size(W * 4)));
typedef uint16_t vh __attribute__((vector_size(W * 2)));

static inline vf load(const float* p) {
  vf v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

static inline void store(float* p, vf v) { __builtin_memcpy(p, &v, sizeof v); }

static inline vf splat(float x) { return x - vf{}; }

static inline uint16_t to_bf16(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  const uint16_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even
  return x != x ? rounded | 0x7fc0 : rounded;                           // rounding carries some NaN over to -0
}

static inline float from_bf16(uint16_t h) {
  const uint32_t bits = uint32_t(h) << 16;
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}

// bfloat16 is the upper half of a float.
static inline vf load(const uint16_t* p) {
  vh h;
  __builtin_memcpy(&h, p, sizeof h);
  return (vf)(__builtin_convertvector(h, vu) << 16);
}

// The bfloat16 nearest to each element, in the upper half of 32 bits; the lower half is not cleared.
static inline vu rounded(vf v) {
  const vu bits = (vu)v;
  return (bits + 0x7fff + ((bits >> 16) & 1)) | ((vu)(v != v) & 0x7fc00000);
}

static inline void store(uint16_t* p, vf v) {
#if defined(__AVX512BF16__)
  const __m256bh h = _mm512_cvtneps_pbh((__m512)v);
  __builtin_memcpy(p, &h, sizeof h);
#else
  const vh h = __builtin_convertvector(rounded(v) >> 16, vh);
  __builtin_memcpy(p, &h, sizeof h);
#endif
}

static inline float element(float x, float) { return x; }
static inline uint16_t element(float x, uint16_t) { return to_bf16(x); }

constexpr float PER_PI = 0.318309886184f;

// sin(r) on [-pi/2, pi/2]: odd minimax polynomial, absolute error 3.4e-9 before rounding.
static inline vf sin_poly(vf r) {
  const vf s = r * r;
  vf p = 2.59045642841e-6f * s - 0.00019800881944f;
  p = p * s + 0.00833289956737f;
  p = p * s - 0.166666476196f;
  return r + r * (p * s - 2.3433e-8f);
}

// The largest angle, in radians, that the functions below reduce by themselves. For larger ones `near` comes first.
constexpr float FAR = 1e4f;

// The magnitudes of angles as integers, in which order and maximum are those of the numbers, with NaN above infinity.
static inline vi magnitude(vf x) { return (vi)x & INT32_MAX; }

// The larger elements. GCC 12 does not recognize the maximum in a comparison and a choice.
static inline vi larger(vi a, vi b) {
#if defined(__AVX512F__)
  return (vi)_mm512_maskz_max_epi32(0xffff, (__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (vi)_mm256_max_epi32((__m256i)a, (__m256i)b);
#else
  return a > b ? a : b;
#endif
}

static inline bool any_above(vi magnitudes, float limit) {
#if defined(__AVX512F__)
  return _mm512_cmpgt_epi32_mask((__m512i)magnitudes, (__m512i)splat(limit));
#elif defined(__AVX2__)
  return _mm256_movemask_ps((__m256)(magnitudes > (vi)splat(limit)));
#else
  const vi above = magnitudes > (vi)splat(limit);
  int64_t halves[2];
  __builtin_memcpy(halves, &above, sizeof halves);
  return halves[0] | halves[1];
#endif
}

// The angle in -pi ... pi that differs from x by a multiple of 2 pi, for |x| >= 2^-9; NaN for infinities and NaN. The
// fraction of x in turns, of which 40 bits are exact, is the product of its mantissa with the 64 bits of 1 / (2 pi)
// that are neither whole turns nor too small to matter (Payne and Hanek, 1983).
static inline float near(float x) {
  static const uint32_t BITS[] = {0, 0x28be60db, 0x9391054a, 0x7f09d5f4, 0x7d4d3770, 0x36d8a566, 0x4f10e410};
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  if ((bits & 0x7f800000) == 0x7f800000) return x - x;
  const uint32_t exponent = (bits >> 23 & 0xff) - 118;  // of the last bit of the mantissa, plus 32
  const uint32_t *from = BITS + exponent / 32, shift = exponent % 32;
  const uint64_t window = (uint64_t(from[0]) << 32 | from[1]) << shift | uint64_t(from[2]) << shift >> 32;
  const int64_t turns = int64_t(((bits & 0x7fffff) | 0x800000) * window);
  const float r = float(turns) * 3.40612158008654e-19f;  // 2 pi / 2^64
  return x < 0.0f ? -r : r;
}

// Replaces the angles beyond FAR. Not inlined, because it is hardly ever called.
static __attribute__((noinline)) vf near(vf x) {
  for (int i = 0; i < W; i++)
    if (!(__builtin_fabsf(x[i]) <= FAR)) x[i] = near(x[i]);
  return x;
}

// x itself, or near(x) if an angle is beyond FAR.
static inline vf reducible(vf x) { return __builtin_expect(any_above(magnitude(x), FAR), 0) ? near(x) : x; }

// sin(x + quarter * pi/2) for quarter 0 or 1, absolute error below 1e-6 for |x| <= FAR. With k the nearest integer to
// x/pi + quarter/2, the remainder r = x - (k - quarter/2) pi is exact to float precision: pi is split into three parts,
// of which the products of the first two with k - quarter/2 are exact and the third is negligible.
static inline vf sin_shifted(vf x, float quarter) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const vf shifted = x * PER_PI + quarter * 0.5f + magic;
  const vi parity = (vi)shifted << 31;
  const vf k = (shifted - magic) - quarter * 0.5f;
  vf r = x - k * 3.140625f;
  r = r - k * 9.67502593994140625e-4f;
  r = r - k * 1.509957990978376e-7f;
  return (vf)((vi)sin_poly(r) ^ parity);
}

// sin(pi t), absolute error 7e-5 plus that due to the rounding of t: for results stored in bfloat16, whose rounding
// error is 2e-3. An angle in half turns needs no multiple of pi subtracted, and three terms suffice.
static inline vf sin_half_turns(vf t) {
  const float magic = 12582912.0f;
  const vf shifted = t + magic;
  const vi parity = (vi)shifted << 31;
  const vf f = t - (shifted - magic);
  const vf s = f * f;
  vf p = 2.29954257012f * s - 5.13690414942f;
  p = p * s + 3.14063998301f;
  return (vf)((vi)(f * p) ^ parity);
}

static inline vf sin_of(vf x) { return sin_shifted(x, 0.0f); }
static inline vf cos_of(vf x) { return sin_shifted(x, 1.0f); }

}  // namespace ISA_NAME
