// The end of a layer: bias and activation, stored as the next layer's input.
#pragma once

#include "abi.h"
#include "simd.h"
#include "support.h"

namespace ISA_NAME {

constexpr int64_t TILE = 128;              // pixels that pass through the layers of a stage together
constexpr int64_t GROUP_BYTES = 24 << 20;  // limit of the packed weights of the clips of a group

// gain * act(v). T, the type of the stored result, determines how accurate a sine has to be, and whether its angle is
// in radians or in half turns. The angle's magnitude is added to the maximum `largest`; only with ANY_ANGLE may it be
// above angle_limit.
template <int ACTIVATION, class T, bool ANY_ANGLE>
static inline vf activate(vf v, const FusedInrLayer& l, vi& largest) {
  if (ACTIVATION == ACT_LRELU) {
    const vf scaled = v * l.slope;
    v = v > 0.0f ? v : scaled;
  } else if (ACTIVATION == ACT_RELU) {
    v = v < 0.0f ? vf{} : v;  // NaN passes
  } else if (ACTIVATION == ACT_SINE) {
    if (ANY_ANGLE)
      v = reducible(v * l.omega) * (sizeof(T) == 2 ? PER_PI : 1.0f);
    else
      v *= sizeof(T) == 2 ? l.omega * PER_PI : l.omega;
    largest = larger(largest, magnitude(v));
    v = sizeof(T) == 2 ? sin_half_turns(v) : sin_of(v);
  }
  return v * l.gain;
}

// The limit of the angles of activate, which it takes in radians or in half turns.
template <class T>
constexpr float angle_limit = sizeof(T) == 2 ? FAR * PER_PI : FAR;

// Adds the bias and the parent's row of the addend to a block of products, applies the activation and stores the
// result. A block with an angle above the limit, which is rare, is computed again: one test per block costs less than
// one per vector.
template <int ACTIVATION, class T, bool ANY_ANGLE = false>
static void finish_rows(const float* c, int64_t n0, int64_t lanes, int64_t m, const FusedInrLayer l, const float* bias,
                        const float* addend, const int32_t* parent, int64_t lda, T* to, int64_t ldt) {
  vi largest = {};
  for (int64_t r = 0; r < m; r++) {
    const float* extra = addend ? addend + parent[r] * lda + n0 : nullptr;
    for (int64_t j = 0; j < lanes; j += W) {
      vf v = load(c + r * lanes + j) + load(bias + n0 + j);
      if (extra) v += load(extra + j);
      store(to + r * ldt + n0 + j, activate<ACTIVATION, T, ANY_ANGLE>(v, l, largest));
    }
  }
  if (ACTIVATION == ACT_SINE && !ANY_ANGLE && any_above(largest, angle_limit<T>))
    finish_rows<ACTIVATION, T, true>(c, n0, lanes, m, l, bias, addend, parent, lda, to, ldt);
}

template <class T>
static void finish_block(const float* c, int64_t n0, int64_t lanes, int64_t m, const FusedInrLayer& l,
                         const float* bias, const float* addend, const int32_t* parent, int64_t lda, T* to,
                         int64_t ldt) {
  switch (l.activation) {
    case ACT_LRELU: return finish_rows<ACT_LRELU>(c, n0, lanes, m, l, bias, addend, parent, lda, to, ldt);
    case ACT_RELU: return finish_rows<ACT_RELU>(c, n0, lanes, m, l, bias, addend, parent, lda, to, ldt);
    case ACT_SINE: return finish_rows<ACT_SINE>(c, n0, lanes, m, l, bias, addend, parent, lda, to, ldt);
    default: return finish_rows<ACT_LINEAR>(c, n0, lanes, m, l, bias, addend, parent, lda, to, ldt);
  }
}

}  // namespace ISA_NAME
