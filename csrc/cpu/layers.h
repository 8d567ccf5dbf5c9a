// The end of a layer: bias and activation, stored as the next layer's input.
#pragma once

#include "abi.h"
#include "activations.h"
#include "simd.h"
#include "support.h"

namespace ISA_NAME {

constexpr int64_t TILE = 128;              // pixels that pass through the layers of a stage together
constexpr int64_t GROUP_BYTES = 24 << 20;  // limit of the packed weights of the clips of a group

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
      store(to + r * ldt + n0 + j, activation_jet<ACTIVATION, 0, T, ANY_ANGLE>(v, l, largest).d[0] * l.gain);
    }
  }
  if (has_angle<ACTIVATION> && !ANY_ANGLE && any_above(largest, angle_limit<T>))
    finish_rows<ACTIVATION, T, true>(c, n0, lanes, m, l, bias, addend, parent, lda, to, ldt);
}

template <class T>
static void finish_block(const float* c, int64_t n0, int64_t lanes, int64_t m, const FusedInrLayer& l,
                         const float* bias, const float* addend, const int32_t* parent, int64_t lda, T* to,
                         int64_t ldt) {
  with_activation(l.activation, [&](auto code) {
    finish_rows<decltype(code)::value>(c, n0, lanes, m, l, bias, addend, parent, lda, to, ldt);
  });
}

}  // namespace ISA_NAME
