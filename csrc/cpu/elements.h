// Rows of elements of any type, loaded and stored as float32 vectors.
#pragma once

#include "half.h"
#include "simd.h"

namespace ISA_NAME {

static inline float number(float x) { return x; }
static inline float number(uint16_t x) { return from_bf16(x); }
static inline float number(Half x) { return from_half(x.bits); }
static inline Half element(float x, Half) { return Half{to_half(x)}; }

// Loads the first `n` <= W elements; the others are zero.
template <class T>
static inline vf load_partial(const T* p, int64_t n) {
  vf v = {};
  for (int64_t i = 0; i < n; i++) v[i] = number(p[i]);
  return v;
}

template <class T>
static inline void store_partial(T* p, vf v, int64_t n) {
  for (int64_t i = 0; i < n; i++) p[i] = element(v[i], T());
}

// Calls step(offset, n) for the vectors of a row; n < W in the last one.
template <class Step>
static inline void over_row(int64_t length, const Step& step) {
  int64_t i = 0;
  for (; i + W <= length; i += W) step(i, W);
  if (i < length) step(i, int(length - i));
}

template <class T>
static inline vf load_n(const T* p, int n) {
  return n == W ? load(p) : load_partial(p, n);
}

template <class T>
static inline void store_n(T* p, vf v, int n) {
  if (n == W)
    store(p, v);
  else
    store_partial(p, v, n);
}

}  // namespace ISA_NAME
