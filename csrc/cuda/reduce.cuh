// Adds the sums of gradients of all blocks after the backward kernel, and stores them in the layout of the tensors.
#pragma once

#include "pack.cuh"

namespace fused_inr {

// One thread sums one gradient, of a weight or of a bias; the bias counts as the column after the last one.
static __global__ void __launch_bounds__(SIMPLE_THREADS)
    reduce_gradients(const FusedInrSiren siren, const Layout layout, int64_t blocks_per_layer) {
  const int layer = int(blockIdx.x / blocks_per_layer);
  const FusedInrSirenLayer& to = siren.layers[layer];
  const int64_t thread = blockIdx.x % blocks_per_layer * SIMPLE_THREADS + threadIdx.x;
  const int64_t of_sample = int64_t(to.outputs) * (to.inputs + 1);
  if (thread >= siren.samples * of_sample) return;
  const int64_t sample = thread / of_sample;
  const int row = int(thread % of_sample / (to.inputs + 1)), column = int(thread % (to.inputs + 1));
  const bool is_bias = column == to.inputs;
  const int64_t weight_place = layout.sum_weight(layer) + sum_place(row, is_bias ? 0 : column, layout.columns(layer));
  const int64_t place = is_bias ? layout.sum_bias(layer) + row : weight_place;
  // If the coordinates are split into two parts, so are their products.
  const bool in_parts = layer == 0 && !is_bias && layout.element < 4;
  const int64_t rest = in_parts ? sum_place(row, column + layout.coords_half(), layout.columns(0)) : 0;
  const float* from = siren.partials + sample * siren.blocks * layout.sums();
  float sum = 0;
  for (int64_t block = 0; block < siren.blocks; block++, from += layout.sums()) {
    sum += from[place];
    if (in_parts) sum += from[rest];
  }
  if (is_bias)
    to.bias_gradient[sample * to.outputs + row] = sum;
  else
    to.weight_gradient[(sample * to.outputs + row) * to.inputs + column] = sum;
}

}  // namespace fused_inr
