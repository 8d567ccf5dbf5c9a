// Sums of gradients over a fixed number of slices of the work, so that they have the same bits for any number of
// threads.
#pragma once

#include "support.h"

namespace ISA_NAME {

constexpr int64_t SLICES = 8;  // slices that are computed together

// Adds slices in order, [rows][padded] each, and writes the sums of the first n columns with the given strides.
static inline void sum_slices(const float* const* parts, int64_t count, int64_t rows, int64_t n, int64_t padded,
                              float* to, int64_t stride, int64_t step = 1) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t j = 0; j < n; j++) {
      float sum = 0.0f;
      for (int64_t i = 0; i < count; i++) sum += parts[i][r * padded + j];
      to[r * stride + j * step] = sum;
    }
}

}  // namespace ISA_NAME
