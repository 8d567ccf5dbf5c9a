// The end of a layer: bias and activation, stored as the next layer's input.
#pragma once

#include "abi.h"
#include "simd.h"
#include "support.h"

namespace ISA_NAME {

constexpr int64_t TILE = 128;              // pixels that pass through the layers of a stage together
constexpr int64_t GROUP_BYTES = 24 << 20;  // limit of the packed weights of the clips of a group

// gain * act(v). T, the type of the stored result, determines how accurate a sine has to be.
template <int ACTIVATION, class T>
static inline vf activate(vf v, const FusedInrLayer& l) {
  if (ACTIVATION == ACT_LRELU) {
    const vf scaled = v * l.slope;
    v = v > 0.0f ? v : scaled;
  } else if (ACTIVATION == ACT_RELU) {
    v = v > 0.0f ? v : vf{};
  } else if (ACTIVATION == ACT_SINE) {
    v = sizeof(T) == 2 ? sin_half_turns(v * (l.omega * PER_PI)) : sin_of(v * l.omega);
  }
  return v * l.gain;
}

// Adds the bias and the parent's row of the addend to a block of products, applies the activation and stores the
// result.
template <int ACTIVATION, class T>
static void finish_rows(const float* c, int64_t n0, int64_t lanes, int64_t m, const FusedInrLayer l, const float* bias,
                        const float* addend, const int32_t* parent, int64_t lda, T* to, int64_t ldt) {
  for (int64_t r = 0; r < m; r++) {
    const float* extra = addend ? addend + parent[r] * lda + n0 : nullptr;
    for (int64_t j = 0; j < lanes; j += W) {
      vf v = load(c + r * lanes + j) + load(bias + n0 + j);
      if (extra) v += load(extra + j);
      store(to + r * ldt + n0 + j, activate<ACTIVATION, T>(v, l));
    }
  }
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
